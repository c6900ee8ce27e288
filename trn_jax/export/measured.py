"""Results of a checkpoint that evaluations have left beside it."""

import json
import math

_KEYS = ("protocol", "split", "num_videos", "num_views", "list_sha256", "trn_jax", "metrics")
_MAX_BYTES = 64 << 20  # of a file of results, which names classes and unreadable videos


def measured(opened):
    """Results of a checkpoint.

    Args:
        opened: a `checkpoints.checkpoint.Checkpoint`. Those of a hub folder are in its
            `config.json`, those of others in `results/` of the working directory, as far as they
            are of this step. Malformed ones are left out.

    Returns:
        A list of dicts with `protocol`, `split`, `metrics` and the number of videos.
    """
    if "results" in opened.info:
        return [_selected(each) for each in opened.info["results"] if _is_result(each)]
    directory = opened.directory
    in_training = directory.parent.name == "checkpoints"
    folder = (directory.parent.parent if in_training else directory) / "results"
    paths = [*sorted(folder.glob("*.json")), *sorted(folder.glob("*/*.json"))]
    found = [each for each in map(_read, paths) if _is_result(each)]
    return [_selected(each) for each in found if each.get("step") == opened.info.get("step")]


def _read(path):
    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            return None
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _is_result(entry):
    """Whether something is a result: a protocol, a split, and fractions by their names."""
    return (
        isinstance(entry, dict)
        and all(isinstance(entry.get(key), str) for key in ("protocol", "split"))
        and isinstance(entry.get("num_videos"), int)
        and isinstance(entry.get("metrics"), dict)
        and all(map(_is_metric, entry["metrics"].values()))
    )


def _is_metric(value):
    return value is None or (type(value) in (int, float) and math.isfinite(value))


def _selected(entry):
    return {key: entry[key] for key in _KEYS if key in entry}
