"""The order card of a data set: does a model need the order of the frames to recognise a class?"""

import contextlib
import dataclasses
import json
import os

import numpy as np

from trn_jax import checks
from trn_jax.checkpoints import checkpoint
from trn_jax.data import pipeline
from trn_jax.data.views import View
from trn_jax.distributed.run_lock import hold
from trn_jax.errors import UserError, escaped, log
from trn_jax.evaluation import results
from trn_jax.evaluation.evaluate import cheapest_protocol, class_order, origin_of
from trn_jax.explanation.clips import explained, views_of
from trn_jax.explanation.order import NUM_SHUFFLES, ORDERS, rearrangements, score_orders
from trn_jax.explanation.rearranged import Rearranged, with_expected_relations
from trn_jax.files import make_folder, write_text
from trn_jax.progress import Progress
from trn_jax.recipe_data import Data
from trn_jax.reporting.order_card import FILE, OrderCard
from trn_jax.settings import from_dict, protocol_names, resolved_views


@dataclasses.dataclass(frozen=True, eq=False)
class MeasuredCard:
    """An order card, and what it is of.

    Attributes:
        card: the `OrderCard`.
        about: the origin of model and data, a dict that JSON can hold.
        num_shuffles: random orders per video.
        order_score: accuracy forward minus that in reverse, over all videos: about 1 if the order
            decides, 0 if it makes no difference.
        path: the file of the card.
        unreadable: messages about unreadable videos, which don't count.
    """

    card: OrderCard
    about: dict
    num_shuffles: int
    order_score: float
    path: str
    unreadable: list[str]

    def to_dict(self):
        """The content of the file."""
        return {
            **dataclasses.asdict(self.card),
            **{f"mean_{order}": self.card.mean(order) for order in ORDERS},
            "order_score": self.order_score,
            "num_shuffles": self.num_shuffles,
            "num_unreadable": len(self.unreadable),
            **self.about,
        }

    def write(self):
        """Write the file."""
        make_folder(os.path.dirname(self.path))
        write_text(self.path, json.dumps(self.to_dict(), indent=1) + "\n")


def order_card(
    path,
    workdir,
    *,
    data_dir=None,
    split="val",
    protocol=None,
    num_videos=None,
    num_shuffles=NUM_SHUFFLES,
    num_threads=0,
    ignore_class_names=False,
):
    """Measure the accuracy of each class in several orders of the frames; write `order.json`.

    One clip of every video is scored forward, reversed, in `num_shuffles` random orders, and frozen
    to each of its frames; a video counts as recognised if the class with the highest score is its
    label (or one of its labels). Models whose frames meet only in the head run their backbone once
    per video; others once per order, about 30 times.

    Args:
        path: a checkpoint or the working directory of a training.
        workdir: the file goes to `<workdir>/results`, or, of another split than "val", to
            `<workdir>/results/<split>`.
        data_dir: folder of the data; by default that of the checkpoint.
        split: "val", "test" or "train".
        protocol: whose view is used, by default the one with the fewest views; of several views,
            the middle clip and most central crop.
        num_videos: of the list, spread over it; by default all.
        num_shuffles: random orders, at least 1.
        num_threads: threads that decode; 0: as the configuration has it.
        ignore_class_names: match classes by number if data and checkpoint name different ones.

    Returns:
        The `MeasuredCard`.

    Raises:
        UserError: checkpoint and data don't match, the model has no head, or no video can be read.
        PassingError: another run holds `workdir`.
    """
    _check_positive(num_shuffles=num_shuffles, num_videos=num_videos)
    opened = checkpoint.open_checkpoint(path)
    config, may_write = _config_of(opened, data_dir, num_threads)
    protocol, view = _view_of(config, protocol)
    log(escaped(f"orders of the frames with {opened}"))
    with contextlib.ExitStack() as stack:
        data = Data(config, workdir, split, may_write=may_write)
        stack.callback(data.close)
        stack.enter_context(hold(workdir))
        names = opened.info["class_names"], data.class_names
        order = class_order(*names, ignore=ignore_class_names)
        scorer = _scorer(opened, config)
        chosen = _spread(len(data.val_records), num_videos)
        hits, problems = _hits(data, view, scorer, chosen, num_shuffles, order)
        origin = origin_of(data, config, opened.path, opened.info["step"])
        card = _card(data.class_names, hits, protocol, origin)
        order_score = _mean(hits, "forward") - _mean(hits, "reversed")
        path = os.path.join(results.folder_of(workdir, split), FILE)
        messages = [problems[example] for example in sorted(problems)]
        found = MeasuredCard(card, origin, num_shuffles, order_score, path, messages)
        found.write()
    return found


def _check_positive(**numbers):
    for key, value in numbers.items():
        if value is not None and value < 1:
            raise UserError(f"{key}={value}: expected a positive number")


def _config_of(opened, data_dir, num_threads):
    """The configuration of a `Checkpoint` for a folder, and whether data may be written there."""
    stored = opened.info["config"]
    config = from_dict(stored)
    if data_dir is not None:
        config.data_dir = data_dir
    if num_threads:
        config.data.num_threads = num_threads
    checks.check(config)
    # An untrusted checkpoint must not choose where data is written.
    return config, config.data_dir != stored.get("data_dir")


def _view_of(config, protocol):
    """The name of a protocol, by default the one with the fewest views, and its `View`."""
    protocol = protocol or cheapest_protocol(config)
    if protocol_names(config, protocol) != [protocol]:
        raise UserError(f"protocol={protocol}: expected one of {', '.join(config.protocols)}")
    return protocol, View(**resolved_views(config)[f"protocols.{protocol}"])


def _scorer(opened, config):
    """The `Rearranged` of a `Checkpoint`.

    Raises:
        UserError: the model has no head.
    """
    model = with_expected_relations(opened.load(**config.model))
    if model.head is None:
        raise UserError(f"{opened.directory} has no head; train one with `trn-jax probe`")
    return Rearranged(model, max_clips=config.eval.max_views_per_step)


def _spread(total, wanted):
    """Numbers of the videos that are scored."""
    if wanted is None or wanted >= total:
        return np.arange(total)
    return np.arange(wanted) * total // wanted


def _hits(data, view, scorer, chosen, num_shuffles, order):
    """How often videos are recognised.

    Returns:
        `{example: (labels, {order: fraction of the rearrangements})}`, and `{example: message}` of
        unreadable videos.

    Raises:
        UserError: none can be read.
    """
    records = [data.val_records[number] for number in chosen]
    videos = pipeline.EvalVideos(
        records,
        views_of(view, early=False),
        data.source,
        seed=0,
        on_error="skip",
        num_threads=data.num_threads,
    )
    hits: dict[int, tuple] = {}
    problems: dict[int, str] = {}
    choices = rearrangements(view.num_segments, num_shuffles=num_shuffles)
    with Progress("Orders", len(records), "videos") as progress:
        for video in pipeline.readable(iter(videos), problems, set()):
            clip = scorer.load(explained(video, view).pixels)
            labels = set(np.atleast_1d(data.val_records[video.example].label).tolist())
            logits = score_orders(scorer, clip, choices)
            hits[video.example] = (
                labels,
                {
                    name: float(np.isin(_best(each, order), list(labels)).mean())
                    for name, each in logits.items()
                },
            )
            progress.add()
    if not hits:
        raise UserError(f"no video can be read: {next(iter(problems.values()))}")
    return hits, problems


def _best(logits, order):
    """The labels with the highest scores, `[rearrangements]`."""
    return (logits if order is None else logits[:, order]).argmax(axis=1)


def _mean(hits, name):
    return float(np.mean([found[name] for _, found in hits.values()]))


def _card(class_names, hits, protocol, about):
    """The `OrderCard` of the hits of videos; one of several labels counts for each of them."""
    rows: list[list] = [[] for _ in class_names]
    for labels, found in hits.values():
        for label in labels:
            rows[label].append([found[name] for name in ORDERS])
    means = [np.mean(row, axis=0).tolist() if row else [None] * len(ORDERS) for row in rows]
    return OrderCard(
        classes=list(class_names),
        num_videos=[len(row) for row in rows],
        protocol=protocol,
        chance=1 / len(class_names),
        checkpoint=about["checkpoint"],
        step=about["step"],
        **{name: [mean[n] for mean in means] for n, name in enumerate(ORDERS)},
    )
