"""Metadata of an exported model: one JSON text, the same in every kind of file."""

import importlib.metadata
import json

from trn_jax.export import hub

FORMAT = 1
# Of `config.json` of a hub folder, too.
_SHARED = (
    *("class_names", "multi_label", "merge_views", "contract", "calibration", "license"),
    *("metrics", "source", "checkpoint", "versions"),
)


def metadata_of(opened, model, program, contract, *, dtype, license=None):
    """Describe an exported model.

    Args:
        opened: the `checkpoints.checkpoint.Checkpoint`.
        model: its `Recognizer`, with `model.info`.
        program: the `Program`.
        contract: the `Contract` by which videos are sampled.
        dtype: of the computation.
        license: of the model; by default that of the checkpoint.

    Returns:
        A dict that JSON can hold. Without a head, `class_names` is empty.
    """
    found = hub.description(opened, model, license)
    shared = {key: found[key] for key in _SHARED} | {"contract": contract.to_dict()}
    if model.head is not None:
        shared["class_names"] = shared["class_names"] or list(opened.class_names)
    shared["versions"] |= {"onnx": _version_of("onnx")}
    return {
        "format": FORMAT,
        "form": program.form,
        "dtype": dtype,
        "inputs": [tensor.to_dict() for tensor in program.inputs],
        "outputs": [tensor.to_dict() for tensor in program.outputs],
        # `trn-jax predict` has more windows of long videos then.
        "by_frame": model.scores_frames and contract.view.relations == "model",
        **shared,
    }


def to_text(metadata):
    """The metadata as JSON text."""
    return json.dumps(metadata, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _version_of(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
