"""`trn-jax features`: files, resumed ones, exit statuses."""

import sys

import numpy as np
import pytest
from small_models import config_of, store, write_films

from trn_jax import cli
from trn_jax.prediction import feature_files
from trn_jax.prediction.features import FeatureExtractor

LENGTHS = (5, 9, 12, 7)


@pytest.fixture(scope="module")
def place(tmp_path_factory, trn):
    root = tmp_path_factory.mktemp("features")
    (root / "model").symlink_to(trn)
    write_films(root / "films", LENGTHS)
    return root


def run(capsys, place, to, *flags, source="films"):
    """Exit status and what was printed."""
    command = [place / source, f"--checkpoint={place / 'model'}", f"--to={to}", *flags]
    status = cli.main(["features", *map(str, command)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_a_file_has_the_rows_of_all_videos(place, tmp_path, capsys):
    status, out, _ = run(capsys, place, tmp_path / "all.npz")
    assert status == 0 and "16 vectors of 4 videos, per frame" in out
    with np.load(tmp_path / "all.npz") as file:
        arrays = dict(file)
    assert {*arrays} == {"video", "time", "vector", "about"}
    assert arrays["video"][::4].tolist() == [
        str(place / "films" / f"film{n}.mp4") for n in range(4)
    ]
    extractor = FeatureExtractor(str(place / "model"))
    found = list(extractor(extractor.find(place / "films")))
    np.testing.assert_array_equal(arrays["vector"], np.concatenate([f.vectors for f in found]))
    np.testing.assert_array_equal(arrays["time"], np.concatenate([f.times for f in found]))
    assert arrays["vector"].dtype == np.float32 and not (tmp_path / "all.npz.parts").exists()


@pytest.mark.by_default("npz")
@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_an_interrupted_command_resumes_with_the_same_result(
    place, tmp_path, capsys, monkeypatch, kind
):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    run(capsys, place, tmp_path / f"whole.{kind}")
    monkeypatch.setattr(feature_files, "_PART_BYTES", 1)  # a part per video
    asked = []
    original = FeatureExtractor.__call__

    def interrupted(self, inputs):
        asked.append([each.name.rpartition("/")[2] for each in inputs])
        for number, found in enumerate(original(self, inputs)):
            if number == 2 and len(asked) == 1:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(FeatureExtractor, "__call__", interrupted)
    to = tmp_path / f"parts.{kind}"
    status, _, messages = run(capsys, place, to)
    assert status == 130 and "resumes" in messages and not to.exists()
    status, out, messages = run(capsys, place, to)
    assert status == 0 and "16 vectors of 4 videos" in out and "2 of 4" in messages
    assert asked[1] == ["film2.mp4", "film3.mp4"]
    found, about = feature_files.read_features(str(to))
    whole, other = feature_files.read_features(str(tmp_path / f"whole.{kind}"))
    assert about == other
    np.testing.assert_array_equal(found.videos, whole.videos)
    np.testing.assert_array_equal(found.times, whole.times)
    np.testing.assert_allclose(found.vectors, whole.vectors, atol=1e-5)
    run(capsys, place, to)  # nothing is left to do
    assert asked[2] == []
    np.testing.assert_array_equal(feature_files.read_features(str(to))[0].vectors, found.vectors)


@pytest.mark.thorough
def test_parts_that_survive_their_file_add_no_rows(place, tmp_path, capsys, monkeypatch):
    to = tmp_path / "a.npz"
    monkeypatch.setattr(feature_files.shutil, "rmtree", lambda *_, **__: None)
    run(capsys, place, to)
    assert (tmp_path / "a.npz.parts").exists()
    _, out, _ = run(capsys, place, to)
    assert "16 vectors of 4 videos" in out


@pytest.mark.thorough
def test_one_unreadable_video_is_named_and_done_later(place, tmp_path, capsys):
    films = tmp_path / "films"
    write_films(films, (5, 9))
    good = (films / "film1.mp4").read_bytes()
    (films / "film1.mp4").write_text("not a film\n")
    to = tmp_path / "a.npz"
    status, out, messages = run(capsys, place, to, source=films)
    assert status == 1 and "1 videos" in out and "it is text" in messages and "1 of 2" in messages
    (films / "film1.mp4").write_bytes(good)
    status, out, _ = run(capsys, place, to, source=films)
    assert status == 0 and "8 vectors of 2 videos" in out
    (films / "film0.mp4").write_text("not a film\n")
    status, out, _ = run(capsys, place, tmp_path / "b.npz", source=films / "film0.mp4")
    assert status == 1 and "0 vectors" in out and not (tmp_path / "b.npz").exists()


@pytest.mark.thorough
def test_features_of_another_model_are_not_continued(place, tmp_path, capsys):
    run(capsys, place, tmp_path / "a.npz")
    status, _, messages = run(capsys, place, tmp_path / "a.npz", "--every=0.1")
    assert status == 2 and "every" in messages and "--to" in messages
    other = store(tmp_path / "other", config_of("trn_resnet10"), seed=1)
    command = [str(place / "films"), f"--checkpoint={other}", f"--to={tmp_path / 'a.npz'}"]
    assert cli.main(["features", *command]) == 2
    assert "checksum" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "to", "match"),
    [
        ([], "a.csv", "a.csv"),
        (["--per=clip", "--every=-1"], "a.npz", "every=-1"),
        (["--protocol=no"], "a.npz", "'no'"),
    ],
)
def test_what_is_wrong_is_said(place, tmp_path, capsys, flags, to, match):
    status, out, messages = run(capsys, place, tmp_path / to, *flags)
    assert (status, out) == (2, "") and match in messages and "Traceback" not in messages


def test_parquet_needs_pyarrow(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, _, messages = run(capsys, place, tmp_path / "a.parquet")
    assert status == 2 and "pyarrow" in messages and ".npz" in messages


@pytest.mark.thorough
def test_a_corrupt_file_is_named(place, tmp_path, capsys):
    run(capsys, place, tmp_path / "a.npz")
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[:-40])
    status, _, messages = run(capsys, place, tmp_path / "a.npz")
    assert status == 2 and "a.npz" in messages and "corrupt" in messages
