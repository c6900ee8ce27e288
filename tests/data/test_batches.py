"""Training batches with unreadable videos and other views, and packed evaluation clips."""

import dataclasses

import numpy as np
import pytest
from grey_videos import (
    EVAL,
    FOLDERS,
    NUM_VIDEOS,
    PROTOCOLS,
    VIEW,
    assert_same_batches,
    batch_reader,
    eval_videos,
    evaluate,
    read_records,
    train,
)

from trn_jax.data import batches
from trn_jax.data.decode import FrameError
from trn_jax.data.views import View
from trn_jax.errors import UserError


def test_batches_have_the_documented_types(reference):
    batch = reference[0]
    assert batch["clip"].dtype == np.uint8 and batch["clip"].shape == (4, 3, 16, 16, 3)
    for key, dtype in (("label", np.int32), ("example", np.int32)):
        assert batch[key].dtype == dtype and batch[key].shape == (4,)
    assert batch["problems"] == ()


def test_batches_show_the_videos_they_name(reference):
    for batch in reference:
        mean = batch["clip"].mean((1, 2, 3, 4))
        np.testing.assert_allclose(mean, 20 * batch["example"] + 9.5, atol=5)


def test_fast_decoding_hardly_changes_what_training_sees_and_nothing_else(grey):
    (exact,), (fast,) = (
        train(batch_reader(grey, fast_decode=fast_decode), 1) for fast_decode in (False, True)
    )
    difference = np.abs(exact["clip"].astype(int) - fast["clip"])
    assert 0 < difference.mean() < 2
    for key in ("label", "example", "problems"):
        np.testing.assert_array_equal(exact[key], fast[key])


def test_labels_are_mirrored_with_the_clips_and_only_those_of_the_map(reference):
    seen = set()
    for batch in reference:
        seen |= set(zip((batch["example"] % 4).tolist(), batch["label"].tolist(), strict=True))
    assert seen == {(0, 0), (0, 1), (1, 1), (1, 0), (2, 2), (3, 3)}


def test_several_labels_become_zeros_and_ones_and_are_mirrored_together(grey):
    records = [
        dataclasses.replace(record, label=(record.label, 3)) for record in read_records(grey)
    ]
    view = View(**VIEW | dict(crop="multi_scale", flip_rate=1.0))
    options = dict(label_map={0: 1, 1: 0}, exact_resize=False, on_error="raise", num_threads=2)
    reader = batches.BatchReader(records, view, FOLDERS, seed=7, num_classes=4, **options)
    batch = reader([(0, records[0]), (0, records[2])])
    assert batch["label"].tolist() == [[0, 1, 0, 1], [0, 0, 1, 1]]
    assert batch["label"].dtype == np.float32


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
def test_other_training_views_are_a_function_of_seed_and_batch_too(grey, reference, changes):
    view = VIEW | changes
    found = train(batch_reader(grey, view, num_threads=1), 4)
    assert_same_batches(train(batch_reader(grey, view, num_threads=3), 4), found)
    assert_same_batches(train(batch_reader(grey, view), 2, first_batch=2), found[2:])
    for batch, whole in zip(found, reference, strict=False):
        assert batch["clip"].shape == whole["clip"].shape
        np.testing.assert_array_equal(batch["example"], whole["example"])
        assert (batch["clip"] != whole["clip"]).any()


def test_colors_change_but_nothing_else_does(grey, reference):
    found = train(batch_reader(grey, VIEW | dict(color_jitter=(0.5, 0, 0, 0))), 10)
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


def test_a_video_that_cannot_be_read_ends_the_run_with_its_name(corrupt):
    reader = batch_reader(corrupt, EVAL)
    with pytest.raises(FrameError, match=f"decode {corrupt}/v4/"):
        reader([(0, reader.records[3]), (0, reader.records[4])])
    with pytest.raises(FrameError, match=f"{corrupt}/v4/"):
        evaluate(corrupt)


def test_skipping_replaces_a_video_by_the_next_and_says_so(grey, corrupt):
    batch, whole = (
        reader([(0, record) for record in reader.records])
        for reader in (batch_reader(corrupt, EVAL, on_error="skip"), batch_reader(grey, EVAL))
    )
    good = [v for v in range(NUM_VIDEOS) if v not in (4, 10)]
    for key in ("clip", "label", "example"):
        np.testing.assert_array_equal(batch[key][good], whole[key][good])
    for bad, taken in ((4, 5), (10, 0)):
        np.testing.assert_array_equal(batch["clip"][bad], whole["clip"][taken])
        assert batch["label"][bad] == whole["label"][taken]
    first, second = batch["problems"]
    assert f"decode {corrupt}/v4/" in first
    assert f"folder {corrupt}/v10 not found" in second


def test_skipping_is_deterministic_and_leaves_other_rows_as_they_were(corrupt, reference):
    found = train(batch_reader(corrupt, on_error="skip"), 10)
    for num_threads in (1, 4):
        again = train(batch_reader(corrupt, on_error="skip", num_threads=num_threads), 10)
        assert_same_batches(again, found)
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


def test_a_replacement_is_not_augmented_as_in_its_own_turn(corrupt):
    reader = batch_reader(corrupt, on_error="skip")
    batch = reader([(0, reader.records[4]), (0, reader.records[5])])
    mean = batch["clip"].mean((1, 2, 3, 4))
    np.testing.assert_allclose(mean, 20 * 5 + 9.5, atol=5)  # both are video 5
    assert (batch["clip"][0] != batch["clip"][1]).any()


def test_a_missing_folder_of_many_videos_does_not_end_the_training(grey):
    reader = batch_reader(grey, EVAL, on_error="skip")
    there = reader.records[3]
    gone = [dataclasses.replace(there, path=f"{grey}/gone/{i}", index=i) for i in range(400)]
    more = [dataclasses.replace(there, index=i) for i in range(400, 600)]
    reader.records = gone + more
    entries = [(0, record) for record in gone[:30]]
    batch = reader(entries)
    assert len(batch["problems"]) == 30 and (batch["example"] >= 0).all()
    np.testing.assert_array_equal(batch["clip"], reader(entries)["clip"])


def test_skipping_ends_when_nothing_can_be_read(grey, tmp_path):
    (tmp_path / "list.txt").write_text((grey / "list.txt").read_text())
    reader = batch_reader(tmp_path, EVAL, on_error="skip")
    with pytest.raises(UserError, match=rf"none of the 11 videos from {tmp_path}/v2 on"):
        reader([(0, reader.records[2])])


def test_an_unknown_way_with_errors_is_named(grey):
    with pytest.raises(UserError, match=r"data\.on_error='ignore'.*'raise' nor 'skip'"):
        batch_reader(grey, on_error="ignore")


def test_a_batch_has_its_clips(grey, corrupt):
    """What was drawn, of the example or of its replacement, enough to cut the pixels again."""
    reader = batch_reader(corrupt, on_error="skip")
    batch = reader([(0, record) for record in reader.records])
    expected = list(range(NUM_VIDEOS))
    expected[4], expected[10] = 5, 0
    assert [clip.example for clip in batch["clips"]] == expected
    assert {clip.flip for clip in batch["clips"]} == {False, True}
    labels = [record.label for record in reader.records]
    for clip, label, pixels in zip(batch["clips"], batch["label"], batch["clip"], strict=True):
        before = labels[clip.example]
        assert label == ({0: 1, 1: 0}.get(before, before) if clip.flip else before)
        assert clip.shape == pixels.shape


@pytest.mark.parametrize("num_clips", [1, 7, 16, 1000])
def test_clips_are_packed_whatever_video_they_are_of(grey, num_clips):
    videos = evaluate(grey, PROTOCOLS)
    expected = {clip: pixels for video in videos for clip, pixels in video.pairs()}
    packed = list(batches.pack_clips(iter(eval_videos(grey, PROTOCOLS)), num_clips))
    for batch in packed:
        clips = batch["clips"]
        assert len(batch["clip"]) == len(batch["example"]) == num_clips >= len(clips) > 0
        assert not batch["clip"][len(clips) :].any()
        for clip, example, pixels in zip(clips, batch["example"], batch["clip"], strict=False):
            assert (clip.example, clip.flips) == (example, batch["flips"])
            np.testing.assert_array_equal(pixels, expected[clip])
    found = [clip for batch in packed for clip in batch["clips"]]
    assert len(found) == len(expected) and set(found) == expected.keys()
    kinds = {(clip.shape, clip.flips) for clip in found}
    assert sum(len(batch["clips"]) < num_clips for batch in packed) <= len(kinds) <= 5


def test_packing_closes_the_loader_when_it_is_left(grey):
    packed = batches.pack_clips(iter(eval_videos(grey)), 2)
    next(packed)
    packed.close()
    with pytest.raises(StopIteration):
        next(packed)
