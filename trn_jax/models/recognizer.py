"""The recognizer: normalisation, backbone, neck and head."""

import math

import jax.numpy as jnp
from flax import nnx

from trn_jax.errors import UserError
from trn_jax.nn.layers import global_average_pool, storage_dtype

# Statistics of ImageNet, for pixels in 0..255, in RGB order.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


class Recognizer(nnx.Module):
    """A model: `backbone` computes features of frames, `head` class scores.

    Args:
        backbone: maps frames `[batch * segments, height, width, 3]` to a list of the features of
            its stages, or, with `sees_clips`, `[batch, segments, height, width, 3]` to features
            with a time axis. With `draws`, it takes `rngs` and `clip_index` for random numbers in
            training.
        head: maps the last features, `[batch, segments, height, width, channels]`, to logits;
            `None` for a feature extractor.
        neck: maps a list of the features of all stages, with a time axis, to the ones for the head
            and auxiliary logits (`None` in evaluation).
        num_segments: number of frames of a clip, if the backbone exchanges features among them;
            `None` if it processes every frame alone.
        norm_group: number of clips that share batch statistics in training ("ghost batch norm"),
            the published batch of one GPU. 0 is the whole batch.
        mean: subtracted from the pixels, per channel.
        std: divides the pixels afterwards, per channel.

    Raises:
        UserError: `mean` or `std` are not three numbers, or one of `std` is not positive.

    Attributes:
        merge_views: the scores whose mean over views is the prediction, "logits" or
            "probabilities".
        info: description of a loaded model, see `trn_jax.load_model`; `None` for others.
    """

    def __init__(
        self,
        backbone,
        head,
        *,
        neck=None,
        num_segments=None,
        norm_group=0,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ):
        for name, values, bound in (("mean", mean, -math.inf), ("std", std, 0)):
            if len(values) != 3 or not all(bound < value < math.inf for value in values):
                kind = "positive numbers" if name == "std" else "numbers"
                raise UserError(f"{name}={tuple(values)} must be three {kind}, one per channel")
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.num_segments = num_segments
        self.norm_group = norm_group
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.merge_views = getattr(head, "merge_views", "logits")
        self.info = None

    def __call__(self, clips, *, train=False, rngs=None, clip_index=None):
        """Score clips.

        Args:
            clips: `[batch, frames, height, width, 3]`, RGB, pixels in 0..255, any dtype.
            train: use batch statistics and update the running ones; apply dropout.
            rngs: source of the `dropout` and `relations` keys, needed in training.
            clip_index: index of each clip in the global batch, `[batch]`, which determines its
                random masks. By default the clips are the global batch.

        Returns:
            Logits `[batch, num_classes]` in float32; without a head, `features(clips)`.

        Raises:
            UserError: the shape does not fit, or `rngs` is missing.
        """
        return self.outputs(clips, train=train, rngs=rngs, clip_index=clip_index)[0]

    @property
    def dtype(self):
        """Name of the dtype that the backbone computes in."""
        return jnp.dtype(self.backbone.dtype).name

    @property
    def sees_frames(self):
        """Whether `features` of single frames, put together, are those of the clip."""
        return self.num_segments is None and self.neck is None and not self.backbone.sees_clips

    @property
    def scores_frames(self):
        """Whether frames meet only in the head, which draws nothing, see `sees_frames`."""
        draws = getattr(self.head, "eval_relations", "expected") == "sample"
        return self.sees_frames and self.head is not None and not draws

    def features(self, clips):
        """The features of every frame, averaged over height and width, before the head.

        Args:
            clips: as in `__call__`.

        Returns:
            `[batch, frames, channels]` in float32. A neck may reduce the number of frames.

        Raises:
            UserError: the shape does not fit.
        """
        return global_average_pool(self._maps(clips)[0])

    def head_logits(self, features, *, rngs=None):
        """Score features: `model.head_logits(model.features(clips))` equals `model(clips)`.

        Args:
            features: `[batch, frames, channels]`, of `features`.
            rngs: source of the `relations` key, for a TRN with eval_relations="sample".

        Returns:
            Logits `[batch, num_classes]` in float32.

        Raises:
            UserError: the model has no head, or the shape does not fit.
        """
        if self.head is None:
            raise UserError("a model with num_classes=0 has no head")
        return self.head(features[:, :, None, None, :], rngs=rngs)

    def outputs(self, clips, *, train=False, rngs=None, clip_index=None):
        """Score clips, see `__call__`.

        Returns:
            The logits, and those of the neck's auxiliary classifier, whose weight in the loss is
            `neck.auxiliary_weight`; `None` in evaluation and for models without one.
        """
        if train and rngs is None:
            raise UserError("training needs random keys: call the model with rngs=nnx.Rngs(...)")
        if clip_index is None:
            clip_index = jnp.arange(clips.shape[0])  # which may be symbolic
        random = dict(rngs=rngs, clip_index=clip_index)
        x, auxiliary = self._maps(clips, train=train, **random)
        if self.head is None:
            return global_average_pool(x), auxiliary
        return self.head(x, train=train, **random), auxiliary

    def _maps(self, clips, *, train=False, rngs=None, clip_index=None):
        """Input of the head, `[batch, segments, height, width, channels]`; auxiliary logits."""
        if clips.ndim != 5 or clips.shape[-1] != 3:
            raise UserError(
                f"clips have shape {clips.shape}, expected [batch, frames, height, width, 3]"
            )
        batch, num_frames = clips.shape[:2]
        if num_frames != (self.num_segments or num_frames):
            raise UserError(
                f"clips have {num_frames} frames, but the backbone exchanges features among "
                f"num_segments={self.num_segments}; sample {self.num_segments} segments, split "
                "longer clips into views, or create the model with "
                f"num_segments={num_frames} (a TIN must be trained that way)"
            )
        statistics = dict(train=train, num_groups=self._num_groups(batch) if train else 1)
        x = self.normalise(clips)
        if not self.backbone.sees_clips:
            x = x.reshape(batch * num_frames, *x.shape[2:])
        random = dict(rngs=rngs, clip_index=clip_index)
        features = self.backbone(x, **statistics, **(random if self.backbone.draws else {}))
        features = [f.reshape(batch, -1, *f.shape[-3:]) for f in features]
        x, auxiliary = features[-1], None
        if self.neck is not None:
            x, auxiliary = self.neck(features, **statistics, **random)
        return x, auxiliary

    def normalise(self, frames):
        """Shift and scale the pixels of `frames` `[..., 3]`; computed in float32."""
        dtype = storage_dtype(self.backbone.dtype)
        return (frames.astype(dtype) - jnp.array(self.mean, dtype)) / jnp.array(self.std, dtype)

    def _num_groups(self, batch):
        if not self.norm_group:
            return 1
        if batch % self.norm_group:
            raise UserError(
                f"a batch of {batch} clips is not a multiple of norm_group={self.norm_group}; "
                "change the batch size or model.norm_group"
            )
        return batch // self.norm_group
