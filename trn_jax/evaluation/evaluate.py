"""Evaluates a checkpoint by the protocols of a recipe and writes the results."""

import contextlib
import dataclasses
import hashlib
import json
import os
import time

import jax
import numpy as np
from flax import nnx

from trn_jax import __version__, checks
from trn_jax.checkpoints import checkpoint
from trn_jax.checks import differing_names
from trn_jax.data.views import View
from trn_jax.distributed import processes
from trn_jax.distributed.run_lock import hold
from trn_jax.distributed.sharding import make_mesh
from trn_jax.distributed.watchdog import Watchdog
from trn_jax.errors import UserError, escaped, log
from trn_jax.evaluation import results
from trn_jax.evaluation.evaluator import Evaluator
from trn_jax.evaluation.score_files import check_dump
from trn_jax.evaluation.streamed import StreamedEvaluator, streamed_protocol
from trn_jax.nn.precision import compute_dtype
from trn_jax.recipe_data import Data
from trn_jax.settings import from_dict, protocol_names, resolved_views, to_json


def evaluate(
    config,
    path,
    workdir,
    *,
    protocols="all",
    dump=None,
    split="val",
    ignore_class_names=False,
    as_json=False,
    streamed=None,
    dtype=None,
):
    """Evaluate a checkpoint and write `<workdir>/results/<protocol>.json` and `.npz`.

    Results of another split than "val" go to `<workdir>/results/<split>`.

    Args:
        config: the configuration with the protocols and data; `None`: that of the checkpoint.
        path: a checkpoint or the working directory of a training.
        workdir: folder of `results`; belongs to one run at a time.
        protocols: "all", or comma-separated names.
        dump: another file for the scores, see `score_files.write` and `score_files.dump_path`.
        split: "val", "test" or "train".
        ignore_class_names: match classes by number if data and checkpoint name different ones.
        as_json: print the results as JSON instead of tables.
        streamed: also evaluate frame by frame, as a stream, the protocol among these with the
            fewest views; how features are pooled, see `streamed.StreamedEvaluator`. The result is
            called `<protocol>_streamed`.
        dtype: of the computation: "float32", "bfloat16" or "auto"; `None`: that of the
            configuration.

    Returns:
        Number of unreadable videos, which count as wrong.

    Raises:
        UserError: checkpoint, configuration and data don't match, or `dump` can't be written.
        PassingError: another run holds `workdir`.
    """
    if dump:
        check_dump(dump)
    options = dict(split=split, ignore_class_names=ignore_class_names)
    options |= dict(streamed=streamed, dtype=dtype)
    with evaluating(
        config, path, workdir, choose=lambda each: protocol_names(each, protocols), **options
    ) as done:
        folder = results.folder_of(workdir, split)
        results.write(done.results, folder, dump=dump, as_json=as_json)
    return done.num_unreadable


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A checkpoint, its data and its results.

    Attributes:
        opened: the `Checkpoint`.
        data: the `Data`.
        class_order: int `[classes]`, the output of each label; `None`: the same.
        results: a list, see `run_protocols`.
    """

    opened: checkpoint.Checkpoint
    data: Data
    class_order: np.ndarray | None
    results: list[dict]

    @property
    def num_unreadable(self):
        """Number of unreadable videos."""
        return self.results[0]["num_unreadable"]


@contextlib.contextmanager
def evaluating(
    config, path, workdir, *, choose, split, ignore_class_names, streamed=None, dtype=None
):
    """Evaluate a checkpoint, and hold `workdir` until its results are written.

    Args:
        config: see `evaluate`.
        path: see `evaluate`.
        workdir: belongs to one run at a time.
        choose: function of the configuration: a list of names of protocols.
        split: "val", "test" or "train".
        ignore_class_names: see `evaluate`.
        streamed: see `evaluate`.
        dtype: see `evaluate`.

    Yields:
        What was `Evaluated`.

    Raises:
        UserError: see `evaluate`.
        PassingError: another run holds `workdir`.
    """
    mesh = make_mesh()
    opened = checkpoint.open_checkpoint(path)
    stored = opened.info["config"]
    config = from_dict(stored) if config is None else config
    if config.model.num_classes is None:  # a recipe that leaves it to the data
        config.model.num_classes = stored["model"]["num_classes"]
    config.model.dtype = compute_dtype(dtype or config.model.dtype, mesh.devices.flat)
    checks.check(config)
    checks.check_model(config, stored, opened.directory)
    names = choose(config)
    with contextlib.ExitStack() as stack:
        watchdog = stack.enter_context(Watchdog(config.train.step_timeout, again="evaluates again"))
        watchdog.note("startup (reading the lists)")
        processes.log(escaped(f"evaluating {opened} in {_precision(config, opened)}"))
        # An untrusted checkpoint must not choose where data is written.
        may_write = config.data_dir != stored.get("data_dir")
        data = Data(config, workdir, split, may_write=may_write)
        stack.callback(data.close)
        stack.enter_context(hold(workdir))
        names_of_model = opened.info["class_names"]
        order = class_order(names_of_model, data.class_names, ignore=ignore_class_names)
        watchdog.note(f"startup (reading {opened.directory})")
        model = opened.load(mesh=mesh, **config.model)
        watchdog.note("the evaluation")
        options = dict(
            multi_label=data.multi_label,
            max_views=config.eval.max_views_per_step,
            class_order=order,
            alive=watchdog.alive,
        )
        messages, found = _run(model, data, config, opened, names, streamed, options)
        yield Evaluated(opened, data, order, found)
        # If a process exits with an error, launchers kill the one that is writing.
        processes.barrier()
    for message in messages:
        log(message)


def _precision(config, opened):
    """The dtype of an evaluation in words, with that of the training if it differs."""
    dtype, trained = config.model.dtype, opened.info.get("dtype")
    return dtype if trained in (None, dtype) else f"{dtype}; it was trained in {trained}"


def _run(model, data, config, opened, names, streamed, options):
    """Messages about videos, and the results of the protocols `names`, also `streamed`."""
    graph, state = nnx.split(model)
    evaluator = Evaluator(graph, **options)
    origin = opened.path, opened.info["step"]
    # Raises before anything is read.
    stream = _stream(model, data, config, opened, names, streamed, options) if streamed else None
    found = run_protocols(evaluator, data, config, (nnx.as_pure(state),), *origin, names)
    if stream:
        clip_wise = next(each for each in found if each["protocol"] == stream.protocol)
        result = stream.run(data) | {"clip_wise": clip_wise["metrics"]}
        found.append(result | origin_of(data, config, *origin))
    if calibration := opened.calibration():
        found = [each | {"temperature": calibration.temperature} for each in found]
    return evaluator.losses + [f"unreadable: {each}" for each in evaluator.unreadable], found


def cheapest_protocol(config):
    """The protocol with the fewest views; of several, the first.

    Raises:
        UserError: there is none.
    """
    if not config.protocols:
        protocol_names(config, "all")  # raises
    views = resolved_views(config)
    counts = {name: View(**views[f"protocols.{name}"]).num_views for name in config.protocols}
    return min(counts, key=lambda name: counts[name])


def run_protocols(evaluator, data, config, states, directory, step, names):
    """Run the protocols `names` and add the origin of model and data to the results.

    The model is the checkpoint `directory`, after `step` training steps; for the other arguments
    see `Evaluator.run`.

    Returns:
        A list of results, or `None` if the evaluation was stopped.
    """
    origin = origin_of(data, config, directory, step)
    sections = resolved_views(config)
    found = evaluator.run(data, {name: sections[f"protocols.{name}"] for name in names}, states)
    return None if found is None else [result | origin for result in found.values()]


def origin_of(data, config, directory, step):
    """Entries of every result about the model and the data; see `run_protocols`."""
    text = to_json(config)
    return {
        "checkpoint": os.path.relpath(directory),
        "step": step,
        "model": config.model.name,
        "dtype": config.model.dtype,
        "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "split": data.split,
        "list": os.path.relpath(data.files.of_split(data.split)[0]),
        "list_sha256": list_hash(data),
        "trn_jax": __version__,
        "jax": jax.__version__,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "config": json.loads(text),
    }


def _stream(model, data, config, opened, names, pooling, options):
    """The `StreamedEvaluator` of one of the protocols `names`."""
    sections = resolved_views(config)
    views = {name: sections[f"protocols.{name}"] for name in names}
    protocol = streamed_protocol(views)
    stored = opened.info.get("sampling")
    sampling = stored if isinstance(stored, dict) and stored.get("num_frames") else data.sampling()
    options = options | dict(pooling=pooling, num_frames=sampling["num_frames"])
    return StreamedEvaluator(model, protocol, views[protocol], **options)


def class_order(model_names, data_names, *, ignore=False):
    """Match the classes of data with the outputs of a model, by name.

    Args:
        model_names: class names of the outputs; empty if unknown.
        data_names: class names in the order of the labels.
        ignore: match by number instead.

    Returns:
        int `[classes]`, the output of each label; `None`: the same.

    Raises:
        UserError: the names differ by more than their order.
    """
    if model_names == data_names or ignore:
        return None
    if not model_names:
        processes.log("the checkpoint has no class names; using the class order of the data")
        return None
    if sorted(model_names) != sorted(data_names):
        raise UserError(
            "the checkpoint and the data name different classes:"
            f"{differing_names(model_names, data_names)}\nuse data with the classes that the model "
            "was trained on, or add --ignore_class_names to match classes by number"
        )
    processes.log("data and checkpoint order their classes differently; matching them by name")
    positions = {name: position for position, name in enumerate(model_names)}
    return np.array([positions[name] for name in data_names])


def list_hash(data):
    """SHA-256 of the list file, or, of records, which have none, of their names and labels."""
    path, _ = data.files.of_split(data.split)
    if os.path.isfile(path):
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    named = zip(data.val_names, data.val_records, strict=True)
    lines = [f"{name} {record.label}\n" for name, record in named]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
