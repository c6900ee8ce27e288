"""Learning rates, parameter groups and SGD, in the order of operations of PyTorch.

One optax transformation: clip the raw gradient by its global norm, add the coupled weight decay,
apply momentum, then the learning rate of the step and of the group.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trn_jax.errors import UserError

_SCHEDULES = ("multistep", "cosine", "constant")
_STYLES = ("mmengine", "mmcv")
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
    final_ratio=0.0,
    cosine_by="step",
    style="mmengine",
):
    """The learning rate as a function of the step.

    - "multistep": `lr`, times `gamma` from the first step of each epoch in `milestones` on.
    - "cosine": half a cosine from `lr` to `final_ratio * lr`.
    - "constant": `lr`.

    During the warm-up that is multiplied by a factor that rises linearly from `warmup_start` to 1,
    step by step, or epoch by epoch and constant inside an epoch.

    The releases of mmaction2 differ in details, which `style` chooses between. With "mmengine"
    (1.x: MultiStepLR, CosineAnnealingLR, LinearLR) the factor is 1 at the last step, or in the last
    epoch, of the warm-up, and the cosine begins after it. With "mmcv" (0.x) the factor is 1 right
    after the warm-up, and the cosine begins with the training.

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
        final_ratio: what the cosine ends with, as a share of `lr`.
        cosine_by: whether the cosine falls at every "step" or at every "epoch".
        style: "mmengine" or "mmcv".

    Returns:
        A function of the step (from 0), usable inside `jax.jit`.

    Raises:
        UserError: for an unknown name.
    """
    if schedule not in _SCHEDULES:
        raise UserError(f"optim.schedule={schedule!r} is not one of {', '.join(_SCHEDULES)}")
    if style not in _STYLES:
        raise UserError(f"optim.style={style!r} is not one of {', '.join(_STYLES)}")
    for key, value in {"warmup_by": warmup_by, "cosine_by": cosine_by}.items():
        if value not in ("step", "epoch"):
            raise UserError(f"optim.{key}={value!r} is neither 'step' nor 'epoch'")
    if cosine_by == "epoch" and steps_per_epoch < 1:
        raise UserError("optim.cosine_by='epoch' needs at least one step per epoch")
    # First steps of epochs, on the host: a float32 quotient could round across an epoch's end.
    boundaries = [math.ceil(epoch * steps_per_epoch) for epoch in milestones]
    warmup_steps = round(warmup_epochs * steps_per_epoch)
    total_steps = round(epochs * steps_per_epoch)
    first_steps = np.ceil(np.arange(1, math.ceil(epochs)) * steps_per_epoch).astype(np.int32)

    def rate(step):
        step = jnp.asarray(step)
        value = jnp.asarray(
            lr, jnp.promote_types(jnp.float32, jax.dtypes.canonicalize_dtype(float))
        )
        if schedule == "multistep":
            passed = sum((step >= boundary).astype(jnp.int32) for boundary in boundaries)
            value = value * gamma ** jnp.asarray(passed, value.dtype)
        elif schedule == "cosine":
            done, begin, end = step, warmup_steps, total_steps
            if cosine_by == "epoch":
                done, begin, end = _epoch(step, first_steps), warmup_epochs, epochs
            begin = 0 if style == "mmcv" else begin
            value = value * _half_cosine((done - begin) / max(end - begin, 1), final_ratio)
        if warmup_steps:
            done, last = step, warmup_steps
            if warmup_by == "epoch":
                done, last = _epoch(step, first_steps), math.ceil(warmup_epochs)
            last -= style == "mmengine"
            share = jnp.minimum(done / last, 1) if last else 1.0
            value = value * (warmup_start + (1 - warmup_start) * share)
        return value

    return rate


def _half_cosine(share, end):
    """Falls from 1 to `end` while `share` rises from 0 to 1, and stays there."""
    return end + (1 - end) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(share, 0, 1)))


def _epoch(step, first_steps):
    """The epoch that `step` is in; `first_steps` are those of the second epoch and later ones."""
    return jnp.searchsorted(first_steps, step, side="right")


def group_multipliers(params, *, groups, fc_lr5=False, backbone_rate=1.0):
    """Factors of learning rate and weight decay for every parameter.

    "plain" is one group: weight decay on everything. "tsm" is the rule of TSM, TRN and TIN
    (mmaction2's TSMOptimWrapperConstructor): weights 1 and 1, biases 2 and 0, batch norms 1 and 0;
    with `fc_lr5`, the layer on the backbone's features 5 and 1, its bias 10 and 0.

    Args:
        params: a pytree of the trainable parameters, named as in `Recognizer`.
        groups: "plain" or "tsm".
        fc_lr5: see above.
        backbone_rate: factor of the learning rate for all parameters of the backbone.

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
        rate, decay = (1.0, 1.0) if groups == "plain" else _tsm_group(name, known, fc_lr5)
        return rate * (backbone_rate if name.startswith("backbone/") else 1.0), decay

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
    backbone_rate=1.0,
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
        backbone_rate: see `group_multipliers`.

    Returns:
        An `optax.GradientTransformation`.
    """
    rates, decays = group_multipliers(
        params, groups=groups, fc_lr5=fc_lr5, backbone_rate=backbone_rate
    )

    def decay(updates, params):
        return jax.tree.map(lambda g, p, d: g + weight_decay * d * p, updates, params, decays)

    return optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.stateless(decay),
        optax.trace(momentum, nesterov=nesterov),
        optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, rates)),
        optax.scale_by_learning_rate(rate),
    )
