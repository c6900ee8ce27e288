"""The configuration and the recipes: complete, locked, buildable, and as published."""

import dataclasses
import functools
import json
import math
import pathlib
import re

import pytest
from ml_collections import ConfigDict
from recipe_files import NAMES as RECIPES
from recipe_files import load

from trn_jax import build, checks, optim
from trn_jax import config as configuration
from trn_jax.allowed import Each, OneOf
from trn_jax.data import datasets, sampling
from trn_jax.data.views import View
from trn_jax.errors import UserError
from trn_jax.models import MODELS
from trn_jax.settings import check_values, from_dict, resolved, to_json
from trn_jax.settings import flat as flat_dict
from trn_jax.settings import resolved_views as views

REPOSITORY = pathlib.Path(__file__).parent.parent


def flat(config):
    """`{"model.width": 16, ...}`."""
    return flat_dict(config.to_dict())


def base():
    return configuration.base(dataset="frames", model="trn_resnet10", num_classes=4)


# The base


def test_unknown_keys_raise_in_every_section():
    config = base()
    sections = [config, config.model, config.data, config.data.train, config.train, config.optim]
    for section in [*sections, config.data.val, config.eval]:
        with pytest.raises(AttributeError, match="does not exist"):
            section.no_such_key = 1
        with pytest.raises(KeyError, match="does not exist"):
            section.update(no_such_key=1)
    with pytest.raises(KeyError, match="does not exist"):
        configuration.view(no_such_key=1)


def test_values_keep_their_types():
    config = base()
    for section, key, value in (
        (config.optim, "lr", "fast"),
        (config.train, "batch", 3.5),
        (config.model, "width", "wide"),
        (config.model, "partial_bn", "no"),
        (config.model, "dropout_rate", "half"),
        (config.data, "frame_pattern", 5),
    ):
        with pytest.raises(TypeError, match="cannot be casted"):
            section[key] = value


def test_placeholders_stand_for_the_choice_of_the_model():
    config = base()
    unset = {key for key, value in config.model.items() if value is None}
    assert {"backbone", "head", "width", "partial_bn", "dropout_rate", "eval_relations"} <= unset
    assert {"frames", "train_list", "class_names", "frame_pattern", "first_frame"} <= {
        key for key, value in config.data.items() if value is None
    }
    config.model.width = 8
    config.model.dropout_rate = 1  # an integer is a float, too
    assert (config.model.width, config.model.dropout_rate) == (8, 1.0)


def test_views_do_not_share_their_values():
    first, second = configuration.view(), configuration.view(short_side=64)
    assert (first.short_side, second.short_side) == (None, 64)
    config = base()
    config.data.train.short_side = 99
    found = views(config)
    assert found["data.val"].short_side == found["protocols.efficient"].short_side == 256


def test_views_inherit_what_they_do_not_set():
    config = base()
    config.protocols.accurate = configuration.view(sampling="twice", crop="three")
    config.protocols["25x10"] = configuration.view(num_segments=25, crop="ten")
    found = {name: (v.num_segments, v.short_side, v.crop_size) for name, v in views(config).items()}
    assert found == {
        "data.train": (8, 256, 224),
        "data.val": (8, 256, 224),
        "protocols.efficient": (8, 256, 224),
        "protocols.accurate": (8, 256, 256),
        "protocols.25x10": (25, 256, 224),
    }
    config.size = 112
    config.model.num_segments = 16
    config.data.val.update(short_side=120, crop_size=0)
    found = {name: (v.num_segments, v.short_side, v.crop_size) for name, v in views(config).items()}
    assert found == {
        "data.train": (16, 128, 112),
        "data.val": (16, 120, 120),
        "protocols.efficient": (16, 128, 112),
        "protocols.accurate": (16, 128, 128),
        "protocols.25x10": (25, 128, 112),
    }
    config.short_side = 112
    assert views(config)["protocols.accurate"].crop_size == 112
    assert config.protocols.accurate.crop_size is None  # as it was
    config.data.train.update(short_side=0, crop_size=0)
    with pytest.raises(UserError, match=r"data\.train\.crop_size=0"):
        check_values(config)


def test_views_of_earlier_versions_inherit_as_well():
    config = base()
    config.protocols.accurate = configuration.view(sampling="twice", crop="three")
    values = json.loads(to_json(resolved(config)))
    for key in ("size", "short_side"):
        del values[key]
    values["model"] |= dict(train_relations=None)
    values["optim"]["warmup_start"] = 0.1
    found = from_dict(values)
    assert flat(resolved(found)) == flat(resolved(config)) | dict(short_side=256)
    found.size, found.short_side, found.model.num_segments = 112, None, 4
    assert {view.num_segments for view in views(found).values()} == {4}
    assert {view.crop_size for view in views(found).values()} == {112, 128}
    values["optim"]["warmup_start"] = 0.5
    with pytest.raises(UserError, match=r"optim\.warmup_start.*0\.1"):
        from_dict(values)


def test_views_have_the_defaults_of_what_samples_them():
    sampler = {field.name: field.default for field in dataclasses.fields(sampling.ClipSampler)}
    for name in sampler.keys() & set(configuration.view()) - {"num_segments", "sampling"}:
        assert configuration.view()[name] == sampler[name]
    assert View(**views(base())["data.val"]).num_views == 1


def wrong_values(allowed):
    """Values that a row of the table of ranges refuses, three at least."""
    if isinstance(allowed, OneOf):
        first = allowed.values[0]
        return [f"no_{first}", f"{first} ", ""] if isinstance(first, str) else [first + 1, -1, 0]
    if isinstance(allowed, Each):
        right = [allowed.range.high if allowed.range.high < 1e9 else 1.0] * (allowed.length or 2)
        wrong = [[value, *right[1:]] for value in wrong_values(allowed.range)]
        wrong += [[*right, *right]] * bool(allowed.length) + [0.5]
        return wrong + [[1.0, 0.5]] * allowed.ascending
    wrong = [math.nan, math.inf, -math.inf, allowed.low - 1, True, "1"]
    if allowed.high < math.inf:
        wrong.append(allowed.high + 1)
    if allowed.excluded:
        wrong.append(getattr(allowed, allowed.excluded))
    return wrong


@pytest.mark.smoke
@pytest.mark.parametrize("key", [*configuration.allowed(), "data.val.*", "protocols.efficient.*"])
def test_wrong_values_are_answered_in_a_line(key):
    parent, _, last = key.rpartition(".")
    rows = configuration.allowed_in_views()
    if last != "*":
        rows = {last: configuration.allowed()[key]}
    for name, allowed in rows.items():
        wrong = wrong_values(allowed)
        assert len(wrong) >= 3
        for value in wrong:
            values = base().to_dict()
            functools.reduce(dict.__getitem__, filter(None, parent.split(".")), values)[name] = (
                value
            )
            with pytest.raises(UserError) as raised:
                check_values(ConfigDict(values))
            said = str(raised.value)
            assert "\n" not in said
            assert said.startswith(f"{parent}.{name}=".lstrip(".")) and str(allowed) in said


def test_several_wrong_values_are_all_named():
    config = base()
    config.train.keep = -1
    config.optim.lr = float("nan")
    with pytest.raises(UserError, match=r"(?s)^2 settings .*train\.keep=-1.*optim\.lr=nan"):
        check_values(config)


def test_numbers_and_names_are_in_the_table_of_ranges():
    """Whoever adds a key decides what it allows."""
    free = {"data_dir", "init_from", "init_head", "init_url", "train.nesterov"}
    for key, value in flat(base()).items():
        section, _, name = key.rpartition(".")
        known = configuration.allowed()
        if section in ("data.train", "data.val", "protocols.efficient"):
            known, key = configuration.allowed_in_views(), name
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        assert key in known or not is_number or key in free, key
    assert set(configuration.allowed()) <= set(flat(base()))
    assert set(configuration.allowed_in_views()) <= set(configuration.view())


@pytest.mark.parametrize("name", ["/tmp/x", "../x", "a b", "", ".", "..", "a\n", "x/y", "é"])
def test_a_protocol_cannot_name_a_file_elsewhere(name):
    values = base().to_dict()
    for good in ("25x10", "a.b_c-d", "efficient"):
        values["protocols"][good] = configuration.view().to_dict()
    check_values(ConfigDict(values, allow_dotted_keys=True))
    values["protocols"][name] = configuration.view().to_dict()
    with pytest.raises(UserError, match=f"(?s)^protocols.{re.escape(repr(name))}: "):
        check_values(ConfigDict(values, allow_dotted_keys=True))


def test_pairs_of_class_names_survive_json():
    config = base()
    config.data.train.flip_pairs = (("to port", "to starboard"), ("in", "out"))
    restored = from_dict(json.loads(to_json(config)))
    assert restored.data.train.flip_pairs == config.data.train.flip_pairs


def test_data_keys_override_the_fields_of_a_data_set():
    assert set(datasets.Dataset.__dataclass_fields__) - {"reversed_pairs"} <= set(base().data)


# The recipes


def test_there_are_recipes():
    assert {"trn_sthv1", "trn_sthv2", "trn_synthetic", "tsn_synthetic"} <= set(RECIPES)


@pytest.mark.smoke
@pytest.mark.parametrize("name", RECIPES)
def test_recipes_keep_to_the_ranges(name):
    checks.check(load(name))


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_locked(name):
    config = load(name)
    assert config.is_locked
    for view in views(config).values():
        assert view.is_locked
    with pytest.raises(AttributeError, match="does not exist"):
        config.optim.learning_rate = 1


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json(name):
    config = load(name)
    restored = from_dict(json.loads(to_json(config)))
    assert flat(restored) == flat(config)
    assert restored.is_locked


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_have_the_keys_of_the_base_and_of_one_view(name):
    config = load(name)
    schema = set(configuration.view())
    for view in views(config).values():
        assert set(view) == schema
    free = ("protocols.", "published.")
    keys = {key for key in flat(config) if not key.startswith(free)}
    assert keys == {key for key in flat(base()) if not key.startswith(free)}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_name_known_parts(name):
    config = load(name)
    assert config.data.dataset in datasets.DATASETS
    assert config.model.name in MODELS
    for view in views(config).values():
        View(**view)  # refuses unknown samplings and crops


@pytest.mark.parametrize("name", RECIPES)
def test_batches_of_recipes_fit_one_device_and_eight(name):
    for num_devices in (1, 8):
        checks.check_batch(load(name), num_devices)


PUBLISHED_COLUMNS = {
    *("top1", "top5", "reference_top1", "reference_top5", "source", "config", "checkpoint"),
    *("resolution", "gpus", "pretrain", "testing_protocol"),
    *("gflops", "million_parameters", "gpu_memory"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_published_rows_have_a_source_and_stand_in_the_docstring(name):
    config, text = load(name), configuration.recipe(name).__doc__
    assert f"--config=configs/{name}.py" in text
    assert set(config.published) <= set(config.protocols)
    for row in config.published.values():
        assert {"top1", "source", "config"} <= set(row) <= PUBLISHED_COLUMNS
        assert len(row.source) > 10
        shares = [row[key] for key in ("top1", "top5") if key in row]
        assert shares == sorted(shares) and shares[0] > 0 and shares[-1] <= 100
        assert all(f"{share:.2f}" in text for share in shares)


@pytest.mark.parametrize("method", ["tsn", "tsm", "tin", "tpn"])
def test_the_synthetic_recipes_differ_in_their_models_only(method):
    trn, other = flat(load("trn_synthetic")), flat(load(f"{method}_synthetic"))
    assert trn.keys() == other.keys()
    assert {key for key in trn if trn[key] != other[key]} == {"model.name"}
    parts = MODELS[trn["model.name"]], MODELS[other["model.name"]]
    assert parts[0]["backbone"] == parts[1]["backbone"]


@pytest.mark.parametrize(
    ("data", "others"),
    [("synthetic", {"data.train.sampling", "model.shift_div"}), ("jester", set())],
)
def test_causal_recipes_differ_in_the_direction_of_the_shift(data, others):
    plain, causal = flat(load(f"tsm_{data}")), flat(load(f"tsm_causal_{data}"))
    differing = {key for key in plain if plain[key] != causal.get(key, plain[key])}
    assert differing == {"model.causal"} | others and causal["model.causal"] is True
    # Nobody has published them.
    assert {key.partition(".")[0] for key in plain.keys() - causal.keys()} <= {"published"}


def test_the_synthetic_control_differs_in_its_head():
    parts = [MODELS[load(f"{method}_synthetic").model.name] for method in ("trn", "tsn")]
    assert [part.pop("head") for part in map(dict, parts)] == ["trn_multiscale", "tsn"]
    assert not any(part.get("temporal_op") or part.get("neck") for part in parts)


def test_the_linear_rule_scales_the_rate_by_the_batch():
    config = load("trn_sthv1")
    config.train.batch = 32
    rate = build.parts(config, steps_per_epoch=10).rate
    assert float(rate(0)) == pytest.approx(0.002)
    config.optim.scale_lr = True
    assert optim.scaled_lr(config.optim, 32) == pytest.approx(0.002 * 32 / 128)
    rate = build.parts(config, steps_per_epoch=10).rate
    assert float(rate(0)) == pytest.approx(0.0005)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("trn_sthv1", [(31.62, 60.01), (33.88, 62.12)]),
        ("trn_sthv2", [(48.39, 76.58), (51.28, 78.65)]),
    ],
)
def test_trn_on_something_something_is_the_published_set_up(name, published):
    config = load(name)
    expected = {
        "model.num_classes": 174,
        "model.num_segments": 8,
        "model.partial_bn": True,
        "model.dropout_rate": 0.8,
        "model.norm_group": 16,  # clips per GPU
        "train.batch": 128,
        "train.epochs": 50.0,
        "optim.lr": 0.002,
        "optim.base_batch": 128,
        "optim.momentum": 0.9,
        "optim.nesterov": False,
        "optim.weight_decay": 5e-4,
        "optim.clip_norm": 20.0,
        "optim.groups": "tsm",
        "optim.fc_lr5": False,
        "optim.schedule": "multistep",
        "optim.milestones": (30.0, 45.0),
        "optim.gamma": 0.1,
        "optim.warmup_epochs": 0.0,
        "data.dataset": name.removeprefix("trn_"),
        "data.train.sampling": "random",
        "data.train.short_side": 256,
        "data.train.crop": "multi_scale",
        "data.train.crop_size": 224,
        "data.train.scales": (1.0, 0.875, 0.75, 0.66),
        "data.train.num_positions": 13,
        "data.train.flip_rate": 0.5,
        "data.train.flip_labels": True,
        "protocols.efficient.sampling": "center",
        "protocols.efficient.crop": "center",
        "protocols.efficient.crop_size": 224,
        "protocols.accurate.sampling": "twice",
        "protocols.accurate.crop": "three",
        "protocols.accurate.crop_size": 256,
    }
    found = flat(resolved(config))
    assert {key: found[key] for key in expected} == expected
    rows = [config.published[protocol] for protocol in ("efficient", "accurate")]
    assert [(row.top1, row.top5) for row in rows] == published
