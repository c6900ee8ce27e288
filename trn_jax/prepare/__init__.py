"""Data sets from their archives as distributed: `PREPARATIONS`, by name in the catalogue."""

from trn_jax.prepare import charades, kinetics, moments, twentybn, ucf_hmdb

PREPARATIONS = {
    "jester": twentybn.prepare_jester,
    "sthv1": twentybn.prepare_sthv1,
    "sthv2": twentybn.prepare_sthv2,
    "k400": kinetics.prepare_kinetics,
    "charades": charades.prepare_charades,
    "moments": moments.prepare_moments,
    "ucf101": ucf_hmdb.prepare_ucf101,
    "hmdb51": ucf_hmdb.prepare_hmdb51,
}
