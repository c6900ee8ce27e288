"""Checks a data set: missing, broken, duplicate or mislabelled videos."""

import collections
import dataclasses
import hashlib
import os
import statistics
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import tqdm

from trn_jax.data import annotations
from trn_jax.data.decode import FrameError, FrameFolders, read_video
from trn_jax.errors import UserError, escaped
from trn_jax.files import write_text

_SAMPLE = 1 << 16  # bytes from the start, the middle and the end of a video file that are hashed
_CALLED = {"val": "validation", "test": "test"}
_SHOWN = 3
_BAR = 24


@dataclasses.dataclass(frozen=True)
class Looked:
    """What looking at one line of a list told.

    Attributes:
        number: of the line, from 1.
        line: the line.
        record: its `Record`, or `None` if it is malformed.
        problems: what is wrong, for people.
        notes: what is unusual about a video that can be used all the same.
        num_frames: of the video, 0 if it cannot be read.
        size: height and width in pixels, `None` if no frame can be read.
        content: a hash of the content, "" if it cannot be read.
    """

    number: int
    line: str
    record: annotations.Record | None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    num_frames: int = 0
    size: tuple[int, int] | None = None
    content: str = ""


@dataclasses.dataclass
class Findings:
    """Everything that was found.

    Attributes:
        lists: `{"train": [Looked, ...], "val": [...]}`.
        class_problems: what is wrong with the classes.
        num_segments: frames of a clip; videos with fewer are counted.
    """

    lists: dict[str, list[Looked]]
    class_problems: list[str]
    num_segments: int = 0

    @property
    def num_problems(self):
        """Lines that should not be used, and problems with classes."""
        lines = (bool(looked.problems) for found in self.lists.values() for looked in found)
        return sum(lines) + len(self.class_problems)

    def write(self, folder):
        """Write the lines to use, `<list>_list.txt`, and the others, `<list>_quarantine.txt`."""
        os.makedirs(folder, exist_ok=True)
        for name, found in self.lists.items():
            good = [looked.line for looked in found if not looked.problems]
            bad = [
                f"{looked.line}\t# {'; '.join(looked.problems)}"
                for looked in found
                if looked.problems
            ]
            for kind, lines in (("list", good), ("quarantine", bad)):
                text = "".join(f"{line}\n" for line in lines)
                write_text(os.path.join(folder, f"{name}_{kind}.txt"), text)

    def __str__(self):
        """One screen: counts, problems by kind with examples, lengths and sizes."""
        parts = []
        for name, found in self.lists.items():
            bad = [looked for looked in found if looked.problems]
            parts.append(f"{name}: {len(found):,} videos, {len(bad):,} with problems")
            parts += [f"  line {x.number}: {'; '.join(x.problems)}" for x in bad[:_SHOWN]]
            if len(bad) > _SHOWN:
                parts.append("  ...")
            notes = [f"  line {x.number}: {note}" for x in found for note in x.notes]
            if notes:
                parts.append(
                    f"{name}: {len(notes):,} notes on videos that can be used all the same"
                )
                parts += [*notes[:_SHOWN], *(["  ..."] if len(notes) > _SHOWN else [])]
        parts += [f"classes: {problem}" for problem in self.class_problems]
        parts += [self._short(name, found) for name, found in self.lists.items()]
        everything = [looked for found in self.lists.values() for looked in found]
        parts.append(_histogram("frames", [x.num_frames for x in everything if x.num_frames]))
        parts.append(_sizes([x.size for x in everything if x.size]))
        return escaped("\n".join(part for part in parts if part), keep="\n")

    def to_dict(self):
        """The same for programs, with all problems: what `json.dumps` takes."""
        lists = {
            name: {
                "videos": len(found),
                "problems": [
                    {"line": x.number, "text": x.line, "problems": list(x.problems)}
                    for x in found
                    if x.problems
                ],
                "notes": [
                    {"line": x.number, "text": x.line, "notes": list(x.notes)}
                    for x in found
                    if x.notes
                ],
                "shorter_than_a_clip": sum(0 < x.num_frames < self.num_segments for x in found),
            }
            for name, found in self.lists.items()
        }
        return {"lists": lists, "classes": list(self.class_problems)}

    def _short(self, name, found):
        """A line on videos with fewer frames than a clip, or ""."""
        short = [looked for looked in found if 0 < looked.num_frames < self.num_segments]
        if not short:
            return ""
        return (
            f"{name}: {len(short):,} videos have fewer frames than the {self.num_segments} of a "
            f"clip, so that some are repeated (line {short[0].number} has {short[0].num_frames})"
        )


def check(
    lists, source, *, class_names, multi_label=False, deep=False, num_threads=4, num_segments=0
):
    """Look through all videos of the lists of a data set.

    Args:
        lists: `{"train": (path of the list, folder of its videos), "val": ..., "test": ...}`.
        source: where videos are read, such as `decode.FrameFolders`.
        class_names: in the order of the labels.
        multi_label: whether videos have several labels each.
        deep: decode all frames, not only the first, the middle and the last one.
        num_threads: threads that decode.
        num_segments: frames of a clip; videos with fewer are counted, which is no problem.

    Returns:
        `Findings`.

    Raises:
        UserError: a list cannot be read at all.
    """
    found: dict[str, list[Looked]] = {}
    for name, (path, root) in lists.items():
        lines = annotations.numbered_lines(path, root)
        if not lines:
            raise UserError(f"{path} is empty; there is nothing to look at")
        look = partial(
            _look,
            source=source,
            deep=deep,
            frames_root=root,
            num_classes=len(class_names),
            multi_label=multi_label,
        )
        with ThreadPoolExecutor(num_threads, "check") as pool:
            looked = pool.map(look, lines)
            found[name] = list(tqdm.tqdm(looked, name, len(lines), unit=" videos", disable=None))
    _mark_repetitions(found)
    problems = list(_class_problems(found, class_names, multi_label))
    return Findings(found, problems, num_segments)


# One video ---------------------------------------------------------------------------------------


def _look(numbered_line, *, source, deep, **options):
    number, line = numbered_line
    record, problems = annotations.parse_line(line, index=0, **options)
    looked = Looked(number, line.strip(), record, tuple(problems))
    if record is None or record.num_frames < 0:
        return looked
    try:
        if isinstance(source, FrameFolders):
            problems += _folder_problems(source, record)
        decode = partial(_decode, deep)
        num_frames, size, notes = read_video(partial(source.open, record), decode)
        looked = dataclasses.replace(looked, num_frames=num_frames, size=size, notes=notes)
        if not problems:
            looked = dataclasses.replace(looked, content=_content(source, record))
    except FrameError as error:
        problems.append(str(error))
    return dataclasses.replace(looked, problems=tuple(dict.fromkeys(problems)))


def _decode(deep, video):
    """Decode some or all frames: their number, their size and what is unusual."""
    last = video.num_frames - 1
    size = None
    for _, frame in video.frames(range(last + 1) if deep else {0, last // 2, last}):
        size = size or frame.shape[:2]
    return video.num_frames, size, video.notes


def _folder_problems(source, record):
    """Frames that are missing, or more than the list knows of."""
    source.check(record)
    there = set(os.listdir(record.path))
    numbers = range(source.first_frame, source.first_frame + record.num_frames)
    missing = [name for name in map(source.pattern.format, numbers) if name not in there]
    if missing:
        return [f"{len(missing)} frames are missing in {record.path}, such as {missing[0]!r}"]
    end = os.path.splitext(source.pattern)[1]
    images = sum(name.endswith(end) for name in there)
    if images > record.num_frames:
        return [f"{record.path} has {images} frames, but the list says {record.num_frames}"]
    return []


def _content(source, record):
    """A hash that the same video has under another name, and hardly any other."""
    digest = hashlib.sha256()
    if isinstance(source, FrameFolders):
        last = record.num_frames - 1
        for index in (0, last // 2, last):
            name = source.pattern.format(index + source.first_frame)
            with open(os.path.join(record.path, name), "rb") as file:
                digest.update(file.read())
        digest.update(str(record.num_frames).encode())
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
    """Mark lines whose video comes twice in a list, or is also in a list that is evaluated.

    Of two lists, the line of the one that is used earlier is marked: training before validation,
    validation before test.
    """
    for looked in found.values():
        first: dict[str, str] = {}
        for index, each in enumerate(looked):
            if each.record is None:
                continue
            key = each.content or each.record.path
            if key in first:
                _mark(looked, index, f"the same video as {first[key]} of the same list")
            first.setdefault(key, each.record.path)
    for name, other in (("train", "val"), ("train", "test"), ("val", "test")):
        evaluated = {x.content: x.record.path for x in found.get(other, []) if x.content}
        for index, each in enumerate(found.get(name, [])):
            if same := evaluated.get(each.content):
                _mark(found[name], index, f"the same video as {same} in the {_CALLED[other]} list")


def _mark(looked, index, problem):
    each = looked[index]
    looked[index] = dataclasses.replace(each, problems=(*each.problems, problem))


def _class_problems(found, class_names, multi_label):
    repeated = [name for name, count in collections.Counter(class_names).items() if count > 1]
    if repeated:
        yield f"{_named(repeated)} named twice"
    counts: dict[str, collections.Counter] = {name: collections.Counter() for name in found}
    for name, looked in found.items():
        for each in looked:
            if each.record is not None and not each.problems:
                label = each.record.label
                counts[name].update(label if multi_label else [label])
    for name, count in counts.items():
        empty = [class_names[label] for label in range(len(class_names)) if not count[label]]
        if empty:
            yield f"{_named(empty)} without a video that can be used in the {name} list"


def _named(names):
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more


def _histogram(what, values, num_bins=5):
    if not values:
        return ""
    low, high = min(values), max(values)
    width = max((high - low) // num_bins + 1, 1)
    counts = collections.Counter((value - low) // width for value in values)
    lines = [f"{what}: {low} to {high}, median {statistics.median_low(values)}"]
    for index in range((high - low) // width + 1):
        start = low + index * width
        bar = "#" * round(_BAR * counts[index] / len(values))
        lines.append(f"  {start:6} to {start + width - 1:6}  {counts[index]:8,} {bar}")
    return "\n".join(lines)


def _sizes(sizes):
    if not sizes:
        return ""
    common = collections.Counter(sizes).most_common(_SHOWN)
    shown = ", ".join(f"{width}x{height} ({count:,})" for (height, width), count in common)
    return f"sizes: {len(set(sizes))}, most often {shown}"
