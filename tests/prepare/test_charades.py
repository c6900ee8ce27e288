"""Charades from a miniature archive in the official layout."""

import os

import miniature
import pytest
from miniature import prepare

from trn_jax.data import annotations, datasets
from trn_jax.data.frame_folders import FrameFolders
from trn_jax.errors import UserError


def test_charades(tmp_path):
    miniature.charades(tmp_path / "in")
    writer = prepare("charades", tmp_path / "in", tmp_path / "charades")
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
    summary = str(writer)
    assert "train videos without frames: GONE1" in summary
    assert "train videos without an action: 0IH69" in summary
    assert "3 of 4 actions long enough" in summary
    assert "train: 4 videos in the annotations, officially 7,985" in summary
    assert "test: 1 videos in the annotations, officially 1,863" in summary
    assert "--config.data.dataset=charades --config.data.multi_label=True" in summary
    assert not prepare("charades", tmp_path / "in", tmp_path / "charades").changed


def test_charades_can_be_read(tmp_path):
    miniature.charades(tmp_path / "in")
    prepare("charades", tmp_path / "in", tmp_path / "charades")
    files = datasets.locate("charades", tmp_path / "charades")
    records = annotations.read_list(
        files.train_list, frames_root=files.frames, num_classes=3, multi_label=True
    )
    assert [(record.num_frames, record.label) for record in records] == [(36, (2, 0)), (30, (1,))]
    source = FrameFolders(pattern=files.frame_pattern, first_frame=files.first_frame)
    for record in records:
        source.check(record)


def test_gaps_in_frames_of_charades(tmp_path):
    miniature.charades(tmp_path / "in")
    prepare("charades", tmp_path / "in", tmp_path / "charades")
    frames = tmp_path / "charades" / "Charades_v1_rgb"
    (frames / "46GP8" / "000001.jpg").unlink()
    (frames / "YSKX3" / "000007.jpg").unlink()
    (frames / "0IH69" / "000002.jpg").unlink()
    (frames / "N11GT").rename(tmp_path / "N11GT")
    with pytest.raises(UserError, match="charades/Charades_v1_rgb"):
        prepare("charades", tmp_path / "in", tmp_path / "charades")
    (tmp_path / "N11GT").rename(frames / "N11GT")
    writer = prepare("charades", tmp_path / "in", tmp_path / "charades")
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
        prepare("charades", tmp_path / "in", tmp_path / "charades", orders=("alphabetical",))


def test_frames_of_charades_under_their_names_in_the_archive(tmp_path):
    miniature.charades(tmp_path / "in")
    (tmp_path / "in" / "Charades_v1_rgb.tar").unlink()
    frames = miniature.frames("Charades_v1_rgb/46GP8", 3, "46GP8-{:06d}.jpg")
    miniature.put(tmp_path / "charades", frames)
    with pytest.raises(UserError, match=r"46GP8-000001\.jpg"):
        prepare("charades", tmp_path / "in", tmp_path / "charades")


@pytest.mark.parametrize("actions", ["c009 0.0 1.0", "c000 0.0", "c000 a b"])
def test_malformed_actions_of_charades(tmp_path, actions):
    miniature.charades(tmp_path / "in", f"id,actions\n46GP8,{actions}\n")
    with pytest.raises(UserError, match="46GP8: "):
        prepare("charades", tmp_path / "in", tmp_path / "charades")
