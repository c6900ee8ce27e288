"""Videos with their predictions: captions, and a bar over time, as MP4 files."""

import collections
import dataclasses
import fractions
import hashlib
import itertools
import json
import os

import cv2
import numpy as np

from trn_jax.data.annotations import without_part
from trn_jax.data.containers import pyav
from trn_jax.data.decode import USUAL_RATE, FrameError, read_video
from trn_jax.errors import UserError
from trn_jax.evaluation import lettering
from trn_jax.files import open_atomic
from trn_jax.prediction import sources
from trn_jax.prediction.inputs import Inputs
from trn_jax.prediction.overlay import Story, Strip, caption_name

_LEAST_WIDTH = 320  # of a film in pixels; smaller frames are magnified, so that text has room
_TIME_BASE = fractions.Fraction(1, 60_000)  # exact for the usual rates, and MPEG-4 takes it
_VERSION = 2  # of how films look
# Without frames in another order, every frame can have its own length in a file.
_H264 = "libx264", {"preset": "superfast", "crf": "20", "bf": "0"}
_MPEG4 = "mpeg4", {"qmin": "2", "qmax": "8"}  # PyAV may be built without x264
_BT601 = 6  # SMPTE 170M, to which PyAV converts


class Films:
    """Renders the videos of a command into a folder.

    Args:
        opening: function of the name of a video that opens it as a `Video`, from its first frame.
        path_of: function of the name of a video that gives the path of its film.
        multi_label: classes don't exclude each other.
        top: classes shown for a whole video.
        log: function that prints a message.

    Attributes:
        num_failed: videos that could not be rendered.

    Raises:
        UserError: PyAV is not installed.
    """

    def __init__(self, opening, path_of, *, multi_label, top, log):
        pyav()
        self.num_failed = 0
        self._opening, self._path_of = opening, path_of
        self._options = dict(multi_label=multi_label, top=top)
        self._log = log
        self._noted: set[str] = set()

    def render(self, answers, events, *, is_none=False):
        """Render a video, unless its film is there already.

        Args:
            answers: its `Answer`s.
            events: its `Event`s.
            is_none: thresholds reject the whole video.
        """
        name = answers[0].video
        story = story_of(answers, events, is_none=is_none, **self._options)
        self._note(story)
        path = self._path_of(name)
        try:
            render(lambda: self._opening(name), path, story)
        except FrameError as error:
            self.num_failed += 1
            self._log(f"not rendered: {error}")

    def _note(self, story):
        """Name the characters of the captions that can't be drawn, once."""
        names = [caption_name(story.class_names, label) for label in _labels(story)]
        unknown = {c for name in names for c in lettering.missing(name)} - self._noted
        if unknown:
            self._noted |= unknown
            self._log(
                f"no font here has {' '.join(sorted(unknown))} "
                f"({lettering.names_of_scripts(unknown)}), so films show ? and the number of the "
                f"class instead; {lettering.ADVICE}"
            )
        loose = next((name for name in names if lettering.unshaped(name)), "")
        if loose and "unshaped" not in self._noted:
            self._noted.add("unshaped")
            self._log(
                f"the letters of {loose!r} are drawn one by one, although this script joins or "
                f"stacks them; {lettering.SHAPING_ADVICE}"
            )


def _labels(story):
    """The labels of all captions of a film, ascending."""
    return sorted({event[2] for event in story.events} | {label for label, _ in story.top})


def story_of(answers, events, *, multi_label=False, top=1, is_none=False):
    """What the film of a video shows: the `overlay.Story` of its `Answer`s and `Event`s."""
    first, last = answers[0], answers[-1]
    names, offset = first.class_names, first.start
    length = None if last.end is None else max(answer.end for answer in answers) - offset
    numbers = {name: number for number, name in reversed(list(enumerate(names)))}
    found = sorted(
        (event.start - offset, event.end - offset, numbers[event.label], event.score)
        for event in events
    )
    if not first.is_window:
        best = [(label, float(first.decisive[label])) for label in first.top_labels(top)]
        return Story(names, found, top=best, is_none=is_none, length=length, num_rows=len(best))
    middles = [(answer.start + answer.end) / 2 - offset for answer in answers]
    borders = [0.0, *((a + b) / 2 for a, b in itertools.pairwise(middles)), length]
    curve = []
    for answer, start, end in zip(answers, borders, borders[1:], strict=False):
        (label,) = answer.top_labels(1)
        curve.append((start, end, label, float(answer.decisive[label])))
    return Story(names, found, curve=curve, length=length, num_rows=3 if multi_label else 1)


def render(opening, path, story):
    """Write the film of a video; nothing happens if it is there, of the same video and story.

    Frames keep their times, stand upright and have square pixels; those that don't decode are left
    out. The last one has their mean length. Films have no sound. A strip below the frames has the
    caption and the bar over time.

    Args:
        opening: function that opens the `Video`.
        path: of the film, an MP4 file that is complete or not there.
        story: its `Story`.

    Raises:
        FrameError: the video can't be read or encoded.
        UserError: the film can't be written.
    """

    def written(video):
        origin = _origin(video, story)
        if _origin_of(path) != origin:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            with open_atomic(path) as file:
                _write(file, origin, video, story)

    read_video(opening, written)


def _write(file, origin, video, story):
    """Encode the frames of a video with their strip."""
    encoder = last = None
    try:
        with pyav().open(file, "w", format="mp4") as container:
            container.metadata["comment"] = origin
            for pixels, time in video.in_order():
                if encoder is None:
                    encoder = _Encoder(container, pixels.shape, story)
                stamp = round(time / _TIME_BASE)
                # Two frames of the same time stay two frames.
                last = stamp if last is None else max(stamp, last + 1)
                encoder.add(pixels, time, last)
            if encoder is None:
                raise FrameError(f"{video.path} has no frames that can be decoded")
            encoder.finish(video.seconds or 1 / USUAL_RATE)
    except pyav().FFmpegError as error:
        raise FrameError(f"can't render {video.path}: {error.strerror or error}") from None


class _Encoder:
    """Encodes the frames of a film, whose shape is that of the first one."""

    def __init__(self, container, shape, story):
        height, width, _ = shape
        factor = -(-_LEAST_WIDTH // width) if width < _LEAST_WIDTH else 1
        self._size = width * factor, height * factor
        width = self._size[0] + self._size[0] % 2
        self._strip = Strip(width, self._size[1], story)
        codec, options = _H264 if _H264[0] in pyav().codecs_available else _MPEG4
        self._container = container
        self._stream = container.add_stream(codec, options=options)
        context = self._stream.codec_context
        context.width, context.height = width, self._size[1] + self._strip.height
        context.pix_fmt, context.time_base = "yuv420p", _TIME_BASE
        context.colorspace, context.color_range = _BT601, 1
        if codec != _H264[0]:
            context.bit_rate = context.width * context.height * 8
        self._canvas = np.zeros((context.height, context.width, 3), np.uint8)
        self._stamps: list[int] = []  # of the first and the last frame
        self._lengths: dict[int, int] = {}  # of frames without a packet, by their stamps
        self._waiting: collections.deque = collections.deque()  # packets of frames without a length
        self._num_frames = 0

    def add(self, pixels, time, stamp):
        """Encode a frame."""
        width, height = self._size
        if pixels.shape[:2] != (height, width):
            pixels = cv2.resize(pixels, self._size, interpolation=cv2.INTER_CUBIC)
        self._canvas[:height, :width] = pixels
        self._canvas[:height, width:] = pixels[:, -1:]  # sides are even numbers
        self._canvas[height:] = self._strip.draw(time)
        frame = pyav().VideoFrame.from_ndarray(self._canvas, format="rgb24")
        frame.pts, frame.time_base = stamp, _TIME_BASE
        if self._stamps:
            self._lengths[self._stamps[-1]] = stamp - self._stamps[-1]
        self._stamps = [*self._stamps[:1], stamp]
        self._num_frames += 1
        self._mux(self._stream.encode(frame))

    def finish(self, seconds):
        """Encode what is still waiting; `seconds` is the length of a film of one frame."""
        first, last = self._stamps[0], self._stamps[-1]
        length = (last - first) / (self._num_frames - 1) if last > first else seconds / _TIME_BASE
        self._lengths[last] = max(round(length), 1)
        self._mux(self._stream.encode(None))

    def _mux(self, packets):
        """Write packets, with the lengths of their frames, as soon as these are known.

        Encoders know only a rate, which a film doesn't have.
        """
        self._waiting += packets
        while self._waiting and self._waiting[0].pts in self._lengths:
            packet = self._waiting.popleft()
            packet.duration = self._lengths.pop(packet.pts)
            self._container.mux(packet)


def _origin(video, story):
    """A text that identifies the video and the story of a film."""
    path = os.path.abspath(without_part(video.path))
    # Captions change with the fonts of the machine.
    names = [caption_name(story.class_names, label) for label in _labels(story)]
    about = [_VERSION, os.path.abspath(video.path), dataclasses.asdict(story), names]
    about.append([lettering.unshaped(name) for name in names])
    if os.path.exists(path):
        status = os.stat(path)
        about += [status.st_size, status.st_mtime_ns]
    text = json.dumps(about)
    return f"trn_jax {hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()}"


def _origin_of(path):
    """The text of `_origin` in a film; `None` if there is no film."""
    if not os.path.exists(path):
        return None
    try:
        with pyav().open(path, metadata_errors="ignore") as container:
            return container.metadata.get("comment")
    except (pyav().FFmpegError, OSError, TypeError):
        return None


def by_name(inputs):
    """A function that opens one of some `inputs.Input`s, by its name."""
    opened = Inputs(inputs)
    numbers = {each.name: number for number, each in enumerate(inputs)}
    return lambda name: opened.open_in_order(numbers[name])


def found_again(name, about):
    """Open a video of which there are scores.

    Args:
        name: of the video.
        about: the `about` of its file of scores, see `saved.PredictionFolder`.

    Raises:
        FrameError: it can't be opened.
    """
    path = about.get("path")
    if not path:
        raise FrameError(f"{name} was a stream, whose frames are not kept")
    if not os.path.exists(path):
        raise FrameError(f"{name} is not at {path} any more; put it there, or predict it again")
    contract = about.get("contract")
    known = contract.get("frame_rate") if isinstance(contract, dict) else None
    try:
        inputs = sources.find([path], frame_rate=known)
    except UserError as error:
        raise FrameError(str(error)) from None
    if len(inputs) != 1:
        raise FrameError(f"{path} is not one video any more; predict it again")
    if without_part(path) == path:  # else the file itself is called like a part
        record = inputs[0].record.part_called(name)
        inputs = [dataclasses.replace(inputs[0], record=record)]
    return Inputs(inputs).open_in_order(0)
