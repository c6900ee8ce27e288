"""Parameters and momentum that are cut over the devices: the same training in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from optim_settings import optim_keys

from trn_jax import create_model, optim
from trn_jax.checkpoints import arrays, manager
from trn_jax.config import base
from trn_jax.distributed.sharding import batch_sharding, fsdp_sharding, gathered, make_mesh
from trn_jax.errors import UserError
from trn_jax.evaluation.scoring import ClipScorer
from trn_jax.planning import step_cost
from trn_jax.training import initial_state, train_step
from trn_jax.training.start import restore


def prepare(shard, *, dtype="float64", **options):
    """A small training on eight devices."""
    mesh = make_mesh()
    rate = optim.learning_rate(
        optim_keys(lr=0.05, schedule="constant"), batch=1, epochs=1, steps_per_epoch=1
    )
    graph, optimizer, state = initial_state.init_state(
        lambda: create_model(
            "trn_resnet10",
            num_classes=5,
            num_segments=3,
            width=8,
            norm_group=2,
            frozen_stages=1,
            dtype=dtype,
            rngs=nnx.Rngs(1),
        ),
        lambda params: optim.sgd(
            params, rate, optim_keys(momentum=0.9, weight_decay=1e-4, clip_norm=5.0)
        ),
        mesh,
        shard,
    )
    layout = train_step.state_sharding(state, mesh, shard)
    step = train_step.jit_train_step(
        mesh, sharding=layout, graph=graph, optimizer=optimizer, rate=rate, seed=3, **options
    )
    return graph, state, step


def batch():
    rng = np.random.default_rng(0)
    arrays = {
        "clip": rng.integers(0, 256, (32, 3, 32, 32, 3), np.uint8),
        "label": rng.integers(0, 5, 32).astype(np.int32),
    }
    return jax.device_put(arrays, batch_sharding(make_mesh()))


def take(state, step, count):
    losses = []
    for _ in range(count):
        state, scalars = step(state, batch())
        losses.append(float(scalars["loss"]))
    return state, losses


@pytest.fixture(scope="module")
def whole():
    """The state after two and after three steps on whole arrays, and the losses."""
    with jax.enable_x64(True):
        _, state, step = prepare("none")
        state, losses = take(state, step, 2)
        second = jax.device_get(state)
        state, more = take(state, step, 1)
        return second, jax.device_get(state), losses + more


def assert_close(state, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-9),
        jax.device_get(state),
        expected,
    )


def bytes_per_device(tree):
    device = jax.devices()[3]
    return sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(tree)
        for shard in leaf.addressable_shards
        if shard.device == device
    )


@pytest.mark.thorough("all-options1")
@pytest.mark.parametrize(
    ("shard", "options"),
    [
        ("zero1", {}),
        ("fsdp", {}),
        ("fsdp", dict(accumulation=2, skip_not_finite=True)),
    ],
)
def test_the_training_is_the_same_in_less_memory(whole, shard, options):
    with jax.enable_x64(True):
        graph, state, step = prepare(shard, **options)
        before = jax.tree.map(lambda leaf: leaf.sharding, state)
        state, losses = take(state, step, 3)
        np.testing.assert_allclose(losses, whole[2], rtol=0, atol=1e-9)
        assert_close(state, whole[1])
        assert jax.tree.map(lambda leaf: leaf.sharding, state) == before
        for part in (state.opt_state, state.params):
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(part))
            is_cut = shard == "fsdp" or part is state.opt_state
            assert bytes_per_device(part) < 0.3 * size if is_cut else bytes_per_device(part) == size
        ClipScorer(graph, max_views=1).on_these_devices((state.model,))


@pytest.mark.slow
@pytest.mark.parametrize(("saved", "resumed"), [("fsdp", "none"), ("none", "fsdp")])
def test_checkpoints_do_not_know_of_it(whole, tmp_path, saved, resumed):
    with jax.enable_x64(True):
        _, state, step = prepare(saved)
        state, _ = take(state, step, 2)
        checkpoints = manager.Checkpoints(tmp_path, keep=1, about={"config": {}})
        checkpoints.save(2, state.model, state.opt_state)
        checkpoints.wait()
        _, fresh, step = prepare(resumed)
        restored = restore(checkpoints, 2, fresh)
        checkpoints.close()
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), jax.device_get(state))
        places = [jax.tree.map(lambda leaf: leaf.sharding, each) for each in (restored, fresh)]
        assert places[0] == places[1]
        state, losses = take(restored, step, 1)
        assert losses[0] == pytest.approx(whole[2][2], abs=1e-9)
        assert_close(state, whole[1])


def test_the_largest_axis_that_devices_divide_is_cut():
    mesh = make_mesh()
    shapes = {
        "kernel": (3, 3, 64, 128),
        "first": (7, 7, 3, 64),
        "classifier": (256, 174),
        "no axis": (63, 129),
        "small": (8, 512),
        "number": (),
    }
    tree = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    cut = {name: tuple(found.spec) for name, found in fsdp_sharding(tree, mesh).items()}
    assert cut == {
        "kernel": (None, None, None, "data"),
        "first": (None, None, None, "data"),
        "classifier": ("data",),
        "no axis": (),
        "small": (),
        "number": (),
    }


def test_arrays_are_gathered():
    mesh = make_mesh()
    values = {"a": np.arange(8192.0).reshape(16, 512), "b": np.arange(3.0)}
    tree = jax.device_put(values, fsdp_sharding(values, mesh))
    assert not tree["a"].is_fully_replicated
    together = gathered(tree)
    assert all(leaf.is_fully_replicated for leaf in together.values())
    jax.tree.map(np.testing.assert_array_equal, together, values)
    assert gathered(together) is together


def test_other_choices_are_refused():
    with pytest.raises(UserError, match=r"shard_state='some'.*zero1, fsdp"):
        train_step.state_sharding({}, make_mesh(), "some")


@pytest.mark.slow
def test_a_plan_shows_it():
    config = base(dataset="frames", model="trn_resnet10", num_classes=5)
    config.model.update(width=8, num_segments=3, norm_group=2)
    config.data.train.update(num_segments=3, crop_size=32)
    config.train.batch = 16
    costs = {}
    for shard in ("none", "zero1", "fsdp"):
        config.train.shard_state = shard
        costs[shard] = step_cost.training_cost(config, jax.devices())
    assert costs["fsdp"].arguments < 0.7 * costs["zero1"].arguments
    assert costs["zero1"].arguments < 0.7 * costs["none"].arguments
    kinds = {name: {each.kind for each in cost.collectives} for name, cost in costs.items()}
    assert kinds["none"] == {"all-reduce"}
    for shard in ("zero1", "fsdp"):
        assert {"all-gather"} <= kinds[shard] <= {"all-gather", "all-reduce", "reduce-scatter"}


def test_foreign_weights_are_cut_too(monkeypatch):
    def load(model, _):
        kernel = model.backbone.layer4[0].conv2.kernel
        kernel.set_value(jnp.ones(kernel.shape))
        return []

    monkeypatch.setattr(initial_state.convert, "load_state_dict", load)
    graph, state, _ = prepare("fsdp", dtype="float32")
    loaded, _ = initial_state.load_weights(graph, state, {})
    places = [jax.tree.map(lambda leaf: leaf.sharding, each) for each in (state, loaded)]
    assert places[0] == places[1]
    kernel = arrays.named(loaded.params)["backbone.layer4.0.conv2.kernel"]
    assert not kernel.is_fully_replicated and (np.asarray(kernel) == 1).all()
