"""Lists of the available part of Kinetics-400."""

import miniature
import numpy as np
import pytest
from miniature import prepare, published_names

from trn_jax.data import annotations, datasets
from trn_jax.data.class_names import read_class_names
from trn_jax.errors import UserError
from trn_jax.prepare import kinetics, worker_pool
from trn_jax.prepare.lists import ORDERS

CLASSES = "abseiling\nair drumming\nmassaging person's head\n"


def texts(to):
    return {path.name: path.read_text() for path in to.glob("*.txt")}


def test_lists_of_the_videos_that_are_there(tmp_path):
    miniature.kinetics(tmp_path / "in")
    writer = prepare("k400", tmp_path / "in", tmp_path / "k400")
    assert texts(tmp_path / "k400") == {
        "label_map.txt": CLASSES,
        "kinetics400_train_list_videos.txt": (
            "abseiling/-3B32lodo2M_000059_000069.mp4 0\n"
            "air_drumming/3caPS4FHFF8_000036_000046.mkv 1\n"
        ),
        "kinetics400_val_list_videos.txt": "air drumming/00S_-abCdEf_000003_000013.mp4 1\n",
        "missing.txt": (
            "videos_train/0wR5jVB-WPk_000417_000427\tmassaging person's head\n"
            "videos_val/zzzzzzzzzzz_000001_000011\tabseiling\n"
        ),
    }
    summary = str(writer)
    assert "validation: published accuracies are of 19,796 videos" in summary
    assert "training: files of 2 of 3 videos" in summary
    assert "validation: files of 1 of 2 videos" in summary
    assert "1 files in videos_train that are not in the annotations: unheardof123_0000" in summary
    assert "0wR5jVB-WPk_000417_000427" in summary and "zzzzzzzzzzz_000001_000011" in summary
    to = tmp_path / "k400"
    assert summary.splitlines()[-3:-1] == [
        f"  trn-jax extract {to}/videos_{split} --to={to}/rawframes_{split}"
        for split in ("train", "val")
    ]
    assert (to / "videos_train").is_symlink() and (to / "annotations/kinetics_val.csv").exists()
    assert not prepare("k400", tmp_path / "in", tmp_path / "k400").changed


def test_hundreds_of_missing_videos_are_all_listed(tmp_path):
    rows = "".join(f"abseiling,{number:011d},0,10,train\n" for number in range(300))
    miniature.kinetics(tmp_path / "in", train=miniature.KINETICS_TRAIN + rows)
    writer = prepare("k400", tmp_path / "in", tmp_path / "k400")
    missing = (tmp_path / "k400" / "missing.txt").read_text().splitlines()
    assert len(missing) == 302 and "videos_train/00000000299_000000_000010\tabseiling" in missing
    assert f"00000000001_000000_000010, ... (all in {tmp_path}/k400/missing.txt)" in str(writer)
    assert writer.status == 0
    there = '"air drumming",3caPS4FHFF8,36,46,train\n'
    miniature.kinetics(tmp_path / "in", train=there, val=miniature.KINETICS_VAL.splitlines()[0])
    prepare("k400", tmp_path / "in", tmp_path / "k400")
    assert not (tmp_path / "k400" / "missing.txt").exists()


BROKEN = {
    "empty": b"",
    "cut off": miniature.video(1)[:200],
    "a page of a site": b"<html><body>429 Too Many Requests</body></html>" * 30,
    "a picture": miniature.jpeg(1),
    "noise": np.random.default_rng(0).bytes(5_000),
    "without frames": miniature.video(1, count=0),
}


@pytest.mark.parametrize(("case", "workers"), [*((case, 1) for case in BROKEN), ("noise", 2)])
def test_videos_that_cannot_be_read_stay_out_of_the_lists(tmp_path, monkeypatch, case, workers):
    monkeypatch.setattr(worker_pool, "MIN_PARALLEL_VIDEOS", 2)
    broken = "videos_train/abseiling/-3B32lodo2M_000059_000069.mp4"
    miniature.kinetics(tmp_path / "in", miniature.KINETICS_VIDEOS | {broken: BROKEN[case]})
    (tmp_path / "k400").mkdir()
    arguments = str(tmp_path / "in"), str(tmp_path / "k400")
    writer = kinetics.prepare_kinetics(*arguments, workers=workers, orders=ORDERS)
    found = texts(tmp_path / "k400")
    assert found["kinetics400_train_list_videos.txt"] == (
        "air_drumming/3caPS4FHFF8_000036_000046.mkv 1\n"
    )
    path, reason = found["unreadable.txt"].removesuffix("\n").split("\t")
    assert path == broken and "-3B32lodo2M_000059_000069.mp4" in reason
    assert broken not in found["missing.txt"]
    assert writer.status == 1 and f"1 training videos that cannot be read: {path}" in str(writer)
    (tmp_path / "in" / broken).write_bytes(miniature.KINETICS_VIDEOS[broken])
    assert prepare("k400", tmp_path / "in", tmp_path / "k400").status == 0
    assert "unreadable.txt" not in texts(tmp_path / "k400")


def test_a_broken_link_is_unreadable(tmp_path):
    miniature.kinetics(tmp_path / "in")
    path = tmp_path / "in/videos_val/air drumming/00S_-abCdEf_000003_000013.mp4"
    path.unlink()
    path.symlink_to("/nowhere.mp4")
    assert prepare("k400", tmp_path / "in", tmp_path / "k400").status == 1
    assert "videos_val/air drumming/00S" in texts(tmp_path / "k400")["unreadable.txt"]


@pytest.mark.parametrize(
    "index",
    [
        "massaging person's head 0\nabseiling 1\nair drumming 2\nzumba 3\n",
        "zumba 3\nair_drumming 2\nabseiling 1\nmassaging_person's_head 0\n",
        "0 massaging person's head\n1 abseiling\n2 air drumming\n3 zumba\n",
    ],
)
def test_an_index_of_the_classes_gives_their_numbers(tmp_path, index):
    miniature.kinetics(tmp_path / "in")
    (tmp_path / "in" / "kinetics_class2ind.txt").write_text(index)
    prepare("k400", tmp_path / "in", tmp_path / "k400")
    found = texts(tmp_path / "k400")
    assert found["label_map.txt"] == "massaging person's head\nabseiling\nair drumming\nzumba\n"
    assert found["kinetics400_val_list_videos.txt"].endswith(".mp4 2\n")


def test_an_index_without_a_class_of_the_annotations_is_refused(tmp_path):
    miniature.kinetics(tmp_path / "in")
    (tmp_path / "in" / "kinetics_class2ind.txt").write_text("abseiling 0\nair drumming 1\n")
    with pytest.raises(UserError, match=r"kinetics_class2ind\.txt: .massaging person"):
        prepare("k400", tmp_path / "in", tmp_path / "k400")


def test_folders_of_frames_with_gaps_stay_out_of_the_lists(tmp_path):
    miniature.kinetics(tmp_path / "in", {})
    pattern = datasets.DATASETS["k400"].frame_pattern
    train = "rawframes_train/abseiling/-3B32lodo2M_000059_000069"
    val = "rawframes_val/air drumming/00S_-abCdEf_000003_000013"
    for path in (train, val):
        miniature.put(tmp_path / "k400", miniature.frames(path, 20, pattern))
    (tmp_path / "k400" / train / "img_00017.jpg").unlink()
    writer = prepare("k400", tmp_path / "in", tmp_path / "k400")
    found = texts(tmp_path / "k400")
    assert found["kinetics400_train_list_rawframes.txt"] == ""
    assert found["kinetics400_val_list_rawframes.txt"].endswith("_000013 20 1\n")
    path, reason = found["unreadable.txt"].split("\t")
    assert path == train and "'img_00017.jpg'" in reason
    assert writer.status == 1


def test_line_ends_of_windows(tmp_path):
    miniature.kinetics(tmp_path / "in")
    prepare("k400", tmp_path / "in", tmp_path / "whole")
    for path in (tmp_path / "in").glob("*.csv"):
        path.write_bytes(("\ufeff" + path.read_text()).replace("\n", "\r\n").encode())
    prepare("k400", tmp_path / "in", tmp_path / "k400")
    assert texts(tmp_path / "k400") == texts(tmp_path / "whole")


def test_folders_of_other_names_and_videos_without_folders_of_classes(tmp_path):
    files = {
        "train/-3B32lodo2M_000059_000069.mp4": miniature.video(1),
        "val/00S_-abCdEf_000003_000013.mp4": miniature.video(2),
    }
    miniature.kinetics(tmp_path / "in", files)
    prepare("k400", tmp_path / "in", tmp_path / "k400")
    found = texts(tmp_path / "k400")
    assert found["kinetics400_train_list_videos.txt"] == "-3B32lodo2M_000059_000069.mp4 0\n"
    assert found["kinetics400_val_list_videos.txt"] == "00S_-abCdEf_000003_000013.mp4 1\n"


def test_the_archives_may_be_the_data_set(tmp_path):
    miniature.kinetics(tmp_path / "k400")
    prepare("k400", tmp_path / "k400", tmp_path / "k400")
    assert not (tmp_path / "k400" / "videos_train").is_symlink()
    assert "kinetics400_train_list_videos.txt" in texts(tmp_path / "k400")


def test_lists_of_frames_can_be_read(tmp_path):
    miniature.kinetics(tmp_path / "in")
    pattern = datasets.DATASETS["k400"].frame_pattern
    for path, count in (
        ("rawframes_train/abseiling/-3B32lodo2M_000059_000069", 3),
        ("rawframes_train/air_drumming/3caPS4FHFF8_000036_000046", 2),
        ("rawframes_val/air drumming/00S_-abCdEf_000003_000013", 4),
    ):
        miniature.put(tmp_path / "k400", miniature.frames(path, count, pattern))
    writer = prepare("k400", tmp_path / "in", tmp_path / "k400")
    files = datasets.locate("k400", tmp_path / "k400")
    class_names = read_class_names(files.class_names)
    val = annotations.read_list(files.val_list, frames_root=files.val_frames, num_classes=3)
    train = annotations.read_list(files.train_list, frames_root=files.frames, num_classes=3)
    assert [(class_names[r.label], r.num_frames) for r in val] == [("air drumming", 4)]
    assert [(class_names[r.label], r.num_frames) for r in train] == [
        ("abseiling", 3),
        ("air drumming", 2),
    ]
    assert "trn-jax train tsn_k400_3seg " in str(writer).splitlines()[-1]


def test_the_published_order_of_the_classes(tmp_path):
    names = published_names("label_map_k400.txt")
    rows = [f'"{name}",{number:011d},0,10,train\n' for number, name in enumerate(names)]
    miniature.kinetics(
        tmp_path / "in",
        {"train/00000000007_000000_000010.mp4": miniature.video()},
        "".join(reversed(rows)),
    )
    prepare("k400", tmp_path / "in", tmp_path / "k400")
    found = texts(tmp_path / "k400")
    assert found["label_map.txt"].splitlines() == names
    assert found["kinetics400_train_list_videos.txt"] == "00000000007_000000_000010.mp4 7\n"


def test_no_videos(tmp_path):
    miniature.kinetics(tmp_path / "in", {})
    with pytest.raises(UserError, match="videos_train and videos_val"):
        prepare("k400", tmp_path / "in", tmp_path / "k400")
    miniature.put(
        tmp_path / "in",
        {"videos_train/other/x.mp4": miniature.video(), "videos_val/y.mp4": miniature.video()},
    )
    with pytest.raises(UserError, match=f"{tmp_path}/k400/videos_train"):
        prepare("k400", tmp_path / "in", tmp_path / "k400")


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("abseiling,x,soon,later,train\n", "time_start and time_end in seconds"),
        ("abseiling,x\n", "line 2: "),
        ("abseiling,../x,1,2,train\n", "'../x'"),
        ("", r"kinetics_train\.csv names no class"),
    ],
)
def test_malformed_annotations(tmp_path, train, message):
    miniature.kinetics(tmp_path / "in", train=train)
    with pytest.raises(UserError, match=message):
        prepare("k400", tmp_path / "in", tmp_path / "k400")


def test_a_table_with_other_columns(tmp_path):
    miniature.kinetics(tmp_path / "in")
    (tmp_path / "in" / "kinetics_val.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="label, youtube_id, time_start, time_end"):
        prepare("k400", tmp_path / "in", tmp_path / "k400")
