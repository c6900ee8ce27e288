"""Hardware and software versions that affect speed."""

import contextlib
import importlib.metadata
import os
import platform

_PACKAGES = (
    *("jax", "jax-cuda12-plugin", "jax-cuda13-plugin", "numpy"),
    *("opencv-python-headless", "simplejpeg", "av", "torch", "onnx", "onnxruntime"),
    *("nvidia-cuda-runtime-cu12", "nvidia-cuda-runtime", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13"),
)


def describe() -> str:
    """CPU, GPU driver and package versions as text."""
    named = []
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            named = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    versions = [f"Python {platform.python_version()}"]
    if os.path.exists("/proc/driver/nvidia/version"):
        with open("/proc/driver/nvidia/version") as file:
            versions.append(" ".join(file.readline().split()))
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    return f"{named[0] if named else platform.machine()}; {', '.join(versions)}"
