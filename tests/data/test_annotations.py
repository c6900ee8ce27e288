"""Lists of videos, and the errors of wrong ones."""

import dataclasses
import os

import pytest

from trn_jax.data import annotations
from trn_jax.data.class_names import read_class_names
from trn_jax.errors import UserError


def read(tmp_path, text, num_classes=3, encoding="utf-8", **options):
    path = tmp_path / "list.txt"
    path.write_text(text, encoding=encoding)
    options = {"frames_root": "/frames"} | options
    return annotations.read_list(path, num_classes=num_classes, **options)


def test_lines_become_records_in_their_order(tmp_path):
    records = read(tmp_path, "a/b 7 2\nc\t1\t0\n\n  \nd 300 1")
    assert [(r.index, r.path, r.num_frames, r.label) for r in records] == [
        (0, "/frames/a/b", 7, 2),
        (1, "/frames/c", 1, 0),
        (2, "/frames/d", 300, 1),
    ]


def test_folder_names_may_have_spaces_and_be_absolute(tmp_path):
    records = read(tmp_path, "two words 7 2\r\n/elsewhere/a b  c 8 1\r\n")
    assert [r.path for r in records] == ["/frames/two words", "/elsewhere/a b  c"]


def test_comments_are_passed_over(tmp_path):
    (tmp_path / "#1.mp4").write_bytes(b"")
    text = "# made by hand\n#a 7 2\n  # b.mp4 1\n#1.mp4 2\n#2.mp4 1\nc 3 1\n"
    records = read(tmp_path, text, frames_root=str(tmp_path))
    assert [(r.path, r.label) for r in records] == [
        (f"{tmp_path}/#1.mp4", 2),
        (f"{tmp_path}/c", 1),
    ]
    for text in ("# videos\na.mp4 1\n", "#videos\na.mp4 1\n", "#1.mp4 1\n"):
        (tmp_path / "list.txt").write_text(text)
        assert annotations.lists_videos(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("#a.mp4 1\na 8 1\n")
    assert not annotations.lists_videos(tmp_path / "list.txt")
    with pytest.raises(UserError, match=r"line 3: 'x'"):
        read(tmp_path, "# one\n\nx\n")
    with pytest.raises(UserError, match="empty"):
        read(tmp_path, "# one\n")


def test_lists_of_windows_have_backslashes(tmp_path):
    (tmp_path / "back\\slash.mp4").write_bytes(b"")
    records = read(tmp_path, "sub\\a.mp4 1\nback\\slash.mp4 0\n", frames_root=str(tmp_path))
    assert [r.path for r in records] == [f"{tmp_path}/sub/a.mp4", f"{tmp_path}/back\\slash.mp4"]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lists_as_windows_saves_them(tmp_path, mark):
    text = f"{mark}Ärger 1/a b 7 1\r\nc 3 0\r\n\r\n"
    (tmp_path / "list.txt").write_bytes(text.encode())
    (tmp_path / "names.txt").write_bytes(f"{mark}Ärger\r\nzwei Wörter\r\n".encode())
    path = tmp_path / "list.txt"
    records = annotations.read_list(path, frames_root="root", num_classes=2)
    assert [(r.path, r.num_frames, r.label) for r in records] == [
        ("root/Ärger 1/a b", 7, 1),
        ("root/c", 3, 0),
    ]
    assert read_class_names(tmp_path / "names.txt") == ["Ärger", "zwei Wörter"]
    (tmp_path / "files.txt").write_bytes(f"{mark}Ärger 1/a b.mp4 1\r\n".encode())
    assert annotations.lists_videos(tmp_path / "files.txt")
    (record,) = annotations.read_list(tmp_path / "files.txt", frames_root="root", num_classes=2)
    assert (record.path, record.label) == ("root/Ärger 1/a b.mp4", 1)


def test_only_line_ends_end_a_line(tmp_path):
    (tmp_path / "names.txt").write_text("a\x85b\u2028c\x0cd\nb\n")
    assert read_class_names(tmp_path / "names.txt") == ["a\x85b\u2028c\x0cd", "b"]


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(UserError, match=r"list of videos not found: .*none\.txt; check data_dir"):
        annotations.read_list(tmp_path / "none.txt", frames_root="", num_classes=1)


def test_a_folder_in_place_of_a_list_is_named(tmp_path):
    with pytest.raises(UserError, match=f"read the list of videos {tmp_path}"):
        annotations.read_list(tmp_path, frames_root="", num_classes=1)


def test_a_list_that_is_not_text_is_named(tmp_path):
    with pytest.raises(UserError, match=r"read the list of videos .*list\.txt.*utf-8"):
        read(tmp_path, "caf\xe9 3 0\n", encoding="latin-1")


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_list_says_what_was_expected(tmp_path, text):
    with pytest.raises(UserError, match=r"list\.txt is empty; expected .*<num_frames> <label>"):
        read(tmp_path, text)


@pytest.mark.parametrize("line", ["b 7", "b seven 1", "b 7 1.5", "b,7,1", "b 7 1 extra"])
def test_a_malformed_line_is_shown_with_its_number(tmp_path, line):
    with pytest.raises(UserError) as error:
        read(tmp_path, f"a 7 1\n\n{line}\n")
    assert f"line 3: {line!r} is not '<folder> <num_frames> <label>'" in str(error.value)
    assert ", 1 of its lines" in str(error.value)


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_out_of_range_is_shown_with_the_range(tmp_path, label):
    read(tmp_path, "a 7 0\nb 7 2\n")
    with pytest.raises(UserError, match=rf"line 2: label {label} of b is not in 0\.\.2"):
        read(tmp_path, f"a 7 0\nb 7 {label}\n")


@pytest.mark.parametrize("count", [0, -4])
def test_a_video_without_frames_is_shown(tmp_path, count):
    with pytest.raises(UserError, match=rf"line 1: a has {count} frames, expected at least 1"):
        read(tmp_path, f"a {count} 0\n")


def test_all_wrong_lines_are_reported_at_once_and_the_rest_counted(tmp_path):
    with pytest.raises(UserError) as error:
        read(tmp_path, "a 7 9\nb\nc 0 1\nd 3 2\n")
    assert ", 3 of its lines" in str(error.value)
    for number in (1, 2, 3):
        assert f"line {number}: " in str(error.value)
    assert "line 4" not in str(error.value)

    with pytest.raises(UserError) as error:
        read(tmp_path, "wrong\n" * 25)
    assert ", 25 of its lines" in str(error.value)
    assert "line 10: " in str(error.value) and "line 11: " not in str(error.value)
    assert str(error.value).endswith("and 15 more")


def test_class_names_are_the_lines_that_are_not_blank(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("Something up\r\n\n  Caf\xe9 \n", encoding="utf-8")
    assert read_class_names(path) == ["Something up", "Caf\xe9"]


INDICES = {
    "abseiling 0\nair drumming 1\nzumba 2": ["abseiling", "air drumming", "zumba"],
    "zumba 2\nabseiling 0\nair drumming 1": ["abseiling", "air drumming", "zumba"],
    "1 ApplyEyeMakeup\n2 ApplyLipstick\n3 Archery": ["ApplyEyeMakeup", "ApplyLipstick", "Archery"],
    "0,run\n1,jump": ["run", "jump"],
    "run\t1\njump\t2": ["run", "jump"],
    # Names, in the order of the lines
    "1 run\n10 swim\n2 jump": ["1 run", "10 swim", "2 jump"],
    "2 jump\n1 run": ["2 jump", "1 run"],
    "take 0\ntake 1": ["take 0", "take 1"],
    "run 0\njump 2": ["run 0", "jump 2"],
    "run 0\njump 0": ["run 0", "jump 0"],
    "run 0\njump": ["run 0", "jump"],
    "7\n8": ["7", "8"],
}


@pytest.mark.parametrize("text", INDICES)
def test_class_names_may_be_an_index(tmp_path, text):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    assert read_class_names(path) == INDICES[text]


def test_missing_class_names_are_named(tmp_path):
    with pytest.raises(UserError, match=r"class names not found: .*names\.txt"):
        read_class_names(os.path.join(tmp_path, "names.txt"))


def test_several_labels_per_video(tmp_path):
    records = read(tmp_path, "a/b 7 2 0\nc\t1\t0\n\nd 300 1 2 1 0\n", multi_label=True)
    assert [(r.path, r.num_frames, r.label) for r in records] == [
        ("/frames/a/b", 7, (2, 0)),
        ("/frames/c", 1, (0,)),
        ("/frames/d", 300, (1, 2, 0)),
    ]
    hot = annotations.multi_hot([r.label for r in records], 3)
    assert hot.tolist() == [[1, 0, 1], [1, 0, 0], [1, 1, 1]]
    assert hot.dtype == "float32"


def test_several_labels_where_one_is_expected(tmp_path):
    with pytest.raises(UserError) as error:
        read(tmp_path, "a 7 2\nb 7 2 0\nc 9 2 1 0\n")
    said = str(error.value)
    assert "list.txt, 2 of its lines" in said
    assert "line 2: 'b 7 2 0' has several labels, expected '<folder> <num_frames> <label>'" in said
    assert "line 3" in said and "set data.multi_label=True" in said


def test_a_folder_whose_name_ends_in_a_number_is_no_video_with_several_labels(tmp_path):
    (tmp_path / "take 12").mkdir()
    records = read(tmp_path, "take 12 30 2\n", frames_root=tmp_path)
    assert [(r.path, r.num_frames, r.label) for r in records] == [
        (os.path.join(tmp_path, "take 12"), 30, 2)
    ]


def test_one_label_where_several_are_expected(tmp_path):
    with pytest.raises(UserError) as error:
        read(tmp_path, "a 7 2\nb 7 0\n", multi_label=True)
    said = str(error.value)
    assert "list.txt has one label per video in all of its 2 lines (line 1: 'a 7 2')" in said
    assert "set data.multi_label=False" in said


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("b 7", "line 2: b has no label; leave out videos without one"),
        ("b", "line 2: 'b' is not '<folder> <num_frames> <label> <label> ...'"),
        ("two words 7 1", "line 2: 'two words 7 1' is not '<folder>"),
        ("b 7 1 x", "line 2: 'b 7 1 x' is not '<folder>"),
        ("b 7 1 3", "line 2: label 3 of b is not in 0..2"),
        ("b 0 1 2", "line 2: b has 0 frames"),
    ],
)
def test_wrong_lines_among_several_labels(tmp_path, line, message):
    with pytest.raises(UserError) as error:
        read(tmp_path, f"a 7 2 1\n{line}\n", multi_label=True)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "part",
    [{}, {"start": 1.5, "end": 1234.5}, {"offset": 0, "num_frames": 3}, {"offset": 7}],
)
def test_a_name_says_which_part_it_is(part):
    whole = annotations.Record(0, "a [b].mp4", 5, 1)
    record = dataclasses.replace(whole, **part)
    assert whole.part_called(record.named()) == record
    assert annotations.without_part(record.named()) == whole.path
