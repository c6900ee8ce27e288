"""The report on predicted events."""

import json

import cv2
import pytest

from trn_jax import cli
from trn_jax.errors import UserError
from trn_jax.evaluation.events import Event, write_events
from trn_jax.reporting.event_report import align_videos, evaluate_events, write_event_report

TRUTH = """video,start,end,label
clips/a.mp4,0,10,Waving
clips/a.mp4,20,30,Nodding
clips/b.mp4,0:00:05,0:00:15,Waving
"""
PREDICTIONS = """video,start,end,label,score
/data/clips/a.mp4,0,8,Waving,0.9
/data/clips/a.mp4,21,30,Waving,0.8
/data/clips/b.mp4,5,15,Waving,0.7
"""


@pytest.fixture
def tables(tmp_path):
    """Writes predictions and truth, and gives their paths."""

    def write(predictions=PREDICTIONS, truth=TRUTH):
        for name, text in (("events", predictions), ("truth", truth)):
            (tmp_path / f"{name}.csv").write_text(text)
        return str(tmp_path / "events.csv"), str(tmp_path / "truth.csv")

    return write


def cells(text, first):
    """The cells of the first line that begins with `first`."""
    return next(line.split() for line in text.splitlines() if line.startswith(first))


@pytest.mark.smoke
def test_a_report_on_events(tables, tmp_path, capsys):
    path, truth = tables()
    assert cli.main(["report", path, f"--truth={truth}"]) == 0
    out = capsys.readouterr().out
    # Waving: right, wrong, right. Nodding: missed. 18 s of 30 events, and 15 s of nothing.
    precision = f"{100 * (1 + 2 / 3) / 2:.2f}"
    mean = f"{50 * (1 + 2 / 3) / 2:.2f}"
    counts = ["2", "3", "3", "2"]
    metrics = [*[mean] * 6, "66.67", "66.67", "66.67", f"{100 * 33 / 45:.2f}"]
    assert cells(out, "events") == [
        *("events", "videos", "true", "predicted", "matched", "mAP", "mAP@0.3", "mAP@0.4"),
        *("mAP@0.5", "mAP@0.6", "mAP@0.7", "event", "F1", "precision", "recall"),
        *("frame", "accuracy"),
    ]
    assert out.splitlines()[2].split() == ["events", *counts, *metrics]
    rows = out.splitlines()[6:8]
    assert rows[0].split() == ["Nodding", "1", "0", "0", *["0.00"] * 6, "-", "0.00"]
    assert rows[1].split() == [
        *("Waving", "2", "3", "2", *[precision] * 5, "80.00", "66.67", "100.00")
    ]
    assert "9.0    90.0 %  Nodding     Waving" in out
    assert "/data/clips/a.mp4 = clips/a.mp4" in out
    files = [f"{tmp_path}/report/events.txt", f"{tmp_path}/report/events_confusion.png"]
    assert out.splitlines()[-2:] == files
    with open(files[0]) as file:
        assert out.startswith(file.read().rstrip("\n"))
    assert cv2.imread(files[1]).shape[0] > 3 * 48


def test_a_report_as_json(tables, tmp_path, capsys):
    path, truth = tables()
    assert cli.main(["report", str(tmp_path), f"--truth={truth}", "--json", "--to", "out"]) == 0
    found = json.loads(capsys.readouterr().out)
    result = found["results"]["events"]
    assert result == evaluate_events(path, truth)
    assert result["metrics"]["event_f1"] == pytest.approx(2 / 3)
    assert result["metrics"]["map_at_0.3"] == pytest.approx(5 / 12)
    assert result["per_class"][0]["name"] == "Nodding"
    assert result["confusion"] == [
        ["Nodding", "Waving", 9],
        ["Nodding", "nothing", 1],
        ["Waving", "Waving", 18],
        ["Waving", "nothing", 2],
        ["nothing", "nothing", 15],
    ]
    assert found["files"] == ["out/events.txt", "out/events_confusion.png"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_what_is_only_in_one_of_both_is_named(tables, capsys):
    predictions = PREDICTIONS + "other/c.mp4,0,1,Waving,1\nclips/a.mp4,50,60,waving,0.1\n"
    path, truth = tables(predictions, TRUTH + "clips/d.mp4,0,1,Nodding\n")
    assert cli.main(["report", path, f"--truth={truth}"]) == 1
    paragraphs = capsys.readouterr().out.split("\n\n")
    # clips/a.mp4 is in both, so /data/clips/a.mp4 is another video.

    def listed(what):
        return next(text for text in paragraphs if what in text).splitlines()[1:]

    assert listed("don't count: 2") == ["  /data/clips/a.mp4", "  other/c.mp4"]
    assert listed("without predictions") == ["  clips/d.mp4"]
    assert "'waving'" in listed("classes")[0] and "'Waving'" in listed("classes")[0]


def test_predictions_without_scores_have_no_average_precision(tables):
    predictions = "".join(f"{row.rpartition(',')[0]}\n" for row in PREDICTIONS.splitlines())
    path, truth = tables(predictions)
    result, text, _ = write_event_report(path, truth)
    assert result["metrics"].keys() == {"event_f1", "precision", "recall", "frame_accuracy"}
    assert result["per_class"][1]["average_precision"] is None
    assert "AP" not in text
    path, _ = tables(PREDICTIONS.replace(",0.7", ","))
    with pytest.raises(UserError, match="1 of 3"):
        evaluate_events(path, truth)


def test_no_predictions_at_all(tables):
    path, truth = tables("video,start,end,label,score\n")
    result, text, _ = write_event_report(path, truth)
    assert result["metrics"]["map"] == result["metrics"]["event_f1"] == 0
    assert result["without_predictions"] == ["clips/a.mp4", "clips/b.mp4"]
    assert "nothing" in text


@pytest.mark.parametrize(
    ("changed", "value"),
    [
        (dict(truth="video,start,end,label\n"), "truth.csv has no events"),
        (dict(truth="video,start,end,label\nclips/a.mp4,0,10,nothing\n"), "no event"),
        (dict(truth=""), "truth.csv is empty"),
        (dict(truth=TRUTH + TRUTH.partition("\n")[2]), "line 5 repeats line 2"),
        (dict(truth=TRUTH.replace("clips", "x").replace(".mp4", ".avi")), "x/a.avi"),
        (dict(truth=TRUTH.replace("Waving", "1").replace("Nodding", "2")), r"'Waving'.*'1', '2'"),
        (dict(predictions=""), "events.csv is empty"),
        (dict(predictions=PREDICTIONS + "clips/a.mp4,0\n"), "line 5"),
    ],
)
def test_tables_that_cannot_be_compared(tables, capsys, tmp_path, changed, value):
    path, truth = tables(**changed)
    with pytest.raises(UserError, match=value):
        evaluate_events(path, truth)
    assert cli.main(["report", path, f"--truth={truth}"]) == 2
    assert not (tmp_path / "report").exists()


def test_wrong_arguments(tables, tmp_path, capsys):
    path, truth = tables()
    assert cli.main(["report", path]) == 2
    assert "--truth" in capsys.readouterr().err
    assert cli.main(["report", path, f"--truth={truth}", "--top-k", "1"]) == 2
    assert "--top-k" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert cli.main(["report", str(tmp_path / "empty"), f"--truth={truth}"]) == 2
    assert "events.csv" in capsys.readouterr().err


def test_names_cannot_obey_the_terminal(tables, capsys):
    path, truth = tables()
    names = ["v\x1b[2J", "w\x1b[2J"]
    write_events(path, [Event(name, 0, 1, "Waving\x1b[2J", 1) for name in names])
    write_events(truth, [Event(names[0], 0, 1, "Waving\x1b[2J")])
    assert cli.main(["report", path, f"--truth={truth}"]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out and r"w\x1b[2J" in out


# Names of videos


@pytest.mark.parametrize(
    ("true", "predicted", "expected"),
    [
        (["a.mp4"], ["a.mp4"], {"a.mp4": "a.mp4"}),
        (["a.mp4"], ["/d/a.mp4"], {"/d/a.mp4": "a.mp4"}),
        (["C:\\d\\a.mp4"], ["./d/a.mp4"], {"./d/a.mp4": "C:\\d\\a.mp4"}),
        # The longest common end decides.
        (["x/1.mp4", "y/1.mp4"], ["d/y/1.mp4", "d/x/1.mp4"], {"d/y/1.mp4": "y/1.mp4"}),
        # Two that are as long: neither.
        (["x/1.mp4", "y/1.mp4"], ["z/1.mp4"], {"z/1.mp4": None}),
        (["1.mp4"], ["x/1.mp4", "y/1.mp4"], {"x/1.mp4": None, "y/1.mp4": None}),
        # A true video is given to one prediction only, the one with the longer end.
        (["x/1.mp4"], ["y/1.mp4", "d/x/1.mp4"], {"y/1.mp4": None, "d/x/1.mp4": "x/1.mp4"}),
        # An equal path is no longer free.
        (["1.mp4"], ["d/1.mp4", "1.mp4"], {"1.mp4": "1.mp4", "d/1.mp4": None}),
        # Parts are compared, not letters.
        (["1.mp4"], ["11.mp4"], {"11.mp4": None}),
    ],
)
def test_videos_match_by_path_or_by_the_longest_common_end(true, predicted, expected):
    found = align_videos(
        [Event(name, 0, 1, "a") for name in true],
        [Event(name, number, number + 1, "a") for number, name in enumerate(predicted)],
    )
    names = {predicted[int(event.start)]: event.video for event in found.predictions}
    for name, true_name in expected.items():
        assert names.get(name) == true_name
        assert (name in found.left_out) == (true_name is None)
    assert set(found.without_predictions) == set(true) - set(names.values())
