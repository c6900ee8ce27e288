"""Crops, resizing and mirroring against the reference's pixels and rectangles."""

import collections
import hashlib
import itertools
import pathlib
import random

import cv2
import numpy as np
import pytest
import weights
from grey_videos import clips_of

from trn_jax.data import augment, crops
from trn_jax.data.annotations import Record
from trn_jax.data.frame_folders import FrameFolders
from trn_jax.data.reader import ClipReader
from trn_jax.data.views import View
from trn_jax.errors import UserError

SHARED = pathlib.Path(__file__).parents[3] / "shared/data"
IMAGES = SHARED / "mmaction2/imgs"
needs_images = pytest.mark.skipif(not IMAGES.is_dir(), reason=f"{IMAGES} is not here")


class Choose:
    """A generator that draws the given numbers."""

    def __init__(self, *draws):
        self.draws = list(draws)

    def integers(self, high):
        draw = self.draws.pop(0)
        assert 0 <= draw < high
        return draw

    def random(self):
        return self.draws.pop(0)


def assert_pixels(found, expected):
    """Compare with a record: all pixels if the digest agrees, else samples within a grey level."""
    found = np.ascontiguousarray(found)
    assert found.dtype == expected["dtype"]
    assert list(found.shape) == expected["shape"]
    if hashlib.blake2b(found.tobytes(), digest_size=8).hexdigest() == expected["blake2b_64"]:
        return
    for index, value in expected["samples"]:
        assert abs(int(found[tuple(index)]) - value) <= 1, index
    if "mean" in expected:
        np.testing.assert_allclose(found.mean((0, 1)), expected["mean"], rtol=0, atol=0.1)


def smooth_frames(num_frames, height, width):
    """Frames that differ, without detail that resizing could lose."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    channels = [x, y, (x + y) / 2]
    frames = [np.stack(channels, -1) * (200 - 20 * time) + 10 * time for time in range(num_frames)]
    return [frame.astype(np.uint8) for frame in frames]


def apply(crop, frames, rng=None):
    out = np.full((crop.num_crops, len(frames), crop.size, crop.size, 3), 77, np.uint8)
    scaled = [augment.resize_short_side(frame, crop.scaled_to) for frame in frames]
    for (box, mirrored), clip in zip(crop.boxes(*scaled[0].shape[:2], rng), out, strict=True):
        for frame, target in zip(scaled, clip, strict=True):
            augment.cut(frame, box, mirrored, target)
    return out


def mirror(frame, size=None):
    """The whole frame, resized to `size` `(height, width)`, exchanging left and right."""
    height, width, _ = frame.shape
    out = np.empty((*(size or (height, width)), 3), np.uint8)
    augment.cut(frame, (0, 0, width, height), True, out)
    return out


# Rectangles


@pytest.mark.smoke
def test_multi_scale_boxes_are_those_of_the_reference_in_its_order(golden):
    checked = set()
    for record in golden("pipeline/multi_scale_crop")["records"]:
        sizes = crops.multi_scale_boxes(
            *record["image_hw"],
            scales=record["scales"],
            num_positions=record["num_fixed_crops"],
            max_scale_gap=record["max_wh_scale_gap"],
            snap_to=record["input_size"],
        )
        expected = [
            [(x, y, *candidate["size_wh"]) for x, y in candidate["offsets_xy"]]
            for candidate in record["candidates"]
        ]
        assert sizes == expected, record["image_hw"]
        checked.add((record["max_wh_scale_gap"], record["num_fixed_crops"], *record["image_hw"]))
    assert len(checked) == 28
    assert {gap for gap, *_ in checked} == {0, 1, 3}


def test_multi_scale_boxes_snap_only_when_asked_and_only_nearby_sides():
    scales = (1, 226 / 256, 227 / 256, 222 / 256, 221 / 256)
    plain = crops.multi_scale_boxes(256, 256, scales=scales, num_positions=5)
    snapped = crops.multi_scale_boxes(256, 256, scales=scales, num_positions=5, snap_to=224)
    assert {boxes[0][2] for boxes in plain} == {256, 226, 227, 222, 221}
    assert {boxes[0][2] for boxes in snapped} == {256, 224, 227, 221}


@pytest.mark.parametrize(("base", "sides"), [(256, (256, 224, 192, 168)), (100, (100, 87, 75, 66))])
def test_published_sizes_of_the_multi_scale_crop(base, sides):
    boxes = crops.multi_scale_boxes(base, 2 * base, scales=(1, 0.875, 0.75, 0.66), num_positions=13)
    a, b, c, d = sides
    expected = [(a, a), (b, a), (a, b), (b, b), (c, b), (b, c), (c, c), (d, c), (c, d), (d, d)]
    assert [choices[0][2:] for choices in boxes] == expected
    assert all(len(choices) == 13 for choices in boxes)


@pytest.mark.parametrize(
    ("size_wh", "expected_wh"),
    [
        ((176, 100), (451, 256)),
        ((132, 100), (338, 256)),
        ((320, 240), (341, 256)),
        ((427, 240), (455, 256)),
        ((240, 427), (256, 455)),
    ],
)
def test_published_sizes_after_scaling_the_short_side(size_wh, expected_wh):
    assert augment.short_side_size(*size_wh[::-1], 256) == expected_wh[::-1]


@pytest.mark.parametrize(
    ("width", "lefts"),
    [(340, [0, 84, 42]), (451, [0, 194, 97]), (455, [0, 198, 99]), (256, [0, 0, 0])],
)
def test_published_offsets_of_three_crops(width, lefts):
    expected = [(left, 0, 256, 256) for left in lefts]
    assert crops.three_boxes(256, width, 256) == expected
    turned = [(0, left, 256, 256) for left in lefts]
    assert crops.three_boxes(width, 256, 256) == turned


@pytest.mark.parametrize(
    ("width", "offsets"),
    [
        (340, [(0, 0), (116, 0), (0, 32), (116, 32), (58, 16)]),
        (451, [(0, 0), (224, 0), (0, 32), (224, 32), (112, 16)]),
    ],
)
def test_published_offsets_of_ten_crops(width, offsets):
    assert crops.five_boxes(256, width, 224) == [(x, y, 224, 224) for x, y in offsets]


def test_published_offset_of_the_center_crop():
    assert crops.center_box(256, 340, 224) == (58, 16, 224, 224)


# Pixels


def test_resizing_cropping_and_mirroring_give_the_pixels_of_the_reference(golden):
    kinds = []
    for record in golden("pipeline/image_transforms")["records"]:
        source, steps = record["source"], [step["type"] for step in record["chain"]]
        if source["kind"] != "weights.deterministic_clip":
            continue  # those depend on the JPEG decoder; the next test reads real images
        frames = list(weights.deterministic_clip(source["shape"], source["seed"]))
        if steps == ["Resize", "CenterCrop"]:
            crop = crops.TestCrops(size=224, short_side=256, kind="center")
        elif steps == ["Resize", "ThreeCrop"]:
            crop = crops.TestCrops(size=256, short_side=256, kind="three")
        elif steps == ["Resize", "TenCrop"]:
            crop = crops.TestCrops(size=224, short_side=256, kind="ten")
        else:
            crop = None
        if crop is not None:
            outputs = apply(crop, frames)[:, 0]
        elif steps == ["Flip"]:
            outputs = [mirror(frame) for frame in frames]
        elif steps == ["Resize"] and record["chain"][0]["scale"] == [-1, 256]:
            outputs = [augment.resize_short_side(frame, 256) for frame in frames]
        elif steps == ["Resize"]:
            outputs = [augment.resize(frames[0], *record["img_shape"])]
        else:
            assert not steps
            outputs = frames
        for found, expected in zip(outputs, record["outputs"], strict=True):
            assert_pixels(found, expected)
        kinds.append("+".join(steps))
    counts = {kind: kinds.count(kind) for kind in set(kinds)}
    assert set(counts) == {
        *("", "Resize", "Flip", "Resize+CenterCrop", "Resize+ThreeCrop", "Resize+TenCrop")
    }
    assert counts["Resize+TenCrop"] == 4


@needs_images
def test_real_images_give_the_pixels_of_the_reference(golden):
    checked = 0
    for record in golden("pipeline/image_transforms")["records"]:
        source, steps = record["source"], [step["type"] for step in record["chain"]]
        if source["kind"] != "jpeg" or "/imgs/" not in source["file"]:
            continue
        path = IMAGES / pathlib.Path(source["file"]).name
        frames = [cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)]
        if steps == ["Resize"] and record["chain"][0]["scale"] != [-1, 256]:
            outputs = [augment.resize(frames[0], *record["img_shape"])]
        elif steps == ["Resize"]:
            outputs = [augment.resize_short_side(frame, 256) for frame in frames]
        elif steps[1:]:
            kinds = {"CenterCrop": "center", "ThreeCrop": "three", "TenCrop": "ten"}
            size = record["outputs"][0]["shape"][0]
            crop = crops.TestCrops(size=size, short_side=256, kind=kinds[steps[1]])
            outputs = apply(crop, frames)[:, 0]
        else:
            assert not steps or steps == ["Flip"]
            outputs = [mirror(frame) if steps else frame for frame in frames]
        for found, expected in zip(outputs, record["outputs"], strict=True):
            assert_pixels(found, expected)
            checked += 1
    assert checked >= 15


def read_clip(crop_size, **settings):
    """Read the ten real images the whole way, from the list to the views."""
    right = dict(frame_order="forward", short_side=256, scales=(1,), num_positions=5)
    right |= dict(flip_rate=0, flip_labels=False, crop_size=crop_size)
    record = Record(0, str(IMAGES), 10, 4)
    source = FrameFolders(pattern="img_{:05d}.jpg", first_frame=1)
    reader = ClipReader({"one": View(**right | settings)}, source)
    return clips_of(reader.read(record, 0)), record.label


@pytest.mark.smoke
@needs_images
@pytest.mark.parametrize(
    ("name", "crop_size", "settings"),
    [
        ("trn_test", 256, dict(num_segments=8, sampling="twice", crop="three")),
        ("tsm_val", 224, dict(num_segments=8, sampling="center", crop="center")),
        ("tsn_tencrop", 224, dict(num_segments=3, sampling="center", crop="ten")),
        (
            "tpn_slowonly_test",
            256,
            dict(num_segments=8, sampling="clips", num_clips=10, frame_interval=8, crop="three"),
        ),
    ],
)
def test_whole_test_pipelines_give_the_pixels_of_the_reference(golden, name, crop_size, settings):
    (expected,) = (r for r in golden("pipeline/whole_pipelines")["records"] if r["name"] == name)
    views, label = read_clip(crop_size, **settings)
    assert label == expected["label_after"]
    if len(expected["shape"]) == 5:  # `[views, 3, frames, height, width]`
        frames = views.transpose(0, 4, 1, 2, 3)
    else:  # `[views * frames, 3, height, width]`
        frames = views.reshape(-1, crop_size, crop_size, 3).transpose(0, 3, 1, 2)
    means = frames.mean(tuple(range(1, frames.ndim)))
    # Crops, clips and frames in the reference's order; JPEG decoders may differ by a little.
    np.testing.assert_allclose(means, expected["mean_per_first_axis"], rtol=0, atol=0.05)
    assert_pixels(frames, {k: v for k, v in expected.items() if k != "mean"})


@needs_images
def test_mirroring_with_labels_gives_the_pixels_and_label_of_the_reference(golden):
    records = golden("pipeline/whole_pipelines")["records"]
    (expected,) = (record for record in records if record["name"] == "flip_label")
    frames = [
        cv2.imread(str(IMAGES / f"img_{i:05d}.jpg"))[:, :, ::-1] for i in expected["frame_inds"]
    ]
    clip = np.stack([mirror(np.ascontiguousarray(frame), (224, 224)) for frame in frames])
    label_map = {int(k): v for k, v in expected["chain"][3]["flip_label_map"].items()}
    assert augment.Flip(rate=1.0, label_map=label_map).label(4) == expected["label_after"] == 2
    assert_pixels(clip.transpose(0, 3, 1, 2), expected)


# Multi-scale crop


@pytest.mark.parametrize("num_positions", [5, 13])
@pytest.mark.parametrize(("height", "width"), [(100, 176), (240, 180), (256, 256)])
def test_exact_multi_scale_crop_is_resize_crop_resize(height, width, num_positions):
    frames = list(weights.deterministic_clip((2, height, width, 3), 3))
    crop = crops.MultiScaleCrop(
        size=224,
        short_side=256,
        scales=(1, 0.88, 0.75, 0.66),  # 0.88 is 225 pixels, which snap to 224
        num_positions=num_positions,
        exact=True,
    )
    scaled_hw = augment.short_side_size(height, width, 256)
    scaled = [cv2.resize(frame, scaled_hw[::-1]) for frame in frames]
    sizes = crops.multi_scale_boxes(
        *scaled_hw, scales=crop.scales, num_positions=num_positions, snap_to=224
    )
    for choice in ((0, 0), (1, 3), (4, num_positions - 1), (9, 2)):
        left, top, w, h = sizes[choice[0]][choice[1]]
        expected = [cv2.resize(f[top : top + h, left : left + w], (224, 224)) for f in scaled]
        np.testing.assert_array_equal(apply(crop, frames, Choose(*choice))[0], expected)


@pytest.mark.parametrize(("height", "width"), [(120, 211), (240, 320), (320, 240)])
def test_fast_multi_scale_crop_shows_the_same_box_up_to_rounding(height, width):
    frames = smooth_frames(1, height, width)
    exact, fast = (
        crops.MultiScaleCrop(size=224, short_side=256, exact=exact) for exact in (True, False)
    )
    choices = [(size, position) for size in range(10) for position in range(13)]
    pairs = [
        [apply(crop, frames, Choose(*choice)).astype(int) for crop in (exact, fast)]
        for choice in choices
    ]
    differences = [np.abs(a - b).mean() for a, b in pairs]
    # Steps of a quarter of the free space are rounded down, which shifts a box by up to 3 pixels.
    limit = 4 * 200 / min(height, width)  # 200 grey levels over the frame
    assert max(differences) < limit
    # A neighbouring position is clearly another picture.
    next_one = np.abs(pairs[choices.index((9, 0))][0] - pairs[choices.index((9, 9))][1]).mean()
    assert next_one > 1.5 * limit


def test_fast_multi_scale_crop_resizes_the_decoded_pixels_once():
    frames = list(weights.deterministic_clip((1, 100, 150, 3), 4))
    crop = crops.MultiScaleCrop(size=51, short_side=64, scales=(1, 0.5))
    found = apply(crop, frames, Choose(3, 2))[0, 0]  # 50x50 in the lower left corner, not snapped
    np.testing.assert_array_equal(found, cv2.resize(frames[0][48:98, :50], (51, 51)))


def assert_fits(counts, expected, limit_in_deviations=4.75):
    """A chi-square test; the limit is a quantile by Wilson and Hilferty, 1931."""
    counts, expected = np.asarray(counts, float), np.asarray(expected, float)
    assert expected.min() >= 5
    freedom = len(counts) - 1
    spread = 2 / (9 * freedom)
    limit = freedom * (1 - spread + limit_in_deviations * np.sqrt(spread)) ** 3
    assert ((counts - expected) ** 2 / expected).sum() < limit


def test_multi_scale_boxes_are_drawn_as_often_as_those_of_the_reference(golden):
    """Where positions are the same, as those without free space, their weights add up."""
    for number, record in enumerate(golden("pipeline/multi_scale_crop")["records"]):
        crop = crops.MultiScaleCrop(
            size=record["input_size"],
            short_side=0,
            scales=tuple(record["scales"]),
            num_positions=record["num_fixed_crops"],
            max_scale_gap=record["max_wh_scale_gap"],
        )
        weights_of = collections.Counter()
        for candidate in record["candidates"]:
            for offset in candidate["offsets_xy"]:
                weight = 1 / len(record["candidates"]) / len(candidate["offsets_xy"])
                weights_of[*offset, *candidate["size_wh"]] += weight
        num_draws = 8000
        rng = np.random.default_rng(number)
        drawn = collections.Counter(
            crop.boxes(*record["image_hw"], rng)[0][0] for _ in range(num_draws)
        )
        assert set(drawn) <= set(weights_of)
        assert_fits(
            [drawn[box] for box in weights_of], [num_draws * w for w in weights_of.values()]
        )


def test_areas_and_shapes_of_random_resized_boxes_are_distributed_like_the_references(golden):
    for record in golden("pipeline/random_resized_crop")["records"]:
        height, width = record["image_hw"]
        rng, num_boxes = np.random.default_rng(11), record["seeds"]
        boxes = [crops.random_resized_box(height, width, rng, **RANGES) for _ in range(num_boxes)]
        w, h = np.array(boxes).T[2:]
        found = record["area_fraction"]
        areas = w * h / (height * width)
        if record["fallback_centre_square_fraction"] == 0:
            tenths = np.bincount(np.searchsorted(found["deciles"], areas), minlength=10)
            # The deciles are themselves from as many draws, which doubles the variance.
            assert_fits(tenths / 2, np.full(10, num_boxes / 10 / 2))
        assert areas.min() == pytest.approx(found["min"], abs=0.01)
        assert areas.max() == pytest.approx(found["max"], abs=0.03)
        shapes = record["aspect_w_over_h"]
        assert (w / h).min() == pytest.approx(shapes["min"], abs=0.01)
        assert (w / h).max() == pytest.approx(shapes["max"], abs=0.01)


def test_flips_and_strengths_and_orders_of_colours_are_drawn_alike():
    rng, num_draws = np.random.default_rng(12), 6000
    flip = augment.Flip(rate=0.3, label_map={0: 1})
    flipped = sum(flip.draw(rng) for _ in range(num_draws))
    assert_fits([flipped, num_draws - flipped], [0.3 * num_draws, 0.7 * num_draws])
    jitter = augment.ColorJitter(brightness=0.5, contrast=0.4, saturation=0.3, hue=0.1)
    draws = [jitter.draw(rng) for _ in range(num_draws)]
    orders = collections.Counter(order for *_, order in draws)
    assert_fits(list(orders.values()), np.full(24, num_draws / 24))
    for column, (low, high) in enumerate([(0.5, 1.5), (0.6, 1.4), (0.7, 1.3), (-25.5, 25.5)]):
        values = np.array([draw[column] for draw in draws], float)
        assert low <= values.min() and values.max() <= high
        if column < 3:
            counts, _ = np.histogram(values, 10, (low, high))
            assert_fits(counts, np.full(10, num_draws / 10))
        else:  # whole steps, rounded towards 0, so that 0 is twice as frequent
            counts = np.bincount(values.astype(int) + 25, minlength=51)
            expected = np.full(51, num_draws / 51.0)
            expected[25] *= 2
            assert_fits(counts, expected * num_draws / expected.sum())


def test_multi_scale_crop_draws_all_sizes_and_positions_alike():
    frames = [np.zeros((32, 48, 3), np.uint8)]
    frames[0][..., 0] = np.arange(48)
    frames[0][..., 1] = np.arange(32)[:, None]
    crop = crops.MultiScaleCrop(size=8, short_side=32, scales=(0.75, 0.5), num_positions=5)
    rng = np.random.default_rng(0)
    seen = {}
    for _ in range(2000):
        key = apply(crop, frames, rng).tobytes()
        seen[key] = seen.get(key, 0) + 1
    assert len(seen) == 4 * 5
    assert min(seen.values()) > 60 and max(seen.values()) < 140


def test_one_crop_serves_all_frames_of_a_clip():
    frame = weights.deterministic_clip((64, 96, 3), 5)
    for crop in (
        crops.MultiScaleCrop(size=32, short_side=40),
        crops.MultiScaleCrop(size=32, short_side=40, exact=True),
        crops.RandomResizedCrop(size=32, short_side=40),
        crops.RandomResizedCrop(size=32, short_side=40, exact=True),
        crops.TestCrops(size=32, short_side=40, kind="ten"),
    ):
        out = apply(crop, [frame, frame.copy(), frame.copy()], np.random.default_rng(3))
        assert (out == out[:, :1]).all()
        assert (out != 77).any()


def test_ten_crops_are_each_followed_by_their_mirror_image():
    found = apply(crops.TestCrops(size=32, short_side=40, kind="ten"), smooth_frames(2, 40, 60))
    np.testing.assert_array_equal(found[1::2], found[::2, :, :, ::-1])
    assert (found[0] != found[2]).any()


# Random resized crop


class ReferenceRng:
    """The two global generators that the reference draws from, freshly seeded."""

    def __init__(self, seed):
        self.shapes, self.places = np.random.RandomState(seed), random.Random(seed)

    def uniform(self, low, high, size):
        return self.shapes.uniform(low, high, size)

    def integers(self, high):
        return self.places.randint(0, high - 1)


RANGES = dict(area_range=(0.08, 1.0), aspect_ratio_range=(3 / 4, 4 / 3))


def test_random_resized_boxes_are_those_of_the_reference_for_its_draws(golden):
    for record in golden("pipeline/random_resized_crop")["records"]:
        for seed, expected in enumerate(record["first_boxes_xyxy"]):
            left, top, width, height = crops.random_resized_box(
                *record["image_hw"], ReferenceRng(seed), **RANGES
            )
            assert [left, top, left + width, top + height] == expected


def test_random_resized_boxes_are_distributed_like_those_of_the_reference(golden):
    for record in golden("pipeline/random_resized_crop")["records"]:
        height, width = record["image_hw"]
        rng, num_boxes = np.random.default_rng(4), record["seeds"]
        boxes = np.array(
            [crops.random_resized_box(height, width, rng, **RANGES) for _ in range(num_boxes)]
        )
        left, top, w, h = boxes.T
        assert (left >= 0).all() and (left + w <= width).all()
        assert (top >= 0).all() and (top + h <= height).all()
        areas = w * h / (height * width)
        # Twice over, 3000 draws of values that are spread over 0.27 and log-shapes over 0.17.
        np.testing.assert_allclose(areas.mean(), record["area_fraction"]["mean"], atol=0.03)
        deciles = np.quantile(areas, np.arange(1, 10) / 10)
        np.testing.assert_allclose(deciles, record["area_fraction"]["deciles"], atol=0.05)
        shapes = record["aspect_w_over_h"]
        np.testing.assert_allclose(np.log(w / h).mean(), shapes["mean_log"], atol=0.018)
        assert (w / h).min() > 0.73 and (w / h).max() < 1.37
        side = min(height, width)
        square = (boxes == [(width - side) // 2, (height - side) // 2, side, side]).all(1).mean()
        assert square == pytest.approx(record["fallback_centre_square_fraction"], abs=0.04)


def test_random_resized_boxes_are_everywhere_alike():
    rng = np.random.default_rng(0)
    ranges = dict(area_range=(0.25, 0.25), aspect_ratio_range=(1, 1))
    boxes = [crops.random_resized_box(20, 20, rng, **ranges) for _ in range(2200)]
    assert {box[2:] for box in boxes} == {(10, 10)}
    for places in zip(*(box[:2] for box in boxes), strict=True):
        counts = np.bincount(places, minlength=11)
        assert ((counts - 200) ** 2 / 200).sum() < 45  # chi-square, 10 d.o.f., p=2e-6


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (2, 3), (5, 1), (1, 300)])
def test_random_resized_boxes_lie_inside_the_smallest_frames(height, width):
    rng = np.random.default_rng(0)
    for _ in range(50):
        left, top, w, h = crops.random_resized_box(height, width, rng, **RANGES)
        assert 0 <= left < left + w <= width
        assert 0 <= top < top + h <= height


@pytest.mark.parametrize("short_side", [0, 256])
@pytest.mark.parametrize("exact", [False, True])
def test_random_resized_crop_resizes_the_box_once_from_the_published_pixels(short_side, exact):
    frames = list(weights.deterministic_clip((2, 100, 150, 3), 8))
    crop = crops.RandomResizedCrop(size=64, short_side=short_side, exact=exact)
    found = apply(crop, frames, np.random.default_rng(3))
    sources = [cv2.resize(f, (384, 256)) for f in frames] if short_side and exact else frames
    left, top, w, h = crops.random_resized_box(
        *sources[0].shape[:2], np.random.default_rng(3), **RANGES
    )
    expected = [cv2.resize(f[top : top + h, left : left + w], (64, 64)) for f in sources]
    np.testing.assert_array_equal(found[0], expected)


def test_fast_random_resized_crop_shows_the_same_box_up_to_rounding():
    frames = smooth_frames(1, 120, 211)
    exact, fast = (
        crops.RandomResizedCrop(size=64, short_side=256, exact=exact) for exact in (True, False)
    )

    class Corner:
        """Draws shapes at random, and the place always in the upper left corner."""

        def __init__(self, seed):
            self.uniform = np.random.default_rng(seed).uniform

        def integers(self, high):
            return 0

    for seed in range(40):
        a, b = (apply(crop, frames, Corner(seed)).astype(int) for crop in (exact, fast))
        assert np.abs(a - b).mean() < 2 * 200 / 120


def test_multi_scale_crop_of_frames_as_they_are_is_that_of_the_original_code():
    """TRN-pytorch crops from the frames without scaling them first; sides snap all the same."""
    frames = list(weights.deterministic_clip((1, 100, 150, 3), 4))
    for exact in (True, False):
        crop = crops.MultiScaleCrop(size=51, short_side=0, scales=(1, 0.5), exact=exact)
        found = apply(crop, frames, Choose(3, 2))[0, 0]
        np.testing.assert_array_equal(found, frames[0][48:99, :51])


# Mirroring


def test_mirroring_turns_pixels_and_label():
    frame = weights.deterministic_clip((1, 8, 10, 3), 6)[0]
    np.testing.assert_array_equal(mirror(frame), frame[:, ::-1])
    flip = augment.Flip(rate=0.5, label_map={2: 4, 4: 2})
    assert [flip.label(label) for label in (2, 4, 3)] == [4, 2, 3]
    assert flip.label((2, 3)) == (4, 3)


def test_clips_are_mirrored_below_the_rate():
    flip = augment.Flip(rate=0.5, label_map={})
    assert flip.draw(Choose(0.49)) and not flip.draw(Choose(0.5))
    assert not augment.Flip(rate=0.0, label_map={}).draw(Choose(0.0))


def test_the_rate_is_the_share_of_mirrored_clips():
    rng, flip = np.random.default_rng(0), augment.Flip(rate=0.3, label_map={})
    assert sum(flip.draw(rng) for _ in range(4000)) / 4000 == pytest.approx(0.3, abs=0.03)


# Colours


JITTER_KEYS = ("brightness", "contrast", "saturation", "hue")


def reference_jitter(frame, factors, turn, order):
    """The operations one after the other in float32, as mmaction2 writes them down."""
    brightness, contrast, saturation = factors
    shares = np.array([0.2989, 0.587, 0.114], np.float32)
    image = frame.astype(np.float32)
    for operation in order:
        grey = (image @ shares)[..., None]
        if operation == 0:
            image = image * brightness
        elif operation == 1:
            image = contrast * image + (1 - contrast) * grey.mean()
        elif operation == 2:
            image = saturation * image + (1 - saturation) * grey
        else:
            hsv = cv2.cvtColor(np.clip(image, 0, 255).astype(np.uint8), cv2.COLOR_RGB2HSV)
            hsv[..., 0] = (hsv[..., 0].astype(int) + turn) % 180
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)


class ChooseColors:
    """Draws given changes, from -1 to 1 of each strength, and a given order."""

    def __init__(self, changes, order):
        self.changes, self.order = changes, order

    def uniform(self, low, high, size):
        return np.array(self.changes)

    def permutation(self, size):
        return np.array(self.order)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_color_jitter_is_that_of_the_reference_in_every_order(order):
    frames = weights.deterministic_clip((2, 40, 50, 3), 9)
    frames = np.stack([cv2.GaussianBlur(frame, (9, 9), 4) for frame in frames])  # calmer colours
    rng = np.random.default_rng(order)
    for strengths in ((0.5, 0.5, 0.5, 0), (0.5, 0.5, 0.5, 0.1)):
        for changes in rng.uniform(-1, 1, (3, 4)):
            clip = frames[None].copy()
            jitter = augment.ColorJitter(**dict(zip(JITTER_KEYS, strengths, strict=True)))
            augment.color(clip, jitter.draw(ChooseColors(changes, order)))
            factors = 1 + 0.5 * changes[:3]
            turn = int(strengths[3] * changes[3] * 255)
            # The reference's detour over HSV with a turn of nothing is not followed.
            steps = [step for step in order if step != 3 or turn]
            expected = [reference_jitter(frame, factors, turn, steps) for frame in frames]
            difference = np.abs(clip[0].astype(int) - expected)
            # A grey level; the hue of a pixel without much colour makes some more of it.
            assert difference.max() <= (12 if turn else 1)
            assert difference.mean() < 0.5
            assert np.abs(frames.astype(int) - expected).mean() > 3


def test_color_jitter_treats_the_frames_of_a_clip_alike_and_clips_differently():
    frame = weights.deterministic_clip((16, 16, 3), 5)
    jitter = augment.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1)
    rng, seen = np.random.default_rng(0), set()
    for _ in range(20):
        clip = np.stack([frame] * 6).reshape(2, 3, 16, 16, 3)
        augment.color(clip, jitter.draw(rng))
        assert (clip == clip[0, 0]).all()
        seen.add(clip[0, 0].tobytes())
    assert len(seen) == 20


@pytest.mark.parametrize(
    ("strength", "low", "high"), [("brightness", 50, 150), ("contrast", 100, 100)]
)
def test_color_factors_are_uniform_around_one(strength, low, high):
    jitter, rng, means = augment.ColorJitter(**{strength: 0.5}), np.random.default_rng(1), []
    for _ in range(1000):
        clip = np.full((1, 1, 4, 4, 3), 100, np.uint8)
        clip[..., :2, :] -= 40
        clip[..., 2:, :] += 40
        augment.color(clip, jitter.draw(rng))
        means.append(clip.mean())
    assert low - 1 <= min(means) <= low + 2
    assert high - 2 <= max(means) <= high + 1
    if high > low:
        counts, _ = np.histogram(means, bins=5, range=(low, high))
        assert ((counts - 200) ** 2 / 200).sum() < 33  # chi-square, 4 d.o.f., p=1e-6


def test_no_jitter_draws_nothing_and_changes_nothing():
    clip = weights.deterministic_clip((1, 2, 8, 8, 3), 6)
    kept, rng = clip.copy(), np.random.default_rng(0)
    augment.color(kept, augment.ColorJitter().draw(rng))
    np.testing.assert_array_equal(kept, clip)
    assert rng.random() == np.random.default_rng(0).random()


# Wrong values


def random_resized(**settings):
    return crops.RandomResizedCrop(size=8, short_side=9, **settings)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: crops.MultiScaleCrop(size=8, short_side=9, num_positions=4), "num_positions=4"),
        (lambda: crops.MultiScaleCrop(size=8, short_side=9, max_scale_gap=-1), "gap=-1"),
        (lambda: crops.MultiScaleCrop(size=8, short_side=9, scales=()), r"scales=\(\)"),
        (lambda: crops.MultiScaleCrop(size=8, short_side=9, scales=(1, 875)), "875"),
        (lambda: crops.TestCrops(size=8, short_side=9, kind="five"), "crop='five'.*ten"),
        (lambda: crops.TestCrops(size=9, short_side=8), "9 pixels.*8.*crop_size"),
        (lambda: crops.TestCrops(size=8, short_side=9, kind="three"), "8 and 9"),
        (
            lambda: crops.TestCrops(size=8, short_side=0),
            "short_side=0.*crop='center'.*at least 8",
        ),
        (lambda: crops.MultiScaleCrop(size=0, short_side=9), "crop_size=0"),
        (lambda: crops.RandomResizedCrop(size=8, short_side=-1), "short_side=-1"),
        (lambda: random_resized(area_range=(0, 1)), r"area_range=\(0, 1\).*\(0, 1\]"),
        (lambda: random_resized(area_range=(1, 0.5)), r"area_range=\(1, 0.5\)"),
        (lambda: random_resized(area_range=(0.5,)), r"area_range=\(0.5,\)"),
        (lambda: random_resized(aspect_ratio_range=(0, 1)), r"aspect_ratio_range=\(0, 1\)"),
        (lambda: random_resized(aspect_ratio_range=(1, 2, 3)), r"aspect_ratio_range=\(1, 2, 3\)"),
        (lambda: augment.ColorJitter(brightness=1.5), r"color_jitter=\(1.5, 0.0, 0.0, 0.0\)"),
        (lambda: augment.ColorJitter(hue=0.6), r"hue in 0..0.5"),
    ],
)
def test_wrong_values_are_named(make, named):
    with pytest.raises(UserError, match=named):
        make()
