"""What the recipes train with, against tables written down from the publications."""

import collections
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from recipe_files import NAMES as ALL_RECIPES
from recipe_files import load

from trn_jax import build, create_model, optim
from trn_jax.data.views import View
from trn_jax.evaluation import scoring
from trn_jax.models.tin import TemporalConv
from trn_jax.nn.conv3d import Conv3d
from trn_jax.nn.convolution import Conv
from trn_jax.nn.layers import BatchNorm, Linear
from trn_jax.settings import resolved_views
from trn_jax.training import start, train_step

OWN = ("finetune", "small", "tsm_causal_jester")  # nobody has published them
RECIPES = [name for name in ALL_RECIPES if name not in OWN]


@functools.cache
def model_of(name):
    """The model of a recipe, without numbers; not to be changed."""
    return nnx.eval_shape(lambda: create_model(**load(name).model))


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


# Its variant of 100 epochs: within ten epochs, drops after 50 and 90.
_LONG_WARM_UP = {0: 0.002, 199: 0.004, 899: 0.018, 900: 0.02, 5000: 0.002, 9000: 0.0002}


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
    "tsm_k400_100e": _LONG_WARM_UP,
    "tsm_k400_16seg": warm_up_by_epoch(0.02),
    "tsm_k400_dense8": warm_up_by_epoch(0.02),
    "tsm_k400_dot_product": warm_up_by_epoch(0.02),
    "tsm_k400_embedded_gaussian": warm_up_by_epoch(0.02),
    "tsm_k400_gaussian": warm_up_by_epoch(0.02),
    "tsm_mobilenetv2_k400": drops(40, 80, 100, 0.02),
    "tsm_mobileone_k400_16seg": warm_up_by_epoch(0.01),
    "tsm_resnet101_sthv2": warm_up_by_epoch(0.02),
    "tsm_sthv1": drops(20, 40, 50, 0.01),
    "tsm_sthv2": warm_up_by_epoch(0.02),
    "tsm_sthv2_16seg": warm_up_by_epoch(0.02),
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
        [f"{method}_synthetic" for method in ("trn", "tsn", "tsm", "tsm_causal", "tin", "tpn")],
        _SYNTHETIC,
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_learning_rates_are_the_published_ones(name):
    table = RATES[name]
    assert len(table) == 6
    rate = build.parts(load(name), steps_per_epoch=100).rate
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
# Five blocks: three convolutions with biases (one, if nothing is embedded), and one with a norm.
_NON_LOCAL = {(1, 1): 53 + 20, (2, 0): 15, (1, 0): 106 + 10, (5, 1): 1, (10, 0): 1}
COUNTS = {
    "trn_sthv1": {(1, 1): 53 + 15, (2, 0): 15, (1, 0): 2},
    "trn_sthv2": {(1, 1): 53 + 15, (2, 0): 15, (1, 0): 2},
    "trn_bninception_jester": {(1, 1): 69 + 15, (2, 0): 69 + 15, (1, 0): 2},
    **{f"tsm_{data}": _TSM for data in ("k400", "sthv1", "sthv2", "jester")},
    **{f"tsm_{variant}": _TSM for variant in ("k400_100e", "k400_16seg", "k400_dense8")},
    "tsm_sthv2_16seg": _TSM,
    "tsm_k400_dot_product": _NON_LOCAL,
    "tsm_k400_embedded_gaussian": _NON_LOCAL,
    "tsm_k400_gaussian": {(1, 1): 53 + 10, (2, 0): 5, (1, 0): 106 + 10, (5, 1): 1, (10, 0): 1},
    # ResNet-101 has 104 convolutions, MobileNetV2 52; MobileOne 65 in 99 branches, of which some
    # are norms alone, and 12 x 2 with biases that weight channels.
    "tsm_mobileone_k400_16seg": {(1, 1): 89, (2, 0): 24, (1, 0): 198, (5, 1): 1, (10, 0): 1},
    "tsm_resnet101_sthv2": {(1, 1): 104, (1, 0): 208, (5, 1): 1, (10, 0): 1},
    "tsm_mobilenetv2_k400": {(1, 1): 52, (1, 0): 104, (5, 1): 1, (10, 0): 1},
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


@pytest.mark.by_default(
    *("trn_sthv1", "tsn_k400_3seg", "tpn_tsm_sthv1", "tin_k400"),
    slow=("densenet", "swin", "mobileone", "resnext", "r101"),
)
@pytest.mark.parametrize("name", RECIPES)
def test_every_parameter_has_the_published_multipliers(name):
    config = load(name)
    model = model_of(name)
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    rates, decays = optim.group_multipliers(params, config.optim)
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


@pytest.mark.parametrize("name", ALL_RECIPES)
def test_optimizers_of_recipes_can_be_built(name):
    config, params = load(name), nnx.as_pure(nnx.state(model_of(name), nnx.Param))
    make_optimizer = build.parts(config, steps_per_epoch=10).make_optimizer
    state = jax.eval_shape(make_optimizer(params).init, params)
    assert len(jax.tree.leaves(state)) >= len(jax.tree.leaves(params))


# The rest: clips per step and per GPU, weight decay, largest gradient norm, Nesterov, dropout,
# positions of the multi-scale crop (0: random area and shape instead), share of mirrored clips,
# top-1 and top-5; and the rows that these are from

_TSN = (256, 32, 1e-4, 40, False)
_TPN = (64, 8, 1e-4, 40, True)
_TSM_1X = (128, 16, 1e-4, 20, False, 0.5, 13, 0.5)
SETTINGS = {
    "tin_k400": (48, 6, 1e-4, 20, False, 0.5, 5, 0.5, {"efficient": (70.89, 89.89)}),
    "tin_sthv1": (48, 6, 5e-4, 20, False, 0.8, 5, 0, {"efficient": (44.25, 73.94)}),
    "tin_sthv2": (48, 6, 5e-4, 20, False, 0.8, 5, 0, {"efficient": (56.70, 83.62)}),
    "tpn_slowonly_k400": (*_TPN, 0.5, 0, 0.5, {"10x3": (76.74, 92.57)}),
    "tpn_slowonly_k400_scratch": (*_TPN, 0.5, 0, 0.5, {"10x3": (74.20, 91.48)}),
    "tpn_tsm_sthv1": (64, 8, 5e-4, 20, True, 0.5, 0, 0.5, {"accurate": (51.87, 79.67)}),
    "trn_bninception_jester": (64, 8, 5e-4, 20, False, 0.8, 13, 0.5, {"1x10": (94.50, 99.78)}),
    "trn_sthv1": (
        *(128, 16, 5e-4, 20, False, 0.8, 13, 0.5),
        {"efficient": (31.62, 60.01), "accurate": (33.88, 62.12)},
    ),
    "trn_sthv2": (
        *(128, 16, 5e-4, 20, False, 0.8, 13, 0.5),
        {"efficient": (48.39, 76.58), "accurate": (51.28, 78.65)},
    ),
    "tsm_jester": (
        *(64, 8, 5e-4, 20, False, 0.5, 0, 0.5),
        {"efficient": (96.5, None), "accurate": (97.2, None)},
    ),
    "tsm_k400": (128, 16, 1e-4, 20, False, 0.5, 13, 0.5, {"1x10": (73.18, 90.56)}),
    "tsm_k400_100e": (*_TSM_1X, {"1x10": (73.22, 90.22)}),
    "tsm_k400_16seg": (*_TSM_1X, {"1x10": (75.12, 91.55)}),
    "tsm_k400_dense8": (*_TSM_1X, {"10x10": (73.38, 90.78)}),
    "tsm_k400_dot_product": (*_TSM_1X, {"1x10": (74.49, 91.15)}),
    "tsm_k400_embedded_gaussian": (*_TSM_1X, {"1x10": (74.34, 91.23)}),
    "tsm_k400_gaussian": (*_TSM_1X, {"1x10": (73.66, 90.99)}),
    "tsm_mobilenetv2_k400": (128, 16, 2e-5, *_TSM_1X[3:], {"1x3": (68.71, 88.32)}),
    "tsm_mobileone_k400_16seg": (64, 8, 2e-5, *_TSM_1X[3:], {"1x3": (74.38, 91.71)}),
    "tsm_resnet101_sthv2": (128, 16, 5e-4, *_TSM_1X[3:], {"accurate": (63.70, 88.28)}),
    "tsm_sthv2_16seg": (128, 16, 5e-4, *_TSM_1X[3:], {"accurate": (64.16, 88.61)}),
    "tsm_sthv1": (
        *(64, 8, 5e-4, 20, False, 0.5, 13, 0),
        {"efficient": (45.58, 75.02), "accurate": (47.70, 76.12)},
    ),
    "tsm_sthv2": (128, 16, 5e-4, 20, False, 0.5, 13, 0.5, {"accurate": (62.72, 87.70)}),
    "tsn_densenet161_k400_3seg": (*_TSN, 0.4, 0, 0.5, {"25x10": (72.07, 90.15)}),
    "tsn_k400_3seg": (*_TSN, 0.4, 5, 0.5, {"25x10": (72.83, 90.65)}),
    "tsn_k400_5seg": (*_TSN, 0.4, 5, 0.5, {"25x10": (73.80, 91.21)}),
    "tsn_k400_8seg": (*_TSN, 0.4, 5, 0.5, {"25x10": (74.12, 91.34)}),
    "tsn_k400_dense5": (*_TSN, 0.5, 13, 0.5, {"10x25": (71.37, 89.67)}),
    "tsn_mobileone_k400_8seg": (*_TSN, 0.4, 5, 0.5, {"25x10": (73.65, 91.32)}),
    "tsn_resnet101_k400_8seg": (*_TSN, 0.4, 5, 0.5, {"25x10": (75.89, 92.07)}),
    "tsn_resnext101_k400_3seg": (*_TSN, 0.4, 5, 0.5, {"25x10": (72.95, 90.36)}),
    "tsn_sthv2_16seg": (*_TSN, 0.5, 13, 0.5, {"25x10": (36.91, 68.77)}),
    "tsn_sthv2_8seg": (*_TSN, 0.5, 5, 0.5, {"25x10": (35.51, 67.09)}),
    # Swin has no batch norm, so its groups do not matter.
    "tsn_swin_k400_3seg": (256, 0, *_TSN[2:], 0.4, 5, 0.5, {"25x10": (77.03, 92.61)}),
    "tsn_swin_k400_8seg": (256, 0, *_TSN[2:], 0.4, 5, 0.5, {"25x10": (79.22, 94.20)}),
}
ROWS = {
    "tin_k400": "tin_tsm_finetune_r50_1x1x8_50e_kinetics400_rgb",
    "tin_sthv1": "tin_r50_1x1x8_40e_sthv1_rgb",
    "tin_sthv2": "tin_r50_1x1x8_40e_sthv2_rgb",
    "tpn_slowonly_k400": "tpn-slowonly_imagenet-pretrained-r50_8xb8-8x8x1-150e_kinetics400-rgb",
    "tpn_slowonly_k400_scratch": "tpn-slowonly_r50_8xb8-8x8x1-150e_kinetics400-rgb",
    "tpn_tsm_sthv1": "tpn-tsm_imagenet-pretrained-r50_8xb8-1x1x8-150e_sthv1-rgb",
    "trn_bninception_jester": "MindSpore model zoo, TRN on Jester, README.md",
    "trn_sthv1": "trn_r50_1x1x8_50e_sthv1_rgb",
    "trn_sthv2": "trn_r50_1x1x8_50e_sthv2_rgb",
    "tsm_jester": "tsm_r50_1x1x8_50e_jester_rgb",
    "tsm_k400": "tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_kinetics400-rgb",
    "tsm_sthv1": "tsm_r50_1x1x8_50e_sthv1_rgb",
    "tsm_sthv2": "tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_sthv2-rgb",
    **{
        recipe: f"tsm_imagenet-pretrained-{row}"
        for recipe, row in {
            "tsm_k400_100e": "r50_8xb16-1x1x8-100e_kinetics400-rgb",
            "tsm_k400_16seg": "r50_8xb16-1x1x16-50e_kinetics400-rgb",
            "tsm_k400_dense8": "r50_8xb16-dense-1x1x8-50e_kinetics400-rgb",
            "tsm_k400_dot_product": "r50-nl-dot-product_8xb16-1x1x8-50e_kinetics400-rgb",
            "tsm_k400_embedded_gaussian": (
                "r50-nl-embedded-gaussian_8xb16-1x1x8-50e_kinetics400-rgb"
            ),
            "tsm_k400_gaussian": "r50-nl-gaussian_8xb16-1x1x8-50e_kinetics400-rgb",
            "tsm_mobilenetv2_k400": "mobilenetv2_8xb16-1x1x8-100e_kinetics400-rgb",
            "tsm_mobileone_k400_16seg": "mobileone-s4_8xb16-1x1x16-50e_kinetics400-rgb",
            "tsm_resnet101_sthv2": "r101_8xb16-1x1x8-50e_sthv2-rgb",
            "tsm_sthv2_16seg": "r50_8xb16-1x1x16-50e_sthv2-rgb",
        }.items()
    },
    **{
        recipe: f"tsn_imagenet-pretrained-{row}"
        for recipe, row in {
            "tsn_densenet161_k400_3seg": "dense161_8xb32-1x1x3-100e_kinetics400-rgb",
            "tsn_k400_3seg": "r50_8xb32-1x1x3-100e_kinetics400-rgb",
            "tsn_k400_5seg": "r50_8xb32-1x1x5-100e_kinetics400-rgb",
            "tsn_k400_8seg": "r50_8xb32-1x1x8-100e_kinetics400-rgb",
            "tsn_k400_dense5": "r50_8xb32-dense-1x1x5-100e_kinetics400-rgb",
            "tsn_mobileone_k400_8seg": "mobileone-s4_8xb32-1x1x8-100e_kinetics400-rgb",
            "tsn_resnet101_k400_8seg": "r101_8xb32-1x1x8-100e_kinetics400-rgb",
            "tsn_resnext101_k400_3seg": "rn101-32x4d_8xb32-1x1x3-100e_kinetics400-rgb",
            "tsn_sthv2_16seg": "r50_8xb32-1x1x16-50e_sthv2-rgb",
            "tsn_sthv2_8seg": "r50_8xb32-1x1x8-50e_sthv2-rgb",
            "tsn_swin_k400_3seg": "swin-transformer_8xb32-1x1x3-100e_kinetics400-rgb",
            "tsn_swin_k400_8seg": "swin-transformer_32xb8-1x1x8-50e_kinetics400-rgb",
        }.items()
    },
}


@pytest.mark.smoke
@pytest.mark.parametrize("name", SETTINGS)
def test_recipes_are_set_up_as_published(name):
    config = load(name)
    crop = config.data.train
    assert crop.crop in ("multi_scale", "random_resized")
    found = (
        config.train.batch,
        config.model.norm_group,
        config.optim.weight_decay,
        config.optim.clip_norm,
        config.optim.nesterov,
        model_of(name).head.dropout_rate,
        crop.num_positions if crop.crop == "multi_scale" else 0,
        crop.flip_rate,
        {protocol: (row.top1, row.get("top5")) for protocol, row in config.published.items()},
    )
    assert found == SETTINGS[name]
    for row in config.published.values():
        assert row.source.endswith(ROWS[name])


# The first step


def first_losses(options, size):
    """The loss of every classifier of a model in training, of random clips and labels."""
    model = nnx.jit(lambda: create_model(**options, rngs=nnx.Rngs(0)))()
    graph, state = nnx.split(model)
    shape = (4, options["num_segments"], size, size, 3)
    clips = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    index = jnp.arange(4)
    labels = index % options["num_classes"]

    @jax.jit
    def score(state):
        rngs = nnx.Rngs(dropout=1, params=2, default=3)
        found = nnx.merge(graph, state).outputs(clips, train=True, rngs=rngs, clip_index=index)
        return [train_step.classification_loss(f, labels) for f in found if f is not None]

    return jax.tree.map(float, jax.tree.leaves(score(state)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_RECIPES)
def test_the_first_loss_is_that_of_a_guess(name):
    """Without the weights that the published numbers started from."""
    options = build.model_options(load(name)) | {"norm_group": 0}
    expected = math.log(options["num_classes"])
    # The windows of a Swin leave no choice.
    for loss in first_losses(options, 224 if "swin" in name else 64):
        assert loss == pytest.approx(expected, rel=0.1)


@pytest.mark.by_default("tsm_sthv1", slow=("trn_sthv1",))
@pytest.mark.parametrize("name", ["trn_sthv1", "tsm_sthv1"])
def test_the_first_loss_of_a_small_network_is_that_of_a_guess(name):
    options = build.model_options(load(name)) | {"norm_group": 0, "width": 8}
    options["name"] = options["name"].replace("50", "10")
    (loss,) = first_losses(options, 32)
    assert loss == pytest.approx(math.log(options["num_classes"]), rel=0.1)


@pytest.mark.parametrize("name", RECIPES)
def test_nothing_is_frozen_without_weights(name):
    config = load(name)
    options = build.model_options(config)
    assert options["partial_bn"] is options["frozen_stages"] is None
    warning = start.describe_start(config)
    assert bool(warning) == bool(config.init_url)
    if config.init_url:
        file = config.init_url.rpartition("/")[2]
        assert file in warning and "--config.init_from=" in warning
        assert ("model.partial_bn" in warning) == (config.model.partial_bn is not None)
    config.init_from = "weights.pth"
    assert build.model_options(config) == config.model.to_dict()
    assert start.describe_start(config) == ""


# Protocols


@pytest.mark.by_default("trn_", "tsm_", "tsn_k400_", "tpn_slowonly_k400_scratch")
@pytest.mark.parametrize("name", ALL_RECIPES)
def test_the_model_takes_the_clips_of_every_protocol(name):
    config = load(name)
    graph, state = nnx.split(model_of(name))
    views = resolved_views(config)
    for num_segments, size in {(v.num_segments, v.crop_size) for v in map(parse, views.values())}:
        clips = jax.ShapeDtypeStruct((1, num_segments, size, size, 3), jnp.uint8)
        logits = jax.eval_shape(
            lambda state, clips: scoring.score_clips(
                (state,), clips, jnp.zeros(1, jnp.int32), graph=graph
            ),
            nnx.as_pure(state),
            clips,
        )
        assert logits.shape == (1, config.model.num_classes)


def parse(view):
    return View(**view)


VIEWS = {
    "efficient": 1,
    "accurate": 6,
    "1x3": 3,
    "1x10": 10,
    "10x3": 30,
    "10x10": 100,
    "10x25": 10,
    "25x10": 10,
}


@pytest.mark.smoke
@pytest.mark.parametrize("name", RECIPES)
def test_protocols_have_the_views_that_their_names_tell(name):
    config = load(name)
    for key, view in resolved_views(config).items():
        protocol = key.removeprefix("protocols.")
        if protocol == key:
            continue
        if name in ("tsn_k400_dense5", "tsm_k400_dense8") and protocol == "efficient":
            assert parse(view).num_views == 10  # its validation: ten windows, too
        elif not name.endswith("_synthetic"):
            assert parse(view).num_views == VIEWS[protocol]
    assert set(config.published) <= set(config.protocols)


def test_the_tables_are_complete():
    assert set(RATES) == set(RECIPES)
    assert set(SETTINGS) == set(ROWS) == {n for n in RECIPES if not n.endswith("_synthetic")}
    grouped = {n for n in RECIPES if not n.startswith(PLAIN) and not n.endswith("_synthetic")}
    assert set(COUNTS) == grouped
