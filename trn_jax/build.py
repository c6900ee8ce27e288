"""From a configuration to the parts of a training: model, optimizer, learning rate and loss.

Together with `recipe_data`, the training loop and the evaluation this is the only code that sees a
configuration.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np
from flax import nnx

from trn_jax import checks, optim
from trn_jax.models import create_model
from trn_jax.recipe_data import Data


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a training step is made of.

    Attributes:
        make_model: function without arguments that draws a `Recognizer`.
        make_optimizer: function of the trainable parameters (or their shapes).
        rate: the learning rate as a function of the step.
        loss_options: of `train_step.classification_loss`.
        steps_per_epoch: a fraction, where the last batch of an epoch reaches into the next.
        num_steps: of the whole training, at least 1.
        eval_steps: from one evaluation to the next; 0: only after the last step.
    """

    make_model: Callable
    make_optimizer: Callable
    rate: Callable
    loss_options: dict
    steps_per_epoch: float
    num_steps: int
    eval_steps: int

    def evaluates_after(self, step):
        """Whether an evaluation is due after `step`."""
        often = self.eval_steps > 0 and step % self.eval_steps == 0
        return step > 0 and (step == self.num_steps or often)


def training(config, workdir):
    """The data and the parts of a training.

    Args:
        config: the configuration, see `trn_jax.config.base`; `model.num_classes` is filled in.
        workdir: see `Data`.

    Returns:
        `(Data, Parts)`.
    """
    data = Data(config, workdir)
    config.model.num_classes = len(data.class_names)
    steps_per_epoch = len(data.train_records) / config.train.batch
    balanced = config.train.class_weights == "balanced"
    labels = data.train_labels if balanced else None  # of several labels, a large array
    return data, parts(config, steps_per_epoch=steps_per_epoch, train_labels=labels)


def parts(config, *, steps_per_epoch, train_labels=None):
    """The parts of a training step.

    Args:
        config: the configuration.
        steps_per_epoch: may be a fraction.
        train_labels: of the training list, for `train.class_weights`.

    Raises:
        UserError: `model.num_classes` isn't set.
    """
    train, num_classes = config.train, config.model.num_classes
    checks.check_num_classes(config)
    rate = optim.learning_rate(
        config.optim, batch=train.batch, epochs=train.epochs, steps_per_epoch=steps_per_epoch
    )
    loss_options = dict(weight=train.loss_weight, label_smoothing=train.label_smoothing)
    if train.class_weights == "balanced" and train_labels is not None:
        loss_options["class_weights"] = balanced_weights(train_labels, num_classes)
    return Parts(
        make_model=lambda: create_model(**model_options(config), rngs=nnx.Rngs(config.seed)),
        make_optimizer=partial(optim.sgd, rate=rate, settings=optim_settings(config)),
        rate=rate,
        loss_options=loss_options,
        steps_per_epoch=steps_per_epoch,
        num_steps=train.steps or max(round(train.epochs * steps_per_epoch), 1),
        eval_steps=max(round(train.eval_every * steps_per_epoch), 1) if train.eval_every else 0,
    )


def balanced_weights(labels, num_classes):
    """A factor per class that gives all classes among `labels` the same weight; 1 on average.

    Returns:
        float64 `[num_classes]`; 1 for a class that does not occur.
    """
    counts = np.bincount(labels, minlength=num_classes)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts, weights, 1.0)


def model_options(config):
    """Arguments of `create_model` for a training.

    Where all weights are drawn, nothing is frozen: batch norms would stay at mean 0 and variance 1,
    and stages at noise, which only what comes from elsewhere makes sense of.
    """
    options = config.model.to_dict()
    if not config.init_from:
        options |= dict(partial_bn=None, frozen_stages=None)
    return options


def optim_settings(config):
    """The section `optim` for a training.

    Without `init_from`, the backbone trains at the full rate: the lower one that preserves
    pretrained features would leave it near its random start.
    """
    settings = config.optim.copy_and_resolve_references()
    if not config.init_from:
        settings.backbone_rate = 1.0
    return settings
