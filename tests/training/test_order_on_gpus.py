"""Sums on GPUs: XLA takes those of a scatter in any order, so that no two runs are the same."""

import math
import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from optim_settings import optim_keys

from trn_jax import create_model, optim
from trn_jax.backbones.swin import Swin
from trn_jax.distributed.sharding import make_mesh
from trn_jax.models.recognizer import Recognizer
from trn_jax.models.tsn import TSNHead
from trn_jax.training import initial_state, train_step

BATCH = 4


def named(name, **options):
    return lambda: create_model(name, num_classes=5, num_segments=4, rngs=nnx.Rngs(0), **options)


def swin():
    rngs = nnx.Rngs(0)
    backbone = Swin((1, 2), width=4, head_channels=2, window=2, drop_path_rate=0.5, rngs=rngs)
    return Recognizer(backbone, TSNHead(backbone.out_channels, num_classes=5, rngs=rngs))


# With whether XLA's own forms would be scatters.
MODELS = {
    "trn": (named("trn_resnet10", width=4), True),
    "trn, expected": (named("trn_resnet10", width=4, train_relations="expected"), True),
    "tsm": (named("tsm_resnet10", width=4), True),
    "tin": (named("tin_resnet10", width=16), True),
    "tpn": (named("tpn_tsm_resnet10", width=16), True),
    "swin": (swin, True),
    "bninception": (named("tsn_bninception", width=4), True),
    "densenet": (named("tsn_densenet161", growth=2, width=4), True),
    "mobileone": (named("tsn_mobileone_s4", backbone="mobileone_tiny"), False),
    "mobilenetv2": (named("tsm_mobilenetv2", backbone="mobilenetv2_tiny"), False),
    "non_local": (named("tsm_resnet10", width=4, non_local="gaussian"), True),
}


def sums(make_model, platform):
    """The scatters of a training step: how many numbers each adds, `None` for one by windows."""
    rate = optim.learning_rate(
        optim_keys(lr=0.1, schedule="constant"), batch=1, epochs=1, steps_per_epoch=1
    )
    mesh = make_mesh(jax.devices()[:1])
    graph, optimizer, init = initial_state.state_definition(
        make_model,
        lambda params: optim.sgd(
            params, rate, optim_keys(momentum=0.9, weight_decay=0.0, clip_norm=0.0)
        ),
    )
    step = train_step.jit_train_step(mesh, graph=graph, optimizer=optimizer, rate=rate, seed=0)
    clips = jax.ShapeDtypeStruct((BATCH, 4, 32, 32, 3), jnp.uint8)
    batch = {"clip": clips, "label": jax.ShapeDtypeStruct((BATCH,), jnp.int32)}
    traced = step.trace(jax.eval_shape(init), batch)
    program = traced.lower(lowering_platforms=(platform,)).as_text()
    found = []
    for kind, types in re.findall(
        r'"stablehlo\.(scatter|select_and_scatter)".*?\}\) : \((.*?)\) -> ', program, re.DOTALL
    ):
        sizes = re.findall(r"\d+(?=x)", types.split(", ")[-1])  # of what is added
        found.append(None if kind == "select_and_scatter" else math.prod(map(int, sizes)))
    return found


@pytest.mark.by_default(1, slow=("densenet", "inception", "swin", "tpn", "mobile", "non_local"))
@pytest.mark.parametrize("name", MODELS)
def test_training_steps_on_gpus_add_in_one_order(name):
    make_model, scatters = MODELS[name]

    def collide(platform):
        # The loss looks at one score of each clip, and the shares of its gradient never meet.
        return [size for size in sums(make_model, platform) if size is None or size > BATCH]

    assert collide("cuda") == []
    assert bool(collide("tpu")) == scatters
