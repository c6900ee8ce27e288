"""Views: their values, and how many clips they have."""

import pytest
from grey_videos import EVAL, VIEW, clips_of, evaluate

from trn_jax.data.views import View, check_fixed_crops
from trn_jax.errors import UserError


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (dict(sampling="sparse"), "sampling='sparse'.*random_dense, dense"),
        (dict(num_clips=10), "num_clips=10 means nothing for sampling='random'"),
        (dict(crop="random_resized", area_range=(0, 1)), "area_range"),
        (dict(crop="random_resized", aspect_ratio_range=(2, 1)), "aspect_ratio_range"),
        (dict(color_jitter=(0.5, 0.5, 0.5, 25)), "hue in 0..0.5"),
        (dict(short_side=0, crop="center", flip_rate=0), "short_side=0.*crop='center'"),
        (dict(frame_order="backward"), "frame_order='backward'"),
        (dict(num_segments=0), "num_segments=0"),
        (dict(crop="five"), "crop='five'.*multi_scale, random_resized, center, three, ten"),
        (dict(num_positions=9), "num_positions=9"),
        (dict(scales=(1, 1.5)), r"scales=\(1, 1\.5\)"),
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


def test_random_crops_do_not_evaluate():
    with pytest.raises(UserError, match=r"val\.crop='multi_scale'.*'center', 'three'"):
        check_fixed_crops({"efficient": View(**EVAL), "val": View(**VIEW)})


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
def test_num_views_is_clips_times_crops(grey, changes, num_views):
    assert View(**EVAL | changes).num_views == num_views
    for video in evaluate(grey, {"one": EVAL | changes}):
        assert clips_of(video).shape == (num_views, 3, 16, 16, 3)
