"""The configuration: every key, its unit, its default and the values it allows."""

import dataclasses
import functools
import math
import operator
import pathlib
import re
import runpy
import types

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from trn_jax.errors import UserError, did_you_mean, listed

# Not only dots: no name may lead out of the folder of the results.
_PROTOCOL = re.compile(r"(?!\.+$)[A-Za-z0-9_.-]+")

_HERE = pathlib.Path(__file__).parent


def recipe_names():
    """Names of the recipes that come with the package, sorted."""
    return sorted(path.stem for path in _recipes().glob("*.py"))


def recipe_file(name):
    """The file of a recipe that comes with the package.

    Args:
        name: such as "trn_sthv1".

    Raises:
        UserError: there is none of this name.
    """
    path = _recipes() / f"{name}.py"
    if name not in recipe_names():
        raise UserError(
            f"there is no recipe {name!r}{did_you_mean(name, recipe_names())} A recipe is given by "
            "its name or by the path of its file, which ends in .py"
        )
    return path


@functools.cache
def recipe(name):
    """What a recipe that comes with the package defines, for others that build on it."""
    return types.SimpleNamespace(**runpy.run_path(str(recipe_file(name))))


def _recipes():
    """Their folder: in a wheel inside of the package, in the repository beside it."""
    inside = _HERE / "configs"
    return inside if inside.is_dir() else _HERE.parent / "configs"


def view(**changes):
    """How clips are sampled from a video: one schema for training, validation and protocols."""
    keys = ConfigDict(
        dict(
            num_segments=8,  # frames of a clip
            # One frame per segment: "random", "center", or "twice" (2 clips: centers and starts).
            # Clips with a fixed frame interval: "random_clips" or "clips". Windows of sample_range
            # frames: one at a random place ("random_dense"), or num_clips of them ("dense").
            sampling="center",
            frame_order="forward",  # "forward"; "reversed", "shuffled": does order matter?
            num_clips=1,  # "random_clips", "clips", "dense": clips per video
            frame_interval=1,  # "random_clips", "clips": distance between frames, in frames
            clip_positions="ends",  # "clips": spread from end to end, or "middles" of equal parts
            out_of_bound="loop",  # indices past the end: "loop" to the start, or "repeat_last"
            sample_range=64,  # "random_dense", "dense": frames of the video that a clip spans
            short_videos="spread",  # fewer frames than segments: "spread" or repeat the "first"
            keep_tail_frames=False,  # fractional segments, so the last frames can be drawn too
            short_side=256,  # resized to this before cropping, pixels; 0: not (random crops)
            crop="center",  # "multi_scale", "random_resized" (random), "center", "three" or "ten"
            crop_size=224,  # pixels
            scales=(1.0, 0.875, 0.75, 0.66),  # multi-scale crop: fractions of the short side
            num_positions=13,  # multi-scale crop: 5 or 13 fixed positions
            max_scale_gap=1,  # multi-scale crop: largest index difference of the two scales
            area_range=(0.08, 1.0),  # random resized crop: fraction of the frame's area
            aspect_ratio_range=(3 / 4, 4 / 3),  # random resized crop: width / height
            flip_rate=0.0,  # fraction of clips that are flipped
            flip_labels=True,  # flipped clips get the label of the mirrored class, matched by
            # "left" and "right", "clockwise" and "counterclockwise" in the class names
            flip_pairs=(),  # further pairs of mirrored classes: (("<name>", "<name>"), ...)
            color_jitter=(0.0, 0.0, 0.0, 0.0),  # strengths of brightness, contrast, saturation, hue
            merge_views="model",  # mean of the views' "logits" or "probabilities"; "model": its own
            relations="model",  # TRN evaluation: "expected", "first", "sample"; "model": its own
            num_draws=1,  # "sample": number of evaluations, for mean and spread
        )
    )
    keys.lock().update(changes)
    return keys


def base(*, dataset, model, num_classes):
    """The defaults of all recipes.

    Args:
        dataset: one of `trn_jax.data.datasets.DATASETS`.
        model: one of `trn_jax.list_models()`.
        num_classes: number of classes.

    Returns:
        A locked `ConfigDict`: unknown keys raise. `None` in the sections `model` and `data` means
        the default of the named model or data set.
    """
    config = ConfigDict()
    config.seed = 0
    config.data_dir = placeholder(str)  # folder of the data set; None: data/<dataset>, or, for the
    # synthetic one, which is written on first use, <parent of workdir>/data/synthetic

    # Initial weights of the backbone: a .pth, .safetensors or .npz file of ImageNet or of another
    # model; a folder with the published file (init_url); a checkpoint or a working directory, with
    # "@best" or "@<step>" for another checkpoint than the newest. None: random weights.
    config.init_from = placeholder(str)
    # Load neck and head, too; from checkpoints, where the shapes match.
    config.init_head = False
    # URL of the weights that the published training started from.
    config.init_url = placeholder(str)

    # Keyword arguments of trn_jax.create_model.
    config.model = dict(
        name=model,
        num_classes=num_classes,
        num_segments=8,  # frames of a clip in training
        dtype="float32",  # of the computation: "float32" or "bfloat16"; parameters are float32
        norm_group=0,  # clips that share batch statistics: the published batch of a GPU; 0: all
        backbone=placeholder(str),
        temporal_op=placeholder(str),
        neck=placeholder(str),
        head=placeholder(str),
        width=placeholder(int),  # channels of a ResNet's stem
        shift_div=placeholder(int),  # TSM, TIN: 1 / shift_div of the channels moves in time
        shift_place=placeholder(str),  # TSM: "blockres" (residual branch only) or "block"
        shift_every=placeholder(int),  # TSM, TIN: every how many blocks of a stage
        shift_segments=placeholder(int),  # TSM: features move inside runs of so many frames
        causal=placeholder(bool),  # TSM: features move to later frames only
        partial_bn=placeholder(bool),  # freeze all batch norms but the first
        frozen_stages=placeholder(int),  # freeze the stem (0) and the first stages (1, 2, ...)
        remat=placeholder(int),  # compute the activations inside the blocks of the first so many
        # stages of the backbone again in the backward pass: less memory, more operations; None: 0
        dropout_rate=placeholder(float),
        drop_path_rate=placeholder(float),  # Swin: how often the last block is left out
        deploy=placeholder(bool),  # MobileOne: one branch per block, as `reparameterize` makes them
        init_std=placeholder(float),  # of the first weights of the layer on the features
        eval_relations=placeholder(str),  # TRN: "expected", "first" or "sample"
        train_relations=placeholder(str),
        max_relations=placeholder(int),  # TRN: relations per scale that make up a score
        embedding_channels=placeholder(int),  # TRN: features of a frame that relations see
    )

    config.data = dict(
        dataset=dataset,
        source=placeholder(str),  # "frames", "videos" or "records"; None: what is there
        frames=placeholder(str),  # folder of the frame folders or videos, relative to data_dir
        val_frames=placeholder(str),  # the same for validation; "": they lie in the same folder
        test_frames=placeholder(str),  # the same for the test videos
        train_list=placeholder(str),  # lines "<folder> <num_frames> <label>"
        val_list=placeholder(str),
        test_list=placeholder(str),  # evaluated by --mode=eval --split=test, and by nothing else
        multi_label=False,  # lines go on with further labels; every class is a question of its own:
        # binary cross-entropy, sigmoid scores, the best checkpoint is the one of the best mAP
        class_names=placeholder(str),  # one name per line
        frame_pattern=placeholder(str),  # such as "{:05d}.jpg"
        first_frame=placeholder(int),  # number of the first frame
        balanced=False,  # training: draw all classes equally often, not all videos once per epoch
        on_error="skip",  # unreadable videos: "skip" (in training the next readable one takes the
        # place, in evaluation they count as wrong; all are counted and named) or "raise"
        max_pixels=100_000_000,  # of a frame; images and videos with more are unreadable
        exact_resize=False,  # training: resize-crop-resize as published, at a fifth of the speed
        fast_decode=False,  # training: JPEGs are decoded approximately, most pixels less than a
        # level off, and at 1/2, 1/4 or 1/8 of their size where short_side leaves as little
        num_threads=0,  # that decode; 0: one per processor
        num_workers=0,  # worker processes; 0: threads only
        train=view(sampling="random", crop="multi_scale"),
        val=view(),  # evaluated during training, on val_list
    )

    config.train = dict(
        batch=64,  # clips per step, over all devices and hosts
        accumulation=1,  # parts that a batch is computed in, one after the other
        epochs=50.0,
        steps=0,  # stop after so many steps; 0: after `epochs`
        loss_weight=1.0,  # factor of the loss. With data.multi_label it is a mean over the classes,
        # most of which are absent: mmaction2 takes 160 for the 313 of Multi-Moments in Time
        label_smoothing=0.0,  # share of every label that is spread over all classes
        class_weights="equal",  # of the loss: "equal", or "balanced", inverse to the videos of each
        shard_state="none",  # what is cut over the devices instead of being whole on each of them:
        # the state of the "optimizer", or "all", parameters too: less memory, more communication
        on_nan="stop",  # when the loss or the gradient of a step is not finite: "stop" the training
        # and name the videos of that batch, or "skip" what the step would have changed and go on
        step_timeout=900.0,  # seconds in which something has to happen (a step, clips evaluated),
        # five times as many where programs are compiled; else all hosts say where they hang and end
        # with status 76. 0: wait for ever
        log_every=20,  # steps
        eval_every=1.0,  # epochs; 0: only at the end
        checkpoint_every=1000,  # steps; a checkpoint is also written after every evaluation
        keep=3,  # checkpoints; the best one is kept besides
    )

    config.optim = dict(
        lr=0.01,  # for a batch of base_batch
        base_batch=64,  # the batch that lr was published for
        scale_lr=False,  # multiply lr by train.batch / base_batch
        momentum=0.9,
        nesterov=False,
        weight_decay=1e-4,  # coupled: added to the gradient
        clip_norm=40.0,  # largest global norm of the gradient; 0: no clipping
        groups="plain",  # "plain", or "tsm": biases at twice the rate, decay on weights only
        fc_lr5=False,  # "tsm" groups: the layer on the backbone's features at 5 times the rate
        backbone_rate=1.0,  # factor of the rate for the backbone, such as 0.1 in fine-tuning
        schedule="multistep",  # "multistep", "cosine" or "constant"
        milestones=(20.0, 40.0),  # epochs after which "multistep" multiplies lr by gamma
        gamma=0.1,
        warmup_epochs=0.0,
        warmup_start=0.1,  # share of lr that the warm-up begins with
        warmup_by="step",  # the warm-up rises with every "step" or with every "epoch"
        final_ratio=0.0,  # what "cosine" ends with, as a share of lr
        cosine_by="step",  # "cosine" falls at every "step" or at every "epoch"
        style="mmengine",  # of warm-up and cosine: "mmengine", or "mmcv" as in mmaction2 0.x
    )

    config.eval = dict(
        max_views_per_step=16,  # clips computed at a time, of whatever videos and protocols
    )

    config.protocols = dict(efficient=view())
    # Protocol -> its published row, with the columns that its table has: top1, top5, reference_top1
    # and reference_top5 (of the original code) in per cent; resolution, gpus, pretrain and
    # testing_protocol in the words of the table; gflops (multiply-adds), million_parameters,
    # gpu_memory (MB); source, and the files config and checkpoint.
    config.published = dict()
    config.lock()
    for section in (config.protocols, config.published):
        section.unlock()  # recipes add entries
    config.protocols.efficient.lock()
    return config


@dataclasses.dataclass(frozen=True)
class Range:
    """Allowed numbers: from `low` to `high`, without an end that `excluded` names; never NaN.

    Attributes:
        low: the smallest one.
        high: the largest one; infinity itself is never allowed.
        excluded: "low" or "high": that end is not allowed itself.
    """

    low: float
    high: float = math.inf
    excluded: str = ""

    def allows(self, value):
        """Whether a value is a number in the range."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        inside = self.low <= value <= self.high and abs(value) < math.inf
        return inside and value != {"low": self.low, "high": self.high}.get(self.excluded)

    def __str__(self):
        if self.high == math.inf:
            return f"more than {self.low:g}" if self.excluded else f"at least {self.low:g}"
        end = f"less than {self.high:g}" if self.excluded == "high" else f"at most {self.high:g}"
        start = f"more than {self.low:g}" if self.excluded == "low" else f"at least {self.low:g}"
        return f"{start} and {end}"


@dataclasses.dataclass(frozen=True)
class Each:
    """Allowed tuples: every element is in a range, perhaps in ascending order.

    Attributes:
        range: of each element.
        length: number of elements; 0: any.
        ascending: whether no element may be below the one before.
    """

    range: Range
    length: int = 0
    ascending: bool = False

    def allows(self, value):
        """Whether a value is such a tuple."""
        if not isinstance(value, tuple | list) or not all(map(self.range.allows, value)):
            return False
        if self.ascending and list(value) != sorted(value):
            return False
        return len(value) == self.length if self.length else True

    def __str__(self):
        count = f"{self.length} numbers" if self.length else "numbers"
        order = ", in ascending order" if self.ascending else ""
        return f"{count}, each {self.range}{order}"


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Allowed values, one by one."""

    values: tuple

    def allows(self, value):
        """Whether a value is one of them."""
        return any(value == each and type(value) is type(each) for each in self.values)

    def __str__(self):
        return f"one of {', '.join(map(repr, self.values))}"


_COUNT = Range(1)
_SHARE = Range(0, 1)
_NOT_NEGATIVE = Range(0)

# What every key of a view allows besides its type, see `ALLOWED`.
VIEW: dict[str, Range | Each | OneOf] = {
    "num_segments": _COUNT,
    "frame_order": OneOf(("forward", "reversed", "shuffled")),
    "num_clips": _COUNT,
    "frame_interval": _COUNT,
    "clip_positions": OneOf(("ends", "middles")),
    "out_of_bound": OneOf(("loop", "repeat_last")),
    "sample_range": _COUNT,
    "short_videos": OneOf(("spread", "first")),
    "short_side": Range(0, 1 << 14),
    "crop_size": Range(1, 1 << 14),
    "scales": Each(Range(0, 1, "low")),
    "num_positions": OneOf((5, 13)),
    "max_scale_gap": _NOT_NEGATIVE,
    "area_range": Each(Range(0, 1, "low"), 2, ascending=True),
    "aspect_ratio_range": Each(Range(0, 100, "low"), 2, ascending=True),
    "flip_rate": _SHARE,
    "color_jitter": Each(_SHARE, 4),
    "merge_views": OneOf(("model", "logits", "probabilities")),
    "relations": OneOf(("model", "expected", "first", "sample")),
    "num_draws": Range(1, 1000),
}

# What every key allows besides its type. A key that is missing here is a switch, a path, or a name
# that a registry of `models` or `data` knows. What two keys allow together is checked where they
# are used.
ALLOWED: dict[str, Range | Each | OneOf] = {
    "seed": Range(0, 2**32 - 1),
    "model.num_classes": _COUNT,
    "model.num_segments": _COUNT,
    "model.dtype": OneOf(("float32", "bfloat16", "float64")),  # float64: with JAX_ENABLE_X64
    "model.norm_group": _NOT_NEGATIVE,
    "model.width": _COUNT,
    "model.shift_div": _COUNT,
    "model.shift_place": OneOf(("blockres", "block")),
    "model.shift_every": _COUNT,
    "model.shift_segments": _COUNT,
    "model.frozen_stages": Range(-1),
    "model.remat": _NOT_NEGATIVE,
    "model.dropout_rate": Range(0, 1, "high"),
    "model.drop_path_rate": Range(0, 1, "high"),
    "model.init_std": Range(0, excluded="low"),
    "model.eval_relations": OneOf(("expected", "first", "sample")),
    "model.train_relations": OneOf(("expected", "first", "sample")),
    "model.max_relations": _COUNT,
    "model.embedding_channels": _COUNT,
    "data.source": OneOf(("frames", "videos", "records")),
    "data.first_frame": _NOT_NEGATIVE,
    "data.on_error": OneOf(("raise", "skip")),
    "data.max_pixels": _COUNT,
    "data.num_threads": Range(0, 1024),
    "data.num_workers": Range(0, 1024),
    "train.batch": _COUNT,
    "train.accumulation": _COUNT,
    "train.epochs": Range(0, excluded="low"),
    "train.steps": _NOT_NEGATIVE,
    "train.loss_weight": Range(0, excluded="low"),
    "train.label_smoothing": Range(0, 1, "high"),
    "train.class_weights": OneOf(("equal", "balanced")),
    "train.shard_state": OneOf(("none", "optimizer", "all")),
    "train.on_nan": OneOf(("stop", "skip")),
    "train.step_timeout": _NOT_NEGATIVE,
    "train.log_every": _COUNT,
    "train.eval_every": _NOT_NEGATIVE,
    "train.checkpoint_every": _COUNT,
    "train.keep": _COUNT,
    "optim.lr": _NOT_NEGATIVE,
    "optim.base_batch": _COUNT,
    "optim.momentum": Range(0, 1, "high"),
    "optim.weight_decay": _NOT_NEGATIVE,
    "optim.clip_norm": _NOT_NEGATIVE,
    "optim.groups": OneOf(("plain", "tsm")),
    "optim.backbone_rate": _NOT_NEGATIVE,
    "optim.schedule": OneOf(("multistep", "cosine", "constant")),
    "optim.milestones": Each(_NOT_NEGATIVE, ascending=True),
    "optim.gamma": _NOT_NEGATIVE,
    "optim.warmup_epochs": _NOT_NEGATIVE,
    "optim.warmup_start": _SHARE,
    "optim.warmup_by": OneOf(("step", "epoch")),
    "optim.final_ratio": _SHARE,
    "optim.cosine_by": OneOf(("step", "epoch")),
    "optim.style": OneOf(("mmengine", "mmcv")),
    "eval.max_views_per_step": _COUNT,
}


def views(config):
    """The sections that describe views: `{"data.val": section, "protocols.efficient": ...}`."""
    found = {"data.train": config.data.train, "data.val": config.data.val}
    return found | {f"protocols.{name}": section for name, section in config.protocols.items()}


def check(config):
    """Check every value against `ALLOWED` and `VIEW`, and the names of the protocols.

    Raises:
        UserError: some are not allowed; all of them are named with what was expected.
    """
    problems = [
        f"protocols.{name!r}: expected a name of letters, digits, '_', '-' and '.', since results "
        "are written to files of that name"
        for name in config.protocols
        if not _PROTOCOL.fullmatch(name)
    ]
    places = [(config, key, key, allowed) for key, allowed in ALLOWED.items()]
    for name, section in views(config).items():
        places += [(section, key, f"{name}.{key}", allowed) for key, allowed in VIEW.items()]
    for section, key, name, allowed in places:
        value = functools.reduce(operator.getitem, key.split("."), section)
        if value is not None and not allowed.allows(value):
            problems.append(f"{name}={value!r}: expected {allowed}")
    if problems:
        several = f"{len(problems)} settings cannot be used:{listed(problems)}"
        raise UserError(several if len(problems) > 1 else problems[0])
