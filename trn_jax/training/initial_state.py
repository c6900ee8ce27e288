"""The state that a training starts from: drawn, or with weights of other projects."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from trn_jax import convert
from trn_jax.distributed.sharding import replicated
from trn_jax.training.train_step import TrainState, state_sharding


def state_definition(make_model, make_optimizer):
    """Define the state of a training, without computing anything.

    Args:
        make_model: function without arguments that returns a `Recognizer`.
        make_optimizer: function of the trainable parameters (or their shapes).

    Returns:
        The graph definition, the optimizer, and a function that draws a `TrainState`.
    """
    graph, *abstract = nnx.split(nnx.eval_shape(make_model), nnx.Param, nnx.BatchStat, ...)
    optimizer = make_optimizer(nnx.as_pure(abstract[0]))

    def init():
        _, *states = nnx.split(make_model(), nnx.Param, nnx.BatchStat, ...)
        params, stats, fixed = nnx.as_pure(tuple(states))
        return TrainState(jnp.zeros((), jnp.int32), params, stats, fixed, optimizer.init(params))

    return graph, optimizer, init


def init_state(make_model, make_optimizer, mesh, shard="none"):
    """Draw the initial state on the devices of `mesh`.

    On CPUs nothing is compiled for it but what `nn.initial` needs.

    Returns:
        The graph definition, the optimizer, and a `TrainState`; see `state_definition` and
        `state_sharding`.
    """
    graph, optimizer, init = state_definition(make_model, make_optimizer)
    shapes = jax.eval_shape(init)
    sharding = state_sharding(shapes, mesh, shard)
    if mesh.devices.flat[0].platform != "cpu":
        return graph, optimizer, jax.jit(init, out_shardings=sharding or replicated(mesh))()
    shardings = jax.tree.map(lambda _: replicated(mesh), shapes) if sharding is None else sharding
    return graph, optimizer, jax.tree.map(_on_devices, init(), shardings)


def _on_devices(value, sharding):
    """An array of this process, which all processes have, in shards."""
    if jax.process_count() == 1:
        return jax.device_put(value, sharding)
    value = np.asarray(value)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def load_weights(graph, state, weights, **options):
    """Load foreign weights.

    Args:
        graph: the structure of the model.
        state: a `TrainState`.
        weights: `{name: array}`, see `trn_jax.convert`.
        **options: of `convert.load_state_dict`.

    Returns:
        The new state, and lines on unread tensors, see `convert.unread`.
    """
    model = nnx.merge(graph, *state.model)
    rows = convert.load_state_dict(model, weights, **options)
    _, *states = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    # With the shardings that a step returns, so that nothing compiles again after the first one.
    places = jax.tree.map(lambda leaf: leaf.sharding, state.model)
    params, stats, fixed = jax.device_put(nnx.as_pure(tuple(states)), places)
    new = state.replace(params=params, stats=stats, fixed=fixed)
    return new, convert.unread(weights, rows)
