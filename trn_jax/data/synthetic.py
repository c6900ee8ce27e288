"""A small data set whose pairs of classes differ only in the order of the frames.

A pair is a motion and its reverse ("Moving something up" and "Moving something down"). Every clip
of one class has a counterpart in the other, in the same split: the same frames in reverse order. A
model that averages over frames gives both the same answer, so its accuracy is at most 1/2; a model
of temporal order can reach 1.

`write` stores JPEG folders and lists in the layout of Something-Something V1, which are read like
real videos:

    <root>/rawframes/<id>/00001.jpg ...
    <root>/train_list.txt, val_list.txt     lines of "<id> <num_frames> <label>"
    <root>/label_map.txt                    one class name per line, in the order of the labels
    <root>/synthetic.json                   the `SyntheticSpec`; written last
"""

import dataclasses
import json
import os
import shutil
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import simplejpeg

from trn_jax.data.motions import CLASS_NAMES, render_clip
from trn_jax.errors import UserError

FORMAT = 1  # raise it whenever the same spec would give other files
_MARKER = "synthetic.json"
_SPLITS = ("train", "val")
_JPEG_QUALITY = 90
# A clip has num_segments frames times one of these. They are odd, so that the middle frames of the
# segments of a clip and of its reverse are the same.
FRAMES_PER_SEGMENT = (1, 1, 1, 3)


@dataclasses.dataclass(frozen=True)
class SyntheticSpec:
    """Parameters of the data set; equal specs give equal files.

    Attributes:
        num_train: training clips, a multiple of the number of classes.
        num_val: validation clips, likewise.
        num_segments: every clip has an odd multiple of this many frames.
        height: of a frame, in pixels; the width is 1 to 1.25 times the height.
        seed: of all random choices.

    Raises:
        UserError: values are out of range; all are named.
    """

    num_train: int = 2400
    num_val: int = 480
    num_segments: int = 8
    height: int = 64
    seed: int = 0

    def __post_init__(self):
        clips = f"a positive multiple of {len(CLASS_NAMES)}, the number of classes"
        rules: dict[str, tuple[str, Callable[[int], bool]]] = {
            "num_train": (clips, lambda n: n > 0 and n % len(CLASS_NAMES) == 0),
            "num_val": (clips, lambda n: n > 0 and n % len(CLASS_NAMES) == 0),
            "num_segments": ("at least 2, or there is no order to learn", lambda n: n >= 2),
            "height": ("32 to 1024 pixels", lambda n: 32 <= n <= 1024),
            "seed": ("not negative", lambda n: n >= 0),
        }
        problems = []
        for name, (expected, holds) in rules.items():
            value = getattr(self, name)
            if not (isinstance(value, int) and holds(value)):
                problems.append(f"{name}={value!r} must be an integer, {expected}")
        if problems:
            raise UserError("impossible synthetic data set: " + "; ".join(problems))


def write(root, spec=None, *, num_threads=None):
    """Write the data set to the folder `root`, unless it is there already.

    The folder appears atomically: files go to a folder beside it, which is renamed at the end.
    Every clip is a function of (seed, split, position in the list), whatever the number of threads
    or clips.

    Args:
        root: folder to create, with its parents.
        spec: a `SyntheticSpec`; by default `SyntheticSpec()`.
        num_threads: threads that draw and encode; by default one per processor.

    Returns:
        The folder, as an absolute `Path`.

    Raises:
        UserError: `root` holds something else, or a data set of another spec.
    """
    root = Path(root).resolve()
    spec = SyntheticSpec() if spec is None else spec
    if num_threads is not None and num_threads < 1:
        raise UserError(f"num_threads={num_threads} must be at least 1, or None for all processors")
    if _is_complete(root, spec):
        return root

    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _new_folder_beside(root)
    try:
        _write_files(unfinished, spec, num_threads or os.cpu_count())
        _publish(unfinished, root, spec)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return root


def _is_complete(root, spec):
    """Whether `root` holds the data set of `spec`; raises if it holds something else."""
    marker = root / _MARKER
    if not marker.exists():
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise UserError(
                f"{root} exists and is not a synthetic data set (no {_MARKER} in it); "
                "choose another folder, or remove this one if nothing in it is needed"
            )
        return False

    wanted = _description(spec)
    try:
        found = json.loads(marker.read_text())
        differences = [
            f"{key}={found.get(key)!r} on disk, expected {wanted.get(key)!r}"
            for key in sorted(wanted.keys() | found.keys())
            if found.get(key) != wanted.get(key)
        ]
    except (ValueError, AttributeError):
        raise UserError(
            f"{marker} does not describe a synthetic data set; remove the folder {root} and run "
            "again"
        ) from None
    if differences:
        raise UserError(
            f"{root} holds another synthetic data set ({'; '.join(differences)}); "
            "choose another folder, or remove this one and run again"
        )
    return True


def _description(spec):
    return {"format": FORMAT, **dataclasses.asdict(spec)}


def _new_folder_beside(root):
    """Create the folder to write to, and remove those of dead processes.

    Its name has that of the machine: those that share the file system number processes separately.
    """
    prefix = f"{root.name}.partial-{socket.gethostname()}-"
    for found in root.parent.iterdir():
        pid = found.name.removeprefix(prefix)
        if pid != found.name and pid.isdecimal() and not _is_other_live_process(int(pid)):
            shutil.rmtree(found, ignore_errors=True)  # another process may remove it too
    folder = root.parent / f"{prefix}{os.getpid()}"
    folder.mkdir()
    return folder


def _is_other_live_process(pid):
    if pid == os.getpid():  # left by an earlier process with our id
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # alive, of another user
        pass
    return True


def _publish(folder, root, spec):
    try:
        os.replace(folder, root)
    except OSError:
        # Another process may have finished the same data set first.
        if not _is_complete(root, spec):
            raise


def _write_files(folder, spec, num_threads):
    pairs = [
        (split, block, pair)
        for split in _SPLITS
        for block in range(_num_clips(spec, split) // len(CLASS_NAMES))
        for pair in range(len(CLASS_NAMES) // 2)
    ]
    lines: dict[str, dict[int, str]] = {split: {} for split in _SPLITS}
    with ThreadPoolExecutor(num_threads) as pool:
        found = pool.map(lambda each: _write_pair(folder, spec, *each), pairs)
        for (split, *_), lines_of_pair in zip(pairs, found, strict=True):
            lines[split] |= lines_of_pair
    for split in _SPLITS:
        text = "".join(line for _, line in sorted(lines[split].items()))
        (folder / f"{split}_list.txt").write_text(text)
    (folder / "label_map.txt").write_text("".join(f"{name}\n" for name in CLASS_NAMES))
    (folder / _MARKER).write_text(json.dumps(_description(spec), indent=2) + "\n")


def _num_clips(spec, split):
    return spec.num_train if split == "train" else spec.num_val


def _write_pair(folder, spec, split, block, pair):
    """Write the clips of both classes of a pair, which have the same frames in reverse order.

    A block of clips has each class once, in random order. Both classes of a pair share a generator,
    so their clips are each other's reverse, and each frame is drawn and encoded once.

    Returns:
        `{position in the list: its line}`.
    """
    seed = (spec.seed, _SPLITS.index(split), block)
    labels = np.random.default_rng((*seed, 0)).permutation(len(CLASS_NAMES)).tolist()
    rng = np.random.default_rng((*seed, 1 + pair))
    num_frames = spec.num_segments * int(rng.choice(FRAMES_PER_SEGMENT))
    clip = render_clip(2 * pair, num_frames, rng, height=spec.height)
    frames = [
        simplejpeg.encode_jpeg(frame, quality=_JPEG_QUALITY, colorspace="RGB") for frame in clip
    ]
    lines: dict[int, str] = {}
    folders: list[str] = []
    for label in (2 * pair, 2 * pair + 1):
        index = block * len(CLASS_NAMES) + labels.index(label)
        # Ids count through both splits, as in Something-Something.
        clip_id = index + 1 if split == "train" else spec.num_train + index + 1
        folders.append(os.path.join(folder, "rawframes", str(clip_id)))
        lines[index] = f"{clip_id} {num_frames} {label}\n"
    forward, backward = folders
    _write_frames(forward, backward, frames)
    return lines


def _write_frames(forward, backward, frames):
    """Write frames to a folder, and in reverse order to another one."""
    for folder in (forward, backward):
        os.makedirs(folder)
    for number, frame in enumerate(frames, start=1):
        path = f"{forward}/{number:05d}.jpg"
        reverse = f"{backward}/{len(frames) + 1 - number:05d}.jpg"
        _write_bytes(path, frame)
        try:
            os.link(path, reverse)  # much faster than a second file
        except OSError:  # not on this file system
            _write_bytes(reverse, frame)


def _write_bytes(path, content):
    with open(path, "wb", buffering=0) as file:
        file.write(content)
