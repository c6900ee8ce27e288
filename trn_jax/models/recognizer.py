"""The frame of every model: normalise, run the backbone on single frames, let the head decide."""

import jax.numpy as jnp
from flax import nnx

from trn_jax.backbones.layers import storage_dtype
from trn_jax.errors import UserError

# Statistics of ImageNet, for pixels in 0..255, in RGB order.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


class Recognizer(nnx.Module):
    """A model: `backbone` looks at frames, `head` turns them into class scores.

    Args:
        backbone: maps frames `[frames, height, width, 3]` to a list of stage features.
        head: maps the last features, `[batch, segments, height, width, channels]`, to logits.
        norm_group: number of clips whose batch statistics are taken together in training: the
            published batch of one GPU. 0 takes the whole batch.
        mean: what is subtracted from the pixels, per channel.
        std: what the pixels are divided by afterwards, per channel.

    Attributes:
        merge_views: how the views of a video become one prediction: the mean of their "logits" or
            of their "probabilities".
    """

    def __init__(self, backbone, head, *, norm_group=0, mean=IMAGENET_MEAN, std=IMAGENET_STD):
        self.backbone = backbone
        self.head = head
        self.norm_group = norm_group
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.merge_views = head.merge_views

    def __call__(self, clips, *, train=False, rngs=None, clip_index=None):
        """Score clips.

        Args:
            clips: `[batch, frames, height, width, 3]`, RGB, pixels in 0..255, any dtype.
            train: use batch statistics and update the running ones; drop features.
            rngs: source of the `dropout` and `relations` keys, needed in training.
            clip_index: each clip's number in the global batch, `[batch]`; random masks belong to
                these numbers. By default the clips are the global batch.

        Returns:
            Logits `[batch, num_classes]` in float32.

        Raises:
            UserError: the shape does not fit, or keys are missing.
        """
        if clips.ndim != 5 or clips.shape[-1] != 3:
            raise UserError(
                f"clips have shape {clips.shape}, expected [batch, frames, height, width, 3]"
            )
        if train and rngs is None:
            raise UserError("training draws random numbers: call the model with rngs=nnx.Rngs(...)")
        batch, num_frames = clips.shape[:2]
        if clip_index is None:
            clip_index = jnp.arange(batch)
        num_groups = self._num_groups(batch) if train else 1
        frames = self.normalise(clips.reshape(batch * num_frames, *clips.shape[2:]))
        features = self.backbone(frames, train=train, num_groups=num_groups)[-1]
        features = features.reshape(batch, num_frames, *features.shape[1:])
        return self.head(features, train=train, rngs=rngs, clip_index=clip_index)

    def normalise(self, frames):
        """Shift and scale the pixels of `frames` `[..., 3]`; computed in float32."""
        dtype = storage_dtype(self.backbone.conv1.dtype)
        return (frames.astype(dtype) - jnp.array(self.mean, dtype)) / jnp.array(self.std, dtype)

    def _num_groups(self, batch):
        if not self.norm_group:
            return 1
        if batch % self.norm_group:
            raise UserError(
                f"a batch of {batch} clips cannot be cut into groups of norm_group="
                f"{self.norm_group} for batch normalisation; change the batch size or "
                "model.norm_group"
            )
        return batch // self.norm_group
