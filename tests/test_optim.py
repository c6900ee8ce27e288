"""Learning rates, parameter groups and SGD against the published formulas, written out."""

import jax
import numpy as np
import pytest
from flax import nnx
from optim_settings import optim_keys

from trn_jax import create_model, optim
from trn_jax.errors import UserError

# Learning rates


def rates(steps, **options):
    """The rates at some steps, from one compiled program, as in training."""
    with jax.enable_x64(True):
        return np.asarray(jax.jit(jax.vmap(learning_rate(**options)))(np.array(steps)))


def learning_rate(*, epochs=50.0, steps_per_epoch=10, milestones=(), **options):
    settings = optim_keys(lr=0.01, milestones=milestones)
    settings.update(options)
    return optim.learning_rate(settings, batch=1, epochs=epochs, steps_per_epoch=steps_per_epoch)


def close(actual, expected, rtol=1e-12, atol=0.0):
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def test_multistep_drops_with_the_first_step_of_each_milestone():
    found = rates([0, 199, 200, 399, 400, 499], schedule="multistep", milestones=(20.0, 40.0))
    close(found, [0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])
    found = rates([0, 1, 2], schedule="multistep", milestones=(0.1,), gamma=0.5)
    close(found, [0.01, 0.005, 0.005])
    close(rates([0, 499], schedule="multistep"), [0.01, 0.01])  # no milestones


def test_epochs_need_not_be_whole_numbers_of_steps():
    # Epoch 3 begins after 22.5 steps, so its first step is 23.
    options = dict(schedule="multistep", steps_per_epoch=7.5, milestones=(3.0,))
    close(rates([22, 23], **options), [0.01, 0.001])


@pytest.mark.parametrize("steps_per_epoch", [641, 1319])
def test_milestones_are_exact_for_any_length_of_epochs(steps_per_epoch):
    options = dict(schedule="multistep", steps_per_epoch=steps_per_epoch, milestones=(30.0, 45.0))
    steps = [30 * steps_per_epoch - 1, 30 * steps_per_epoch, 45 * steps_per_epoch]
    close(rates(steps, **options), [0.01, 0.001, 0.0001])


def test_constant_rate():
    close(rates([0, 7, 10_000], schedule="constant"), [0.01] * 3)


@pytest.mark.smoke
def test_warm_up_by_step_then_cosine_is_that_of_tin():
    found = rates(
        [0, 50, 99, 100, 2050, 3999, 5000],
        schedule="cosine",
        epochs=40.0,
        steps_per_epoch=100,
        warmup_epochs=1.0,
    )
    exact = 0.01 * 0.5 * (1 + np.cos(np.pi * 3899 / 3900))
    close(found, [0.001, 0.01 * (0.1 + 0.9 * 50 / 99), 0.01, 0.01, 0.005, exact, 0], atol=1e-15)
    assert found[1] == pytest.approx(0.005545, abs=1e-6)  # the published figure


def test_cosine_without_warm_up():
    found = rates([0, 10, 20, 30, 40], schedule="cosine", epochs=4.0)
    half = np.sqrt(0.5)
    expected = 0.005 * np.array([2, 1 + half, 1, 1 - half, 0])
    close(found, expected, atol=1e-15)


def test_warm_up_by_epoch_is_that_of_tsm():
    steps = [0, 9, 10, 19, 20, 30, 39, 40, 49, 50, 199, 200]
    found = rates(
        steps,
        schedule="multistep",
        milestones=(20.0, 40.0),
        warmup_epochs=5.0,
        warmup_by="epoch",
    )
    factors = [0.1, 0.1, 0.325, 0.325, 0.55, 0.775, 0.775, 1, 1, 1, 1, 0.1]
    close(found, 0.01 * np.array(factors), rtol=1e-7)


def test_one_epoch_of_warm_up_by_epoch_is_none():
    found = rates([0, 9, 10], schedule="constant", warmup_epochs=1.0, warmup_by="epoch")
    close(found, [0.01, 0.01, 0.01], rtol=1e-7)


def test_cosine_by_epoch_is_that_of_tin_in_mmaction2_0():
    options = dict(lr=0.02, schedule="cosine", epochs=40.0, final_ratio=0.5, style="mmcv")
    options |= dict(cosine_by="epoch", steps_per_epoch=7)
    found = rates([0, 6, 7, 70, 140, 279], **options)
    close(found, [0.02, 0.02, 0.019985, 0.018536, 0.015, 0.010015], rtol=5e-5)  # as published
    exact = 0.01 + 0.005 * (1 + np.cos(np.pi * np.array([0, 0, 1, 10, 20, 39]) / 40))
    close(found, exact)
    # During the warm-up the cosine falls already.
    warm = rates([0, 3, 6, 7], warmup_epochs=1.0, **options)
    close(warm, 0.02 * np.array([0.1, 0.1 + 0.9 * 3 / 7, 0.1 + 0.9 * 6 / 7, exact[2] / 0.02]))


def test_cosine_by_step_begins_with_the_training_in_mmaction2_0():
    options = dict(schedule="cosine", epochs=4.0, warmup_epochs=1.0)
    cosine = 0.005 * (1 + np.cos(np.pi * np.array([5, 10, 39]) / 40))
    close(rates([5, 10, 39], style="mmcv", **options), cosine * [0.1 + 0.9 * 5 / 10, 1, 1])
    later = 0.005 * (1 + np.cos(np.pi * np.array([0, 29]) / 30))
    close(rates([10, 39], **options), later)


def test_cosine_by_epoch_begins_after_the_warm_up_in_mmengine():
    options = dict(schedule="cosine", epochs=4.0, warmup_epochs=1.0, cosine_by="epoch")
    found = rates([10, 19, 20, 39], **options)
    close(found, 0.005 * (1 + np.cos(np.pi * np.array([0, 0, 1, 2]) / 3)))


def test_rates_are_float32_in_training():
    rate = learning_rate(schedule="cosine", epochs=4.0)
    assert jax.eval_shape(rate, jax.ShapeDtypeStruct((), "int32")).dtype == "float32"


def test_a_cosine_by_epoch_needs_epochs_of_a_step():
    with pytest.raises(UserError, match=r"optim\.cosine_by='epoch'"):
        learning_rate(schedule="cosine", cosine_by="epoch", steps_per_epoch=0.5)


# Parameter groups


def parameters(**options):
    options = dict(num_classes=5, num_segments=3, width=4) | options
    model = nnx.eval_shape(lambda: create_model("trn_resnet10", **options))
    return nnx.as_pure(nnx.state(model, nnx.Param))


def multipliers(params, **options):
    """`{path: (factor of the rate, factor of the decay)}`."""
    pairs = jax.tree.map(
        lambda *pair: pair, *optim.group_multipliers(params, optim_keys(**options))
    )
    flat = jax.tree_util.tree_leaves_with_path(pairs, is_leaf=lambda x: isinstance(x, tuple))
    return {jax.tree_util.keystr(p, simple=True, separator="/"): pair for p, pair in flat}


def test_plain_is_one_group():
    params = parameters()
    found = multipliers(params, groups="plain")
    assert len(found) == len(jax.tree.leaves(params))
    assert set(found.values()) == {(1, 1)}
    assert set(multipliers(params, groups="plain", fc_lr5=True).values()) == {(1, 1)}


@pytest.mark.parametrize("fc_lr5", [False, True])
def test_tsm_groups(fc_lr5):
    found = multipliers(parameters(temporal_op="tin", width=16), groups="tsm", fc_lr5=fc_lr5)
    for path, pair in found.items():
        layer, _, leaf = path.rpartition("/")
        if "bn" in layer.rpartition("/")[2] or layer.endswith("downsample/1"):
            expected = (1, 0)
        elif layer == "head/fc" and fc_lr5:
            expected = {"kernel": (5, 1), "bias": (10, 0)}[leaf]
        else:
            expected = {"kernel": (1, 1), "bias": (2, 0)}[leaf]
        assert pair == expected, path
    assert found["backbone/layer2/0/downsample/1/bias"] == (1, 0)
    assert found["head/relations/1/output/bias"] == (2, 0)
    assert found["backbone/layer1/0/temporal_op/offset_conv/kernel"] == (1, 1)
    assert found["backbone/layer1/0/temporal_op/offset_fc2/bias"] == (2, 0)
    assert found["head/fc/kernel"] == ((5, 1) if fc_lr5 else (1, 1))


def test_frozen_parameters_are_in_no_group():
    found = multipliers(parameters(partial_bn=True, frozen_stages=1), groups="tsm")
    assert "backbone/conv1/kernel" not in found
    assert not any("bn" in path or "layer1" in path for path in found)
    assert found["backbone/layer2/0/conv1/kernel"] == (1, 1)


def test_the_backbone_may_learn_at_a_rate_of_its_own():
    plain = multipliers(parameters(), groups="tsm", fc_lr5=True)
    slower = multipliers(parameters(), groups="tsm", fc_lr5=True, backbone_rate=0.1)
    for path, (rate, decay) in plain.items():
        factor = 0.1 if path.startswith("backbone/") else 1
        assert slower[path] == (pytest.approx(factor * rate), decay)
    assert {path.split("/")[0] for path in slower} == {"backbone", "head"}


def test_unknown_parameters_are_refused():
    with pytest.raises(UserError, match=r"'neck/offset'.*'plain'"):
        optim.group_multipliers({"neck": {"offset": 0.0}}, optim_keys(groups="tsm"))


# SGD


def tree(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    draw = rng.standard_normal
    return {
        "backbone/bn1/scale": scale * draw(3),
        "backbone/bn1/bias": scale * draw(3),
        "backbone/conv1/kernel": scale * draw((2, 3)),
        "head/fc/kernel": scale * draw((3, 4)),
        "head/fc/bias": scale * draw(4),
    }


TSM = {
    "backbone/bn1/scale": (1, 0),
    "backbone/bn1/bias": (1, 0),
    "backbone/conv1/kernel": (1, 1),
    "head/fc/kernel": (5, 1),
    "head/fc/bias": (10, 0),
}
# Small and large gradients, so that clipping is sometimes active.
SCALES = (0.3, 2.0, 0.1, 1.0)
RATE = dict(lr=0.1, schedule="multistep", milestones=(2.0,), epochs=4, steps_per_epoch=1)


def torch_sgd(groups, *, momentum, nesterov, weight_decay, clip_norm):
    """`clip_grad_norm_`, then `torch.optim.SGD`, for four steps."""
    params, buffers = tree(0), {}
    for step, scale in enumerate(SCALES):
        lr = 0.1 if step < 2 else 0.01
        grads = tree(step + 1, scale)
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        shrink = min(1, clip_norm / norm) if clip_norm else 1
        for name, grad in grads.items():
            rate, decay = groups.get(name, (1, 1))
            direction = shrink * grad + weight_decay * decay * params[name]
            buffers[name] = momentum * buffers[name] + direction if step else direction
            step_along = direction + momentum * buffers[name] if nesterov else buffers[name]
            params[name] = params[name] - lr * rate * step_along
    return params


@pytest.mark.parametrize(
    ("groups", "options"),
    [
        ("plain", {}),
        ("plain", dict(nesterov=True)),
        ("plain", dict(clip_norm=0.0)),
        ("plain", dict(momentum=0.0, weight_decay=0.0)),
        ("tsm", dict(weight_decay=0.2)),
        ("tsm", dict(nesterov=True)),
    ],
)
def test_sgd_is_that_of_torch(groups, options):
    options = dict(momentum=0.9, nesterov=False, weight_decay=0.05, clip_norm=2.0) | options
    with jax.enable_x64(True):
        params = tree(0)
        nested = nest(params)
        settings = optim_keys(groups=groups, fc_lr5=groups == "tsm", **options)
        optimizer = optim.sgd(nested, learning_rate(**RATE), settings)
        state = optimizer.init(nested)
        update = jax.jit(optimizer.update)
        for step, scale in enumerate(SCALES):
            updates, state = update(nest(tree(step + 1, scale)), state, nested)
            nested = jax.tree.map(np.add, nested, updates)
    expected = torch_sgd(TSM if groups == "tsm" else {}, **options)
    for name, value in nest(expected).items():
        jax.tree.map(lambda a, b: close(a, b, rtol=1e-10), nested[name], value)


def nest(flat):
    """`{"a/b": x}` as `{"a": {"b": x}}`, the form of a model's parameters."""
    nested: dict = {}
    for path, value in flat.items():
        *folders, leaf = path.split("/")
        place = nested
        for folder in folders:
            place = place.setdefault(folder, {})
        place[leaf] = value
    return nested


def test_clipping_is_active_in_some_steps_only():
    norms = [
        np.sqrt(sum((g**2).sum() for g in tree(i + 1, s).values())) for i, s in enumerate(SCALES)
    ]
    assert min(norms) < 2 < max(norms)
