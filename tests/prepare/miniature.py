"""Archives in the layouts of the data sets, with a handful of tiny videos."""

import contextlib
import functools
import io
import json
import pathlib
import tarfile
import zipfile

import av
import numpy as np
import pytest
import simplejpeg

from trn_jax.prepare import PREPARATIONS
from trn_jax.prepare.lists import ORDERS

LABEL_MAPS = pathlib.Path(__file__).parents[3] / "shared" / "data" / "label_maps"

JESTER = "20bn-jester-v1"
GESTURES = ("Swiping Left", "Swiping Right", "Doing other things", "Drumming Fingers")
JESTER_TRAIN = (("34870", "Drumming Fingers", 3), ("56557", "Swiping Left", 5))
JESTER_VAL = (("9223", "Swiping Right", 4), ("107090", "Doing other things", 2))


def jpeg(number):
    """An image that depends on the number."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 12, 3), np.uint8)
    return simplejpeg.encode_jpeg(pixels)


@functools.cache
def video(number=0, count=3):
    """A video file of a few tiny frames that depend on the number."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        rng = np.random.default_rng(number)
        for _ in range(count):
            pixels = rng.integers(0, 256, (16, 32, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def frames(folder, count, pattern="{:05d}.jpg", seed=0):
    """`{path: content}` of a folder of frames."""
    return {f"{folder}/{pattern.format(i)}": jpeg(seed * 100 + i) for i in range(1, count + 1)}


def tar(files, mode="w:gz"):
    """A tar file of `{path: content}`, with entries for folders, as bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        folders = set()
        for path, content in files.items():
            parts = path.split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                folder = "/".join(parts[:depth])
                if folder not in folders:
                    folders.add(folder)
                    info = tarfile.TarInfo(folder)
                    info.type = tarfile.DIRTYPE
                    archive.addfile(info)
            info = tarfile.TarInfo(path)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def split(data, num_parts):
    """Split into parts of one size, except the last."""
    size = -(-len(data) // num_parts)
    return [data[start : start + size] for start in range(0, len(data), size)]


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def jester(folder, *, labels=GESTURES, train=JESTER_TRAIN, val=JESTER_VAL, end="\n"):
    """The 24 archives of Jester; returns `{path: content}` of the frames in them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for seed, (name, _, count) in enumerate((*train, *val)):
        files |= frames(f"{JESTER}/{name}", count, seed=seed)
    for number, part in enumerate(split(tar(files), 23)):
        name = f"{JESTER}-{number:02d}"
        write_zip(folder / f"{name}.zip", {name: part, f"{name}.md5": b"0" * 32})
    texts = {
        "labels/labels.csv": end.join(labels) + end,
        "labels/train.csv": "".join(f"{name};{label}{end}" for name, label, _ in train),
        "labels/validation.csv": "".join(f"{name};{label}{end}" for name, label, _ in val),
        "labels/test.csv": f"1{end}",
    }
    write_zip(folder / "20bn-jester-download-package-labels.zip", texts)
    return files


DOINGS = ("Holding something", "Turning something upside down", "Closing something")
STHV1 = {
    "train": (("100218", "Closing something", 3), ("24413", "Holding something", 2)),
    "validation": (("74225", "Turning something upside down", 4),),
}


def sthv1(folder, videos=STHV1, labels=DOINGS, *, num_parts=3):
    """Something-Something V1 of `{split: ((name, label, number of frames), ...)}`."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = "20bn-something-something-v1"
    files = {}
    for seed, (name, _, count) in enumerate((*videos["train"], *videos["validation"])):
        files |= frames(f"{stem}/{name}", count, seed=seed)
    for number, part in enumerate(split(tar(files), num_parts)):
        (folder / f"{stem}-{number:02d}").write_bytes(part)
    (folder / "something-something-v1-labels.csv").write_text("\n".join(labels) + "\n")
    for kind, rows in videos.items():
        text = "".join(f"{name};{label}\n" for name, label, _ in rows)
        (folder / f"something-something-v1-{kind}.csv").write_text(text)
    return files


TEMPLATES = ("Approaching something with your camera", "Holding something next to something")
STHV2 = {
    "train": (("78687", "Holding [something] next to [something]", video(1)),),
    "validation": (("74225", "Approaching [something] with your camera", video(22)),),
}


def sthv2(folder, videos=STHV2, labels=TEMPLATES, *, num_parts=3):
    """Something-Something V2 of `{split: ((name, template, content of the video), ...)}`."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = "20bn-something-something-v2"
    rows = (*videos["train"], *videos["validation"])
    files = {f"{stem}/{name}.webm": content for name, _, content in rows}
    for number, part in enumerate(split(tar(files), num_parts)):
        (folder / f"{stem}-{number:02d}").write_bytes(part)
    texts = {"labels": {label: str(number) for number, label in enumerate(labels)}}
    for kind, rows in videos.items():
        texts[kind] = [{"id": name, "template": template} for name, template, _ in rows]
    for kind, content in texts.items():
        (folder / f"something-something-v2-{kind}.json").write_text(json.dumps(content))
    return files


CHARADES_CLASSES = (
    "c000 Holding some clothes\nc001 Putting clothes somewhere\nc002 Someone is smiling\n"
)
CHARADES_TRAIN = (
    "id,subject,actions,length\n"
    "46GP8,HR43,c002 0.00 1.00;c000 0.50 1.50;c002 1.00 1.50,30\n"
    "N11GT,0KZ7,c001 0.00 0.20,18\n"
    "0IH69,6RE8,,20\n"
    "GONE1,6RE8,c001 0.00 2.00,20\n"
)
CHARADES_TEST = 'id,script,actions,length\nYSKX3,"one, two",c001 0.10 99.00;c002 0.00 1.00,9\n'
CHARADES_COUNTS = {"46GP8": 36, "N11GT": 30, "0IH69": 5, "YSKX3": 20}


def charades(folder, train=CHARADES_TRAIN):
    """Charades, with frames named after their videos."""
    folder.mkdir(exist_ok=True)
    files = {}
    for video, count in CHARADES_COUNTS.items():
        files |= frames(f"Charades_v1_rgb/{video}", count, video + "-{:06d}.jpg")
    (folder / "Charades_v1_rgb.tar").write_bytes(tar(files, "w"))
    texts = {"classes.txt": CHARADES_CLASSES, "train.csv": train, "test.csv": CHARADES_TEST}
    write_zip(
        folder / "Charades.zip", {f"Charades/Charades_v1_{n}": text for n, text in texts.items()}
    )


MOMENTS_CATEGORIES = {"clapping": 0, "adult+female+singing": 2, "praying": 1}
MOMENTS_TABLES = {
    "trainingSet.csv": "clapping/a_1.mp4,clapping,3,0\npraying/b_2.mp4,praying,4,1\n",
    "validationSet.csv": "adult+female+singing/c_3.mp4,adult+female+singing,5,0\n",
}
MOMENTS_VIDEOS = {
    "training/clapping/a_1.mp4": video(1),
    "training/praying/b_2.mp4": video(2),
    "validation/adult+female+singing/c_3.mp4": video(3),
}


def moments(
    folder, categories=MOMENTS_CATEGORIES, *, videos=MOMENTS_VIDEOS, top="Moments_in_Time_Raw/"
):
    """Moments in Time, with all files in a folder `top`."""
    folder.mkdir(exist_ok=True)
    files = {f"{top}{path}": content for path, content in videos.items()}
    text = "".join(f"{name},{number}\n" for name, number in categories.items())
    files |= {f"{top}{name}": content.encode() for name, content in MOMENTS_TABLES.items()}
    files |= {f"{top}moments_categories.txt": text.encode(), f"{top}license.pdf": b"%PDF"}
    write_zip(folder / "Moments_in_Time_Raw.zip", files)


KINETICS_HEADER = "label,youtube_id,time_start,time_end,split\n"
KINETICS_TRAIN = """abseiling,-3B32lodo2M,59,69,train
"massaging person's head",0wR5jVB-WPk,417,427,train
"air drumming",3caPS4FHFF8,36,46,train
"""
KINETICS_VAL = '"air drumming",00S_-abCdEf,3,13,val\nabseiling,zzzzzzzzzzz,1,11,val\n'
KINETICS_VIDEOS = {
    "videos_train/abseiling/-3B32lodo2M_000059_000069.mp4": video(1),
    "videos_train/air_drumming/3caPS4FHFF8_000036_000046.mkv": video(2),
    "videos_train/air_drumming/unheardof123_000001_000011.mp4": video(3),
    "videos_val/air drumming/00S_-abCdEf_000003_000013.mp4": video(4),
}


def kinetics(folder, files=KINETICS_VIDEOS, train=KINETICS_TRAIN, val=KINETICS_VAL):
    """Annotations of Kinetics-400 and some of its videos, `{path: content}`."""
    folder.mkdir(exist_ok=True)
    put(folder, files)
    (folder / "kinetics_train.csv").write_text(KINETICS_HEADER + train)
    (folder / "kinetics_val.csv").write_text(KINETICS_HEADER + val)


def prepare(name, folder, to, orders=ORDERS):
    """Prepare one of these data sets."""
    to.mkdir(exist_ok=True)
    return PREPARATIONS[name](str(folder), str(to), workers=1, orders=orders)


def published_names(file):
    """Class names of a data set as published, where they are available."""
    path = LABEL_MAPS / file
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path.read_text().splitlines()


def put(root, files):
    """Write `{path: content}` below a folder."""
    for path, content in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def tree(root):
    """`{path: content}` of all files below a folder."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


class Stopped(BaseException):
    """Ctrl-C at a chosen moment."""


@contextlib.contextmanager
def interrupted(owner, name, call, error=Stopped):
    """Make the n-th call of a function raise, and catch it if it is `Stopped`."""
    original, calls = getattr(owner, name), [0]

    def counted(*args, **kwargs):
        calls[0] += 1
        if calls[0] == call:
            raise error
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, counted)
        try:
            yield
        except Stopped:
            return
        assert calls[0] >= call, "was not interrupted"
