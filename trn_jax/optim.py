"""Learning rates, parameter groups and SGD, in the order of operations of PyTorch.

One optax transformation: clip the raw gradient by its global norm, add the coupled weight decay,
apply momentum, then the learning rate of the step and of the group.
"""

import math

import jax
import jax.numpy as jnp
import optax

from trn_jax.errors import UserError

_SCHEDULES = ("multistep", "cosine", "constant")
_GROUPS = ("plain", "tsm")


def learning_rate(
    *,
    lr,
    schedule,
    epochs,
    steps_per_epoch,
    milestones=(),
    gamma=0.1,
    warmup_epochs=0,
    warmup_start=0.1,
    warmup_by="step",
):
    """The learning rate as a function of the step.

    - "multistep": `lr`, times `gamma` from the first step of each epoch in `milestones` on.
    - "cosine": half a cosine, step by step, from `lr` at the end of the warm-up to 0 at `epochs`.
    - "constant": `lr`.

    During the warm-up that is multiplied by a factor that rises linearly from `warmup_start`, to 1
    at the last step (`warmup_by="step"`) or in the last epoch (`warmup_by="epoch"`, constant inside
    an epoch) of the warm-up. These are mmengine's MultiStepLR, CosineAnnealingLR and LinearLR.

    Args:
        lr: the rate without warm-up, at the start.
        schedule: the name of the schedule.
        epochs: length of the training, in epochs.
        steps_per_epoch: steps per epoch; may be a fraction.
        milestones: epochs.
        gamma: factor at each milestone.
        warmup_epochs: length of the warm-up, in epochs.
        warmup_start: factor that the warm-up starts with.
        warmup_by: "step" or "epoch".

    Returns:
        A function of the step (from 0), usable inside `jax.jit`.

    Raises:
        UserError: for an unknown name.
    """
    if schedule not in _SCHEDULES:
        raise UserError(f"optim.schedule={schedule!r} is not one of {', '.join(_SCHEDULES)}")
    if warmup_by not in ("step", "epoch"):
        raise UserError(f"optim.warmup_by={warmup_by!r} is neither 'step' nor 'epoch'")
    # First steps of epochs, on the host: a float32 quotient could round across an epoch's end.
    boundaries = [math.ceil(epoch * steps_per_epoch) for epoch in milestones]
    warmup_steps = round(warmup_epochs * steps_per_epoch)
    total_steps = round(epochs * steps_per_epoch)

    def rate(step):
        step = jnp.asarray(step)
        value = jnp.asarray(
            lr, jnp.promote_types(jnp.float32, jax.dtypes.canonicalize_dtype(float))
        )
        if schedule == "multistep":
            passed = sum((step >= boundary).astype(jnp.int32) for boundary in boundaries)
            value = value * gamma ** jnp.asarray(passed, value.dtype)
        elif schedule == "cosine":
            share = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
            value = value * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(share, 0, 1)))
        if warmup_steps:
            if warmup_by == "step":
                done, last = step, warmup_steps - 1
            else:
                last = math.ceil(warmup_epochs) - 1
                starts = [math.ceil(epoch * steps_per_epoch) for epoch in range(1, last + 1)]
                done = sum(((step >= start).astype(jnp.int32) for start in starts), 0)
            share = jnp.minimum(done / last, 1) if last else 1.0
            value = value * (warmup_start + (1 - warmup_start) * share)
        return value

    return rate


def group_multipliers(params, *, groups, fc_lr5=False):
    """Factors of learning rate and weight decay for every parameter.

    "plain" is one group: weight decay on everything. "tsm" is the rule of TSM, TRN and TIN
    (mmaction2's TSMOptimWrapperConstructor): weights 1 and 1, biases 2 and 0, batch norms 1 and 0;
    with `fc_lr5`, the layer on the backbone's features 5 and 1, its bias 10 and 0.

    Args:
        params: a pytree of the trainable parameters, named as in `Recognizer`.
        groups: "plain" or "tsm".
        fc_lr5: see above.

    Returns:
        Two pytrees of floats like `params`: factors of the learning rate and of the weight decay.

    Raises:
        UserError: for an unknown name, or a parameter that the rule does not know.
    """
    if groups not in _GROUPS:
        raise UserError(f"optim.groups={groups!r} is not one of {', '.join(_GROUPS)}")
    names = jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), params
    )
    known = set(jax.tree.leaves(names))

    def factors(name):
        return (1.0, 1.0) if groups == "plain" else _tsm_group(name, known, fc_lr5)

    rates = jax.tree.map(lambda name: factors(name)[0], names)
    decays = jax.tree.map(lambda name: factors(name)[1], names)
    return rates, decays


def _tsm_group(name, names, fc_lr5):
    layer, _, leaf = name.rpartition("/")
    if f"{layer}/scale" in names:
        return 1.0, 0.0
    boost = 5.0 if fc_lr5 and layer == "head/fc" else 1.0
    if leaf == "kernel":
        return boost, 1.0
    if leaf == "bias":
        return 2.0 * boost, 0.0
    raise UserError(f"optim.groups='tsm' has no rule for the parameter {name!r}; use 'plain'")


def sgd(
    params,
    rate,
    *,
    momentum,
    nesterov=False,
    weight_decay,
    clip_norm=0,
    groups="plain",
    fc_lr5=False,
):
    """SGD with momentum as PyTorch computes it.

    Args:
        params: a pytree of the trainable parameters.
        rate: learning rate as a function of the step.
        momentum: share of the old direction that is kept.
        nesterov: look ahead along the new direction.
        weight_decay: coefficient of the parameters that is added to the clipped gradient.
        clip_norm: largest global norm of the gradient; 0 for no limit.
        groups: see `group_multipliers`.
        fc_lr5: see `group_multipliers`.

    Returns:
        An `optax.GradientTransformation`.
    """
    rates, decays = group_multipliers(params, groups=groups, fc_lr5=fc_lr5)

    def decay(updates, params):
        return jax.tree.map(lambda g, p, d: g + weight_decay * d * p, updates, params, decays)

    return optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.stateless(decay),
        optax.trace(momentum, nesterov=nesterov),
        optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, rates)),
        optax.scale_by_learning_rate(rate),
    )
