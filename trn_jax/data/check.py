"""Checks a data set: missing, broken, duplicate or mislabelled videos."""

import bisect
import collections
import dataclasses
import hashlib
import itertools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import tqdm

from trn_jax.data import annotations
from trn_jax.data.decode import FrameError, read_video
from trn_jax.data.findings import MAX_SHOWN, CheckedLine, Findings
from trn_jax.data.frame_folders import FrameFolders
from trn_jax.data.parts import milliseconds
from trn_jax.errors import UserError

_SAMPLE = 1 << 16  # bytes from the start, the middle and the end of a video file that are hashed
_LIST_NAMES = {"train": "training", "val": "validation", "test": "test"}


def check(
    lists,
    source,
    *,
    class_names,
    multi_label=False,
    with_offset=False,
    deep=False,
    num_threads=4,
    num_segments=0,
):
    """Check all videos of the lists of a data set.

    Args:
        lists: `{"train": (path of the list, folder of its videos), "val": ..., "test": ...}`.
        source: where videos are read, such as `frame_folders.FrameFolders`.
        class_names: in the order of the labels.
        multi_label: videos have several labels each.
        with_offset: see `annotations.read_list`.
        deep: decode all frames, of parts only theirs, instead of the first, the middle and the
            last one.
        num_threads: threads that decode.
        num_segments: frames of a clip; shorter videos are counted, but not rejected.

    Returns:
        `Findings`.

    Raises:
        UserError: a list is missing, unreadable or empty.
    """
    found: dict[str, list[CheckedLine]] = {}
    for name, (path, root) in lists.items():
        lines = annotations.numbered_lines(path, root)
        if not lines:
            raise UserError(f"{path} is empty; expected a list of videos")
        check_line = partial(
            _check_line,
            source=source,
            deep=deep,
            frames_root=root,
            num_classes=len(class_names),
            multi_label=multi_label,
            with_offset=with_offset,
        )
        with ThreadPoolExecutor(num_threads, "check") as pool:
            checked = pool.map(check_line, lines)
            found[name] = list(tqdm.tqdm(checked, name, len(lines), unit=" videos", disable=None))
    _mark_repetitions(found)
    _note_overlaps(found)
    problems = list(_class_problems(found, class_names, multi_label))
    return Findings(found, problems, num_segments)


# One video ---------------------------------------------------------------------------------------


def _check_line(numbered_line, *, source, deep, **options):
    number, line = numbered_line
    record, problems = annotations.parse_line(line, index=0, **options)
    checked = CheckedLine(number, line.strip(), record, tuple(problems))
    if record is None or record.num_frames < 0:
        return checked
    try:
        if isinstance(source, FrameFolders):
            problems += _folder_problems(source, record)
        decode = partial(_decode, deep)
        num_frames, size, notes = read_video(partial(source.open, record), decode)
        checked = dataclasses.replace(checked, num_frames=num_frames, size=size, notes=notes)
        if not problems:
            checked = dataclasses.replace(checked, content=_content(source, record))
    except (FrameError, OSError) as error:
        problems.append(str(error))
    return dataclasses.replace(checked, problems=tuple(dict.fromkeys(problems)))


def _decode(deep, video):
    """Decode some or all frames: their number, size and notes."""
    last = video.num_frames - 1
    size = None
    for _, frame in video.frames(range(last + 1) if deep else {0, last // 2, last}):
        size = size or frame.shape[:2]
    return video.num_frames, size, video.notes


def _folder_problems(source, record):
    """Messages about missing frames, or more than the list has."""
    source.check(record)
    there = set(os.listdir(record.path))
    first = source.first_frame + (record.offset or 0)
    names = map(source.pattern.format, range(first, first + record.num_frames))
    missing = [name for name in names if name not in there]
    if missing:
        return [f"{len(missing)} frames are missing in {record.path}, such as {missing[0]!r}"]
    images = _images(source, there)
    if len(images) > record.num_frames and record.offset is None:
        return [f"{record.path} has {len(images)} frames, but the list says {record.num_frames}"]
    return []


def _images(source, names):
    """Those of the file names in a folder that end like frames, sorted."""
    end = os.path.splitext(source.pattern)[1]
    return sorted(name for name in names if name.endswith(end))


def _content(source, record):
    """A hash of parts of a video, whatever its name and whichever part of it the record is."""
    digest = hashlib.sha256()
    if isinstance(source, FrameFolders):
        names = _images(source, os.listdir(record.path))
        for name in (names[0], names[(len(names) - 1) // 2], names[-1]):
            with open(os.path.join(record.path, name), "rb") as file:
                digest.update(file.read())
        digest.update(str(len(names)).encode())
    else:
        size = os.path.getsize(record.path)
        with open(record.path, "rb") as file:
            for start in (0, size // 2, max(size - _SAMPLE, 0)):
                file.seek(start)
                digest.update(file.read(_SAMPLE))
        digest.update(str(size).encode())
    return digest.hexdigest()


# All of them -------------------------------------------------------------------------------------


def _mark_repetitions(found):
    """Mark videos that are twice in a list, or in two lists: in training, else in validation.

    Different parts of a video may be in one list; in two lists only if they are divided at one
    time, see `_mark_shared`.
    """
    for lines in found.values():
        first: dict[tuple, str] = {}
        for index, each in enumerate(lines):
            if each.record is None:
                continue
            key = each.content or each.record.path, _interval(each.record)
            if key in first:
                _mark(lines, index, f"the same video as {first[key]} of the same list")
            first.setdefault(key, each.record.named())
    for name, other in (("train", "val"), ("train", "test"), ("val", "test")):
        videos, evaluated = (_parts(found.get(each, [])) for each in (name, other))
        for content in videos.keys() & evaluated.keys():
            _mark_shared(found, (name, videos[content]), (other, evaluated[content]))


def _parts(lines):
    """`{content: [(start, end, index of the line), ...]}` of the usable videos, by time."""
    of_video = collections.defaultdict(list)
    for index, each in enumerate(lines):
        if each.content and not each.problems:
            of_video[each.content].append((*_interval(each.record), index))
    return {content: sorted(parts) for content, parts in of_video.items()}


def _mark_shared(found, listed, evaluated):
    """Mark the parts of a video that are not divided at one time from those in another list.

    The frames of a video resemble each other, the more so the closer they are. So all of its parts
    in one list must end before the first one in the other begins. If they are on both sides of
    that, those on the side with fewer of them are marked; and those in between always.

    Args:
        found: all lists.
        listed: name of a list, and the parts of the video in it, see `_parts`; these are marked.
        evaluated: the same of the other list.
    """
    (name, parts), (other, others) = listed, evaluated
    # For each of the others, which one of those until it ends last.
    last = list(itertools.accumulate(others, lambda *pair: max(pair, key=lambda part: part[1])))
    before = {index for _, end, index in parts if end <= others[0][0]}
    after = {index for start, _, index in parts if start >= last[-1][1]}
    usable = max(before, after, key=len)
    list_name = f"the {_LIST_NAMES[other]} list"
    for start, end, index in parts:
        if index in usable:
            continue
        num_begun = bisect.bisect_left(others, (end,))
        nearest = last[max(num_begun - 1, 0)]
        same = found[other][nearest[2]].record.named()
        if nearest[:2] == (start, end):
            problem = f"the same video as {same} in {list_name}"
        elif num_begun and nearest[1] > start:
            problem = f"overlaps {same} in {list_name}"
        else:
            problem = (
                f"the same video as {same} in {list_name}; its parts in one list must all end "
                "before those in the other begin"
            )
        _mark(found[name], index, problem)
    if usable:
        of = "another part is" if len(usable) == 1 else f"{len(usable):,} other parts are"
        note = (
            f"of the same video, {of} in the {_LIST_NAMES[name]} list, too, divided at one time: "
            "easier to classify than another video"
        )
        _note(found[other], others[0][2], note)


def _interval(record):
    """First and end of a part, in milliseconds or frames; of a whole video `(0, inf)`."""
    if record.start is not None:
        return milliseconds(record.start), milliseconds(record.end)
    if record.offset is not None:
        return record.offset, record.offset + record.num_frames
    return 0, math.inf


def _note_overlaps(found):
    """Note overlapping parts of a video with different labels in one list."""
    for lines in found.values():
        for (_, last, first), *parts in _parts(lines).values():
            longest = lines[first].record  # of the parts so far, the one that ends last
            for start, end, index in parts:
                record = lines[index].record
                if start < last and record.label != longest.label:
                    note = f"{record.named()} overlaps {longest.named()}, which has another label"
                    _note(lines, index, note)
                if end > last:
                    last, longest = end, record


def _mark(lines, index, problem):
    each = lines[index]
    lines[index] = dataclasses.replace(each, problems=(*each.problems, problem))


def _note(lines, index, note):
    each = lines[index]
    lines[index] = dataclasses.replace(each, notes=(*each.notes, note))


def _class_problems(found, class_names, multi_label):
    repeated = [name for name, count in collections.Counter(class_names).items() if count > 1]
    if repeated:
        yield f"{_named(repeated)} named twice"
    counts: dict[str, collections.Counter] = {name: collections.Counter() for name in found}
    for name, lines in found.items():
        for each in lines:
            if each.record is not None and not each.problems:
                label = each.record.label
                counts[name].update(label if multi_label else [label])
    for name, count in counts.items():
        empty = [class_names[label] for label in range(len(class_names)) if not count[label]]
        if empty:
            yield f"{_named(empty)} without a usable video in the {name} list"


def _named(names):
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(map(repr, names[:MAX_SHOWN])) + more
