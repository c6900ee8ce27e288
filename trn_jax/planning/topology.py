"""Devices to compile for, attached or not. TPUs need libtpu, the compiler, but no TPU."""

import contextlib
import os
import re

import jax

from trn_jax.errors import UserError

# Memory of a chip in GiB (Google Cloud, "TPU versions").
_TPU_MEMORY = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
# Keep libtpu from searching for TPUs, and let several processes compile at a time.
_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def find_devices(topology):
    """Devices of a topology to compile for, and the memory of each.

    Args:
        topology: TPUs such as "v5e:4x4"; "cpu:8"; or "gpu" for the attached GPUs.

    Returns:
        A list of devices, and the bytes of memory of each or `None` if unknown.

    Raises:
        UserError: the topology does not exist, or its compiler is not installed.
    """
    kind, _, shape = topology.partition(":")
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
            f"--topology={topology!r} is not one of cpu:<devices>, gpu, or, for TPUs, "
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
