"""Sheets of clips, one row a clip with its labels: a PNG, or a page that needs no other file."""

import base64
import dataclasses
import math
from collections.abc import Sequence

import cv2
import numpy as np
import simplejpeg

from trn_jax.errors import escaped
from trn_jax.evaluation.drawing import (
    COLORS,
    GRAY,
    WHITE,
    drawable,
    paper,
    shortened,
    text_width,
    write,
)
from trn_jax.pages.markup import join, name, tag
from trn_jax.pages.page import page as framed

_MARGIN, _GAP = 12, 2  # pixels
_FRAMES_WIDTH = 1280  # of a row of frames, approximately
_FRAME = 64, 186  # least and largest width of a frame
_LEAST_WIDTH = 560
_TITLE, _HEADING, _CAPTION = 0.55, 0.5, 0.38  # sizes of text
_HEAD, _FOOT, _SPACE = 22, 16, 12  # heights above, below and between rows of frames
_MARK = COLORS[1]  # of mirrored clips


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A clip as the network receives it.

    Attributes:
        pixels: uint8 `[segments, size, size, 3]`, RGB.
        labels: its labels.
        labels_before: the labels of the video, where mirroring changed them.
        mirrored: whether the pixels are mirrored.
        video: name of the video.
        frames: numbers of the frames, from 0.
        times: of the frames in seconds from the first one of the video, or `None`.
        part: which of several views of the video it is, or "".
    """

    pixels: np.ndarray
    labels: Sequence[int]
    labels_before: Sequence[int] = ()
    mirrored: bool
    video: str
    frames: Sequence[int]
    times: Sequence[float] | None = None
    part: str = ""


@dataclasses.dataclass(frozen=True)
class Sheet:
    """Clips and what they are.

    Attributes:
        title: a line.
        notes: lines below it.
        class_names: in the order of the labels.
        rows: the clips, at least one.
    """

    title: str
    notes: Sequence[str]
    class_names: Sequence[str]
    rows: Sequence[Row]

    def names(self, labels):
        """The names of labels, as text that is safe to print."""
        return ", ".join(escaped(self.class_names[label]) for label in labels)

    def mark(self, row):
        """The mark of a mirrored clip, or ""."""
        if not len(row.labels_before):
            return "mirrored" if row.mirrored else ""
        return f"mirrored, was: {self.names(row.labels_before)}"


def as_list(label):
    """One label, or several of a video, as a sorted list."""
    return sorted(map(int, np.atleast_1d(label)))


def batch_rows(batch, data, *, most=None, times=None):
    """The clips of a training batch as rows.

    Args:
        batch: see `BatchReader`.
        data: its `Data`.
        most: number of clips; `None`: all.
        times: `Row.times` of all clips; `None`: unknown.

    Returns:
        A list of `Row`.
    """
    rows = []
    clips = batch["clips"][:most]
    names = data.train_names([clip.example for clip in clips])
    for number, (clip, video) in enumerate(zip(clips, names, strict=True)):
        label = batch["label"][number]
        labels = as_list(np.flatnonzero(label) if label.ndim else label)
        before = as_list(data.train_records[clip.example].label)
        row = Row(
            pixels=batch["clip"][number],
            labels=labels,
            labels_before=[] if labels == before else before,
            mirrored=bool(clip.flip),
            video=video,
            frames=clip.frames,
            times=times and times[number],
        )
        rows.append(row)
    return rows


def describe(rows):
    """Lines about rows: their frames, and how many are mirrored."""
    num_frames, height, width, _ = rows[0].pixels.shape
    mirrored = sum(row.mirrored for row in rows)
    changed = sum(len(row.labels_before) > 0 for row in rows)
    times = "" if rows[0].times is None else " and time"
    exchanged = f", {changed} of them with another label" if changed else ""
    return (
        f"{num_frames} frames of {width} x {height} pixels each; {mirrored} of {len(rows)} clips "
        f"are mirrored{exchanged}",
        f"below each frame: its number in the video (from 0){times}",
    )


def to_dicts(sheet):
    """The rows of a sheet without their pixels, for JSON."""
    return [
        dict(
            video=row.video,
            labels=[sheet.class_names[label] for label in row.labels],
            labels_before=[sheet.class_names[label] for label in row.labels_before],
            mirrored=row.mirrored,
            frames=list(row.frames),
            times=row.times,
            part=row.part,
        )
        for row in sheet.rows
    ]


def picture(sheet):
    """Draw a sheet.

    Returns:
        uint8 `[height, width, 3]`, RGB.
    """
    sides = [_side(row) for row in sheet.rows]
    widths = [
        len(row.pixels) * (side + _GAP) - _GAP for row, side in zip(sheet.rows, sides, strict=True)
    ]
    width = max([_LEAST_WIDTH, *widths])
    top = _MARGIN + 30 + 17 * len(sheet.notes)
    height = top + sum(_HEAD + side + _FOOT + _SPACE for side in sides)
    image = paper(height, width + 2 * _MARGIN)
    title = shortened(drawable(escaped(sheet.title)), width, size=_TITLE, bold=True)
    write(image, title, _MARGIN, _MARGIN + 12, size=_TITLE, bold=True)
    for number, note in enumerate(sheet.notes):
        note = shortened(drawable(escaped(note)), width, size=_CAPTION)
        write(image, note, _MARGIN, _MARGIN + 32 + 17 * number, GRAY, size=_CAPTION)
    for row, side in zip(sheet.rows, sides, strict=True):
        _draw_heading(image, sheet, row, top + 15, width)
        top += _HEAD
        for number, frame in enumerate(row.pixels):
            left = _MARGIN + number * (side + _GAP)
            image[top : top + side, left : left + side] = _resized(frame, side)
            caption = _caption(row, number, side)
            write(image, caption, left + 1, top + side + 12, GRAY, size=_CAPTION)
        top += side + _FOOT + _SPACE
    return image


def _side(row):
    """Side of the frames of a row on the sheet, in pixels; small ones are magnified twice."""
    least, largest = _FRAME
    wanted = min(_FRAMES_WIDTH // len(row.pixels), largest, 2 * row.pixels.shape[2])
    return max(wanted, least)


def _resized(frame, side):
    kind = cv2.INTER_AREA if frame.shape[0] > side else cv2.INTER_CUBIC
    return cv2.resize(frame, (side, side), interpolation=kind)


def _draw_heading(image, sheet, row, y, width):
    """Write the labels, the mark and the name of the video of a row into a line."""
    fonts = dict(size=_HEADING, bold=True)
    mark = shortened(drawable(sheet.mark(row)), width * 0.4, size=_CAPTION)
    room = width * 0.45
    labels = shortened(_picture_names(sheet, row.labels), room, **fonts)
    write(image, labels, _MARGIN, y, **fonts)
    right = _MARGIN + text_width(labels, **fonts) + 10
    if mark:
        end = right + text_width(mark, size=_CAPTION) + 10
        cv2.rectangle(image, (right, y - 13), (end, y + 4), _MARK, -1)
        write(image, mark, right + 5, y - 1, WHITE, size=_CAPTION)
        right = end + 10
    name = drawable(escaped(" ".join(filter(None, ("video", row.video, row.part)))))
    name = shortened(name, width + _MARGIN - right, from_end=True, size=_CAPTION)
    left = width + _MARGIN - text_width(name, size=_CAPTION)
    write(image, name, left, y, GRAY, size=_CAPTION)


def lacks_letters(sheet):
    """Whether the picture of a sheet has names of classes that its font can't write."""
    return any(_is_lost(sheet.names(row.labels)) for row in sheet.rows)


def _is_lost(name):
    return drawable(name).count("?") > name.count("?")


def _picture_names(sheet, labels):
    """The names of labels, with the number of those that the font can't write."""
    names = []
    for label in labels:
        name = sheet.names((label,))
        number = f"class {label}: " if _is_lost(name) else ""
        names.append(number + drawable(name))
    return ", ".join(names)


def _caption(row, number, side=math.inf):
    """Number and time of a frame, as far as they fit below it."""
    frame = str(row.frames[number])
    time = "" if row.times is None else f", {row.times[number]:.2f} s"
    texts = [f"frame {frame}{time}", f"{frame}{time}", frame]
    return next((text for text in texts if text_width(text, size=_CAPTION) < side), frame)


def page(sheet):
    """A sheet as a page of HTML, with its pictures inside and without scripts.

    Returns:
        The text; names of classes and videos are escaped.
    """
    notes = [tag("p", note, class_="note") for note in sheet.notes]
    sections = [_section(sheet, row) for row in sheet.rows]
    return framed(sheet.title, notes, sections, scripts=())


def _section(sheet, row):
    mark = sheet.mark(row)
    video = [" ", tag("small", "video ", name(row.video), row.part and f" {row.part}")]
    labels = join([name(sheet.names((label,))) for label in row.labels], ", ")
    heading = tag("h2", labels, mark and [" ", tag("mark", mark)], video)
    side = min(_FRAME[1], 2 * row.pixels.shape[2])
    frames = [
        tag(
            "figure",
            tag("img", alt=f"frame {row.frames[number]}", src=_jpeg_url(frame), width=side),
            tag("figcaption", _caption(row, number)),
        )
        for number, frame in enumerate(row.pixels)
    ]
    return tag("section", heading, tag("div", frames, class_="clip"))


def _jpeg_url(frame):
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(frame), 95, "RGB", "444")
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
