"""Data sets from their archives as distributed: `PREPARATIONS`, by name in the catalogue."""

from trn_jax.prepare import twentybn

PREPARATIONS = {
    "jester": twentybn.prepare_jester,
    "sthv1": twentybn.prepare_sthv1,
    "sthv2": twentybn.prepare_sthv2,
}
