"""UCF101 and HMDB51 in miniature, in the layouts of their archives; data sets already unpacked."""

import os
import shlex

import miniature
import pytest
from miniature import prepare, published_names

from trn_jax import cli
from trn_jax.data import annotations, datasets
from trn_jax.data.class_names import read_class_names
from trn_jax.data.videos import VideoFile
from trn_jax.errors import UserError
from trn_jax.prepare import lists

UCF = ("ApplyEyeMakeup", "HandstandPushups", "YoYo")
GROUPS = {1: (8, 1), 2: (1, 8), 3: (9, 2)}  # split: groups of training and of test


def ucf_name(label, group):
    label = label.replace("Handstand", "HandStand")  # as in the names of the files
    return f"v_{label}_g{group:02d}_c01"


def ucf101(folder, *, flat=False, end="\n"):
    videos, texts = {}, {"classInd.txt": "".join(f"{n} {c}{end}" for n, c in enumerate(UCF, 1))}
    for label in UCF:
        for group in {g for pair in GROUPS.values() for g in pair}:
            place = "UCF-101" if flat else f"UCF-101/{label}"
            videos[f"{place}/{ucf_name(label, group)}.avi"] = miniature.video()
    for number, (train, test) in GROUPS.items():
        rows = [(f"{c}/{ucf_name(c, train)}.avi", n) for n, c in enumerate(UCF, 1)]
        texts[f"trainlist{number:02d}.txt"] = "".join(f"{v} {n}{end}" for v, n in rows)
        rows = [f"{c}/{ucf_name(c, test)}.avi{end}" for c in UCF]
        texts[f"testlist{number:02d}.txt"] = "".join(rows)
    miniature.put(folder, videos)
    return {f"ucfTrainTestlist/{name}": text for name, text in texts.items()}


def read(name, to, **names):
    files = datasets.locate(name, to, **names)
    class_names = read_class_names(files.class_names)
    found = []
    for split in ("train", "val"):
        path, root = files.of_split(split)
        records = annotations.read_list(path, frames_root=root, num_classes=len(class_names))
        assert all(os.path.exists(record.path) for record in records)
        found.append({os.path.basename(r.path): class_names[r.label] for r in records})
    return class_names, *found


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_ucf101_has_three_splits(tmp_path, flat, packed):
    texts = ucf101(tmp_path / "in", flat=flat, end="\r\n")
    if packed:
        name = "UCF101TrainTestSplits-RecognitionTask.zip"
        miniature.write_zip(tmp_path / "in" / name, texts)
    else:
        miniature.put(tmp_path / "in", {name: text.encode() for name, text in texts.items()})
    writer = prepare("ucf101", tmp_path / "in", tmp_path / "to")
    for number, (train, test) in GROUPS.items():
        lists = {
            f"{split}_list": f"ucf101_{split}_split_{number}_videos.txt"
            for split in ("train", "val")
        }
        names, *found = read("ucf101", tmp_path / "to", **lists)
        assert names == list(UCF)
        for group, split in zip((train, test), found, strict=True):
            assert split == {f"{ucf_name(label, group)}.avi": label for label in UCF}
    assert read("ucf101", tmp_path / "to")[1:] == tuple(
        {f"{ucf_name(label, group)}.avi": label for label in UCF} for group in GROUPS[1]
    )
    assert str(writer).count("files of 3 of 3 videos") == 6
    assert "training: 3 videos in the annotations, officially 9,586" in str(writer)
    assert "validation: 3 videos in the annotations, officially 3,696" in str(writer)
    (command,) = (line for line in str(writer).splitlines() if "trn-jax train" in line)
    assert shlex.split(command)[2:] == [
        "small",
        f"--config.data_dir={tmp_path}/to",
        "--workdir=runs/small",
        "--config.data.dataset=ucf101",
        "--config.train.epochs=1600",
        "--config.train.eval_every=80",
    ]
    assert "nothing to do" in str(prepare("ucf101", tmp_path / "in", tmp_path / "to"))


@pytest.mark.parametrize("line", ["{label} {number}", "{number},{label}"])
def test_other_indices_of_the_classes_of_ucf101(tmp_path, line):
    texts = ucf101(tmp_path / "in")
    lines = [line.format(label=label, number=number) for number, label in enumerate(UCF, 1)]
    texts["ucfTrainTestlist/classInd.txt"] = "\n".join(lines)
    miniature.put(tmp_path / "in", {name: text.encode() for name, text in texts.items()})
    prepare("ucf101", tmp_path / "in", tmp_path / "to")
    assert read("ucf101", tmp_path / "to")[0] == list(UCF)


def test_a_video_that_cannot_be_read_is_in_no_split(tmp_path, monkeypatch):
    texts = ucf101(tmp_path / "in")
    miniature.put(tmp_path / "in", {name: text.encode() for name, text in texts.items()})
    broken = f"{UCF[0]}/{ucf_name(UCF[0], 1)}.avi"  # for training and for testing
    (tmp_path / "in/UCF-101" / broken).write_bytes(b"no video")
    (tmp_path / "in/UCF-101" / UCF[2] / f"{ucf_name(UCF[2], 8)}.avi").unlink()
    opened = []
    monkeypatch.setattr(lists, "VideoFile", lambda path: opened.append(path) or VideoFile(path))
    writer = prepare("ucf101", tmp_path / "in", tmp_path / "to")
    assert len(opened) == len(set(opened)) == 11
    (line,) = (tmp_path / "to" / "unreadable.txt").read_text().splitlines()
    assert line.startswith(f"videos/{broken}\t")
    missing = (tmp_path / "to" / "missing.txt").read_text()
    assert missing == f"videos/{UCF[2]}/{ucf_name(UCF[2], 8)}\t{UCF[2]}\n"
    for path in (tmp_path / "to").glob("*_split_*.txt"):
        assert broken not in path.read_text()
    assert writer.status == 1


def test_frames_of_ucf101_have_lists_too(tmp_path):
    texts = ucf101(tmp_path / "in")
    miniature.put(tmp_path / "in", {name: text.encode() for name, text in texts.items()})
    for label in UCF:
        for group in (1, 8, 9):
            folder = f"rawframes/{label}/{ucf_name(label, group)}"
            miniature.put(tmp_path / "to", miniature.frames(folder, group, "img_{:05d}.jpg"))
    summary = str(prepare("ucf101", tmp_path / "in", tmp_path / "to"))
    assert (tmp_path / "to/ucf101_train_split_1_rawframes.txt").read_text() == "".join(
        f"{label}/{ucf_name(label, 8)} 8 {number}\n" for number, label in enumerate(UCF)
    )
    assert (tmp_path / "to/ucf101_val_split_1_videos.txt").exists()
    assert "3 validation videos without frames" in summary  # those of split 3
    assert datasets.locate("ucf101", tmp_path / "to").source == "frames"


def hmdb51(folder, labels=("brush_hair", "clap")):
    files = {}
    for label in labels:
        for number in range(4):
            files[f"hmdb51_org/{label}/#{number} [{label}];!_u_nm_np1.avi"] = miniature.video()
        for n in (1, 2, 3):
            rows = [
                f"#{number} [{label}];!_u_nm_np1.avi {(number + n) % 3} \n" for number in range(4)
            ]
            path = f"testTrainMulti_7030_splits/{label}_test_split{n}.txt"
            files[path] = "".join(rows).encode()
    miniature.put(folder, files)


def test_hmdb51_has_three_splits(tmp_path):
    hmdb51(tmp_path / "in")
    prepare("hmdb51", tmp_path / "in", tmp_path / "to")
    for n in (1, 2, 3):
        lists = {
            f"{split}_list": f"hmdb51_{split}_split_{n}_videos.txt" for split in ("train", "val")
        }
        names, *found = read("hmdb51", tmp_path / "to", **lists)
        assert names == ["brush_hair", "clap"]
        for part, split in zip((1, 2), found, strict=True):
            assert split == {
                f"#{number} [{label}];!_u_nm_np1.avi": label
                for label in names
                for number in range(4)
                if (number + n) % 3 == part
            }
    # Without the download, what was copied is enough.
    assert "nothing to do" in str(prepare("hmdb51", tmp_path / "to", tmp_path / "to"))


def test_missing_files_are_named(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(UserError, match=r"classInd\.txt, trainlist01\.txt"):
        prepare("ucf101", folder, tmp_path / "a")
    with pytest.raises(UserError, match=r"_test_split1\.txt.*test_train_splits\.rar"):
        prepare("hmdb51", folder, tmp_path / "b")
    texts = ucf101(tmp_path / "elsewhere")
    miniature.put(folder, {name: text.encode() for name, text in texts.items()})
    with pytest.raises(UserError, match=r"UCF-101"):
        prepare("ucf101", folder, tmp_path / "c")
    (folder / "UCF101.rar").write_bytes(b"Rar!")
    with pytest.raises(UserError, match=r"UCF101\.rar.*UCF-101"):
        prepare("ucf101", folder, tmp_path / "c")
    (folder / "UCF101.rar").unlink()
    videos = miniature.tree(tmp_path / "elsewhere")
    miniature.write_zip(folder / "UCF101.zip", {f"x/{name}": data for name, data in videos.items()})
    prepare("ucf101", folder, tmp_path / "c")
    assert (tmp_path / "c/videos/YoYo" / f"{ucf_name('YoYo', 1)}.avi").is_file()
    text = folder / "ucfTrainTestlist" / "testlist02.txt"
    text.write_text("no video\n")
    with pytest.raises(UserError, match=r"testlist02\.txt.*\n.*no video"):
        prepare("ucf101", folder, tmp_path / "d")
    text.write_text("../x.avi\n")
    with pytest.raises(UserError, match=r"\.\./x"):
        prepare("ucf101", folder, tmp_path / "d")


def test_the_command_knows_data_sets(tmp_path, capsys, monkeypatch):
    hmdb51(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["prepare", "hmdb51", "--archives=in", "--to=to"]) == 0
    assert "--config.data.dataset=hmdb51" in capsys.readouterr().out
    assert cli.main(["prepare", "hmdb51", "--to=to"]) == 2
    assert "--archives=" in capsys.readouterr().err
    assert cli.main(["prepare", "hmdb52", "--archives=in", "--to=to"]) == 2
    assert "'hmdb52'" in capsys.readouterr().err


def test_classes_of_hmdb51_have_the_order_of_mmaction2(tmp_path):
    names = published_names("hmdb51_label_map.txt")
    hmdb51(tmp_path / "in", labels=names[::-1])
    prepare("hmdb51", tmp_path / "in", tmp_path / "to")
    assert read("hmdb51", tmp_path / "to")[0] == names


# Already unpacked


@pytest.mark.parametrize("place", ["20bn-something-something-v2", "videos", "."])
def test_unpacked_videos_of_something_something_are_used_as_they_are(tmp_path, place):
    videos = {
        "train": (("1", "Doing [x]", miniature.video(1)),),
        "validation": (("2", "Doing [x]", miniature.video(2)),),
    }
    archives = tmp_path / "archives"
    miniature.sthv2(archives, videos, ["Doing x"])
    for part in archives.glob("20bn*"):
        part.unlink()
    miniature.put(archives / place, {"1.webm": miniature.video(1), "2.webm": miniature.video(2)})
    summary = str(prepare("sthv2", archives, tmp_path / "to"))
    assert f"the videos are those in {archives}" in summary
    assert (tmp_path / "to/sthv2_train_list_videos.txt").read_text() == "1.webm 0\n"
    assert (tmp_path / "to/sthv2_val_list_videos.txt").read_text() == "2.webm 0\n"
    assert "nothing to do" in str(prepare("sthv2", archives, tmp_path / "to"))
    # Archives that come later are not unpacked into the folder of somebody else.
    miniature.sthv2(
        archives, {"train": (("1", "Doing [x]", b"other"),), "validation": ()}, ["Doing x"]
    )
    (archives / "something-something-v2-validation.json").write_text("[]")
    prepare("sthv2", archives, tmp_path / "to")
    assert (archives / place / "1.webm").read_bytes() == miniature.video(1)


def test_unpacked_frames_of_jester_are_used_as_they_are(tmp_path):
    archives = tmp_path / "archives"
    frames = miniature.jester(archives)
    for part in archives.glob("20bn-jester-v1-*"):
        part.unlink()
    miniature.put(archives, frames)
    prepare("jester", archives, tmp_path / "to")
    assert (tmp_path / "to/train_videofolder.txt").read_text() == "34870 3 1\n56557 5 2"
    assert os.path.samefile(tmp_path / "to/20bn-jester-v1", archives / "20bn-jester-v1")
