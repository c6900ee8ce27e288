"""Flags without effect, places that can't be written, and odd names of files."""

import os
import pathlib

import numpy as np
import painted
import pytest
from small_models import write_films
from small_training import write_frames

from trn_jax import cli
from trn_jax.evaluation.events import read_events
from trn_jax.files import as_text, from_text
from trn_jax.prediction import sources
from trn_jax.prediction.feature_files import FeatureFile, read_features
from trn_jax.prediction.feature_rows import VideoFeatures
from trn_jax.prediction.saved import PredictionFolder
from trn_jax.prepare.video_paths import PathResolver
from trn_jax.reporting.event_report import write_event_report

ODD = os.fsdecode(b"caf\xe9 \xff.mp4")


def no_model(*_, **__):
    raise AssertionError("a model was loaded")


@pytest.fixture
def films(tmp_path, monkeypatch):
    """A film in the current folder, and no model that may be loaded."""
    write_films(tmp_path, (14,))
    monkeypatch.setattr("trn_jax.checkpoints.checkpoint.open_checkpoint", no_model)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        ("film0.mp4 --whole --every=1", "--every"),
        ("film0.mp4 --whole --seconds=1", "--seconds"),
        ("film0.mp4 --whole --smoothing=3", "--smoothing"),
        ("film0.mp4 --whole --hysteresis=0.5", "--hysteresis"),
        ("film0.mp4 --whole --min-seconds=1", "--min-seconds"),
        ("film0.mp4 --whole --no-extend", "--no-extend"),
        ("film0.mp4 --timeline --num-threads=2", "--num-threads"),
        ("film0.mp4 --timeline --top=3", "--top"),
        ("film0.mp4 --duration=3", "--duration"),
        ("rtsp://a/b --whole", "--whole"),
        ("rtsp://a/b --top=3", "--top"),
        ("rtsp://a/b --num-threads=3", "--num-threads"),
    ],
)
def test_flags_without_effect_are_refused(films, capsys, arguments, flag):
    assert cli.main(["predict", *arguments.split(), "--checkpoint=none"]) == 2
    assert flag in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    ["film0.mp4", "--checkpoint=none", "--every=1", "--crop=ten", "--whole", "--num-processes=2"],
)
def test_scores_that_are_there_take_no_flags_of_models(films, capsys, arguments):
    assert cli.main(["predict", "--from-scores=.", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert "--from-scores" in error and arguments.split("=")[0] in error


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        ("--seconds=1", "--seconds"),
        ("--every=1 --num-threads=2", "--num-threads"),
        ("--every=1 --per=frame --seconds=1", "--seconds"),
        ("--every=1 --per=frame --num-segments=4", "--num-segments"),
    ],
)
def test_flags_of_features_without_effect_are_refused(films, capsys, arguments, flag):
    command = ["features", "film0.mp4", "--checkpoint=none", "--to=x.npz", *arguments.split()]
    assert cli.main(command) == 2 and flag in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("predict film0.mp4 --checkpoint=none --to=", "film0.mp4"),
        ("predict film0.mp4 --checkpoint=none --to=", "film0.mp4/to"),
        ("predict film0.mp4 --checkpoint=none --to=", "gone"),  # a link to nothing
        ("predict --from-scores=. --to=", "film0.mp4"),
        ("features film0.mp4 --checkpoint=none --to=", "film0.mp4/x.npz"),
        ("features film0.mp4 --checkpoint=none --to=", "folder.npz"),
        ("show film0.mp4 --to=", "film0.mp4/x.png"),
        ("show film0.mp4 --to=", "folder.png"),
        ("check small --to=", "film0.mp4"),
        ("probe film0.mp4 --checkpoint=none --workdir=", "film0.mp4"),
    ],
)
def test_places_that_cannot_be_written_are_named_first(films, capsys, command, place):
    os.symlink("nowhere", "gone")
    for name in ("folder.npz", "folder.png"):
        os.mkdir(name)
    assert cli.main(f"{command}{place}".split()) == 2
    error = capsys.readouterr().err
    assert place in error and "Errno" not in error
    assert ("--workdir" if "workdir" in command else "--to") in error
    assert sorted(os.listdir(films)) == ["film0.mp4", "folder.npz", "folder.png", "gone"]


def test_names_that_are_not_utf_8_survive(tmp_path, trn, monkeypatch, capsys, loaded_once):
    films = tmp_path / "films"
    (film,) = write_films(films, (40,))
    os.rename(film, films / ODD)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the second time, the results are there
        assert cli.main(["predict", "films", f"--checkpoint={trn}", "--to=to", "--json"]) == 0
        assert r"\udce9" in capsys.readouterr().out
    (event,) = {event.video for event in read_events("to/events.csv")}
    assert event == rf"../films/{as_text(ODD)}" and event.isascii()
    assert [about["video"] for _, about in PredictionFolder("to").all()] == [f"films/{ODD}"]
    # The table is a source, and its own truth.
    assert PathResolver("to").resolve(event) == f"../films/{ODD}"
    (found,) = sources.find(["to/events.csv"])
    assert os.path.samefile(found.record.path, films / ODD)
    result, *_ = write_event_report("to/events.csv", "to/events.csv", str(tmp_path / "report"))
    assert not result["left_out"]
    # Lists for training are UTF-8, so `prepare` finds the file, and names it.
    assert cli.main(["prepare", "to/events.csv", "--to=data"]) == 2
    error = capsys.readouterr().err
    assert r"\udce9" in error and "rename" in error


@pytest.mark.parametrize("kind", [".npz", ".parquet"])
def test_features_of_names_that_are_not_utf_8(tmp_path, kind):
    if kind == ".parquet":
        pytest.importorskip("pyarrow")
    path = str(tmp_path / f"x{kind}")
    with FeatureFile(path, {}) as file:
        file.add(VideoFeatures(ODD, np.zeros(1), np.zeros((1, 2), np.float32)))
        file.finish()
    assert read_features(path)[0].videos.tolist() == [ODD]
    with FeatureFile(path, {}) as file:
        assert file.done == {ODD}


def test_bytes_in_names_are_escaped_and_found_again():
    assert as_text(ODD) == r"caf\udce9 \udcff.mp4" and from_text(as_text(ODD)) == ODD
    assert from_text(r"a\ud800\udc7f\u0041") == r"a\ud800\udc7f\u0041"


def test_a_file_url_is_a_file(tmp_path, monkeypatch):
    painted.write(tmp_path / "a b.mp4", painted.frames(2))
    monkeypatch.chdir(tmp_path)
    url = (tmp_path / "a b.mp4").as_uri()
    assert "%20" in url
    for text in (url, url.replace("file://", "FILE://localhost")):
        (found,) = sources.find([text])
        assert found.record.path == str(tmp_path / "a b.mp4") and not found.problem
    pathlib.Path("list.txt").write_text(f"{url}\n")
    (found,) = sources.find(["list.txt"])
    assert not found.problem and os.path.samefile(found.record.path, tmp_path / "a b.mp4")


def test_a_file_under_several_names_is_one_video(tmp_path, monkeypatch):
    painted.write(tmp_path / "films" / "a.mp4", painted.frames(5))
    write_frames(tmp_path / "films" / "walk", 4, np.random.default_rng(0))
    os.symlink("films", tmp_path / "link")
    os.symlink("a.mp4", tmp_path / "films" / "b.mp4")
    monkeypatch.chdir(tmp_path)
    given = [
        "./films/a.mp4",
        "films/a.mp4",
        "link",
        "films",
        str(tmp_path / "films"),
        "films/b.mp4",
    ]
    assert [each.name for each in sources.find(given)] == ["./films/a.mp4", "link/walk"]
    pathlib.Path("list.csv").write_text("video,start,end\nfilms/a.mp4,0,0.1\nlink/a.mp4,0,0.1\n")
    # A part is another video.
    names = [each.name for each in sources.find(["films/a.mp4", "list.csv"])]
    assert names == ["films/a.mp4", "films/a.mp4 [0.000-0.100]"]
