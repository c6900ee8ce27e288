"""Public data sets from their archives as distributed: `PREPARATIONS`, by name."""

from trn_jax.prepare.charades import prepare_charades
from trn_jax.prepare.kinetics import prepare_kinetics
from trn_jax.prepare.moments import prepare_moments
from trn_jax.prepare.twentybn import prepare_jester, prepare_sthv1, prepare_sthv2
from trn_jax.prepare.ucf_hmdb import prepare_hmdb51, prepare_ucf101

# Each is called with
#     folder: folder of the archives and annotations, or of what they hold.
#     to: folder of the data set, which may be the same.
#     workers: number of processes that list frames and open videos.
#     orders: label orders to write, some of `lists.ORDERS`.
#     check: whether to open video files and leave out those that are unreadable.
# It returns a `DatasetWriter`, and raises a `UserError` if archives or annotations are missing,
# corrupt or dangerous, the annotations are not as expected, or the disk is full.
PREPARATIONS = {
    "jester": prepare_jester,
    "sthv1": prepare_sthv1,
    "sthv2": prepare_sthv2,
    "k400": prepare_kinetics,
    "charades": prepare_charades,
    "moments": prepare_moments,
    "ucf101": prepare_ucf101,
    "hmdb51": prepare_hmdb51,
}
