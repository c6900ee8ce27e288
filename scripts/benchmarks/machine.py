"""What decides about speed: the processor, and versions."""

import contextlib
import importlib.metadata
import os
import platform


def describe() -> str:
    """The processor, and versions of what decides about speed."""
    named = []
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            named = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    versions = [f"Python {platform.python_version()}"]
    for package in ("jax", "numpy", "opencv-python-headless", "simplejpeg", "av", "torch"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    return f"{named[0] if named else platform.machine()}; {', '.join(versions)}"
