"""CVAT's annotations of videos ("CVAT for video 1.1", .xml): tracks of objects, and tags of frames.

A track is a part from its first frame to the one where it is outside, or to its last one; it may
have several. Tags of consecutive frames with one label are one part. Frames are numbered from 0.
"""

import collections
import itertools

from trn_jax.errors import UserError
from trn_jax.prepare.annotated_parts import Annotation, AnnotationFile, frame_number
from trn_jax.prepare.examples import Part
from trn_jax.prepare.xml_files import read_xml, root_name

EXTENSIONS = (".xml",)


def is_file(path):
    """Whether an XML file has the root of CVAT's."""
    return root_name(path) == "annotations"


def read(path):
    """Read an `AnnotationFile`; `UserError` if it is malformed or names no video."""
    root = read_xml(path)
    sources = _sources(root)
    found = AnnotationFile()
    for number, track in enumerate(root.iter("track"), start=1):
        place = f"track {track.get('id', number)} ({track.get('label')})"
        video = _video(sources, track, place)
        shapes = {}
        for shape in track:
            if shape.get("frame") is not None:
                frame = frame_number(shape.get("frame"), f"a frame of {place}")
                shapes[frame] = shape.get("outside") == "1"
        for part in _shown(shapes):
            labels = (track.get("label") or "",)
            found.annotations.append(Annotation((video,), labels, part, place))
    tagged = collections.defaultdict(set)
    for tag, frame in _tags(root):
        place = f"tag {tag.get('label')!r}"
        key = _video(sources, tag, place), tag.get("label") or "", place
        tagged[key].add(frame_number(frame, f"a frame of {place}"))
    for (video, label, place), frames in tagged.items():
        for part in _runs(sorted(frames)):
            found.annotations.append(Annotation((video,), (label,), part, place))
    for image in root.iter("image"):
        if any(child.tag != "tag" for child in image):
            found.skip("images with shapes", image.get("name") or "an image")
    return found


def _tags(root):
    """Pairs `(tag, number of its frame)`."""
    for tag in root.iter("tag"):
        if tag.get("frame") is not None:
            yield tag, tag.get("frame")
    for image in root.iter("image"):
        for tag in image.findall("tag"):
            yield tag, image.get("id")


def _sources(root):
    """`{id of a task: name of its video}`."""
    sources = {}
    for task in itertools.chain(root.iter("task"), root.iter("job")):
        if source := (task.findtext("source") or "").strip():
            sources[(task.findtext("id") or "").strip()] = source
    if not sources:
        names = [each.text.strip() for each in root.iter("source") if (each.text or "").strip()]
        sources = dict(enumerate(names))
    if not sources:
        raise UserError("it names no video (<source>); export the task as 'CVAT for video 1.1'")
    return sources


def _video(sources, element, place):
    """The video of a track or tag."""
    if (task := element.get("task_id")) is not None and task in sources:
        return sources[task]
    if len(set(sources.values())) > 1:
        raise UserError(f"{place} names no task, but there are {len(sources)} videos")
    return next(iter(sources.values()))


def _shown(shapes):
    """The `Part`s in which a track is not outside, from `{frame: whether it is outside}`."""
    first = None
    for frame in sorted(shapes):
        if shapes[frame] and first is not None:
            yield Part(first, frame, in_frames=True)
            first = None
        elif not shapes[frame] and first is None:
            first = frame
    if first is not None:
        yield Part(first, max(shapes) + 1, in_frames=True)


def _runs(frames):
    """The `Part`s of consecutive ones of ascending numbers."""
    first = 0
    for number, frame in enumerate(frames, start=1):
        if number == len(frames) or frames[number] != frame + 1:
            yield Part(frames[first], frame + 1, in_frames=True)
            first = number
