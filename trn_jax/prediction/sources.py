"""Finds the videos that a command names: files, folders, patterns and lists."""

import dataclasses
import glob
import os

from trn_jax.data import records
from trn_jax.data.annotations import Record
from trn_jax.data.datasets import folders_of_list
from trn_jax.data.decode import MAX_PIXELS
from trn_jax.data.parts import is_interval
from trn_jax.data.streams import is_file_url, is_stream, is_url, masked
from trn_jax.data.videos import VideoFiles, is_video
from trn_jax.errors import UserError
from trn_jax.prediction.frame_parts import (
    Folders,
    frame_columns,
    have_offsets,
    numbers_in,
    with_frames,
)
from trn_jax.prediction.inputs import Input
from trn_jax.prepare import table_rows
from trn_jax.prepare.folders import is_image, search
from trn_jax.prepare.times import is_time, parse_seconds, time_columns
from trn_jax.prepare.video_paths import PathResolver, local_path

_NO_LABELS = 1 << 62  # stored labels are not compared with the classes of the model


def several(source):
    """A path or URL, or several of them, as an iterator of texts."""
    return map(os.fspath, [source] if isinstance(source, str | os.PathLike) else source)


def without_streams(source, purpose):
    """A source, or several, none of which may be a stream, as a list of texts.

    Args:
        source: see `several`.
        purpose: what they are for, in the message, such as "can be explained".

    Raises:
        UserError: one is a stream.
    """
    found = list(several(source))
    for each in found:
        if is_stream(each):
            raise UserError(
                f"{masked(each)!r} is a stream; only files and folders {purpose}, so record it "
                "first"
            )
    return found


def find(sources, *, frame_rate=None, max_pixels=MAX_PIXELS, multi_label=False):
    """Find the videos of sources that are no streams.

    Args:
        sources: paths or `file://` URLs of video files, folders (of videos, of frames or of
            records), lists, or patterns such as `clips/*.mp4`.
        frame_rate: of stored frames, per second; `None` if unknown.
        max_pixels: frames with more pixels are unreadable.
        multi_label: records have several labels per video.

    Returns:
        A list of `Input`, each video or part of one once, under the first of its names; entries of
        lists that name no video have a `problem`.

    Raises:
        UserError: a source doesn't exist, or there are no videos in it.
    """
    finder = _Finder(frame_rate, max_pixels, multi_label)
    found: dict[tuple, Input] = {}
    names = set()
    for source in sources:
        for each in finder.find(local_path(os.fspath(source))):
            if each.name not in names:
                names.add(each.name)
                found.setdefault(_identity(each), each)
    return list(found.values())


def _identity(found):
    """What an `Input` has in common with others of the same video or part, whatever its name."""
    if not isinstance(found.source, VideoFiles | Folders):
        return (found.name,)
    record = found.record
    times = (record.start, record.end, record.offset, record.num_frames)
    return (os.path.realpath(record.path), *times)


class _Finder:
    """Makes `Input`s of paths."""

    def __init__(self, frame_rate, max_pixels, multi_label):
        self._files = VideoFiles(max_pixels=max_pixels)
        self._folders = Folders(frame_rate, max_pixels)
        self._options = dict(frame_rate=frame_rate, max_pixels=max_pixels)
        self._multi_label = multi_label

    def find(self, path):
        if os.path.isdir(path):
            return self._folder(path)
        if os.path.exists(path):
            is_list = path.lower().endswith(table_rows.TABLE_EXTENSIONS)
            return self._list(path) if is_list else [self._file(path)]
        if glob.has_magic(path):
            matches = sorted(glob.glob(path, recursive=True))
            if matches:
                return [each for match in matches for each in self._match(match)]
            raise UserError(f"no file matches {path!r}")
        raise UserError(
            f"{path!r} not found; expected a video, a folder, a list, a pattern such as "
            "'clips/*.mp4', the number of a camera, or a URL"
        )

    def _match(self, path):
        """One of several matches of a pattern: if there is nothing in it, it costs itself."""
        try:
            return self.find(path)
        except UserError as error:
            return [_unreadable(path, str(error))]

    def _file(self, path):
        return Input(path, Record(0, path, 0, 0), self._files)

    def _frames(self, path):
        return Input(path, Record(0, path, 0, 0), self._folders)

    def _video(self, path):
        return self._frames(path) if os.path.isdir(path) else self._file(path)

    def _folder(self, path):
        if records.is_records(path):
            return self._records(path)
        found = search(path)
        if not found.videos:
            # `search` doesn't take the folder that it is given for a video itself.
            if any(is_image(name) for name in found.others if not os.path.dirname(name)):
                return [self._frames(path)]
            others = (
                f", only {len(found.others):,} other files" if found.others else ", it is empty"
            )
            raise UserError(f"there are no videos in {path}{others}")
        unreadable = [
            _unreadable(os.path.join(path, name), f"{os.path.join(path, name)} {reason}")
            for name, reason in (*found.closed, *((p, r) for p, r in found.broken if is_video(p)))
        ]
        return [self._video(os.path.join(path, name)) for name in found.videos] + unreadable

    def _records(self, path):
        source = records.VideoRecords(path, **self._options)
        return [
            Input(record.path, record, source)
            for split in source.splits
            for record in source.videos(
                split, num_classes=_NO_LABELS, multi_label=self._multi_label
            )
        ]

    def _list(self, path):
        folder = os.path.dirname(path)
        places = folders_of_list(os.path.basename(path))
        resolver = PathResolver(folder or ".", places)
        table = table_rows.read_rows(path, resolver, multi_label=True)
        known = table_rows.known_columns(table.header) if table.header else {}
        column = known.get("path", table.path_column)
        rows = table.rows
        if rows and table_rows.normalized(rows[0].text) in table_rows.HEADERS["path"]:
            rows = rows[1:]
        if not rows:
            raise UserError(f"{path} is empty; expected a video per line")
        times, frames = _time_columns(path, table), frame_columns(table)
        found: list[Input] = []
        numbers: dict[int, tuple] = {}  # the row and its numbers, of the folders in `found`
        for row in rows:
            name = _name_in(row, column, table.header is not None, resolver)
            try:
                if not name:
                    raise ValueError("names no video")
                if is_url(name) and not is_file_url(name):
                    raise ValueError("is a URL; give URLs on the command line")
                place = os.path.join(folder, resolver.resolve(name))
                if not os.path.lexists(place):
                    problem = _missing(path, row, folder or ".", places)
                    found.append(_unreadable(place, problem))
                    continue
                video = self._video(place)
                found.append(_part_of(video, row, times))
                if video.source is self._folders and found[-1] is video:
                    numbers[len(found) - 1] = row, numbers_in(row, name, table, frames)
            except ValueError as error:
                found.append(_wrong(path, row, error))
        self._take_frames(path, found, numbers, has_columns=bool(frames))
        return found

    def _take_frames(self, path, found, numbers, *, has_columns):
        """Let folders in `found` be the parts that the numbers in their rows name."""
        rows = [(found[index].record.path, each) for index, (_, each) in numbers.items()]
        listed = have_offsets(rows)
        for index, (row, each) in numbers.items():
            video = found[index]
            try:
                is_part = has_columns or (listed and len(each) > 2)
                record = with_frames(video.record, each, with_offset=is_part)
                name = record.named() if is_part else video.name
                found[index] = dataclasses.replace(video, name=name, record=record)
            except ValueError as error:
                found[index] = _wrong(path, row, error)


def _wrong(path, row, error):
    """What can't be read because its row of a list is wrong."""
    return _unreadable(f"{path}: {row.place}", _about(path, row, error))


def _about(path, row, what):
    return f"{row.place} of {path}, {masked(row.text.strip())!r}, {what}"


def _missing(path, row, folder, places):
    """Message about a row of a list whose video doesn't exist."""
    below = ", ".join(os.path.join(folder, place) for place in places)
    return _about(
        path,
        row,
        f"names no file or folder in {folder}, {below}; expected a path from there, or an absolute "
        "one",
    )


def _name_in(row, column, has_header, resolver):
    """The video that a row of a list names, or ""."""
    text = row.text.strip()
    cell = row.cells[column] if column < len(row.cells) else ""
    cell = cell.strip() if isinstance(cell, str) else ""
    if has_header:
        return cell
    # A line without a class is a path, which may have spaces.
    if not cell or resolver.exists(text):
        return text
    return text if is_video(text) and not (is_video(cell) or resolver.exists(cell)) else cell


def _time_columns(path, table):
    """`{"start": index, "end": index}` of the columns of parts, if there are any."""
    names = [table_rows.normalized(name) for name in table.header or ()]
    found = time_columns(names) or table.times
    others = [name for name in names if is_time(name)]
    if others and not found:
        raise UserError(
            f"{path} has columns with times, {', '.join(others)}, but not start and end of parts "
            "in seconds; call these start and end, or remove the others to predict whole videos"
        )
    return found


def _part_of(video, row, times):
    """The part of an `Input` that a row names, or all of it.

    Raises:
        ValueError: the times are none.
    """
    texts = [row.cells[i].strip() if i < len(row.cells) else "" for i in times.values()]
    if not any(texts):
        return video
    start, end = map(parse_seconds, texts)
    if not is_interval(start, end):
        raise ValueError(f"has the part from {start:g} to {end:g} s; expected 0 <= start < end")
    record = dataclasses.replace(video.record, start=start, end=end)
    return dataclasses.replace(video, name=record.named(), record=record)


def _unreadable(name, problem):
    return Input(name, Record(0, name, 0, 0), problem=problem)
