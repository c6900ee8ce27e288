"""Results of a checkpoint that evaluations have left beside it."""

import json
import math

_KEYS = ("protocol", "split", "num_videos", "num_views", "list_sha256", "trn_jax", "metrics")
_MAX_BYTES = 64 << 20  # of a file of results, which names classes and unreadable videos


def measured(opened):
    """Results of a checkpoint.

    Args:
        opened: a `checkpoints.checkpoint.Checkpoint`. Results are in `results/` of its working
            directory, as far as they are of this step; a hub folder has some in its `config.json`,
            too. Malformed ones are left out.

    Returns:
        A list of dicts with `protocol`, `split`, `metrics` and the number of videos.
    """
    directory = opened.directory
    in_training = directory.parent.name == "checkpoints"
    folder = (directory.parent.parent if in_training else directory) / "results"
    paths = [*sorted(folder.glob("*.json")), *sorted(folder.glob("*/*.json"))]
    beside = [each for each in map(_read, paths) if _is_result(each)]
    beside = [each for each in beside if each.get("step") == opened.info.get("step")]
    earlier = opened.info.get("results") or []
    found = {}
    for each in [each for each in earlier if _is_result(each)] + beside:
        found[each["split"], each["protocol"]] = {key: each[key] for key in _KEYS if key in each}
    return list(found.values())


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
