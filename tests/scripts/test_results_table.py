"""The generated tables match the recipes and result files."""

import importlib.util
import json
import pathlib

import pytest

REPOSITORY = pathlib.Path(__file__).parent.parent.parent


ORDERS = ("efficient", "reversed", "shuffled")


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY)
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    path = REPOSITORY / "scripts" / "results_table.py"
    spec = importlib.util.spec_from_file_location("results_table", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_is_up_to_date(tables):
    text = tables.README.read_text()
    assert tables.with_tables(tables.README, text) == text


@pytest.mark.slow
def test_the_list_of_recipes_is_up_to_date(tables):
    text = tables.RECIPES.read_text()
    assert tables.with_tables(tables.RECIPES, text) == text


def test_trn_uses_the_order_of_frames_and_tsn_does_not(tables):
    trn = {order: tables.measured("trn_synthetic", order)["metrics"] for order in ORDERS}
    tsn = {order: tables.measured("tsn_synthetic", order)["metrics"] for order in ORDERS}
    assert trn["efficient"]["top1"] >= 0.98
    assert trn["reversed"]["reversed_class"] >= 0.95
    # On shuffled frames it guesses within the pair.
    assert 0.4 < trn["shuffled"]["top1"] / trn["shuffled"]["pair"] < 0.6
    assert tsn["efficient"]["top1"] <= 0.55 and tsn["efficient"]["pair"] >= 0.9
    assert tsn["efficient"]["top1"] == tsn["reversed"]["top1"] == tsn["shuffled"]["top1"]


@pytest.mark.parametrize("method", ["tsm", "tin", "tpn"])
def test_the_other_methods_use_the_order_too(tables, method):
    found = {order: tables.measured(f"{method}_synthetic", order)["metrics"] for order in ORDERS}
    assert found["efficient"]["top1"] >= 0.9
    assert found["reversed"]["reversed_class"] >= 0.9


def test_causal_tsm_is_as_good_in_a_stream(tables):
    by_clips, streamed = (
        tables.measured("tsm_causal_synthetic", name)
        for name in ("efficient", "efficient_streamed")
    )
    assert by_clips["metrics"]["top1"] >= 0.95
    assert streamed["metrics"]["top1"] >= 0.93
    assert streamed["clip_wise"] == by_clips["metrics"]
    early = [entry["top1"] for entry in streamed["early_recognition"]]
    # Half of the frames show more than the first one, and less than all.
    assert len(early) == 10 and early[0] < early[4] < early[9] == streamed["metrics"]["top1"]


def test_published_and_measured_numbers_are_not_mixed(tables, monkeypatch, tmp_path):
    assert "| 31.62 / 60.01 | not run |" in tables.recipe_table()
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    (tmp_path / "trn_sthv1").mkdir()
    result = {"metrics": {"top1": 0.125, "top5": 0.5}}
    (tmp_path / "trn_sthv1" / "efficient.json").write_text(json.dumps(result))
    assert "| 31.62 / 60.01 | 12.50 / 50.00 |" in tables.recipe_table()


def test_methods_have_published_numbers_and_parity(tables):
    table = tables.methods_table()
    for cells in (
        "| TRN | Something-Something V1 | `trn_sthv1` | `accurate` 33.88, `efficient` 31.62 | ",
        "| TRN | Jester | `trn_bninception_jester` | `1x10` 94.50 | ",
    ):
        assert cells in table
    lines = table.splitlines()[2:]
    assert len(lines) == len(tables.METHODS) and sum("| none |" in line for line in lines) == 1
    parity = json.loads(tables.PARITY.read_text())
    assert len(parity) == len({each["case"] for each in parity.values()}) == 7
    assert all(0 < each["difference"] < 1e-5 for each in parity.values())


def test_the_other_published_columns_are_listed(tables):
    table = tables.published_table()
    assert (
        "| `tin_sthv1` | `efficient` | 44.04 / 72.72 |  | height 100 | 8x4 | ImageNet |  |  | 6181 "
        "| `tin_r50_1x1x8_40e_sthv1_rgb_20200729-4a33db86.pth` |"
    ) in table
    assert "| `trn_bninception_jester` | `1x10` |  |  |  | 8 | ImageNet |  |  |  | none |" in table
    assert "| 25 clips x 10 crop | 224x224 | 8 | ImageNet | 102.7 | 24.33 |  | `tsn_" in table
    assert len(table.splitlines()) == len(tables.recipe_table().splitlines())


def test_results_of_a_run_are_added(tables, monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "kept")
    with pytest.raises(SystemExit, match="/results"):
        tables.add("trn_sthv1", tmp_path)
    with pytest.raises(SystemExit, match="trn_sthv3"):
        tables.add("trn_sthv3", tmp_path)
    (tmp_path / "results").mkdir()
    result = tmp_path / "results" / "accurate.json"
    config = tables.get_config("trn_sthv1").to_dict()
    result.write_text(json.dumps({"metrics": {"top1": 0.25}, "config": config}))
    tables.add("trn_sthv1", tmp_path)
    assert tables.measured("trn_sthv1", "accurate")["metrics"]["top1"] == 0.25
    with pytest.raises(SystemExit, match=r"accurate\.json .*trn_sthv2.*data\.dataset"):
        tables.add("trn_sthv2", tmp_path)
    config["model"]["width"] = 4
    result.write_text(json.dumps({"metrics": {"top1": 0.25}, "config": config}))
    with pytest.raises(SystemExit, match=r"trn_sthv1: model\.width"):
        tables.add("trn_sthv1", tmp_path)


def test_missing_markers_are_explained(tables):
    with pytest.raises(SystemExit, match="<!-- table: "):
        tables.with_tables(tables.README, "nothing here")


def plan(topology, chips, costs):
    return {"recipe": "r", "topology": topology, "chips": chips, "memory": 16 << 30, "costs": costs}


def needs(gigabytes, flops=8.0):
    sizes = {"arguments": 1 << 30, "outputs": 0, "temporary": (gigabytes - 1) << 30, "code": 0}
    sent = [{"kind": "all-reduce", "bytes": 2_000_000}, {"kind": "all-reduce", "bytes": 500_000}]
    return sizes | {"flops": flops, "traffic": 3e9, "kernels": 1137, "collectives": sent}


def test_plans_are_listed(tables, monkeypatch, tmp_path):
    """The most similar plan with two batches predicts the largest batch."""
    monkeypatch.setattr(tables, "PLANS", tmp_path)
    plans = {
        "0": plan("h200:8", 8, {"8": needs(3), "16": needs(4, 16.0)}),  # nothing for TPUs
        "a": plan("v5e:4x4", 16, {"8": needs(3), "16": needs(5, 16.0)}),
        "b": plan("v5e:16x16", 256, {"8": needs(3)}),
        "c": plan("v5p:8x8x8", 512, {"8": needs(15), "16": {"error": "does not fit"}}),
        "d": plan("v6e:16x16", 256, {"8": {"error": "does not fit"}}),
        "e": plan("v4:2x2x4", 16, {"8": needs(2), "16": needs(6, 16.0)}),
        "f": plan("v4:2x2x1", 4, {"8": needs(3)}),
        "g": plan("v3:2x2", 4, {"8": needs(3)}),
    }
    (tmp_path / "r").mkdir()
    for name, found in plans.items():
        (tmp_path / "r" / f"{name}.json").write_text(json.dumps(found))
    (tmp_path / "s").mkdir()
    # Memory that does not grow because of rematerialization predicts nothing.
    alone = plan("v5e:4x4", 16, {"8": needs(14), "16": needs(14, 17.0)}) | {"recipe": "s"}
    (tmp_path / "s" / "a.json").write_text(json.dumps(alone))
    rows = [line.split(" | ")[1:] for line in tables.plan_table().splitlines()[2:]]
    both = "2 x all-reduce", "2.5", "3.0", "1,137 |"
    assert rows == [
        # As much as v5e, a quarter of a GiB for each of 48.
        ["`v3:2x2`", "32", "3.00 of 16", "224", *both],
        # Beside 3 GiB, 0.95 x 16 GiB hold half a GiB for each of 24 further clips.
        ["`v4:2x2x1`", "32", "3.00 of 16", "128", *both],
        # An eighth for each of 96.
        ["`h200:8`", "64", "3.00 of 16", "832", *both],
        ["`v4:2x2x4`", "128", "2.00 of 16", "512", *both],
        # A quarter for each of 48.
        ["`v5e:4x4`", "128", "3.00 of 16", "896", *both],
        ["`v5e:16x16`", "2,048", "3.00 of 16", "14,336", *both],
        ["`v6e:16x16`", "2,048", "more than 16", "none", "", "", "", " |"],
        ["`v5p:8x8x8`", "4,096", "15.00 of 16", "4,096", *both],
        ["`v5e:4x4`", "128", "14.00 of 16", "not planned", *both],
    ]


def test_results_have_the_dtype_that_the_devices_decided(tables):
    config = tables.measured("trn_synthetic", "efficient")["config"]
    for dtype in ("float32", "bfloat16", "auto"):
        config["model"]["dtype"] = dtype
        assert tables._differences("trn_synthetic", "efficient", config) == []
