"""Paths in tables and lists, found on the disk."""

import functools
import os
import re
import unicodedata
import urllib.parse

from trn_jax.data.videos import is_video
from trn_jax.files import from_text

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_URL = re.compile(r"file:(//[^/]*(?=/))?", re.IGNORECASE)  # with its host, if any


def local_path(text):
    """The path that a `file://` URL names; other texts are paths as they are."""
    return next(_readings(text)) if text.lower().startswith("file://") else text


class PathResolver:
    r"""Finds videos below a folder.

    Besides plain paths, it finds Windows paths (`clips\a.mp4`), `file://` URLs, paths that begin
    with the name of the folder itself, names without extension if they are unique, names in another
    Unicode normal form or with escapes for bytes that are not UTF-8 (`caf\udce9.mp4`), and the ends
    of absolute paths of another machine.

    Args:
        root: the folder.
        folders: names of folders in it where paths may begin, too, the first one first.

    Attributes:
        num_foreign: number of absolute paths that were found by their ends.
    """

    def __init__(self, root, folders=()):
        self._root = os.path.abspath(root)
        self._folders = folders
        self._names = functools.cache(self._list_names)
        self.num_foreign = 0

    def resolve(self, text):
        """The path relative to the root, or absolute if elsewhere; unchanged if nothing exists."""
        for candidate in _readings(text):
            if found := self._find_anywhere(candidate):
                return found
        *_, path = _readings(text)
        if os.path.isabs(path) or _DRIVE.match(path):
            parts = path.split("/")
            for start in range(1, len(parts)):
                if found := self._find("/".join(parts[start:])):
                    self.num_foreign += 1
                    return found
        return self._relative(path)

    def exists(self, text):
        """Whether a text names a file or folder."""
        return bool(text.strip()) and any(map(self._find_anywhere, _readings(text)))

    def num_files(self, text):
        """Number of files in the folder that a path names, or `None`."""
        found = next(filter(None, map(self._find_anywhere, _readings(text))), None)
        folder = os.path.join(self._root, found or "")
        return len(os.listdir(folder)) if found and os.path.isdir(folder) else None

    def _find_anywhere(self, path):
        """The existing path, below the root or below one of the folders."""
        below = [f"{folder}/{self._relative(path)}" for folder in self._folders if path]
        # A folder of frames may be called like a video without its extension, so what has just
        # this name comes first.
        literal = (each for each in (self._relative(path), *below) if self._is_there(each))
        return next(literal, None) or next(filter(None, map(self._find, (path, *below))), None)

    def _find(self, path):
        """The existing path, with or without the name of the root in front."""
        path = self._relative(path)
        name, _, rest = path.partition("/")
        return self._find_below(path) or (
            self._find_below(rest) if name == os.path.basename(self._root) else None
        )

    def _find_below(self, path):
        if self._is_there(path):
            return path
        if not path or path == ".":
            return None
        folder, name = os.path.split(path)
        found = self._names(folder).get(unicodedata.normalize("NFC", name), [])
        return os.path.join(folder, found[0]) if len(found) == 1 else None

    def _is_there(self, path):
        try:
            return path not in ("", ".") and os.path.lexists(os.path.join(self._root, path))
        except ValueError:  # a NUL byte
            return False

    def _relative(self, path):
        path = os.path.normpath(path) if path else path
        return path.removeprefix(os.path.join(self._root, ""))

    def _list_names(self, folder):
        """`{name, or name of a video without extension: names on the disk}`."""
        found: dict[str, list[str]] = {}
        try:
            names = os.listdir(os.path.join(self._root, folder))
        except (OSError, ValueError):
            return found
        for name in names:
            plain = unicodedata.normalize("NFC", name)
            found.setdefault(plain, []).append(name)
            if is_video(plain):
                found.setdefault(os.path.splitext(plain)[0], []).append(name)
        return found


def _readings(text):
    """Possible readings of a text as a path with `/`, the most literal first."""
    text = text.strip().strip('"')
    if url := _URL.match(text):
        path = urllib.parse.unquote(text[url.end() :])
        text = path[1:] if _DRIVE.match(path[1:]) else path
    yield text
    if from_text(text) != text:
        yield from_text(text)
    if "\\" in text:
        yield text.replace("\\", "/")
