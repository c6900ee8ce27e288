"""Charades and Moments in Time from miniature archives in the official layouts."""

import os
import pathlib
import shutil

import miniature
import pytest

from trn_jax.data import annotations, datasets, decode
from trn_jax.errors import UserError
from trn_jax.prepare import charades, moments
from trn_jax.prepare.lists import ORDERS

LABEL_MAP = (
    pathlib.Path(__file__).parents[2].parent / "shared/data/label_maps/mmaction2_mit_label_map.txt"
)


# Charades

CLASSES = "c000 Holding some clothes\nc001 Putting clothes somewhere\nc002 Someone is smiling\n"
CHARADES_TRAIN = (
    "id,subject,actions,length\n"
    "46GP8,HR43,c002 0.00 1.00;c000 0.50 1.50;c002 1.00 1.50,30\n"
    "N11GT,0KZ7,c001 0.00 0.20,18\n"
    "0IH69,6RE8,,20\n"
    "GONE1,6RE8,c001 0.00 2.00,20\n"
)
CHARADES_TEST = 'id,script,actions,length\nYSKX3,"one, two",c001 0.10 99.00;c002 0.00 1.00,9\n'
COUNTS = {"46GP8": 36, "N11GT": 30, "0IH69": 5, "YSKX3": 20}


def write_charades(folder, train=CHARADES_TRAIN):
    folder.mkdir(exist_ok=True)
    files = {}
    for video, count in COUNTS.items():
        files |= miniature.frames(f"Charades_v1_rgb/{video}", count, video + "-{:06d}.jpg")
    (folder / "Charades_v1_rgb.tar").write_bytes(miniature.tar(files, "w"))
    texts = {"classes.txt": CLASSES, "train.csv": train, "test.csv": CHARADES_TEST}
    miniature.write_zip(
        folder / "Charades.zip", {f"Charades/Charades_v1_{n}": text for n, text in texts.items()}
    )


def prepare_charades(folder, to, orders=ORDERS):
    to.mkdir(exist_ok=True)
    return charades.prepare_charades(str(folder), str(to), workers=1, orders=orders)


def test_charades(tmp_path):
    write_charades(tmp_path / "in")
    writer = prepare_charades(tmp_path / "in", tmp_path / "charades")
    assert {path.name: path.read_text() for path in (tmp_path / "charades").glob("*.txt")} == {
        "categories.txt": "Holding some clothes\nPutting clothes somewhere\nSomeone is smiling\n",
        "train_segments.txt": "46GP8 1 24 2\n46GP8 12 36 0\n46GP8 24 36 2",
        "test_segments.txt": "YSKX3 2 20 1\nYSKX3 1 20 2",
        "train_frameno.txt": "46GP8 36\nN11GT 30\n0IH69 5",
        "test_frameno.txt": "YSKX3 20",
        "charades_train_list_rawframes.txt": "46GP8 36 2 0\nN11GT 30 1\n",
        "charades_val_list_rawframes.txt": "YSKX3 20 1 2\n",
        "missing.txt": "Charades_v1_rgb/GONE1\tPutting clothes somewhere\n",
    }
    said = str(writer)
    assert "train videos without frames: GONE1" in said
    assert "train videos without an action: 0IH69" in said
    assert "3 of 4 actions long enough" in said
    assert "train: 4 videos in the annotations, officially 7,985" in said
    assert "test: 1 videos in the annotations, officially 1,863" in said
    assert "--config.data.dataset=charades --config.data.multi_label=True" in said
    assert not prepare_charades(tmp_path / "in", tmp_path / "charades").changed


def test_charades_can_be_read(tmp_path):
    write_charades(tmp_path / "in")
    prepare_charades(tmp_path / "in", tmp_path / "charades")
    files = datasets.locate("charades", tmp_path / "charades")
    records = annotations.read_list(
        files.train_list, frames_root=files.frames, num_classes=3, multi_label=True
    )
    assert [(record.num_frames, record.label) for record in records] == [(36, (2, 0)), (30, (1,))]
    source = decode.FrameFolders(pattern=files.frame_pattern, first_frame=files.first_frame)
    for record in records:
        source.check(record)


@pytest.mark.parametrize("call", [2, 50, 94, 97, 100])
def test_charades_interrupted_and_run_again(tmp_path, call):
    write_charades(tmp_path / "in")
    prepare_charades(tmp_path / "in", tmp_path / "whole")
    with miniature.interrupted(os, "replace", call):
        prepare_charades(tmp_path / "in", tmp_path / "charades")
    prepare_charades(tmp_path / "in", tmp_path / "charades")
    assert miniature.tree(tmp_path / "charades") == miniature.tree(tmp_path / "whole")


def test_gaps_in_frames_of_charades(tmp_path):
    write_charades(tmp_path / "in")
    prepare_charades(tmp_path / "in", tmp_path / "charades")
    frames = tmp_path / "charades" / "Charades_v1_rgb"
    (frames / "46GP8" / "000001.jpg").unlink()
    (frames / "YSKX3" / "000007.jpg").unlink()
    (frames / "0IH69" / "000002.jpg").unlink()
    (frames / "N11GT").rename(tmp_path / "N11GT")
    with pytest.raises(UserError, match="charades/Charades_v1_rgb"):
        prepare_charades(tmp_path / "in", tmp_path / "charades")
    (tmp_path / "N11GT").rename(frames / "N11GT")
    writer = prepare_charades(tmp_path / "in", tmp_path / "charades")
    lines = (tmp_path / "charades" / "unreadable.txt").read_text().splitlines()
    found = dict(line.split("\t") for line in lines)
    assert {os.path.basename(path) for path in found} == {"46GP8", "YSKX3", "0IH69"}
    assert "'000001.jpg'" in found["Charades_v1_rgb/46GP8"]
    assert "'000007.jpg'" in found["Charades_v1_rgb/YSKX3"]
    lists = tmp_path / "charades"
    assert (lists / "charades_train_list_rawframes.txt").read_text() == "N11GT 30 1\n"
    assert (lists / "charades_val_list_rawframes.txt").read_text() == ""
    assert writer.status == 1


def test_charades_has_one_label_order(tmp_path):
    with pytest.raises(UserError, match="--order"):
        prepare_charades(tmp_path / "in", tmp_path / "charades", orders=("alphabetical",))


def test_frames_of_charades_under_their_names_in_the_archive(tmp_path):
    write_charades(tmp_path / "in")
    (tmp_path / "in" / "Charades_v1_rgb.tar").unlink()
    frames = miniature.frames("Charades_v1_rgb/46GP8", 3, "46GP8-{:06d}.jpg")
    miniature.put(tmp_path / "charades", frames)
    with pytest.raises(UserError, match=r"46GP8-000001\.jpg"):
        prepare_charades(tmp_path / "in", tmp_path / "charades")


@pytest.mark.parametrize("actions", ["c009 0.0 1.0", "c000 0.0", "c000 a b"])
def test_actions_of_charades_that_cannot_be_right(tmp_path, actions):
    write_charades(tmp_path / "in", f"id,actions\n46GP8,{actions}\n")
    with pytest.raises(UserError, match="46GP8: "):
        prepare_charades(tmp_path / "in", tmp_path / "charades")


# Moments in Time

CATEGORIES = {"clapping": 0, "adult+female+singing": 2, "praying": 1}
TABLES = {
    "trainingSet.csv": "clapping/a_1.mp4,clapping,3,0\npraying/b_2.mp4,praying,4,1\n",
    "validationSet.csv": "adult+female+singing/c_3.mp4,adult+female+singing,5,0\n",
}
VIDEOS = {
    "training/clapping/a_1.mp4": miniature.video(1),
    "training/praying/b_2.mp4": miniature.video(2),
    "validation/adult+female+singing/c_3.mp4": miniature.video(3),
}


def write_moments(folder, categories=CATEGORIES, top="Moments_in_Time_Raw/"):
    folder.mkdir(exist_ok=True)
    files = {f"{top}{path}": content for path, content in VIDEOS.items()}
    text = "".join(f"{name},{number}\n" for name, number in categories.items())
    files |= {f"{top}{name}": content.encode() for name, content in TABLES.items()}
    files |= {f"{top}moments_categories.txt": text.encode(), f"{top}license.pdf": b"%PDF"}
    miniature.write_zip(folder / "Moments_in_Time_Raw.zip", files)


def prepare_moments(folder, to):
    to.mkdir(exist_ok=True)
    return moments.prepare_moments(str(folder), str(to), workers=1, orders=ORDERS)


@pytest.mark.parametrize("top", ["Moments_in_Time_Raw/", ""])
def test_moments(tmp_path, top):
    write_moments(tmp_path / "in", top=top)
    writer = prepare_moments(tmp_path / "in", tmp_path / "mit")
    found = miniature.tree(tmp_path / "mit")
    assert {path for path in found if path.endswith(".mp4")} == {f"videos/{p}" for p in VIDEOS}
    assert {p.name: p.read_text() for p in (tmp_path / "mit").glob("*.txt")} == {
        "label_map.txt": "clapping\npraying\nadult+female+singing\n",
        "mit_train_list_videos.txt": "clapping/a_1.mp4 0\npraying/b_2.mp4 1\n",
        "mit_val_list_videos.txt": "adult+female+singing/c_3.mp4 2\n",
        "category.txt": "adult+female+singing\nclapping\npraying",
        "train_videolist.txt": "clapping/a_1.mp4 1\npraying/b_2.mp4 2",
        "val_videolist.txt": "adult+female+singing/c_3.mp4 0",
    }
    to = tmp_path / "mit"
    assert f"trn-jax extract {to}/videos --to={to}/rawframes" in str(writer)
    assert "training: 2 videos in the annotations, officially 802,264" in str(writer)
    assert writer.status == 0
    assert not prepare_moments(tmp_path / "in", tmp_path / "mit").changed


@pytest.mark.parametrize("line", ["{name} {number}", "{number},{name}"])
def test_other_indices_of_the_classes_of_moments(tmp_path, line):
    write_moments(tmp_path / "in")
    prepare_moments(tmp_path / "in", tmp_path / "mit")
    lines = [line.format(name=name, number=number) for name, number in CATEGORIES.items()]
    other = tmp_path / "in" / "moments_categories.txt"
    other.write_text("\n".join(lines))
    prepare_moments(tmp_path / "in", tmp_path / "mit")
    names = (tmp_path / "mit" / "label_map.txt").read_text()
    assert names == "clapping\npraying\nadult+female+singing\n"


def test_videos_of_moments_that_cannot_be_read(tmp_path):
    write_moments(tmp_path / "in")
    prepare_moments(tmp_path / "in", tmp_path / "mit")
    (tmp_path / "mit/videos/training/praying/b_2.mp4").write_bytes(b"")
    writer = prepare_moments(tmp_path / "in", tmp_path / "mit")
    (line,) = (tmp_path / "mit" / "unreadable.txt").read_text().splitlines()
    assert line.startswith("videos/training/praying/b_2.mp4\t")
    for name in ("mit_train_list_videos.txt", "train_videolist.txt"):
        assert len((tmp_path / "mit" / name).read_text().splitlines()) == 1
    assert writer.status == 1


def test_moments_with_frames_can_be_read(tmp_path):
    write_moments(tmp_path / "in")
    for video in VIDEOS:
        folder = f"rawframes/{os.path.splitext(video)[0]}"
        miniature.put(tmp_path / "mit", miniature.frames(folder, 2, "img_{:05d}.jpg"))
    writer = prepare_moments(tmp_path / "in", tmp_path / "mit")
    files = datasets.locate("moments", tmp_path / "mit")
    (record,) = annotations.read_list(files.val_list, frames_root=files.val_frames, num_classes=3)
    assert record.label == 2 and len(os.listdir(record.path)) == record.num_frames == 2
    assert "--config.data.dataset=moments --config.model.num_classes=3" in str(writer)


@pytest.mark.parametrize("call", [2, 4, 9, 12])
def test_moments_interrupted_and_run_again(tmp_path, call):
    write_moments(tmp_path / "in")
    prepare_moments(tmp_path / "in", tmp_path / "whole")
    with miniature.interrupted(os, "replace", call):
        prepare_moments(tmp_path / "in", tmp_path / "mit")
    prepare_moments(tmp_path / "in", tmp_path / "mit")
    assert miniature.tree(tmp_path / "mit") == miniature.tree(tmp_path / "whole")


def test_the_archive_of_moments_may_go_afterwards(tmp_path):
    write_moments(tmp_path / "in")
    prepare_moments(tmp_path / "in", tmp_path / "mit")
    shutil.rmtree(tmp_path / "in")
    assert not prepare_moments(tmp_path / "in", tmp_path / "mit").changed


def test_the_published_numbers_of_moments(tmp_path):
    if not LABEL_MAP.exists():
        pytest.skip("no real label files here")
    names = LABEL_MAP.read_text().splitlines()
    rest = [name for name in CATEGORIES if name not in names]
    numbers = {name: number for number, name in enumerate(names + rest)}
    write_moments(tmp_path / "in", dict(sorted(numbers.items())))
    prepare_moments(tmp_path / "in", tmp_path / "mit")
    assert (tmp_path / "mit" / "label_map.txt").read_text().splitlines()[:339] == names


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ({**CATEGORIES, "praying": 3}, "are not 0, 1, 2"),
        ({**CATEGORIES, "praying": "one"}, "praying,one"),
        ({"clapping": 0, "praying": 1}, "'adult\\+female\\+singing' of adult"),
    ],
)
def test_categories_of_moments_that_cannot_be_right(tmp_path, categories, message):
    write_moments(tmp_path / "in", categories)
    with pytest.raises(UserError, match=message):
        prepare_moments(tmp_path / "in", tmp_path / "mit")
