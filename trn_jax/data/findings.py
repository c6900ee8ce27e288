"""Results of the check of a data set: as text on one screen, as lists, and as JSON."""

import collections
import dataclasses
import os
import statistics

from trn_jax.data.annotations import Record
from trn_jax.errors import escaped
from trn_jax.files import write_text

MAX_SHOWN = 3  # of what there may be thousands of
_BAR = 24


@dataclasses.dataclass(frozen=True)
class CheckedLine:
    """One line of a list and its video.

    Attributes:
        number: of the line, from 1.
        line: the line.
        record: its `Record`, or `None` if it is malformed.
        problems: messages; a video with problems is rejected.
        notes: messages about a usable video.
        num_frames: of the video, 0 if unreadable.
        size: height and width in pixels, `None` if unreadable.
        content: a hash of the content of the whole video, "" if unreadable.
    """

    number: int
    line: str
    record: Record | None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    num_frames: int = 0
    size: tuple[int, int] | None = None
    content: str = ""


@dataclasses.dataclass
class Findings:
    """Results of a check.

    Attributes:
        lists: `{"train": [CheckedLine, ...], "val": [...]}`.
        class_problems: messages about the classes.
        num_segments: frames of a clip; shorter videos are counted.
    """

    lists: dict[str, list[CheckedLine]]
    class_problems: list[str]
    num_segments: int = 0

    @property
    def num_problems(self):
        """Number of rejected lines and of problems with classes."""
        lines = (bool(each.problems) for found in self.lists.values() for each in found)
        return sum(lines) + len(self.class_problems)

    def write(self, folder):
        """Write usable lines to `<list>_list.txt` and the others to `<list>_quarantine.txt`."""
        os.makedirs(folder, exist_ok=True)
        for name, found in self.lists.items():
            good = [each.line for each in found if not each.problems]
            bad = [f"{each.line}\t# {'; '.join(each.problems)}" for each in found if each.problems]
            for kind, lines in (("list", good), ("quarantine", bad)):
                text = "".join(f"{line}\n" for line in lines)
                write_text(os.path.join(folder, f"{name}_{kind}.txt"), text)

    def __str__(self):
        """Counts, examples of problems, lengths and sizes, on one screen."""
        parts = []
        for name, found in self.lists.items():
            bad = [each for each in found if each.problems]
            parts.append(f"{name}: {len(found):,} videos, {len(bad):,} with problems")
            parts += [f"  line {x.number}: {'; '.join(x.problems)}" for x in bad[:MAX_SHOWN]]
            if len(bad) > MAX_SHOWN:
                parts.append("  ...")
            notes = [f"  line {x.number}: {note}" for x in found for note in x.notes]
            if notes:
                parts.append(f"{name}: {len(notes):,} notes on usable videos")
                parts += [*notes[:MAX_SHOWN], *(["  ..."] if len(notes) > MAX_SHOWN else [])]
        parts += [f"classes: {problem}" for problem in self.class_problems]
        parts += [self._describe_short(name, found) for name, found in self.lists.items()]
        everything = [each for found in self.lists.values() for each in found]
        parts.append(_histogram("frames", [x.num_frames for x in everything if x.num_frames]))
        parts.append(_sizes([x.size for x in everything if x.size]))
        return escaped("\n".join(part for part in parts if part), keep="\n")

    def to_dict(self):
        """All problems and notes, as JSON types."""

        def entries(found, kind):
            return [
                {"line": each.number, "text": each.line, kind: list(getattr(each, kind))}
                for each in found
                if getattr(each, kind)
            ]

        lists = {
            name: {
                "videos": len(found),
                "problems": entries(found, "problems"),
                "notes": entries(found, "notes"),
                "shorter_than_a_clip": len(self._short(found)),
            }
            for name, found in self.lists.items()
        }
        return {"lists": lists, "classes": list(self.class_problems)}

    def _short(self, found):
        return [each for each in found if 0 < each.num_frames < self.num_segments]

    def _describe_short(self, name, found):
        short = self._short(found)
        if not short:
            return ""
        return (
            f"{name}: {len(short):,} videos have fewer frames than the {self.num_segments} of a "
            f"clip, so some are repeated (line {short[0].number} has {short[0].num_frames})"
        )


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
    common = collections.Counter(sizes).most_common(MAX_SHOWN)
    shown = ", ".join(f"{width}x{height} ({count:,})" for (height, width), count in common)
    return f"sizes: {len(set(sizes))}, most often {shown}"
