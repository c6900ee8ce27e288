"""Frame indices against the reference's, and the properties that training relies on."""

import numpy as np
import pytest

from trn_jax.data import sampling
from trn_jax.errors import UserError


class ExtremeRng:
    """A generator whose every draw is the smallest or the largest one."""

    def __init__(self, largest):
        self.largest = largest

    def integers(self, high, size):
        return np.full(size, high - 1 if self.largest else 0)


def records(golden, name):
    """The records of one-frame segments, without options that no recipe here uses."""
    found = [
        record
        for record in golden(f"pipeline/{name}")["records"]
        if record["transform"] == "SampleFrames"
        and record["kwargs"]["clip_len"] == 1
        and not record["kwargs"].get("keep_tail_frames")
        and not record["kwargs"].get("temporal_jitter")
    ]
    assert len(found) > 20
    return found


def clip_indices(num_frames, num_segments, sampling_name, order="forward", seed=0):
    return sampling.clip_indices(
        num_frames,
        num_segments,
        sampling=sampling_name,
        frame_order=order,
        rng=np.random.default_rng(seed),
    )


# The reference's numbers


def test_test_frames_are_those_of_the_reference(golden):
    seen = set()
    for record in records(golden, "sample_frames_test"):
        twice = record["kwargs"].get("twice_sample", False)
        name = "twice" if twice else "center"
        found = clip_indices(record["total_frames"], record["kwargs"]["num_clips"], name)
        assert found.shape == (1 + twice, record["kwargs"]["num_clips"])
        assert (found.ravel() + record["start_index"]).tolist() == record["frame_inds"], record
        seen.add((name, record["start_index"]))
    assert seen >= {("center", 0), ("center", 1), ("twice", 0), ("twice", 1)}


def test_train_frames_have_the_bounds_of_the_reference(golden):
    branches = set()
    for record in records(golden, "sample_frames_train"):
        frames, segments = record["total_frames"], record["kwargs"]["num_clips"]
        for largest, key in ((False, "with_smallest_draws"), (True, "with_largest_draws")):
            found = sampling.segment_indices(frames, segments, ExtremeRng(largest))
            assert (found + record["start_index"]).tolist() == record[key], record
        branches.add(record["branch"])
    assert len(branches) == 2  # drawn, and spread over too many segments


def test_train_frames_take_as_many_values_as_those_of_the_reference(golden):
    for record in records(golden, "sample_frames_train"):
        frames, segments = record["total_frames"], record["kwargs"]["num_clips"]
        if max(record["distinct_values_per_position"]) > 12:
            continue  # would need many draws
        rng = np.random.default_rng(1)
        draws = np.stack([sampling.segment_indices(frames, segments, rng) for _ in range(300)])
        draws += record["start_index"]
        assert draws.min(0).tolist() == record["observed_min"], record
        assert draws.max(0).tolist() == record["observed_max"], record
        distinct = [len(np.unique(column)) for column in draws.T]
        assert distinct == record["distinct_values_per_position"], record


def test_train_frames_are_uniform_and_independent():
    rng = np.random.default_rng(5)
    num_draws, length = 8000, 5
    draws = np.stack([sampling.segment_indices(42, 8, rng) for _ in range(num_draws)])
    offsets = draws - np.arange(8) * length
    for offset in offsets.T:
        counts = np.bincount(offset, minlength=length)
        expected = num_draws / length
        assert ((counts - expected) ** 2 / expected).sum() < 23.5  # chi-square, 4 d.o.f., p=1e-4
    correlation = np.corrcoef(offsets.T) - np.eye(8)
    assert np.abs(correlation).max() < 0.06


@pytest.mark.parametrize(
    ("num_frames", "num_segments", "expected"),
    [
        (37, 8, [2, 6, 11, 16, 20, 25, 30, 34]),
        (5, 8, [0, 0, 1, 2, 2, 3, 4, 4]),
        (3, 8, [0, 0, 0, 1, 1, 2, 2, 2]),
        (100, 25, list(range(2, 100, 4))),
    ],
)
def test_published_vectors_of_center_frames(num_frames, num_segments, expected):
    found = sampling.center_indices(num_frames, num_segments)
    assert found.dtype == np.int64
    assert found.tolist() == expected


def test_published_vector_of_the_second_clip_of_twice():
    clips = clip_indices(37, 8, "twice")
    assert clips.tolist() == [[2, 6, 11, 16, 20, 25, 30, 34], [0, 4, 9, 13, 18, 23, 27, 32]]


@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [
        (8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (7, [0, 1, 2, 3, 4, 4, 5, 6]),
        (6, [0, 1, 2, 2, 3, 4, 4, 5]),
        (5, [0, 1, 1, 2, 2, 3, 4, 4]),
        (4, [0, 0, 1, 2, 2, 2, 3, 0]),
        (3, [0, 0, 1, 1, 2, 2, 2, 0]),
        (2, [0, 0, 0, 1, 1, 1, 0, 0]),
        (1, [0] * 8),
    ],
)
def test_published_vectors_of_train_frames_of_short_videos(num_frames, expected):
    for seed in range(3):
        assert clip_indices(num_frames, 8, "random", seed=seed).tolist() == [expected]


# Properties


@pytest.mark.parametrize("name", sampling.SAMPLINGS)
@pytest.mark.parametrize("num_segments", [1, 3, 8])
def test_indices_lie_inside_the_video_however_short(name, num_segments):
    for num_frames in range(1, 60):
        found = clip_indices(num_frames, num_segments, name)
        assert found.shape == (2 if name == "twice" else 1, num_segments)
        assert found.min() >= 0
        assert found.max() < num_frames


@pytest.mark.parametrize("name", sampling.SAMPLINGS)
def test_reversed_order_has_the_same_frames_backwards(name):
    forward, backward = (clip_indices(37, 8, name, order) for order in ("forward", "reversed"))
    np.testing.assert_array_equal(backward, forward[:, ::-1])
    assert (np.diff(backward) < 0).all()


def test_shuffled_order_has_the_same_frames_in_another_order_for_every_video():
    forward = clip_indices(37, 8, "twice")
    orders = set()
    for seed in range(20):
        shuffled = clip_indices(37, 8, "twice", "shuffled", seed=seed)
        np.testing.assert_array_equal(np.sort(shuffled), forward)
        order = [forward[0].tolist().index(frame) for frame in shuffled[0]]
        np.testing.assert_array_equal(shuffled, forward[:, order])  # one order for both clips
        orders.add(tuple(order))
    assert len(orders) > 15


@pytest.mark.parametrize("num_segments", [1, 3, 4, 8])
def test_center_frames_of_a_reversed_video_mirror_for_odd_multiples_of_the_segments(num_segments):
    for odd in (1, 3, 5, 7):
        num_frames = odd * num_segments
        frames = sampling.center_indices(num_frames, num_segments)
        np.testing.assert_array_equal(num_frames - 1 - frames[::-1], frames)
    even = sampling.center_indices(2 * num_segments, num_segments)
    assert (2 * num_segments - 1 - even[::-1] != even).all()  # the property is not trivial


def test_draws_are_a_function_of_the_generator():
    first, again, other = (clip_indices(300, 8, "random", seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (dict(sampling="centre"), r"sampling='centre'.*random, center, twice"),
        (dict(frame_order="backward"), r"frame_order='backward'.*forward, reversed, shuffled"),
        (dict(num_segments=0), r"num_segments=0"),
    ],
)
def test_unknown_values_are_named(wrong, named):
    right = dict(sampling="center", frame_order="forward", num_segments=8)
    sampling.check(**right)
    with pytest.raises(UserError, match=named):
        sampling.check(**right | wrong)
