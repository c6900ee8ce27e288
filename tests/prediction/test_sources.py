"""What a command names: files, folders, patterns and lists."""

import os

import numpy as np
import painted
import pytest
from small_training import write_frames

from trn_jax.data import streams
from trn_jax.data.decode import FrameError
from trn_jax.errors import UserError
from trn_jax.prediction import sources
from trn_jax.prediction.inputs import Inputs


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Two videos, a folder of frames, and what lies around beside videos."""
    for name in ("a.mp4", "deep/er/b c.mp4"):
        painted.write(tmp_path / "films" / name, painted.frames(5))
    write_frames(tmp_path / "films" / "walk", 4, np.random.default_rng(0))
    (tmp_path / "films" / "notes.txt").write_text("no list of videos")
    (tmp_path / "films" / "._a.mp4").write_bytes(b"\0\0")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*found):
    return [each.name for each in sources.find(found)]


def test_files_folders_and_patterns(tree):
    assert names("films/a.mp4") == ["films/a.mp4"]
    assert names("films") == ["films/a.mp4", "films/deep/er/b c.mp4", "films/walk"]
    assert names("films/*.mp4") == ["films/a.mp4"]
    assert names("films/**/*.mp4") == ["films/a.mp4", "films/deep/er/b c.mp4"]
    assert names("films/walk") == ["films/walk"]
    assert names(tree / "films" / "a.mp4") == [str(tree / "films" / "a.mp4")]
    # Each video once, in the order given.
    assert names("films/walk", "films", "films/*.mp4")[0] == "films/walk"
    assert len(names("films/walk", "films", "films/*.mp4")) == 3


def test_a_name_that_looks_like_a_pattern_is_a_file(tree):
    painted.write(tree / "clip[1].mp4", painted.frames(2))
    assert names("clip[1].mp4") == ["clip[1].mp4"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "films/a.mp4\nfilms/deep/er/b c.mp4\nfilms/walk\n"),
        ("list.txt", "# mine\r\n\r\nfilms/a.mp4\r\nfilms/deep/er/b c.mp4\r\nfilms/walk"),
        ("list.txt", "films/a.mp4 3\nfilms/deep/er/b c.mp4 1\nfilms/walk 4 2\n"),
        ("list.csv", "video,label\nfilms/a.mp4,x\nfilms/deep/er/b c.mp4,y\nfilms/walk,x\n"),
        ("list.csv", "video\nfilms/a.mp4\nfilms/deep/er/b c.mp4\nfilms/walk\n"),
        ("list.tsv", "label\tpath\nx\tfilms/a.mp4\ny\tfilms/deep/er/b c.mp4\nx\tfilms/walk\n"),
        (
            "list.jsonl",
            '{"video": "films/a.mp4"}\n{"video": "films/deep/er/b c.mp4"}\n{"video": "films/walk"}',
        ),
    ],
)
def test_lists_in_every_form(tree, name, text):
    (tree / name).write_text(text)
    found = sources.find([name])
    assert [each.name for each in found] == ["films/a.mp4", "films/deep/er/b c.mp4", "films/walk"]
    opened = Inputs(found)
    lengths = []
    for record in opened.records:
        with opened.open(record) as video:
            lengths.append(video.num_frames)
    assert lengths == [5, 5, 4]


def test_paths_in_a_list_start_from_its_folder(tree, monkeypatch):
    (tree / "films" / "list.txt").write_text("a.mp4\n")
    monkeypatch.chdir(tree.parent)
    (found,) = sources.find([tree / "films" / "list.txt"])
    assert found.name == str(tree / "films" / "a.mp4")


def paths_in_list(tree, text, name="val_list.txt"):
    """Paths from the tree of the videos that a list names; "" for those that can't be read."""
    (tree / name).write_text(text)
    found = sources.find([tree / name])
    return ["" if each.problem else os.path.relpath(each.record.path, tree) for each in found]


def test_lists_of_data_sets_name_videos_in_their_folders(tree):
    for place in ("videos/b c.mp4", "videos/d.mp4", "videos_val/k.mp4", "a.mp4", "videos/a.mp4"):
        painted.write(tree / place, painted.frames(2))
    write_frames(tree / "rawframes" / "d", 4, np.random.default_rng(0))
    write_frames(tree / "rawframes" / "only frames", 4, np.random.default_rng(0))
    found = paths_in_list(tree, "b c.mp4 1\nd.mp4 0\na.mp4 0\n")
    assert found == ["videos/b c.mp4", "videos/d.mp4", "a.mp4"]  # beside the list comes first
    # Not the video d.mp4, whose name has an extension.
    found = paths_in_list(tree, "d 4 1\nonly frames 4 0\n")
    assert found == ["rawframes/d", "rawframes/only frames"]
    name = "kinetics400_val_list_videos.txt"
    assert paths_in_list(tree, "k.mp4 1\n", name) == ["videos_val/k.mp4"]
    # The end of a path of another machine is no name in these folders.
    assert paths_in_list(tree, "/other/b c.mp4 1\nd.mp4 1\n") == ["", "videos/d.mp4"]


def test_what_a_list_names_in_vain_is_explained_without_keys_of_training(tree):
    (tree / "films" / "list.txt").write_text("gone/x.mp4 0\n")
    (found,) = sources.find(["films/list.txt"])
    assert "line 1" in found.problem and "films/rawframes" in found.problem
    assert "data_dir" not in found.problem


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", "video,start,end\nfilms/a.mp4,0.04,0.12\nfilms/deep/er/b c.mp4,0.08,0.16\n"),
        ("list.csv", "films/a.mp4,0.04,0.12,x\nfilms/deep/er/b c.mp4,0.08,0.16,y\n"),
        ("list.txt", "films/a.mp4 0.04 0.12 x\nfilms/deep/er/b c.mp4 0.08 0.16 1\n"),
    ],
)
def test_parts_in_lists_with_and_without_a_header(tree, name, text):
    (tree / name).write_text(text)
    found = [(each.name, each.record.start, each.record.end) for each in sources.find([name])]
    assert found == [
        ("films/a.mp4 [0.040-0.120]", 0.04, 0.12),
        ("films/deep/er/b c.mp4 [0.080-0.160]", 0.08, 0.16),
    ]


@pytest.mark.parametrize("times", ["start_frame,end_frame", "start_ms,end_ms", "begin,label"])
def test_times_that_are_no_seconds_are_not_left_out(tree, times):
    (tree / "list.csv").write_text(f"video,{times}\nfilms/a.mp4,10,20\n")
    with pytest.raises(UserError, match=times.split(",")[0]):
        sources.find(["list.csv"])


def test_an_empty_folder_among_the_matches_of_a_pattern_costs_itself(tree):
    (tree / "films" / "empty").mkdir()
    found = {each.name: bool(each.problem) for each in sources.find(["films/[aew]*"])}
    assert found == {"films/a.mp4": False, "films/empty": True, "films/walk": False}


def test_a_bad_line_of_a_list_costs_itself(tree):
    (tree / "list.txt").write_text("films/a.mp4\nfilms/gone.mp4\nrtsp://camera/1\nfilms/walk\n")
    opened = Inputs(sources.find(["list.txt"]))
    problems = []
    for record in opened.records:
        try:
            with opened.open(record):
                problems.append("")
        except FrameError as error:
            problems.append(str(error))
    assert [bool(problem) for problem in problems] == [False, True, True, False]
    assert "gone.mp4" in problems[1]
    assert "line 3" in problems[2] and "command line" in problems[2]


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("gone.mp4", None, "'gone.mp4' not found"),
        ("*.nothing", None, r"'\*\.nothing'"),
        ("empty", "folder", "no videos in empty, it is empty"),
        ("list.txt", "\n\n", "list.txt is empty"),
        ("list.csv", "video\n", "list.csv is empty"),
    ],
)
def test_a_wrong_argument_is_refused(tree, name, content, match):
    if content == "folder":
        (tree / name).mkdir()
    elif content is not None:
        (tree / name).write_text(content)
    with pytest.raises(UserError, match=match):
        sources.find([name])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", True), ("12", True), ("-", True), ("rtsp://a/b", True), ("http://a/b.m3u8", True)]
    + [("a.mp4", False), ("C:/a.mp4", False), ("films", False)],
)
def test_streams_are_cameras_urls_and_standard_input(tree, text, expected):
    assert streams.is_stream(text) == expected


def test_a_folder_called_like_a_camera_is_a_folder(tree):
    (tree / "0").mkdir()
    assert not streams.is_stream("0")


def test_frames_with_a_gap_are_named(tree):
    (tree / "films" / "walk" / "00002.jpg").unlink()
    opened = Inputs(sources.find(["films/walk"]))
    with pytest.raises(FrameError, match=r"00002\.jpg"):
        opened.open(opened.records[0])
