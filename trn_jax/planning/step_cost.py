"""Cost of the steps of a recipe: training and evaluation are compiled, and nothing runs."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from trn_jax import build, checks
from trn_jax.data.views import View
from trn_jax.distributed.sharding import batch_sharding, make_mesh, replicated
from trn_jax.evaluation.scoring import graph_with, relation_draws, score_draws
from trn_jax.models import create_model
from trn_jax.models.folding import fold_batch_norm
from trn_jax.planning.hlo_cost import cost_of
from trn_jax.settings import resolved_views
from trn_jax.training import initial_state, train_step

_STEPS_PER_EPOCH = 1000  # any number: the learning rate schedule does not change the cost of a step


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
    graph, optimizer, init = initial_state.state_definition(
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
    graph, state = nnx.split(nnx.eval_shape(partial(_evaluated_model, config, view.crop_size)))
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


def _evaluated_model(config, size):
    model = create_model(**config.model, rngs=nnx.Rngs(0))
    return fold_batch_norm(model, size=size)


def _abstract(leaf, sharding):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
