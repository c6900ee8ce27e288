"""Weights of other code bases."""

from trn_jax.convert.diagnosis import num_classes, num_segments
from trn_jax.convert.layout import rearranged
from trn_jax.convert.selection import selected, unwrapped
from trn_jax.convert.state_dict import load_state_dict, our_path, shapes, unread, variables
from trn_jax.convert.torch_file import check_name, file_sha256, read_torch_file

__all__ = [
    "check_name",
    "file_sha256",
    "load_state_dict",
    "num_classes",
    "num_segments",
    "our_path",
    "read_torch_file",
    "rearranged",
    "selected",
    "shapes",
    "unread",
    "unwrapped",
    "variables",
]
