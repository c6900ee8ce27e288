"""Weights of other code bases."""

from trn_jax.convert.names import load_state_dict
from trn_jax.convert.torch_file import file_sha256, read_torch_file

__all__ = ["file_sha256", "load_state_dict", "read_torch_file"]
