"""Splits of custom videos: a rule under which adding videos moves no other video.

A video without a given split goes to validation if the hash of seed and path, as a number in
[0, 1), is below the validation share, and to training otherwise. Other videos and their order do
not matter, nor do the place of the folder and the extension: a video keeps its split when it is
extracted into a folder of frames. For groups, such as persons, the name of the group is hashed
instead of the path.

With that rule alone, a small class may lack videos in one split, or have most of them in
validation. So a class of two or more has at least one video in both, and at most half of them, or
twice the share, in validation: the smallest hashes go to validation first, and the largest to
training. This choice alone depends on other videos, so the lists of an earlier preparation take
precedence: their videos keep their splits, whatever is added, removed or reordered.

A single film with parts is divided by time, see `film_split`.
"""

import collections
import dataclasses
import hashlib
import os
import re

from trn_jax.data.annotations import read_lines
from trn_jax.data.datasets import Dataset
from trn_jax.errors import UserError, listed
from trn_jax.prepare.examples import SPLIT_NAMES, Example
from trn_jax.prepare.film_split import FilmDivision, divide_film

# Names of the lists of a data set.
LIST_FILES = {split: getattr(Dataset(), f"{split}_list") for split in SPLIT_NAMES}


@dataclasses.dataclass
class Division:
    """The examples of each split, and notes for the summary.

    Attributes:
        examples: `{"train": [Example, ...], "val": ..., "test": ...}`, sorted by path.
        validation_from_train: whether the source has a training split, but none for validation.
        kept: number of videos in the split of the earlier lists.
        moved: videos whose split in the source differs from the earlier lists.
        torn: groups that the source has in several splits.
        film: how the parts of a single film were divided; `None` otherwise.
    """

    examples: dict[str, list[Example]]
    validation_from_train: bool = False
    kept: int = 0
    moved: list[str] = dataclasses.field(default_factory=list)
    torn: list[str] = dataclasses.field(default_factory=list)
    film: FilmDivision | None = None

    def without(self, split):
        """The classes that have no video in a split."""
        classes = {label for part in self.examples.values() for e in part for label in e.labels}
        return sorted(classes - {label for e in self.examples[split] for label in e.labels})


@dataclasses.dataclass
class _Unit:
    """Videos that stay together: those of a group, or a single one, each with all of its parts."""

    number: float  # in [0, 1), from the hash
    examples: list[Example]
    split: str = ""
    fixed: bool = False  # by the source or by earlier lists

    @property
    def labels(self):
        return {label for example in self.examples for label in example.labels}


def divide(examples, *, val_share, seed, earlier=None):
    """Divide examples into splits.

    Args:
        examples: `Example`s; those with a split keep it. If there are none for validation, a share
            of the training videos is used.
        val_share: share of validation.
        seed: of the hash.
        earlier: `{Example.key: split}` of earlier lists, see `read_earlier`.

    Returns:
        A `Division`.

    Raises:
        UserError: a split would be empty, or earlier lists have a group in several splits.
    """
    sources = {example.split for example in examples}
    division = Division({split: [] for split in SPLIT_NAMES})
    division.validation_from_train = "train" in sources and "val" not in sources
    if _is_film(examples) and (film := divide_film(examples, val_share=val_share)):
        division.film = film
        division.examples |= {"train": _in_order(film.train), "val": _in_order(film.val)}
        return division
    given = {example: _given(example, sources) for example in examples}
    units: dict[str, _Unit] = {}
    for example in examples:
        name = example.group or example.key
        units.setdefault(name, _Unit(_number(seed, name), [])).examples.append(example)
    _fix(units, given, division, earlier or {})
    for unit in units.values():
        unit.split = unit.split or ("val" if unit.number < val_share else "train")
    if "val" not in sources:
        _balance(units.values(), val_share)
    for unit in units.values():
        for example in unit.examples:
            division.examples[given[example] or unit.split].append(example)
    for split, found in division.examples.items():
        division.examples[split] = _in_order(found)
    for split in ("train", "val"):
        if not division.examples[split]:
            raise UserError(
                f"there are no videos for {split}; each class needs at least two (parts of one "
                "video stay in one split, unless it is the only one and has parts for both)"
            )
    return division


def _is_film(examples):
    """Whether they are parts of a single video, none of which the source has in a split."""
    return (
        len({example.key for example in examples}) == 1
        and len(examples) > 1
        and all(example.part and not example.split for example in examples)
    )


def _in_order(examples):
    return sorted(examples, key=lambda e: (e.path, (e.part,) if e.part else ()))


def _given(example, sources):
    """The split given by the source, or ""."""
    if example.split == "train" and "val" not in sources:
        return ""  # validation is taken from these
    # If only validation videos are marked, the others are for training.
    rest = "train" if "val" in sources and "train" not in sources else ""
    return example.split or rest


def _number(seed, name):
    digest = hashlib.sha256(f"trn_jax split|{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _fix(units, given, division, earlier):
    """Set the splits of units from the source, or else from earlier lists."""
    torn, kept = [], set()
    moved: dict[str, None] = {}
    for name, unit in units.items():
        chosen = {given[example] for example in unit.examples} - {""}
        before = {earlier[e.key] for e in unit.examples if not given[e] and e.key in earlier}
        if len(chosen) > 1:
            division.torn.append(name)
        if len(before) > 1:
            torn.append(f"{name}: {', '.join(sorted(before))}")
        unit.split = next((s for s in reversed(SPLIT_NAMES) if s in (chosen or before)), "")
        unit.fixed = bool(unit.split)
        for example in unit.examples:
            old, new = earlier.get(example.key, ""), given[example] or unit.split
            if old == new != "":
                kept.add(example.key)
            if old and old != new:
                moved[example.path] = None
    division.kept, division.moved = len(kept), list(moved)
    if torn:
        raise UserError(
            f"the earlier lists have {len(torn)} groups in several splits; remove "
            f"{', '.join(LIST_FILES.values())} to divide all videos anew, or leave out "
            f"--group-by:{listed(sorted(torn))}"
        )


def _balance(units, val_share):
    """Give each class a unit in both splits and not too many in validation, where possible."""
    units = list(units)
    classes = collections.defaultdict(list)
    for unit in sorted(units, key=lambda unit: unit.number):
        if unit.split != "test":
            for label in unit.labels:
                classes[label].append(unit)

    num = collections.Counter((name, u.split) for name in classes for u in classes[name])

    def assign(unit, split):
        num.subtract((label, unit.split) for label in unit.labels)
        num.update((label, split) for label in unit.labels)
        unit.split = split

    def move(members, source, target):
        """Move the first movable unit; returns whether there is one."""
        for unit in members:
            movable = unit.split == source and not unit.fixed
            if movable and all(num[label, source] > 1 for label in unit.labels):
                assign(unit, target)
                return True
        return False

    for label, members in sorted(classes.items()):
        if not num[label, "val"]:
            move(members, "train", "val")
        most = max(int(2 * val_share * len(members)), len(members) // 2, 1)
        while num[label, "val"] > most or not num[label, "train"]:
            if not move(reversed(members), "val", "train"):
                break
        if len(members) == 1 and not members[0].fixed:
            assign(members[0], "train")
    if not any(unit.split == "val" for unit in units):
        # Videos with parts of many classes: the one whose classes training has elsewhere, mostly.
        movable = [u for u in units if u.split == "train" and not u.fixed]
        alone = {id(u): sum(num[label, "train"] == 1 for label in u.labels) for u in movable}
        movable = [u for u in movable if alone[id(u)] < len(u.labels)]
        if movable:
            min(movable, key=lambda u: (alone[id(u)], u.number)).split = "val"


def read_earlier(folder, keys):
    """Read the lists in the folder of a data set: `{Example.key: split}` of those in `keys`.

    A video in several lists was a single film, which was divided by time; it has no split.
    """
    keys = set(keys)
    found: dict[str, set[str]] = collections.defaultdict(set)
    for split, name in LIST_FILES.items():
        path = os.path.join(folder, name)
        if os.path.exists(path):
            for line in read_lines(path, "list of videos"):
                if key := _listed_key(line, keys):
                    found[key].add(split)
    return {key: split for key, (split, *others) in found.items() if not others}


def _listed_key(line, keys):
    """The longest beginning of a line that is in `keys` and has only numbers behind it."""
    path, _, number = line.strip().rpartition(" ")
    while path and re.fullmatch(r"\d+(\.\d+)?", number):
        if (key := Example(path, ()).key) in keys:
            return key
        path, _, number = path.rpartition(" ")
    return None
