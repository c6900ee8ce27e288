"""Builds data, optimizer, loss and protocols from a configuration.

Together with the loop in `train` and `evaluate` this is the only code that sees a configuration.
"""

import json
import os
import re

import jax
import numpy as np

from trn_jax import convert, optim
from trn_jax.config import base, views
from trn_jax.config import check as check_values
from trn_jax.config import view as default_view
from trn_jax.data import annotations, augment, batches, datasets, decode, pipeline, records, videos
from trn_jax.data.views import View, check_fixed_crops
from trn_jax.distributed import processes
from trn_jax.errors import UserError, did_you_mean
from trn_jax.files import reading
from trn_jax.prepare.workers import num_cpus

_CHECKED = 10  # videos of a list, one of which has to be there


class Data:
    """The lists, class names and loaders of a configuration.

    Args:
        config: see `trn_jax.config.base`.
        workdir: the synthetic data set is written beside it by default.
        split: what is evaluated, "val", "test" or "train".
        may_write: whether it may be written to the folder that the configuration names.

    Attributes:
        split: the same.
        class_names: names of the classes, in the order of their labels.
        num_threads: threads that decode.
        files: the `Dataset` with absolute paths.
        source: where videos are read.
        multi_label: whether videos have several labels each.

    Raises:
        UserError: files are missing or do not fit each other.
    """

    def __init__(self, config, workdir, split="val", *, may_write=True):
        self.split = split
        settings = config.data
        data_dir = config.data_dir or _default_data_dir(settings.dataset, workdir)
        fields = datasets.Dataset.__dataclass_fields__
        overrides = {key: settings[key] for key in fields if key in settings}
        with processes.process_zero_first():  # it may have to write the synthetic data set
            self.files = datasets.locate(
                settings.dataset, data_dir, write=may_write or not config.data_dir, **overrides
            )
        self.source = _source(self.files, settings.max_pixels)
        self.num_threads = settings.num_threads or num_cpus()
        self.multi_label = settings.multi_label
        self._config = config
        self._records: dict[str, list[annotations.Record]] = {}
        self._evaluated: tuple[dict, pipeline.EvalVideos] | None = None  # the last views and videos
        self.class_names = annotations.read_class_names(self.files.class_names)
        if len(self.class_names) != config.model.num_classes:
            raise UserError(
                f"{self.files.class_names} names {len(self.class_names)} classes, but "
                f"model.num_classes is {config.model.num_classes}; correct one of the two"
            )

    @property
    def train_records(self):
        """The training list."""
        return self._list(self.files.train_list, self.files.frames)

    @property
    def val_records(self):
        """The list that is evaluated, of validation unless `split` is another."""
        path, frames = self.files.of_split(self.split)
        is_list = self.files.source != "records"
        if is_list and self.split == "test" and not os.path.exists(path):
            raise UserError(
                f"--split=test: the data set has no list {path}; `trn-jax prepare` writes one for "
                "the test videos of its source; or name another list with --config.data.test_list"
            )
        return self._list(path, frames)

    def listed(self, split):
        """Names of the videos of a list, "train" or "val", as they stand there, and its records."""
        if split == "train":
            return self.train_names(range(len(self.train_records))), self.train_records
        return self.val_names, self.val_records

    @property
    def train_labels(self):
        """Of the training list, as `val_labels`."""
        return self._labels(self.train_records)

    @property
    def val_labels(self):
        """Of `val_records`: int64 `[videos]`, or multi-hot float32 `[videos, classes]`."""
        return self._labels(self.val_records)

    def _labels(self, records):
        labels = [record.label for record in records]
        if self.multi_label:
            return annotations.multi_hot(labels, len(self.class_names))
        return np.array(labels, np.int64)

    @property
    def val_names(self):
        """Names of the videos of the list that is evaluated, as they stand there."""
        root = os.path.join(self.files.of_split(self.split)[1], "")
        return [record.path.removeprefix(root) for record in self.val_records]

    def train_names(self, examples):
        """Names of some videos of the training list, by their positions in it."""
        root = os.path.join(self.files.frames, "")
        return [self.train_records[example].path.removeprefix(root) for example in examples]

    def _list(self, path, frames):
        if path not in self._records:
            labels = dict(num_classes=len(self.class_names), multi_label=self.multi_label)
            if self.files.source == "records":
                found = self.source.videos(os.path.basename(path), **labels)
            else:
                found = annotations.read_list(path, frames_root=frames, **labels)
            self._check_some(found)
            self._records[path] = found
        return self._records[path]

    def _check_some(self, records):
        """Check that videos are where they are expected; if some may be unreadable, not all."""
        number = _CHECKED if self._config.data.on_error == "skip" else 1
        problems = []
        for record in records[:: -(-len(records) // number)]:
            try:
                return self.source.check(record)
            except decode.FrameError as error:
                problems.append(error)
        raise problems[0]

    @property
    def partners(self):
        """`{label: label of the class that is this one backwards in time}`."""
        labels = {name: label for label, name in enumerate(self.class_names)}
        pairs = [
            (labels[a], labels[b])
            for a, b in self.files.reversed_pairs
            if a in labels and b in labels
        ]
        return dict(pairs) | {b: a for a, b in pairs}

    def train_reader(self):
        """What reads batches of the training list."""
        settings = self._config.data
        view = View(**settings.train)
        return batches.BatchReader(
            self.train_records,
            view,
            self.source,
            seed=self._config.seed,
            label_map=self.mirrored(view),
            exact_resize=settings.exact_resize,
            fast_decode=settings.fast_decode,
            on_error=settings.on_error,
            num_threads=self.num_threads,
            num_classes=len(self.class_names) if self.multi_label else None,
        )

    def train_batches(self, first_batch):
        """This host's part of the training batches from number `first_batch` on."""
        config, settings = self._config, self._config.data
        return pipeline.train_batches(
            self.train_reader(),
            batch=config.train.batch,
            seed=config.seed,
            balanced=settings.balanced,
            first_batch=first_batch,
            process=jax.process_index(),
            num_processes=jax.process_count(),
            num_workers=settings.num_workers,
        )

    def eval_videos(self, views):
        """This host's videos of `val_records`, seen through `views`, `{name: View}`.

        Worker processes stay until other views are asked for.
        """
        if self._evaluated is None or self._evaluated[0] != views:
            self.close()
            videos = pipeline.EvalVideos(
                self.val_records,
                views,
                self.source,
                seed=self._config.seed,
                on_error=self._config.data.on_error,
                process=jax.process_index(),
                num_processes=jax.process_count(),
                num_threads=self.num_threads,
                num_workers=self._config.data.num_workers,
            )
            self._evaluated = dict(views), videos
        return iter(self._evaluated[1])

    def close(self):
        """Stop the worker processes of evaluations."""
        if self._evaluated is not None:
            self._evaluated[1].close()
            self._evaluated = None

    def mirrored(self, view):
        """`{label: its label in a mirrored clip}` for the labels that `view` exchanges.

        Raises:
            UserError: `flip_pairs` names something that is not a class.
        """
        told = augment.mirrored_labels(self.class_names) if view.flip_labels else {}
        # A pair that is given takes its classes out of pairs told from names.
        given = augment.paired_labels(view.flip_pairs, self.class_names)
        told = {a: b for a, b in told.items() if a not in given and b not in given}
        return told | given

    def describe_flip(self, view):
        """Lines that tell which labels change when a clip is mirrored."""
        pairs = self.mirrored(view)
        names = self.class_names
        lines = [f"  {names[a]} <-> {names[b]}" for a, b in sorted(pairs.items()) if a < b]
        if not lines:
            return "mirrored clips keep their label"
        return "\n".join(["mirrored clips exchange these labels:", *lines])


def check(config):
    """Check everything about a configuration that needs neither data nor devices.

    Raises:
        UserError: values are outside their ranges, or do not go together; the keys are named.
    """
    check_values(config)
    if jax.dtypes.canonicalize_dtype(config.model.dtype) != config.model.dtype:
        raise UserError("model.dtype='float64' needs the environment variable JAX_ENABLE_X64=1")
    parsed = {}
    for name, section in views(config).items():
        try:
            parsed[name] = View(**section)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
    _check_train_view(config, parsed.pop("data.train"))
    check_fixed_crops(parsed)
    if config.data.multi_label:
        _check_multi_label(config)


def _check_train_view(config, view):
    if view.num_segments != config.model.num_segments:
        raise UserError(
            f"data.train.num_segments={view.num_segments} differs from "
            f"model.num_segments={config.model.num_segments}"
        )
    if view.num_views != 1:
        raise UserError(
            f"data.train gives {view.num_views} views of a video (sampling={view.sampling!r}, "
            f"num_clips={view.num_clips}, crop={view.crop!r}), but a training step takes one; use "
            "a random sampling, num_clips=1 and a random crop"
        )


def _check_multi_label(config):
    """Refuse what is only defined for one label per video."""
    single = {
        "data.balanced": config.data.balanced,
        "train.label_smoothing": config.train.label_smoothing,
        "train.class_weights": config.train.class_weights != "equal",
    }
    chosen = [key for key, used in single.items() if used]
    if chosen:
        raise UserError(
            f"{', '.join(chosen)}: for one label per video only; leave it out with "
            "data.multi_label=True"
        )


def _source(files, max_pixels):
    """Where the videos of a `Dataset` are read."""
    if files.source == "videos":
        return videos.VideoFiles(max_pixels=max_pixels)
    if files.source == "records":
        return records.Records(os.path.dirname(files.frames), max_pixels=max_pixels)
    naming = dict(pattern=files.frame_pattern, first_frame=files.first_frame)
    return decode.FrameFolders(**naming, max_pixels=max_pixels)


def _default_data_dir(dataset, workdir):
    if dataset == "synthetic":
        return os.path.join(os.path.dirname(os.path.abspath(workdir)), "data", "synthetic")
    return os.path.join("data", dataset)


def scaled_lr(config):
    """The learning rate for the batch that is used (Goyal et al., 2017: the linear rule)."""
    scale = config.train.batch / config.optim.base_batch if config.optim.scale_lr else 1
    return config.optim.lr * scale


def learning_rate(config, steps_per_epoch):
    """The learning rate as a function of the step, see `optim.learning_rate`."""
    keys = ["schedule", "milestones", "gamma", "warmup_epochs", "warmup_start", "warmup_by"]
    keys += ["final_ratio", "cosine_by", "style"]
    return optim.learning_rate(
        lr=scaled_lr(config),
        epochs=config.train.epochs,
        steps_per_epoch=steps_per_epoch,
        **{key: config.optim[key] for key in keys},
    )


def optimizer(config, params, rate):
    """SGD for `params`, see `optim.sgd`."""
    keys = ["momentum", "nesterov", "weight_decay", "clip_norm", "groups", "fc_lr5"]
    keys += ["backbone_rate"]
    return optim.sgd(params, rate, **{key: config.optim[key] for key in keys})


def loss_options(config, data):
    """Arguments for `train_step.classification_loss`."""
    options = dict(weight=config.train.loss_weight, label_smoothing=config.train.label_smoothing)
    if config.train.class_weights == "balanced":
        options["class_weights"] = balanced_weights(data.train_labels, len(data.class_names))
    return options


def balanced_weights(labels, num_classes):
    """A factor per class that gives all classes among `labels` the same weight; 1 on average.

    Returns:
        float64 `[num_classes]`; 1 for a class that does not occur.
    """
    counts = np.bincount(labels, minlength=num_classes)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts, weights, 1.0)


def initial_weights(config):
    """The weights that `config.init_from` names, `{name: array}`.

    Raises:
        UserError: there are none, or they are not what the name of the file says.
    """
    path = config.init_from
    wanted = config.init_url and config.init_url.rpartition("/")[2]
    if os.path.isdir(path):
        if wanted is None:
            raise UserError(
                f"init_from={path} is a folder, and the recipe does not say which file to take from"
                " it; name the file"
            )
        path = os.path.join(path, wanted)
    if not os.path.exists(path):
        started = f". The recipe's numbers started from {wanted}: {config.init_url}"
        raise UserError(f"init_from: there is no file {path}{started if wanted else ''}")
    convert.check_name(path)
    return convert.read_torch_file(path)


def model_options(config):
    """Arguments of `create_model` for a training.

    Where all weights are drawn, nothing is frozen: batch norms would stay at mean 0 and variance 1,
    and stages at noise, which only what comes from elsewhere makes sense of.
    """
    options = config.model.to_dict()
    if not config.init_from:
        options |= dict(partial_bn=None, frozen_stages=None)
    return options


def describe_start(config):
    """A warning where the published numbers started from weights that are not given, or ""."""
    if config.init_from or not config.init_url:
        return ""
    name = config.init_url.rpartition("/")[2]
    digest = re.search(r"-([0-9a-f]{8,})\.", name)
    frozen = [key for key in ("partial_bn", "frozen_stages") if config.model[key] is not None]
    trains = " and ".join(f"model.{key}" for key in frozen)
    return (
        f"warning: the published numbers started from {name}"
        + (f" (its SHA-256 begins with {digest[1]})" if digest else "")
        + f", and this run starts from random weights. Download {config.init_url} and add "
        f"--config.init_from=<its folder>"
        + (f". Without them nothing is frozen: {trains} has no effect" if frozen else "")
    )


def check_batch(config, num_devices, num_hosts=1):
    """Check that the batch can be cut over devices, accumulation steps and norm groups.

    Args:
        config: the configuration.
        num_devices: number of all devices of all hosts.
        num_hosts: number of hosts, of as many devices each.

    Raises:
        UserError: it cannot; the message names the keys.
    """
    batch, accumulation = config.train.batch, config.train.accumulation
    group = config.model.norm_group
    devices = f"{num_devices} devices"
    if num_hosts > 1:
        devices += f" ({num_hosts} hosts x {num_devices // num_hosts})"
    if batch % (num_devices * accumulation):
        raise UserError(
            f"train.batch={batch} cannot be cut into {devices} x "
            f"train.accumulation={accumulation}; take a multiple of {num_devices * accumulation}"
        )
    if group and batch % group:
        raise UserError(
            f"train.batch={batch} is not a multiple of model.norm_group={group}, the clips that "
            "share batch statistics; change one of the two (norm_group=0 takes the whole batch)"
        )
    part = batch // (num_devices * accumulation)
    if accumulation > 1 and (not group or part % group):
        raise UserError(
            f"with train.accumulation={accumulation}, each of {devices} sees {part} "
            f"clips at a time; set model.norm_group to a divisor of that (it is {group})"
        )


def to_json(config):
    """A configuration as text, with sorted keys."""
    return json.dumps(config.to_dict(), indent=1, sort_keys=True)


def shared_json(config):
    """A configuration as text, without what may differ between the hosts of a run."""
    values = config.to_dict()
    del values["data_dir"], values["data"]["num_threads"], values["data"]["num_workers"]
    return json.dumps(values, sort_keys=True)


def flat(tree, prefix=""):
    """Nested dicts as one, with the keys joined by dots."""
    leaves: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def set_model_option(config, text):
    """Set one option of the model of a configuration, from text such as `shift_place=block`.

    Raises:
        UserError: there is no such option, or the value is of another type.
    """
    key, equals, value = text.partition("=")
    options = sorted(set(config.model) - {"name", "num_classes", "num_segments"})
    if not equals or key not in options:
        raise UserError(
            f"{text!r} is no option of a model; expected <key>=<value> with one of the keys "
            f"{', '.join(options)}"
        )
    kind = config.model.get_type(key)
    words = {"true": True, "false": False}
    try:
        config.model[key] = words[value.lower()] if kind is bool else kind(value)
    except (KeyError, ValueError):
        expected = "true or false" if kind is bool else f"a value of type {kind.__name__}"
        raise UserError(f"the option {key} of the model is {value!r}, not {expected}") from None


def from_dict(values):
    """The configuration that a checkpoint was made from.

    Keys that did not exist when it was made have their defaults.

    Raises:
        UserError: it is none.
    """

    def tuples(value):
        if isinstance(value, dict):
            return {key: tuples(entry) for key, entry in value.items()}
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    with reading("the configuration", "one of trn_jax"):
        model = values["model"]
        config = base(
            dataset=values["data"]["dataset"], model=model["name"], num_classes=model["num_classes"]
        )
        del config.protocols.efficient
        for name in values["protocols"]:
            config.protocols[name] = default_view()
        config.update(tuples(values))  # which compares types
        return config


def check_model(config, checkpoint_config, directory):
    """Check that a configuration asks for the model that a checkpoint holds.

    Raises:
        UserError: it asks for another one.
    """
    # No parameter depends on these.
    free = {"drop_path_rate", "dropout_rate", "dtype", "eval_relations", "frozen_stages"}
    free |= {"init_std", "max_relations", "norm_group", "partial_bn", "remat", "train_relations"}
    stored = flat(checkpoint_config["model"])
    asked = flat(json.loads(to_json(config))["model"])
    if asked["deploy"]:  # branches are fused as the checkpoint is read
        free.add("deploy")
    changed = [
        f"model.{key}: {stored.get(key)!r} in the checkpoint, {asked.get(key)!r} asked for"
        for key in sorted(stored.keys() | asked.keys())
        if key not in free and stored.get(key) != asked.get(key)
    ]
    if changed:
        raise UserError(f"{directory} holds another model:\n  " + "\n  ".join(changed))


def protocol_names(config, wanted):
    """The names of the protocols to run: `wanted` ("all" or names with commas between them).

    Raises:
        UserError: the recipe has no protocol of that name.
    """
    if not config.protocols:
        raise UserError("the recipe defines no protocols; add one, such as protocols.efficient")
    if wanted == "all":
        return list(config.protocols)
    names = list(dict.fromkeys(wanted.split(",")))
    for name in names:
        if name not in config.protocols:
            hint = did_you_mean(name, config.protocols)
            raise UserError(
                f"the recipe has no protocol {name!r}{hint} It has: {', '.join(config.protocols)}"
            )
    return names
