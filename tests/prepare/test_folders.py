"""Folders of custom videos: depth, clutter, links, splits, and videos without classes."""

import os

import pytest
from custom_videos import lists, prepared, write_frames, write_video

from trn_jax import cli
from trn_jax.errors import UserError
from trn_jax.prepare import class_folders, custom_sources, folders
from trn_jax.prepare.dataset_writer import DatasetWriter


def put(root, *paths):
    """Empty files; names of frames among them make folders of frames."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")
    return root


def found_items(root, **options):
    """`{path: (class, split)}`, the summary and unreadable files, without opening a video."""
    writer = DatasetWriter("to")
    _, items, broken, _ = custom_sources.find_examples(
        writer, str(root), str(root / "to"), custom_sources.SourceOptions(**options)
    )
    return {i.path: (i.labels[0], i.split) for i in items}, str(writer), broken


# Search


def test_videos_lie_at_any_depth_below_their_class(tmp_path):
    put(tmp_path, "a/1.mp4", "a/anna/2.mp4", "a/anna/2024/may/3.MOV", "b/ben/4.webm")
    put(tmp_path, "b/ben/x/00001.jpg", "b/ben/x/00002.jpg", "b/y/z/img_1.png")
    found, _, _ = found_items(tmp_path)
    assert found == {
        **dict.fromkeys(("a/1.mp4", "a/anna/2.mp4", "a/anna/2024/may/3.MOV"), ("a", "")),
        **dict.fromkeys(("b/ben/4.webm", "b/ben/x", "b/y/z"), ("b", "")),
    }
    found, summary, _ = found_items(tmp_path, class_level=2)
    assert {path: label for path, (label, _) in found.items()} == {
        **dict.fromkeys(("a/anna/2.mp4", "a/anna/2024/may/3.MOV"), "anna"),
        **dict.fromkeys(("b/ben/4.webm", "b/ben/x"), "ben"),
        "b/y/z": "y",
    }
    assert "1 videos above the folders of the classes (level 2): a/1.mp4" in summary
    with pytest.raises(UserError, match=r"level 5.*--class-level"):
        found_items(tmp_path, class_level=5)


def test_system_files_are_skipped_everywhere(tmp_path):
    put(tmp_path, "a/1.mp4", "b/c/2.mp4", "b/f/00001.jpg", "b/f/._00001.jpg", "b/f/.DS_Store")
    put(tmp_path, ".DS_Store", "._a", "a/._1.mp4", "b/c/._2.mp4", "a/Thumbs.db", "a/desktop.ini")
    put(tmp_path, "__MACOSX/a/1.mp4", "a/__MACOSX/1.mp4", ".cache/3.mp4", "b/@eaDir/2.mp4")
    found, summary, broken = found_items(tmp_path)
    assert set(found) == {"a/1.mp4", "b/c/2.mp4", "b/f"} and broken == []
    assert "left out" not in summary
    assert folders.find_videos(tmp_path) == ["a/1.mp4", "b/c/2.mp4"]


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train", "val", "test"), ("train", "val", "test")),
        (("Training", "VALIDATION", "Testing"), ("train", "val", "test")),
        (("train", "dev"), ("train", "val")),
        (("train_videos", "test_videos"), ("train", "test")),
        (("train",), ("train",)),
    ],
)
def test_folders_of_splits(tmp_path, names, splits):
    for name in names:
        put(tmp_path, f"{name}/a/anna/1.mp4", f"{name}/b/f/00001.jpg")
    found, _, _ = found_items(tmp_path)
    assert found == {
        path: (label, split)
        for name, split in zip(names, splits, strict=True)
        for path, label in ((f"{name}/a/anna/1.mp4", "a"), (f"{name}/b/f", "b"))
    }


def test_classes_may_be_called_like_splits(tmp_path):
    put(tmp_path, "train/1.mp4", "bus/2.mp4", "car/3.mp4")
    assert {label for label, _ in found_items(tmp_path)[0].values()} == {"train", "bus", "car"}


def test_a_test_folder_without_one_for_training_is_no_class(tmp_path):
    put(tmp_path, "val/a/1.mp4", "test/a/2.mp4")
    with pytest.raises(UserError, match=r"test, val.*train"):
        found_items(tmp_path)


def test_videos_beside_folders_of_splits_are_named(tmp_path):
    put(tmp_path, "train/a/1.mp4", "val/a/1.mp4", "unsorted/2.mp4", "3.mp4")
    found, summary, _ = found_items(tmp_path)
    assert len(found) == 2 and "2 videos outside of train, val: 3.mp4, unsorted/2.mp4" in summary


def test_images_beside_folders_and_videos_are_no_frames(tmp_path):
    put(tmp_path, "a/cover.jpg", "a/x/1.mp4", "a/x/thumbnail 1.jpg", "b/poster1.jpg", "b/x/2.mp4")
    assert set(found_items(tmp_path)[0]) == {"a/x/1.mp4", "b/x/2.mp4"}


def test_frames_are_no_place_for_further_videos(tmp_path):
    put(tmp_path, *(f"a/clip/{n:05d}.jpg" for n in (1, 2)), "a/clip/flow/00001.jpg")
    put(tmp_path, "b/clip.v2/img_1.JPG")
    assert set(found_items(tmp_path)[0]) == {"a/clip", "b/clip.v2"}


# Links, pipes and unreadable folders


@pytest.mark.parametrize("search", [folders.find_videos, lambda root: list(found_items(root)[0])])
def test_loops_of_links_are_followed_once(tmp_path, search):
    root = put(tmp_path / "root", "a/1.mp4", "b/c/2.mp4")
    put(tmp_path, "beside/x/9.mp4")
    for link, target in (
        ("a/up", root),
        ("b/self", root / "b"),
        ("b/c/parent", tmp_path),  # would bring in what lies beside the root
        ("a/loop 1", root / "a" / "loop 2"),
        ("a/loop 2", root / "a" / "loop 1"),
        ("0 first by name", root / "b"),
    ):
        (root / link).symlink_to(target)
    assert sorted(search(root)) == ["a/1.mp4", "b/c/2.mp4"]


def test_links_to_videos_and_folders_elsewhere_are_followed(tmp_path):
    put(tmp_path / "store", "x/1.mp4", "y/deep/2.mp4", "f/1.jpg")
    root = put(tmp_path / "root", "a/0.mp4")
    (root / "a" / "linked.mp4").symlink_to(tmp_path / "store/x/1.mp4")
    (root / "b").symlink_to(tmp_path / "store/y")
    (root / "a" / "frames").symlink_to(tmp_path / "store/f")
    found = {"a/0.mp4", "a/linked.mp4", "a/frames", "b/deep/2.mp4"}
    assert set(found_items(root)[0]) == found
    (tmp_path / "link").symlink_to(root)
    assert set(found_items(tmp_path / "link")[0]) == found


def test_broken_links_and_pipes_are_named(tmp_path):
    put(tmp_path, "a/1.mp4", "b/2.mp4")
    (tmp_path / "a" / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    os.mkfifo(tmp_path / "b" / "pipe.mp4")  # opening it blocks
    found, _, broken = found_items(tmp_path)
    assert set(found) == {"a/1.mp4", "b/2.mp4"}
    (gone, why), (pipe, what) = broken
    assert gone == "a/gone.mp4" and "broken link" in why and "nowhere.mp4" in why
    assert pipe == "b/pipe.mp4" and "pipe" in what


def test_folders_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    put(tmp_path, "a/1.mp4", "b/2.mp4", "b/locked/3.mp4")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found, _, broken = found_items(tmp_path)
    assert set(found) == {"a/1.mp4", "b/2.mp4"}
    assert broken == [("b/locked", "can't be read: Permission denied")]
    with pytest.raises(UserError, match=r"locked .*Permission denied"):
        folders.find_videos(tmp_path)


def test_very_deep_folders_are_searched(tmp_path):
    deep = "/".join(["d"] * 300)
    put(tmp_path, f"a/{deep}/1.mp4", "b/2.mp4")
    assert len(found_items(tmp_path)[0]) == 2


# Folders without classes


def test_a_flat_folder_without_a_table(tmp_path):
    put(tmp_path / "videos", "1.mp4", "2.mp4")
    with pytest.raises(UserError, match=r"(?s)2 videos, such as 1.mp4.*labels.csv"):
        found_items(tmp_path / "videos")


def test_a_data_set_among_its_flat_videos(tmp_path):
    for number in range(4):
        write_video(tmp_path / f"{number}.mp4", 2)
    (tmp_path / "labels.csv").write_text("0.mp4,a\n1.mp4,a\n2.mp4,b\n3.mp4,b\n")
    prepared(tmp_path, tmp_path)
    assert "nothing to do" in prepared(tmp_path, tmp_path)


def test_videos_of_a_split_without_classes(tmp_path):
    put(tmp_path, "train/1.mp4", "train/2.mp4")
    with pytest.raises(UserError, match=r"train/1\.mp4.*level 1"):
        found_items(tmp_path)


@pytest.mark.parametrize("place", ["videos/labels.csv", "videos.csv"])
@pytest.mark.parametrize("name", ["{}.mp4", "videos/{}.mp4", "{}"])
def test_the_table_of_a_flat_folder_is_found(tmp_path, place, name):
    put(tmp_path, *(f"videos/{number}.mp4" for number in range(4)))
    (tmp_path / "unrelated.csv").write_text("x,y\n1,2\n")
    (tmp_path / "videos" / "readme.txt").write_text("My videos of last summer\n")
    rows = [f"{name.format(number)},{'ab'[number % 2]}\n" for number in range(3)]
    (tmp_path / place).write_text("".join(["video,label\n", *rows]))
    found, summary, _ = found_items(tmp_path / "videos")
    assert found == {"0.mp4": ("a", ""), "1.mp4": ("b", ""), "2.mp4": ("a", "")}
    assert f"the classes are those of {tmp_path / place}" in summary
    assert "1 videos that the table does not have: 3.mp4" in summary


def test_tables_of_splits_beside_a_flat_folder(tmp_path):
    put(tmp_path, *(f"videos/{number}.mp4" for number in range(6)))
    for number, split in enumerate(("train", "val", "test")):
        rows = f"{2 * number}.mp4 0\n{2 * number + 1}.mp4 1\n"
        (tmp_path / "videos" / f"{split}.txt").write_text(rows)
    found, _, _ = found_items(tmp_path / "videos")
    assert found == {
        f"{number}.mp4": (str(number % 2), ("train", "val", "test")[number // 2])
        for number in range(6)
    }


def test_several_tables_for_a_flat_folder_are_an_error(tmp_path):
    put(tmp_path, "videos/1.mp4", "videos/2.mp4")
    for name in ("old.csv", "new.csv"):
        (tmp_path / "videos" / name).write_text("1.mp4,a\n2.mp4,b\n")
    with pytest.raises(UserError, match=r"new\.csv, .*old\.csv"):
        found_items(tmp_path / "videos")


# Names of classes


def test_classes_that_differ_in_case_are_named_and_merged_on_request(tmp_path, capsys):
    for number, label in enumerate(("Walk", "walk", "WALK ", "Run", "Caf\u00e9", "Cafe\u0301")):
        for take in range(2 + (label == "Walk")):
            write_video(tmp_path / "in" / label / f"{number} {take}.mp4", 2)
    summary = prepared(tmp_path / "in", tmp_path / "to")
    assert "'WALK', 'Walk', 'walk'" in summary and "'Cafe\u0301', 'Caf\u00e9'" in summary
    assert "--merge-classes" in summary
    assert len((tmp_path / "to/label_map.txt").read_text().splitlines()) == 6
    before = {p: s for s, found in enumerate(lists(tmp_path / "to")) for p in found}
    to, source = tmp_path / "to", tmp_path / "in"
    assert cli.main(["prepare", str(source), f"--to={to}", "--merge-classes"]) == 0
    names = (tmp_path / "to/label_map.txt").read_text().splitlines()
    assert names[1:] == ["Run", "Walk"] and names[0] in ("Caf\u00e9", "Cafe\u0301")
    assert {p: s for s, found in enumerate(lists(tmp_path / "to")) for p in found} == before


def test_spaces_around_names_of_classes(tmp_path):
    for label in ("Walk ", " Walk", "Run"):
        for take in range(2):
            write_video(tmp_path / "in" / label / f"{take}.mp4", 2)
    assert "' Walk', 'Walk ' are 'Walk'" in prepared(tmp_path / "in", tmp_path / "to")
    assert (tmp_path / "to/label_map.txt").read_text() == "Run\nWalk\n"


def test_a_class_without_a_name_is_refused(tmp_path):
    put(tmp_path, " /1.mp4", "a/2.mp4")
    with pytest.raises(UserError, match="class ''"):
        prepared(tmp_path, tmp_path / "to")


def test_a_class_without_a_readable_video_is_reported(tmp_path, capsys):
    for label in ("a", "b", "c"):
        for take in range(3):
            write_video(tmp_path / "in" / label / f"{take}.mp4", 2)
    for take in range(3):
        (tmp_path / "in" / "b" / f"{take}.mp4").write_bytes(b"no video")
    command = ["prepare", str(tmp_path / "in"), f"--to={tmp_path}/to"]
    assert cli.main(command) == 1
    summary = capsys.readouterr().out
    assert "1 classes without a readable video" in summary and ": b\n" in summary
    assert (tmp_path / "to/label_map.txt").read_text() == "a\nc\n"
    assert cli.main(command) == 1 and "nothing to do" in capsys.readouterr().out
    for take in range(3):
        (tmp_path / "in" / "c" / f"{take}.mp4").write_bytes(b"")
    assert cli.main(command) == 2
    assert "'a'; none of the videos of b, c" in capsys.readouterr().err


# Operations on folders


def splits_of(to):
    """`{path without extension: split}` of a data set."""
    found = {}
    for split in ("train", "val", "test"):
        path = to / f"{split}_list.txt"
        for line in path.read_text().splitlines() if path.exists() else ():
            name = line.split(".mp4")[0] if ".mp4" in line else line.rsplit(" ", 2)[0]
            assert found.setdefault(name, split) == split
    return found


def test_moving_and_extracting_a_folder_moves_no_video_between_splits(tmp_path, monkeypatch):
    for label in ("a", "b"):
        for take in range(12):
            write_video(tmp_path / "in" / label / f"take {take}.mp4", 2)
            write_frames(tmp_path / "frames" / label / f"take {take}", 1)
    prepared(tmp_path / "in", tmp_path / "to")
    before = splits_of(tmp_path / "to")
    assert set(before.values()) == {"train", "val"}
    prepared(tmp_path / "frames", tmp_path / "of frames")
    assert splits_of(tmp_path / "of frames") == before
    (tmp_path / "in").rename(tmp_path / "renamed")
    monkeypatch.chdir(tmp_path)
    prepared("renamed/../renamed/", tmp_path / "again")
    assert splits_of(tmp_path / "again") == before
    # The link of the first data set is broken now, and is replaced.
    prepared("renamed", tmp_path / "to")
    assert splits_of(tmp_path / "to") == before


def test_adding_videos_of_a_small_class_moves_none(tmp_path):
    for label in ("a", "b"):
        write_video(tmp_path / "in" / label / "0.mp4", 2)
        write_video(tmp_path / "in" / label / "1.mp4", 2)
    prepared(tmp_path / "in", tmp_path / "to")
    found = splits_of(tmp_path / "to")
    for take in range(2, 8):
        for label in ("a", "b"):
            write_video(tmp_path / "in" / label / f"{take}.mp4", 2)
        summary = prepared(tmp_path / "in", tmp_path / "to")
        assert f"{len(found)} videos stay in the split" in summary
        after = splits_of(tmp_path / "to")
        assert found.items() <= after.items() and len(after) == len(found) + 2
        found = after


@pytest.mark.parametrize("group_by", ["level2", "level 2", "/(\\w+)/[^/]*$"])
def test_persons_stay_together(tmp_path, group_by):
    for label in ("wave", "clap"):
        for person in ("anna", "ben", "carla", "dora"):
            put(tmp_path, *(f"train/{label}/{person}/{take}.mp4" for take in range(2)))
    _, items, *_ = custom_sources.find_examples(
        DatasetWriter("to"), str(tmp_path), "to", custom_sources.SourceOptions(group_by=group_by)
    )
    assert {item.path: item.group for item in items} == {
        item.path: item.path.split("/")[2] for item in items
    }


@pytest.mark.parametrize("group_by", ["speaker", "level7", "(nobody)", "(", "level0"])
def test_groups_that_are_not_there(tmp_path, group_by):
    put(tmp_path, "a/1.mp4", "b/2.mp4")
    with pytest.raises(UserError, match="--group-by="):
        found_items(tmp_path, group_by=group_by)


def test_class_folders_alone():
    with pytest.raises(UserError, match="in x: "):
        class_folders.read_class_folders(DatasetWriter("to"), "x", folders.FoundFiles())
