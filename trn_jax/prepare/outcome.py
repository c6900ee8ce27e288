"""What a preparation wrote, counted and left out, for people."""

import os
import shlex

from trn_jax.data.datasets import DATASETS
from trn_jax.files import write_bytes

_NAMED = 3  # examples of what was left out


class Outcome:
    """Writes the files of a preparation and collects what there is to say about it.

    Args:
        to: folder of the data set.

    Attributes:
        to: the same.
        changed: whether anything on the disk is different now.
        naming: how frames are called, for fields of `datasets.Dataset`, if not as usual.
    """

    def __init__(self, to):
        self.to = to
        self.changed = False
        self.naming: dict[str, str | int] = {}
        self._notes: list[str] = []
        self._skipped: list[str] = []
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
        return "\n".join(parts)

    def note(self, text):
        """Add a line, such as a count."""
        self._notes.append(text)

    def skip(self, reason, names):
        """Add what was left out, unless that is nothing."""
        if names:
            more = ", ..." if len(names) > _NAMED else ""
            self._skipped.append(f"{len(names):,} {reason}: {', '.join(names[:_NAMED])}{more}")

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

    def then(self, *words):
        """Add a command that comes next."""
        self._commands.append(shlex.join(words))

    def then_extract(self, videos, frames):
        """Add the command that makes frames from videos, both folders of the data set."""
        videos, frames = (os.path.join(self.to, folder) for folder in (videos, frames))
        self.then("python", "scripts/extract_frames.py", videos, f"--to={frames}")

    def then_prepare(self, dataset, archives):
        """Add the command that prepares this data set once more."""
        self.then(
            "python",
            "scripts/prepare_data.py",
            dataset,
            f"--archives={archives}",
            f"--to={self.to}",
        )

    def then_train(self, recipe, dataset, written, *flags, num_classes, usual):
        """Add the command that trains a recipe on this data set.

        Args:
            recipe: name of a file in `configs/`.
            dataset: name in the catalogue of data sets, whose lists are taken if they were written.
            written: the `ListFiles` that were written.
            *flags: further ones.
            num_classes: how many classes were found.
            usual: how many classes the recipe is for.
        """
        catalogue = DATASETS[dataset]
        files = next((f for f in written if f.train == catalogue.train_list), written[0])
        lists = {"train_list": files.train, "val_list": files.val, "class_names": files.classes}
        others = [f"--config.data.{k}={v}" for k, v in lists.items() if v != getattr(catalogue, k)]
        if num_classes != usual:
            others.append(f"--config.model.num_classes={num_classes}")
        command = ["python", "-m", "trn_jax.main", f"--config=configs/{recipe}.py"]
        command += [f"--config.data_dir={self.to}", f"--workdir=runs/{recipe}"]
        self.then(*command, *flags, *others)


def _read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None
