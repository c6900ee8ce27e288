"""Frame indices against the reference's, and the properties that training relies on."""

import numpy as np
import pytest

from trn_jax.data import sampling
from trn_jax.errors import UserError


class ExtremeRng:
    """A generator whose every draw is the smallest or the largest one."""

    def __init__(self, largest):
        self.largest = largest

    def integers(self, high, size=None):
        draw = high - 1 if self.largest else 0
        return draw if size is None else np.full(size, draw)

    def uniform(self, low, high, size):
        return np.full(size, np.nextafter(high, low) if self.largest else low)


class ReferenceRng:
    """The global generator that the reference draws from, freshly seeded with 0."""

    def __init__(self):
        self.state = np.random.RandomState(0)

    def integers(self, high, size=None):
        return self.state.randint(high, size=size)

    def uniform(self, low, high, size):
        return self.state.uniform(low, high, size)


def train_sampler(record):
    """The sampler that a record of the reference in training was made with."""
    kwargs = record["kwargs"]
    if record["transform"] == "DenseSampleFrames":
        return sampler("random_dense", kwargs["num_clips"])
    if kwargs["clip_len"] == 1:
        tail = kwargs.get("keep_tail_frames", False)
        return sampler("random", kwargs["num_clips"], keep_tail_frames=tail)
    return sampler(
        "random_clips",
        kwargs["clip_len"],
        num_clips=kwargs["num_clips"],
        frame_interval=kwargs["frame_interval"],
    )


def train_records(golden):
    """All records in training: segments, clips and dense windows."""
    found = records(golden, "sample_frames_train")
    found += records(golden, "sample_frames_train", clips=True)
    return found + records(golden, "sample_frames_train", "DenseSampleFrames")


def assert_uniform(draws, num_values, limit_in_deviations):
    """A chi-square test of `draws` in 0..num_values - 1."""
    expected = len(draws) / num_values
    counts = np.bincount(draws, minlength=num_values)
    assert len(counts) == num_values
    # The quantile by Wilson and Hilferty, 1931; 4.75 standard deviations are a chance of 1e-6.
    freedom = num_values - 1
    spread = 2 / (9 * freedom)
    limit = freedom * (1 - spread + limit_in_deviations * np.sqrt(spread)) ** 3
    assert ((counts - expected) ** 2 / expected).sum() < limit


def records(golden, name, transform="SampleFrames", clips=False):
    """The records of one-frame segments, or of clips, without options that no recipe here uses."""
    found = [
        record
        for record in golden(f"pipeline/{name}")["records"]
        if record["transform"] == transform
        and (record["kwargs"]["clip_len"] > 1) == clips
        and not record["kwargs"].get("temporal_jitter")
    ]
    assert len(found) > 8
    return found


def sampler(sampling_name, num_segments=8, **settings):
    return sampling.ClipSampler(sampling=sampling_name, num_segments=num_segments, **settings)


def clip_indices(num_frames, num_segments, sampling_name, order="forward", seed=0, **settings):
    sample = sampler(sampling_name, num_segments, frame_order=order, **settings)
    found = sample(num_frames, np.random.default_rng(seed))
    assert found.dtype == np.int64
    assert found.shape == (sample.clips_per_video, num_segments)
    return found


def eight_by_eight(num_frames, num_clips, sampling_name="clips", seed=0, **settings):
    """Clips of 8 frames, 8 apart."""
    settings |= dict(num_clips=num_clips, frame_interval=8)
    return clip_indices(num_frames, 8, sampling_name, seed=seed, **settings)


# The reference's numbers


@pytest.mark.smoke
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


def test_clips_in_tests_are_those_of_the_reference(golden):
    seen = set()
    for record in records(golden, "sample_frames_test", clips=True):
        kwargs = record["kwargs"]
        if kwargs.get("twice_sample"):
            continue  # a defect of the reference: it runs past the end of the video
        found = clip_indices(
            record["total_frames"],
            kwargs["clip_len"],
            "clips",
            num_clips=kwargs["num_clips"],
            frame_interval=kwargs["frame_interval"],
            out_of_bound=kwargs.get("out_of_bound_opt", "loop"),
        )
        assert (found.ravel() + record["start_index"]).tolist() == record["frame_inds"], record
        seen.add((kwargs["clip_len"], kwargs["num_clips"], kwargs.get("out_of_bound_opt")))
    assert seen == {
        *((8, clips, bound) for clips in (1, 10) for bound in ("loop", "repeat_last")),
        (32, 1, None),
    }


def test_clips_do_not_come_twice():
    """The reference's form of it runs past the end of the video."""
    with pytest.raises(UserError, match="frame_interval=8 means nothing for sampling='twice'"):
        sampler("twice", 8, frame_interval=8)


def test_published_file_names_of_center_frames():
    """Of the MindSpore version of TRN, whose frames are counted from 1."""
    names = [f"{index + 1:05d}.jpg" for index in clip_indices(37, 8, "center").ravel()]
    expected = (3, 7, 12, 17, 21, 26, 31, 35)
    assert names == [f"{number:05d}.jpg" for number in expected]


def test_dense_windows_in_tests_are_those_of_the_reference(golden):
    seen = set()
    for record in records(golden, "dense_sample_frames_test", "DenseSampleFrames"):
        segments = record["kwargs"]["num_clips"]
        found = clip_indices(record["total_frames"], segments, "dense", num_clips=10)
        assert (found.ravel() + record["start_index"]).tolist() == record["frame_inds"], record
        seen.add(segments)
    assert seen == {5, 8, 16}


def test_train_frames_have_the_bounds_of_the_reference(golden):
    branches = set()
    for record in train_records(golden):
        sample = train_sampler(record)
        for largest, key in ((False, "with_smallest_draws"), (True, "with_largest_draws")):
            found = sample(record["total_frames"], ExtremeRng(largest)).ravel()
            assert (found + record["start_index"]).tolist() == record[key], record
        branches.add(record["branch"])
    assert len(branches) == 5  # drawn, also to the end, spread, too short, and dense


@pytest.mark.smoke
def test_train_frames_are_those_of_the_reference_for_its_draws(golden):
    for record in train_records(golden):
        sample, rng = train_sampler(record), ReferenceRng()
        for expected in record["first_two_draws_seed0"]:
            found = sample(record["total_frames"], rng).ravel() + record["start_index"]
            assert found.tolist() == expected, record


def test_train_frames_take_as_many_values_as_those_of_the_reference(golden):
    for record in train_records(golden):
        if max(record["distinct_values_per_position"]) > 12:
            continue  # would need many draws
        sample, rng = train_sampler(record), np.random.default_rng(1)
        draws = np.stack([sample(record["total_frames"], rng).ravel() for _ in range(300)])
        draws += record["start_index"]
        assert draws.min(0).tolist() == record["observed_min"], record
        assert draws.max(0).tolist() == record["observed_max"], record
        distinct = [len(np.unique(column)) for column in draws.T]
        assert distinct == record["distinct_values_per_position"], record


@pytest.mark.thorough
def test_train_frames_are_uniform_between_the_bounds_of_the_reference(golden):
    kinds = []
    for number, record in enumerate(train_records(golden)):
        low, high = (np.array(record[f"with_{k}_draws"]) for k in ("smallest", "largest"))
        # Where frames behind the end are those from the start, bounds are no bounds.
        if (high == low).all() or (np.diff(high) < 0).any():
            continue
        sample, rng = train_sampler(record), np.random.default_rng(number)
        draws = np.stack([sample(record["total_frames"], rng).ravel() for _ in range(1500)])
        for column, first, last in zip(draws.T + record["start_index"], low, high, strict=True):
            assert_uniform(column - first, last - first + 1, 4.75)
        kinds.append(sample.sampling)
    counts = {kind: kinds.count(kind) for kind in kinds}
    assert counts == dict(random=30, random_clips=5, random_dense=4)


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


@pytest.mark.parametrize(
    ("num_frames", "num_clips", "positions", "starts"),
    [
        (300, 10, "ends", [0, 27, 54, 81, 108, 135, 162, 189, 216, 243]),
        (64, 10, "ends", [0, 1, 2, 2, 3, 4, 5, 5, 6, 7]),
        (57, 10, "ends", [0] * 10),
        (20, 10, "ends", [0] * 10),
        (300, 1, "ends", [121]),
        (300, 10, "middles", [11, 35, 59, 82, 106, 130, 154, 177, 201, 225]),
        (64, 10, "middles", [0] * 10),
        (20, 10, "middles", [0] * 10),
        (300, 1, "middles", [118]),
    ],
)
def test_published_vectors_of_clips(num_frames, num_clips, positions, starts):
    found = eight_by_eight(num_frames, num_clips, clip_positions=positions)
    assert found[:, 0].tolist() == starts
    expected = (found[:, :1] + 8 * np.arange(8)) % num_frames
    np.testing.assert_array_equal(found, expected)


def test_published_vector_of_dense_windows():
    found = clip_indices(300, 5, "dense", num_clips=10)
    assert found[:, 0].tolist() == [0, 26, 52, 78, 104, 131, 157, 183, 209, 236]
    assert (np.diff(found) == 12).all()
    # With 25 frames, as one published test has it, they cover 50 of the 64 frames.
    assert (np.diff(clip_indices(300, 25, "dense", num_clips=10)) == 2).all()


def test_short_videos_are_the_first_frame_in_the_way_of_trn_pytorch():
    for num_frames, train, val in ((7, 0, 0), (8, 7, 0), (9, 7, 8)):
        drawn = clip_indices(num_frames, 8, "random", short_videos="first")
        center = clip_indices(num_frames, 8, "center", short_videos="first")
        assert (drawn.max(), center.max()) == (train, val)
    for name in ("random", "center"):
        for num_frames in (9, 37, 300):
            np.testing.assert_array_equal(
                clip_indices(num_frames, 8, name, short_videos="first"),
                clip_indices(num_frames, 8, name),
            )


def test_frames_behind_the_end_loop_or_repeat_the_last_one_of_the_clip():
    (looped,) = eight_by_eight(20, 1)
    (repeated,) = eight_by_eight(20, 1, out_of_bound="repeat_last")
    assert looped.tolist() == [0, 8, 16, 4, 12, 0, 8, 16]
    assert repeated.tolist() == [0, 8] + 6 * [16]


# Properties


def test_drawn_clips_lie_in_equal_parts_of_the_video_independently():
    num_draws, num_clips = 3000, 4
    rng, sample = (
        np.random.default_rng(2),
        sampler("random_clips", 4, num_clips=4, frame_interval=3),
    )
    starts = np.stack([sample(51, rng)[:, 0] for _ in range(num_draws)])  # 40 starts, 10 per clip
    for clip, column in enumerate(starts.T):
        assert_uniform(column - 10 * clip, 10, 4.75)
    assert np.abs(np.corrcoef(starts.T) - np.eye(num_clips)).max() < 0.08


def test_clips_are_drawn_with_repetition_where_starts_are_fewer_than_clips():
    rng, sample = (
        np.random.default_rng(2),
        sampler("random_clips", 4, num_clips=5, frame_interval=3),
    )
    starts = np.stack([sample(14, rng)[:, 0] for _ in range(1000)])  # 3 starts
    assert (np.diff(starts) >= 0).all()
    assert_uniform(starts.ravel(), 3, 4.75)


def test_the_last_dense_window_is_never_drawn_but_tested():
    rng = np.random.default_rng(0)
    for num_frames, largest in ((64, 0), (65, 0), (66, 1), (70, 5)):
        starts = {int(sampler("random_dense")(num_frames, rng)[0, 0]) for _ in range(200)}
        assert starts == set(range(largest + 1))
        last = clip_indices(num_frames, 8, "dense", num_clips=10)[-1, 0]
        assert last == max(num_frames - 64, 0)


def test_sample_range_sets_the_step_of_dense_windows():
    found = clip_indices(100, 8, "dense", num_clips=3, sample_range=16)
    assert found[:, 0].tolist() == [0, 42, 84]
    assert (np.diff(found) == 2).all()


@pytest.mark.parametrize("name", sampling.SAMPLINGS)
@pytest.mark.parametrize("num_segments", [1, 3, 8])
@pytest.mark.parametrize("num_clips", [1, 2, 5])
def test_indices_lie_inside_the_video_however_short(name, num_segments, num_clips):
    several = dict(num_clips=num_clips) if name in ("clips", "random_clips", "dense") else {}
    apart = dict(frame_interval=5) if "clips" in name else {}
    for num_frames in range(1, 80):
        for bound in ("loop", "repeat_last") if apart else ("loop",):
            found = clip_indices(
                num_frames, num_segments, name, **several, **apart, out_of_bound=bound
            )
            assert len(found) == (2 if name == "twice" else several.get("num_clips", 1))
            assert found.min() >= 0
            assert found.max() < num_frames


@pytest.mark.parametrize("name", sampling.SAMPLINGS)
def test_reversed_order_has_the_same_frames_backwards(name):
    forward, backward = (clip_indices(370, 8, name, order) for order in ("forward", "reversed"))
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
        (dict(sampling="centre"), r"sampling='centre'.*random, center, twice, random_clips, clips"),
        (dict(frame_order="backward"), r"frame_order='backward'.*forward, reversed, shuffled"),
        (dict(num_segments=0), r"num_segments=0"),
        (dict(num_clips=0), r"num_clips=0 must be at least 1"),
        (dict(sampling="clips", frame_interval=0), r"frame_interval=0 must be at least 1"),
        (dict(sampling="clips", clip_positions="start"), "'start'.*ends, middles"),
        (dict(sampling="clips", out_of_bound="stop"), "'stop'.*loop, repeat_last"),
        (dict(short_videos="zeros"), "'zeros'.*spread, first"),
        (dict(num_clips=10), "num_clips=10 means nothing.*'random_clips' or 'clips' or 'dense'"),
        (dict(sampling="twice", num_clips=2), "num_clips=2 means nothing for sampling='twice'"),
        (dict(frame_interval=8), "frame_interval=8 means nothing for sampling='center'"),
        (dict(sampling="random_clips", clip_positions="middles"), "needs sampling 'clips'"),
        (dict(sampling="clips", short_videos="first"), "leave short_videos at 'spread'"),
        (dict(sampling="dense", num_segments=65), "sample_range=64.*num_segments=65"),
    ],
)
def test_wrong_values_are_named(wrong, named):
    right = dict(sampling="center", frame_order="forward", num_segments=8)
    sampling.ClipSampler(**right)
    with pytest.raises(UserError, match=named):
        sampling.ClipSampler(**right | wrong)
