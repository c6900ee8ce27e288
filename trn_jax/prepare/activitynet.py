"""ActivityNet's annotations, which other data sets of events have taken over.

    {"database": {"<id>": {"subset": "training", "annotations": [
        {"segment": [12.5, 17.25], "label": "Long jump"}, ...]}, ...}}

Videos are called `<id>` or `v_<id>`, with any extension.
"""

from trn_jax.errors import UserError
from trn_jax.prepare.annotated_parts import Annotation, AnnotationFile, checked, read_json, seconds
from trn_jax.prepare.examples import Part, split_called

EXTENSIONS = (".json",)


def is_file(path):
    """Whether a JSON file has such annotations."""
    content = read_json(path)
    return isinstance(content, dict) and "database" in content


def read(path):
    """Read an `AnnotationFile`; `UserError` if it is malformed."""
    found = AnnotationFile()
    database = checked(read_json(path)["database"], dict, "'database'", "an object of videos")
    for name, entry in database.items():
        place = f"video {name!r}"
        checked(entry, dict, place, "an object with 'annotations'")
        subset = checked(entry.get("subset", ""), str, f"the subset of {place}", "text")
        split = split_called(subset) if subset else ""
        if split is None:
            raise UserError(
                f"the subset of {place} is {subset!r}, expected training, validation or testing"
            )
        annotations = entry.get("annotations") or []
        checked(annotations, list, f"'annotations' of {place}", "a list")
        if not annotations:
            found.skip("videos without annotations", name)
        for number, each in enumerate(annotations, start=1):
            where = f"annotation {number} of {place}"
            checked(each, dict, where, "an object with 'segment' and 'label'")
            segment = checked(each.get("segment"), list, f"the segment of {where}", "[start, end]")
            if len(segment) != 2:
                raise UserError(f"the segment of {where} is {segment!r}, expected [start, end]")
            label = checked(each.get("label"), str, f"the label of {where}", "text")
            part = Part(*(seconds(time, f"a time of {where}") for time in segment))
            names = name, f"v_{name}"
            found.annotations.append(Annotation(names, (label,), part, where, split))
    return found
