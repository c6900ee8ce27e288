"""Builders of TensorFlow Datasets (TFDS) for videos: `BUILDERS`, by name in `datasets.DATASETS`.

Importing this registers them with TFDS: `tfds.builder("something_something_v1/frames")`. The other
data sets are a `VideoFolder`. TensorFlow is not needed.
"""

from trn_jax.data.shards import check_library
from trn_jax.errors import UserError

try:
    check_library()
    import tensorflow_datasets  # noqa: F401
except ImportError:
    raise UserError(
        "making records needs TensorFlow Datasets, without TensorFlow: pip install 'trn_jax[tfds]'"
    ) from None

from trn_jax.tfds.video_folder import VideoFolder
from trn_jax.tfds.video_sets import (
    Charades,
    Jester,
    Kinetics400,
    SomethingSomethingV1,
    SomethingSomethingV2,
)

BUILDERS = {
    "sthv1": SomethingSomethingV1,
    "sthv2": SomethingSomethingV2,
    "jester": Jester,
    "k400": Kinetics400,
    "charades": Charades,
    "frames": VideoFolder,
}
