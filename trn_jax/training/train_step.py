"""One step of training on the devices: its state, its loss, and how both begin."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from trn_jax import convert
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
        step: number of steps taken, which is also the number of the next global batch.
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
            of 0 and 1 for the binary cross-entropy of every class by itself, a mean over them too
            (`BCELossWithLogits` of mmaction2).
        weight: factor of the loss.
        label_smoothing: share of a label that is spread over all classes (Szegedy et al.,
            "Rethinking the Inception Architecture for Computer Vision", 2016); of one label per
            clip.
        class_weights: a factor per class, for the clips that have it.
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
    layout=None,
):
    """Take one step of SGD.

    The random numbers of a step follow from `(seed, step)` and from each clip's number in the
    global batch; batch statistics are those of groups of clips. The outcome therefore depends
    neither on the number of devices nor on `accumulation` (up to rounding).

    Args:
        state: a `TrainState`, donated by the caller.
        batch: `clip` uint8 `[batch, segments, height, width, 3]` and `label`, `[batch]` or, of
            several labels per clip, `[batch, classes]` of 0 and 1.
        graph: the structure of the model.
        optimizer: an optax transformation.
        rate: learning rate as a function of the step, for the log.
        seed: of the step's random numbers.
        accumulation: number of parts that the batch is computed in, one after the other.
        loss: function of logits and labels, a mean over the clips.
        skip_not_finite: if the loss or the norm of the gradient is not finite, leave parameters,
            statistics and momentum as they are. The step counts all the same, so that random
            numbers and learning rate remain those of the step.
        mesh: the devices that the batch is cut over.
        layout: where the state lies, see `state_sharding`; by default whole on every device.

    Returns:
        The new state, and the scalars `loss`, `top1`, `grad_norm` (before clipping) and `lr`.
        `top1` is the share of the clips whose highest score is that of (one of) their labels.
        With `skip_not_finite` also `skipped`, 1 if the step was, else 0.
    """
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    dropout_key, relations_key = jax.random.split(key)

    whole_params, whole_fixed = state.params, state.fixed
    if layout is not None:
        # What is cut over the devices is put together first. Otherwise the partitioner may cut the
        # layers along their channels, and send features around instead of parameters.
        whole_params, whole_fixed = jax.lax.with_sharding_constraint(
            (state.params, state.fixed), replicated(mesh)
        )

    def loss_fn(params, clips, labels, clip_index):
        model = nnx.merge(graph, params, state.stats, whole_fixed)
        rngs = nnx.Rngs(dropout=dropout_key, relations=relations_key)
        logits, auxiliary = model.outputs(clips, train=True, rngs=rngs, clip_index=clip_index)
        value = loss(logits, labels)
        if auxiliary is not None:
            value += model.neck.auxiliary_weight * loss(auxiliary, labels)
        stats = nnx.as_pure(nnx.state(model, nnx.BatchStat))
        return value, (_top1(logits, labels), stats)

    def part_of_step(_, part):
        return None, jax.value_and_grad(loss_fn, has_aux=True)(whole_params, *part)

    clips, labels = batch["clip"], batch["label"]
    parts = (clips, labels, jnp.arange(len(labels)))
    if accumulation == 1:
        _, outcome = part_of_step(None, parts)
    else:
        parts = jax.tree.map(lambda x: _cut(x, accumulation, mesh), parts)
        _, outcomes = jax.lax.scan(part_of_step, None, parts)
        outcome = mean_outcome(outcomes)
    return update_state(
        state,
        outcome,
        optimizer=optimizer,
        rate=rate,
        skip_not_finite=skip_not_finite,
        mesh=mesh,
        layout=layout,
    )


def mean_outcome(outcomes):
    """The outcome of a step from those of its parts, `[parts, ...]`."""
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), outcomes)


def update_state(state, outcome, *, optimizer, rate, skip_not_finite, mesh, layout):
    """The end of `train_step`, which is done once, in however many parts the batch is computed.

    Args:
        state: a `TrainState`.
        outcome: `((loss, (top1, statistics)), gradients)`.
        optimizer: see `train_step`, as for the others and for what is returned.
        rate: function of the step.
        skip_not_finite: whether to keep the state where the outcome is not finite.
        mesh: the devices.
        layout: where the state lies.
    """
    (value, (top1, stats)), grads = outcome
    if layout is not None:
        # Every device updates a part of the momentum, and needs that part of the gradient only.
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
        own = jnp.where(labels > 0, logits, -jnp.inf)
        right = own.max(axis=-1) == logits.max(axis=-1)
    return jnp.mean(right, dtype=logits.dtype)


def _unless_not_finite(before, after, scalars):
    """What a step leaves behind, and its scalars with `skipped` added."""
    # A branch behind a barrier: a choice element by element would be fused with the update, and
    # round otherwise. So the numbers of a training without NaN are the same, bit for bit.
    after, scalars = jax.lax.optimization_barrier((after, scalars))
    finite = jnp.isfinite(scalars["loss"]) & jnp.isfinite(scalars["grad_norm"])
    after = jax.lax.cond(finite, lambda after, _: after, _only_counters, after, before)
    return after, scalars | {"skipped": jnp.where(finite, 0, 1)}


def _only_counters(after, before):
    """The state before a step, but with the counters, the only integers in it, after the step."""
    return jax.tree.map(
        lambda new, old: new if jnp.issubdtype(new.dtype, jnp.integer) else old, after, before
    )


@jax.jit
def all_finite(tree):
    """Whether all numbers of a pytree of arrays are finite, a bool array."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _cut(x, accumulation, mesh):
    """Cut `[batch, ...]` into `[accumulation, batch / accumulation, ...]`.

    Every device cuts its own rows, so that nothing travels between devices.
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


def jit_train_step(mesh, *, layout=None, **kwargs):
    """Compile `train_step` for `mesh`: the state is donated, the batch cut over the devices.

    Args:
        mesh: the devices.
        layout: where the state lies, before and after, see `state_sharding`.
        **kwargs: of `train_step`.
    """
    whole = replicated(mesh)
    placed = whole if layout is None else layout
    return jax.jit(
        partial(train_step, mesh=mesh, layout=layout, **kwargs),
        in_shardings=(placed, batch_sharding(mesh)),
        out_shardings=(placed, whole),
        donate_argnums=0,
    )


def lay_out(make_model, make_optimizer):
    """Make a plan of a training, without computing anything.

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
    """Draw a model and lay it out on the devices of `mesh`.

    Returns:
        The graph definition, the optimizer, and a `TrainState`; see `lay_out` and `state_sharding`.
    """
    graph, optimizer, init = lay_out(make_model, make_optimizer)
    layout = state_sharding(jax.eval_shape(init), mesh, shard) or replicated(mesh)
    return graph, optimizer, jax.jit(init, out_shardings=layout)()


def load_weights(graph, state, weights, **options):
    """Begin with foreign weights.

    Args:
        graph: the structure of the model.
        state: a `TrainState`.
        weights: `{name: array}`, see `trn_jax.convert`.
        **options: of `convert.load_state_dict`.

    Returns:
        The new state, and lines on what was of no use, see `convert.unread`.
    """
    model = nnx.merge(graph, *state.model)
    rows = convert.load_state_dict(model, weights, **options)
    _, *states = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    # Laid out as a step leaves them, so that nothing is compiled again after the first one.
    places = jax.tree.map(lambda leaf: leaf.sharding, state.model)
    params, stats, fixed = jax.device_put(nnx.as_pure(tuple(states)), places)
    new = state.replace(params=params, stats=stats, fixed=fixed)
    return new, convert.unread(weights, rows)
