"""The front door: models with weights, what they are, and their features."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from torch_files import safetensors_file

import trn_jax
from trn_jax import models
from trn_jax.checkpoints import checkpoint
from trn_jax.config import base
from trn_jax.errors import UserError

SMALL = dict(num_segments=3, width=4)


def random_clips(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A checkpoint of a small TRN, and its model."""
    folder = tmp_path_factory.mktemp("checkpoint") / "trn"
    model = trn_jax.create_model("trn_resnet10", num_classes=4, **SMALL)
    config = base(dataset="frames", model="trn_resnet10", num_classes=4)
    config.model.update(SMALL)
    config.size = 56
    about = {
        "config": config.to_dict(),
        "class_names": ["a", "b", "c", "d"],
        "source": {"file": "trn.pth", "sha256": "0" * 64},
        "sampling": {"num_frames": 36, "seconds": 3.0, "frame_rate": "fast"},
    }
    checkpoint.save_model(str(folder), model, about)
    return folder, model


def same(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def weights(model):
    return nnx.as_pure(nnx.state(model))


def test_the_front_door_is_shown():
    names = "create_model explain extract_features fold_batch_norm list_models load_model predict"
    assert dir(trn_jax) == ["__version__", *names.split(), "streaming"]
    assert all(callable(getattr(trn_jax, name)) for name in dir(trn_jax)[1:])
    with pytest.raises(AttributeError, match="'trn_jax' has no attribute 'create_modle'"):
        _ = trn_jax.create_modle


def test_loading_is_quiet(stored):
    """In a process of its own, as pytest takes logs away."""
    done = subprocess.run(
        [sys.executable, "-c", f"import trn_jax; trn_jax.load_model({str(stored[0])!r})"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_a_loaded_model_says_what_it_is(stored):
    folder, model = stored
    found = trn_jax.load_model(folder)
    assert same(weights(found), weights(model))
    info = found.info
    assert info.class_names == ("a", "b", "c", "d")
    (view,) = info.views.values()
    assert (view["num_segments"], view["short_side"], view["crop_size"]) == (3, 64, 56)
    assert info.config["model"]["name"] == "trn_resnet10"
    assert (info.path, info.step, info.metrics) == (str(folder), 0, {})
    assert info.source["file"] == "trn.pth"
    # What is no positive number is unknown.
    assert info.sampling == {"num_frames": 36.0, "seconds": 3.0, "frame_rate": None}
    clips = random_clips(2, 3)
    np.testing.assert_array_equal(nnx.jit(lambda m, x: m(x))(found, clips), found(clips))


@pytest.mark.parametrize("name", ["tsn_resnet10", "trn_resnet10", "tsm_resnet10"])
def test_features_and_head_make_up_the_model(name):
    model, clips = trn_jax.create_model(name, num_classes=5, **SMALL), random_clips(2, 3)

    @nnx.jit
    def both(model, clips):
        return model(clips), model.features(clips)

    logits, features = both(model, clips)
    assert features.shape == (2, 3, model.backbone.out_channels)
    np.testing.assert_allclose(model.head_logits(features), logits, rtol=1e-5, atol=1e-6)


def test_a_model_without_classes_gives_features():
    clips = jax.ShapeDtypeStruct((2, 4, 32, 32, 3), jnp.uint8)
    for name in ("tsn_resnet10", "tpn_tsm_resnet10"):
        model = nnx.eval_shape(
            lambda name=name: trn_jax.create_model(name, num_classes=0, num_segments=4, width=8)
        )
        found = nnx.eval_shape(lambda model, clips: model(clips), model, clips)
        channels = (model.neck or model.backbone).out_channels
        assert found.shape[::2] == (2, channels) and found.dtype == jnp.float32
    with pytest.raises(UserError, match="num_classes=0"):
        model.head_logits(jnp.zeros((1, 4, 8)))


class Constant(nnx.Module):
    """A head that sees nothing."""

    def __init__(self, in_channels, num_classes, *, value=0.0, rngs):
        self.shape = in_channels, num_classes
        self.value = value

    def __call__(self, features, **_):
        return jnp.full((len(features), self.shape[1]), self.value)


def test_a_head_of_ones_own():
    model = trn_jax.create_model("tsn_resnet10", num_classes=2, head=Constant, value=3.0, width=4)
    assert model.merge_views == "logits"
    np.testing.assert_array_equal(model(random_clips(1, 2)), [[3.0, 3.0]])
    with pytest.raises(UserError, match="has no option 'volume'"):
        trn_jax.create_model("tsn_resnet10", num_classes=2, head=Constant, volume=3)


def test_weights_of_a_checkpoint_start_a_model(stored):
    folder, model = stored
    other = trn_jax.create_model(
        "tsn_resnet10", num_classes=7, weights=str(folder), rngs=nnx.Rngs(1), **SMALL
    )
    assert same(weights(other.backbone), weights(model.backbone))
    again = trn_jax.create_model(
        "trn_resnet10", num_classes=4, weights=folder, init_head=True, rngs=nnx.Rngs(1), **SMALL
    )
    assert same(weights(again), weights(model))
    with pytest.raises(UserError, match=r"backbone.*problems"):
        trn_jax.create_model("tsn_resnet18", num_classes=4, weights=folder, **SMALL)


def test_weights_of_a_file_start_a_model(tmp_path):
    model = models.create_model("tsn_resnet18", num_classes=3, rngs=nnx.Rngs(1), width=4)
    bottom = {"conv1.weight": np.ones((4, 3, 7, 7), np.float32)}
    (tmp_path / "part.safetensors").write_bytes(safetensors_file(bottom))
    weights = tmp_path / "part.safetensors"
    with pytest.raises(UserError, match="missing"):
        trn_jax.create_model("tsn_resnet18", num_classes=3, weights=weights, width=4)
    with pytest.raises(UserError, match=r"nowhere\.pth: there is neither"):
        trn_jax.create_model("tsn_resnet18", num_classes=3, weights="nowhere.pth", width=4)
    assert model.info is None
