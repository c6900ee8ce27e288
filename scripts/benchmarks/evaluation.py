"""Evaluation: reading the views of videos, and scoring them."""

import os
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from benchmarks.turns import Side
from trn_jax import create_model
from trn_jax.data import augment, batches
from trn_jax.data.views import View
from trn_jax.errors import UserError
from trn_jax.evaluation.evaluator import Evaluator
from trn_jax.recipe_data import Data
from trn_jax.settings import protocol_names, resolved_views


def largest_protocol(config: ConfigDict, names: Sequence[str]) -> str:
    """The protocol with the most pixels per video."""
    views = resolved_views(config)

    def pixels(name: str) -> int:
        view = View(**views[f"protocols.{name}"])
        return view.num_views * view.num_segments * view.crop_size**2

    return max(names, key=pixels)


def views_sides(config: ConfigDict, workdir: str) -> list[Side]:
    """Reading the clips of the largest protocol, here and as PyTorch toolboxes do."""
    data = Data(config, workdir)
    if data.files.source != "frames":
        raise UserError(f"--what=views needs data.source=frames, not {data.files.source}")
    name = largest_protocol(config, protocol_names(config, "all"))
    view = View(**resolved_views(config)[f"protocols.{name}"])
    source, crop = data.source, view.cropping(exact=True)

    def ours(passes: int) -> None:
        for _ in range(passes):
            videos = data.eval_videos({name: view})
            for _ in batches.pack_clips(videos, config.eval.max_views_per_step):
                pass

    def reference(passes: int) -> None:
        for record in data.val_records * passes:
            rng = np.random.default_rng(record.index)
            clips = []
            for indices in view.sampler()(record.num_frames, rng):
                frames: list[Any] = []
                for number in indices.tolist():
                    file = source.pattern.format(number + source.first_frame)
                    path = os.path.join(record.path, file)
                    frames.append(cv2.imread(path, cv2.IMREAD_COLOR_RGB))
                frames = [augment.resize_short_side(frame, view.short_side) for frame in frames]
                for (left, top, width, height), mirrored in crop.boxes(*frames[0].shape[:2]):
                    cropped = [frame[top : top + height, left : left + width] for frame in frames]
                    clips += [np.flip(frame, 1) for frame in cropped] if mirrored else cropped
            np.ascontiguousarray(np.stack(clips).transpose(0, 3, 1, 2))

    videos = len(data.val_records)
    return [Side(name, videos, ours), Side(f"{name}, OpenCV and NumPy", videos, reference)]


def evaluation_sides(config: ConfigDict, workdir: str) -> list[Side]:
    """All protocols in one pass over the validation list, and the largest one alone."""
    data = Data(config, workdir)
    graph, state = nnx.split(create_model(**config.model, rngs=nnx.Rngs(config.seed)))
    states = (nnx.as_pure(state),)
    evaluator = Evaluator(
        graph, multi_label=data.multi_label, max_views=config.eval.max_views_per_step
    )

    def side(name: str, protocols: Sequence[str]) -> Side:
        sections = resolved_views(config)
        views = {protocol: sections[f"protocols.{protocol}"] for protocol in protocols}

        def run(passes: int) -> None:
            for _ in range(passes):
                evaluator.run(data, views, states)

        return Side(name, len(data.val_records), run)

    names = protocol_names(config, "all")
    largest = largest_protocol(config, names)
    return [side("one pass", names), side(largest, [largest])]
