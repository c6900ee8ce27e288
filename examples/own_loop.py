"""Train a model that classifies clips as dark or bright, in a custom loop."""

import numpy as np
import optax
from flax import nnx

import trn_jax

model = trn_jax.create_model("tsn_resnet10", num_classes=2, num_segments=3, width=8)
optimizer = nnx.Optimizer(model, optax.sgd(0.02), wrt=nnx.Param)


@nnx.jit
def train_step(model, optimizer, rngs, clips, labels):
    def loss_of(model, rngs):
        logits = model(clips, train=True, rngs=rngs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    loss, gradients = nnx.value_and_grad(loss_of)(model, rngs)
    optimizer.update(model, gradients)
    return loss


random, rngs = np.random.default_rng(0), nnx.Rngs(0)
for step in range(20):
    labels = random.permutation([0, 1] * 4)
    dark = random.integers(0, 128, (8, 3, 32, 32, 3))  # [batch, frames, height, width, RGB]
    clips = (dark + 127 * labels[:, None, None, None, None]).astype(np.uint8)
    print(f"step {step}: loss {float(train_step(model, optimizer, rngs, clips, labels)):.3f}")
