"""The dtype that networks compute in, where "auto" leaves it to the devices."""

import re

import jax

AUTO = "auto"
_FIRST_GPU = 8.0  # compute capability of the first NVIDIA GPUs with bfloat16 (Ampere)


def compute_dtype(dtype, devices=None):
    """Resolve the dtype of a computation.

    Args:
        dtype: name of a dtype, or "auto": bfloat16 if all devices are TPUs or NVIDIA GPUs of
            compute capability 8.0 or higher, else float32. Parameters, statistics, loss and
            optimizer are float32 with both.
        devices: where it computes, attached or not; by default all attached ones.

    Returns:
        The name of a dtype; any other than "auto" as it is.
    """
    if dtype != AUTO:
        return dtype
    devices = jax.devices() if devices is None else devices
    return "bfloat16" if all(map(_has_bfloat16, devices)) else "float32"


def _has_bfloat16(device):
    if device.platform != "gpu":
        return device.platform == "tpu"
    # Of AMD GPUs it is a name such as gfx90a.
    capability = str(getattr(device, "compute_capability", ""))
    return bool(re.fullmatch(r"\d+\.\d+", capability)) and float(capability) >= _FIRST_GPU
