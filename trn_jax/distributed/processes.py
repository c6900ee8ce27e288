"""Multi-process runs: connect, synchronise and exit together.

Every process has its own devices. With one process, every function is a no-op.
"""

import contextlib
import hashlib
import itertools
import os
import socket
import sys
import threading
import time
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax._src import distributed  # the key-value store has no public name
from jax._src.clusters import ClusterEnv  # `initialize` doesn't return the number of processes

from trn_jax.errors import STUCK, UserError, escaped, first_line

# In place of the flags; the last two have older names, too.
VARIABLES = ("TRN_JAX_COORDINATOR", "TRN_JAX_NUM_PROCESSES", "TRN_JAX_PROCESS_ID")
_OLD_VARIABLES = {
    "TRN_JAX_NUM_PROCESSES": "TRN_JAX_NUM_HOSTS",
    "TRN_JAX_PROCESS_ID": "TRN_JAX_HOST",
}
_EXAMPLE = "--coordinator_address=10.0.0.1:8476 --num_processes=2 --process_id=0"
_PATIENCE = 20 * 60  # timeout in seconds for work that one process does for all
# Seconds without a heartbeat after which the runtime kills the other processes without a message.
# It is longer than the limit of `trn_jax.distributed.watchdog`, which logs why it exits.
_HEARTBEAT = 120
_TIME_TO_FAIL = 10  # seconds within which an error common to all processes reaches all of them
_BARRIERS = itertools.count()  # barrier names must be unique


def initialize(coordinator_address=None, num_processes=None, process_id=None, *, timeout=300):
    """Connect all processes. Call it before anything touches the devices.

    Arguments that are not given come from the environment variables `TRN_JAX_COORDINATOR`,
    `TRN_JAX_NUM_PROCESSES` and `TRN_JAX_PROCESS_ID`; without those, JAX detects the processes of
    Slurm, Open MPI, Cloud TPU or Kubernetes (an indexed Job or JobSet).

    Args:
        coordinator_address: `"<name or address of process 0>:<port>"`, the same for all processes.
        num_processes: number of processes; 1 runs alone, even inside a cluster job.
        process_id: index of this process, from 0.
        timeout: seconds to wait for the others; then the process exits with status `STUCK`.

    Raises:
        UserError: the arguments contradict each other, or the cluster environment is incomplete.
    """
    given = _given(coordinator_address, num_processes, process_id)
    if given is None:
        _join_cluster(timeout)
        return
    address, num_processes, process = given
    if num_processes == 1:
        return
    if process == 0:
        _check_port(address)
    # Explicit arguments win over the environment, such as Slurm's task number.
    _join(
        f"at {address}, by process {process} of {num_processes}",
        coordinator_address=address,
        num_processes=num_processes,
        process_id=process,
        cluster_detection_method="deactivate",
        timeout=timeout,
    )


def _given(*given):
    """Coordinator, number of processes and index, from flags or environment, or `None`."""
    names = ("--coordinator_address", "--num_processes", "--process_id")
    if all(value is None for value in given):
        names = VARIABLES
        given = tuple(_variable(name) for name in names)
    if all(value is None for value in given):
        return None
    address, num_processes, process = given[0], *map(_count, names[1:], given[1:])
    if num_processes == 1 and not process:
        return address, 1, 0
    values = dict(zip(names, (address, num_processes, process), strict=True))
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise UserError(
            f"{', '.join(n for n in names if n not in missing)} without {', '.join(missing)}: give "
            f"all three, such as {_EXAMPLE}, with another index on every process; or none of them "
            "in Slurm, Open MPI, Cloud TPU or Kubernetes"
        )
    if num_processes < 1 or not 0 <= process < num_processes:
        raise UserError(
            f"{names[1]}={num_processes} and {names[2]}={process}: expected an index from 0 to the "
            "number of processes minus 1"
        )
    _, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(
            f"{names[0]}={address} is not <host>:<port>; give the name or address of the machine "
            f"of process 0 and a free port, the same on all processes, such as {_EXAMPLE}"
        )
    return address, num_processes, process


def _variable(name):
    return os.environ.get(name) or os.environ.get(_OLD_VARIABLES.get(name, "")) or None


def _count(name, value):
    try:
        return None if value is None else int(value)
    except ValueError:
        raise UserError(f"{name}={value} isn't an integer; an example: {_EXAMPLE}") from None


def _check_port(address):
    """Raise `UserError` if the port is taken: the runtime would exit without a message."""
    port = int(address.rpartition(":")[2])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one just closed is free
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(
                f"process 0 can't listen at {address}: {error.strerror}; give all processes "
                "another port with --coordinator_address"
            ) from None


def _join_cluster(timeout):
    """Connect the processes of the detected cluster job, if it has more than one."""
    try:
        cluster = next((c for c in ClusterEnv._cluster_types if _is_here(c)), None)
        if cluster is None or cluster.get_process_count() == 1:
            return
        which = f"of {cluster.__name__}, {cluster.get_process_count()} processes"
    except Exception as error:
        raise UserError(
            "the environment doesn't describe the processes of this job: "
            f"{error or type(error).__name__}; give {_EXAMPLE}, or --num_processes=1 to run alone"
        ) from error
    _join(which, local_device_ids=_devices_of_slurm(), timeout=timeout)


def _is_here(cluster):
    if cluster.opt_in_only_method:
        return False
    if cluster.__name__ == "K8sCluster" and "JOB_COMPLETION_INDEX" not in os.environ:
        return False  # a single pod, or pods without an index
    return cluster.is_env_present()


def _devices_of_slurm():
    """All GPUs of the node if Slurm runs one task per node; by default JAX uses one per task."""
    names = ("SLURM_NTASKS", "SLURM_STEP_NUM_NODES", "SLURM_GPUS_ON_NODE")
    tasks, nodes, gpus = (os.environ.get(name, "") for name in names)
    return list(range(int(gpus))) if tasks == nodes and gpus.isdecimal() else None


def _join(which, *, timeout, **options):
    """Initialise JAX's distributed runtime.

    The runtime waits in C++ and aborts the process on timeout, which Python can't catch. A timer
    thread exits earlier, with a message.
    """
    clock = threading.Timer(timeout, _give_up, [which, timeout])
    clock.daemon = True
    clock.start()
    try:
        # `trn_jax.distributed.watchdog` handles preemption notices. With the runtime's service,
        # Orbax would agree on steps of its own, which the training loop may never reach.
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(
            initialization_timeout=timeout + 60, heartbeat_timeout_seconds=_HEARTBEAT, **options
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"the processes can't connect ({which}): {error}; give {_EXAMPLE}"
        ) from error
    finally:
        clock.cancel()


def _give_up(which, timeout):
    print(
        f"error: not all processes connected within {timeout} s ({which}). Start the same command "
        "for each of them, with the same --coordinator_address and --num_processes and its own "
        "--process_id; the others must reach process 0 under that name and port",
        file=sys.stderr,
        flush=True,
    )
    os._exit(STUCK)


def coordinator():
    """Address of the runtime's coordinator, `"<host>:<port>"`; "" with one process."""
    return distributed.global_state.coordinator_address or ""


def check_same(**texts):
    """Check that all processes pass the same texts; the keywords name them in errors.

    Raises:
        UserError: a process has another text than process 0.
    """
    if jax.process_count() == 1:
        return
    register = KeyValueStore("trn_jax/same")
    for name, text in texts.items():
        register.write(f"{name}/{jax.process_index()}", hashlib.sha256(text.encode()).hexdigest())
    barrier()
    for name in texts:
        found = register.read(name)
        other = [process for process, digest in found.items() if digest != found["0"]]
        if other:
            raise UserError(
                f"process {min(other, key=int)} has another {name} than process 0; start all "
                "processes with the same command and the same files"
            )


class StoreGone(Exception):
    """Process 0, which serves the key-value store, does not answer."""


class KeyValueStore:
    """Key-value store shared by all processes while process 0 is alive.

    Args:
        folder: prefix of all keys.
    """

    def __init__(self, folder):
        self._folder = folder
        self._client: Any = distributed.global_state.client

    def write(self, name, text):
        """Set the value of a key."""
        with self._explained():
            self._client.key_value_set(f"{self._folder}/{name}", text, allow_overwrite=True)

    def read(self, folder):
        """All values below a prefix, `{key: value}`."""
        with self._explained():
            found = self._client.key_value_dir_get(f"{self._folder}/{folder}/")
        return {name.rpartition("/")[2]: text for name, text in found}

    @contextlib.contextmanager
    def _explained(self):
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            raise StoreGone(first_line(error)) from None


def barrier(seconds=_PATIENCE):
    """Barrier over all processes that does not use the devices.

    Every process must call it the same number of times.

    Raises:
        RuntimeError: a process did not reach it within `seconds`.
    """
    if jax.process_count() > 1:
        wait = ocp.multihost.get_barrier_sync_fn()
        wait(key=f"trn_jax_{next(_BARRIERS)}", timeout_ms=1000 * seconds)


@contextlib.contextmanager
def process_zero_first():
    """Run a block on process 0 first, then on the others, even if process 0 failed.

    The others find what process 0 wrote, or write it themselves on a disk of their own.
    """
    if jax.process_index():
        barrier()
    try:
        yield
    finally:
        if jax.process_index() == 0:
            barrier()


def log(text):
    """Print lines to standard error, on process 0 only."""
    if jax.process_index() == 0:
        print(escaped(text, keep="\n\t"), file=sys.stderr, flush=True)


def log_here(text):
    """Print lines about this process to standard error, with its index unless it is process 0."""
    process = f"process {jax.process_index()}: " if jax.process_index() else ""
    print(process + escaped(text, keep="\n\t"), file=sys.stderr, flush=True)


def fail(message, status):
    """Exit after an error, from any thread.

    If all processes fail, process 0 prints the message. A process that fails alone prints it itself
    and exits at once, since the others may be blocked waiting for it.

    Args:
        message: the error message.
        status: exit status.
    """
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        print(message, file=sys.stderr, flush=True)
        sys.exit(status)
    process = jax.process_index()
    if process == 0:
        print(message, file=sys.stderr, flush=True)
    if not _all_fail() and process:
        print(f"process {process}: {message}", file=sys.stderr, flush=True)
    if process == 0:
        time.sleep(1)  # exiting stops the store, which aborts processes that are still exiting
    os._exit(status)


def _all_fail():
    try:
        wait = ocp.multihost.get_barrier_sync_fn()
        wait(key="trn_jax_failed", timeout_ms=1000 * _TIME_TO_FAIL)
    except Exception:
        return False
    return True
