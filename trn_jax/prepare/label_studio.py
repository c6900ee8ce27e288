"""Label Studio's annotations (JSON): regions of timelines, in frames from 1 or in seconds.

A rectangle in a video is a part from its first frame to the one after which it is disabled. Of
several annotations of a task, all are taken that weren't cancelled.
"""

import os
import re
import urllib.parse

from trn_jax.data.videos import is_video
from trn_jax.errors import UserError
from trn_jax.prepare.annotated_parts import (
    Annotation,
    AnnotationFile,
    checked,
    frame_number,
    read_json,
    seconds,
)
from trn_jax.prepare.examples import Part

EXTENSIONS = (".json",)
_UPLOAD = re.compile(r"[0-9a-f]{8}-(.+)")  # the name of an uploaded file


def is_file(path):
    """Whether a JSON file is a list of tasks with their annotations."""
    content = read_json(path)
    tasks = content if isinstance(content, list) else [content]
    return any(
        isinstance(task, dict) and "data" in task and {"annotations", "completions"} & task.keys()
        for task in tasks
    )


def read(path):
    """Read an `AnnotationFile`; `UserError` if it is malformed or names no video."""
    content = read_json(path)
    found = AnnotationFile()
    for number, task in enumerate(content if isinstance(content, list) else [content], start=1):
        place = f"task {number}"
        checked(task, dict, place, "an object with 'data' and 'annotations'")
        annotations = task.get("annotations", task.get("completions"))
        checked(annotations, list, f"'annotations' of {place}", "a list")
        videos = _videos(checked(task.get("data"), dict, f"'data' of {place}", "an object"), place)
        if not annotations:
            found.skip("tasks without annotations", videos[0])
        for each in annotations:
            checked(each, dict, f"an annotation of {place}", "an object with 'result'")
            if not each.get("was_cancelled"):
                results = each.get("result") or []
                _add(found, videos, checked(results, list, f"'result' of {place}", "a list"), place)
    return found


def _add(found, videos, results, place):
    """Add the results of an annotation."""
    for result in results:
        checked(result, dict, f"a result of {place}", "an object with 'type' and 'value'")
        kind = result.get("type")
        where = f"{kind} {result.get('id', '')!r} of {place}"
        value = result.get("value")
        if kind == "timelinelabels":
            parts = list(_ranges(checked(value, dict, f"the value of {where}", "an object"), where))
        elif kind == "videorectangle":
            parts = list(
                _lifespans(checked(value, dict, f"the value of {where}", "an object"), where)
            )
        elif kind == "labels" and isinstance(value, dict) and {"start", "end"} <= value.keys():
            parts = [Part(*(seconds(value[key], f"{key} of {where}") for key in ("start", "end")))]
        else:
            found.skip(f"results of the type {kind!r}, which has no times,", videos[0])
            continue
        key = "timelinelabels" if kind == "timelinelabels" else "labels"
        labels = checked(value.get(key), list, f"{key} of {where}", "a list of labels")
        labels = tuple(checked(label, str, f"a label of {where}", "text") for label in labels)
        found.annotations += [Annotation(videos, labels, part, where) for part in parts]


def _ranges(value, place):
    """The `Part`s of a region of a timeline; both of its frames belong to it."""
    ranges = checked(value.get("ranges"), list, f"'ranges' of {place}", "a list")
    for each in ranges:
        checked(each, dict, f"a range of {place}", "an object with 'start' and 'end'")
        first, last = (frame_number(each.get(key), f"{key} of {place}") for key in ("start", "end"))
        yield Part(first - 1, last, in_frames=True)


def _lifespans(value, place):
    """The `Part`s of a rectangle, between its key frames."""
    keys = checked(value.get("sequence"), list, f"'sequence' of {place}", "a list")
    first, last = None, 0
    for each in keys:
        checked(each, dict, f"a key frame of {place}", "an object with 'frame'")
        last = frame_number(each.get("frame"), f"a frame of {place}")
        first = last if first is None else first
        if not each.get("enabled", True):
            yield Part(first - 1, last, in_frames=True)
            first = None
    if first is not None:
        count = value.get("framesCount", last)
        yield Part(first - 1, frame_number(count, f"framesCount of {place}"), in_frames=True)


def _videos(data, place):
    """Names of the video of a task: as given, without the mark of an upload, and the last part."""
    found: dict[str, None] = {}
    for value in data.values():
        if isinstance(value, str):
            url = urllib.parse.urlsplit(value)
            query = urllib.parse.parse_qs(url.query).get("d", [])  # of local files
            for name in (*query, urllib.parse.unquote(url.path)):
                if is_video(name):
                    last = os.path.basename(name)
                    upload = _UPLOAD.fullmatch(last)
                    found |= dict.fromkeys([name, last, *([upload[1]] if upload else [])])
    if not found:
        raise UserError(f"'data' of {place} names no video, only {', '.join(map(repr, data))}")
    return tuple(found)
