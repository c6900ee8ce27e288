"""Memory, FLOPs and communication of a recipe on devices that need not be attached.

The training and evaluation steps are compiled ahead of time for a topology to read their cost;
nothing runs and no data set is read. TPUs need libtpu, the compiler, but no TPU.
"""

import contextlib
import dataclasses
import math
import os
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from trn_jax import build, checks
from trn_jax.data.views import View
from trn_jax.distributed.sharding import batch_sharding, make_mesh, replicated
from trn_jax.errors import UserError
from trn_jax.evaluation.scoring import graph_with, relation_draws, score_draws
from trn_jax.models import create_model
from trn_jax.planning.batch_search import BatchSearch, find_largest_batch
from trn_jax.planning.hlo_cost import cost_of
from trn_jax.settings import protocol_names, resolved_views
from trn_jax.training import train_step

# Memory of a chip in GiB (Google Cloud, "TPU versions").
_TPU_MEMORY = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
# Keep libtpu from searching for TPUs, and let several processes compile at a time.
_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_STEPS_PER_EPOCH = 1000  # any number: the learning rate schedule does not change the cost of a step


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


def training_cost(config, devices):
    """Compile the training step of a recipe.

    Args:
        config: see `trn_jax.config.base`.
        devices: a list of devices; the batch is sharded over them.

    Returns:
        The `HloCost`.

    Raises:
        DoesNotFit: the batch is too large for their memory.
        UserError: the batch can't be sharded over them, or the compiler fails otherwise.
    """
    parts = config.train.accumulation
    once = partial(trace_update, config) if parts > 1 else None
    trace = partial(trace_training, config)
    return cost_of(trace, devices, f"a batch of {config.train.batch}", parts=parts, once=once)


def trace_training(config, devices):
    """Trace the training step of a recipe for some devices."""
    defined = _define(config, devices)
    step = train_step.jit_train_step(
        defined.mesh,
        sharding=defined.sharding,
        graph=defined.graph,
        seed=config.seed,
        accumulation=config.train.accumulation,
        **defined.options,
    )
    split = batch_sharding(defined.mesh)
    batch, view = config.train.batch, View(**resolved_views(config)["data.train"])
    labels: tuple[tuple[int, ...], type] = ((batch,), jnp.int32)
    if config.data.multi_label:
        labels = (batch, config.model.num_classes), jnp.float32
    clips = (batch, view.num_segments, view.crop_size, view.crop_size, 3)
    arrays = {
        "clip": jax.ShapeDtypeStruct(clips, jnp.uint8, sharding=split),
        "label": jax.ShapeDtypeStruct(*labels, sharding=split),
    }
    return step.trace(defined.state, arrays)


def trace_update(config, devices):
    """Trace what a training step does once, after the last of its accumulated parts."""
    defined = _define(config, devices)
    replicate = replicated(defined.mesh)

    def update(state, parts):
        values_and_grads = train_step.mean_of_parts(parts)
        return train_step.update_state(
            state, values_and_grads, mesh=defined.mesh, sharding=defined.sharding, **defined.options
        )

    def stacked(leaf):
        shape = (config.train.accumulation, *leaf.shape)
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=replicate)

    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    values_and_grads = (scalar, (scalar, defined.state.stats)), defined.state.params
    shardings = jax.tree.map(lambda leaf: leaf.sharding, defined.state)
    jitted = jax.jit(update, donate_argnums=0, out_shardings=(shardings, replicate))
    return jitted.trace(defined.state, jax.tree.map(stacked, values_and_grads))


@dataclasses.dataclass(frozen=True)
class _Definition:
    """Abstract training state on devices; `options` are those of `train_step.update_state`."""

    mesh: jax.sharding.Mesh
    graph: nnx.GraphDef
    state: train_step.TrainState
    sharding: train_step.TrainState | None
    options: dict


def _define(config, devices):
    checks.check(config)
    mesh = make_mesh(devices)
    checks.check_batch(config, mesh.size)
    parts = build.parts(config, steps_per_epoch=_STEPS_PER_EPOCH)
    graph, optimizer, init = train_step.state_definition(
        lambda: create_model(**config.model, rngs=nnx.Rngs(config.seed)), parts.make_optimizer
    )
    shapes = jax.eval_shape(init)
    sharding = train_step.state_sharding(shapes, mesh, config.train.shard_state)
    replicate = replicated(mesh)
    shardings = jax.tree.map(lambda _: replicate, shapes) if sharding is None else sharding
    skips = config.train.on_nan == "skip"
    return _Definition(
        mesh,
        graph,
        jax.tree.map(_abstract, shapes, shardings),
        sharding,
        dict(optimizer=optimizer, rate=parts.rate, skip_not_finite=skips),
    )


def evaluation_cost(config, device, view):
    """Compile the scoring of `eval.max_views_per_step` clips of a `View` on one device."""
    clips = config.eval.max_views_per_step
    trace = partial(_trace_evaluation, config, view)
    return cost_of(trace, [device], f"eval.max_views_per_step={clips}")


def _trace_evaluation(config, view, devices):
    mesh = make_mesh(devices)
    model = nnx.eval_shape(lambda: create_model(**config.model, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(model)
    replicate, clips = replicated(mesh), config.eval.max_views_per_step
    states = (jax.tree.map(partial(_abstract, sharding=replicate), nnx.as_pure(state)),)
    shape = (clips, view.num_segments, view.crop_size, view.crop_size, 3)
    kinds, _ = relation_draws({"view": view})
    graphs = [(graph_with(graph, mode, states), num_draws) for mode, num_draws in kinds]
    return jax.jit(partial(score_draws, kinds=graphs)).trace(
        states,
        jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=replicate),
        jax.ShapeDtypeStruct((clips,), jnp.int32, sharding=replicate),
        jax.ShapeDtypeStruct((), jnp.bool_, sharding=replicate),
    )


def _abstract(leaf, sharding):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def batch_step(config, num_devices):
    """The number that batches must be a multiple of, as in `checks.check_batch`."""
    group = config.model.norm_group or 1
    if config.train.accumulation > 1:  # each part holds whole groups
        return num_devices * config.train.accumulation * group
    return math.lcm(num_devices, group)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Cost of the steps of a recipe on the devices of a topology.

    Attributes:
        config: the configuration.
        topology: such as "v5e:4x4".
        num_devices: number of chips.
        memory: bytes of a chip; 0 if unknown.
        costs: `{"training step": HloCost, "evaluation, <protocol>": HloCost, ...}`.
        search: for the largest batch; `None` if the memory is unknown.
    """

    config: Any
    topology: str
    num_devices: int
    memory: int
    costs: dict
    search: BatchSearch | None

    def __str__(self):
        config = self.config
        lines = [
            f"{config.model.name} in {config.model.dtype}, {config.train.batch} clips on "
            f"{self.num_devices} chips ({self.topology}){_savings(config)}"
        ]
        if self.search:
            lines += [f"{self.memory / 2**30:.1f} GiB of memory per chip", self.search.describe()]
            if self.search.largest:
                rate = self._rate_of(self.search.largest)
                lines.append(f"its learning rate by the linear scaling rule: {rate:g}")
        header = ("arguments", "temporary", "code", "all", "GFLOP", "GB moved")
        lines.append(f"{'GiB per chip':24}" + "".join(f"{text:>12}" for text in header))
        for name, each in self.costs.items():
            values = (each.arguments, each.temporary, each.code, each.memory)
            cells = [f"{value / 2**30:.3f}" for value in values]
            cells += [_or_unknown(each.flops / 1e9, 1), _or_unknown(each.traffic / 1e9, 2)]
            lines.append(f"{name:24}" + "".join(f"{cell:>12}" for cell in cells))
        return "\n".join(lines + _communication(self.costs["training step"]))

    def to_dict(self):
        """The plan as JSON-able values, in bytes and FLOPs per chip."""
        model, train = self.config.model, self.config.train
        found = dict(
            model=model.name,
            dtype=model.dtype,
            batch=train.batch,
            topology=self.topology,
            num_devices=self.num_devices,
            memory=self.memory or None,
        )
        if self.search:
            largest = self.search.largest
            rate = self._rate_of(largest) if largest else None
            found |= dict(largest_batch=largest, largest_batch_lr=rate)
        found["steps"] = {
            name: {
                "arguments": each.arguments,
                "temporary": each.temporary,
                "code": each.code,
                "memory": each.memory,
                "flops": None if math.isnan(each.flops) else each.flops,
                "traffic": None if math.isnan(each.traffic) else each.traffic,
                "collectives": [dict(kind=c.kind, bytes=c.bytes) for c in each.collectives],
            }
            for name, each in self.costs.items()
        }
        return found

    def _rate_of(self, batch):
        return self.config.optim.lr * batch / self.config.optim.base_batch


def search_batch(config, devices, memory, cost):
    """Search for the largest batch of a recipe that fits; `cost` is that of its own batch."""

    def cost_of(batch):
        changed = config.copy_and_resolve_references()
        changed.train.batch = batch
        return training_cost(changed, devices)

    step = batch_step(config, len(devices))
    return find_largest_batch(cost_of, config.train.batch, cost, memory, step)


def make_plan(config, topology):
    """Compile the steps of a recipe for a topology.

    Returns:
        A `Plan`.

    Raises:
        UserError: see `find_devices` and `training_cost`.
    """
    devices, memory = find_devices(topology)
    costs = {"training step": training_cost(config, devices)}
    search = search_batch(config, devices, memory, costs["training step"]) if memory else None
    for name in protocol_names(config, "all"):
        view = View(**resolved_views(config)[f"protocols.{name}"])
        costs[f"evaluation, {name}"] = evaluation_cost(config, devices[0], view)
    return Plan(config, topology, len(devices), memory or 0, costs, search)


def _or_unknown(value, digits):
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"


def _savings(config):
    """Settings of the recipe that save memory."""
    settings = [
        ("model.remat", config.model.remat or 0, 0),
        ("train.accumulation", config.train.accumulation, 1),
        ("train.shard_state", config.train.shard_state, "none"),
    ]
    return "".join(f", {name}={value}" for name, value, plain in settings if value != plain)


def _communication(cost):
    if not cost.collectives:
        return ["no communication between chips in a training step"]
    kinds = dict.fromkeys(each.kind for each in cost.collectives)
    lines = ["communication between chips in a training step, per chip:"]
    for kind in kinds:
        sizes = [each.bytes for each in cost.collectives if each.kind == kind]
        lines.append(f"  {len(sizes)} x {kind}, {sum(sizes) / 1e6:.3f} MB")
    return lines
