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

_WARMUP_START = 0.1  # share of the rate at the start of a warm-up, in all published recipes


def scaled_lr(settings, batch):
    """The learning rate for a batch of `batch` clips (Goyal et al., 2017: the linear rule)."""
    return settings.lr * (batch / settings.base_batch if settings.scale_lr else 1)


def learning_rate(settings, *, batch, epochs, steps_per_epoch):
    """The learning rate as a function of the step.

    - "multistep": `lr`, times `gamma` from the first step of each epoch in `milestones` on.
    - "cosine": half a cosine from `lr` to `final_ratio * lr`.
    - "constant": `lr`.

    During the warm-up that is multiplied by a factor that rises linearly from 0.1 to 1, step by
    step, or epoch by epoch and constant inside an epoch.

    The releases of mmaction2 differ in details, which `style` chooses between. With "mmengine"
    (1.x: MultiStepLR, CosineAnnealingLR, LinearLR) the factor is 1 at the last step, or in the last
    epoch, of the warm-up, and the cosine begins after it. With "mmcv" (0.x) the factor is 1 right
    after the warm-up, and the cosine begins with the training.

    Args:
        settings: the section `optim` of a configuration.
        batch: clips per step.
        epochs: length of the training, in epochs.
        steps_per_epoch: steps per epoch; may be a fraction.

    Returns:
        A function of the step (from 0), usable inside `jax.jit`.

    Raises:
        UserError: `cosine_by` is "epoch", and an epoch is shorter than a step.
    """
    lr = scaled_lr(settings, batch)
    if settings.cosine_by == "epoch" and steps_per_epoch < 1:
        raise UserError("optim.cosine_by='epoch' needs at least one step per epoch")
    # First steps of epochs, on the host: a float32 quotient could round across an epoch's end.
    boundaries = [math.ceil(epoch * steps_per_epoch) for epoch in settings.milestones]
    warmup_steps = round(settings.warmup_epochs * steps_per_epoch)
    total_steps = round(epochs * steps_per_epoch)
    first_steps = np.ceil(np.arange(1, math.ceil(epochs)) * steps_per_epoch).astype(np.int32)

    def rate(step):
        step = jnp.asarray(step)
        value = jnp.asarray(
            lr, jnp.promote_types(jnp.float32, jax.dtypes.canonicalize_dtype(float))
        )
        if settings.schedule == "multistep":
            passed = sum((step >= boundary).astype(jnp.int32) for boundary in boundaries)
            value = value * settings.gamma ** jnp.asarray(passed, value.dtype)
        elif settings.schedule == "cosine":
            done, begin, end = step, warmup_steps, total_steps
            if settings.cosine_by == "epoch":
                done, begin, end = _epoch(step, first_steps), settings.warmup_epochs, epochs
            begin = 0 if settings.style == "mmcv" else begin
            share = (done - begin) / max(end - begin, 1)
            value = value * _half_cosine(share, settings.final_ratio)
        return value * _warmup(step, settings, warmup_steps, first_steps) if warmup_steps else value

    return rate


def _warmup(step, settings, num_steps, first_steps):
    """The factor of a warm-up of `num_steps`; `first_steps` as in `_epoch`."""
    done, last = step, num_steps
    if settings.warmup_by == "epoch":
        done, last = _epoch(step, first_steps), math.ceil(settings.warmup_epochs)
    last -= settings.style == "mmengine"
    share = jnp.minimum(done / last, 1) if last else 1.0
    return _WARMUP_START + (1 - _WARMUP_START) * share


def _half_cosine(share, end):
    """Falls from 1 to `end` while `share` rises from 0 to 1, and stays there."""
    return end + (1 - end) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(share, 0, 1)))


def _epoch(step, first_steps):
    """The epoch that `step` is in; `first_steps` are those of the second epoch and later ones."""
    return jnp.searchsorted(first_steps, step, side="right")


def group_multipliers(params, settings):
    """Factors of learning rate and weight decay for every parameter.

    With `groups` "plain", everything has weight decay. "tsm" is the rule of TSM, TRN and TIN
    (mmaction2's TSMOptimWrapperConstructor): weights 1 and 1, biases 2 and 0, batch norms 1 and 0;
    with `fc_lr5`, the layer on the backbone's features 5 and 1, its bias 10 and 0. `backbone_rate`
    multiplies the learning rate of the backbone.

    Args:
        params: a pytree of the trainable parameters, named as in `Recognizer`.
        settings: the section `optim` of a configuration.

    Returns:
        Two pytrees of floats like `params`: factors of the learning rate and of the weight decay.

    Raises:
        UserError: the rule doesn't cover a parameter.
    """
    names = jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), params
    )
    known = set(jax.tree.leaves(names))

    def factors(name):
        rate, decay = 1.0, 1.0
        if settings.groups == "tsm":
            rate, decay = _tsm_group(name, known, settings.fc_lr5)
        return rate * (settings.backbone_rate if name.startswith("backbone/") else 1.0), decay

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


def sgd(params, rate, settings):
    """SGD with momentum as PyTorch computes it.

    Args:
        params: a pytree of the trainable parameters.
        rate: learning rate as a function of the step.
        settings: the section `optim` of a configuration.

    Returns:
        An `optax.GradientTransformation`.
    """
    rates, decays = group_multipliers(params, settings)
    weight_decay, clip_norm = settings.weight_decay, settings.clip_norm

    def decay(updates, params):
        return jax.tree.map(lambda g, p, d: g + weight_decay * d * p, updates, params, decays)

    return optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.stateless(decay),
        optax.trace(settings.momentum, nesterov=settings.nesterov),
        optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, rates)),
        optax.scale_by_learning_rate(rate),
    )
