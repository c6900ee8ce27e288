"""Which split a video belongs to: a rule under which adding videos moves no other.

A video without a given split goes to validation if the hash of its seed and its path, taken as a
number in [0, 1), is below the share of validation, and to training otherwise. Neither other videos
nor their order matter, nor where the folder lies, nor the extension: a video stays where it was
when it is extracted into a folder of frames. With groups, such as persons, the name of the group
is hashed in place of the path.

By that rule alone a small class may have no video in one of the two splits, or most of them in
validation. So a class of two or more has at least one video in both, and at most half of them, or
twice the share, in validation: the smallest hashes go to validation first, and the largest to
training. This is the one choice that depends on other videos, so the lists of an earlier
preparation come first: what they have stays in its split, whatever is added, removed or listed in
another order.
"""

import collections
import dataclasses
import hashlib
import os

from trn_jax.data.annotations import read_lines
from trn_jax.data.datasets import Dataset
from trn_jax.errors import UserError, listed
from trn_jax.prepare.examples import SPLIT_NAMES, Example

# What the lists of a data set are called.
LIST_FILES = {split: getattr(Dataset(), f"{split}_list") for split in SPLIT_NAMES}


@dataclasses.dataclass
class Division:
    """The items of each split, and what to report about them.

    Attributes:
        items: `{"train": [Example, ...], "val": ..., "test": ...}`, each in the order of paths.
        validation_from_train: whether the source has a training split, but none for validation.
        kept: number of videos that earlier lists have, and that stayed where they were.
        moved: videos that the source now gives another split than the earlier lists.
        torn: groups that the source itself puts into several splits.
    """

    items: dict[str, list[Example]]
    validation_from_train: bool = False
    kept: int = 0
    moved: list[str] = dataclasses.field(default_factory=list)
    torn: list[str] = dataclasses.field(default_factory=list)

    def without(self, split):
        """The classes that have no video in a split."""
        classes = {label for items in self.items.values() for i in items for label in i.labels}
        return sorted(classes - {label for i in self.items[split] for label in i.labels})


@dataclasses.dataclass
class _Unit:
    """Videos that stay together: those of a group, or a single one."""

    number: float  # in [0, 1), from the hash
    items: list[Example]
    split: str = ""
    fixed: bool = False  # given by the source or by earlier lists

    @property
    def labels(self):
        return {label for item in self.items for label in item.labels}


def divide(items, *, val_share, seed, earlier=None):
    """Divide items over the splits.

    Args:
        items: `Example`s; those with a split keep it. If none is for validation, a share of the
            training videos is.
        val_share: share of validation.
        seed: of the hash.
        earlier: `{Example.key: split}` of earlier lists, see `read_earlier`.

    Returns:
        A `Division`.

    Raises:
        UserError: a split would be empty, or earlier lists tear the videos of a group apart.
    """
    sources = {item.split for item in items}
    division = Division({split: [] for split in SPLIT_NAMES})
    division.validation_from_train = "train" in sources and "val" not in sources
    given = {item: _given(item, sources) for item in items}
    units: dict[str, _Unit] = {}
    for item in items:
        name = item.group or item.key
        units.setdefault(name, _Unit(_number(seed, name), [])).items.append(item)
    _fix(units, given, division, earlier or {})
    for unit in units.values():
        unit.split = unit.split or ("val" if unit.number < val_share else "train")
    if "val" not in sources:
        _balance(units.values(), val_share)
    for unit in units.values():
        for item in unit.items:
            division.items[given[item] or unit.split].append(item)
    for found in division.items.values():
        found.sort(key=lambda item: item.path)
    for split in ("train", "val"):
        if not division.items[split]:
            raise UserError(f"there are no videos for {split}; each class needs at least two")
    return division


def _given(item, sources):
    """The split that an item keeps whatever its hash is, or ""."""
    if item.split == "train" and "val" not in sources:
        return ""  # validation is taken from these
    # Who marks the validation videos only means the others to be for training.
    rest = "train" if "val" in sources and "train" not in sources else ""
    return item.split or rest


def _number(seed, name):
    digest = hashlib.sha256(f"trn_jax split|{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _fix(units, given, division, earlier):
    """Decide on units by what is given, or else by the earlier lists."""
    torn = []
    for name, unit in units.items():
        chosen = {given[item] for item in unit.items} - {""}
        before = {earlier[i.key] for i in unit.items if not given[i] and i.key in earlier}
        if len(chosen) > 1:
            division.torn.append(name)
        if len(before) > 1:
            torn.append(f"{name}: {', '.join(sorted(before))}")
        unit.split = next((s for s in reversed(SPLIT_NAMES) if s in (chosen or before)), "")
        unit.fixed = bool(unit.split)
        for item in unit.items:
            old, new = earlier.get(item.key, ""), given[item] or unit.split
            division.kept += old == new != ""
            if old and old != new:
                division.moved.append(item.path)
    if torn:
        raise UserError(
            f"{len(torn)} groups are in several splits by the earlier lists, which keep videos "
            f"where they are; remove {', '.join(LIST_FILES.values())} to divide all videos anew, "
            f"or leave out --group-by:{listed(sorted(torn))}"
        )


def _balance(units, val_share):
    """Give each class one unit in both splits and not too many for validation, where possible."""
    classes = collections.defaultdict(list)
    for unit in sorted(units, key=lambda unit: unit.number):
        if unit.split != "test":
            for label in unit.labels:
                classes[label].append(unit)

    def count(label, split):
        return sum(unit.split == split for unit in classes[label])

    def move(members, source, target):
        """Move the first unit that can be moved, and return whether there was one."""
        for unit in members:
            movable = unit.split == source and not unit.fixed
            if movable and all(count(label, source) > 1 for label in unit.labels):
                unit.split = target
                return True
        return False

    for label, members in sorted(classes.items()):
        if not count(label, "val"):
            move(members, "train", "val")
        most = max(int(2 * val_share * len(members)), len(members) // 2, 1)
        while count(label, "val") > most or not count(label, "train"):
            if not move(reversed(members), "val", "train"):
                break
        if len(members) == 1 and not members[0].fixed:
            members[0].split = "train"


def read_earlier(folder, keys):
    """The splits of earlier lists in the folder of a data set.

    Args:
        folder: the folder.
        keys: `Example.key`s of the videos that are divided now.

    Returns:
        `{key: split}` of those of `keys` that the lists have.
    """
    keys = set(keys)
    found: dict[str, str] = {}
    for split, name in LIST_FILES.items():
        path = os.path.join(folder, name)
        if os.path.exists(path):
            for line in read_lines(path, "list of videos"):
                if key := _listed_key(line, keys):
                    found[key] = split
    return found


def _listed_key(line, keys):
    """The longest beginning of a line that is one of `keys`; behind it there are only numbers."""
    path, _, number = line.strip().rpartition(" ")
    while path and number.isdecimal():
        if (key := Example(path, ()).key) in keys:
            return key
        path, _, number = path.rpartition(" ")
    return None
