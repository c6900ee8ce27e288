"""Trains a head on cached features, with the step, the loss and the optimizer of a training."""

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx

from trn_jax.data.views import View
from trn_jax.distributed.sharding import make_mesh
from trn_jax.errors import UserError
from trn_jax.evaluation import results
from trn_jax.evaluation.merging import merge_of, merge_views
from trn_jax.evaluation.scoring import graph_with, relation_draws, score_draws
from trn_jax.settings import resolved_views
from trn_jax.training.initial_state import init_state
from trn_jax.training.train_step import classification_loss, jit_train_step

_SCORED = 256  # clips whose features are scored at a time


class HeadOnly(nnx.Module):
    """A head in place of a `Recognizer`: its clips are features.

    Args:
        head: maps `[batch, segments, 1, 1, channels]` to logits.
    """

    def __init__(self, head):
        self.head = head

    def __call__(self, features, *, rngs=None, clip_index=None):
        """Score features `[batch, segments, 1, 1, channels]`, as `Recognizer` scores clips."""
        return self.head(features, rngs=rngs, clip_index=clip_index)

    def outputs(self, features, *, train=False, rngs=None, clip_index=None):
        """Logits, and `None` for those of an auxiliary classifier."""
        return self.head(features, train=train, rngs=rngs, clip_index=clip_index), None


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedHead:
    """A head after some steps, on the host.

    Attributes:
        step: number of steps.
        model: the states that make it up.
        opt_state: state of the optimizer.
        metrics: of its validation.
    """

    step: int
    model: Any
    opt_state: Any
    metrics: dict


class HeadTraining:
    """The training of a head.

    In epoch e, videos show the clips of pass `e % passes`.

    Args:
        config: the configuration.
        data: its `Data`.
        parts: its `Parts`.
        passes: a `FeatureCache` per pass.
        validation: the `FeatureCache` of the validation videos.
        reporter: the `Reporter`.
    """

    def __init__(self, config, data, parts, passes, validation, reporter):
        self._config, self._data, self._parts = config, data, parts
        self._passes, self._validation, self._reporter = passes, validation, reporter
        # A head is small; one device is enough, and takes any batch.
        self._mesh = make_mesh(jax.local_devices()[:1])
        self._view = View(**resolved_views(config)["data.val"])
        self._score: Any = None

    def run(self):
        """Train.

        Returns:
            The last `TrainedHead` and the best one by its validation.

        Raises:
            UserError: loss or scores are not finite.
        """
        config, parts = self._config, self._parts
        graph, optimizer, state = init_state(
            lambda: HeadOnly(parts.make_model().head), parts.make_optimizer, self._mesh
        )
        step_fn = jit_train_step(
            self._mesh,
            graph=graph,
            optimizer=optimizer,
            rate=parts.rate,
            seed=config.seed,
            loss=partial(classification_loss, **parts.loss_options),
        )
        order = Order(self._data.train_records, config.seed, balanced=config.data.balanced)
        best, scalars = None, []
        shown = max(parts.num_steps // 10, 1)
        for step in range(1, parts.num_steps + 1):
            state, found = step_fn(state, self._batch(order, step - 1))
            scalars.append(found)
            self._reporter.step()
            if not (parts.evaluates_after(step) or step == parts.num_steps):
                continue
            means = self._log_train(step, scalars)
            scalars = []
            metrics = self.validate(graph, state.model, step)
            self._reporter.write(step, "val", metrics)
            model, opt_state = jax.device_get((state.model, state.opt_state))
            last = TrainedHead(step, model, opt_state, metrics)
            best_by = self._data.best_metric
            is_best = best is None or metrics[best_by] >= best.metrics[best_by]
            best = last if is_best else best
            if step >= shown:
                self._reporter.log(self._line(step, means, metrics))
                shown += max(parts.num_steps // 10, 1)
        return last, best

    def _batch(self, order, number):
        """Batch `number`, on the host."""
        batch = self._config.train.batch
        entries = [order[row] for row in range(number * batch, (number + 1) * batch)]
        passes = self._passes
        rows = np.concatenate([passes[e % len(passes)].rows([example]) for e, example in entries])
        return {"clip": _as_maps(rows["features"]), "label": np.ascontiguousarray(rows["label"])}

    def _log_train(self, step, scalars):
        """Log the means over the steps since the last validation; returns them."""
        found = jax.device_get(scalars)
        means = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
        means["lr"] = float(found[-1]["lr"])
        self._check_finite("loss", [each["loss"] for each in found], step)
        epoch = step / self._parts.steps_per_epoch
        self._reporter.write(step, "train", {"epoch": epoch} | means)
        return means

    def _check_finite(self, what, values, step):
        if not np.isfinite(values).all():
            raise UserError(
                f"the {what} after {step} steps is not finite (NaN or infinite); try a lower rate "
                f"than --config.optim.lr={self._config.optim.lr:g}"
            )

    def _line(self, step, means, metrics):
        shares = "  ".join(f"{name} {100 * value:.2f} %" for name, value in metrics.items())
        return (
            f"step {step}/{self._parts.num_steps}  epoch {step / self._parts.steps_per_epoch:.1f}  "
            f"loss {means['loss']:.4f}  top-1 {100 * means['top1']:.1f} %  lr {means['lr']:.3g}  "
            f"val  {shares}"
        )

    def validate(self, graph, states, step):
        """Metrics of a head on the validation videos, as an evaluation computes them.

        Raises:
            UserError: scores are not finite, or no video can be read.
        """
        kinds, draws = relation_draws({"val": self._view})
        if self._score is None:
            graphs = [(graph_with(graph, mode, states), count) for mode, count in kinds]
            self._score = jax.jit(partial(score_draws, kinds=graphs))
        merge = merge_of(self._view, nnx.merge(graph, *states).head.merge_views)
        records, num_views = self._data.val_records, self._view.num_views
        shape = len(records), self._view.num_draws, len(self._data.class_names)
        scores, missing = np.zeros(shape, np.float32), np.zeros(len(records), bool)
        size = min(max(_SCORED // num_views, 1), len(records))
        for first in range(0, len(records), size):
            numbers = np.arange(first, min(first + size, len(records)))
            rows = self._validation.rows(numbers)
            missing[numbers] = ~rows["readable"]
            # The last ones are padded, so that one program serves all.
            padded = np.resize(numbers, size)
            features = np.zeros((size, *rows["features"].shape[1:]), np.float32)
            features[: len(rows)] = rows["features"]
            clips = _as_maps(features.reshape(-1, *features.shape[2:]))
            examples = np.repeat(padded, num_views).astype(np.int32)
            logits = np.asarray(self._score(states, clips, examples, False))
            logits = logits.reshape(size, num_views, *logits.shape[1:])[:, :, draws["val"]]
            for number, of_video in zip(numbers, logits, strict=False):
                scores[number] = merge_views(
                    of_video, merge=merge, multi_label=self._data.multi_label
                )
        if missing.all():
            raise UserError(
                f"none of the {len(records)} validation videos can be read, such as "
                f"{self._data.val_names[0]}"
            )
        scores[missing] = 0
        self._check_finite("score of videos", scores, step)
        return results.summarize(self._data, "val", self._view, scores, missing)["metrics"]


class Order:
    """The endless, reshuffled stream of training examples, as a function of the seed.

    `order[k]` is the epoch and the example of row k, as `pipeline.train_rows` has them, but drawn
    by NumPy: for a few videos, that takes a hundredth of the time.

    Args:
        records: the training list.
        seed: of the order.
        balanced: take one example of each class in turn.
    """

    def __init__(self, records, seed, *, balanced=False):
        groups: dict[Any, list[int]] = {}
        for example, record in enumerate(records):
            groups.setdefault(record.label if balanced else None, []).append(example)
        self._groups = [np.array(groups[key]) for key in sorted(groups, key=str)]
        self._seed = seed
        self._shuffled: dict[int, tuple[int, np.ndarray]] = {}  # by group, with its epoch

    def __getitem__(self, row):
        row, group = divmod(row, len(self._groups))
        examples = self._groups[group]
        epoch, place = divmod(row, len(examples))
        if self._shuffled.get(group, (-1,))[0] != epoch:
            rng = np.random.default_rng((self._seed, group, epoch))
            self._shuffled[group] = epoch, rng.permutation(examples)
        return epoch, int(self._shuffled[group][1][place])


def _as_maps(features):
    """Features `[clips, segments, channels]` as maps of one pixel, which a head takes."""
    return np.ascontiguousarray(features[:, :, None, None, :])
