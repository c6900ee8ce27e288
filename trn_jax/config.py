"""The configuration: every key with its unit, its default and the values it allows; recipes.

A key given as `Key(default, allowed)` is checked against `allowed`; the others are switches, paths,
and names that a registry of `models` or `data` knows. A type in place of a default means `None`:
the model, the data set or another key decides.
"""

import dataclasses
import functools
import pathlib
import runpy
import types

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from trn_jax.allowed import COUNT, FRAMES, NOT_NEGATIVE, SHARE, Each, Key, OneOf, Range
from trn_jax.errors import UserError, did_you_mean

_HERE = pathlib.Path(__file__).parent


def _key(default, allowed):
    return dataclasses.field(default=default, metadata={"allowed": allowed})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewKeys:
    """How clips are sampled from a video: one schema for training, validation and protocols."""

    num_segments: int = _key(None, FRAMES)  # frames of a clip; None: model.num_segments
    # One frame per segment: "random", "center", or "twice" (2 clips: centers and starts). Clips
    # with a fixed frame interval: "random_clips" or "clips". Windows of sample_range frames: one at
    # a random place ("random_dense"), or num_clips of them ("dense").
    sampling: str = "center"
    # "reversed" and "shuffled" show whether a model uses the order of the frames.
    frame_order: str = _key("forward", OneOf(("forward", "reversed", "shuffled")))
    num_clips: int = _key(1, FRAMES)  # "random_clips", "clips", "dense": clips per video
    frame_interval: int = _key(1, FRAMES)  # "random_clips", "clips": frames from one to the next
    clip_positions: str = _key("ends", OneOf(("ends", "middles")))  # "clips": spread from end to
    # end, or in the "middles" of equal parts
    # "random_clips", "clips": indices past the end "loop" to the start, or "repeat_last", as in the
    # code of TPN.
    out_of_bound: str = _key("loop", OneOf(("loop", "repeat_last")))
    sample_range: int = _key(64, FRAMES)  # "random_dense", "dense": frames that a clip spans
    # Videos of fewer frames than segments: "spread" the frames, or repeat the "first".
    short_videos: str = _key("spread", OneOf(("spread", "first")))
    # "random", "random_clips": segments may have fractional lengths, so the last frames can be
    # drawn, too.
    keep_tail_frames: bool = False
    # Frames are resized to this before cropping, pixels. 0: not (random crops); None: short_side of
    # the configuration.
    short_side: int = _key(None, Range(0, 1 << 14))
    crop: str = "center"  # "multi_scale", "random_resized" (random), "center", "three" or "ten"
    # Pixels. 0: short_side; None: 0 for "three" crops, else size of the configuration.
    crop_size: int = _key(None, Range(0, 1 << 14))
    scales: tuple[float, ...] = _key(
        (1.0, 0.875, 0.75, 0.66), Each(Range(0, 1, "low"))
    )  # multi-scale crop: fractions of the short side
    num_positions: int = _key(13, OneOf((5, 13)))  # multi-scale crop: fixed positions
    max_scale_gap: int = _key(1, NOT_NEGATIVE)  # multi-scale crop: largest index difference of the
    # two scales
    # Random resized crop: fraction of the frame's area.
    area_range: tuple[float, float] = _key((0.08, 1.0), Each(Range(0, 1, "low"), 2, ascending=True))
    # Random resized crop: width / height.
    aspect_ratio_range: tuple[float, float] = _key(
        (3 / 4, 4 / 3), Each(Range(0, 100, "low"), 2, ascending=True)
    )
    flip_rate: float = _key(0.0, SHARE)  # fraction of clips that are flipped
    # Flipped clips get the label of the mirrored class, matched by "left" and "right", "clockwise"
    # and "counterclockwise" in the class names.
    flip_labels: bool = True
    flip_pairs: tuple[tuple[str, str], ...] = ()  # further ones: (("<name>", "<name>"), ...)
    # Strengths of brightness, contrast, saturation and hue.
    color_jitter: tuple[float, ...] = _key((0.0, 0.0, 0.0, 0.0), Each(SHARE, 4))
    # Mean of the views' "logits" or "probabilities"; "model": as its paper does.
    merge_views: str = _key("model", OneOf(("model", "logits", "probabilities")))
    # TRN evaluation, see models.trn; "model": model.eval_relations.
    relations: str = _key("model", OneOf(("model", "expected", "first", "sample")))
    num_draws: int = _key(1, Range(1, 1000))  # "sample": number of evaluations, for mean and spread


_CONFIG = dict(
    seed=Key(0, Range(0, 2**32 - 1)),  # for initial weights, batches, augmentation and dropout
    data_dir=str,  # folder of the data set; None: data/<dataset>, and for the synthetic one, which
    # is rendered on first use, <parent of workdir>/data/synthetic
    size=Key(224, Range(1, 1 << 13)),  # side of a clip's frames, pixels
    short_side=Key(int, Range(1, 1 << 14)),  # frames are resized to this before cropping,
    # pixels; None: 8/7 of size, so 256 for 224
    # Initial weights of the backbone: a .pth or .safetensors file of ImageNet or another model; a
    # folder with the published file (init_url); a checkpoint or a working directory, with "@best"
    # or "@<step>" for another checkpoint than the newest; a hub folder or "hf:<user>/<name>".
    # None: random weights.
    init_from=str,
    init_head=False,  # load neck and head, too; from checkpoints, where the shapes match
    init_required=False,  # training without init_from is an error
    init_url=str,  # URL of the weights that the published training started from
)

# Keyword arguments of trn_jax.create_model.
_MODEL = dict(
    name=str,  # one of trn_jax.list_models()
    num_classes=Key(int, COUNT),  # None: the number of lines of the label map
    num_segments=Key(8, FRAMES),  # frames of a clip, in all views that don't set it
    # Dtype of the computation; parameters, statistics, loss and optimizer state are float32.
    # "auto": "bfloat16" on TPUs and on GPUs that have it, "float32" elsewhere; a run keeps the
    # dtype that it began with. "float64" needs JAX_ENABLE_X64.
    dtype=Key("auto", OneOf(("auto", "float32", "bfloat16", "float64"))),
    norm_group=Key(0, NOT_NEGATIVE),  # clips that share batch statistics: the published batch of a
    # GPU ("ghost batch norm"); 0: all
    backbone=str,  # None: that of the model
    temporal_op=str,  # None: that of the model
    neck=str,  # None: that of the model
    head=str,  # None: that of the model
    width=Key(int, COUNT),  # channels of a ResNet's stem
    width_factor=Key(float, Range(0, 4, "low")),  # MobileNetV2: multiplies all numbers of channels
    shift_div=Key(int, COUNT),  # TSM, TIN: 1 / shift_div of the channels moves in time
    shift_place=Key(str, OneOf(("blockres", "block"))),  # TSM: residual branch only, or the block
    shift_every=Key(int, COUNT),  # TSM, TIN: shift in every n-th block of a stage
    shift_segments=Key(int, COUNT),  # TSM: shift within runs of so many frames; None: the clip
    causal=bool,  # TSM: features move to later frames only
    # ResNet: adds non-local blocks after five blocks of a ResNet-50, over all frames of a clip.
    non_local=Key(str, OneOf(("embedded_gaussian", "gaussian", "dot_product"))),
    partial_bn=bool,  # freeze all batch norms but the first
    frozen_stages=Key(int, Range(-1)),  # freeze the stem (0) and the first stages (1, 2, ...)
    remat=Key(int, NOT_NEGATIVE),  # number of first stages whose activations inside blocks are
    # recomputed in the backward pass: less memory, more operations; None: 0
    dropout_rate=Key(float, Range(0, 1, "high")),  # before the classifier
    drop_path_rate=Key(float, Range(0, 1, "high")),  # Swin, ConvNeXt, EfficientNet: rate at
    # which training skips the last block; earlier ones are skipped less, the first never
    norm_epsilon=Key(float, Range(0, excluded="low")),  # MobileNetV3: epsilon of batch norms
    mean=Key(tuple, Each(Range(0, 255), 3)),  # subtracted from red, green and blue pixels
    std=Key(tuple, Each(Range(0, 255, "low"), 3)),  # red, green and blue are divided by it
    deploy=bool,  # MobileOne: one branch per block, as `trn-jax reparameterize` makes them
    init_std=Key(float, Range(0, excluded="low")),  # standard deviation of the initial weights
    # of the first layer on the backbone's features
    eval_relations=Key(str, OneOf(("expected", "first", "sample"))),  # TRN: how evaluation chooses
    # relations, see models.trn
    max_relations=Key(int, COUNT),  # TRN: relations per scale that are added up
    embedding_channels=Key(int, COUNT),  # TRN: channels of a frame's embedding in relations
)

_DATA = dict(
    dataset=str,  # one of trn_jax.data.datasets.DATASETS
    # How videos are stored; None: what data_dir has.
    source=Key(str, OneOf(("frames", "videos", "records"))),
    frames=str,  # folder of the frame folders or videos, relative to data_dir
    val_frames=str,  # the same for validation; "": the same folder
    test_frames=str,  # the same for the test videos
    train_list=str,  # lines "<folder> <num_frames> <label>"
    val_list=str,  # the same for validation
    test_list=str,  # the same for testing, only evaluated with --split=test
    multi_label=False,  # lines may have several labels, with one binary decision per class: binary
    # cross-entropy, sigmoid scores, and mean average precision selects the best checkpoint
    class_names=str,  # label map: one name per line
    frame_pattern=str,  # file name of a frame, such as "{:05d}.jpg"
    first_frame=Key(int, NOT_NEGATIVE),  # number of the first frame
    with_offset=False,  # lines "<folder> <offset> <num_frames> <label>": parts of folders of frames
    frame_rate=Key(float, Range(0, 1000, "low")),  # stored frames per second; video files have
    # their own frame rate
    balanced=False,  # training: draw all classes equally often, not all videos once per epoch
    # Unreadable videos: "skip" (training replaces them by the next readable one, evaluation counts
    # them as wrong; all are counted and logged) or "raise".
    on_error=Key("skip", OneOf(("raise", "skip"))),
    max_pixels=Key(100_000_000, COUNT),  # pixels of a frame; larger ones count as unreadable
    exact_resize=False,  # training: resize-crop-resize as published, at a fifth of the speed
    fast_decode=False,  # training: decode JPEGs approximately, most pixels less than one level off,
    # and large ones at 1/2, 1/4 or 1/8 of their size if that is no less than short_side
    num_threads=Key(0, Range(0, 1024)),  # decoding threads; 0: one per core
    num_workers=Key(0, Range(0, 1024)),  # worker processes; 0: threads only
)

_TRAIN = dict(
    batch=Key(64, COUNT),  # clips per step, over all devices and processes
    accumulation=Key(1, COUNT),  # compute the batch in so many parts, one after another
    epochs=Key(50.0, Range(0, excluded="low")),  # passes over the training videos
    steps=Key(0, NOT_NEGATIVE),  # stop after so many steps; 0: after `epochs`
    # Factor of the loss. With data.multi_label, the loss is a mean over all classes, most of which
    # are absent in a video: mmaction2 sets 160 for the 313 classes of Multi-Moments in Time.
    loss_weight=Key(1.0, Range(0, excluded="low")),
    label_smoothing=Key(0.0, Range(0, 1, "high")),  # share of a label spread over all classes
    class_weights=Key("equal", OneOf(("equal", "balanced"))),  # in the loss; "balanced": inverse to
    # the number of videos of each class
    # What is sharded over the devices instead of replicated (ZeRO): the state of the optimizer
    # ("zero1", once "optimizer"), or the parameters, too ("fsdp", once "all"): less memory, more
    # communication.
    shard_state=Key("none", OneOf(("none", "zero1", "fsdp", "optimizer", "all"))),
    # If the loss or a gradient is not finite: "stop" and list the videos of that batch, or "skip"
    # the update.
    on_nan=Key("stop", OneOf(("stop", "skip"))),
    step_timeout=Key(900.0, NOT_NEGATIVE),  # seconds without progress (a step, clips evaluated)
    # after which all processes log where they hang and exit with 76; five times as long while
    # programs compile; 0: never
    log_every=Key(20, COUNT),  # steps between log lines
    eval_every=Key(1.0, NOT_NEGATIVE),  # epochs between evaluations; 0: only at the end
    checkpoint_every=Key(1000, COUNT),  # steps between checkpoints; also before evaluations
    keep=Key(3, COUNT),  # number of newest checkpoints to keep, besides the best one
)

_OPTIM = dict(
    lr=Key(0.01, NOT_NEGATIVE),  # learning rate for a batch of base_batch
    base_batch=Key(64, COUNT),  # the batch that lr was published for
    scale_lr=False,  # multiply lr by train.batch / base_batch
    momentum=Key(0.9, Range(0, 1, "high")),  # momentum of SGD
    nesterov=False,  # Nesterov's momentum
    weight_decay=Key(1e-4, NOT_NEGATIVE),  # coupled: added to the gradient
    clip_norm=Key(40.0, NOT_NEGATIVE),  # largest global norm of the gradient; 0: no clipping
    groups=Key("plain", OneOf(("plain", "tsm"))),  # "tsm": biases at twice the rate, decay on
    # weights only
    fc_lr5=False,  # "tsm" groups: the layer on the backbone's features at 5 times the rate
    backbone_rate=Key(1.0, NOT_NEGATIVE),  # factor of the backbone's rate; 0.1 to fine-tune
    schedule=Key("multistep", OneOf(("multistep", "cosine", "constant"))),  # of the learning rate
    milestones=Key((20.0, 40.0), Each(NOT_NEGATIVE, ascending=True)),  # epochs after which
    # "multistep" multiplies the rate by gamma
    gamma=Key(0.1, NOT_NEGATIVE),  # factor of "multistep"
    warmup_epochs=Key(0.0, NOT_NEGATIVE),  # epochs in which the rate rises from lr / 10 to lr
    warmup_by=Key("step", OneOf(("step", "epoch"))),  # the rate rises with every step or epoch
    final_ratio=Key(0.0, SHARE),  # "cosine": last rate, as a share of lr
    cosine_by=Key("step", OneOf(("step", "epoch"))),  # "cosine" falls with every step or epoch
    style=Key("mmengine", OneOf(("mmengine", "mmcv"))),  # of warm-up and cosine: mmaction2 1.x, 0.x
)

_EVAL = dict(
    max_views_per_step=Key(16, COUNT),  # clips per step, of any videos and protocols
)

_SECTIONS: dict[str, dict] = dict(model=_MODEL, data=_DATA, train=_TRAIN, optim=_OPTIM, eval=_EVAL)


def view(**changes):
    """The keys of one view, see `ViewKeys`, as a locked `ConfigDict`."""
    keys = ConfigDict(
        {
            field.name: placeholder(field.type) if field.default is None else field.default
            for field in dataclasses.fields(ViewKeys)
        }
    )
    keys.lock().update(changes)
    return keys


def base(*, dataset, model, num_classes=None):
    """The defaults of all recipes.

    Args:
        dataset: one of `trn_jax.data.datasets.DATASETS`.
        model: one of `trn_jax.list_models()`.
        num_classes: number of classes; by default that of the label map of the data.

    Returns:
        A locked `ConfigDict`: unknown keys raise.
    """
    config = _defaults(_CONFIG)
    for name, keys in _SECTIONS.items():
        config[name] = _defaults(keys)
    config.model.update(name=model, num_classes=num_classes)
    config.data.dataset = dataset
    config.data.train = view(sampling="random", crop="multi_scale")
    config.data.val = view()  # evaluated during training, on val_list
    config.protocols = ConfigDict(dict(efficient=view()))
    # Protocol -> its published row, with the columns that its table has: top1, top5, reference_top1
    # and reference_top5 (of the original code) in per cent; resolution, gpus, pretrain and
    # testing_protocol in the words of the table; gflops (multiply-adds), million_parameters,
    # gpu_memory (MB); source, and the files config and checkpoint.
    config.published = ConfigDict()
    config.lock()
    for section in (config.protocols, config.published):
        section.unlock()  # recipes add entries
    config.protocols.efficient.lock()
    return config


def _defaults(keys):
    values = {name: key.default if isinstance(key, Key) else key for name, key in keys.items()}
    return ConfigDict(
        {
            name: placeholder(value) if isinstance(value, type) else value
            for name, value in values.items()
        }
    )


def allowed():
    """What keys outside of views allow besides their types: `{"train.batch": Range, ...}`."""
    sections = {"": _CONFIG} | {f"{name}.": keys for name, keys in _SECTIONS.items()}
    return {
        prefix + name: key.allowed
        for prefix, keys in sections.items()
        for name, key in keys.items()
        if isinstance(key, Key)
    }


def allowed_in_views():
    """What the keys of a view allow besides their types: `{"crop_size": Range, ...}`."""
    fields = dataclasses.fields(ViewKeys)
    return {field.name: field.metadata["allowed"] for field in fields if field.metadata}


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
            "its name, see `trn-jax recipes`, or by the path of its file, which ends in .py"
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
