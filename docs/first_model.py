# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your first model
#
# This notebook trains a TRN in a custom loop, compares it on reversed clips with a TSN, which
# ignores the order of the frames, and computes its features and which frames decide. It needs no
# download, and about three minutes of CPU time.

# %%
import cv2
import numpy as np
import optax
from flax import nnx
from IPython.display import Image

import trn_jax
from trn_jax.data.motions import CLASS_NAMES, render_clip
from trn_jax.explanation.frames import FrameExplainer
from trn_jax.explanation.rearranged import Rearranged

# %% [markdown]
# ## Clips
#
# A clip is an array of RGB frames in 0..255. Here, clips are rendered: two pairs of classes, in
# which one class is the other played backwards.

# %%
CLASSES = [CLASS_NAMES[number] for number in (2, 3, 10, 11)]
FRAMES, SIZE = 8, 48


def draw(num_clips, rng):
    """Clips uint8 `[num_clips, frames, height, width, 3]` and labels `[num_clips]`."""
    labels = rng.integers(len(CLASSES), size=num_clips)
    clips = [render_clip(CLASSES[label], FRAMES, rng, height=SIZE) for label in labels]
    return np.stack([clip[:, :, :SIZE] for clip in clips]), labels


def picture(rows, scale=2):
    """Clips below each other, as JPEG."""
    sheet = np.concatenate([np.concatenate(list(clip), axis=1) for clip in rows])
    sheet = cv2.resize(sheet, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    return Image(cv2.imencode(".jpg", sheet[..., ::-1])[1].tobytes())


clips, labels = draw(64, np.random.default_rng(1))
shown = [int(np.flatnonzero(labels == label)[0]) for label in range(len(CLASSES))]
print(*(CLASSES[labels[each]] for each in shown), sep="\n")
picture(clips[shown])


# %% [markdown]
# ## Training
#
# `train=True` and `rngs` are arguments of the call: modules have no training mode. Normalisation is
# part of the model.


# %%
@nnx.jit
def train_step(model, optimizer, rngs, clips, labels):
    def loss_of(model, rngs):
        logits = model(clips, train=True, rngs=rngs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    loss, gradients = nnx.value_and_grad(loss_of)(model, rngs)
    optimizer.update(model, gradients)
    return loss


def train(name, num_steps=150):
    model = trn_jax.create_model(
        name, num_classes=len(CLASSES), num_segments=FRAMES, width=16, dropout_rate=0.0
    )
    rates = optax.cosine_decay_schedule(0.03, num_steps)
    tx = optax.chain(optax.clip_by_global_norm(20.0), optax.sgd(rates, 0.9, nesterov=True))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    rng, rngs = np.random.default_rng(0), nnx.Rngs(0)
    for step in range(num_steps):
        loss = train_step(model, optimizer, rngs, *draw(16, rng))
        if step % 50 == 49:
            print(f"{name}  step {step + 1}  loss {float(loss):.2f}")
    return model


trn = train("trn_resnet10")
tsn = train("tsn_resnet10")

# %% [markdown]
# ## Does the order matter?
#
# On reversed clips, TRN predicts the other class of the pair. TSN averages over the frames, so it
# can't distinguish the two classes of a pair.

# %%
scores = nnx.jit(lambda model, clips: model(clips))
for name, model in (("TRN", trn), ("TSN", tsn)):
    for order, shown_clips in (("in order", clips), ("reversed", clips[:, ::-1])):
        right = np.argmax(scores(model, shown_clips), axis=1) == labels
        print(f"{name}  {order}  {100 * right.mean():.0f} %")

# %% [markdown]
# ## Features
#
# Features are the output of the backbone for each frame; the head turns them into scores.

# %%
features = trn.features(clips[:4])
print(features.shape, "[clips, frames, channels]")
print(np.allclose(trn.head_logits(features), trn(clips[:4]), atol=1e-4))

# %% [markdown]
# ## Which frames decide?
#
# The Shapley value of a frame is what it adds to the score of a class, averaged over all orders in
# which frames can be added. For a TRN, these values are exact. `trn_jax.explain` computes them for
# any video, with the model of a checkpoint.

# %%
rearranged = Rearranged(trn, max_clips=16)
explainer = FrameExplainer(trn, rearranged, num_frames=FRAMES)
for each in shown:
    found, _ = explainer(rearranged.load(clips[each]), [labels[each]])
    values = "  ".join(f"{value:+5.2f}" for value in found.values[0])
    print(f"{CLASSES[labels[each]]:24.24}  {values}")
