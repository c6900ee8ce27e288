"""The device mesh, shardings, and prefetch of batches to the devices."""

import collections
import queue
import threading

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from trn_jax import signals
from trn_jax.errors import UserError

_PATIENCE = 2.0  # seconds
_BATCHES_AHEAD = 2
_SMALL = 4096  # elements up to which an array isn't worth a collective of its own
_END = object()


def make_mesh(devices=None):
    """A mesh with one axis, "data", over `devices` (by default all devices of all processes).

    Devices of a process are adjacent, so that its contiguous part of the batch goes to them; in the
    order of their ids, those of a TPU pod are not.

    Raises:
        UserError: one process has more devices than another.
    """
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    counts = collections.Counter(device.process_index for device in devices)
    if len(set(counts.values())) > 1:
        found = ", ".join(f"process {each} has {count}" for each, count in sorted(counts.items()))
        raise UserError(
            f"all processes must have the same number of devices, but {found}; use as many in each "
            "(CUDA_VISIBLE_DEVICES chooses GPUs), or fewer processes"
        )
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh):
    """The sharding of arrays that every device holds in full."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh):
    """The leading axis is sharded into contiguous parts, one per device."""
    return NamedSharding(mesh, PartitionSpec("data"))


def fsdp_sharding(tree, mesh):
    """Shard every array of a pytree along its largest axis that the devices divide.

    Arrays without such an axis, and small ones, are replicated.

    Args:
        tree: of arrays or their shapes.
        mesh: the devices.

    Returns:
        A pytree of shardings.
    """

    def split(leaf):
        sizes = [0 if size % mesh.size else size for size in leaf.shape]
        if leaf.size <= _SMALL or not any(sizes):
            return replicated(mesh)
        axis = sizes.index(max(sizes))
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))

    return jax.tree.map(split, tree)


def gathered(tree):
    """The arrays of a pytree, replicated over their devices.

    With several processes, all of them must call this.
    """
    leaves, structure = jax.tree.flatten(tree)
    if all(leaf.is_fully_replicated for leaf in leaves):
        return tree
    full = [replicated(leaf.sharding.mesh) for leaf in leaves]
    return jax.tree.unflatten(structure, jax.jit(_same, out_shardings=full)(leaves))


def _same(arrays):
    return arrays


class DevicePrefetch:
    """Transfers batches to the devices ahead of time, in a thread of its own.

    Iterating gives `(arrays, rest)`: some entries of the batch as global arrays, sharded over the
    mesh, and the others unchanged. The iteration raises the errors of the loader.

    Args:
        batches: an iterator of this process's parts of the batches, with a method `close`.
        mesh: where they go.
        keys: of the entries that go there.
    """

    def __init__(self, batches, mesh, keys=("clip", "label")):
        self._batches = batches
        self._keys = keys
        self._sharding = batch_sharding(mesh)
        self._ready: queue.Queue = queue.Queue(_BATCHES_AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="device-prefetch", daemon=True)
        self._thread.start()

    def _run(self):
        try:
            for batch in self._batches:
                arrays = {
                    key: jax.make_array_from_process_local_data(self._sharding, batch[key])
                    for key in self._keys
                }
                rest = {key: value for key, value in batch.items() if key not in self._keys}
                if not self._put((arrays, rest)):
                    return
            self._put(_END)
        except BaseException as error:
            self._put(error)

    def _put(self, item):
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self):
        return self

    def __next__(self):
        item = self._ready.get()
        if item is _END:
            self._ready.put(_END)
            raise StopIteration
        if isinstance(item, BaseException):
            self.close()
            raise item
        return item

    def close(self):
        """Stop the thread and the loader behind it."""
        self._closed.set()
        # After an interruption, the loader may wait for what never comes: frames of a stalled pipe.
        self._thread.join(_PATIENCE if signals.is_interrupted() else None)
        if not self._thread.is_alive():
            self._batches.close()
