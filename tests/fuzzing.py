"""Mutated files through every reader of files from elsewhere, as a script within bounds.

    python tests/fuzzing.py <folder> <first seed> <number of seeds> [<target> ...]

prints a line of JSON for each mutation: the target, the seed, and what became of it. The same
target and seed give the same bytes, and `<folder>` keeps the last one.
"""

import contextlib
import io
import json
import os
import pathlib
import shutil
import sys

import numpy as np
from mutations import mutated

from trn_jax import checks
from trn_jax.settings import from_dict


def picture(seed, extension):
    """A small picture in a file of some format."""
    import cv2

    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)
    return cv2.imencode(extension, pixels)[1].tobytes()


def video():
    """Half a second of video."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for number in range(5):
            pixels = np.full((32, 32, 3), 40 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def lists(multi_label):
    """Lists of videos."""
    from trn_jax.data import annotations

    lines = [f"some_video/v{n} {n + 5} {n % 4}{' 1' * multi_label}\n" for n in range(6)]
    content = "".join([*lines, "file.mp4 3\n", "/rooted/a 3 0\n"]).encode()

    def read(path):
        records = annotations.read_list(
            path, frames_root="/root", num_classes=4, multi_label=multi_label
        )
        # Each record has the label of a line, in their order: none is read as another one.
        with open(path, encoding="utf-8-sig") as file:
            lines = iter(file.read().split("\n"))
        for record in records:
            labels = record.label if multi_label else (record.label,)
            assert all(type(label) is int and 0 <= label < 4 for label in labels), record
            assert any(last_number(line) in labels for line in lines), record
            assert record.num_frames >= 1 or record.path.lower().endswith(".mp4"), record

    return "list.txt", content, read


def last_number(line):
    """What a line of a list has for a label, if it ends in a number."""
    with contextlib.suppress(ValueError, IndexError):
        return int(line.split()[-1])


PARTS = b"video,start,end,label\na,0.0,0.1,walk\nb,0,0:00:01,run\nc,0,1,walk\nd,0,1,run\n"
ACTIVITYNET = json.dumps(
    {
        "database": {
            name: {"subset": "training", "annotations": [{"segment": [0, 1.5], "label": label}]}
            for name, label in (("a", "walk"), ("b", "run"), ("c", "walk"), ("d", "run"))
        }
    }
).encode()
RANGE = {"ranges": [{"start": 1, "end": 1}], "timelinelabels": ["walk"]}
SECONDS = {"start": 0.5, "end": 2, "labels": ["run"]}
RESULTS = [{"type": "timelinelabels", "value": RANGE}, {"type": "labels", "value": SECONDS}]
LABEL_STUDIO = json.dumps(
    [{"data": {"video": f"/x/{name}.mp4"}, "annotations": [{"result": RESULTS}]} for name in "ab"]
).encode()
ELAN = b"""<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT><HEADER><MEDIA_DESCRIPTOR MEDIA_URL="file:///x/a" MIME_TYPE="video/mp4"/>
</HEADER><TIME_ORDER><TIME_SLOT TIME_SLOT_ID="t1" TIME_VALUE="0"/><TIME_SLOT TIME_SLOT_ID="t2"
TIME_VALUE="900"/></TIME_ORDER><TIER TIER_ID="x"><ANNOTATION><ALIGNABLE_ANNOTATION
ANNOTATION_ID="a1" TIME_SLOT_REF1="t1" TIME_SLOT_REF2="t2"><ANNOTATION_VALUE>run</ANNOTATION_VALUE>
</ALIGNABLE_ANNOTATION></ANNOTATION></TIER></ANNOTATION_DOCUMENT>"""
CVAT = b"""<?xml version="1.0" encoding="utf-8"?>
<annotations><meta><task><id>1</id><source>a</source></task></meta><track id="0" label="run">
<box frame="0" outside="0"/><box frame="1" outside="1"/></track><tag label="walk" frame="0"/>
</annotations>"""
BORIS = b"""Time\tMedia file path\tSubject\tBehavior\tStatus
0.0\ta\tx\trun\tSTART\n1.0\ta\tx\trun\tSTOP\n0.0\tb\tx\twalk\tSTART\n0.5\tb\tx\twalk\tSTOP
"""


def annotated(name, content):
    """Files of annotation tools, as `trn-jax prepare` reads them before it opens videos."""

    def make(folder):
        from trn_jax.prepare import custom_sources
        from trn_jax.prepare.dataset_writer import DatasetWriter

        def read(path):
            writer = DatasetWriter(os.path.join(folder, "to"))
            options = custom_sources.SourceOptions()
            _, examples, _, _ = custom_sources.find_examples(writer, path, writer.to, options)
            str(writer).encode()
            for each in examples:
                assert each.path and all(each.labels), each
                assert each.part is None or 0 <= each.part.start < each.part.end, each
                if each.part and each.part.in_frames:
                    assert type(each.part.start) is type(each.part.end) is int, each

        return name, content, read

    return make


def table(name, content, *flags):
    """Tables of own videos, of which some are there, as `trn-jax prepare` takes them."""

    def make(folder):
        for video in ("a", "b", "c"):
            os.makedirs(os.path.join(folder, video))
            with open(os.path.join(folder, video, "00001.jpg"), "wb") as file:
                file.write(picture(0, ".jpg"))

        def read(path):
            to = os.path.join(folder, "to")
            shutil.rmtree(to, ignore_errors=True)
            run_command("prepare", path, f"--to={to}", "--workers=1", *flags)

        return name, content, read

    return make


def table_of_events(folder):
    """Predicted events and true ones, which are compared with themselves."""
    content = b"video,start,end,label,score\na/v.mp4,0.5,2,walk,0.9\nb/v.mp4,0:01,0:02.5,run,.5\n"
    truth = os.path.join(folder, "truth.csv")
    with open(truth, "wb") as file:
        file.write(content)

    def read(path):
        run_command("report", path, f"--truth={truth}", "--json")

    return "events.csv", content, read


def run_command(*arguments):
    """A command; raises what it prints as an error, like the readers."""
    from trn_jax import cli
    from trn_jax.errors import UserError

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = cli.main([*arguments])
    said.getvalue().encode()  # what is printed can be
    if status == 2:
        raise UserError(said.getvalue())


def class_names(folder):
    from trn_jax.data.class_names import read_class_names

    return "classes.txt", "Walking\nRunning fast\nGehen/Läufe\n".encode(), read_class_names


def image(extension):
    """Pictures as frames of a video."""

    def make(folder):
        from trn_jax.data.annotations import Record
        from trn_jax.data.frame_folders import FrameFolders

        source = FrameFolders(pattern="{:05d}" + extension, first_frame=1)

        def read(path):
            with source.open(Record(0, folder, 1, 0)) as opened:
                (frame,) = opened.read([0])
            assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3

        return f"00001{extension}", picture(0, extension), read

    return make


def video_file(folder):
    from trn_jax.data import videos
    from trn_jax.data.annotations import Record

    source = videos.VideoFiles()

    def read(path):
        with source.open(Record(0, path, 0, 0)) as opened:
            count = opened.num_frames
            for frame in opened.read(sorted({0, count // 2, count - 1})):
                assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3

    return "video.mp4", video(), read


def records(part, ending):
    """Records, of which one file is changed."""

    def make(folder):
        from trn_jax.data.records import VideoRecords
        from trn_jax.tfds.build_records import build_records

        data = os.path.join(folder, "data")
        for name in ("a", "b"):
            os.makedirs(os.path.join(data, "rawframes", name))
            for number in (1, 2):
                path = os.path.join(data, "rawframes", name, f"{number:05}.jpg")
                with open(path, "wb") as file:
                    file.write(picture(number, ".jpg"))
        for name, text in (("train_list", "a 2 0\n"), ("val_list", "b 2 1\n")):
            with open(os.path.join(data, f"{name}.txt"), "w") as file:
                file.write(text)
        with open(os.path.join(data, "label_map.txt"), "w") as file:
            file.write("x\ny\n")
        fields = {"train_list": "train_list.txt", "val_list": "val_list.txt"}
        fields |= {"frames": "rawframes", "class_names": "label_map.txt"}
        build_records(data, os.path.join(folder, "records"), files=fields)
        places = [
            os.path.join(root, name)
            for root, _, names in os.walk(os.path.join(folder, "records"))
            for name in names
        ]
        target = next(p for p in places if f"/{part}/" in p and ending in os.path.basename(p))
        root = os.path.dirname(os.path.dirname(os.path.dirname(target)))
        with open(target, "rb") as file:
            content = file.read()

        def read(path):
            source = VideoRecords(root)
            for record in source.videos("train", num_classes=2):
                source.check(record)
                with source.open(record) as opened:
                    opened.read([0, record.num_frames - 1])

        return target, content, read

    return make


def score_file(extension):
    def make(folder):
        from trn_jax.evaluation import score_files, scores

        found = scores.Scores(
            scores=np.float32([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]),
            labels=np.array([0, 1]),
            videos=["a/b", "c"],
            class_names=["x", "y", "z"],
            reversed_class={0: 1, 1: 0},
            protocol="efficient",
            about={"step": 3, "list": "val.txt"},
        )
        path = os.path.join(folder, f"s{extension}")
        score_files.write(path, found)
        with open(path, "rb") as file:
            content = file.read()

        def read(path):
            again = score_files.read(path)
            again.metrics()
            again.per_class()

        return f"s{extension}", content, read

    return make


def weights(name, make_content):
    def make(folder):
        from trn_jax.convert import num_classes, num_segments, read_torch_file

        def read(path):
            arrays = read_torch_file(path)
            shapes = {name: array.shape for name, array in arrays.items()}
            num_classes(shapes), num_segments(shapes)
            for array in arrays.values():
                np.array(array)  # as a model has it

        return name, make_content(), read

    return make


def state():
    """A state dict of the writers of `torch_files`."""
    from torch_files import Storage, surroundings, tensor, whole

    shared = Storage(np.arange(12, dtype=np.float32))
    entries = {
        "fc.weight": whole(np.ones((4, 3), np.float32)),
        "fc.bias": whole(np.zeros(4, np.float32)),
        "a": tensor(shared, (3, 4), (4, 1)),
        "b": tensor(shared, (2, 2), (0, 1), offset=2),
    }
    return surroundings() | {"state_dict": entries}


def zipped_weights():
    from torch_files import zip_file

    return zip_file(state())


def legacy_weights():
    from torch_files import legacy_file

    return legacy_file(state())


def plain_weights():
    from torch_files import safetensors_file

    arrays = {"fc.weight": np.ones((4, 3), np.float32), "fc.bias": np.zeros(4, np.float32)}
    return safetensors_file(arrays)


def log_of_training(folder):
    """`metrics.jsonl`, as a report reads it."""
    lines = [
        {"step": step, "group": group, "top1": 0.25 * step, "loss": 1.5}
        for step in (1, 2, 3)
        for group in ("train", "val")
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()

    def read(path):
        run_command("report", os.path.dirname(path), f"--to={folder}/report")

    return "workdir/metrics.jsonl", content, read


def result(folder):
    """A result of an evaluation, as a report reads it."""
    content = {
        "protocol": "efficient",
        "metrics": {"top1": 0.5, "mean_class": 0.5},
        "num_videos": 2,
        "num_views": 1,
        "per_class": [
            {"label": 0, "name": "x", "videos": 1, "accuracy": 1.0},
            {"label": 1, "name": "y", "videos": 1, "accuracy": None},
        ],
        "view": {"frame_order": "forward"},
        "early_recognition": [{"share": 0.5, "top1": 0.5}, {"share": 1.0, "top1": 0.5}],
        "checkpoint": "runs/a/checkpoints/1",
        "step": 1,
    }

    def read(path):
        run_command("report", path, f"--to={folder}/report")

    return "efficient.json", json.dumps(content).encode(), read


def order_card(folder):
    """An order card, as a report reads it beside a log."""
    card = {name: [0.5, None] for name in ("forward", "reversed", "shuffled", "frozen")}
    card |= {"classes": ["x", "y"], "num_videos": [2, 0], "protocol": "efficient", "chance": 0.5}
    log = os.path.join(folder, "metrics.jsonl")
    with open(log, "w", encoding="utf-8") as file:
        file.write('{"step": 1, "group": "train", "loss": 1.5}\n')

    def read(path):
        run_command("report", os.path.dirname(path), f"--to={folder}/page.html")

    return "order.json", json.dumps(card).encode(), read


def log_that_is_resumed(folder):
    """`metrics.jsonl`, of which a resumed training keeps what is intact."""
    from trn_jax.training.logs import Reporter

    lines = [{"step": step, "group": "train", "loss": 1.5} for step in range(6)]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()

    def read(path):
        with contextlib.redirect_stderr(io.StringIO()):
            workdir = os.path.dirname(path)
            Reporter(workdir, first_step=3, last_step=9, active=True).close()
        with open(path, encoding="utf-8") as file:
            assert all(json.loads(line)["step"] <= 3 for line in file)

    return "workdir/metrics.jsonl", content, read


def config_of_run(folder):
    """The configuration in the checkpoint of a run that is resumed."""
    from trn_jax.config import base
    from trn_jax.training import workdir

    config = base(dataset="frames", model="tsn_resnet10", num_classes=3)
    checkpoints = os.path.join(folder, "checkpoints")
    for item in ("about", "model", "optimizer"):
        os.makedirs(os.path.join(checkpoints, "1", item))
    about = {"config": config.to_dict(), "class_names": ["x", "y", "z"]}

    def read(path):
        workdir.check_config(config, checkpoints)

    return "checkpoints/1/about/metadata", json.dumps(about).encode(), read


def about_checkpoint(folder):
    """The JSON of a checkpoint that somebody else made, and what an evaluation makes of it."""
    from trn_jax.checkpoints import checkpoint
    from trn_jax.config import base
    from trn_jax.errors import UserError

    config = base(dataset="frames", model="tsn_resnet10", num_classes=3)
    about = {"config": config.to_dict(), "class_names": ["x", "y", "z"]}
    # As Orbax writes it; without checksums, as who changes the one changes the others.
    directory = pathlib.Path(folder, "checkpoint")
    os.makedirs(directory / "model")

    def read(path):
        found = checkpoint.open_checkpoint(directory).info
        config = from_dict(found["config"])
        checks.check_model(config, found["config"], directory)
        try:
            checkpoint.open_checkpoint(directory).load()
        except UserError as error:
            if "is not a checkpoint of trn_jax" not in str(error):  # it has no weights
                raise

    return "checkpoint/about/metadata", json.dumps(about).encode(), read


def hub_folder(name):
    """A file of a hub folder that somebody else made, and what another export makes of it."""

    def make(folder):
        from hub_models import stored

        from trn_jax.checkpoints import checkpoint, checksums
        from trn_jax.export import hub, model_card

        directory = pathlib.Path(folder, "hub")
        about = dict(metrics={"top1": 0.5}, source={"file": "a.pth", "sha256": "0" * 64})
        about |= dict(lists={"train": {"videos": 24, "sha256": "0" * 64}})
        place = stored(pathlib.Path(folder, "stored"), calibrated=True, **about)
        hub.write(checkpoint.open_checkpoint(place), directory, license="MIT")

        def read(path):
            checksums.write(directory)  # who changes the one changes the others
            opened = checkpoint.open_checkpoint(directory)
            content = hub.description(opened, opened.load())
            text = model_card.text(json.loads(json.dumps(content)), "hf:user/model")
            text.encode()

        return f"hub/{name}", (directory / name).read_bytes(), read

    return make


def exported(folder):
    """An exported program that somebody else made."""

    from trn_jax.export import stablehlo
    from trn_jax.export.program import Program, Tensor

    tensor = Tensor("clips", (2,), "float32")
    weights = {"scale": np.ones(2, np.float32)}
    program = Program("clip", lambda w, x: (w["scale"] * x,), weights, (tensor,), (tensor,))
    about = {"inputs": [tensor.to_dict()], "outputs": [tensor.to_dict()]}
    place = pathlib.Path(folder, "program.npz")  # so that what is in it is changed, too
    stablehlo.write(str(place), program, json.dumps(about), {"clips": np.ones(2, np.float32)})
    return place.name, place.read_bytes(), lambda path: stablehlo.load(path).golden()


TARGETS = {
    "list": lambda folder: lists(False),
    "list of several labels": lambda folder: lists(True),
    "table.csv": table("table.csv", b"video,class,split\na,walk,train\nb,run,val\nc,walk,train\n"),
    "table.txt": table("table.txt", b"a walk\nb run\nc walk\nd walk\n"),
    "events.csv": table_of_events,
    "table of parts": table("parts.csv", PARTS, "--frame-rate=25"),
    "activitynet": annotated("database.json", ACTIVITYNET),
    "label studio": annotated("tasks.json", LABEL_STUDIO),
    "elan": annotated("elan.eaf", ELAN),
    "cvat": annotated("cvat.xml", CVAT),
    "boris": annotated("boris.tsv", BORIS),
    "class names": class_names,
    "jpeg": image(".jpg"),
    "png": image(".png"),
    "video": video_file,
    "records of videos": records("videos", "train.array_record"),
    "records of frames": records("frames", "train.array_record"),
    "information on records": records("videos", "dataset_info.json"),
    "scores.npz": score_file(".npz"),
    "scores.json": score_file(".json"),
    "scores.pkl": score_file(".pkl"),
    "weights.pth": weights("w.pth", zipped_weights),
    "weights of old": weights("w.pkl", legacy_weights),
    "weights.safetensors": weights("w.safetensors", plain_weights),
    "log": log_of_training,
    "log that is resumed": log_that_is_resumed,
    "result": result,
    "order card": order_card,
    "config of a run": config_of_run,
    "about a checkpoint": about_checkpoint,
    "exported program": exported,
    "hub folder": hub_folder("config.json"),
    "tensors of a hub folder": hub_folder("model.safetensors"),
}


# What the files of some targets are called.
FILES = {
    "list": "list.txt",
    "list of several labels": "list.txt",
    "class names": "classes.txt",
    "jpeg": "00001.jpg",
    "png": "00001.png",
    "video": "video.mp4",
    **{f"scores{end}": f"s{end}" for end in (".npz", ".json", ".pkl")},
    **{f"weights{end}": f"w{end}" for end in (".pth", ".safetensors")},
    "weights of old": "w.pkl",
}


def main(folder, first, count, *names):
    """Run the seeds, each on the next one of the targets."""
    from bounded_reading import bound_memory, outcome

    made = {}
    for name in names or TARGETS:
        own = os.path.join(folder, name.replace(" ", "_"))
        os.makedirs(own)
        path, content, read = TARGETS[name](own)
        path = os.path.join(own, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
        read(path)  # without a mutation, all is well, and everything is loaded
        made[name] = path, content, read
    bound_memory(600)
    for seed in range(int(first), int(first) + int(count)):
        name = list(made)[seed % len(made)]
        path, content, read = made[name]
        with open(path, "wb") as file:
            file.write(mutated(path, content, seed))
        print(json.dumps({"target": name, "seed": seed} | outcome(read, path)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
