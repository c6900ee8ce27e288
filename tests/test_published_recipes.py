"""What the recipes train with, against tables written down from the publications."""

import collections
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_config import RECIPES, load

from trn_jax import create_model, evaluate, optim, recipe
from trn_jax.backbones.conv3d import Conv3d
from trn_jax.backbones.convolution import Conv
from trn_jax.backbones.layers import BatchNorm, Linear
from trn_jax.data.views import View
from trn_jax.models.tin import TemporalConv

# Learning rates: values at six steps, in epochs of 100 steps


def drops(first, second, last, lr):
    """A rate that is divided by 10 after the epochs `first` and `second`."""
    return {
        0: lr,
        100 * first - 1: lr,
        100 * first: lr / 10,
        100 * second - 1: lr / 10,
        100 * second: lr / 100,
        100 * last - 1: lr / 100,
    }


def warm_up_by_epoch(lr):
    """TSM in mmaction2 1.x: from a tenth to the whole within five epochs, drops after 25 and 45."""
    return {0: 0.1 * lr, 199: 0.325 * lr, 399: 0.775 * lr, 400: lr, 2500: lr / 10, 4500: lr / 100}


_SYNTHETIC = {
    step: 0.015 * (1 + math.cos(math.pi * step / 400)) for step in (0, 1, 100, 200, 399, 400)
}
RATES = {
    # TIN in mmaction2 0.x: a cosine of the epoch to half of the rate, and a warm-up on top of it.
    "tin_sthv1": {
        0: 0.002,
        50: 0.02 * 0.55,
        100: 0.01998459,
        1000: 0.01853553,
        2000: 0.015,
        3999: 0.01001541,
    },
    # The same by the step, to nothing.
    "tin_sthv2": {
        0: 0.002,
        50: 0.011 * (1 + math.cos(math.pi / 80)) / 2,
        2000: 0.01,
        **{step: 0.01 * (1 + math.cos(math.pi * step / 4000)) for step in (100, 1000, 3999)},
    },
    "tin_k400": drops(20, 40, 50, 0.01),
    "tpn_slowonly_k400": drops(75, 125, 150, 0.01),
    "tpn_slowonly_k400_scratch": drops(75, 125, 150, 0.01),
    "tpn_tsm_sthv1": drops(75, 125, 150, 0.01),
    "trn_bninception_jester": drops(50, 100, 120, 0.001),
    "trn_sthv1": drops(30, 45, 50, 0.002),
    "trn_sthv2": drops(30, 45, 50, 0.002),
    "tsm_jester": drops(20, 40, 50, 0.01),
    "tsm_k400": warm_up_by_epoch(0.02),
    "tsm_sthv1": drops(20, 40, 50, 0.01),
    "tsm_sthv2": warm_up_by_epoch(0.02),
    "tsn_densenet161_k400_3seg": drops(40, 80, 100, 0.01),
    "tsn_k400_3seg": drops(40, 80, 100, 0.01),
    "tsn_k400_5seg": drops(40, 80, 100, 0.01),
    "tsn_k400_8seg": drops(40, 80, 100, 0.01),
    "tsn_k400_dense5": drops(40, 80, 100, 0.06),
    "tsn_mobileone_k400_8seg": drops(40, 80, 100, 0.01),
    "tsn_resnet101_k400_8seg": drops(40, 80, 100, 0.01),
    "tsn_resnext101_k400_3seg": drops(40, 80, 100, 0.01),
    "tsn_sthv2_16seg": drops(20, 40, 50, 0.01),
    "tsn_sthv2_8seg": drops(20, 40, 50, 0.01),
    "tsn_swin_k400_3seg": drops(40, 80, 100, 0.01),
    "tsn_swin_k400_8seg": drops(20, 40, 50, 0.01),
    **dict.fromkeys(
        [f"{method}_synthetic" for method in ("trn", "tsn", "tsm", "tin", "tpn")], _SYNTHETIC
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_learning_rates_are_the_published_ones(name):
    table = RATES[name]
    assert len(table) == 6
    rate = recipe.learning_rate(load(name), steps_per_epoch=100)
    with jax.enable_x64(True):
        found = np.asarray(jax.vmap(rate)(np.array(list(table))))
    np.testing.assert_allclose(found, list(table.values()), rtol=1e-6, atol=1e-12)


# Multipliers of learning rate and weight decay, by the type of the layer that has the parameter

PLAIN = ("tsn_", "tpn_")  # and the recipes of the synthetic data set: one group
# (rate, decay): number of parameters, counted from the architectures. ResNet-50 has 53 layers of
# convolution and batch norm; TRN freezes all batch norms but one and has 7 x 2 + 1 linear layers,
# TIN 2 convolutions and 2 linear layers in each of 16 blocks, BNInception 69 convolutions.
_TSM = {(1, 1): 53, (1, 0): 106, (5, 1): 1, (10, 0): 1}
_TIN = {(1, 1): 53 + 64, (2, 0): 64, (1, 0): 106, (5, 1): 1, (10, 0): 1}
COUNTS = {
    "trn_sthv1": {(1, 1): 53 + 15, (2, 0): 15, (1, 0): 2},
    "trn_sthv2": {(1, 1): 53 + 15, (2, 0): 15, (1, 0): 2},
    "trn_bninception_jester": {(1, 1): 69 + 15, (2, 0): 69 + 15, (1, 0): 2},
    **{f"tsm_{data}": _TSM for data in ("k400", "sthv1", "sthv2", "jester")},
    **{f"tin_{data}": _TIN for data in ("k400", "sthv1", "sthv2")},
}


def expected_multipliers(model, name, fc_lr5):
    """`{path: (rate, decay)}` of all trainable parameters."""
    plain = name.startswith(PLAIN) or name.endswith("_synthetic")
    classifier = model.head.fc
    found = {}
    for path, layer in nnx.iter_modules(model):
        for leaf, variable in vars(layer).items():
            if type(variable) is not nnx.Param:
                continue
            if plain:
                pair = (1, 1)
            elif isinstance(layer, BatchNorm):
                pair = (1, 0)
            elif isinstance(layer, (Conv, Conv3d, TemporalConv, Linear)):
                pair = {"kernel": (1, 1), "bias": (2, 0)}[leaf]
                if layer is classifier and fc_lr5:
                    pair = {"kernel": (5, 1), "bias": (10, 0)}[leaf]
            else:
                raise AssertionError(f"the rule does not cover {type(layer)}")
            found["/".join(map(str, (*path, leaf)))] = pair
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_every_parameter_has_the_published_multipliers(name):
    config = load(name)
    model = nnx.eval_shape(lambda: create_model(**config.model))
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    rates, decays = optim.group_multipliers(
        params, groups=config.optim.groups, fc_lr5=config.optim.fc_lr5
    )
    leaves = zip(jax.tree_util.tree_leaves_with_path(rates), jax.tree.leaves(decays), strict=True)
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): (rate, decay)
        for (path, rate), decay in leaves
    }
    # Every recipe with groups boosts the last layer, but for TRN.
    assert found == expected_multipliers(model, name, fc_lr5=not name.startswith("trn_"))
    if name in COUNTS:
        assert collections.Counter(found.values()) == COUNTS[name]
    else:
        assert set(found.values()) == {(1, 1)}


# Protocols


@pytest.mark.parametrize("name", RECIPES)
def test_the_model_takes_the_clips_of_every_protocol(name):
    config = load(name)
    graph, state = nnx.split(nnx.eval_shape(lambda: create_model(**config.model)))
    views = {"val": config.data.val, **config.protocols}
    for num_segments, size in {(v.num_segments, v.crop_size) for v in map(parse, views.values())}:
        clips = jax.ShapeDtypeStruct((1, num_segments, size, size, 3), jnp.uint8)
        logits = jax.eval_shape(
            lambda state, clips: evaluate.score_clips(
                (state,), clips, jnp.zeros(1, jnp.int32), graph=graph
            ),
            nnx.as_pure(state),
            clips,
        )
        assert logits.shape == (1, config.model.num_classes)


def parse(view):
    return View(**view)


VIEWS = {"efficient": 1, "accurate": 6, "1x10": 10, "25x10": 10, "10x25": 10, "10x3": 30}


@pytest.mark.parametrize("name", RECIPES)
def test_protocols_have_the_views_that_their_names_tell(name):
    config = load(name)
    for protocol, view in config.protocols.items():
        if name == "tsn_k400_dense5" and protocol == "efficient":
            assert parse(view).num_views == 10  # its validation: ten windows, too
        elif not name.endswith("_synthetic"):
            assert parse(view).num_views == VIEWS[protocol]
    assert set(config.published) <= set(config.protocols)


def test_the_tables_are_complete():
    assert set(RATES) == set(RECIPES)
    grouped = {n for n in RECIPES if not n.startswith(PLAIN) and not n.endswith("_synthetic")}
    assert set(COUNTS) == grouped
