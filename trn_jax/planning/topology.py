"""Devices to compile for, attached or not. TPUs and GPUs need their compilers, but no device."""

import contextlib
import os
import pathlib
import re

import jax

from trn_jax.errors import UserError, first_line

# Memory of a chip in GiB (Google Cloud, "TPU versions").
_TPU_MEMORY = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
# Keep libtpu from searching for TPUs, and let several processes compile at a time.
_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

# Descriptions of GPUs for the compiler, a protocol buffer as text: what the data sheets have.
_GPUS = pathlib.Path(__file__).parent / "gpus"
_PER_MACHINE = 8  # GPUs of a machine
_GPU_SHARE = 0.75  # of the memory that JAX takes by default
# Without a device nothing can be timed, neither to choose algorithms nor Triton's products.
_NO_GPU = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
NO_GPU_NOTE = (
    "compiled without a GPU, where nothing can be timed: autotuning and Triton's products are off, "
    "so workspaces of cuDNN are not included, and some kernels may differ"
)


def find_devices(topology):
    """Devices of a topology to compile for, and the memory of each.

    Args:
        topology: TPUs such as "v5e:4x4"; GPUs such as "h200:8"; "cpu:8"; or "gpu" for the attached
            GPUs.

    Returns:
        A list of devices, and the bytes of memory of each or `None` if unknown.

    Raises:
        UserError: the topology does not exist, or its compiler is not installed.
    """
    kind, _, shape = topology.partition(":")
    if kind in gpu_names():
        return _gpus(topology, kind, shape)
    if kind == "cpu":
        if not shape.isdecimal() or int(shape) < 1:
            raise UserError(f"--topology={topology}: expected a number of devices, as in cpu:8")
        with contextlib.suppress(RuntimeError):  # JAX is initialised, so the number is fixed
            jax.config.update("jax_num_cpu_devices", int(shape))
        devices = jax.devices("cpu")
        if len(devices) < int(shape):
            raise UserError(f"--topology={topology}: JAX has only {len(devices)} CPU devices")
        return devices[: int(shape)], None
    if topology == "gpu":
        try:
            devices = jax.devices("gpu")
        except RuntimeError as error:
            raise UserError(f"--topology=gpu: no GPU is attached ({error})") from None
        return devices, (devices[0].memory_stats() or {}).get("bytes_limit")
    if kind not in _TPU_MEMORY or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise UserError(
            f"--topology={topology!r} is not one of cpu:<devices>, gpu (the attached ones), "
            f"<GPU>:<number> of {', '.join(gpu_names())}, such as h100:8, or, for TPUs, "
            f"<version>:<shape> with the versions {', '.join(_TPU_MEMORY)}, such as v5e:4x4 or "
            "v5p:8x8x8"
        )
    jax.config.update("jax_platforms", "cpu")  # nothing runs on attached TPUs
    for name, value in _NO_TPU.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"--topology={topology}: unknown to the TPU compiler, or the compiler is missing "
            f"({reason}); install it with pip install 'trn_jax[plan]'"
        ) from None
    return list(found.devices), _TPU_MEMORY[kind] << 30


def gpu_names():
    """Names of the GPUs that can be compiled for without one, sorted."""
    return sorted(path.stem for path in _GPUS.glob("*.txtpb"))


def compiler_options(devices):
    """Options of the compiler: none for attached devices, and for GPUs that are only described."""
    return dict(_NO_GPU) if is_described_gpu(devices[0]) else {}


def is_described_gpu(device):
    """Whether a device is a GPU that is not attached."""
    return device.platform == "gpu" and getattr(device, "local_hardware_id", None) is None


def _gpus(topology, kind, shape):
    """Described GPUs, and the memory of each that JAX takes."""
    if not shape.isdecimal() or not 1 <= int(shape) < 1 << 16:
        raise UserError(f"--topology={topology}: expected a number of GPUs, as in {kind}:8")
    count = int(shape)
    if count > _PER_MACHINE and count % _PER_MACHINE:
        raise UserError(
            f"--topology={topology}: several machines have {_PER_MACHINE} GPUs each; expected at "
            f"most {_PER_MACHINE}, or a multiple of it"
        )
    jax.config.update("jax_platforms", "cpu")  # nothing runs on attached GPUs
    from jax.experimental import topologies

    # Slices, machines in each, GPUs in each.
    shape = f"1x{max(count // _PER_MACHINE, 1)}x{min(count, _PER_MACHINE)}"
    described = (_GPUS / f"{kind}.txtpb").read_text()
    options = dict(platform="cuda", target_config=described, topology=shape)
    try:
        found = topologies.get_topology_desc(**options)
    except Exception as error:
        raise UserError(
            f"--topology={topology}: the compiler for GPUs is missing ({first_line(error)}); "
            "install it with pip install 'trn_jax[plan-gpu]', under Linux"
        ) from None
    (total,) = re.findall(r"device_memory_size: (\d+)", described)
    return list(found.devices), int(_memory_share() * int(total))


def _memory_share():
    """The share of a GPU's memory that JAX takes, as its environment variables set it."""
    for name in ("XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION"):
        with contextlib.suppress(KeyError, ValueError):
            return float(os.environ[name])
    return _GPU_SHARE
