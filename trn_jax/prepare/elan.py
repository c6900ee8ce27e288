"""ELAN's annotations (.eaf): tiers with values, whose times are in slots.

Annotations of a reference tier have the times of those that they refer to.
"""

from trn_jax.errors import UserError
from trn_jax.prepare.annotated_parts import Annotation, AnnotationFile
from trn_jax.prepare.examples import Part
from trn_jax.prepare.xml_files import read_xml, root_name

EXTENSIONS = (".eaf",)
_MAX_CHAIN = 100  # references from tier to tier


def is_file(path):
    """Whether a file is one of ELAN, or was meant to be."""
    return root_name(path) in ("ANNOTATION_DOCUMENT", None)


def read(path, *, tiers=""):
    """Read an `AnnotationFile`.

    Args:
        path: the file.
        tiers: names of the tiers with the classes, separated by `;`; "": the only one.

    Raises:
        UserError: it is malformed, names no video, or has other tiers.
    """
    root = read_xml(path)
    if root.tag != "ANNOTATION_DOCUMENT":
        raise UserError(f"its root is {root.tag!r}, expected 'ANNOTATION_DOCUMENT'")
    videos, origin = _media(root)
    slots = {
        slot.get("TIME_SLOT_ID"): _milliseconds(slot.get("TIME_VALUE"), slot.get("TIME_SLOT_ID"))
        for slot in root.iter("TIME_SLOT")
    }
    annotations = {
        each.get("ANNOTATION_ID"): each
        for kind in ("ALIGNABLE_ANNOTATION", "REF_ANNOTATION")
        for each in root.iter(kind)
    }
    found = AnnotationFile()
    for tier in _chosen(root, tiers):
        for each in _annotations(tier):
            name = f"{each.get('ANNOTATION_ID')} of tier {tier.get('TIER_ID')!r}"
            times = [slots.get(slot) for slot in _slots(each, annotations)]
            if len(times) != 2 or None in times:
                found.lost.append(f"annotation {name} has no times")
                continue
            start, end = ((time + origin) / 1000 for time in times)
            label = each.findtext("ANNOTATION_VALUE") or ""
            found.annotations.append(Annotation(videos, (label,), Part(start, end), name))
    return found


def _annotations(tier):
    return [each for kind in ("ALIGNABLE_ANNOTATION", "REF_ANNOTATION") for each in tier.iter(kind)]


def _chosen(root, names):
    """The tiers with the classes."""
    tiers = {tier.get("TIER_ID"): tier for tier in root.iter("TIER")}
    counts = {name: len(_annotations(tier)) for name, tier in tiers.items()}
    filled = [name for name, count in counts.items() if count]
    wanted = [name.strip() for name in names.split(";") if name.strip()]
    unknown = [name for name in wanted if name not in tiers]
    if unknown or (not wanted and len(filled) != 1):
        shown = ", ".join(f"{name} ({count} annotations)" for name, count in counts.items())
        raise UserError(
            (
                f"it has no tier {unknown[0]!r}"
                if unknown
                else f"it has {len(filled)} tiers with annotations, expected one"
            )
            + f"; its tiers are {shown or 'none'}. Choose those with the classes: "
            "--columns='label=<tier>;<tier>'"
        )
    return [tiers[name] for name in wanted or filled]


def _media(root):
    """Names of the video, best first, and the milliseconds at which the annotations begin in it."""
    media = list(root.iter("MEDIA_DESCRIPTOR"))
    videos = [each for each in media if (each.get("MIME_TYPE") or "").startswith("video")]
    for each in videos or media:
        names = (each.get("RELATIVE_MEDIA_URL"), each.get("MEDIA_URL"))
        found = tuple(name for name in names if name)
        if found:
            origin = _milliseconds(each.get("TIME_ORIGIN"), "TIME_ORIGIN")
            return found, origin or 0
    raise UserError("it names no video (MEDIA_DESCRIPTOR); link one in ELAN and save it again")


def _milliseconds(text, name):
    """A time as an integer, `None` if it is open."""
    if text is None:
        return None
    if not text.strip().lstrip("-").isdecimal() or len(text) > 15:
        raise UserError(f"the time of {name} is {text!r}, expected milliseconds")
    return int(text)


def _slots(annotation, annotations):
    """The two slots of an annotation, of that which it refers to; none if there are none."""
    for _ in range(_MAX_CHAIN):
        if annotation is None:
            return []
        if annotation.tag == "ALIGNABLE_ANNOTATION":
            return [annotation.get("TIME_SLOT_REF1"), annotation.get("TIME_SLOT_REF2")]
        annotation = annotations.get(annotation.get("ANNOTATION_REF"))
    raise UserError("its annotations refer to each other in a circle")
