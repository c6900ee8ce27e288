"""The doctor: every planted defect is found, a clean tree has none, and its clean list trains."""

import re
import shutil

import av
import numpy as np
import pytest
import simplejpeg

from trn_jax import cli
from trn_jax.data import annotations, batches, check, videos
from trn_jax.data.frame_folders import FrameFolders
from trn_jax.data.views import View
from trn_jax.errors import UserError

CLASSES = ["a", "b", "c", "d"]
FOLDERS = FrameFolders(pattern="{:05d}.jpg", first_frame=1)


def write_frames(folder, count, *, size=(24, 32), first=1, pattern="{:05d}.jpg"):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(list(folder.name.encode()))
    for number in range(first, first + count):
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        (folder / pattern.format(number)).write_bytes(simplejpeg.encode_jpeg(pixels))


@pytest.fixture
def tree(tmp_path):
    """A clean data set of folders of frames: 40 + 8 videos of 4 classes."""
    for split, count in (("train", 40), ("val", 8)):
        lines = []
        for index in range(count):
            name = f"{split}{index:02d}"
            write_frames(tmp_path / "rawframes" / name, 4 + index % 9)
            lines.append(f"{name} {4 + index % 9} {index % 4}\n")
        (tmp_path / f"{split}_list.txt").write_text("".join(lines))
    (tmp_path / "label_map.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return tmp_path


def look(tree, *, source=FOLDERS, class_names=CLASSES, **options):
    lists = {name: (tree / f"{name}_list.txt", tree / "rawframes") for name in ("train", "val")}
    return check.check(lists, source, class_names=class_names, **options)


def replace(tree, number, line, split="train"):
    path = tree / f"{split}_list.txt"
    lines = path.read_text().splitlines()
    lines[number] = line
    path.write_text("\n".join(lines) + "\n")


def frames_of(tree, number, split="train"):
    return tree / "rawframes" / f"{split}{number:02d}"


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


def renumber(folder, shift):
    for path in sorted(folder.iterdir(), reverse=shift > 0):
        path.rename(folder / f"{int(path.stem) + shift:05d}.jpg")


# Each changes video 4 * n of the training list or line 4 * n of it, and what is said of it.
DEFECTS = [
    (lambda t, n: shutil.rmtree(frames_of(t, n)), "folder .* not found"),
    (lambda t, n: renumber(frames_of(t, n), -1), "are numbered from 0"),
    (lambda t, n: frames_of(t, n).joinpath("00003.jpg").unlink(), "1 frames are missing .*00003"),
    (lambda t, n: replace(t, n, f"train{n:02d} 99 0"), "fewer than the list says"),
    (lambda t, n: replace(t, n, f"train{n:02d} 3 0"), r"has \d+ frames, but the list says 3"),
    (lambda t, n: cut(frames_of(t, n) / "00001.jpg", 300), "decode .*00001.jpg"),
    (lambda t, n: cut(frames_of(t, n) / "00001.jpg", 0), "00001.jpg is empty"),
    (lambda t, n: (frames_of(t, n) / "00001.jpg").write_text("no"), "neither a JPEG nor another"),
    (lambda t, n: replace(t, n, f"train{n:02d} 4 7"), r"label 7 .* is not in 0\.\.3"),
    (lambda t, n: replace(t, n, f"train{n:02d};4;0"), "is not '<folder> <num_frames> <label>'"),
]


def test_nothing_is_found_in_a_clean_tree(tree):
    for deep in (False, True):
        findings = look(tree, deep=deep)
        assert findings.num_problems == 0
        assert findings.class_problems == []
    assert str(findings).splitlines()[:3] == [
        "train: 40 videos, 0 with problems",
        "val: 8 videos, 0 with problems",
        "frames: 4 to 12, median 7",
    ]
    assert "sizes: 1, most often 32x24 (48)" in str(findings)
    assert len(str(findings).splitlines()) < 25


def plant_everything(tree):
    """Fifteen defects: ten in lines 0 to 9 of training and five more, with what is said of them."""
    for number, (plant, _) in enumerate(DEFECTS):
        plant(tree, number)
    # 11: frames of different sizes; 12: frames under other names; 13: an empty folder
    other = simplejpeg.encode_jpeg(np.zeros((10, 10, 3), np.uint8))
    (frames_of(tree, 10) / "00001.jpg").write_bytes(other)
    shutil.rmtree(frames_of(tree, 11))
    write_frames(frames_of(tree, 11), 6, pattern="img_{:05d}.jpg")
    shutil.rmtree(frames_of(tree, 12))
    frames_of(tree, 12).mkdir()
    # 14: a video of validation among those of training; 15: one that is listed twice
    shutil.rmtree(frames_of(tree, 13))
    shutil.copytree(frames_of(tree, 2, "val"), frames_of(tree, 13))
    replace(tree, 13, "train13 6 1")
    replace(tree, 15, "train14 9 2")
    return [
        *(message for _, message in DEFECTS),
        "differ in size",
        r"found 'img_00001.jpg'.*set data\.frame_pattern='img_{:05d}\.jpg'",
        "has no images",
        "the same video as .*val02 in the validation list",
        None,
        "the same video as .*train14 of the same list",
    ]


@pytest.mark.smoke
def test_every_planted_defect_is_found_where_it_is(tree):
    messages = plant_everything(tree)
    findings = look(tree)
    bad = {x.number - 1: x.problems for x in findings.lists["train"] if x.problems}
    assert sorted(bad) == [n for n, message in enumerate(messages) if message]
    for number, message in enumerate(messages):
        if message:
            assert any(re.search(message, problem) for problem in bad[number]), (
                number,
                bad[number],
            )
    assert not any(x.problems for x in findings.lists["val"])
    assert findings.num_problems == 15
    assert "train: 40 videos, 15 with problems" in str(findings)
    assert len(str(findings).splitlines()) < 25


# Parts `[first, end)` in training and validation, and messages of those in training.
SHARED = {
    "divided": ([(0, 4), (4, 8)], [(8, 12), (16, 20)], {}),
    "divided, validation first": ([(12, 16)], [(8, 12), (0, 4)], {}),
    "overlapping": ([(0, 4), (4, 9)], [(8, 12)], {1: r"overlaps .*\[8:12\] in the val"}),
    "within": ([(0, 2), (10, 12)], [(4, 16), (6, 8)], {1: r"overlaps .*\[4:16\] in the val"}),
    "around": ([(0, 20), (12, 14)], [(2, 8)], {0: r"overlaps .*\[2:8\] in the val"}),
    "same": ([(0, 4), (4, 8)], [(4, 8), (9, 12)], {1: r"same video as .*\[4:8\] in the val"}),
    "between": ([(0, 2), (8, 10)], [(4, 6), (12, 14)], {1: "must all end before"}),
    "both sides": ([(0, 4), (16, 20), (4, 8)], [(8, 12)], {1: "must all end before"}),
}


@pytest.mark.parametrize("parts", SHARED.values(), ids=SHARED)
def test_a_video_may_be_in_two_lists_if_it_is_divided_at_one_time(tmp_path, parts):
    train, val, messages = parts
    write_frames(tmp_path / "rawframes" / "film", 20)
    for name, found in (("train", train), ("val", val)):
        lines = [f"film {first} {end - first} {n % 2}\n" for n, (first, end) in enumerate(found)]
        (tmp_path / f"{name}_list.txt").write_text("".join(lines))
    findings = look(tmp_path, class_names=["a", "b"], with_offset=True)
    problems = [each.problems for each in findings.lists["train"]]
    assert {n for n, found in enumerate(problems) if found} == set(messages)
    for number, message in messages.items():
        assert re.search(message, problems[number][0])
    assert not any(each.problems for each in findings.lists["val"])
    num_usable = len(train) - len(messages)
    noted = [n for n, each in enumerate(findings.lists["val"]) if "at one time" in str(each.notes)]
    assert noted == ([val.index(min(val))] if num_usable else [])
    # The usable ones are divided at one time.
    findings.write(tmp_path)
    again = look(tmp_path, class_names=["a", "b"], with_offset=True)
    assert not any(each.problems for found in again.lists.values() for each in found)


def test_what_only_a_deep_look_finds(tree):
    cut(frames_of(tree, 8) / "00003.jpg", 300)  # neither the first, the middle nor the last frame
    assert look(tree).num_problems == 0
    (problem,) = (x.problems for x in look(tree, deep=True).lists["train"] if x.problems)
    assert "decode" in problem[0] and "00003.jpg" in problem[0]


def test_classes_without_videos_are_named(tree):
    findings = look(tree, class_names=[*CLASSES, "never", "never"])
    assert findings.class_problems == [
        "'never' named twice",
        "'never', 'never' without a usable video in the train list",
        "'never', 'never' without a usable video in the val list",
    ]
    assert findings.num_problems == 3
    lines = (tree / "val_list.txt").read_text().splitlines()
    (tree / "val_list.txt").write_text("\n".join(line for line in lines if line[-1] != "3") + "\n")
    assert look(tree).class_problems == ["'d' without a usable video in the val list"]


def test_videos_in_two_lists_are_named(tree):
    lists = {name: (tree / f"{name}_list.txt", tree / "rawframes") for name in ("train", "val")}
    for index, (split, number) in enumerate((("train", 3), ("val", 2), ("val", 5))):
        shutil.copytree(frames_of(tree, number, split), tree / "rawframes" / f"test{index}")
    counts = [4 + number % 9 for number in (3, 2, 5)]
    lines = [f"test{index} {count} {index}\n" for index, count in enumerate(counts)]
    write_frames(tree / "rawframes" / "test3", 5)
    (tree / "test_list.txt").write_text("".join([*lines, "# new\n", "test3 5 3\n"]))
    lists["test"] = (tree / "test_list.txt", tree / "rawframes")
    findings = check.check(lists, FOLDERS, class_names=CLASSES)
    marked = {(n, x.number): x.problems for n, found in findings.lists.items() for x in found}
    marked = {place: problems for place, problems in marked.items() if problems}
    assert marked.keys() == {("train", 4), ("val", 3), ("val", 6)}
    assert all("in the test list" in problem for (problem,) in marked.values())
    assert findings.num_problems == 3


def test_videos_shorter_than_a_clip_are_counted_and_no_problem(tree):
    findings = look(tree, num_segments=6)  # videos have 4 to 12 frames, in turn
    assert findings.num_problems == 0
    assert "train: 10 videos have fewer frames than the 6 of a clip" in str(findings)
    assert "val: 2 videos have" in str(findings)
    assert "fewer frames" not in str(look(tree, num_segments=4)) + str(look(tree))


def test_the_lists_that_are_written_train(tree, tmp_path):
    plant_everything(tree)
    findings = look(tree)
    findings.write(tmp_path / "out")
    bad = (tmp_path / "out" / "train_quarantine.txt").read_text().splitlines()
    assert len(bad) == 15 and all("\t# " in line for line in bad)
    assert (tmp_path / "out" / "val_quarantine.txt").read_text() == ""
    assert (tmp_path / "out" / "val_list.txt").read_text() == (tree / "val_list.txt").read_text()
    records = annotations.read_list(
        tmp_path / "out" / "train_list.txt", frames_root=tree / "rawframes", num_classes=4
    )
    assert len(records) == 25
    view = dict(num_segments=3, sampling="random", frame_order="forward", short_side=20)
    view |= dict(crop="multi_scale", crop_size=16, scales=(1,), num_positions=5)
    reader = batches.BatchReader(
        records,
        View(**view, flip_rate=0, flip_labels=False),
        FOLDERS,
        seed=0,
        label_map={},
        exact_resize=False,
        on_error="raise",
        num_threads=1,
    )
    assert len(reader([(0, record) for record in records])["label"]) == 25
    again = check.check(
        {"train": (tmp_path / "out" / "train_list.txt", tree / "rawframes")},
        FOLDERS,
        class_names=CLASSES,
    )
    assert again.num_problems == 0


def test_video_files(tmp_path):
    for number in range(8):
        path = tmp_path / "rawframes" / f"v {number}.mp4"
        path.parent.mkdir(exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            for shade in range(5 + number):
                pixels = np.full((32, 48, 3), 20 * shade + number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    lines = [f"v {number}.mp4 {number % 2}\n" for number in range(8)]
    (tmp_path / "train_list.txt").write_text("".join(lines[:5]))
    (tmp_path / "val_list.txt").write_text("".join(lines[5:]))
    options = dict(source=videos.VideoFiles(), class_names=["a", "b"])
    findings = look(tmp_path, **options)
    assert findings.num_problems == 0
    assert "frames: 5 to 12, median 8" in str(findings)
    cut(tmp_path / "rawframes" / "v 0.mp4", 200)
    (tmp_path / "rawframes" / "v 1.mp4").unlink()
    shutil.copy(tmp_path / "rawframes" / "v 6.mp4", tmp_path / "rawframes" / "v 2.mp4")
    problems = [x.problems for x in look(tmp_path, **options).lists["train"]]
    assert "v 0.mp4" in problems[0][0] and "not found" in problems[1][0]
    assert "v 6.mp4 in the validation list" in problems[2][0]
    assert problems[3:] == [(), ()]


def test_several_labels(tree):
    for split in ("train", "val"):
        path = tree / f"{split}_list.txt"
        path.write_text("".join(f"{line} 0\n" for line in path.read_text().splitlines()))
    assert look(tree, multi_label=True).num_problems == 0
    replace(tree, 2, "train02 6 1 9")
    (bad,) = (x for x in look(tree, multi_label=True).lists["train"] if x.problems)
    assert "label 9" in bad.problems[0]


def test_an_empty_list_is_an_error(tree):
    (tree / "val_list.txt").write_text("\n\n")
    with pytest.raises(UserError, match=r"val_list\.txt is empty"):
        look(tree)


def test_the_command_looks_at_a_list(tree, tmp_path, capsys):
    flags = ["check", f"--list={tree}/train_list.txt", f"--videos={tree}/rawframes"]
    flags += [f"--classes={tree}/label_map.txt", f"--to={tmp_path}/out"]
    assert cli.main(flags) == 0
    assert "list: 40 videos, 0 with problems" in capsys.readouterr().out
    shutil.rmtree(frames_of(tree, 3))
    assert cli.main([*flags, "--deep"]) == 1
    assert "line 4: folder" in capsys.readouterr().out
    assert (
        (tmp_path / "out" / "list_quarantine.txt").read_text().startswith("train03 7 3\t# folder")
    )
    assert cli.main(flags[:2]) == 2
    assert "--list needs --videos" in capsys.readouterr().err
