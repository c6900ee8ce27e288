"""Writer of a prepared data set, with the summary that `trn-jax prepare` prints."""

import os
import shlex

from trn_jax.errors import UserError, escaped, listed
from trn_jax.files import write_bytes
from trn_jax.prepare.left_out import MISSING, UNREADABLE, printable, reason_lines
from trn_jax.prepare.training_command import Training, plan_training

_NUM_EXAMPLES = 3  # of what was left out


class DatasetWriter:
    """Writes the files of a data set; `str(writer)` is the summary.

    Attributes:
        to: folder of the data set.
        changed: whether anything was written.
        status: exit status: 1 if something unreadable was left out, else 0.
        naming: `frame_pattern` and `first_frame` where they differ from the data set's defaults.
        training: the `Training` that the lists are for; `None` before `then_train`.
        opened: `{folder: {video file: why it can't be read, or ""}}`.
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
        """Notes, what was left out, the files, and the next commands."""
        parts = list(self._notes)
        parts += self.left_out
        parts += [f"{self.to} has {', '.join(self._files)}"]
        if not self.changed:
            parts += ["nothing to do: all files are up to date"]
        parts += ["next:", *(f"  {command}" for command in self._commands)]
        return escaped("\n".join(parts), keep="\n")

    @property
    def left_out(self):
        """Lines on what was left out and why."""
        return [f"left out: {text}" for text in self._skipped]

    # Summary

    def note(self, text):
        """Add a line, such as a count."""
        self._notes.append(text)

    def note_all(self, what, names):
        """Add the number of names and the first ones, unless there are none."""
        if names:
            self.note(f"{len(names):,} {what}: {_first(names)}")

    def note_used(self, notes):
        """Add notes on unusual videos that stay in the data set, unless there are none."""
        if notes:
            shown = listed(list(map(printable, notes)))
            self.note(f"{len(notes):,} notes on videos that are kept:{shown}")

    def skip(self, reason, names, listed_in=""):
        """Add names that were left out, unless there are none; `listed_in` names a full list."""
        if names:
            more = len(names) > _NUM_EXAMPLES and listed_in
            where = f" (all in {os.path.join(self.to, listed_in)})" if more else ""
            self._skipped.append(f"{len(names):,} {reason}: {_first(names)}{where}")

    def lose(self, reason, names, listed_in=""):
        """As `skip`, for what should have been used: the exit status becomes 1."""
        self.skip(reason, names, listed_in)
        self.status = 1 if names else self.status

    def miss(self, what, videos):
        """Add missing videos, `{path in the data set: class}`."""
        self.skip(what, list(map(os.path.basename, videos)), MISSING)
        self._missing |= videos

    def cannot_read(self, what, videos):
        """Add unreadable videos, `{path: reason}`: the exit status becomes 1."""
        self.lose(what, [f"{path} ({videos[path]})" for path in sorted(videos)], UNREADABLE)
        self._unreadable |= videos

    # Files

    def list_left_out(self):
        """Write the videos of `miss` and `cannot_read` to `missing.txt` and `unreadable.txt`."""
        for name, videos in ((MISSING, self._missing), (UNREADABLE, self._unreadable)):
            if videos:
                self.write(name, reason_lines(dict(sorted(videos.items()))))
            else:
                self.remove(name)

    def has(self, name):
        """Add a file or folder of the data set to the summary."""
        if name not in self._files:
            self._files.append(name)

    def write(self, name, content):
        """Write a file, text or bytes, unless it has this content already."""
        self.has(name)
        content = content.encode() if isinstance(content, str) else content
        path = os.path.join(self.to, name)
        if _read(path) != content:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            write_bytes(path, content)
            self.changed = True

    def link(self, folder, name):
        """Link a folder into the data set under a name; a broken link of that name is replaced.

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
                f"cannot make {target} a link to {folder}: {error.strerror}; remove {target}, or "
                "choose another folder with --to"
            ) from None
        self.changed = True

    def remove(self, name):
        """Remove a file of an earlier preparation, if it exists."""
        path = os.path.join(self.to, name)
        if os.path.exists(path):
            os.remove(path)
            self.changed = True

    # Commands that come next

    def then(self, *words):
        """Add a command."""
        self._commands.append(shlex.join(words))

    def then_extract(self, videos, frames):
        """Add the command that extracts frames from videos, both folders of the data set."""
        videos, frames = (os.path.join(self.to, folder) for folder in (videos, frames))
        self.then("trn-jax", "extract", videos, f"--to={frames}")

    def then_prepare(self, dataset, archives):
        """Add the command that prepares this data set again."""
        self.then("trn-jax", "prepare", dataset, f"--archives={archives}", f"--to={self.to}")

    def then_train(self, recipe, dataset, written, **options):
        """Set `training`, see `plan_training`, and add its command unless others come first."""
        training = plan_training(recipe, dataset, written, naming=self.naming, **options)
        self.training = training
        if not self._commands:
            lists = (f"--config.data.{key}={value}" for key, value in training.lists.items())
            self.then(*training.command(self.to, *lists))


def _first(names):
    shown = ", ".join(map(printable, names[:_NUM_EXAMPLES]))
    return shown + (", ..." if len(names) > _NUM_EXAMPLES else "")


def _read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None
