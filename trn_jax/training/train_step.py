"""One step of training on the devices: state, loss, gradients, update."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from trn_jax.distributed.sharding import batch_sharding, fsdp_sharding, replicated
from trn_jax.errors import UserError

# Fields of `TrainState` that are sharded. The last two names are those of earlier versions.
SHARD_STATE: dict[str, tuple[str, ...]] = {
    "none": (),
    "zero1": ("opt_state",),
    "fsdp": ("params", "fixed", "opt_state"),
    "optimizer": ("opt_state",),
    "all": ("params", "fixed", "opt_state"),
}


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes.

    Attributes:
        step: number of steps taken, and so the index of the next global batch.
        params: trainable parameters.
        stats: running statistics of the batch norms.
        fixed: frozen parameters.
        opt_state: state of the optimizer.
    """

    step: jax.Array
    params: nnx.State
    stats: nnx.State
    fixed: nnx.State
    opt_state: optax.OptState

    @property
    def model(self):
        """The states that, with the graph definition, make up the model."""
        return self.params, self.stats, self.fixed


def classification_loss(logits, labels, *, weight=1.0, label_smoothing=0.0, class_weights=None):
    """The mean loss of a batch.

    Args:
        logits: `[batch, classes]`.
        labels: `[batch]` for the softmax cross-entropy of one label per clip, or `[batch, classes]`
            of 0 and 1 for the binary cross-entropy of each class, also averaged over the classes
            (`BCELossWithLogits` of mmaction2).
        weight: factor of the loss.
        label_smoothing: share of a label that is spread over all classes (Szegedy et al.,
            "Rethinking the Inception Architecture for Computer Vision", 2016); only for one label
            per clip.
        class_weights: a factor per class.
    """
    if labels.ndim > 1:
        losses = optax.sigmoid_binary_cross_entropy(logits, labels)
    elif label_smoothing:
        targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
        losses = optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing))
    else:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if class_weights is not None:
        factors = jnp.asarray(class_weights, losses.dtype)
        losses *= factors if labels.ndim > 1 else factors[labels]
    return weight * losses.mean()


def train_step(
    state,
    batch,
    *,
    graph,
    optimizer,
    rate,
    seed,
    accumulation=1,
    loss=classification_loss,
    skip_not_finite=False,
    mesh,
    sharding=None,
):
    """Take one step of SGD.

    Random numbers are a function of `(seed, step)` and of each clip's index in the global batch;
    batch statistics are those of groups of clips. The result therefore depends neither on the
    number of devices nor on `accumulation` (up to rounding).

    Args:
        state: a `TrainState`, donated by the caller.
        batch: `clip` uint8 `[batch, segments, height, width, 3]` and `label`, `[batch]` or, of
            several labels per clip, `[batch, classes]` of 0 and 1.
        graph: the graph definition of the model.
        optimizer: an optax transformation.
        rate: learning rate as a function of the step, for the log.
        seed: of the random numbers.
        accumulation: number of parts that the batch is computed in, one after the other.
        loss: function of logits and labels, a mean over the clips.
        skip_not_finite: if the loss or the norm of the gradient is not finite, leave parameters,
            statistics and momentum unchanged. The step counts all the same, so that random numbers
            and learning rate remain those of the step.
        mesh: the devices that the batch is sharded over.
        sharding: of the state, see `state_sharding`; by default it is replicated.

    Returns:
        The new state, and the scalars `loss`, `top1`, `grad_norm` (before clipping) and `lr`.
        `top1` is the share of the clips whose highest score is that of (one of) their labels.
        With `skip_not_finite` also `skipped`, 1 if the step was, else 0.
    """
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
    params, fixed = _gathered(state, mesh, sharding)
    loss_of = partial(_loss, graph=graph, stats=state.stats, fixed=fixed, keys=keys, loss=loss)
    gradient_of = partial(jax.value_and_grad(loss_of, has_aux=True), params)
    labels = batch["label"]
    clips = batch["clip"], labels, jnp.arange(len(labels))
    values_and_grads = _mean_over_parts(gradient_of, clips, accumulation, mesh)
    return update_state(
        state,
        values_and_grads,
        optimizer=optimizer,
        rate=rate,
        skip_not_finite=skip_not_finite,
        mesh=mesh,
        sharding=sharding,
    )


def _gathered(state, mesh, sharding):
    """Trainable and frozen parameters, replicated."""
    params = state.params, state.fixed
    if sharding is None:
        return params
    # Otherwise the partitioner may shard the layers along their channels, and communicate features
    # instead of parameters.
    return jax.lax.with_sharding_constraint(params, replicated(mesh))


def _mean_over_parts(gradient_of, clips, accumulation, mesh):
    """The mean of what `gradient_of` gives for each of `accumulation` parts of `clips`."""
    if accumulation == 1:
        return gradient_of(*clips)

    def of_part(_, part):
        return None, gradient_of(*part)

    parts = jax.tree.map(lambda x: _split(x, accumulation, mesh), clips)
    _, found = jax.lax.scan(of_part, None, parts)
    return mean_of_parts(found)


def _loss(params, clips, labels, clip_index, *, graph, stats, fixed, keys, loss):
    """The loss of clips; with it their accuracy, and the statistics of the batch norms after it."""
    dropout_key, relations_key = keys
    model = nnx.merge(graph, params, stats, fixed)
    rngs = nnx.Rngs(dropout=dropout_key, relations=relations_key)
    logits, auxiliary = model.outputs(clips, train=True, rngs=rngs, clip_index=clip_index)
    value = loss(logits, labels)
    if auxiliary is not None:
        value += model.neck.auxiliary_weight * loss(auxiliary, labels)
    return value, (_top1(logits, labels), nnx.as_pure(nnx.state(model, nnx.BatchStat)))


def mean_of_parts(parts):
    """Means over the parts of a step, `[parts, ...]`: loss, accuracy, statistics, gradients."""
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), parts)


def update_state(state, values_and_grads, *, optimizer, rate, skip_not_finite, mesh, sharding):
    """The last part of `train_step`, once per batch.

    Args:
        state: a `TrainState`.
        values_and_grads: `((loss, (top1, statistics)), gradients)`.
        optimizer: see `train_step`, as for the others and for what is returned.
        rate: function of the step.
        skip_not_finite: whether to keep the state if loss or gradients are not finite.
        mesh: the devices.
        sharding: of the state.
    """
    (value, (top1, stats)), grads = values_and_grads
    if sharding is not None:
        # Every device updates a part of the momentum, and needs only that part of the gradient.
        grads = jax.lax.with_sharding_constraint(grads, fsdp_sharding(grads, mesh))
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    scalars = {
        "loss": value,
        "top1": top1,
        "grad_norm": optax.tree.norm(grads),
        "lr": rate(state.step),
    }
    params = optax.apply_updates(state.params, updates)
    after = dict(params=params, stats=stats, opt_state=opt_state)
    if skip_not_finite:
        before = {name: getattr(state, name) for name in after}
        after, scalars = _unless_not_finite(before, after, scalars)
    return state.replace(step=state.step + 1, **after), scalars


def _top1(logits, labels):
    """The share of the clips whose highest score is that of (one of) their labels."""
    if labels.ndim == 1:
        right = jnp.argmax(logits, axis=-1) == labels
    else:
        labelled = jnp.where(labels > 0, logits, -jnp.inf)
        right = labelled.max(axis=-1) == logits.max(axis=-1)
    return jnp.mean(right, dtype=logits.dtype)


def _unless_not_finite(before, after, scalars):
    """The state after a step, and its scalars with `skipped` added."""
    # A branch behind a barrier: an elementwise choice would be fused with the update, and round
    # differently. This way a training without NaN gives the same numbers, bit for bit.
    after, scalars = jax.lax.optimization_barrier((after, scalars))
    finite = jnp.isfinite(scalars["loss"]) & jnp.isfinite(scalars["grad_norm"])
    after = jax.lax.cond(finite, lambda after, _: after, _only_counters, after, before)
    return after, scalars | {"skipped": jnp.where(finite, 0, 1)}


def _only_counters(after, before):
    """The state before a step, with the counters (its only integers) of the state after it."""
    return jax.tree.map(
        lambda new, old: new if jnp.issubdtype(new.dtype, jnp.integer) else old, after, before
    )


def all_finite(tree):
    """Whether all numbers of a pytree of arrays are finite, on all processes."""
    leaves = jax.tree.leaves(tree)
    if all(_is_in_host_memory(leaf) for leaf in leaves):
        # A program for all arrays of a network takes a CPU seconds to compile.
        return all(np.isfinite(leaf).all() for leaf in leaves)
    return bool(_all_finite(leaves))


def _is_in_host_memory(leaf):
    if not isinstance(leaf, jax.Array):
        return True
    return leaf.is_fully_addressable and all(d.platform == "cpu" for d in leaf.devices())


@jax.jit
def _all_finite(leaves):
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def _split(x, accumulation, mesh):
    """Split `[batch, ...]` into `[accumulation, batch / accumulation, ...]`.

    Every device splits its own rows, without communication.
    """
    rows = x.reshape(mesh.size, accumulation, -1, *x.shape[1:])
    parts = rows.swapaxes(0, 1).reshape(accumulation, -1, *x.shape[1:])
    sharding = NamedSharding(mesh, PartitionSpec(None, "data"))
    return jax.lax.with_sharding_constraint(parts, sharding)


def state_sharding(state, mesh, shard="none"):
    """The sharding of a `TrainState`.

    Args:
        state: a `TrainState`, or its shapes.
        mesh: the devices.
        shard: what is sharded, see `fsdp_sharding`: "none", the state of the optimizer ("zero1"),
            or the parameters, too ("fsdp"; Rajbhandari et al., "ZeRO: Memory Optimizations Toward
            Training Trillion Parameter Models", 2020). The rest is replicated, and so are the
            parameters during a step. A step computes the same, up to rounding.

    Returns:
        A `TrainState` of shardings, or `None` if all is replicated.

    Raises:
        UserError: there is no such choice.
    """
    if shard not in SHARD_STATE:
        raise UserError(f"train.shard_state={shard!r} is not one of none, zero1, fsdp")
    if shard == "none":
        return None
    everywhere = jax.tree.map(lambda _: replicated(mesh), state)
    sharded = {name: fsdp_sharding(getattr(state, name), mesh) for name in SHARD_STATE[shard]}
    return everywhere.replace(**sharded)


def jit_train_step(mesh, *, sharding=None, **kwargs):
    """Jit `train_step` for `mesh`: the state is donated, the batch sharded over the devices.

    Args:
        mesh: the devices.
        sharding: of the state before and after, see `state_sharding`.
        **kwargs: of `train_step`.
    """
    everywhere = replicated(mesh)
    placed = everywhere if sharding is None else sharding
    return jax.jit(
        partial(train_step, mesh=mesh, sharding=sharding, **kwargs),
        in_shardings=(placed, batch_sharding(mesh)),
        out_shardings=(placed, everywhere),
        donate_argnums=0,
    )
