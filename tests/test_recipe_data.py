"""The data of a configuration: its lists, class names and settings of reading."""

import pathlib

import numpy as np
import painted
import pytest
from small_training import write_frames

from trn_jax import config as configuration
from trn_jax.errors import UserError
from trn_jax.recipe_data import Data

NAMES = ("Waving left", "Waving right", "Nodding", "Leaning to port", "Leaning to starboard")


@pytest.fixture
def config(tmp_path):
    """A configuration of a data set of five classes."""
    (tmp_path / "label_map.txt").write_text("".join(f"{name}\n" for name in NAMES))
    config = configuration.base(dataset="frames", model="tsn_resnet10", num_classes=5)
    config.data_dir = str(tmp_path)
    return config


def data(config):
    return Data(config, workdir="unused")


def mirrored(config, **changes):
    return data(config).mirrored(configuration.view(**changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (dict(), {0: 1, 1: 0}),
        (dict(flip_labels=False), {}),
        (dict(flip_pairs=(NAMES[3:],)), {0: 1, 1: 0, 3: 4, 4: 3}),
        (dict(flip_labels=False, flip_pairs=(NAMES[3:],)), {3: 4, 4: 3}),
        (dict(flip_pairs=(("Waving left", "Nodding"),)), {0: 2, 2: 0}),
    ],
    ids=["told", "none", "more", "given", "instead"],
)
def test_labels_of_mirrored_clips_are_told_from_names_and_given(config, changes, expected):
    assert mirrored(config, **changes) == expected


def test_a_class_of_a_pair_that_does_not_exist_is_named(config):
    with pytest.raises(
        UserError, match=r"'Leaning to part' is not one of the 5.*'Leaning to port'"
    ):
        mirrored(config, flip_pairs=(("Leaning to part", "Nodding"),))


def test_the_exchanged_labels_are_shown(config):
    text = data(config).describe_flip(configuration.view(flip_pairs=(NAMES[3:],)))
    assert text.splitlines() == [
        "mirrored clips exchange these labels:",
        "  Waving left <-> Waving right",
        "  Leaning to port <-> Leaning to starboard",
    ]
    plain = configuration.view(flip_labels=False)
    assert data(config).describe_flip(plain) == "mirrored clips keep their label"


def test_validation_videos_may_lie_in_a_folder_of_their_own(config, tmp_path):
    for split, folder in (("train", "rawframes_train"), ("val", "rawframes_val")):
        frames = tmp_path / folder / f"{split}_video"
        frames.mkdir(parents=True)
        (frames / "00001.jpg").write_bytes(b"")
        (tmp_path / f"{split}_list.txt").write_text(f"{split}_video 1 0\n")
    config.data.update(frames="rawframes_train", val_frames="rawframes_val")
    found = data(config)
    assert found.train_records[0].path == str(tmp_path / "rawframes_train" / "train_video")
    assert found.val_records[0].path == str(tmp_path / "rawframes_val" / "val_video")
    assert found.val_names == ["val_video"]
    config.data.val_frames = None  # as the data set has it: the same folder
    assert data(config).files.val_frames == str(tmp_path / "rawframes_train")


def write_list(config, names):
    folder = pathlib.Path(config.data_dir)
    for split in ("train", "val"):
        text = "".join(f"{name} 0\n" for name in names)
        (folder / f"{split}_list.txt").write_text(text)
    (folder / "videos").mkdir(exist_ok=True)
    config.data.source = "videos"


def test_a_first_video_that_is_missing_ends_nothing_but_a_wrong_folder_does(config):
    write_list(config, [f"v{i}.mp4" for i in range(200)])
    videos = pathlib.Path(config.data_dir) / "videos"
    with pytest.raises(UserError, match=r"video 'v0\.mp4' not found in .*videos"):
        data(config).train_records  # noqa: B018
    (videos / "v100.mp4").write_bytes(b"is not looked into yet")
    assert len(data(config).train_records) == 200
    config.data.on_error = "raise"
    with pytest.raises(UserError, match=r"'v0\.mp4' not found"):
        data(config).train_records  # noqa: B018


def test_the_largest_frame_that_is_read_is_a_setting(config):
    assert data(config).source.max_pixels == 100_000_000
    config.data.max_pixels = 5
    for source in ("frames", "videos"):
        config.data.source = source
        assert data(config).source.max_pixels == 5


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(None, (4, None, None)), (8.0, (4, 0.5, 8))],
)
def test_the_typical_length_of_training_examples(config, tmp_path, rate, expected):
    lengths = {"a": 2, "b": 4, "c": 40}
    for name, count in lengths.items():
        write_frames(tmp_path / "rawframes" / name, count, np.random.default_rng(0))
    lines = [f"{name} {count} 0\n" for name, count in lengths.items()]
    (tmp_path / "train_list.txt").write_text("".join(lines))
    config.data.frame_rate = rate
    found = data(config).sampling()
    assert found == dict(zip(("num_frames", "seconds", "frame_rate"), expected, strict=True))


def test_the_typical_length_of_video_files_is_their_own(config, tmp_path):
    for name, count in (("a", 10), ("b", 20), ("c", 30)):
        painted.write(tmp_path / "videos" / f"{name}.mp4", painted.frames(count))
    (tmp_path / "videos" / "d.mp4").write_text("no video")
    lines = [f"{name}.mp4 0\n" for name in "abcd"]
    (tmp_path / "train_list.txt").write_text("".join(lines))
    found = data(config).sampling()
    assert found == {"num_frames": 20, "seconds": pytest.approx(0.8), "frame_rate": 25}
