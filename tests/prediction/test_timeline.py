"""Timelines: windows scored like examples, each frame read once, the end included."""

import collections
import itertools
import types

import numpy as np
import painted
import pytest
from flax import nnx

from trn_jax import load_model, predict
from trn_jax.data import sampling
from trn_jax.data.annotations import Record
from trn_jax.data.decode import FrameError
from trn_jax.data.reader import ClipReader
from trn_jax.data.videos import VideoFile, VideoFiles
from trn_jax.evaluation.merging import merge_views
from trn_jax.prediction import windows
from trn_jax.prediction.api import Predictor

RATE = 25
logits_of = nnx.jit(lambda model, clips: model(clips))


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return str(
        painted.write(tmp_path_factory.mktemp("film") / "long.mp4", painted.frames(87), g=12)
    )


def example_scores(model, contract, film, first, count):
    """The scores of frames `first` to `first + count` as an example, by the reader of clips."""
    record = Record(0, film, 0, 0, start=first / RATE, end=(first + count) / RATE)
    found = ClipReader({"view": contract.view}, VideoFiles()).read(record, (0, 0, 0))
    logits = np.zeros((contract.view.num_views, 4), np.float32)
    for clip, pixels in found.pairs():
        for _, position, mirrored in clip.places:
            shown = pixels[:, :, ::-1] if mirrored else pixels
            logits[position] = logits_of(model, shown[None])[0]
    return merge_views(logits, merge=model.merge_views)


@pytest.mark.parametrize(
    "protocol", ["efficient", pytest.param("twice_ten", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", ["trn", "tsm"])
def test_a_window_is_scored_like_an_example(request, film, kind, protocol):
    model = load_model(request.getfixturevalue(kind))
    predictor = Predictor(model, protocol=protocol, every=0.4)
    answers = list(predictor(predictor.find(film)))
    assert all(answer.is_window for answer in answers)
    # 3.48 seconds, in windows of 0.8 every 0.4; the last one ends with the video.
    starts = [answer.start for answer in answers]
    np.testing.assert_allclose(starts, [*np.arange(7) * 0.4, 2.68], atol=1e-6)
    assert answers[-1].end == pytest.approx(87 / RATE)
    for answer in (answers[0], answers[2], answers[-1]):
        expected = example_scores(model, predictor.contract, film, round(answer.start * RATE), 20)
        np.testing.assert_allclose(answer.scores, expected, atol=1e-5)
    assert len({answer.scores.tobytes() for answer in answers}) == len(answers)


def test_the_backbone_runs_once_per_frame(film, trn, monkeypatch):
    read = collections.Counter()
    whole = VideoFile.frames

    def counted(self, indices, draft=None):
        for number, frame in whole(self, indices, draft):
            read[number] += 1
            yield number, frame

    monkeypatch.setattr(VideoFile, "frames", counted)
    answers = list(predict(film, trn, timeline=True, every=0.4))
    assert set(read.values()) == {1}
    # Windows half of their length apart share half of their frames; the last one has its own.
    assert len(read) == 4 + 6 * 2 + 4 and len(answers) == 8


@pytest.mark.by_default(1)
@pytest.mark.parametrize(("codec", "name"), [("mpeg4", "film.avi"), ("libx264", "film.h264")])
def test_a_video_without_an_index_is_scored_to_its_end(tmp_path, film, trn, codec, name):
    path = str(painted.write(tmp_path / name, painted.frames(87), codec=codec, g=12))
    answers = list(predict(path, trn, every=0.4))
    expected = list(predict(film, trn, every=0.4))
    np.testing.assert_allclose(
        [(a.start, a.end) for a in answers], [(a.start, a.end) for a in expected], atol=0.05
    )
    # Frames of the last window are the nearest ones that other windows show.
    for mine, theirs in zip(answers[:-1], expected[:-1], strict=True):
        np.testing.assert_allclose(mine.scores, theirs.scores, atol=0.35)


def test_a_video_whose_times_begin_again_is_scored_to_its_end(tmp_path, trn):
    """Recordings that were joined without new times."""
    path = tmp_path / "joined.ts"
    halves = [
        painted.write(tmp_path / f"{start}.ts", painted.frames(30, start=start))
        for start in (0, 100)
    ]
    path.write_bytes(b"".join(half.read_bytes() for half in halves))
    answers = list(predict(path, trn, timeline=True))
    assert answers[-1].end == pytest.approx(60 / RATE, abs=0.05)
    with VideoFile(str(path), count=False) as video:
        shown = [painted.number(frame) for _, frame in video.shown_at([0.02, 1.18, 1.22, 2.38])]
    assert shown == [0, 29, 100, 129]


def test_a_short_video_is_one_window(tmp_path, trn):
    path = str(painted.write(tmp_path / "short.mp4", painted.frames(11)))
    (window,) = predict(path, trn, timeline=True)
    (whole,) = predict(path, trn)
    assert (window.is_window, whole.is_window) == (True, False)
    assert window.end == pytest.approx(whole.end)
    np.testing.assert_allclose(window.scores, whole.scores, atol=1e-5)


@pytest.mark.parametrize("name", ["film.mp4", "film.avi"])
def test_a_video_of_one_frame_is_one_window(tmp_path, trn, name):
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    path = str(painted.write(tmp_path / name, painted.frames(1), codec=codec))
    (window,) = predict(path, trn, timeline=True)
    assert np.isfinite(window.scores).all()


@pytest.mark.thorough
def test_a_corrupt_video_is_scored_as_far_as_it_decodes(tmp_path, trn):
    path = tmp_path / "cut.ts"
    painted.write(
        tmp_path / "whole.ts", painted.frames(87), muxer={"mpegts_flags": "resend_headers"}
    )
    content = (tmp_path / "whole.ts").read_bytes()
    path.write_bytes(content[: len(content) // 2])
    answers = list(predict(str(path), trn, timeline=True))
    assert not answers[0].problem and 0.8 < answers[-1].end < 3


def test_an_unreadable_video_costs_itself(tmp_path, film, trn):
    (tmp_path / "text.mp4").write_text("no video")
    sources = [tmp_path / "text.mp4", film]
    answers = list(predict(sources, trn, timeline=True, every=0.4))
    assert "text.mp4" in answers[0].problem and answers[0].scores is None
    assert len(answers) == 9 and not any(answer.problem for answer in answers[1:])


def plan_of(view=None, length=2.0, stride=1.0):
    view = view or types.SimpleNamespace(
        sampling="center",
        num_segments=4,
        sampler=lambda: sampling.ClipSampler(num_segments=4, sampling="center"),
    )
    return windows.WindowPlan(view, length, stride, 10.0, 0)


@pytest.mark.parametrize(
    ("total", "last"), [(2.0, 2.0), (5.0, 5.0), (5.3, 5.3), (0.4, 0.4), (2.001, 2.0)]
)
def test_windows_cover_the_video(total, last):
    found = list(plan_of().stretches(total))
    assert found[0][0] == 0 and found[-1][1] == pytest.approx(last)
    for (start, end), (after, _) in itertools.pairwise(found):
        assert start < after <= end
    assert all(end - start == pytest.approx(min(2, total)) for start, end in found)


def test_absurd_numbers_of_windows_are_refused(film, trn):
    with pytest.raises(FrameError, match="--every"):
        next(plan_of().stretches(1e9))
    (answer,) = predict(film, trn, timeline=True, every=1e-9)
    assert "--every" in answer.problem


@pytest.mark.parametrize("rate", [10, 29.97, 60])
def test_frames_of_a_window_are_those_of_an_example(rate):
    times = np.arange(200) / rate
    num_frames = round(2.0 * rate)
    plan = plan_of(length=num_frames / rate, stride=5 / rate)
    for window in plan.windows(times, 200 / rate):
        first = round(window.start * rate)
        expected = first + sampling.center_indices(num_frames, 4)
        np.testing.assert_array_equal(np.searchsorted(times, window.keys[0]), expected)


def test_endless_windows_want_every_frame_once_in_order():
    plan = plan_of(stride=0.5)
    keys = windows.wanted_times(plan.windows())
    found = [next(keys) for _ in range(40)]
    assert found == sorted(set(found)) and found[0] == 0
    # Four frames per window, 0.5 apart, which windows 0.5 apart share.
    np.testing.assert_allclose(np.diff(found[1:]), 0.5, atol=1e-3)


def test_memory_does_not_grow_with_the_video():
    plan = plan_of()
    assembler = windows.Assembler(plan.windows(), plan)
    held = []
    for key in (next(keys) for keys in [windows.wanted_times(plan.windows())] for _ in range(500)):
        for _, values in assembler.add(key, np.zeros(3)):
            assert values.shape == (1, 4, 3)
        held.append(assembler.num_held)
    assert max(held) < 12


@pytest.mark.thorough
def test_models_that_see_clips_and_frames_agree(film, trn):
    model = load_model(trn)
    by_frame = list(predict(film, model))
    assert model.scores_frames
    graph, state = nnx.split(model)
    by_clip = nnx.merge(graph, state)
    by_clip.info = model.info
    by_clip.head.eval_relations = "first"  # other scores: the comparison could fail
    assert not np.allclose(next(predict(film, by_clip)).scores, by_frame[0].scores, atol=1e-4)


@pytest.mark.thorough
def test_a_folder_of_frames_needs_a_rate(tmp_path, trn, tsm):
    from small_training import write_frames

    write_frames(tmp_path / "frames", 90, np.random.default_rng(0))
    answers = list(predict(tmp_path / "frames", trn))
    assert answers[-1].end == pytest.approx(90 / RATE)  # as training examples
    answers = list(predict(tmp_path / "frames", trn, frame_rate=30.0))
    assert answers[-1].end == pytest.approx(3.0)


def test_video_files_as_a_source_are_untouched(film):
    with VideoFiles().open(Record(0, film, 0, 0)) as video:
        assert video.num_frames == 87 and video.seconds == pytest.approx(87 / RATE)
        times = [0.0, 0.05, 1.0, 1.01, 3.47]
        shown = [(t, painted.number(frame)) for t, frame in video.shown_at(times)]
    assert shown == [(0.0, 0), (0.05, 1), (1.0, 25), (1.01, 25), (3.47, 86)]


def test_a_part_of_a_video_has_times_of_the_whole(tmp_path, film, trn):
    (tmp_path / "parts.csv").write_text(f"video,start,end\n{film},0.4,1.2\n{film},0.4,3.2\n")
    short, *windows = predict(tmp_path / "parts.csv", trn, every=0.4)
    whole = list(predict(film, trn, every=0.4))
    assert (short.start, short.end) == (0.4, pytest.approx(1.2)) and not short.is_window
    assert short.video == f"{film} [0.400-1.200]"
    np.testing.assert_allclose(short.scores, whole[1].scores, atol=1e-5)
    # Windows of 0.8 every 0.4 seconds, which are those of the whole film, too.
    assert [round(answer.start, 3) for answer in windows] == [0.4, 0.8, 1.2, 1.6, 2.0, 2.4]
    for mine, theirs in zip(windows, whole[1:7], strict=True):
        np.testing.assert_allclose(mine.scores, theirs.scores, atol=1e-5)
