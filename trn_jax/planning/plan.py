"""What a recipe needs on devices that need not be here: memory, operations, communication.

The training step and the evaluation step are compiled for a topology, ahead of time, and asked; no
array is made and no data set is read. For TPUs this needs libtpu, the compiler, but no TPU.
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
from trn_jax.evaluation.evaluator import score_clips
from trn_jax.models import create_model
from trn_jax.planning.batch_search import Fitting, find_largest_batch
from trn_jax.planning.hlo_cost import cost_of
from trn_jax.settings import protocol_names, resolved_views
from trn_jax.training import train_step

# Memory of a chip in GiB (Google Cloud, "TPU versions").
_TPU_MEMORY = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
# The compiler looks for TPUs, and complains if it does not find any; several may compile at a time.
_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_STEPS_PER_EPOCH = 1000  # the schedule of the learning rate does not change the cost of a step


def find_devices(topology):
    """The devices of a topology, and the memory of each in bytes.

    Args:
        topology: such as "v5e:4x4", of TPUs; "cpu:8"; or "gpu", those that are here.

    Returns:
        A list of devices, which are only good for compiling unless they are here, and the bytes of
        memory of each, or `None` if that is not known.

    Raises:
        UserError: there is no such topology, or what compiles for it is not installed.
    """
    kind, _, shape = topology.partition(":")
    if kind == "cpu":
        if not shape.isdecimal() or int(shape) < 1:
            raise UserError(f"--topology={topology}: expected a number of devices, as in cpu:8")
        with contextlib.suppress(RuntimeError):  # devices are in use, whose number is fixed
            jax.config.update("jax_num_cpu_devices", int(shape))
        devices = jax.devices("cpu")
        if len(devices) < int(shape):
            raise UserError(f"--topology={topology}: there are only {len(devices)} such devices")
        return devices[: int(shape)], None
    if topology == "gpu":
        try:
            devices = jax.devices("gpu")
        except RuntimeError as error:
            raise UserError(f"--topology=gpu: there is none here ({error})") from None
        return devices, (devices[0].memory_stats() or {}).get("bytes_limit")
    if kind not in _TPU_MEMORY or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise UserError(
            f"--topology={topology!r} is not one of cpu:<devices>, gpu, or, for TPUs, "
            f"<version>:<shape> with the versions {', '.join(_TPU_MEMORY)}, such as v5e:4x4 or "
            "v5p:8x8x8"
        )
    jax.config.update("jax_platforms", "cpu")  # nothing runs on TPUs, if there are any
    for name, value in _NO_TPU.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"--topology={topology}: the compiler for TPUs does not know it, or is not there "
            f"({reason}); it comes with pip install 'trn_jax[plan]'"
        ) from None
    return list(found.devices), _TPU_MEMORY[kind] << 30


def training_cost(config, devices):
    """Compile the training step of a recipe.

    Args:
        config: see `trn_jax.config.base`.
        devices: a list of devices, of which each takes the same part of the batch.

    Returns:
        The `Cost`.

    Raises:
        DoesNotFit: the batch is too large for their memory.
        UserError: it cannot be cut over the devices, or there is no way to compute it.
    """
    parts = config.train.accumulation
    once = partial(_trace_update, config) if parts > 1 else None
    trace = partial(_trace_training, config)
    return cost_of(trace, devices, f"a batch of {config.train.batch}", parts=parts, once=once)


def _trace_training(config, devices):
    """The training step, as JAX sees it."""
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


def _trace_update(config, devices):
    """What a training step does after the last of its parts."""
    defined = _define(config, devices)
    whole, parts = replicated(defined.mesh), config.train.accumulation

    def update(state, parts):
        values_and_grads = train_step.mean_of_parts(parts)
        return train_step.update_state(
            state, values_and_grads, mesh=defined.mesh, sharding=defined.sharding, **defined.options
        )

    def stacked(leaf):
        return jax.ShapeDtypeStruct((parts, *leaf.shape), leaf.dtype, sharding=whole)

    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    values_and_grads = (scalar, (scalar, defined.state.stats)), defined.state.params
    places = jax.tree.map(lambda leaf: leaf.sharding, defined.state)
    jitted = jax.jit(update, donate_argnums=0, out_shardings=(places, whole))
    return jitted.trace(defined.state, jax.tree.map(stacked, values_and_grads))


@dataclasses.dataclass(frozen=True)
class _Definition:
    """A training on devices: `options` are those of `train_step.update_state`."""

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
    whole = replicated(mesh)
    places = jax.tree.map(lambda _: whole, shapes) if sharding is None else sharding
    skips = config.train.on_nan == "skip"
    return _Definition(
        mesh,
        graph,
        jax.tree.map(_abstract, shapes, places),
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
    whole, clips = replicated(mesh), config.eval.max_views_per_step
    states = (jax.tree.map(partial(_abstract, sharding=whole), nnx.as_pure(state)),)
    shape = (clips, view.num_segments, view.crop_size, view.crop_size, 3)
    return jax.jit(partial(score_clips, graph=graph)).trace(
        states,
        jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=whole),
        jax.ShapeDtypeStruct((clips,), jnp.int32, sharding=whole),
        jax.ShapeDtypeStruct((), jnp.bool_, sharding=whole),
    )


def _abstract(leaf, sharding):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def batch_step(config, num_devices):
    """The number that a batch has to be a multiple of, as `checks.check_batch` wants it."""
    group = config.model.norm_group or 1
    if config.train.accumulation > 1:  # groups lie within the parts
        return num_devices * config.train.accumulation * group
    return math.lcm(num_devices, group)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the steps of a recipe need on the devices of a topology.

    Attributes:
        config: the configuration.
        topology: such as "v5e:4x4".
        num_devices: chips.
        memory: bytes of a chip; 0 if that is not known.
        costs: `{"training step": Cost, "evaluation, <protocol>": Cost, ...}`.
        fitting: the search for the largest batch; `None` if the memory is not known.
    """

    config: Any
    topology: str
    num_devices: int
    memory: int
    costs: dict
    fitting: Fitting | None

    def __str__(self):
        config = self.config
        lines = [
            f"{config.model.name} in {config.model.dtype}, {config.train.batch} clips on "
            f"{self.num_devices} chips ({self.topology}){_savings(config)}"
        ]
        if self.fitting:
            lines += [f"{self.memory / 2**30:.1f} GiB of memory per chip", self.fitting.describe()]
            if self.fitting.largest:
                rate = self._rate_of(self.fitting.largest)
                lines.append(f"by the linear rule its learning rate is {rate:g}")
        header = ("arguments", "temporary", "code", "all", "GFLOP", "GB moved")
        lines.append(f"{'GiB per chip':24}" + "".join(f"{text:>12}" for text in header))
        for name, each in self.costs.items():
            values = (each.arguments, each.temporary, each.code, each.memory)
            cells = [f"{value / 2**30:.3f}" for value in values]
            cells += [_or_unknown(each.flops / 1e9, 1), _or_unknown(each.traffic / 1e9, 2)]
            lines.append(f"{name:24}" + "".join(f"{cell:>12}" for cell in cells))
        return "\n".join(lines + _communication(self.costs["training step"]))

    def to_dict(self):
        """The same for programs, in bytes and operations per chip: what `json.dumps` takes."""
        model, train = self.config.model, self.config.train
        found = dict(
            model=model.name,
            dtype=model.dtype,
            batch=train.batch,
            topology=self.topology,
            num_devices=self.num_devices,
            memory=self.memory or None,
        )
        if self.fitting:
            largest = self.fitting.largest
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


def make_plan(config, topology):
    """Compile the steps of a recipe for a topology.

    Returns:
        A `Plan`.

    Raises:
        UserError: see `find_devices` and `training_cost`.
    """
    devices, memory = find_devices(topology)
    costs = {"training step": training_cost(config, devices)}
    fitting = _fitting(config, devices, memory, costs["training step"]) if memory else None
    for name in protocol_names(config, "all"):
        view = View(**resolved_views(config)[f"protocols.{name}"])
        costs[f"evaluation, {name}"] = evaluation_cost(config, devices[0], view)
    return Plan(config, topology, len(devices), memory or 0, costs, fitting)


def _or_unknown(value, digits):
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"


def _savings(config):
    """What the recipe does for less memory, as settings."""
    settings = [
        ("model.remat", config.model.remat or 0, 0),
        ("train.accumulation", config.train.accumulation, 1),
        ("train.shard_state", config.train.shard_state, "none"),
    ]
    return "".join(f", {name}={value}" for name, value, plain in settings if value != plain)


def _fitting(config, devices, memory, cost):
    def cost_of(batch):
        changed = config.copy_and_resolve_references()
        changed.train.batch = batch
        return training_cost(changed, devices)

    step = batch_step(config, len(devices))
    return find_largest_batch(cost_of, config.train.batch, cost, memory, step)


def _communication(cost):
    if not cost.collectives:
        return ["no communication between chips in a training step"]
    kinds = dict.fromkeys(each.kind for each in cost.collectives)
    lines = ["communication between chips in a training step, per chip:"]
    for kind in kinds:
        sizes = [each.bytes for each in cost.collectives if each.kind == kind]
        lines.append(f"  {len(sizes)} x {kind}, {sum(sizes) / 1e6:.3f} MB")
    return lines
