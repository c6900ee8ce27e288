"""Data sets from their archives as distributed: `PREPARATIONS`, by name in the catalogue."""

from trn_jax.prepare import charades, kinetics, moments, three_splits, twentybn

PREPARATIONS = {
    "jester": twentybn.prepare_jester,
    "sthv1": twentybn.prepare_sthv1,
    "sthv2": twentybn.prepare_sthv2,
    "k400": kinetics.prepare,
    "charades": charades.prepare,
    "moments": moments.prepare,
    "ucf101": three_splits.prepare_ucf101,
    "hmdb51": three_splits.prepare_hmdb51,
}
