"""`trn-jax predict`: tables, JSON lines, folders of predictions, exit statuses."""

import collections
import csv
import json

import numpy as np
import painted
import pytest
from small_models import NAMES, config_of, store, write_films

from trn_jax import cli


@pytest.fixture(scope="module")
def place(tmp_path_factory, trn):
    """A checkpoint, three short films and a long one."""
    root = tmp_path_factory.mktemp("place")
    (root / "model").symlink_to(trn)
    write_films(root / "short", (20, 14, 26))
    painted.write(root / "long.mp4", painted.frames(87), g=12)
    return root


def run(capsys, *arguments):
    """Exit status, lines of the output, and what was printed to standard error."""
    status = cli.main(["predict", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out.splitlines(), printed.err


def test_tables(place, capsys):
    model = f"--checkpoint={place / 'model'}"
    status, lines, _ = run(capsys, place / "short", model)
    assert status == 0 and len(lines) == 3
    assert all(f"film{n}.mp4" in line for n, line in enumerate(lines))
    status, lines, _ = run(capsys, place / "short" / "film0.mp4", model)
    assert status == 0 and len(lines) == len(NAMES)  # there are not five classes
    scores = [float(line.split()[-2]) for line in lines]
    assert scores == sorted(scores, reverse=True) and sum(scores) == pytest.approx(1, abs=2e-3)
    status, lines, _ = run(capsys, place / "long.mp4", model, "--threshold=0.26")
    assert status == 0 and all(" - 0:00:0" in line for line in lines)


def test_json_lines(place, capsys):
    sources = place / "long.mp4", place / "short" / "film1.mp4"
    model = f"--checkpoint={place / 'model'}"
    _, lines, _ = run(
        capsys, *sources, model, "--json", "--threshold=0.26", "--top=2", "--every=0.4"
    )
    entries = list(map(json.loads, lines))
    kinds = collections.Counter(entry["kind"] for entry in entries)
    assert kinds["window"] == 8 and kinds["video"] == 1 and kinds["event"] >= 1
    assert [len(entry["top"]) for entry in entries if "top" in entry] == [2] * 9
    event = next(entry for entry in entries if entry["kind"] == "event")
    assert entries[-1] == entries[-1] | {"video": str(sources[1]), "start": 0.0, "end": 0.56}
    assert event.keys() == {"kind", "video", "start", "end", "label", "score"}


def test_a_folder_of_predictions_is_resumed(place, capsys, tmp_path, monkeypatch):
    to = tmp_path / "to"
    command = [place / "short", place / "long.mp4", f"--checkpoint={place / 'model'}", f"--to={to}"]
    _, first, _ = run(capsys, *command)
    table = (to / "events.csv").read_text()
    rows = list(csv.DictReader(table.splitlines()))
    # Paths start from the table.
    films = {str((to / row["video"]).resolve()) for row in rows}
    assert {str((place / "short" / f"film{n}.mp4").resolve()) for n in range(3)} <= films
    captions = sorted((to / "captions").iterdir())
    assert len(captions) == 4 and captions[0].read_text().startswith("WEBVTT\n\n00:00:00.000 --> ")
    removed = next((to / "scores").glob("film1-*.npz"))
    removed.unlink()
    from trn_jax.prediction import whole

    asked = []
    original = whole.WholeScorer.answers

    def counted(scorer, inputs, workers):
        asked.append([inputs.name(n) for n in range(len(inputs.records))])
        return original(scorer, inputs, workers)

    monkeypatch.setattr(whole.WholeScorer, "answers", counted)
    _, second, messages = run(capsys, *command)
    assert second == first and (to / "events.csv").read_text() == table
    assert asked == [[str(place / "short" / "film1.mp4")]] and "3 of 4" in messages


@pytest.mark.thorough
def test_events_are_found_again_without_the_model(place, capsys, tmp_path):
    to = tmp_path / "to"
    run(capsys, place / "long.mp4", f"--checkpoint={place / 'model'}", f"--to={to}")
    status, lines, _ = run(capsys, f"--from-scores={to}", "--threshold=0.26", "--smoothing=3")
    assert status == 0 and len((to / "events.csv").read_text().splitlines()) == 1 + len(lines)
    _, lines, _ = run(capsys, f"--from-scores={to}", "--threshold=1")
    assert "no event in 0:00:03.5" in lines[0]
    assert len((to / "events.csv").read_text().splitlines()) == 1


def test_scores_of_another_model_are_not_continued(place, capsys, tmp_path):
    other = store(tmp_path / "other", config_of("trn_resnet10"), seed=1)
    film = place / "short" / "film0.mp4"
    run(capsys, film, f"--checkpoint={place / 'model'}", f"--to={tmp_path / 'to'}")
    status, _, messages = run(capsys, film, f"--checkpoint={other}", f"--to={tmp_path / 'to'}")
    assert status == 2 and "--to" in messages and "checksum" in messages
    command = [film, f"--checkpoint={place / 'model'}", f"--to={tmp_path / 'to'}", "--crop=ten"]
    status, _, messages = run(capsys, *command)
    assert status == 2 and "contract" in messages
    assert "contract.view.crop: 'center' -> 'ten';" in messages and "short_side" not in messages


@pytest.mark.thorough
def test_processes_share_the_videos(place, capsys, tmp_path):
    seen = []
    for process in range(2):
        share = ["--num-processes=2", f"--process-id={process}"]
        _, lines, _ = run(capsys, place / "short", f"--checkpoint={place / 'model'}", *share)
        seen.append([line.split()[0].rpartition("/")[2] for line in lines if "film" in line])
    assert seen == [["film0.mp4", "film2.mp4"], ["film1.mp4"]]


@pytest.mark.thorough
def test_the_last_of_several_processes_writes_the_events_of_all(place, capsys, tmp_path):
    command = [place / "short", f"--checkpoint={place / 'model'}", f"--to={tmp_path / 'to'}"]
    for process in range(2):
        run(capsys, *command, "--num-processes=2", f"--process-id={process}")
    shared = (tmp_path / "to" / "events.csv").read_text()
    run(capsys, *command)
    assert sorted(shared.splitlines()) == sorted(
        (tmp_path / "to" / "events.csv").read_text().splitlines()
    )
    assert len(shared.splitlines()) >= 3


@pytest.mark.thorough
def test_another_file_of_the_same_name_is_not_taken_for_done(place, capsys, tmp_path, monkeypatch):
    for folder in ("one", "two"):
        write_films(tmp_path / folder, (20,))
    command = ["film0.mp4", f"--checkpoint={place / 'model'}", f"--to={tmp_path / 'to'}"]
    monkeypatch.chdir(tmp_path / "one")
    assert run(capsys, *command)[0] == run(capsys, *command)[0] == 0
    monkeypatch.chdir(tmp_path / "two")
    status, lines, messages = run(capsys, *command)
    assert (status, lines) == (2, []) and "path" in messages and "--to" in messages


@pytest.mark.thorough
def test_a_video_without_any_frame_is_named(place, capsys, tmp_path):
    path = painted.write(tmp_path / "empty.avi", painted.frames(9), codec="mpeg4")
    content = bytearray(path.read_bytes())
    start = content.index(b"00dc", content.index(b"movi"))
    while content[start : start + 4] == b"00dc":
        size = int.from_bytes(content[start + 4 : start + 8], "little")
        content[start + 8 : start + 8 + size] = bytes(size)
        start += 8 + size + size % 2
    path.write_bytes(content)
    sources = path, place / "long.mp4"
    model = f"--checkpoint={place / 'model'}"
    status, lines, _ = run(capsys, *sources, model, "--timeline", "--json")
    first, *others = map(json.loads, lines)
    assert (status, first["kind"], first["video"]) == (1, "problem", str(path))
    assert {entry["video"] for entry in others} == {str(sources[1])}


def test_one_unreadable_video_is_named_and_the_others_are_done(place, capsys, tmp_path):
    (tmp_path / "text.mp4").write_text("not a film\n")
    sources = tmp_path / "text.mp4", place / "short"
    status, lines, messages = run(capsys, *sources, f"--checkpoint={place / 'model'}")
    assert status == 1 and len(lines) == 3
    assert "text.mp4" in messages and "it is text" in messages and "1 of 4" in messages
    _, lines, _ = run(capsys, sources[0], f"--checkpoint={place / 'model'}", "--json")
    (entry,) = map(json.loads, lines)
    assert entry["kind"] == "problem" and "it is text" in entry["problem"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "--checkpoint"),
        (["{place}/short"], "--checkpoint"),
        (["{place}/gone.mp4", "--checkpoint={place}/model"], "gone.mp4"),
        (["{place}/short", "--checkpoint={place}/short"], "no checkpoint"),
        (["{place}/short", "--checkpoint={place}/model", "--protocol=acurate"], "'acurate'"),
        (["{place}/short", "--checkpoint={place}/model", "--protocol=all"], "--protocol=all"),
        (["{place}/short", "--checkpoint={place}/model", "--duration=nan"], "--duration=nan"),
        (["9" * 5000, "--checkpoint={place}/model"], "not found"),
        (["{place}/short", "--checkpoint={place}/model", "--crop=middle"], "'middle'"),
        (["{place}/short", "--checkpoint={place}/model", "--num-segments=3"], "3"),
        (["{place}/short", "--checkpoint={place}/model", "--seconds=-1"], "seconds=-1"),
        (["{place}/long.mp4", "--checkpoint={place}/model", "--every=0"], "every=0"),
        (["{place}/short", "--checkpoint={place}/model", "--every=-1"], "every=-1"),
        (["{place}/short", "--checkpoint={place}/model", "--threshold=2"], "threshold=2"),
        (["{place}/short", "--checkpoint={place}/model", "--process-id=1"], "--process-id=1"),
        (["{place}/short", "--checkpoint={place}/model", "--num-processes=2"], "--process-id"),
        (["--from-scores={place}/short"], "short/scores; expected a folder that `trn-jax predict"),
    ],
)
def test_what_is_wrong_is_said(place, capsys, arguments, match):
    status, lines, messages = run(capsys, *(each.format(place=place) for each in arguments))
    assert (status, lines) == (2, []) and match in messages and "Traceback" not in messages


@pytest.mark.parametrize("about", [[1], {"video": 5, "windows": True}, {"windows": True}])
def test_foreign_scores_are_named(capsys, tmp_path, about):
    (tmp_path / "scores").mkdir()
    arrays = dict(start=np.zeros(2), end=np.ones(2), scores=np.zeros((2, 1)))
    about = np.array(json.dumps(about))
    path = tmp_path / "scores" / "x.npz"
    np.savez(path, **arrays, class_names=np.array(["a"]), about=about)
    status, lines, messages = run(capsys, f"--from-scores={tmp_path}")
    assert (status, lines) == (2, []) and str(path) in messages


@pytest.mark.thorough
def test_corrupt_scores_are_named(place, capsys, tmp_path):
    to = tmp_path / "to"
    run(capsys, place / "short" / "film0.mp4", f"--checkpoint={place / 'model'}", f"--to={to}")
    (path,) = (to / "scores").iterdir()
    path.write_bytes(path.read_bytes()[:-30])
    status, _, messages = run(capsys, f"--from-scores={to}")
    assert status == 2 and path.name in messages


@pytest.mark.thorough
def test_a_model_without_lengths_needs_them_for_a_timeline(place, capsys, tmp_path):
    model = store(tmp_path / "old", config_of("trn_resnet10"), sampling=None)
    status, lines, _ = run(capsys, place / "long.mp4", f"--checkpoint={model}", "--top=1")
    assert status == 0 and len(lines) == 1  # nothing says that it is long
    command = [place / "long.mp4", f"--checkpoint={model}", "--timeline"]
    status, _, messages = run(capsys, *command)
    assert status == 2 and "--seconds" in messages
    assert run(capsys, *command, "--seconds=0.8")[0] == 0


def test_two_classes_and_several_labels(place, capsys, tmp_path):
    config = config_of("tsn_resnet10", num_classes=2)
    config.data.multi_label = True
    model = store(tmp_path / "two", config)
    film = place / "short" / "film0.mp4"
    status, lines, _ = run(capsys, film, f"--checkpoint={model}", "--top=5", "--json")
    (entry,) = map(json.loads, lines)
    assert status == 0 and len(entry["top"]) == 2
    assert sum(each["score"] for each in entry["top"]) != pytest.approx(1, abs=1e-3)


def test_scores_that_are_no_numbers_are_a_problem(place, capsys, tmp_path):
    config = config_of("tsn_resnet10")
    model = store(tmp_path / "nan", config, fill=float("nan"))
    status, lines, messages = run(
        capsys, place / "short" / "film0.mp4", f"--checkpoint={model}", "--json"
    )
    (entry,) = map(json.loads, lines)
    assert status == 1 and entry["kind"] == "problem" and "NaN" in messages
