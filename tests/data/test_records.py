"""Records: the same frames and clips as folders, and errors of corrupt ones."""

import dataclasses
import json
import os
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
import threading

import av
import numpy as np
import pytest
import simplejpeg
from absl import flags
from grey_videos import EVAL, VIEW, assert_same_batches, assert_same_videos, train

from trn_jax import cli
from trn_jax.data import annotations, batches, datasets, records, tf_example
from trn_jax.data.class_names import read_class_names
from trn_jax.data.decode import FrameError
from trn_jax.data.frame_folders import FrameFolders
from trn_jax.data.reader import ClipReader
from trn_jax.data.shards import Shards
from trn_jax.data.views import View
from trn_jax.errors import UserError

pytest.importorskip("tensorflow_datasets")

from trn_jax.tfds import contents, shard_writer
from trn_jax.tfds.build_records import build_records

NAMES = {"train": ["v0", "a folder/v 1", "Ärger", "v3", "v4"], "val": ["w0", "w1"]}


def write_frames(folder, num_frames, seed):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(1, num_frames + 1):
        frame = rng.integers(0, 256, (24, 32, 3)).astype(np.uint8)
        (folder / f"{number:05d}.jpg").write_bytes(simplejpeg.encode_jpeg(frame, quality=90))


def write_lists(root, *, num_classes=3, labels="{0}"):
    for split, names in NAMES.items():
        lines = [
            f"{name} {4 + i} {labels.format(i % 3, (i + 1) % 3)}\n" for i, name in enumerate(names)
        ]
        (root / f"{split}_list.txt").write_text("".join(lines))
    (root / "label_map.txt").write_text("".join(f"class {i}\n" for i in range(num_classes)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Seven videos of 4 to 8 frames of noise, as folders."""
    root = tmp_path_factory.mktemp("folders")
    for names in NAMES.values():
        for number, name in enumerate(names):
            write_frames(root / "rawframes" / name, 4 + number, [number, len(names)])
    write_lists(root)
    return root


@pytest.fixture(scope="module")
def stored(folders, tmp_path_factory):
    """The same as records, of several files."""
    to = tmp_path_factory.mktemp("records")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contents, "FRAMES_PER_SHARD", 10)
        build_records(str(folders), str(to))
    return to / "video_folder"


@pytest.fixture
def copy(stored, tmp_path):
    return shutil.copytree(stored, tmp_path / "copy")


def read(root, split="train", **options):
    """The source and the list of a data set as the recipe has them."""
    files = datasets.locate("frames", root)
    options = dict(num_classes=3) | options
    if files.source == "records":
        source = records.VideoRecords(os.path.dirname(files.frames))
        return source, source.videos("train" if split == "train" else "validation", **options)
    path = files.train_list if split == "train" else files.val_list
    found = annotations.read_list(path, frames_root=files.frames, **options)
    return FrameFolders(pattern=files.frame_pattern, first_frame=1), found


def reader(root, **options):
    source, found = read(root)
    options = (
        dict(seed=3, label_map={}, exact_resize=True, on_error="raise", num_threads=2) | options
    )
    return batches.BatchReader(found, View(**VIEW), source, **options)


# The same as frames


@pytest.mark.parametrize("split", ["train", "val"])
def test_lists_are_those_of_the_folders(folders, stored, split):
    _, expected = read(folders, split)
    _, found = read(stored, split)
    names = [record.name for record in found]
    assert names == NAMES[split]
    for record, other in zip(found, expected, strict=True):
        assert (record.index, record.num_frames, record.label) == (
            other.index,
            other.num_frames,
            other.label,
        )
    files, others = datasets.locate("frames", stored), datasets.locate("frames", folders)
    assert files.source == "records"
    roots = {"train": (files.frames, others.frames), "val": (files.val_frames, others.val_frames)}
    root, other_root = (os.path.join(path, "") for path in roots[split])
    assert [record.path.removeprefix(root) for record in found] == names
    assert [record.path.removeprefix(other_root) for record in expected] == names
    assert read_class_names(files.class_names) == [f"class {i}" for i in range(3)]


@pytest.mark.smoke
def test_all_frames_are_those_of_the_folders(folders, stored):
    for split in NAMES:
        (source, expected), (other, found) = read(folders, split), read(stored, split)
        for record, video in zip(expected, found, strict=True):
            other.check(video)
            with source.open(record) as frames, other.open(video) as opened:
                indices = [*range(record.num_frames), 0, 2, 2]
                assert opened.num_frames == frames.num_frames
                np.testing.assert_array_equal(opened.read(indices), frames.read(indices))
                path = os.path.join(record.path, "00003.jpg")
                with open(path, "rb") as file:
                    assert list(opened.images([2])) == [file.read()]


def test_training_batches_are_those_of_the_folders(folders, stored):
    expected, found = (train(reader(root), 4) for root in (folders, stored))
    assert_same_batches(found, expected)


def test_worker_processes(stored):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    found = train(reader(stored), 2, num_workers=1)
    assert_same_batches(found, train(reader(stored), 2))


def test_evaluation_is_that_of_the_folders(folders, stored):
    views = {"one": View(**EVAL), "ten": View(**EVAL | dict(crop="ten", sampling="twice"))}
    found = []
    for root in (folders, stored):
        source, videos = read(root, "val")
        reader = ClipReader(views, source)
        found.append([reader.read(video, (0, 0, video.index)) for video in videos])
    assert_same_videos(*found)


def test_only_what_is_sampled_is_read(stored, monkeypatch):
    source, videos = read(stored)
    numbers = []
    read_all = Shards.read

    def counted(self, some):
        if threading.current_thread() is threading.main_thread():  # others still read ahead
            numbers.append(some)
        return read_all(self, some)

    monkeypatch.setattr(Shards, "read", counted)
    with source.open(videos[2]) as video:
        video.read([5, 1, 5, 1])
    assert numbers == [[9 + 1, 9 + 5]]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="nothing tells the open files")
def test_the_system_reads_nothing_ahead(stored, tmp_path, monkeypatch):
    advice = []
    monkeypatch.setattr(os, "posix_fadvise", lambda file, *rest: advice.append(rest))
    # A copy, as readers of other tests may still have the files open.
    source, videos = read(shutil.copytree(stored, tmp_path / "copy"))
    advice.clear()
    for video in videos * 2:
        source.check(video)
    assert advice == [(0, 0, os.POSIX_FADV_RANDOM)] * 3  # once for each file


def test_opened_records_can_be_pickled(stored):
    source, videos = read(stored)
    with source.open(videos[1]) as video:
        expected = video.read([0, 3])
    copied, record = pickle.loads(pickle.dumps((source, videos[1])))
    assert record == videos[1]
    with copied.open(record) as video:
        np.testing.assert_array_equal(video.read([0, 3]), expected)


def test_a_video_is_in_one_file(stored):
    files = sorted(path.name for path in (stored / "frames/1.0.0").glob("*train*"))
    assert len(files) == 3
    info = json.loads((stored / "frames/1.0.0/dataset_info.json").read_text())
    splits = {split["name"]: split["shardLengths"] for split in info["splits"]}
    assert splits == {"train": ["15", "7", "8"], "validation": ["9"]}


def test_several_labels(folders, tmp_path):
    (tmp_path / "rawframes").symlink_to(folders / "rawframes")
    write_lists(tmp_path, labels="{0} {1}")
    for split in NAMES:  # lists with several labels have no spaces in names
        path = tmp_path / f"{split}_list.txt"
        lines = [line for line in path.read_text().splitlines() if " folder" not in line]
        path.write_text("\n".join(lines))
    said = build_records(str(tmp_path), str(tmp_path / "to"), multi_label=True)
    assert "--config.data.multi_label=True" in said
    _, found = read(tmp_path / "to/video_folder", multi_label=True)
    assert [record.label for record in found] == [(0, 1), (2, 0), (0, 1), (1, 2)]
    with pytest.raises(UserError, match=r"v0 has several labels; set data.multi_label=True"):
        read(tmp_path / "to/video_folder")


# The recipe


def data_of(root, tmp_path, **settings):
    from trn_jax.config import base
    from trn_jax.recipe_data import Data

    config = base(dataset="frames", model="tsn_resnet10", num_classes=3)
    config.data_dir = str(root)
    config.data.train.update(VIEW)
    config.model.num_segments = 3
    config.data.num_threads = 1
    for key, value in settings.items():
        config.data[key] = value
    return Data(config, str(tmp_path))


def test_the_recipe_is_the_same(folders, stored, tmp_path):
    expected, found = data_of(folders, tmp_path), data_of(stored, tmp_path)
    assert found.files.source == "records"
    assert found.class_names == expected.class_names
    assert found.val_names == expected.val_names == NAMES["val"]
    np.testing.assert_array_equal(found.train_labels, expected.train_labels)
    with pytest.raises(UserError, match=r"leave out data\.train_list"):
        data_of(stored, tmp_path, train_list="other.txt")
    with pytest.raises(UserError, match=r"no records in .*: videos/<version>/dataset"):
        data_of(folders, tmp_path, source="records")


# For users of TFDS


def test_tfds_reads_records_without_tensorflow(folders, stored):
    code = f"""
import sys
import threading
from importlib.machinery import PathFinder
class WithoutTensorFlow(PathFinder):
    @classmethod
    def find_spec(cls, name, *rest):
        return None if name == "tensorflow" else super().find_spec(name, *rest)
sys.meta_path[:] = [WithoutTensorFlow if f is PathFinder else f for f in sys.meta_path]
import tensorflow_datasets as tfds
videos, frames = (
    tfds.data_source(f"video_folder/{{part}}", data_dir={os.fspath(stored.parent)!r})
    for part in ("videos", "frames")
)
print(len(videos["train"]), len(videos["validation"]), len(frames["train"]))
video, frame = videos["train"][2], frames["train"][10]
print(video["video"].decode(), video["label"], video["num_frames"], video["first_frame"])
print(frame["video"].decode(), frame["frame"], frame["image"].shape, frame["image"].dtype)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "5 2 30",
        "Ärger 2 6 9",
        "Ärger 1 (24, 32, 3) uint8",
    ]


def test_tfds_load_with_tensorflow(stored):
    pytest.importorskip("tensorflow")
    import tensorflow_datasets as tfds

    videos, frames = (
        tfds.load(f"video_folder/{part}", data_dir=os.fspath(stored.parent), split="validation")
        for part in ("videos", "frames")
    )
    assert [video["video"].decode() for video in videos.as_numpy_iterator()] == NAMES["val"]
    assert [frame["image"].shape for frame in frames.as_numpy_iterator()] == [(24, 32, 3)] * 9


def test_the_data_sets_of_the_field(folders, tmp_path):
    (tmp_path / "rawframes").symlink_to(folders / "rawframes")
    write_lists(tmp_path, num_classes=174)
    for split in NAMES:
        name = f"sthv1_{split}_list_rawframes.txt"
        (tmp_path / f"{split}_list.txt").rename(tmp_path / name)
    said = build_records(str(tmp_path), str(tmp_path / "to"), dataset="sthv1")
    assert "trn-jax train trn_sthv1 " in said
    assert f"--config.data_dir={tmp_path}/to/something_something_v1" in said
    root = tmp_path / "to" / "something_something_v1"
    files = datasets.locate("sthv1", root)
    assert len(read_class_names(files.class_names)) == 174
    (tmp_path / "label_map.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"sthv1 has 174 classes, but .* names 2; .*dataset=frames"):
        build_records(str(tmp_path), str(tmp_path / "other"), dataset="sthv1")


def test_frames_of_video_files(tmp_path):
    for name, count in (("a.mp4", 70), ("b.mp4", 3)):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for number in range(count):
                pixels = np.full((48, 64, 3), 3 * number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).rename(tmp_path / "videos" / name)
    (tmp_path / "train_list.txt").write_text("a.mp4 0\nbroken.mp4 1\nempty.mp4 0\n")
    (tmp_path / "val_list.txt").write_text("b.mp4 1\n")
    (tmp_path / "label_map.txt").write_text("x\ny\n")
    (tmp_path / "videos" / "broken.mp4").write_text("no video")
    (tmp_path / "videos" / "empty.mp4").write_text("")
    left_out = []
    options = dict(short_side=24, quality=80, left_out=left_out)
    said = build_records(str(tmp_path), str(tmp_path / "to"), **options)
    assert left_out == ["broken.mp4", "empty.mp4"] and "2 videos that cannot be read" in said
    lines = (tmp_path / "to/video_folder/unreadable.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == left_out
    source, (video,) = read(tmp_path / "to/video_folder")
    assert (video.name, video.num_frames) == ("a.mp4", 70)
    with source.open(video) as opened:
        first, late = opened.read([0, 66])
    assert first.shape == (24, 32, 3)
    assert abs(float(late.mean()) - 3 * 66) < 6


# Making them


def test_the_command(folders, tmp_path, capsys):
    to = tmp_path / "to"
    assert cli.main(["records", str(folders), f"--to={to}"]) == 0
    said = capsys.readouterr().out
    assert "train: 5 videos, 30 frames" in said and "of frames\n" in said
    (command,) = (line for line in said.splitlines() if "trn-jax train" in line)
    assert shlex.split(command)[2:] == [
        "small",
        f"--config.data_dir={to}/video_folder",
        "--workdir=runs/small",
        "--config.train.epochs=960",
        "--config.train.eval_every=48",
    ]
    before = {path: path.stat().st_mtime_ns for path in to.rglob("*") if path.is_file()}
    assert cli.main(["records", str(folders), f"--to={to}"]) == 0
    assert capsys.readouterr().out == said
    assert {path: path.stat().st_mtime_ns for path in to.rglob("*") if path.is_file()} == before
    assert cli.main(["records", str(folders), f"--to={to}", "--train-list=val_list.txt"]) == 2
    assert "has records of other videos" in capsys.readouterr().err
    assert cli.main(["records", f"{to}/video_folder", f"--to={tmp_path}/again"]) == 2
    assert "has records already" in capsys.readouterr().err
    assert cli.main(["records", str(folders), f"--to={tmp_path}/x", "--quality=101"]) == 2
    assert "quality=101 from 1 to 100" in capsys.readouterr().err


def test_records_have_the_test_list_too(folders, tmp_path, stored):
    shutil.copytree(folders, tmp_path / "data")
    names = NAMES["val"]
    lines = (folders / "val_list.txt").read_text().splitlines(keepends=True)
    (tmp_path / "data" / "test_list.txt").write_text(lines[1])
    said = build_records(str(tmp_path / "data"), str(tmp_path / "to"))
    assert "test: 1 videos" in said
    files = datasets.locate("frames", tmp_path / "to/video_folder")
    source = records.VideoRecords(os.path.dirname(files.frames))
    (video,) = source.videos("test", num_classes=3)
    assert video.name == names[1] and video.path == f"{files.test_frames}/{names[1]}"
    with source.open(video) as found:
        stored_pixels = found.read([0, 3])
    with FrameFolders(pattern="{:05d}.jpg", first_frame=1).open(
        annotations.Record(0, str(folders / "rawframes" / names[1]), video.num_frames, 0)
    ) as found:
        np.testing.assert_array_equal(stored_pixels, found.read([0, 3]))
    # Records that were made without one say so.
    with pytest.raises(UserError, match="no split 'test', only train, validation"):
        records.VideoRecords(str(stored)).videos("test", num_classes=3)


def test_own_videos_become_records_if_asked(folders, tmp_path, capsys):
    for number in range(4):
        folder = tmp_path / "own" / ("left", "right")[number % 2] / f"take {number}"
        shutil.copytree(folders / "rawframes/v0", folder)
        for path in sorted(folder.iterdir()):
            path.rename(folder / f"img_{int(path.stem) - 1:03d}.jpg")
    to = tmp_path / "to"
    assert cli.main(["prepare", f"{tmp_path}/own", f"--to={to}", "--records"]) == 0
    assert f"--config.data_dir={to}/records/video_folder" in capsys.readouterr().out
    _, found = read(to / "records/video_folder", num_classes=2)
    assert [record.num_frames for record in found] == [4, 4]


def contents_of(root):
    """What can be read of records, all of it."""
    found = []
    for split in NAMES:
        source, videos = read(root, split)
        for video in videos:
            images = source.open(video).images(range(video.num_frames))
            found.append((video.name, video.label, images))
    return found


def test_what_was_interrupted_goes_on(folders, stored, tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "FRAMES_PER_SHARD", 10)
    read_file, count = contents.read_image_file, [0]

    def interrupted(path):
        count[0] += 1
        if count[0] == 24:
            raise KeyboardInterrupt
        return read_file(path)

    to = tmp_path / "to"
    monkeypatch.setattr(contents, "read_image_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_records(str(folders), str(to))
    assert not records.is_records(to / "video_folder")
    build_records(str(folders), str(to))
    assert count[0] == 24 + 39 - 22  # two files, of 15 and 7 frames, were complete
    assert contents_of(to / "video_folder") == contents_of(stored)
    for path in stored.rglob("*.array_record-*"):
        assert (to / "video_folder" / path.relative_to(stored)).read_bytes() == path.read_bytes()
    left = [path.name for path in to.rglob("*") if "unfinished" in path.name]
    assert left == [path.name for path in to.rglob("*") if "incomplete" in path.name] == []


def test_a_killed_build_leaves_nothing_behind(folders, tmp_path):
    to = tmp_path / "to"
    code = f"""
import os, signal
from trn_jax.tfds import contents
from trn_jax.tfds.build_records import build_records
count = [0]
read = contents.read_image_file
def killed(path):
    count[0] += 1
    if count[0] == 33:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(path)
contents.read_image_file = killed
build_records({os.fspath(folders)!r}, {os.fspath(to)!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert list(to.rglob("incomplete.*"))
    with pytest.raises(UserError, match="no records in"):
        records.VideoRecords(os.fspath(to / "video_folder"))
    build_records(str(folders), str(to))
    assert len(contents_of(to / "video_folder")) == 7
    assert not list(to.rglob("incomplete.*")) + list(to.rglob(".unfinished*"))


def test_classes_that_are_named_twice(folders, tmp_path):
    (tmp_path / "names.txt").write_text("a\nb\na\n")
    files = {"class_names": f"{tmp_path}/names.txt"}
    with pytest.raises(UserError, match=r"(?s)names\.txt .*twice: a"):
        build_records(str(folders), str(tmp_path / "to"), files=files)


def test_folders_with_missing_or_empty_frames_are_left_out(folders, tmp_path, capsys):
    shutil.copytree(folders, tmp_path / "from")
    (tmp_path / "from/rawframes/v3/00002.jpg").unlink()
    (tmp_path / "from/rawframes/v0/00004.jpg").write_bytes(b"")
    assert cli.main(["records", f"{tmp_path}/from", f"--to={tmp_path}/to"]) == 1
    said = capsys.readouterr().out
    assert "2 videos that cannot be read" in said
    found = [record.name for record in read(tmp_path / "to/video_folder")[1]]
    assert found == [name for name in NAMES["train"] if name not in ("v0", "v3")]
    text = (tmp_path / "to/video_folder/unreadable.txt").read_text()
    assert "'00002.jpg' not found" in text and "00004.jpg is empty" in text


def test_a_disk_that_is_full(folders, tmp_path, monkeypatch):
    class Full:
        def __init__(self, *_):
            pass

        def write(self, _):
            raise RuntimeError("No space left on device")

        def close(self):
            pass

    monkeypatch.setattr(shard_writer, "ArrayRecordWriter", Full)
    with pytest.raises(UserError, match=r"cannot write .*No space left.*make room"):
        build_records(str(folders), str(tmp_path / "to"))
    assert not records.is_records(tmp_path / "to/video_folder")


def test_tfds_is_missing(folders, tmp_path):
    code = """
import sys
import threading
sys.modules["tensorflow_datasets"] = None
from trn_jax import cli
sys.exit(cli.main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", code, "records", str(folders), f"--to={tmp_path}/to"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'trn_jax[tfds]'" in done.stderr


# What is wrong with them


def shard(root, part="frames", split="train", number=0):
    return sorted((root / part / "1.0.0").glob(f"*-{split}.*"))[number]


def drop_shard(root):
    shard(root, number=1).unlink()


def cut_shard(root):
    path = shard(root)
    path.write_bytes(path.read_bytes()[:-70_000])


def empty_shard(root):
    shard(root).write_bytes(b"")


def no_shard(root):
    shard(root).write_bytes(b"not a record at all" * 10_000)


def exchange_shards(root):
    shutil.copy(shard(root, number=2), shard(root, number=1))


def drop_videos(root):
    shutil.rmtree(root / "videos")


def drop_info(root):
    (root / "frames/1.0.0/dataset_info.json").unlink()


def break_info(root):
    (root / "frames/1.0.0/dataset_info.json").write_text("{}")


def drop_names(root):
    (root / "videos/1.0.0/label.labels.txt").unlink()


def cut_videos(root):
    path = shard(root, "videos")
    path.write_bytes(path.read_bytes()[:-70_000])


def exchange_splits(root):
    shutil.copy(shard(root, "videos", "validation"), shard(root, "videos"))
    path = root / "videos/1.0.0/dataset_info.json"
    path.write_text(path.read_text().replace('"5"', '"2"'))


BAD = {
    "missing shard": (drop_shard, r"array_record-00001-of-00003 is missing"),
    "cut shard": (cut_shard, "array_record.* corrupt"),
    "empty shard": (empty_shard, "array_record.* corrupt"),
    "no shard": (no_shard, "array_record.* corrupt"),
    "other shard": (exchange_shards, "has 8 records, but dataset_info.json .* says 7"),
    "no videos": (drop_videos, "no records in .*: videos/<version>"),
    "no info": (drop_info, "no records in .*: frames/<version>"),
    "bad info": (break_info, r"dataset_info\.json .*\(KeyError: 'splits'\)"),
    "no names": (drop_names, "label.labels.txt"),
    "cut videos": (cut_videos, "array_record.* corrupt"),
    "other split": (exchange_splits, "train has 30 frames, but its videos have 9"),
}


@pytest.mark.parametrize("case", BAD)
def test_corrupt_records_are_explained(copy, case):
    make, message = BAD[case]
    make(copy)
    with pytest.raises(UserError, match=message):
        contents_of(copy)


def test_labels_that_do_not_exist(stored):
    with pytest.raises(UserError, match=r"video 2 of train: label 2 of Ärger is not in 0..1"):
        read(stored, num_classes=2)
    with pytest.raises(UserError) as error:
        read(stored, num_classes=1)
    assert [line.split()[1] for line in str(error.value).splitlines()[1:]] == ["1", "2", "4"]
    with pytest.raises(UserError, match=r"v0 has one label; set data.multi_label=False"):
        read(stored, multi_label=True)


@pytest.mark.parametrize("index", [-1, 4])
def test_frames_that_do_not_exist(stored, index):
    source, videos = read(stored)
    with pytest.raises(FrameError, match=f"no frame {index} in .*v0, which has 4"):
        source.open(videos[0]).read([0, index])


def test_frames_of_another_video(stored):
    source, videos = read(stored)
    other = dataclasses.replace(videos[1], first_frame=0)
    with pytest.raises(FrameError, match=r"has frame 0 of 'v0', expected frame 0 of .*v 1"):
        source.check(other)


def test_a_frame_that_is_no_image(folders, tmp_path):
    shutil.copytree(folders, tmp_path / "from")
    (tmp_path / "from/rawframes/v0/00002.jpg").write_bytes(b"\xff\xd8 no more")
    (tmp_path / "from/rawframes/v0/00003.jpg").write_bytes(b"text")
    build_records(str(tmp_path / "from"), str(tmp_path / "to"))
    source, videos = read(tmp_path / "to/video_folder")
    with pytest.raises(FrameError, match=r"decode frame 1 of .*v0 \(10 bytes\).*build the"):
        source.open(videos[0]).read([1])
    with pytest.raises(FrameError, match=r"frame 2 of .*v0 is neither a JPEG nor"):
        source.open(videos[0]).read([2])
    batch = reader(tmp_path / "to/video_folder", on_error="skip")([(0, videos[0])] * 2)
    assert batch["clip"].shape[0] == 2


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_records_give_errors_and_nothing_else(copy, count):
    path = shard(copy)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    source, videos = read(copy)
    expected = [source.open(video).images([1]) for video in videos[:3]]
    failed = 0
    for _ in range(count):
        data = bytearray(whole)
        for at in rng.integers(0, len(whole), 40):
            data[at] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        try:
            source, videos = read(copy)
            found = [source.open(video).images([1]) for video in videos[:3]]
            assert found == expected
        except FrameError:
            failed += 1
    assert 0 < failed < count


def test_messages_that_are_cut_or_changed():
    from tensorflow_datasets.proto import tf_example_pb2 as example_pb2
    from tensorflow_datasets.proto import tf_feature_pb2 as feature_pb2

    values = {
        "numbers": [0, -1, 300, 2**62],
        "texts": [b"", b"x" * 300, "ä".encode()],
        "none": [],
    }
    features = {
        "numbers": feature_pb2.Feature(int64_list={"value": values["numbers"]}),
        "texts": feature_pb2.Feature(bytes_list={"value": values["texts"]}),
        "none": feature_pb2.Feature(int64_list={}),
        "floats": feature_pb2.Feature(float_list={"value": [1.5]}),
    }
    data = example_pb2.Example(features={"feature": features}).SerializeToString()
    assert tf_example.parse(data) == values
    rng = np.random.default_rng(0)
    for _ in range(500):
        changed = bytearray(data)
        changed[rng.integers(len(data))] = rng.integers(256)
        for broken in (bytes(changed), data[: rng.integers(len(data))]):
            try:
                tf_example.parse(broken)
            except ValueError:
                continue


def test_without_the_library_it_is_said_what_to_do(stored, monkeypatch):
    monkeypatch.setitem(sys.modules, "array_record", None)
    with pytest.raises(UserError, match=r"array-record.*data\.source=frames"):
        records.VideoRecords(str(stored))
