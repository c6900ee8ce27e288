"""The page of a run: what it has, and what foreign names and sizes do to it."""

import dataclasses
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from example_runs import hostile_run, some_scores, write_run
from page_elements import Elements
from small_training import write_frames

from trn_jax import cli
from trn_jax.config import base
from trn_jax.errors import UserError
from trn_jax.evaluation import score_files
from trn_jax.evaluation.scores import Scores
from trn_jax.pages.page import MAX_BYTES
from trn_jax.reporting import score_sections
from trn_jax.reporting.report_page import run_page
from trn_jax.reporting.runs import read_run
from trn_jax.settings import to_json


@pytest.fixture
def run(tmp_path):
    return hostile_run(tmp_path / "run")


@pytest.mark.smoke
def test_a_page_has_all_sections_and_is_made_by_the_command(run, tmp_path, capsys):
    page = tmp_path / "new" / "page.html"
    assert cli.main(["report", str(run), f"--to={page}"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("protocol") and out.splitlines()[-1] == str(page)
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]
    parsed = Elements(page.read_text(encoding="utf-8"))
    keys = [each["id"] for each in parsed.count["section"]]
    expected = ["classes", "pairs", "confusions", "reliability", "thresholds", "order", "training"]
    assert keys == expected
    # Links, headings and labels fit each other.
    ids = {each["id"] for elements in parsed.count.values() for each in elements if "id" in each}
    assert {each["href"].removeprefix("#") for each in parsed.count["a"]} == set(keys)
    assert all(each["aria-labelledby"] in ids for each in parsed.count["section"])
    assert all(each["for"] in ids for each in parsed.count["label"])
    assert all(each.get("scope") for each in parsed.count["th"])
    assert len(parsed.count["caption"]) == len(parsed.count["table"]) >= 6
    drawings = [each for each in parsed.count["svg"] if each.get("role")]
    assert all(each["aria-label"] for each in drawings)
    assert len(parsed.count["desc"]) == len(drawings) == 5  # reliability, threshold, 3 of training


def test_by_default_the_page_lies_beside_the_other_files(run, capsys):
    assert cli.main(["report", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["page"] == f"{run}/report/report.html"
    assert "difference" not in found and f"{run}/report/efficient.txt" in found["files"]
    scores = run / "results" / "efficient.npz"
    assert cli.main(["report", str(scores), "--json", f"--to={run}/out"]) == 0
    assert json.loads(capsys.readouterr().out)["page"] == f"{run}/out/efficient.html"
    assert (run / "out" / "efficient.html").exists()


def test_hostile_names_are_texts(run):
    text = run_page(read_run(str(run)))
    parsed = Elements(text)
    assert len(parsed.count["script"]) == 1 and len(parsed.embedded) == 2
    assert "alert" not in parsed.embedded[1] and "img" not in parsed.count
    names = {key for elements in parsed.count.values() for each in elements for key in each}
    assert not any(name.startswith("on") or name == "style" for name in names)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text)
    for name in ("فتح الباب", "打开某物", "</script><script>alert(1)</script>", r"\x1b[31m\u202e"):
        assert name in parsed.text
    assert all(each["dir"] == "auto" for each in parsed.count["bdi"])


@pytest.mark.parametrize(
    ("num_classes", "num_videos"),
    [
        (2, 1),
        (60, 300),
        pytest.param(400, 2_000, marks=pytest.mark.thorough),
        pytest.param(400, 100_000, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("length", [1, 10_000])
def test_pages_stay_small(tmp_path, num_classes, num_videos, length):
    names = [f"{label}" + '"' * length for label in range(num_classes)]
    found = some_scores(names, num_videos, sure=3.0)
    if num_videos > 300:
        found = dataclasses.replace(found, videos=[str(i) for i in range(num_videos)])
    write_run(tmp_path / "run", found)
    run = read_run(str(tmp_path / "run"))
    text = run_page(run)
    assert len(text.encode()) < MAX_BYTES
    parsed = Elements(text)
    assert parsed.text.count("…") > 0 or length == 1
    is_drawn = any("matrix" in (each.get("class") or "") for each in parsed.count["table"])
    assert is_drawn == (num_classes == 60)
    assert max(map(len, parsed.texts)) < 1000


def test_frames_of_confused_videos_are_read_by_the_data_sets_reader(tmp_path):
    found = some_scores(("a", "b"), 12, sure=0.5)
    config = base(dataset="frames", model="trn_resnet10", num_classes=2)
    config.data_dir = str(tmp_path / "data")
    videos = [f"clip{i}" for i in range(12)]
    rng = np.random.default_rng(0)
    for name in videos[:-1]:
        write_frames(tmp_path / "data" / "rawframes" / name, 5, rng)
    lines = [f"{name} 5 {label}\n" for name, label in zip(videos, found.labels, strict=True)]
    (tmp_path / "data" / "val_list.txt").write_text("".join(lines))
    (tmp_path / "data" / "label_map.txt").write_text("a\nb\n")
    run = write_run(
        tmp_path / "run",
        dataclasses.replace(found, videos=videos),
        config=json.loads(to_json(config)),
        split="val",
    )
    parsed = Elements(run_page(read_run(str(run))))
    images = parsed.count["img"]
    assert len(images) % 5 == 0 and len(images) >= 10
    assert all(each["src"].startswith("data:image/webp;base64,") for each in images)
    assert all(each["alt"] for each in images)
    # A video that is gone costs itself; a data set that is gone, all of them.
    for name in videos:
        for path in (tmp_path / "data" / "rawframes" / name).glob("00002.jpg"):
            path.write_bytes(b"no picture")
    parsed = Elements(run_page(read_run(str(run))))
    assert "img" not in parsed.count and "can't be shown" in parsed.text
    (tmp_path / "data").rename(tmp_path / "moved")
    parsed = Elements(run_page(read_run(str(run))))
    assert "img" not in parsed.count and str(tmp_path / "data") in parsed.text


def test_several_labels(tmp_path, capsys):
    rng = np.random.default_rng(1)
    labels = (rng.random((40, 6)) < 0.4).astype(np.float32)
    labels[0] = 1
    first, second = (
        dataclasses.replace(
            some_scores(), scores=(0.5 * labels + 0.5 * rng.random((40, 6))).astype(np.float32),
            labels=labels, videos=[str(i) for i in range(40)],
        )
        for _ in range(2)
    )  # fmt: skip
    for name, found in (("a", first), ("b", second)):
        write_run(tmp_path / name, found)
    page = tmp_path / "page.html"
    assert cli.main(["report", f"{tmp_path}/a", f"{tmp_path}/b", f"--to={page}", "--json"]) == 0
    difference = json.loads(capsys.readouterr().out)["difference"]
    assert difference["multi_label"] and difference["metrics"][0]["name"] == "mAP"
    parsed = Elements(page.read_text(encoding="utf-8"))
    keys = [each["id"] for each in parsed.count["section"]]
    assert keys == ["classes", "difference", "reliability", "thresholds", "training"]
    assert "average precision" in parsed.text.lower()


def test_the_difference_to_a_second_run(run, tmp_path, capsys):
    better = write_run(tmp_path / "better", some_scores(seed=1, sure=9.0))
    page = tmp_path / "page.html"
    command = ["report", str(better), str(run), f"--to={page}"]
    assert cli.main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["difference"]
    assert found["against"] == str(run) and found["num_common"] == 60
    assert found["metrics"][0]["first"] == 1 and found["metrics"][0]["p"] < 0.01
    assert [each["name"] for each in found["classes"]][-1] == "打开某物"
    parsed = Elements(page.read_text(encoding="utf-8"))
    assert "Holm" in parsed.text and "better" in parsed.text
    # Twice the same, to the byte.
    before = page.read_bytes()
    assert cli.main(command) == 0
    assert page.read_bytes() == before
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line.split() for line in lines if line.startswith("top-1 ")]
    points = 100 * found["metrics"][0]["first"] - 100 * found["metrics"][0]["second"]
    assert line[1] == "100.0" and line[5] == f"{points:+.1f}"
    assert any(line.startswith(f"against {run}: ") for line in lines)


@pytest.mark.parametrize("lost", ["efficient.npz", "efficient.json"])
def test_runs_that_can_not_be_compared_are_refused(run, tmp_path, capsys, lost):
    other = write_run(tmp_path / "other", some_scores())
    (other / "results" / lost).unlink()
    page = tmp_path / "page.html"
    assert cli.main(["report", str(run), str(other), f"--to={page}"]) == 2
    assert "efficient" in capsys.readouterr().err and not page.exists()


def test_results_without_scores_and_logs_without_results(run, tmp_path):
    (run / "results" / "efficient.npz").unlink()
    parsed = Elements(run_page(read_run(str(run))))
    assert [each["id"] for each in parsed.count["section"]] == [
        *("classes", "scores", "order", "training")
    ]
    for path in (run / "results").iterdir():
        path.unlink()
    parsed = Elements(run_page(read_run(str(run))))
    assert [each["id"] for each in parsed.count["section"]] == ["training"]
    text = " ".join(each["points"] for each in parsed.count["polyline"])
    assert text  # a step that was taken twice has its last value only
    line = parsed.count["polyline"][0]["points"].split()
    xs = [float(point.split(",")[0]) for point in line]
    assert len(xs) == 4 and xs == sorted(xs)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("metrics", None),
        ("metrics", {"top1": "high"}),
        ("num_videos", "many"),
        ("per_class", None),
        ("per_class", []),
        ("per_class", [3]),
        ("per_class", [{"label": 0, "name": "a", "videos": 1}]),
        ("per_class", [{"label": 0, "name": "a", "videos": 1, "accuracy": 2.5}]),
        ("per_class", [{"label": "x", "name": "a", "videos": 1, "accuracy": 1}]),
    ],
)
def test_malformed_results_are_refused(run, key, value):
    path = run / "results" / "efficient.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match=rf"efficient\.json: {key}\b.*expected"):
        read_run(str(run))


@pytest.mark.parametrize("changed", [dict(num_videos=30), dict(about={"checkpoint": "runs/b"})])
def test_results_beside_scores_of_another_evaluation_are_refused(tmp_path, changed):
    run = write_run(tmp_path / "run", some_scores(about={"step": 3}), checkpoint="runs/a")
    assert read_run(str(run)).result().num_videos == 60
    score_files.write(str(run / "results" / "efficient.npz"), some_scores(**changed))
    with pytest.raises(UserError, match=r"num_videos is 60 and 30|runs/a.*runs/b"):
        read_run(str(run))


def test_the_page_shows_that_its_scores_are_the_first_of_several_draws(tmp_path):
    metrics = dict(metrics={"top1": 0.7}, num_draws=3, spread={"top1": 0.012})
    run = write_run(tmp_path / "run", some_scores(), **metrics)
    assert (
        "first of 3 draws; over all of them, top-1 70.0 % ± 1.2 %"
        in Elements(run_page(read_run(str(run)))).text
    )


def test_scores_that_are_no_probabilities(tmp_path):
    found = some_scores()
    write_run(tmp_path / "run", dataclasses.replace(found, scores=found.scores - 5))
    parsed = Elements(run_page(read_run(str(tmp_path / "run"))))
    assert "no probabilities" in parsed.text
    assert "thresholds" not in [each["id"] for each in parsed.count["section"]]


def test_the_protocol_can_be_chosen(run, capsys):
    results = run / "results"
    found = dataclasses.replace(some_scores(seed=5), protocol="reversed")
    content = json.loads((results / "efficient.json").read_text())
    content |= {"protocol": "reversed", "view": {"frame_order": "reversed"}}
    # Before the other one in the alphabet, but not in order.
    (results / "back.json").write_text(json.dumps(content | {"per_class": found.per_class()}))
    score_files.write(str(results / "back.npz"), found)
    assert read_run(str(run)).result().protocol == "efficient"
    for name in ("back", "reversed"):
        assert read_run(str(run)).result(name).name == "back"
    assert cli.main(["report", str(run), "--protocol=none", f"--to={run}/a.html"]) == 2
    assert "'none'" in capsys.readouterr().err
    assert cli.main(["report", str(run), "--protocol=back", f"--to={run}/a.html"]) == 0
    parsed = Elements((run / "a.html").read_text(encoding="utf-8"))
    assert "All protocols of this run" in parsed.text


def test_counts_by_threshold():
    found = Scores(
        np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0, 0]], np.float32),
        np.array([0, 0, 1, 1]),
        [],
        ["a", "b"],
        missing=np.array([False, False, False, True]),
    )
    counts = score_sections.threshold_counts(found, found.scores[:3])
    assert counts.true.tolist() == [2, 2] and counts.num_videos == 4
    for step, named, right, covered in (
        (0, [2, 1], [1, 0], 3), (60, [2, 1], [1, 0], 3), (61, [2, 0], [1, 0], 2),
        (70, [2, 0], [1, 0], 2), (71, [1, 0], [1, 0], 1), (91, [0, 0], [0, 0], 0),
    ):  # fmt: skip
        assert counts.named[:, step].tolist() == named
        assert counts.right[:, step].tolist() == right
        assert counts.covered[step] == covered
    several = dataclasses.replace(found, labels=np.eye(2, dtype=np.float32)[found.labels])
    counts = score_sections.threshold_counts(several, found.scores[:3])
    assert counts.named[:, 30].tolist() == [3, 2] and counts.right[:, 30].tolist() == [2, 1]


def test_early_recognition(run):
    path = run / "results" / "efficient.json"
    entries = [{"share": 0.5, "top1": 0.2}, {"share": 1.0, "top1": 0.9}, {"share": "x"}]
    content = json.loads(path.read_text()) | {"early_recognition": entries}
    path.write_text(json.dumps(content))
    parsed = Elements(run_page(read_run(str(run))))
    assert "early" in [each["id"] for each in parsed.count["section"]]


# Figures


def test_figures_need_matplotlib(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = tmp_path / "page.html"
    assert cli.main(["report", str(run), f"--to={page}", "--png"]) == 2
    said = capsys.readouterr().err
    assert "trn_jax[report]" in said and said.count("\n") == 1
    assert not page.exists()


@pytest.mark.thorough
def test_figures(run, tmp_path, capsys):
    cv2 = pytest.importorskip("cv2")
    pytest.importorskip("matplotlib")
    other = write_run(tmp_path / "other", some_scores(seed=3))
    page = tmp_path / "page.html"
    assert cli.main(["report", str(run), str(other), f"--to={page}", "--png", "--json"]) == 0
    said = capsys.readouterr()
    files = json.loads(said.out)["files"]
    assert [file.removeprefix(f"{tmp_path}/page_figures/") for file in files] == [
        f"{name}.png" for name in ("confusion", "reliability", "training", "order", "difference")
    ]
    for file in files:
        assert min(cv2.imread(file).shape[:2]) > 300


def test_the_page_needs_no_matplotlib_and_opens_no_device(run):
    code = (
        "import os, sys; os.environ['JAX_PLATFORMS'] = 'none_such'\n"
        "sys.modules['matplotlib'] = None\nfrom trn_jax import cli\n"
        f"sys.exit(cli.main(['report', {str(run)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_corrupt_cards_are_named(run):
    (run / "results" / "order.json").write_text("{}")
    with pytest.raises(UserError, match=r"order\.json"):
        read_run(str(run))
