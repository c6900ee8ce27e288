"""Weights of other code bases."""

from trn_jax.convert.names import load_state_dict

__all__ = ["load_state_dict"]
