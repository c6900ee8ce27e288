"""What all models share: normalise, run the backbone and the neck, let the head decide."""

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
        backbone: maps frames `[batch * segments, height, width, 3]` to a list of the features of
            its stages, or, if it `sees_clips`, `[batch, segments, height, width, 3]` to features
            with a time axis.
        head: maps the last features, `[batch, segments, height, width, channels]`, to logits.
        neck: maps a list of the features of all stages, with a time axis, to the ones for the head
            and auxiliary logits (`None` in evaluation).
        norm_group: number of clips whose batch statistics are taken together in training: the
            published batch of one GPU. 0 takes the whole batch.
        mean: what is subtracted from the pixels, per channel.
        std: what the pixels are divided by afterwards, per channel.

    Attributes:
        merge_views: how the views of a video become one prediction: the mean of their "logits" or
            of their "probabilities".
    """

    def __init__(
        self, backbone, head, *, neck=None, norm_group=0, mean=IMAGENET_MEAN, std=IMAGENET_STD
    ):
        self.backbone = backbone
        self.neck = neck
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
        return self.outputs(clips, train=train, rngs=rngs, clip_index=clip_index)[0]

    def outputs(self, clips, *, train=False, rngs=None, clip_index=None):
        """Score clips, see `__call__`.

        Returns:
            The logits, and the logits of the neck's auxiliary classifier: `None` in evaluation and
            for models that have none. They enter the loss with weight `neck.auxiliary_weight`.
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
        statistics = dict(train=train, num_groups=self._num_groups(batch) if train else 1)
        x = self.normalise(clips)
        if not self.backbone.sees_clips:
            x = x.reshape(batch * num_frames, *x.shape[2:])
        features = [f.reshape(batch, -1, *f.shape[-3:]) for f in self.backbone(x, **statistics)]
        random = dict(rngs=rngs, clip_index=clip_index)
        x, auxiliary = features[-1], None
        if self.neck is not None:
            x, auxiliary = self.neck(features, **statistics, **random)
        return self.head(x, train=train, **random), auxiliary

    def normalise(self, frames):
        """Shift and scale the pixels of `frames` `[..., 3]`; computed in float32."""
        dtype = storage_dtype(self.backbone.dtype)
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
