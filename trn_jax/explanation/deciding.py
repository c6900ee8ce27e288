"""The frames that decide the class of a video: a picture and a file of numbers per video."""

import json
import os

import cv2
import numpy as np

from trn_jax.errors import UserError, escaped
from trn_jax.evaluation.drawing import (
    BLACK,
    COLORS,
    GRAY,
    LIGHT,
    drawable,
    encode_png,
    paper,
    shortened,
    write,
)
from trn_jax.explanation.summary import time_of
from trn_jax.files import make_folder, reading, write_bytes, write_text

_NUM_DECIDING = 3
_MARGIN, _GAP, _HEAD, _FOOT = 10, 4, 30, 36  # of a strip, in pixels
_SIDE = 96, 224  # least and largest side of a frame
_WIDTH = 1280  # of a row of frames, approximately


class DecidingFrames:
    """Explains the answers of `trn-jax predict`.

    Args:
        explainer: an `Explainer` of the model that predicts.
        inputs: the `Input`s, by whose names answers are found.
        path_of: function of the name of a video that gives the path of its files without an
            extension; `None` writes none. Files that exist are read.
    """

    def __init__(self, explainer, inputs, path_of=None):
        self._explainer = explainer
        self._inputs = {each.name: each for each in inputs}
        self._path_of = path_of

    def __call__(self, answer):
        """Explain an answer about a whole video.

        Args:
            answer: the `Answer`.

        Returns:
            A dict that JSON can hold: `frames`, with their number, `time` in seconds, `value` in
            logits and whether they are `deciding`; `picture`, the path of the strip, if it's
            written; or `problem`.

        Raises:
            UserError: a file of an earlier command is corrupt.
        """
        path = self._path_of and self._path_of(answer.video)
        if path and os.path.exists(f"{path}.json"):
            return _read(f"{path}.json")
        (explanation,) = self._explainer([self._inputs[answer.video]])
        if explanation.problem:
            return {"problem": explanation.problem}
        found = {"label": explanation.label, "frames": frames_of(explanation)}
        if path:
            make_folder(os.path.dirname(path))
            found["picture"] = f"{path}.png"
            write_bytes(f"{path}.png", encode_png(strip(explanation)))
            # Last: with it, both are there.
            write_text(f"{path}.json", json.dumps(found, indent=1) + "\n")
        return found


def _read(path):
    with reading(path, "deciding frames of `trn-jax predict --explain`"):
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        for each in found["frames"]:
            if not isinstance(each["value"], float) or not isinstance(each["frame"], int):
                raise UserError(f"it has the frame {each!r:.80}")
            each["deciding"], each["time"]
        return found


def deciding_positions(explanation):
    """The frames with the highest positive values, at most 3, as positions in the clip."""
    positive = int((explanation.values.values[0] > 0).sum())
    return explanation.deciding(min(_NUM_DECIDING, positive))


def frames_of(explanation):
    """The frames of a clip with their values, for JSON."""
    best = set(deciding_positions(explanation).tolist())
    return [
        {
            "frame": int(explanation.frames[n]),
            "time": None if np.isnan(explanation.times[n]) else round(float(time), 3),
            "value": round(float(value), 4),
            "deciding": n in best,
        }
        for n, (time, value) in enumerate(
            zip(explanation.times, explanation.values.values[0], strict=True)
        )
    ]


def line_of(found):
    """The deciding frames in a line of text."""
    if "problem" in found:
        return f"not explained: {found['problem']}"
    texts = []
    for each in found["frames"]:
        if each["deciding"]:
            time = f"frame {each['frame']}" if each["time"] is None else f"{each['time']:.2f} s"
            texts.append(f"{time} ({each['value']:+.2f})")
    return f"decided by {', '.join(texts)}" if texts else "decided by no frame"


def strip(explanation):
    """Draw the frames of a clip with bars of their values; the deciding ones are framed.

    Returns:
        uint8 `[height, width, 3]`, RGB.
    """
    values = explanation.values.values[0]
    count, most = len(values), max(float(abs(values).max()), 1e-12)
    side = min(max(_WIDTH // count, _SIDE[0]), _SIDE[1])
    width = 2 * _MARGIN + count * (side + _GAP) - _GAP
    image = paper(_HEAD + side + _FOOT + _MARGIN, width)
    score = explanation.scores[explanation.classes[0]]
    title = drawable(f"{escaped(explanation.label)} {score:.2f}")
    title = shortened(title, width - 2 * _MARGIN, size=0.5, bold=True)
    write(image, title, _MARGIN, 20, size=0.5, bold=True)
    best = set(deciding_positions(explanation).tolist())
    for position, (pixels, value) in enumerate(zip(explanation.pixels, values, strict=True)):
        left, below = _MARGIN + position * (side + _GAP), _HEAD + side
        kind = cv2.INTER_AREA if pixels.shape[0] > side else cv2.INTER_CUBIC
        frame = cv2.resize(np.ascontiguousarray(pixels), (side, side), interpolation=kind)
        image[_HEAD:below, left : left + side] = frame
        if position in best:
            corners = (left + 1, _HEAD + 1), (left + side - 2, below - 2)
            cv2.rectangle(image, *corners, COLORS[1], 3)
        cv2.rectangle(image, (left, below + 5), (left + side - 1, below + 12), LIGHT, -1)
        length = round((side - 1) * abs(value) / most)
        color = COLORS[0] if value >= 0 else COLORS[3]
        cv2.rectangle(image, (left, below + 5), (left + length, below + 12), color, -1)
        write(image, time_of(explanation, position), left, below + 29, GRAY, size=0.38)
        write(image, f"{value:+.2f}", left + side - 40, below + 29, BLACK, size=0.38)
    return image
