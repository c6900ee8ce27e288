"""Which moments of two videos of a class correspond."""

import dataclasses

import numpy as np

from trn_jax.errors import UserError

_SCALE = 4  # frames of the relation by which a TRN aligns videos


@dataclasses.dataclass(frozen=True, eq=False)
class Alignment:
    """Frames of two clips that correspond.

    Attributes:
        label: number of the class.
        videos: names of the two videos.
        pairs: positions in the clips, int `[pairs, 2]`, ascending.
        method: "representative frames" or "time warping".
    """

    label: int
    videos: tuple[str, str]
    pairs: np.ndarray
    method: str


def align(first, second, *, label=None, scale=None):
    """Align two videos of a class.

    A multi-scale TRN aligns them by their representative frames (Zhou et al., 2018): the k-th frame
    of the highest-scoring relation of one corresponds to the k-th one of the other. For other
    models, the features of all frames are warped in time (Sakoe and Chiba, 1978), with the cosine
    distance.

    Args:
        first: an `Explanation`.
        second: another one, of the same model.
        label: a class that both explain; by default the one that is predicted for the first.
        scale: frames of the relations of a TRN; by default 4, or all of fewer.

    Returns:
        An `Alignment`.

    Raises:
        UserError: one of them could not be read or doesn't explain the class, there are no such
            relations, or the model has no features of single frames.
    """
    for each in (first, second):
        if each.problem:
            raise UserError(f"{each.video} can't be aligned: {each.problem}")
    label = int(first.classes[0]) if label is None else label
    rows = [np.flatnonzero(each.classes == label) for each in (first, second)]
    for each, row in zip((first, second), rows, strict=True):
        if not row.size:
            raise UserError(
                f"{each.video} has no explanation of class {label}; give it as one of the classes "
                "to explain"
            )
    about = dict(label=label, videos=(first.video, second.video))
    if first.scales:
        known = [each.scale for each in first.scales]
        scale = min(_SCALE, known[-1]) if scale is None else scale
        if scale not in known:
            raise UserError(f"scale={scale} is not one of {', '.join(map(str, known))}")
        at = known.index(scale)
        best = [
            each.scales[at].best[row[0]] for each, row in zip((first, second), rows, strict=True)
        ]
        return Alignment(pairs=np.stack(best, axis=1), method="representative frames", **about)
    for each in (first, second):
        if len(each.features) != len(each.frames):
            raise UserError(
                f"{each.video} can't be aligned: the model has {len(each.features)} features for "
                f"{len(each.frames)} frames"
            )
    return Alignment(pairs=warped(first.features, second.features), method="time warping", **about)


def warped(first, second):
    """Dynamic time warping of two sequences of vectors, by their cosine distance.

    Args:
        first: `[rows, channels]`.
        second: `[columns, channels]`.

    Returns:
        The pairs of rows and columns, int `[pairs, 2]`, from (0, 0) to the last ones; each is one
        step further in one or both.
    """
    unit = [
        each / np.maximum(np.linalg.norm(each, axis=1), 1e-12)[:, None]
        for each in (np.asarray(first, np.float64), np.asarray(second, np.float64))
    ]
    distance = 1 - unit[0] @ unit[1].T
    rows, columns = distance.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    for i in range(rows):
        for j in range(columns):
            before = min(total[i, j], total[i, j + 1], total[i + 1, j])
            total[i + 1, j + 1] = distance[i, j] + before
    i, j = rows, columns
    pairs = [(i - 1, j - 1)]
    while (i, j) != (1, 1):
        # The diagonal first, so that equal sequences give the diagonal.
        steps = ((i - 1, j - 1), (i - 1, j), (i, j - 1))
        i, j = min(steps, key=lambda step: total[step])
        pairs.append((i - 1, j - 1))
    return np.array(pairs[::-1])
