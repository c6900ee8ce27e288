"""Lists of parts, in seconds and in frames: what is scored, when it is, and what is noted."""

import numpy as np
import painted
import pytest
from small_training import write_frames

from trn_jax import predict
from trn_jax.data.decode import FrameError
from trn_jax.prediction import sources
from trn_jax.prediction.api import Predictor
from trn_jax.prediction.inputs import Inputs

pytestmark = pytest.mark.usefixtures("loaded_once")

RATE = 25


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two folders of frames, of 30 and 4 frames, and a video of 30."""
    write_frames(tmp_path / "walk", 30, np.random.default_rng(0))
    write_frames(tmp_path / "run", 4, np.random.default_rng(1))
    painted.write(tmp_path / "film.mp4", painted.frames(30), g=6)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(name, text, **options):
    """`{name: (number of frames, start)}` of the entries of a list."""
    with open(name, "w") as file:
        file.write(text)
    opened = Inputs(sources.find([name], frame_rate=RATE, **options))
    found = {}
    for index, record in enumerate(opened.records):
        try:
            with opened.open(record) as video:
                found[opened.name(index)] = video.num_frames, round(opened.start(index), 3)
        except FrameError as error:
            found[opened.name(index)] = str(error)
    return found


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "walk 5 20 1\nwalk 25 5 0\nrun 0 3 1\n"),
        ("list.txt", "walk 5 20 1 3\nwalk 25 5 0 1\nrun 0 3 1\n"),  # several labels
        ("list.csv", "walk,5,20,1\nwalk,25,5,0\nrun,0,3,1\n"),
        ("list.csv", "path,offset,num_frames,label\nwalk,5,20,a\nwalk,25,5,b\nrun,0,3,c\n"),
    ],
)
def test_parts_of_folders_by_offset(folder, name, text):
    assert read(name, text) == {
        "walk [5:25]": (20, 0.2),
        "walk [25:30]": (5, 1.0),
        "run [0:3]": (3, 0.0),
    }


@pytest.mark.parametrize(
    ("text", "walk"),
    [
        (
            "walk 30 1 3\nrun 4 2 1\n",
            30,
        ),  # several labels, of which no part could begin at frame 30
        ("walk 30 1\nrun 4 2\n", 30),
        ("walk 12 1\nrun 4 2\n", 12),  # as an evaluation takes the list
        ("walk 1\nrun 2\n", 30),
    ],
)
def test_folders_with_the_number_of_frames_and_labels_are_whole(folder, text, walk):
    assert read("list.txt", text) == {"walk": (walk, 0), "run": (4, 0)}


def test_parts_that_reach_beyond_their_folder(folder):
    found = read("list.txt", "walk 5 20 1\nwalk 40 5 0\nwalk 0 0 1\nwalk 5 26 1\n")
    assert found["walk [5:25]"] == (20, 0.2) and found["walk [5:31]"] == (25, 0.2)
    assert "30 frames" in found["walk [40:45]"] and "0 frames" in found["list.txt: line 3"]


@pytest.mark.by_default("True-offset", "False-parts-film")
@pytest.mark.parametrize(
    ("name", "text", "path"),
    [
        pytest.param("offset.txt", "walk 5 20 1\nwalk 5 90 1\nwalk 1\n", "walk", id="offset"),
        pytest.param(
            "parts.csv",
            "video,start,end\nfilm.mp4,0.2,1\nfilm.mp4,0.2,9\nfilm.mp4,,\n",
            "film.mp4",
            id="parts-film",
        ),
        pytest.param(
            "parts.csv", "video,start,end\nwalk,0.2,1\nwalk,0.2,9\nwalk,,", "walk", id="parts-walk"
        ),
    ],
)
@pytest.mark.parametrize("timeline", [False, True])
def test_a_part_is_scored_and_one_with_a_late_end_noted(folder, trn, timeline, name, text, path):
    (folder / name).write_text(text)
    predictor = Predictor(trn, timeline=timeline, every=0.4 if timeline else None)
    answers = list(predictor(predictor.find(name)))
    first = {answer.video: answer for answer in reversed(answers)}
    ends = {answer.video: answer.end for answer in answers}
    within, beyond, whole = ends
    assert first[within].start == pytest.approx(0.2) and ends[within] == pytest.approx(1.0)
    assert ends[beyond] == pytest.approx(30 / RATE) and whole == path
    notes = {answer.video: answer.notes for answer in answers if answer.notes}
    assert notes.keys() == {beyond} and "ends after" in notes[beyond][0]
    assert not np.allclose(first[within].scores, first[whole].scores, atol=1e-4)


def test_a_corrupt_frame_in_a_part_costs_itself(folder, trn, monkeypatch):
    content = bytearray((folder / "film.mp4").read_bytes())
    start = content.index(b"mdat")
    content[start + (len(content) - start) // 3 : start + (len(content) - start) // 2] = bytes(
        (len(content) - start) // 2 - (len(content) - start) // 3
    )
    (folder / "film.mp4").write_bytes(content)
    (folder / "parts.csv").write_text("video,start,end\nfilm.mp4,0,1.2\n")
    answers = list(predict("parts.csv", trn, timeline=True, every=0.2))
    assert answers and not any(answer.problem for answer in answers)
    assert any("don't decode" in note for note in answers[-1].notes)
