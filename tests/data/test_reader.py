"""Clips of videos: every view shows what it shows alone, from frames that are decoded once."""

import dataclasses

import numpy as np
import pytest
from grey_videos import (
    COLOURED,
    EVAL,
    FOLDERS,
    PROTOCOLS,
    TEN,
    assert_same_videos,
    clips_of,
    evaluate,
    read_records,
)

from trn_jax.data import augment, decode
from trn_jax.data.views import View


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


def test_evaluation_is_repeatable_also_with_shuffled_frames(grey):
    shuffled = {"one": EVAL | dict(frame_order="shuffled")}
    first, again = (evaluate(grey, shuffled) for _ in range(2))
    assert_same_videos(first, again)
    assert (clips_of(first[0]) != clips_of(evaluate(grey)[0])).any()


def test_views_that_are_read_together_show_what_each_shows_alone(grey):
    together = evaluate(grey, PROTOCOLS)
    for name, view in PROTOCOLS.items():
        alone = evaluate(grey, {name: view})
        for video, single, record in zip(together, alone, read_records(grey), strict=True):
            np.testing.assert_array_equal(clips_of(video, name), clips_of(single, name))
            if name not in ("coloured", "shuffled"):  # these draw
                clips = clips_by_hand(View(**view), record)
                np.testing.assert_array_equal(clips_of(video, name), clips)


def test_no_clip_is_cut_twice_for_several_views(grey):
    (video, *_) = evaluate(grey, PROTOCOLS)
    for pixels in video.pixels:
        assert len({clip.tobytes() for clip in pixels}) == len(pixels)
    assert len(set(video.clips)) == len(video.clips)
    assert video.example == 0 and {clip.example for clip in video.clips} == {0}
    shown = {name: {} for name in PROTOCOLS}
    for clip, pixels in video.pairs():
        assert clip.shape == pixels.shape and not clip.flip
        assert clip.flips == ((False, True) if len(clip.flips) == 2 else (False,))
        for name, position, mirrored in clip.places:
            shown[name][position] = clip, mirrored
    for name, view in PROTOCOLS.items():
        assert sorted(shown[name]) == list(range(View(**view).num_views))
    ten = [shown["1x10"][position] for position in range(10)]
    assert shown["again"] == shown["1x10"]
    assert [mirrored for _, mirrored in ten] == 5 * [False, True]
    assert ten[::2] == [(clip, False) for clip, _ in ten[1::2]]
    assert len({clip for clip, _ in ten}) == 5
    # The frames are 20 x 27 pixels: the middle of ten crops is at 2 * ((27 - 16) // 4) = 4 pixels,
    # the centre crop at 5.
    assert shown["efficient"][0] not in ten
    even = {"one": EVAL | dict(short_side=24), "ten": TEN | dict(short_side=24)}  # 24 x 32 pixels
    (video, *_) = evaluate(grey, even)
    assert len(video.clips) == 5 and sum(len(clip.flips) for clip in video.clips) == 10


def test_every_frame_is_decoded_once_for_all_views(grey, monkeypatch):
    decoded = []
    decode_image = decode.decode_image

    def counted(data, name, *others):
        decoded.append(name)
        return decode_image(data, name, *others)

    monkeypatch.setattr(decode, "decode_image", counted)
    evaluate(grey, PROTOCOLS)
    assert len(decoded) == len(set(decoded))
    wanted = set()
    for view in PROTOCOLS.values():
        for record in read_records(grey):
            frames = View(**view).sampler()(record.num_frames, np.random.default_rng(0))
            wanted |= {f"{record.path}/{frame + 1:05d}.jpg" for frame in frames.flat}
    assert set(decoded) == wanted


def test_views_are_ordered_crop_first_then_clip(grey):
    changes = dict(sampling="twice", crop="three", short_side=16)
    views = clips_of(evaluate(grey, {"one": EVAL | changes})[6])
    one = clips_of(evaluate(grey, {"one": EVAL | changes | dict(sampling="center")})[6])
    assert views.shape == (6, 3, 16, 16, 3)
    for crop in range(3):
        np.testing.assert_array_equal(views[2 * crop], one[crop])
        assert (views[2 * crop + 1] != views[2 * crop]).any()


@pytest.mark.parametrize(
    "changes",
    [
        dict(sampling="clips", num_clips=4, frame_interval=2),
        dict(sampling="clips", num_clips=4, frame_interval=8),
        dict(sampling="dense", num_clips=4, sample_range=6),
    ],
)
def test_views_of_several_clips_show_the_frames_that_were_chosen(grey, changes):
    """View `crop * num_clips + clip`, in which the frames of a clip are one after the other."""
    three = dict(crop="three", short_side=16)
    view, record = View(**EVAL | three | changes), read_records(grey)[10]
    views = clips_of(evaluate(grey, {"one": EVAL | three | changes})[10])
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


def test_validation_is_coloured_only_where_it_is_asked_for_and_repeatably(grey):
    first, again = (evaluate(grey, {"one": COLOURED}) for _ in range(2))
    assert_same_videos(first, again)
    plain = evaluate(grey, {"one": TEN})
    changed = [
        (clips_of(a) != clips_of(b)).mean() for a, b in zip(first[1:], plain[1:], strict=True)
    ]
    assert min(changed) > 0.9  # video 0 is nearly black
