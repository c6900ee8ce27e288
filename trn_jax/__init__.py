"""Video action recognition in JAX: TRN, TSN and their relatives."""

__version__ = "0.1.0"
__all__ = ["__version__", "create_model", "list_models"]


def __getattr__(name):
    # Late, so that loader workers and config files, which import only a submodule, do not pay for
    # (or open) an accelerator.
    if name in ("create_model", "list_models"):
        from trn_jax import models

        return getattr(models, name)
    raise AttributeError(f"module 'trn_jax' has no attribute {name!r}")
