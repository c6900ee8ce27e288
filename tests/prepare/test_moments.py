"""Moments in Time from a miniature archive in the official layout."""

import os
import shutil

import miniature
import pytest
from miniature import MOMENTS_CATEGORIES, MOMENTS_VIDEOS, prepare, published_names

from trn_jax.data import annotations, datasets
from trn_jax.errors import UserError


@pytest.mark.parametrize("top", ["Moments_in_Time_Raw/", ""])
def test_moments(tmp_path, top):
    miniature.moments(tmp_path / "in", top=top)
    writer = prepare("moments", tmp_path / "in", tmp_path / "mit")
    found = miniature.tree(tmp_path / "mit")
    assert {path for path in found if path.endswith(".mp4")} == {
        f"videos/{p}" for p in MOMENTS_VIDEOS
    }
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
    assert not prepare("moments", tmp_path / "in", tmp_path / "mit").changed


@pytest.mark.parametrize("line", ["{name} {number}", "{number},{name}"])
def test_other_indices_of_the_classes_of_moments(tmp_path, line):
    miniature.moments(tmp_path / "in")
    prepare("moments", tmp_path / "in", tmp_path / "mit")
    lines = [line.format(name=name, number=number) for name, number in MOMENTS_CATEGORIES.items()]
    other = tmp_path / "in" / "moments_categories.txt"
    other.write_text("\n".join(lines))
    prepare("moments", tmp_path / "in", tmp_path / "mit")
    names = (tmp_path / "mit" / "label_map.txt").read_text()
    assert names == "clapping\npraying\nadult+female+singing\n"


def test_videos_of_moments_that_cannot_be_read(tmp_path):
    miniature.moments(tmp_path / "in")
    prepare("moments", tmp_path / "in", tmp_path / "mit")
    (tmp_path / "mit/videos/training/praying/b_2.mp4").write_bytes(b"")
    writer = prepare("moments", tmp_path / "in", tmp_path / "mit")
    (line,) = (tmp_path / "mit" / "unreadable.txt").read_text().splitlines()
    assert line.startswith("videos/training/praying/b_2.mp4\t")
    for name in ("mit_train_list_videos.txt", "train_videolist.txt"):
        assert len((tmp_path / "mit" / name).read_text().splitlines()) == 1
    assert writer.status == 1


def test_moments_with_frames_can_be_read(tmp_path):
    miniature.moments(tmp_path / "in")
    for video in MOMENTS_VIDEOS:
        folder = f"rawframes/{os.path.splitext(video)[0]}"
        miniature.put(tmp_path / "mit", miniature.frames(folder, 2, "img_{:05d}.jpg"))
    writer = prepare("moments", tmp_path / "in", tmp_path / "mit")
    files = datasets.locate("moments", tmp_path / "mit")
    (record,) = annotations.read_list(files.val_list, frames_root=files.val_frames, num_classes=3)
    assert record.label == 2 and len(os.listdir(record.path)) == record.num_frames == 2
    assert "--config.data.dataset=moments --config.model.num_classes=3" in str(writer)


def test_the_archive_of_moments_may_be_deleted(tmp_path):
    miniature.moments(tmp_path / "in")
    prepare("moments", tmp_path / "in", tmp_path / "mit")
    shutil.rmtree(tmp_path / "in")
    assert not prepare("moments", tmp_path / "in", tmp_path / "mit").changed


def test_the_published_numbers_of_moments(tmp_path):
    names = published_names("mmaction2_mit_label_map.txt")
    rest = [name for name in MOMENTS_CATEGORIES if name not in names]
    numbers = {name: number for number, name in enumerate(names + rest)}
    miniature.moments(tmp_path / "in", dict(sorted(numbers.items())))
    prepare("moments", tmp_path / "in", tmp_path / "mit")
    assert (tmp_path / "mit" / "label_map.txt").read_text().splitlines()[:339] == names


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ({**MOMENTS_CATEGORIES, "praying": 3}, "are not 0, 1, 2"),
        ({**MOMENTS_CATEGORIES, "praying": "one"}, "praying,one"),
        ({"clapping": 0, "praying": 1}, "'adult\\+female\\+singing' of adult"),
    ],
)
def test_malformed_categories_of_moments(tmp_path, categories, message):
    miniature.moments(tmp_path / "in", categories)
    with pytest.raises(UserError, match=message):
        prepare("moments", tmp_path / "in", tmp_path / "mit")
