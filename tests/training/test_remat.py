"""Activations that are computed twice: the same training in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from optim_settings import optim_keys

from trn_jax import create_model, optim
from trn_jax.backbones.stages import run_block
from trn_jax.backbones.swin import Swin
from trn_jax.distributed.sharding import make_mesh
from trn_jax.errors import UserError
from trn_jax.models.recognizer import Recognizer
from trn_jax.models.tsn import TSNHead
from trn_jax.training import initial_state, train_step


def named_model(name, **options):
    def make(remat):
        return create_model(
            name,
            num_classes=5,
            num_segments=4,
            dtype="float64",
            rngs=nnx.Rngs(1),
            norm_group=2,
            remat=remat,
            **options,
        )

    return make


def swin(remat):
    rngs = nnx.Rngs(1)
    tiny = dict(width=4, head_channels=2, window=2, drop_path_rate=0.5)
    backbone = Swin((1, 2), **tiny, remat=remat, dtype=jnp.float64, rngs=rngs)
    head = TSNHead(backbone.out_channels, num_classes=5, dtype=jnp.float64, rngs=rngs)
    return Recognizer(backbone, head)


# With the number of their stages.
MODELS = {
    "tsm": (named_model("tsm_resnet10", width=4), 4),
    "trn": (named_model("trn_resnet10", width=4), 4),
    "swin": (swin, 2),
    "slowonly": (named_model("tpn_slowonly_resnet50", backbone="slowonly_resnet14", width=4), 4),
    "mobileone": (named_model("tsn_mobileone_s4", backbone="mobileone_tiny"), 2),
    "mobilenetv2": (
        named_model("tsm_mobilenetv2", backbone="mobilenetv2_tiny", width_factor=0.25),
        2,
    ),
    "non_local": (named_model("tsm_resnet10", width=4, non_local="dot_product"), 4),
    "bninception": (named_model("tsn_bninception", width=4), 3),
    "densenet": (named_model("tsn_densenet161", growth=2, width=4), 4),
}
SLOW = ("slowonly", "mobileone", "mobilenetv2", "bninception", "densenet")


def two_steps(make_model, remat):
    """Scalars, parameters and statistics after two steps."""
    mesh = make_mesh(jax.devices()[:1])
    rate = optim.learning_rate(
        optim_keys(lr=0.05, schedule="constant"), batch=1, epochs=1, steps_per_epoch=1
    )
    graph, optimizer, state = initial_state.init_state(
        lambda: make_model(remat),
        lambda params: optim.sgd(
            params, rate, optim_keys(momentum=0.9, weight_decay=1e-4, clip_norm=5.0)
        ),
        mesh,
    )
    step = train_step.jit_train_step(mesh, graph=graph, optimizer=optimizer, rate=rate, seed=3)
    clips = np.random.default_rng(0).integers(0, 256, (4, 4, 32, 32, 3), np.uint8)
    batch = {"clip": clips, "label": np.arange(4, dtype=np.int32)}
    for _ in range(2):
        state, scalars = step(state, batch)
    return jax.device_get((scalars, state.params, state.stats))


@pytest.mark.thorough("trn")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow if n in SLOW else pytest.mark.thorough)
        for n in MODELS
    ],
)
def test_the_training_is_the_same(name):
    make_model, num_stages = MODELS[name]
    with jax.enable_x64(True):
        kept = two_steps(make_model, 0)
        again = two_steps(make_model, num_stages)
    assert jax.tree.structure(kept) == jax.tree.structure(again)  # and so are the names
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), kept, again)


class Wide(nnx.Module):
    """A block whose inside is 16 times as large as its input."""

    def __init__(self, rngs):
        self.to = nnx.Param(jax.random.normal(rngs.params(), (8, 128)))
        self.back = nnx.Param(jax.random.normal(rngs.params(), (128, 8)))

    def __call__(self, x):
        return jnp.tanh(x @ self.to[...]) @ self.back[...]


def test_only_inputs_of_blocks_are_kept():
    block = Wide(nnx.Rngs(0))
    graph, params = nnx.split(block)

    def kept(remat):
        """Numbers that the backward pass needs from the forward pass."""

        def forward(params, x):
            return run_block(nnx.merge(graph, params), x, remat=remat).sum()

        x = jax.ShapeDtypeStruct((100, 8), jnp.float32)
        residuals = jax.eval_shape(lambda p, x: jax.vjp(forward, p, x)[1], params, x)
        return sum(leaf.size for leaf in jax.tree.leaves(residuals))

    weights = 2 * 8 * 128
    assert kept(remat=True) <= 100 * 8 + weights
    assert kept(remat=False) >= 100 * 128 + weights


@pytest.mark.parametrize("remat", [-1, 5])
def test_stages_that_do_not_exist_are_explained(remat):
    with pytest.raises(UserError, match=rf"remat={remat} .* 0\.\.4"):
        nnx.eval_shape(lambda: named_model("tsm_resnet10", width=4)(remat))
