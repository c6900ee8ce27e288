"""Tables and plots of a report."""

import dataclasses
import json

import cv2
import numpy as np
import pytest

from trn_jax import cli
from trn_jax.errors import UserError
from trn_jax.evaluation import lettering, score_files, tables
from trn_jax.evaluation.scores import Scores
from trn_jax.reporting import plots, report


@pytest.fixture
def found():
    """Ten videos of four classes, the last of which has none."""
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    taken = np.array([0, 1, 1, 2, 1, 1, 0, 2, 1, 1])
    return Scores(
        scores=(0.1 * np.ones((10, 4)) + 0.6 * np.eye(4)[taken]).astype(np.float32),
        labels=labels,
        videos=[str(i) for i in range(10)],
        class_names=["Waving", "Nodding", "Jumping", "Nothing"],
        protocol="efficient",
    )


def write_result(folder, found):
    folder.mkdir(parents=True, exist_ok=True)
    content = {"num_videos": 10, "num_views": 1, "metrics": found.metrics()}
    content |= {"protocol": found.protocol, "per_class": found.per_class()}
    (folder / "efficient.json").write_text(json.dumps(content))


def test_classes_come_worst_first(found):
    lines = tables.class_table(found.per_class()).splitlines()
    assert lines[0] == "  0.00 %       0 videos     3 Nothing"
    assert lines[1] == " 25.00 %       4 videos     0 Waving"
    assert lines[-1].endswith("1 Nodding")


def test_the_most_confused_pairs_come_first(found):
    lines = tables.confused_pairs(found).splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["2", "50.0", "%", "Waving", "Nodding"],
        ["2", "66.7", "%", "Jumping", "Nodding"],
        ["1", "25.0", "%", "Waving", "Jumping"],
        ["1", "33.3", "%", "Nodding", "Waving"],
    ]
    assert len(tables.confused_pairs(found, 1).splitlines()) == 3


def test_a_report_on_scores(found, tmp_path, capsys):
    score_files.write(str(tmp_path / "s.pkl"), found)
    assert cli.main(["report", str(tmp_path / "s.pkl"), "--top-k", "1", "2"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0].split() == ["protocol", "videos", "top-1", "top-2", "mean", "class"]
    # All are 0.7 sure of what is right in 4 of 10 cases.
    assert "mean confidence 70.00 %, expected calibration error 30.00 %" in said
    assert "Jumping" in said
    assert (tmp_path / "report" / "s.txt").read_text().startswith("protocol")
    picture = cv2.imread(str(tmp_path / "report" / "s_confusion.png"))
    assert picture.shape[0] > 4 * 48
    assert cli.main(["report", str(tmp_path / "s.pkl"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["files"] == [f"{tmp_path}/report/s.txt", f"{tmp_path}/report/s_confusion.png"]
    assert told["results"]["s"]["metrics"] == found.metrics()
    assert told["results"]["s"]["videos"] == len(found.scores)


def test_a_report_on_a_working_directory(found, tmp_path):
    write_result(tmp_path / "results", found)
    entries = [
        {"step": 10, "group": "train", "loss": 2.0, "top1": 0.2, "lr": 0.1},
        {"step": 20, "group": "train", "loss": 1.0, "top1": 0.5, "lr": 0.01},
        {"step": 20, "group": "val", "top1": 0.4, "top5": 0.9, "pair": 0.1},
    ]
    log = "".join(json.dumps(entry) + "\n" for entry in entries)
    damaged = b"\xff\n5\n" + log.encode() + b'{"step": 3'  # and killed while writing
    (tmp_path / "metrics.jsonl").write_bytes(damaged)
    text, files = report.write_report(str(tmp_path))
    assert "needs the score file" in text
    names = [file.removeprefix(f"{tmp_path}/report/") for file in files]
    assert names == ["efficient.txt", "training.png"]
    assert cv2.imread(files[1]).shape == (480 + 280 + 220, 800, 3)

    score_files.write(str(tmp_path / "results" / "efficient.npz"), found)
    for path in (tmp_path, tmp_path / "results", tmp_path / "results" / "efficient.json"):
        text, files = report.write_report(str(path), str(tmp_path / "out"))
        assert "taken for" in text
        assert f"{tmp_path}/out/efficient_confusion.png" in files


def test_a_report_on_several_labels(found, tmp_path):
    several = Scores(
        scores=found.scores,
        labels=np.eye(4, dtype=np.float32)[found.labels],
        videos=found.videos,
        class_names=found.class_names,
        protocol="efficient",
    )
    score_files.write(str(tmp_path / "s.npz"), several)
    text, files = report.write_report(str(tmp_path / "s.npz"))
    assert "mAP by video" in text
    assert "   none %       0 videos     3 Nothing" in text
    assert [file.rpartition("/")[2] for file in files] == ["s.txt"]


def test_where_there_is_nothing_to_report_on_nothing_is_written(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "no results or metrics.jsonl" in capsys.readouterr().err
    with pytest.raises(UserError, match=str(tmp_path / "none")):
        report.write_report(str(tmp_path / "none"))
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "efficient.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot read .*efficient\.json"):
        report.write_report(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]


# Plots


@pytest.mark.parametrize("num_classes", [1, 3, 20, 174, 400])
def test_a_confusion_matrix_is_dark_where_classes_are_taken_for_classes(num_classes):
    confusion = 5 * np.eye(num_classes, dtype=int)[::-1]
    names = [f"Schütteln von etwas Längerem, das nicht passt {i}" for i in range(num_classes)]
    picture = plots.confusion_plot(confusion, names)
    assert picture.dtype == np.uint8
    dark = (picture == (8, 48, 107)).all(axis=-1)
    rows, columns = np.nonzero(dark)
    # The other diagonal: what is further down is further to the left.
    assert num_classes == 1 or np.corrcoef(rows, columns)[0, 1] < -0.85
    cell = np.clip(960 // num_classes, 4, 48)
    assert 0.7 < dark.sum() / (num_classes * cell**2) <= 1
    assert max(picture.shape[:2]) < 2200


def _names_in_plot(name):
    """The left part of a confusion matrix of one class, where its name is."""
    picture = plots.confusion_plot(np.ones((1, 1), int), [name])
    rows, columns = np.nonzero((picture == (8, 48, 107)).all(axis=-1))
    return picture[rows.min() + 2 : rows.max() - 1, : columns.min() - 2]


def test_names_of_classes_are_drawn_in_their_scripts():
    if lettering.missing("打开"):
        pytest.skip("OpenCV before 5 and no Chinese font here")
    drawn = {text: _names_in_plot(text) for text in ("打开", "打闭", "??", "Öffnen", "Offnen")}
    assert not np.array_equal(drawn["打开"], drawn["打闭"])
    assert drawn["打开"].shape != drawn["??"].shape or (drawn["打开"] != drawn["??"]).any()
    assert not np.array_equal(drawn["Öffnen"], drawn["Offnen"])


def test_long_and_hostile_names_fit_a_plot():
    assert _names_in_plot("x" * 10_000).shape[1] < 400
    # What could be drawn as nothing is drawn as its escape.
    assert _names_in_plot("a\x1b\u202e").shape[1] > _names_in_plot("a").shape[1] + 20


def test_letters_without_a_font_are_named(found, tmp_path, capsys):
    names = ["\U000e7a11 unassigned", *found.class_names[1:]]
    lost = dataclasses.replace(found, class_names=names)
    score_files.write(str(tmp_path / "s.npz"), lost)
    report.write_report(str(tmp_path / "s.npz"))
    assert "\U000e7a11" in capsys.readouterr().err


def test_curves_go_from_lower_left_to_upper_right():
    picture = plots.training_plot({"train top-1": ([0, 50, 100], [0.0, 0.5, 1.0])})
    rows, columns = np.nonzero((picture == (0, 114, 178)).all(axis=-1))
    inside = columns < 620  # left of the legend
    assert np.corrcoef(rows[inside], columns[inside])[0, 1] < -0.99
    assert plots.training_plot({}).shape == (480, 800, 3)


def test_loss_and_learning_rate_have_panels_of_their_own():
    curves = {"train top-1": ([0, 100], [0.2, 0.9])}
    losses = {"train loss": ([0, 50, 100], [6.0, 3.0, 0.0])}
    rates = {"train learning rate": ([0, 100], [0.003, 0.003])}
    image = plots.training_plot(curves, losses, rates)
    assert image.shape == (980, 800, 3)
    for part, slope in zip(np.split(image, [480, 760]), (-1, 1, 0), strict=True):
        rows, columns = np.nonzero((part == (0, 114, 178)).all(axis=-1))
        rows = rows[columns < 620]  # left of the legend
        columns = columns[columns < 620]
        assert columns.min() < 65 and columns.max() > 600
        assert np.sign(np.round(np.polyfit(columns, rows, 1)[0], 2)) == slope
    assert plots.training_plot({}, losses).shape == (280, 800, 3)
    assert plots.training_plot({}, {}, {"lr": ([5], [0.0])}).shape == (220, 800, 3)


@pytest.mark.parametrize(
    ("value", "part"), [(1e-5, 1e-5), (0.0003, 0.0005), (0.15, 0.2), (1.4, 2), (7e8, 1e9)]
)
def test_ticks_below_one_are_round_too(value, part):
    assert plots.round_part(value) == pytest.approx(part)


@pytest.mark.parametrize(
    ("value", "step"), [(0.2, 1), (1, 1), (1.1, 2), (7, 10), (50, 50), (1200, 2000)]
)
def test_ticks_are_round(value, step):
    assert plots.round_step(value) == step
