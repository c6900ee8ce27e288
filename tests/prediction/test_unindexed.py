"""Videos whose frames only decoding can number: decoded once, with notes, and without huge gaps."""

import dataclasses
import fractions
import shutil

import av
import numpy as np
import painted
import pytest

from trn_jax import predict
from trn_jax.data import videos
from trn_jax.data.frame_index import AscendingClock
from trn_jax.data.videos import VideoFile
from trn_jax.prediction.api import Predictor

pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """An AVI, which has no time stamps, of 3.5 seconds: more than three times 0.8."""
    path = tmp_path_factory.mktemp("film") / "long.avi"
    return str(painted.write(path, painted.frames(87), codec="mpeg4", g=12))


@pytest.fixture
def num_decoded(monkeypatch):
    """`{path: number of frames decoded}`, as they are."""
    found = {}
    for module in ("trn_jax.data.ordered_videos", "trn_jax.data.frame_index"):
        original = __import__(module, fromlist=["decodable"]).decodable

        def counted(container, *others, original=original):
            for frame in original(container, *others):
                found[container.name] = found.get(container.name, 0) + 1
                yield frame

        monkeypatch.setattr(f"{module}.decodable", counted)
    return found


def test_a_long_video_is_decoded_once(film, trn, tmp_path, num_decoded):
    path = shutil.copy(film, tmp_path / "copy.avi")  # whose frames nobody has counted
    answers = list(predict(str(path), trn, every=0.4))
    assert len(answers) == 8 and all(answer.is_window for answer in answers)
    assert sum(num_decoded.values()) == 87


def test_a_short_video_is_a_whole_one(trn, tmp_path):
    path = painted.write(tmp_path / "short.avi", painted.frames(25), codec="mpeg4")
    (answer,) = predict(str(path), trn)
    assert not answer.is_window and answer.end == pytest.approx(1.0)


@pytest.mark.thorough
def test_long_and_short_videos_stay_in_order(film, trn, tmp_path):
    short = [
        str(painted.write(tmp_path / f"{n}.mp4", painted.frames(20, start=9 * n))) for n in (0, 1)
    ]
    predictor = Predictor(trn, every=0.8)
    found = predictor.by_video(predictor.find([short[0], film, short[1]]))
    kinds = [(each.name, [answer.is_window for answer in answers]) for each, answers in found]
    assert [name for name, _ in kinds] == [short[0], film, short[1]]
    assert [len(answers) > 1 for _, answers in kinds] == [False, True, False]


@pytest.mark.by_default(1)
@pytest.mark.parametrize("timeline", [True, None])
def test_lost_frames_are_noted_once(trn, tmp_path, timeline):
    path = tmp_path / "cut.avi"
    painted.write(path, painted.frames(87), codec="mpeg4", g=12)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 9 // 10])  # the end is missing
    answers = list(predict(str(path), trn, timeline=timeline, every=0.4))
    notes = [note for answer in answers for note in answer.notes]
    assert len(notes) == 1 and "missing or don't decode" in notes[0] and str(path) in notes[0]
    assert answers[-1].end < 87 / 25


def write_with_jump(path, at, seconds):
    """A transport stream of 50 frames whose time stamps jump forward."""
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = painted.WIDTH, painted.HEIGHT, "yuv420p"
        stream.options = {"bf": "0", "g": "5"}
        for number, pixels in enumerate(painted.frames(50)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, fractions.Fraction(1, 25)
            for packet in stream.encode(frame):
                packet.pts += round(seconds * 25) * (number >= at)
                packet.dts = packet.pts
                container.mux(packet)
        for packet in stream.encode(None):
            packet.pts += round(seconds * 25)
            packet.dts = packet.pts
            container.mux(packet)
    return path


def test_a_jump_of_time_stamps_makes_no_windows(trn, tmp_path, monkeypatch):
    path = str(write_with_jump(tmp_path / "jump.ts", 25, 7200))
    # Whatever the container, as one that only decoding numbers.
    monkeypatch.setattr(
        videos,
        "read_packets",
        lambda *given, original=videos.read_packets: without_index(original(*given)),
    )
    answers = list(predict(path, trn, timeline=True, every=0.4))
    assert answers[-1].end == pytest.approx(2.0, abs=0.1) and len(answers) < 8
    (note,) = answers[-1].notes
    assert "7200" in note and path in note
    with VideoFile(path, timed=True) as video:
        np.testing.assert_allclose(video.times, np.arange(50) / 25, atol=0.03)
        assert "7200" in video.notes[0]


def without_index(packets):
    return dataclasses.replace(packets, index=None)


@pytest.mark.parametrize(
    ("rate", "times", "expected", "jumps"),
    [
        (2.0, [0, 0.5, 100, 100.5, 3000, 3000.5], [0, 0.5, 1, 1.5, 2, 2.5], 2),
        (2.0, [0, 0.5, 10, 10.5], [0, 0.5, 10, 10.5], 0),  # a pause
        (2.0, [0, 9999, 1, 1.5, 2], [0, 0.5, 1, 1.5, 2], 1),  # one wrong stamp
        (0.05, [0, 20, 40, 140], [0, 20, 40, 140], 0),  # a frame every 20 seconds
    ],
)
def test_much_later_times_follow_by_the_rate(rate, times, expected, jumps):
    clock = AscendingClock(rate)
    np.testing.assert_allclose([clock.time(float(time)) for time in times], expected)
    assert clock.jumps == jumps
    if jumps:
        assert "a.ts" in clock.note("a.ts")


def test_later_times_of_an_index_are_trusted():
    clock = AscendingClock(2.0, trusted=True)
    assert [clock.time(time) for time in (0.0, 0.5, 100.0)] == [0, 0.5, 100] and not clock.jumps
