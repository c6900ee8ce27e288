"""Summary of a preparation: files written, counts, and what was left out."""

import dataclasses
import os
import shlex

from trn_jax.data.datasets import DATASETS
from trn_jax.errors import UserError, escaped, listed
from trn_jax.files import write_bytes
from trn_jax.prepare.left_out import printable

MISSING = "missing.txt"
UNREADABLE = "unreadable.txt"
_NAMED = 3  # examples of what was left out


def train_command(recipe):
    """The words that the command begins with which trains a recipe of the package."""
    return ["trn-jax", "train", recipe]


@dataclasses.dataclass(frozen=True)
class Training:
    """A recipe, and the lists of a prepared data set that it is trained on.

    Attributes:
        recipe: name of a file in `configs/`.
        dataset: name in the catalogue of data sets.
        num_classes: how many classes were found.
        multi_label: whether videos have several labels.
        source: "frames" or "videos", what the lists name.
        lists: fields of `datasets.Dataset` that are not the catalogue's.
        flags: what the command needs besides these.
    """

    recipe: str
    dataset: str
    num_classes: int
    multi_label: bool
    source: str
    lists: dict[str, str | int]
    flags: tuple[str, ...]

    def command(self, data_dir, *flags):
        """The words of the command that trains on a folder, with further flags."""
        places = [f"--config.data_dir={data_dir}", f"--workdir=runs/{self.recipe}"]
        return [*train_command(self.recipe), *places, *flags, *self.flags]


class DatasetWriter:
    """Writes the files of a preparation and collects what there is to say about it.

    Args:
        to: folder of the data set.

    Attributes:
        to: the same.
        changed: whether anything on the disk is different now.
        status: exit status: 1 if something was left out that should have been used, else 0.
        naming: how frames are called, for fields of `datasets.Dataset`, if not as usual.
        training: what is trained on the lists, a `Training`; `None` until that is known.
        opened: `{folder: {video file: why it can't be read, or ""}}` of those that were opened.
    """

    def __init__(self, to):
        self.to = to
        self.changed = False
        self.status = 0
        self.naming: dict[str, str | int] = {}
        self.training: Training | None = None
        self.opened: dict[str, dict[str, str]] = {}
        self._notes: list[str] = []
        self._skipped: list[str] = []
        self._missing: dict[str, str] = {}
        self._unreadable: dict[str, str] = {}
        self._files: list[str] = []
        self._commands: list[str] = []

    def __str__(self):
        """All of it, in the order: counts, what was left out, where things lie, what is next."""
        parts = list(self._notes)
        parts += [f"left out: {text}" for text in self._skipped]
        parts += [f"{self.to} has {', '.join(self._files)}"]
        if not self.changed:
            parts += ["nothing to do: all of this was there already"]
        parts += ["next:", *(f"  {command}" for command in self._commands)]
        return escaped("\n".join(parts), keep="\n")

    def note(self, text):
        """Add a line, such as a count."""
        self._notes.append(text)

    def note_all(self, what, names):
        """Add how many there are of something and the first of them, unless there are none."""
        if names:
            shown = ", ".join(map(printable, names[:_NAMED]))
            self.note(f"{len(names):,} {what}: {shown}{', ...' if len(names) > _NAMED else ''}")

    def note_used(self, notes):
        """Add notes on unusual videos, unless there are none."""
        if notes:
            shown = listed(list(map(printable, notes)))
            self.note(f"{len(notes):,} notes on videos that are used all the same:{shown}")

    def skip(self, reason, names, listed_in=""):
        """Add what was left out, unless that is nothing; `listed_in` is a file that has it all."""
        if names:
            shown = ", ".join(map(printable, names[:_NAMED]))
            more = ", ..." if len(names) > _NAMED else ""
            where = f" (all in {os.path.join(self.to, listed_in)})" if more and listed_in else ""
            self._skipped.append(f"{len(names):,} {reason}: {shown}{more}{where}")

    def lose(self, reason, names, listed_in=""):
        """Add what should have been used, but can't be, as `skip`, and exit with 1 at the end."""
        self.skip(reason, names, listed_in)
        self.status = 1 if names else self.status

    def miss(self, what, videos):
        """Add videos that aren't there: `{path in the data set: class}`."""
        self.skip(what, list(map(os.path.basename, videos)), MISSING)
        self._missing |= videos

    def cannot_read(self, what, videos):
        """Add videos that can't be read, and exit with 1 at the end: `{path: reason}`."""
        self.lose(what, [f"{path} ({videos[path]})" for path in sorted(videos)], UNREADABLE)
        self._unreadable |= videos

    def list_left_out(self):
        """Write all that `miss` and `cannot_read` were told, a video per line, to two files."""
        for name, videos in ((MISSING, self._missing), (UNREADABLE, self._unreadable)):
            lines = [f"{printable(path)}\t{printable(videos[path])}\n" for path in sorted(videos)]
            if lines:
                self.write(name, "".join(lines))
            else:
                self.remove(name)

    def has(self, name):
        """Name a file or folder of the data set."""
        if name not in self._files:
            self._files.append(name)

    def write(self, name, content):
        """Write a file of the data set, text or bytes, unless it is there with this content."""
        self.has(name)
        content = content.encode() if isinstance(content, str) else content
        path = os.path.join(self.to, name)
        if _read(path) != content:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            write_bytes(path, content)
            self.changed = True

    def link(self, folder, name):
        """Make a folder appear in the data set under a name; a link that leads nowhere is replaced.

        Raises:
            UserError: there is something else of that name.
        """
        target = os.path.join(self.to, name)
        self.has(name)
        if os.path.isdir(target) and os.path.realpath(target) == os.path.realpath(folder):
            return
        try:
            os.makedirs(self.to, exist_ok=True)
            if os.path.islink(target) and not os.path.exists(target):
                os.remove(target)
            os.symlink(os.path.abspath(folder), target)
        except OSError as error:
            raise UserError(
                f"cannot make {target} a link to {folder}: {error.strerror}; remove what is there, "
                "or choose another folder with --to"
            ) from None
        self.changed = True

    def remove(self, name):
        """Remove a file of an earlier preparation that has nothing to tell any more."""
        path = os.path.join(self.to, name)
        if os.path.exists(path):
            os.remove(path)
            self.changed = True

    def then(self, *words):
        """Add a command that comes next."""
        self._commands.append(shlex.join(words))

    def then_extract(self, videos, frames):
        """Add the command that makes frames from videos, both folders of the data set."""
        videos, frames = (os.path.join(self.to, folder) for folder in (videos, frames))
        self.then("trn-jax", "extract", videos, f"--to={frames}")

    def then_prepare(self, dataset, archives):
        """Add the command that prepares this data set once more."""
        self.then("trn-jax", "prepare", dataset, f"--archives={archives}", f"--to={self.to}")

    def then_train(self, recipe, dataset, written, *, num_classes, usual, **options):
        """Add the command that trains a recipe on this data set; arguments as in `train_on`."""
        training = self.train_on(
            recipe, dataset, written, num_classes=num_classes, usual=usual, **options
        )
        lists = (f"--config.data.{key}={value}" for key, value in training.lists.items())
        self.then(*training.command(self.to, *lists))

    def train_on(
        self,
        recipe,
        dataset,
        written,
        *,
        num_classes,
        usual,
        name_dataset=False,
        multi_label=False,
        source="frames",
    ):
        """Say which recipe is trained on which lists, without a command for it.

        Args:
            recipe: name of a file in `configs/`.
            dataset: name in the catalogue of data sets, whose lists are taken if they were written.
            written: the `ListFiles` that were written.
            num_classes: how many classes were found.
            usual: how many classes the recipe is for.
            name_dataset: whether the recipe is for another data set.
            multi_label: whether videos have several labels.
            source: "frames" or "videos", what the lists name.

        Returns:
            The `Training`.
        """
        catalogue = dataclasses.asdict(DATASETS[dataset])
        if source == "videos":
            for key in ("train_list", "val_list"):
                catalogue[key] = catalogue[key].replace("rawframes", "videos")
        files = next((f for f in written if f.train == catalogue["train_list"]), written[0])
        lists: dict[str, str | int] = {
            "train_list": files.train,
            "val_list": files.val,
            "class_names": files.classes,
            **(self.naming if source == "frames" else {}),
        }
        flags = [f"--config.data.dataset={dataset}"] if name_dataset else []
        flags += ["--config.data.multi_label=True"] if multi_label else []
        flags += [f"--config.model.num_classes={num_classes}"] if num_classes != usual else []
        self.training = Training(
            recipe,
            dataset,
            num_classes,
            multi_label,
            source,
            {key: value for key, value in lists.items() if value != catalogue[key]},
            tuple(flags),
        )
        return self.training


def _read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None
