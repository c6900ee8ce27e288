"""The training step: equal to the reference, to itself on other devices, and to itself in parts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from optim_settings import optim_keys
from reference_models import CASES, clips_of, state_dict

from trn_jax import convert, create_model, optim
from trn_jax.distributed.sharding import batch_sharding, make_mesh
from trn_jax.training import initial_state, train_step

pytestmark = pytest.mark.thorough

SMALL = dict(num_classes=5, num_segments=3, width=4, dtype="float64")
SGD = optim_keys(momentum=0.9, weight_decay=1e-4, clip_norm=5.0)


def prepare(make_model, make_optimizer, mesh, rate, **options):
    graph, optimizer, state = initial_state.init_state(make_model, make_optimizer, mesh)
    step = train_step.jit_train_step(mesh, graph=graph, optimizer=optimizer, rate=rate, **options)
    return graph, state, step


# Cases of `reference_models`, with options that only matter in training.
REFERENCES = {
    "trn_r50_multiscale": dict(train_relations="first"),
    "tsm_r50": {},
    "tin_r50": {},
    "tpn_slowonly_r50": {},
}


# Each case is recorded twice, with gradients that are clipped and with gradients that are not.
@pytest.mark.thorough("trn_r50_multiscale-published")
@pytest.mark.parametrize("clipping", ["published", "other"])
@pytest.mark.parametrize("case", REFERENCES)
def test_three_steps_equal_the_reference(golden, case, clipping):
    numbers = golden(f"train/{case}")
    expected = numbers if clipping == "published" else numbers["other_clipping"]
    max_norm = numbers["optimizer"]["clip_grad"]["max_norm"]
    max_norm = max_norm if clipping == "published" else expected["max_norm"]
    data = numbers["input"]
    settings = numbers["optimizer"]["optimizer"]
    batch = {
        "clip": clips_of(numbers),
        "label": np.array(data["labels"], np.int32),
    }

    # The reference keeps them in float32, also where it computes in float64; three steps make that
    # difference large enough to be seen.
    pixels = {key: np.float32(data[key]).tolist() for key in ("mean", "std")}

    def make_model():
        options = CASES[case] | REFERENCES[case] | pixels
        return create_model(**options, dropout_rate=0.0, dtype="float64")

    with jax.enable_x64(True):
        mesh = make_mesh(jax.devices()[:1])
        rate = optim.learning_rate(
            optim_keys(lr=settings["lr"], schedule="constant"), batch=1, epochs=1, steps_per_epoch=1
        )
        model = nnx.eval_shape(make_model)
        convert.load_state_dict(model, state_dict(numbers))
        graph, params, stats, fixed = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
        params, stats, fixed = nnx.as_pure((params, stats, fixed))
        optimizer = optim.sgd(
            params,
            rate,
            optim_keys(
                momentum=settings["momentum"],
                nesterov=settings.get("nesterov", False),
                weight_decay=settings["weight_decay"],
                clip_norm=float(max_norm),
                groups="tsm" if "constructor" in numbers["optimizer"] else "plain",
                fc_lr5=numbers["optimizer"].get("paramwise_cfg", {}).get("fc_lr5", False),
            ),
        )
        assert len(jax.tree.leaves(params)) == numbers["num_params_with_grad"]
        state = train_step.TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            stats=stats,
            fixed=fixed,
            opt_state=optimizer.init(params),
        )
        step = train_step.jit_train_step(mesh, graph=graph, optimizer=optimizer, rate=rate, seed=0)
        # Optimised, unlike in other tests: the steps take longer than their compilation.
        batch = {key: jnp.asarray(value) for key, value in batch.items()}
        optimised = {"xla_backend_optimization_level": 3}
        step = step.lower(state, batch).compile(compiler_options=optimised)
        steps = expected["steps"]
        steps = list(steps.values()) if isinstance(steps, dict) else steps
        for number, recorded in enumerate(steps, start=1):
            state, scalars = step(state, batch)
            assert float(scalars["loss"]) == pytest.approx(recorded["total_loss"], rel=1e-6)
            assert float(scalars["grad_norm"]) == pytest.approx(recorded["grad_norm"], rel=1e-6)
            if number == 1 and clipping == "published":
                check_tensors(graph, state, expected["after_step_1"])
        check_tensors(graph, state, expected["after"])


def check_tensors(graph, state, expected):
    """Compare norms and samples of tensors with the golden's, which are in PyTorch's layout."""
    model = nnx.merge(graph, *state.model)
    found = convert.variables(model)
    for name, numbers in expected.items():
        path = convert.our_path(name, "mmaction2", found)
        value = np.asarray(found[path][...])
        if path.endswith("/kernel"):
            value = value.transpose(-1, -2, *range(value.ndim - 2))
        assert np.linalg.norm(value) == pytest.approx(numbers["l2"], rel=1e-7), name
        for index, sample in numbers["samples"]:
            assert value[tuple(index)] == pytest.approx(sample, rel=1e-6, abs=1e-8), name


class TwoClassifiers(nnx.Module):
    """A model without layers: its logits and auxiliary logits are parameters."""

    def __init__(self):
        self.main = nnx.Param(jnp.array([0.5, -1.0, 2.0, 0.0, 1.0]))
        self.extra = nnx.Param(jnp.array([1.5, 0.25, -0.5, 1.0, 0.0]))
        self.neck = nnx.Module()
        self.neck.auxiliary_weight = 0.25

    def outputs(self, clips, **_):
        return tuple(jnp.tile(logits[...], (len(clips), 1)) for logits in (self.main, self.extra))


def test_auxiliary_logits_enter_the_loss_with_their_weight():
    rate = optim.learning_rate(
        optim_keys(lr=1.0, schedule="constant"), batch=1, epochs=1, steps_per_epoch=1
    )
    _, state, step = prepare(
        TwoClassifiers,
        lambda params: optim.sgd(
            params, rate, optim_keys(momentum=0.0, weight_decay=0.0, clip_norm=0.0)
        ),
        make_mesh(jax.devices()[:1]),
        rate,
        seed=0,
    )
    before, batch = jax.device_get(state.params), small_batch(4)
    after, scalars = step(state, batch)
    loss = 0.0
    for name, weight in (("main", 1.0), ("extra", 0.25)):
        shares = np.exp(before[name]) / np.exp(before[name]).sum()
        loss -= weight * np.log(shares[batch["label"]]).mean()
        gradient = weight * (shares - np.bincount(batch["label"], minlength=5) / 4)
        moved = before[name] - np.asarray(after.params[name])
        np.testing.assert_allclose(moved, gradient, rtol=1e-5, atol=1e-6)
    assert float(scalars["loss"]) == pytest.approx(loss, rel=1e-5)


def small_batch(size=16, num_segments=3):
    rng = np.random.default_rng(0)
    return {
        "clip": rng.integers(0, 256, (size, num_segments, 32, 32, 3), np.uint8),
        "label": rng.integers(0, 5, size).astype(np.int32),
    }


def run(num_devices, *, steps=5, head="trn_multiscale", norm_group=2, accumulation=1, **overrides):
    """Train a small model on so many devices; returns the losses and the parameters."""
    options = SMALL | dict(norm_group=norm_group, dropout_rate=0.5) | overrides
    mesh = make_mesh(jax.devices()[:num_devices])
    rate = optim.learning_rate(
        optim_keys(lr=0.05, schedule="constant"), batch=1, epochs=1, steps_per_epoch=1
    )
    _, state, step = prepare(
        lambda: create_model("tsn_resnet10", head=head, rngs=nnx.Rngs(1), **options),
        partial(optim.sgd, rate=rate, settings=SGD),
        mesh,
        rate,
        seed=3,
        accumulation=accumulation,
    )
    batch = jax.device_put(small_batch(), batch_sharding(mesh))
    losses = []
    for _ in range(steps):
        state, scalars = step(state, batch)
        losses.append(float(scalars["loss"]))
    return np.array(losses), jax.device_get((state.params, state.stats))


def largest_difference(a, b):
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: np.abs(x - y).max(), a, b)))


@pytest.fixture(scope="module")
def one_device():
    with jax.enable_x64(True):
        return run(1)


@pytest.fixture(scope="module")
def eight_devices():
    with jax.enable_x64(True):
        return run(8)


def test_eight_devices_train_as_one(one_device, eight_devices):
    np.testing.assert_allclose(eight_devices[0], one_device[0], rtol=0, atol=1e-9)
    assert largest_difference(eight_devices[1], one_device[1]) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        dict(backbone="mobilenetv2_tiny", temporal_op="tsm", width=None, width_factor=0.25),
        dict(non_local="embedded_gaussian"),
    ],
    ids=["mobilenetv2", "non_local"],
)
def test_other_networks_train_on_eight_devices_as_on_one(options):
    with jax.enable_x64(True):
        (loss, parameters), (losses, expected) = (run(n, steps=3, **options) for n in (8, 1))
    np.testing.assert_allclose(loss, losses, rtol=0, atol=1e-9)
    assert largest_difference(parameters, expected) < 1e-9


def test_one_device_takes_the_batch_of_eight_in_eight_parts(eight_devices):
    with jax.enable_x64(True):
        losses, parameters = run(1, accumulation=8)
    np.testing.assert_allclose(losses, eight_devices[0], rtol=0, atol=1e-9)
    assert largest_difference(parameters, eight_devices[1]) < 1e-9


@pytest.mark.thorough(1)
@pytest.mark.parametrize(("num_devices", "accumulation"), [(1, 4), (2, 2)])
def test_accumulation_changes_nothing(one_device, num_devices, accumulation):
    with jax.enable_x64(True):
        losses, parameters = run(num_devices, accumulation=accumulation)
    np.testing.assert_allclose(losses, one_device[0], rtol=0, atol=1e-9)
    assert largest_difference(parameters, one_device[1]) < 1e-9


@pytest.mark.slow
def test_the_comparison_can_fail(one_device):
    with jax.enable_x64(True):
        other_groups, _ = run(1, steps=1, norm_group=4)
        other_draws, _ = run(1, steps=1, dropout_rate=0.4)
    assert abs(other_groups[0] - one_device[0][0]) > 1e-6
    assert abs(other_draws[0] - one_device[0][0]) > 1e-6


@pytest.mark.slow
def test_first_loss_in_float32_does_not_depend_on_the_devices():
    first = [run(n, steps=1, dtype="float32")[0][0] for n in (1, 8)]
    assert first[0] == pytest.approx(first[1], abs=1e-6)


def compiled_text(function, mesh, *arguments):
    return jax.jit(function).lower(*arguments).compile().as_text()


def collectives(text):
    names = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
    return {name: text.count(f" {name}(") + text.count(f" {name}-start(") for name in names}


def test_devices_talk_once_per_step_and_never_in_the_forward_pass():
    mesh = make_mesh()
    rate = optim.learning_rate(
        optim_keys(lr=0.05, schedule="constant"), batch=1, epochs=1, steps_per_epoch=1
    )
    graph, optimizer, state = initial_state.init_state(
        lambda: create_model("trn_resnet10", **SMALL | dict(dtype="float32", norm_group=2)),
        partial(optim.sgd, rate=rate, settings=SGD),
        mesh,
    )
    batch = jax.device_put(small_batch(), batch_sharding(mesh))
    step = train_step.jit_train_step(mesh, graph=graph, optimizer=optimizer, rate=rate, seed=0)
    in_step = collectives(step.lower(state, batch).compile().as_text())
    assert in_step.pop("all-reduce") in (1, 2)
    assert not any(in_step.values())

    def forward(states, clips):
        return nnx.merge(graph, *states)(clips, train=True, rngs=nnx.Rngs(0))

    text = compiled_text(forward, mesh, state.model, batch["clip"])
    assert not any(collectives(text).values())


def test_bfloat16_keeps_parameters_and_statistics_in_float32():
    losses, parameters = run(1, steps=2, dtype="bfloat16")
    assert np.isfinite(losses).all()
    assert {leaf.dtype for leaf in jax.tree.leaves(parameters)} == {np.dtype("float32")}
    assert losses[0] == pytest.approx(run(1, steps=1, dtype="float32")[0][0], abs=0.1)


@pytest.mark.filterwarnings("error:Some donated buffers")
@pytest.mark.thorough(1)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_new_state_takes_the_place_of_the_old_one(dtype):
    mesh = make_mesh()
    rate = optim.learning_rate(
        optim_keys(lr=0.05, schedule="constant"), batch=1, epochs=1, steps_per_epoch=1
    )
    _, state, step = prepare(
        lambda: create_model(
            "tsm_resnet10", **SMALL | dict(dtype=dtype, norm_group=2, frozen_stages=1)
        ),
        partial(optim.sgd, rate=rate, settings=SGD),
        mesh,
        rate,
        seed=0,
        skip_not_finite=True,
    )
    places = jax.tree.map(lambda leaf: leaf.addressable_data(0).unsafe_buffer_pointer(), state)
    after, _ = step(state, jax.device_put(small_batch(), batch_sharding(mesh)))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    found = jax.tree.map(lambda leaf: leaf.addressable_data(0).unsafe_buffer_pointer(), after)
    kept = set(jax.tree.leaves(places)) & set(jax.tree.leaves(found))
    assert len(kept) > 0.9 * len(jax.tree.leaves(state))


# The loss


def test_smoothed_labels_are_spread_over_all_classes():
    logits, labels = np.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]]), np.array([0, 2])
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    targets = 0.7 * np.eye(3)[labels] + 0.3 / 3
    with jax.enable_x64(True):
        found = train_step.classification_loss(jnp.asarray(logits), labels, label_smoothing=0.3)
        plain = train_step.classification_loss(jnp.asarray(logits), labels)
        tiny = train_step.classification_loss(jnp.asarray(logits), labels, label_smoothing=1e-12)
    assert float(found) == pytest.approx(-(targets * logs).sum(1).mean())
    assert float(plain) == pytest.approx(-logs[[0, 1], labels].mean()) == pytest.approx(float(tiny))


def test_class_weights_are_factors_of_the_clips_of_a_class():
    logits, labels = np.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]]), np.array([0, 2])
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    found = train_step.classification_loss(
        jnp.asarray(logits), labels, class_weights=[0.5, 7.0, 3.0], weight=10.0
    )
    assert float(found) == pytest.approx(-10 * (0.5 * logs[0, 0] + 3 * logs[1, 2]) / 2, rel=1e-5)


# Steps that are not finite


def nan_loss(logits, labels):
    """Not a number for a batch with a label 4, but with a gradient that is finite."""
    loss = train_step.classification_loss(logits, labels)
    return jnp.where((labels == 4).any(), jnp.nan, loss)


def nan_gradient(logits, labels):
    """A loss that is finite for every batch, but with an infinite slope for one with a label 4."""
    loss = train_step.classification_loss(logits, labels)
    return loss + jnp.sqrt(jnp.where((labels == 4).any(), 0.0, 1.0) * logits.sum() ** 2)


def few_steps(batches, *, accumulation=1, optimised=False, **options):
    """Take a step with each batch; returns the states, before the first step too, and scalars."""
    mesh = make_mesh(jax.devices()[:1])
    rate = optim.learning_rate(
        optim_keys(lr=0.05, schedule="multistep", milestones=(1.0,)),
        batch=1,
        epochs=2,
        steps_per_epoch=2,
    )
    _, state, step = prepare(
        lambda: create_model(
            "tsn_resnet10", rngs=nnx.Rngs(1), **SMALL | dict(dtype="float32", norm_group=2)
        ),
        partial(optim.sgd, rate=rate, settings=SGD),
        mesh,
        rate,
        seed=3,
        accumulation=accumulation,
        **options,
    )
    if optimised:
        compiler_options = {"xla_backend_optimization_level": 3}
        step = step.lower(state, batches[0]).compile(compiler_options=compiler_options)
    states, scalars = [jax.device_get(state)], []
    for batch in batches:
        state, told = step(state, jax.device_put(batch, batch_sharding(mesh)))
        states.append(jax.device_get(state))
        scalars.append(jax.device_get(told))
    return states, scalars


def good_and_bad():
    good = small_batch(4)
    good["label"] %= 4
    bad = good | {"label": np.array([0, 1, 2, 4], np.int32)}  # in the second half only
    return good, bad


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_skipping_changes_nothing_where_all_is_finite(accumulation):
    good, _ = good_and_bad()
    # Optimised, because that is when a compiler may order operations otherwise.
    options = dict(accumulation=accumulation, optimised=True)
    plain, told = few_steps([good] * 3, **options)
    states, scalars = few_steps([good] * 3, skip_not_finite=True, **options)
    jax.tree.map(np.testing.assert_array_equal, states, plain)
    assert [step.pop("skipped") for step in scalars] == [0, 0, 0]
    assert scalars == told


@pytest.mark.thorough("nan_loss-1", "nan_gradient-2")
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("loss", [nan_loss, nan_gradient])
def test_a_step_that_is_not_finite_is_skipped(loss, accumulation):
    good, bad = good_and_bad()
    options = dict(accumulation=accumulation, loss=loss)
    states, scalars = few_steps([good, bad, good], skip_not_finite=True, **options)
    assert [step["skipped"] for step in scalars] == [0, 1, 0]
    finite = [bool(np.isfinite(scalars[1][name])) for name in ("loss", "grad_norm")]
    assert finite == ([False, True] if loss is nan_loss else [True, False])
    before, after = states[1], states[2]
    jax.tree.map(np.testing.assert_array_equal, (before.params, before.stats), after.model[:2])
    momentum = [
        [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.dtype == np.float32]
        for state in (before, after)
    ]
    assert len(momentum[0]) == len(jax.tree.leaves(before.params))
    jax.tree.map(np.testing.assert_array_equal, *momentum)
    # The steps count on, and with them the learning rate that the optimizer takes.
    assert [int(state.step) for state in states] == [0, 1, 2, 3]
    counts = [leaf for leaf in jax.tree.leaves(after.opt_state) if leaf.dtype == np.int32]
    assert counts == [2]
    assert scalars[2]["lr"] == pytest.approx(0.005)
    assert train_step.all_finite(states[3].model)
    assert largest_difference(states[3].params, after.params) > 0


@pytest.mark.parametrize("place", ["memory", "one device", "all devices", "accelerators"])
def test_one_number_that_is_not_finite_is_seen(place, monkeypatch):
    if place == "accelerators":
        monkeypatch.setattr(train_step, "_is_in_host_memory", lambda leaf: False)

    def is_finite(number, dtype=np.float32):
        values = np.zeros((16, 2), dtype)
        values[9, 0] = number
        if place == "one device":
            values = jax.device_put(values)
        if place == "all devices":
            values = jax.device_put(values, batch_sharding(make_mesh()))
        return train_step.all_finite({"a": np.zeros(3), "b": [values, np.int32(1)]})

    for dtype in (np.float32, jnp.bfloat16):
        assert [is_finite(n, dtype) for n in (1, np.nan, np.inf, -np.inf)] == [True, *[False] * 3]
