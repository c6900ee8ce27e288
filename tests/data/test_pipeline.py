"""Batches: the same from any number of threads, processes and hosts, and from any start."""

import dataclasses
import itertools
import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import simplejpeg
from absl import flags

from trn_jax.data import annotations, augment, decode, pipeline
from trn_jax.data.decode import FrameError
from trn_jax.data.reader import VideoReader
from trn_jax.data.views import View
from trn_jax.errors import PassingError, UserError
from trn_jax.training.signals import STOP_SIGNALS

NUM_VIDEOS = 11
VIEW = dict(
    num_segments=3,
    sampling="random",
    frame_order="forward",
    short_side=20,
    crop="multi_scale",
    crop_size=16,
    scales=(1, 0.875, 0.75),
    num_positions=5,
    flip_rate=0.5,
    flip_labels=True,
)
FOLDERS = decode.FrameFolders(pattern="{:05d}.jpg", first_frame=1)
EVAL = VIEW | dict(sampling="center", crop="center", flip_rate=0)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"))


def write_videos(path):
    """Eleven videos of 5 to 15 frames; the frames of one are noise of its own on its own grey."""
    rng = np.random.default_rng(0)
    lines = []
    for video in range(NUM_VIDEOS):
        num_frames = 5 + video
        (path / f"v{video}").mkdir()
        for number in range(1, num_frames + 1):
            frame = rng.integers(20 * video, 20 * video + 20, (24, 32, 3)).astype(np.uint8)
            data = simplejpeg.encode_jpeg(frame, quality=90, colorspace="RGB")
            (path / f"v{video}" / f"{number:05d}.jpg").write_bytes(data)
        lines.append(f"v{video} {num_frames} {video % 4}\n")
    (path / "list.txt").write_text("".join(lines))
    return path


def read_records(root):
    return annotations.read_list(root / "list.txt", frames_root=root, num_classes=4)


def make_reader(root, view=VIEW, source=FOLDERS, **changes):
    options = dict(
        seed=7,
        label_map={0: 1, 1: 0},
        exact_resize=False,
        on_error="raise",
        num_threads=2,
    )
    return pipeline.BatchReader(read_records(root), View(**view), source, **options | changes)


def take(batches, count):
    """The first batches of an iterator, which is closed."""
    try:
        return list(itertools.islice(batches, count))
    finally:
        batches.close()


def train(reader, count, batch=4, seed=3, **options):
    return take(pipeline.train_batches(reader, batch=batch, seed=seed, **options), count)


def make_video_reader(views):
    parsed = {name: View(**view) for name, view in views.items()}
    return VideoReader(parsed, FOLDERS, seed=7)


def evaluate(root, *, views=None, **options):
    """What is read of the videos of this host."""
    reader = make_video_reader(views or {"one": EVAL})
    return take(iter(pipeline.EvalVideos(reader, read_records(root), **options)), 1000)


def clips_of(video, name="one"):
    """The clips `[num_views, ...]` of one view."""
    shape, looks = video["views"][name]
    clips = video["clips"][shape]
    return np.stack([np.flip(clips[n], 2) if mirrored else clips[n] for n, mirrored in looks])


def clips_by_hand(view, record, source=FOLDERS):
    """All clips of a video, crop first, then clip."""
    indices = view.sampler()(record.num_frames, None)
    with source.open(record) as video:
        frames = video.read(indices.ravel())
    crop = view.cropping(exact=True)
    out = np.empty((crop.num_crops, len(frames), crop.size, crop.size, 3), np.uint8)
    scaled = [augment.resize_short_side(frame, crop.scaled_to) for frame in frames]
    for (box, mirrored), clip in zip(crop.boxes(*scaled[0].shape[:2]), out, strict=True):
        for frame, target in zip(scaled, clip, strict=True):
            augment.cut(frame, box, mirrored, target)
    return out.reshape(view.num_views, view.num_segments, *out.shape[2:])


def assert_same_videos(found, expected):
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        assert a["example"] == b["example"]
        assert a["views"].keys() == b["views"].keys()
        for name in b["views"]:
            np.testing.assert_array_equal(clips_of(a, name), clips_of(b, name))


def assert_equal(found, expected):
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        for key in b:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def join_hosts(*hosts):
    """The global batches that the parts of several hosts make up."""
    return [
        {
            key: sum((part[key] for part in parts), ())
            if key == "problems"
            else np.concatenate([part[key] for part in parts])
            for key in parts[0]
        }
        for parts in zip(*hosts, strict=True)
    ]


# The same batches


@pytest.fixture(scope="module")
def reference(root):
    """The first ten global batches, read by one thread: more than three epochs."""
    return train(make_reader(root, num_threads=1), 10)


def test_batches_have_the_documented_types(reference):
    batch = reference[0]
    assert batch["clip"].dtype == np.uint8 and batch["clip"].shape == (4, 3, 16, 16, 3)
    for key, dtype in (("label", np.int32), ("example", np.int32)):
        assert batch[key].dtype == dtype and batch[key].shape == (4,)
    assert batch["problems"] == ()


def test_batches_show_the_videos_they_name(reference):
    for batch in reference:
        grey = batch["clip"].mean((1, 2, 3, 4))
        np.testing.assert_allclose(grey, 20 * batch["example"] + 9.5, atol=5)


@pytest.mark.smoke
@pytest.mark.parametrize("num_threads", [2, 5])
def test_batches_do_not_depend_on_the_number_of_threads(root, reference, num_threads):
    assert_equal(train(make_reader(root, num_threads=num_threads), 10), reference)


@pytest.mark.parametrize("num_hosts", [2, 4])  # with 4, every host has batches of one clip
def test_batches_do_not_depend_on_the_number_of_hosts(root, reference, num_hosts):
    hosts = [
        train(make_reader(root), 10, host=host, num_hosts=num_hosts) for host in range(num_hosts)
    ]
    assert hosts[0][0]["label"].shape == (4 // num_hosts,)
    assert_equal(join_hosts(*hosts), reference)


@pytest.mark.parametrize("first_batch", [1, 3, 7])
def test_batches_do_not_depend_on_where_a_run_starts(root, reference, first_batch):
    assert_equal(
        train(make_reader(root), 10 - first_batch, first_batch=first_batch),
        reference[first_batch:],
    )
    second = train(make_reader(root), 3, first_batch=first_batch, host=1, num_hosts=2)
    for part, whole in zip(second, reference[first_batch:], strict=False):
        np.testing.assert_array_equal(part["clip"], whole["clip"][2:])


def test_batches_do_not_depend_on_worker_processes(root, reference):
    flags.FLAGS.mark_as_parsed()
    assert_equal(train(make_reader(root), 10, num_workers=2), reference)
    assert_same_videos(evaluate(root, num_workers=2, num_threads=2), evaluate(root))


def test_fast_decoding_hardly_changes_what_training_sees_and_nothing_else(root):
    (exact,), (fast,) = (
        train(make_reader(root, fast_decode=fast_decode), 1) for fast_decode in (False, True)
    )
    difference = np.abs(exact["clip"].astype(int) - fast["clip"])
    assert 0 < difference.mean() < 2
    for key in ("label", "example", "problems"):
        np.testing.assert_array_equal(exact[key], fast[key])


def test_both_seeds_matter(root, reference):
    """The order is drawn from one, the augmentation from the other."""
    (other_order,) = train(make_reader(root), 1, seed=4)
    assert (other_order["example"] != reference[0]["example"]).any()
    (other_crops,) = train(make_reader(root, seed=8), 1)
    np.testing.assert_array_equal(other_crops["example"], reference[0]["example"])
    assert (other_crops["clip"] != reference[0]["clip"]).any()


# Epochs


def test_an_epoch_has_every_example_once_in_an_order_of_its_own(reference):
    stream = np.concatenate([batch["example"] for batch in reference])
    epochs = stream[: 3 * NUM_VIDEOS].reshape(3, NUM_VIDEOS)
    for epoch in epochs:
        assert sorted(epoch) == list(range(NUM_VIDEOS))
        assert list(epoch) != sorted(epoch)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_an_example_is_augmented_anew_in_every_epoch(reference):
    clips = {video: [] for video in range(NUM_VIDEOS)}
    for batch in reference:
        for clip, example in zip(batch["clip"], batch["example"], strict=True):
            clips[int(example)].append(clip.tobytes())
    for versions in clips.values():
        assert len(versions) >= 3
        assert len(set(versions)) == len(versions)


def test_labels_are_mirrored_with_the_clips_and_only_those_of_the_map(reference):
    seen = set()
    for batch in reference:
        seen |= set(zip((batch["example"] % 4).tolist(), batch["label"].tolist(), strict=True))
    assert seen == {(0, 0), (0, 1), (1, 1), (1, 0), (2, 2), (3, 3)}


@pytest.mark.thorough
def test_classes_are_drawn_equally_often_where_asked_for(root):
    """The list has 3 videos of each of the classes 0, 1, 2 and 2 of class 3."""
    reader = make_reader(root, VIEW | dict(flip_rate=0))
    batches = train(reader, 30, batch=8, balanced=True)
    labels = np.concatenate([batch["label"] for batch in batches])
    assert np.bincount(labels).tolist() == [60] * 4
    for batch in batches:
        assert np.bincount(batch["label"]).tolist() == [2] * 4
    examples = np.concatenate([batch["example"] for batch in batches])
    counts = np.bincount(examples, minlength=NUM_VIDEOS)
    assert counts[[3, 7]].tolist() == [30, 30] and set(np.delete(counts, [3, 7])) == {20}
    # A video that comes again is cut anew, and the stream can be entered anywhere.
    clips = [
        batch["clip"][row] for batch in batches for row in np.flatnonzero(batch["example"] == 3)
    ]
    assert len({clip.tobytes() for clip in clips}) > 20
    assert_equal(train(reader, 5, batch=8, balanced=True, first_batch=7), batches[7:12])
    parts = [train(reader, 5, batch=8, balanced=True, host=h, num_hosts=2) for h in range(2)]
    for whole, *halves in zip(batches, *parts, strict=False):
        np.testing.assert_array_equal(
            np.concatenate([half["example"] for half in halves]), whole["example"]
        )


# Evaluation


# Evaluation


@pytest.mark.smoke
@pytest.mark.parametrize(("num_hosts", "num_threads"), [(1, 1), (1, 3), (2, 1), (3, 2), (16, 1)])
def test_evaluation_covers_the_list_once_whatever_the_hosts(root, num_hosts, num_threads):
    options = dict(num_hosts=num_hosts, num_threads=num_threads)
    hosts = [evaluate(root, host=host, **options) for host in range(num_hosts)]
    for host, videos in enumerate(hosts):
        expected = list(range(host, NUM_VIDEOS, num_hosts))
        assert [video["example"] for video in videos] == expected
    found = sorted(itertools.chain(*hosts), key=lambda video: video["example"])
    # The batches of training, which are read by other code, show the same.
    reader = make_reader(root, EVAL)
    for video, record in zip(found, reader.records, strict=True):
        np.testing.assert_array_equal(clips_of(video), reader([(0, record)])["clip"])


def test_evaluation_is_repeatable_also_with_shuffled_frames(root):
    shuffled = {"one": EVAL | dict(frame_order="shuffled")}
    first, again = (evaluate(root, views=shuffled) for _ in range(2))
    assert_same_videos(first, again)
    assert (clips_of(first[0]) != clips_of(evaluate(root)[0])).any()


THREE = EVAL | dict(crop="three", short_side=16)
TEN = EVAL | dict(crop="ten")
COLOURED = TEN | dict(color_jitter=(0.5, 0.5, 0.5, 0.1))
PROTOCOLS = {
    "efficient": EVAL,
    "accurate": THREE | dict(sampling="twice"),
    "1x10": TEN,
    "again": TEN | dict(merge_views="logits"),
    "coloured": COLOURED,
    "shuffled": EVAL | dict(frame_order="shuffled"),
    "5x10": TEN | dict(num_segments=5),
    "dense": THREE | dict(sampling="dense", num_clips=4, sample_range=6),
    "large": EVAL | dict(short_side=24, crop_size=20),
}


def test_views_that_are_read_together_show_what_each_shows_alone(root):
    together = evaluate(root, views=PROTOCOLS)
    for name, view in PROTOCOLS.items():
        alone = evaluate(root, views={name: view})
        for video, single, record in zip(together, alone, read_records(root), strict=True):
            np.testing.assert_array_equal(clips_of(video, name), clips_of(single, name))
            if name not in ("coloured", "shuffled"):  # these draw
                clips = clips_by_hand(View(**view), record)
                np.testing.assert_array_equal(clips_of(video, name), clips)


def test_no_clip_is_cut_twice_for_several_views(root):
    (video, *_) = evaluate(root, views=PROTOCOLS)
    for clips in video["clips"]:
        assert len({clip.tobytes() for clip in clips}) == len(clips)
    shapes = range(len(video["clips"]))
    looks = {
        (video["views"][name][0], *look) for name in PROTOCOLS for look in video["views"][name][1]
    }
    assert looks == {
        (shape, number, mirrored)
        for shape in shapes
        for number, seen in enumerate(video["seen"][shape])
        for mirrored in seen
    }
    assert video["num_clips"] == len(looks)
    assert [len(seen) for seen in video["seen"]] == [len(clips) for clips in video["clips"]]
    for name, view in PROTOCOLS.items():
        assert len(video["views"][name][1]) == View(**view).num_views
    shape, looks = video["views"]["1x10"]
    assert video["views"]["again"] == (shape, looks)
    numbers = [number for number, mirrored in looks if not mirrored]
    assert len(set(numbers)) == 5
    assert looks == [(number, mirrored) for number in numbers for mirrored in (False, True)]
    # The frames are 20 x 27 pixels: the middle of ten crops is at 2 * ((27 - 16) // 4) = 4 pixels,
    # the centre crop at 5.
    assert video["views"]["efficient"][1][0] not in looks
    even = {"one": EVAL | dict(short_side=24), "ten": TEN | dict(short_side=24)}  # 24 x 32 pixels
    (video, *_) = evaluate(root, views=even)
    assert (video["num_clips"], len(video["clips"][0])) == (10, 5)


def test_every_frame_is_decoded_once_for_all_views(root, monkeypatch):
    decoded = []
    decode_image = decode.decode_image

    def counted(data, name, *others):
        decoded.append(name)
        return decode_image(data, name, *others)

    monkeypatch.setattr(decode, "decode_image", counted)
    evaluate(root, views=PROTOCOLS)
    assert len(decoded) == len(set(decoded))
    wanted = set()
    for view in PROTOCOLS.values():
        for record in read_records(root):
            frames = View(**view).sampler()(record.num_frames, np.random.default_rng(0))
            wanted |= {f"{record.path}/{frame + 1:05d}.jpg" for frame in frames.flat}
    assert set(decoded) == wanted


@pytest.mark.parametrize("num_clips", [1, 7, 16, 1000])
def test_clips_are_packed_whatever_video_they_are_of(root, num_clips):
    videos = {video["example"]: video for video in evaluate(root, views=PROTOCOLS)}
    seen = {}
    batches = list(
        pipeline.clip_batches(
            iter(pipeline.EvalVideos(make_video_reader(PROTOCOLS), read_records(root))), num_clips
        )
    )
    begun = [video["example"] for batch in batches for video in batch["videos"]]
    assert begun == list(range(NUM_VIDEOS))
    for batch in batches:
        rows = batch["rows"]
        assert len(batch["clip"]) == len(batch["example"]) == num_clips >= len(rows) > 0
        assert not batch["clip"][len(rows) :].any()
        for row, (example, shape, number) in enumerate(rows):
            assert batch["example"][row] == example
            np.testing.assert_array_equal(
                batch["clip"][row], videos[example]["clips"][shape][number]
            )
            assert videos[example]["seen"][shape][number] == batch["seen"]
            seen[example, shape, number] = len(batch["seen"])
    assert sum(seen.values()) == sum(video["num_clips"] for video in videos.values())
    assert len(seen) == sum(len(batch["rows"]) for batch in batches)
    kinds = {(batch["rows"][0][1], batch["seen"]) for batch in batches}
    assert sum(len(batch["rows"]) < num_clips for batch in batches) <= len(kinds) <= 5


def test_packing_closes_the_loader_when_it_is_left(root):
    videos = iter(pipeline.EvalVideos(make_video_reader({"one": EVAL}), read_records(root)))
    batches = pipeline.clip_batches(videos, 2)
    next(batches)
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)


def test_random_crops_do_not_evaluate():
    with pytest.raises(UserError, match=r"val\.crop='multi_scale' is random.*'center', 'three'"):
        make_video_reader({"efficient": EVAL, "val": VIEW})


def test_views_are_ordered_crop_first_then_clip(root):
    changes = dict(sampling="twice", crop="three", short_side=16)
    views = clips_of(evaluate(root, views={"one": EVAL | changes})[6])
    one = clips_of(evaluate(root, views={"one": EVAL | changes | dict(sampling="center")})[6])
    assert views.shape == (6, 3, 16, 16, 3)
    for crop in range(3):
        np.testing.assert_array_equal(views[2 * crop], one[crop])
        assert (views[2 * crop + 1] != views[2 * crop]).any()


@pytest.mark.parametrize(
    ("changes", "num_views"),
    [
        (dict(), 1),
        (dict(crop="ten"), 10),
        (dict(sampling="twice"), 2),
        (dict(sampling="twice", crop="ten"), 20),
        (dict(sampling="clips", num_clips=4, frame_interval=2, crop="ten"), 40),
        (dict(sampling="clips", num_clips=10, frame_interval=8, crop="three", short_side=16), 30),
        (dict(sampling="dense", num_clips=10), 10),
    ],
)
def test_num_views_is_clips_times_crops(root, changes, num_views):
    assert View(**EVAL | changes).num_views == num_views
    for video in evaluate(root, views={"one": EVAL | changes}):
        assert clips_of(video).shape == (num_views, 3, 16, 16, 3)


@pytest.mark.parametrize(
    "changes",
    [
        dict(sampling="clips", num_clips=4, frame_interval=2),
        dict(sampling="clips", num_clips=4, frame_interval=8, out_of_bound="repeat_last"),
        dict(sampling="dense", num_clips=4, sample_range=6),
    ],
)
def test_views_of_several_clips_show_the_frames_that_were_chosen(root, changes):
    """View `crop * num_clips + clip`, in which the frames of a clip are one after the other."""
    three = dict(crop="three", short_side=16)
    view, record = View(**EVAL | three | changes), read_records(root)[10]
    views = clips_of(evaluate(root, views={"one": EVAL | three | changes})[10])
    chosen = view.sampler()(record.num_frames, None)
    assert chosen.shape == (4, 3) and len(np.unique(chosen)) > 1
    # Every frame for itself, as a video of one frame, in its three crops.
    for clip, frames in enumerate(chosen):
        for position, frame in enumerate(frames):
            later = dataclasses.replace(FOLDERS, first_frame=1 + frame)
            one = View(**EVAL | three | dict(num_segments=1))
            crops = clips_by_hand(one, dataclasses.replace(record, num_frames=1), later)
            for crop in range(3):
                np.testing.assert_array_equal(views[4 * crop + clip, position], crops[crop, 0])


# Training with other crops and colours


TPN = dict(
    sampling="random_clips",
    frame_interval=2,
    short_side=0,
    crop="random_resized",
    color_jitter=(0.5, 0.5, 0.5, 0.1),
)


@pytest.mark.parametrize(
    "changes", [TPN, dict(sampling="random_dense", sample_range=6), dict(short_side=0)]
)
def test_other_training_views_are_a_function_of_seed_and_batch_too(root, reference, changes):
    view = VIEW | changes
    found = train(make_reader(root, view, num_threads=1), 4)
    assert_equal(train(make_reader(root, view, num_threads=3), 4), found)
    assert_equal(train(make_reader(root, view), 2, first_batch=2), found[2:])
    for batch, whole in zip(found, reference, strict=False):
        assert batch["clip"].shape == whole["clip"].shape
        np.testing.assert_array_equal(batch["example"], whole["example"])
        assert (batch["clip"] != whole["clip"]).any()


def test_colors_change_but_nothing_else_does(root, reference):
    found = train(make_reader(root, VIEW | dict(color_jitter=(0.5, 0, 0, 0))), 10)
    ratios = []
    for batch, whole in zip(found, reference, strict=True):
        np.testing.assert_array_equal(batch["label"], whole["label"])
        for clip, plain, example in zip(
            batch["clip"], whole["clip"], batch["example"], strict=True
        ):
            if 1 < example < 7:  # dark enough to get lighter, light enough to be told from black
                frames = clip.mean((1, 2, 3)) / plain.mean((1, 2, 3))
                assert np.ptp(frames) < 0.03  # all frames of a clip alike
                ratios.append(frames.mean())
    assert min(ratios) < 0.7 and max(ratios) > 1.3


def test_validation_is_coloured_only_where_it_is_asked_for_and_repeatably(root):
    first, again = (evaluate(root, views={"one": COLOURED}) for _ in range(2))
    assert_same_videos(first, again)
    plain = evaluate(root, views={"one": TEN})
    changed = [
        (clips_of(a) != clips_of(b)).mean() for a, b in zip(first[1:], plain[1:], strict=True)
    ]
    assert min(changed) > 0.9  # video 0 is nearly black


# Videos that cannot be read


@pytest.fixture
def damaged(root, tmp_path):
    """The same videos, of which number 10 is missing and 4 has broken frames."""
    for line in (root / "list.txt").read_text().splitlines():
        name = line.split()[0]
        if name == "v4":
            (tmp_path / name).mkdir()
            for frame in (root / name).iterdir():
                (tmp_path / name / frame.name).write_bytes(frame.read_bytes()[:200])
        elif name != "v10":
            (tmp_path / name).symlink_to(root / name)
    (tmp_path / "list.txt").write_text((root / "list.txt").read_text())
    return tmp_path


def test_a_video_that_cannot_be_read_ends_the_run_with_its_name(damaged):
    reader = make_reader(damaged, EVAL)
    with pytest.raises(FrameError, match=f"cannot decode {damaged}/v4/"):
        reader([(0, reader.records[3]), (0, reader.records[4])])
    with pytest.raises(FrameError, match=f"{damaged}/v4/"):
        evaluate(damaged)


def test_skipping_replaces_a_video_by_the_next_and_says_so(root, damaged):
    batch, whole = (
        reader([(0, record) for record in reader.records])
        for reader in (make_reader(damaged, EVAL, on_error="skip"), make_reader(root, EVAL))
    )
    good = [v for v in range(NUM_VIDEOS) if v not in (4, 10)]
    for key in ("clip", "label", "example"):
        np.testing.assert_array_equal(batch[key][good], whole[key][good])
    for bad, taken in ((4, 5), (10, 0)):
        np.testing.assert_array_equal(batch["clip"][bad], whole["clip"][taken])
        assert batch["label"][bad] == whole["label"][taken]
    first, second = batch["problems"]
    assert f"cannot decode {damaged}/v4/" in first
    assert f"folder {damaged}/v10 not found" in second


def test_skipping_is_deterministic_and_leaves_other_rows_as_they_were(damaged, reference):
    found = train(make_reader(damaged, on_error="skip"), 10)
    for num_threads in (1, 4):
        again = train(make_reader(damaged, on_error="skip", num_threads=num_threads), 10)
        assert_equal(again, found)
    num_problems = 0
    for batch, whole in zip(found, reference, strict=True):
        np.testing.assert_array_equal(batch["example"], whole["example"])
        good = ~np.isin(whole["example"], (4, 10))
        np.testing.assert_array_equal(batch["clip"][good], whole["clip"][good])
        np.testing.assert_array_equal(batch["label"][good], whole["label"][good])
        assert (batch["clip"][~good] != whole["clip"][~good]).any() or good.all()
        assert len(batch["problems"]) == (~good).sum()
        num_problems += len(batch["problems"])
    assert num_problems >= 6  # two in each of three epochs


def test_a_replacement_is_not_augmented_as_in_its_own_turn(damaged):
    reader = make_reader(damaged, on_error="skip")
    batch = reader([(0, reader.records[4]), (0, reader.records[5])])
    grey = batch["clip"].mean((1, 2, 3, 4))
    np.testing.assert_allclose(grey, 20 * 5 + 9.5, atol=5)  # both are video 5
    assert (batch["clip"][0] != batch["clip"][1]).any()


def test_a_missing_folder_of_many_videos_does_not_end_the_training(root):
    reader = make_reader(root, EVAL, on_error="skip")
    there = reader.records[3]
    gone = [dataclasses.replace(there, path=f"{root}/gone/{i}", index=i) for i in range(400)]
    more = [dataclasses.replace(there, index=i) for i in range(400, 600)]
    reader.records = gone + more
    entries = [(0, record) for record in gone[:30]]
    batch = reader(entries)
    assert len(batch["problems"]) == 30 and (batch["example"] >= 0).all()
    np.testing.assert_array_equal(batch["clip"], reader(entries)["clip"])


def test_skipping_ends_when_nothing_can_be_read(root, tmp_path):
    (tmp_path / "list.txt").write_text((root / "list.txt").read_text())
    reader = make_reader(tmp_path, EVAL, on_error="skip")
    with pytest.raises(UserError, match=rf"none of the 11 videos from {tmp_path}/v2 on"):
        reader([(0, reader.records[2])])


# Wrong values


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (dict(sampling="sparse"), "sampling='sparse'.*random_dense, dense"),
        (dict(num_clips=10), "num_clips=10 means nothing for sampling='random'"),
        (dict(crop="random_resized", area_range=(0, 1)), "area_range"),
        (dict(crop="random_resized", aspect_ratio_range=(2, 1)), "aspect_ratio_range"),
        (dict(color_jitter=(0.5, 0.5)), r"color_jitter=\(0.5, 0.5\) must be four numbers"),
        (dict(color_jitter=(0.5, 0.5, 0.5, 25)), "hue in 0..0.5"),
        (dict(short_side=0, crop="center", flip_rate=0), "short_side=0.*crop='center'"),
        (dict(frame_order="backward"), "frame_order='backward'"),
        (dict(num_segments=0), "num_segments=0"),
        (dict(crop="five"), "crop='five'.*multi_scale, random_resized, center, three, ten"),
        (dict(num_positions=9), "num_positions=9"),
        (dict(scales=(1, 1.5)), r"scales=\(1, 1\.5\)"),
        (dict(flip_rate=1.5), r"flip_rate=1\.5"),
        (dict(flip_rate=-0.1), r"flip_rate=-0\.1"),
        (
            dict(crop="center"),
            r"flip_rate=0\.5 needs a random crop.*'random_resized'; crop='center'",
        ),
        (dict(crop="center", flip_rate=0, crop_size=21), "21 pixels.*20"),
        (dict(crop="three", flip_rate=0), "16 and 20"),
    ],
)
def test_wrong_views_are_named(wrong, named):
    View(**VIEW)
    with pytest.raises(UserError, match=named):
        View(**VIEW | wrong)


def test_an_unknown_way_with_errors_is_named(root):
    with pytest.raises(UserError, match=r"data\.on_error='ignore'.*'raise' nor 'skip'"):
        make_reader(root, on_error="ignore")


# Processes


READ_A_BATCH = """
import pathlib, sys
from trn_jax.data import annotations, augment, datasets, decode, pipeline, sampling, views
root = pathlib.Path({root!r})
records = annotations.read_list(root / "list.txt", frames_root=root, num_classes=4)
reader = pipeline.BatchReader(
    records, views.View(**{view!r}), decode.FrameFolders(pattern="{{:05d}}.jpg", first_frame=1),
    seed=0, label_map={{}}, exact_resize=False, on_error="raise", num_threads=1,
)
batches = pipeline.train_batches(reader, batch=2, seed=0)
assert next(batches)["clip"].shape == (2, 3, 16, 16, 3)
batches.close()
"""


def run_python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_reading_needs_neither_jax_nor_flax(root):
    blocked = "import sys\nfor name in ('jax', 'jaxlib', 'flax'): sys.modules[name] = None\n"
    run_python(blocked + READ_A_BATCH.format(root=str(root), view=VIEW))


def test_reading_opens_no_accelerator(root):
    """Grain imports jax where it finds it, which is harmless as long as nobody uses it."""
    asked = (
        "from jax._src import xla_bridge\n"
        "print(xla_bridge.backends_are_initialized(), 'flax' in sys.modules)"
    )
    assert run_python(READ_A_BATCH.format(root=str(root), view=VIEW) + asked) == ["False", "False"]


@pytest.mark.parametrize("name", ["annotations", "augment", "datasets", "decode", "sampling"])
def test_everything_below_the_pipeline_imports_neither_jax_nor_grain(name):
    code = f"import sys, trn_jax.data.{name}\n"
    asked = "print(*{'jax', 'flax', 'grain'}.intersection(sys.modules))"
    assert run_python(code + asked) == []


TRAINER = """
import json, multiprocessing, sys, time
from absl import flags
sys.path.insert(0, {here!r})
import pathlib, test_pipeline
from trn_jax.data import pipeline

if __name__ == "__main__":
    flags.FLAGS.mark_as_parsed()
    reader = test_pipeline.make_reader(pathlib.Path({root!r}), on_error="raise")
    batches = pipeline.train_batches(reader, batch={batch}, seed=0, num_workers=2)
    for _ in range(2):  # one of each worker
        next(batches)
    print(json.dumps([child.pid for child in multiprocessing.active_children()]), flush=True)
    time.sleep(600)
"""


def is_alive(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def shared_memory(num_bytes):
    """Blocks of shared memory of a batch's size."""
    found = set()
    for entry in pathlib.Path("/dev/shm").iterdir():
        try:
            if entry.stat().st_size == num_bytes:
                found.add(entry.name)
        except FileNotFoundError:
            continue
    return found


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc and /dev/shm")
def test_worker_processes_end_with_a_killed_trainer_and_leave_no_shared_memory(root, tmp_path):
    # Whose clips have a size that no other program's shared memory has, nor this test's elsewhere.
    batch = 40 + os.getpid() % 60
    num_bytes = batch * 3 * 16 * 16 * 3
    script = tmp_path / "trainer.py"
    here = os.path.dirname(__file__)
    script.write_text(TRAINER.format(here=here, root=str(root), batch=batch))
    before = shared_memory(num_bytes)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as trainer:
        workers = []
        try:
            workers = json.loads(trainer.stdout.readline())
            assert len(workers) == 2 and all(map(is_alive, workers))
            assert wait_for(lambda: shared_memory(num_bytes) > before)
        finally:
            trainer.send_signal(signal.SIGKILL)
    try:
        assert wait_for(lambda: not any(map(is_alive, workers)))
        assert wait_for(lambda: shared_memory(num_bytes) <= before)
    finally:
        for pid in filter(is_alive, workers):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.by_default("False-9")
@pytest.mark.parametrize(("evaluates", "signum"), [(False, signal.SIGKILL), (True, signal.SIGSEGV)])
def test_a_killed_worker_process_is_told_and_does_not_hang(root, evaluates, signum):
    flags.FLAGS.mark_as_parsed()
    others = set(multiprocessing.active_children())
    if evaluates:
        records = read_records(root) * 50
        reading = make_video_reader({"one": EVAL})
        batches = iter(pipeline.EvalVideos(reading, records, num_workers=2))
    else:
        batches = pipeline.train_batches(make_reader(root), batch=4, seed=0, num_workers=2)
    try:
        next(batches)
        workers = set(multiprocessing.active_children()) - others
        assert len(workers) == 2
        os.kill(min(worker.pid for worker in workers), signum)
        with pytest.raises(PassingError, match=rf"died \(exit code -{int(signum)}.*num_workers=0"):
            for _ in batches:
                pass
    finally:
        batches.close()
    assert wait_for(lambda: not any(worker.is_alive() for worker in workers))


def test_worker_processes_stay_for_the_next_pass(root):
    flags.FLAGS.mark_as_parsed()
    others = set(multiprocessing.active_children())
    expected = [video["example"] for video in evaluate(root)]
    videos = pipeline.EvalVideos(
        make_video_reader({"one": EVAL}), read_records(root), num_workers=2
    )
    seen = []
    try:
        for _ in range(3):
            assert [video["example"] for video in videos] == expected
            seen.append(set(multiprocessing.active_children()) - others)
        assert len(seen[0]) == 2 and seen[0] == seen[1] == seen[2]
        given_up = iter(videos)
        assert next(given_up)["example"] == expected[0]
        given_up.close()
        assert wait_for(lambda: not any(worker.is_alive() for worker in seen[0]))
        assert [video["example"] for video in videos] == expected
    finally:
        videos.close()
    assert wait_for(lambda: set(multiprocessing.active_children()) <= others)


@pytest.mark.thorough
def test_worker_processes_leave_signals_to_the_trainer(root):
    """Ctrl-C reaches all processes, and the trainer may need batches to come to its end."""
    flags.FLAGS.mark_as_parsed()
    others = set(multiprocessing.active_children())
    batches = pipeline.train_batches(make_reader(root), batch=4, seed=0, num_workers=2)
    try:
        for _ in range(2):  # one of each: both have begun
            next(batches)
        workers = set(multiprocessing.active_children()) - others
        for worker in workers:
            for number in STOP_SIGNALS:
                os.kill(worker.pid, number)
        for _ in range(20):
            next(batches)
        assert len(workers) == 2 and all(worker.is_alive() for worker in workers)
    finally:
        batches.close()
    assert wait_for(lambda: not any(worker.is_alive() for worker in workers))


@pytest.mark.thorough
def test_a_video_that_cannot_be_read_is_named_by_worker_processes(damaged):
    flags.FLAGS.mark_as_parsed()
    with pytest.raises(FrameError, match=rf"{damaged}/v(4/|10 not found)"):
        train(make_reader(damaged), 12, num_workers=2)


def test_several_labels_become_zeros_and_ones_and_are_mirrored_together(root):
    records = [
        dataclasses.replace(record, label=(record.label, 3)) for record in read_records(root)
    ]
    view = View(**VIEW | dict(crop="multi_scale", flip_rate=1.0))
    reader = pipeline.BatchReader(
        records,
        view,
        FOLDERS,
        seed=7,
        label_map={0: 1, 1: 0},
        exact_resize=False,
        on_error="raise",
        num_threads=2,
        num_classes=4,
    )
    batch = reader([(0, records[0]), (0, records[2])])
    assert batch["label"].tolist() == [[0, 1, 0, 1], [0, 0, 1, 1]]
    assert batch["label"].dtype == np.float32
