"""Data sets from their archives as distributed: `PREPARATIONS`, by name in the catalogue."""

from trn_jax.prepare import charades, kinetics, moments, twentybn

PREPARATIONS = {
    "jester": twentybn.prepare_jester,
    "sthv1": twentybn.prepare_sthv1,
    "sthv2": twentybn.prepare_sthv2,
    "k400": kinetics.prepare,
    "charades": charades.prepare,
    "moments": moments.prepare,
}
