"""Video action recognition in JAX: TRN, TSN, TSM, TIN and TPN.

`create_model` builds a model, `load_model` takes one from a checkpoint; `model(clips)` maps clips
`[batch, frames, height, width, 3]`, RGB in 0..255, to logits `[batch, classes]`. `predict` gives
the scores of videos, with times, `explain` the reasons for them, and `extract_features` their
features. `streaming` makes a model take one frame at a time; `fold_batch_norm` makes one for
inference.
"""

__version__ = "0.2.0"
__all__ = [
    "__version__",
    "create_model",
    "explain",
    "extract_features",
    "fold_batch_norm",
    "list_models",
    "load_model",
    "predict",
    "streaming",
]

_HOMES = {
    "create_model": "trn_jax.loading",
    "explain": "trn_jax.explanation.api",
    "extract_features": "trn_jax.prediction.features",
    "fold_batch_norm": "trn_jax.models.folding",
    "list_models": "trn_jax.models",
    "load_model": "trn_jax.loading",
    "predict": "trn_jax.prediction.api",
    "streaming": "trn_jax.models.streaming",
}


def __getattr__(name):
    # Late, so that loader workers and config files, which import only a submodule, do not pay for
    # (or open) an accelerator.
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'trn_jax' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
