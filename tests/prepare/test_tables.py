"""Tables and lists of custom videos: forms, paths, headers, and errors with row numbers."""

import json
import random

import pytest
from custom_videos import prepared, write_frames, write_video

from trn_jax import cli
from trn_jax.errors import UserError
from trn_jax.prepare import class_names, custom_sources, table_rows
from trn_jax.prepare.dataset_writer import DatasetWriter
from trn_jax.prepare.examples import SPLIT_NAMES


@pytest.fixture
def root(tmp_path):
    """Empty files, and folders of frames."""
    files = ("a.mp4", "b.MOV", "my clip.mp4", "sub/c.webm", "sub/d e.mp4", "clip_001.mp4", "#1.mp4")
    for name in (*files, "folder/00001.jpg", "my folder 3/00001.jpg", "34870/00001.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def read(root, name, text, **options):
    """The examples of a table with this text, or these bytes, and the summary."""
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    writer = DatasetWriter("to")
    _, items, _, _ = custom_sources.find_examples(
        writer, str(root / name), "to", custom_sources.SourceOptions(**options)
    )
    return items, str(writer)


def pairs(root, name, text, **options):
    return [(i.path, *i.labels) for i in read(root, name, text, **options)[0]]


AB = [("a.mp4", "Walking"), ("sub/d e.mp4", "Brush hair")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "path,label\na.mp4,Walking\nsub/d e.mp4,Brush hair\n"),
        ("t.csv", "Gloss;Signer;Video File\nWalking;x;a.mp4\nBrush hair;y;sub/d e.mp4\n"),
        ("t.csv", "video_id|class_name\na|Walking\nsub/d e|Brush hair\n"),
        ("t.csv", "Walking,a.mp4\nBrush hair,sub/d e.mp4\n"),  # the class first
        ("t.csv", "id,label,label_name\na,7,Walking\nsub/d e,9,Brush hair\n"),
        ("t.csv", '"a.mp4","Walking"\n"sub/d e.mp4","Brush hair"'),
        ("t.csv", "# by hand\n\n#path,label\na.mp4,Walking\n#b.MOV,x\n\nsub/d e.mp4,Brush hair"),
        ("t.csv", "a.mp4 Walking\nsub/d e.mp4 Brush hair\n"),  # blanks in place of commas
        ("t.tsv", "a.mp4\tWalking\nsub/d e.mp4\tBrush hair\n"),
        ("t.tsv", "label\tfile\nWalking\ta.mp4\nBrush hair\tsub/d e.mp4\n"),
        ("t.txt", "a.mp4 Walking\nsub/d e.mp4 Brush hair\n"),
        ("t.txt", 'a.mp4 "Walking"\r\n"sub/d e.mp4"   "Brush hair"\r\n'),
        ("t.txt", "video label\na.mp4 Walking\n\n# comment\nsub/d e.mp4 Brush hair\n"),
        ("t.txt", "a.mp4\tWalking\nsub/d e.mp4\tBrush hair\n"),
        ("t.txt", "a.mp4, Walking\nsub/d e.mp4, Brush hair\n"),
        ("t.txt", "a Walking\nsub/d e Brush hair\n"),
        ("t.txt", "a.mp4 Walking\nsub\\d e.mp4 Brush hair\n"),
        ("t.json", '[{"video": "a", "label": "Walking"}, {"video": "sub/d e", '
         '"label": "Brush hair"}]'),
        ("t.jsonl", '{"file": "a.mp4", "action": "Walking"}\n{"file": "sub/d e.mp4", "action": '
         '"Brush hair"}\n'),
        ("t.json", '[{"id": "a", "label": "walking there", "template": "[Walking]"}, '
         '{"id": "sub/d e", "label": "x", "template": "Brush [hair]"}]'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_forms_of_tables(root, name, text, encoding):
    assert pairs(root, name, text.encode(encoding)) == AB


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("sub\\c.webm", "sub/c.webm"),
        (".\\sub\\c", "sub/c.webm"),
        ("./sub//../sub/c.webm", "sub/c.webm"),
        ("file://{root}/sub/d%20e.mp4", "sub/d e.mp4"),
        ("file:///C:/Users/me/clips/sub/d%20e.mp4", "sub/d e.mp4"),
        ("{root}/my clip.mp4", "my clip.mp4"),
        ("C:\\Users\\me\\clips\\sub\\c.webm", "sub/c.webm"),
        ("/home/other/clips/sub/c.webm", "sub/c.webm"),
        ("clip_001", "clip_001.mp4"),
        ("34870", "34870"),
        ("sub/", "sub"),
        ("#1.mp4", "#1.mp4"),
        ("a%20b.mp4", "a%20b.mp4"),  # percent signs are only special in URLs
    ],
)
def test_paths(root, text, path):
    (root / "a%20b.mp4").write_bytes(b"")
    row = f'"{text.format(root=root)}",x\n'
    assert pairs(root, "t.csv", row + "b.MOV,y\n") == [(path, "x"), ("b.MOV", "y")]


def test_names_without_extension_have_to_be_of_one_file(root):
    (root / "clip_001.avi").write_bytes(b"")
    assert pairs(root, "t.csv", "video,label\nclip_001,x\nb.MOV,y\n")[0] == ("clip_001", "x")


def test_paths_of_a_table_elsewhere(root, tmp_path):
    folder = tmp_path / "annotations"
    folder.mkdir()
    found, _ = read(folder, "t.csv", "a.mp4,x\nsub/c,y\n", videos=str(root))
    assert [item.path for item in found] == ["a.mp4", "sub/c.webm"]


def test_names_in_another_unicode_form(root):
    (root / "Cafe\u0301.mp4").write_bytes(b"")
    assert pairs(root, "t.txt", "Caf\u00e9.mp4 x\n") == [("Cafe\u0301.mp4", "x")]


# Lists of mmaction2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("folder 5 127\nmy folder 3 12 0\n", [("folder", "127"), ("my folder 3", "0")]),
        ("folder 127\nmy folder 3 0\n", [("folder", "127"), ("my folder 3", "0")]),
        ("a.mp4 127\nmy clip.mp4 0\n", [("a.mp4", "127"), ("my clip.mp4", "0")]),
        ("a.mp4 300 127\nmy clip.mp4 12 0\n", [("a.mp4", "127"), ("my clip.mp4", "0")]),
        ("gone 5 127\nfolder 3 0\n", [("gone", "127"), ("folder", "0")]),
        ("34870;Drumming Fingers\nfolder;Swiping Left\n", None),
    ],
)
def test_lists_of_mmaction2(root, text, expected):
    name = "t.txt" if expected else "t.csv"
    expected = expected or [("34870", "Drumming Fingers"), ("folder", "Swiping Left")]
    assert pairs(root, name, text) == expected


def test_frame_counts_before_names_of_classes(root):
    for name, count in (("one", 2), ("two", 3)):
        (root / name).mkdir()
        for number in range(count):
            (root / name / f"{number:05d}.jpg").write_bytes(b"")
    text = "one 2 Swiping Left\ntwo 3 Stop\n"
    assert pairs(root, "t.txt", text) == [("one", "Swiping Left"), ("two", "Stop")]
    # Numbers that are no counts belong to the name.
    text = "one 2 Fingers Up\ntwo 2 Fingers Down\n"
    assert pairs(root, "t.txt", text)[1] == ("two", "2 Fingers Down")


def test_multi_label_lists_of_mmaction2(root):
    text = "folder 5 1\n34870 5 3 5\na.mp4 0 2 4\n"
    expected = [("folder", "1"), ("34870", "3", "5"), ("a.mp4", "0", "2", "4")]
    assert pairs(root, "t.txt", text, multi_label=True) == expected
    with pytest.raises(UserError, match=r"line 2 .*'34870 5 3 5', with 2 labels.*--multi-label"):
        read(root, "t.txt", text)


def test_several_labels_in_a_cell(root):
    text = "path,label\na.mp4,run; jump\nb.MOV,run\nmy clip.mp4,jump;run;jump\n"
    found = pairs(root, "t.csv", text, multi_label=True)
    assert found == [("a.mp4", "run", "jump"), ("b.MOV", "run"), ("my clip.mp4", "jump", "run")]
    with pytest.raises(UserError, match=r"'jump;run;jump'.*--multi-label"):
        read(root, "t.csv", text)
    # A name with a semicolon is one label, if its parts are none.
    assert pairs(root, "t.csv", 'a.mp4,"slow; steady"\nb.MOV,run\n')[0] == ("a.mp4", "slow; steady")
    entries = [{"filename": "a.mp4", "label": [3, 5]}, {"frame_dir": "folder", "filename": "b.MOV"}]
    entries[1] |= {"label": [1]}
    with pytest.raises(UserError, match=r"entry 1 .* 2 labels"):
        read(root, "t.json", json.dumps([entries[0]]))
    assert pairs(root, "t.json", json.dumps(entries[:1]), multi_label=True) == [("a.mp4", "3", "5")]


# Splits and groups


def test_splits_of_a_table(root):
    text = "video,class,Subset\na.mp4,x,Training\nb.MOV,y,validation\nsub/c,x,TEST\nfolder,y,\n"
    assert [i.split for i in read(root, "t.csv", text)[0]] == ["train", "val", "test", ""]
    with pytest.raises(UserError, match=r"row 2 of .*'a.mp4,x,fold 3'.*'test'"):
        read(root, "t.csv", "video,class,split\na.mp4,x,fold 3\n")


def test_test_videos_without_a_class_are_left_out_by_name(root):
    text = "video,class,split\na.mp4,x,train\nb.MOV,,test\n"
    found, summary = read(root, "t.csv", text)
    assert [item.path for item in found] == ["a.mp4"]
    assert "1 test videos without a class: b.MOV" in summary
    with pytest.raises(UserError, match="row 3 of"):
        read(root, "t.csv", text.replace("test", "train"))


@pytest.mark.parametrize("group_by", ["speaker", "Speaker", "2"])
def test_a_column_of_groups(root, group_by):
    text = "video,Speaker,class\na.mp4,anna,x\nb.MOV,ben,y\n"
    assert [i.group for i in read(root, "t.csv", text, group_by=group_by)[0]] == ["anna", "ben"]
    with pytest.raises(UserError, match=r"--group-by=signer.*video, Speaker, class"):
        read(root, "t.csv", text, group_by="signer")


# Headers


@pytest.mark.parametrize("header", ["Datei,Gebärde", "Datei,label", "path,Gebärde", "foo,bar,baz"])
def test_headers_that_are_not_known(root, header):
    text = f"{header}\na.mp4,x,1\nb.MOV,y,2\n"
    with pytest.raises(UserError, match=f"'{header.split(',')[1]}'.*known.*--columns=path="):
        read(root, "t.csv", text)
    if header != "foo,bar,baz":
        columns = {"path": header.split(",")[0], "label": header.split(",")[1]}
        assert pairs(root, "t.csv", text, columns=columns) == [("a.mp4", "x"), ("b.MOV", "y")]
    assert pairs(root, "t.csv", text, columns={"path": "1", "label": "2"})[1] == ("b.MOV", "y")


def test_a_header_that_is_also_a_folder(root):
    (root / "video").mkdir()
    with pytest.raises(UserError, match="'video', 'Gebärde'"):
        read(root, "t.csv", "video,Gebärde\na.mp4,x\n")


def test_columns_of_a_table_without_header(root):
    text = "anna,a.mp4,x,train\nben,b.MOV,y,val\n"
    found, _ = read(root, "t.csv", text, group_by="1")
    assert [(i.path, *i.labels, i.split, i.group) for i in found] == [
        ("a.mp4", "x", "train", "anna"), ("b.MOV", "y", "val", "ben")
    ]  # fmt: skip


@pytest.mark.parametrize("times", ["start,end", "time_start,time_end", "Start Time,End Time"])
def test_rows_with_times_are_parts_unless_the_columns_leave_them_out(root, times):
    text = f"video,{times},label\na.mp4,1.5,2.5,x\na.mp4,3,4,y\n"
    found, _ = read(root, "t.csv", text)
    assert [item.name for item in found] == ["a.mp4 [1.500-2.500]", "a.mp4 [3.000-4.000]"]
    columns = {"path": "video", "label": "label"}
    assert pairs(root, "t.csv", text, columns=columns) == [("a.mp4", "x"), ("a.mp4", "y")]


def test_columns_of_json_may_have_lists_anywhere(root):
    text = '[{"label": ["a.mp4"], "class": "x", "tags": ["train"]}]'
    columns = {"path": "label", "label": "class", "split": "tags"}
    (item,), _ = read(root, "t.json", text, columns=columns)
    assert (item.path, item.labels, item.split) == ("a.mp4", ("x",), "train")


def test_unknown_columns_on_the_command_line(capsys, tmp_path):
    for text in ("video=a", "path", "path=,label=b"):
        assert cli.main(["prepare", "x.csv", f"--to={tmp_path}", f"--columns={text}"]) == 2
        assert f"--columns={text}" in capsys.readouterr().err


# Numbers of rows


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("t.csv", "path,label\n\na.mp4,x\n\n# comment\nb.MOV,\n", "row 6"),
        ("t.csv", 'path,label,note\na.mp4,x,"one\n\ntwo"\n\nb.MOV,,\n', "row 6"),
        ("t.csv", "\r\n\r\na.mp4,x\r\nb.MOV,\r\n", "row 4"),
        ("t.tsv", "#\na.mp4\tx\n\nb.MOV\t\n", "row 4"),
        ("t.txt", "# comment\n\na.mp4 x\n\n\nb\n", "line 6"),
        ("t.json", '[{"path": "a", "label": "x"}, {"path": "b"}]', "entry 2"),
    ],
)
def test_row_numbers_are_line_numbers(root, name, text, place):
    with pytest.raises(UserError, match=f"^{place} of "):
        read(root, name, text)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.json", "{", r"t\.json.*JSON"),
        ("t.json", "[" * 100_000, r"t\.json.*JSON"),
        ("t.json", '{"a": 1}', r"t\.json.*video"),
        ("t.json", "[]", "empty"),
        ("t.json", '[{"video": "a", "label": {"x": 1}}]', "entry 1 of"),
        ("t.csv", "path,label\n", "empty"),
        ("t.csv", "# nothing\n", "empty"),
        ("t.txt", "", "empty"),
        ("t.xlsx", "PK", "CSV UTF-8"),
        ("t.csv", b"\xff\xfea", "UTF-8"),
        ("t.csv", "a\0b.mp4,x\nb.MOV,y\n", ""),
    ],
)
def test_files_that_are_no_tables(root, name, text, message):
    if message:
        with pytest.raises(UserError, match=message):
            read(root, name, text)
    else:
        assert len(read(root, name, text)[0]) == 2  # opening it raises


# Names of numbered classes


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("label_map.txt", "Run\nWalk\nBrush hair\n"),
        ("classInd.txt", "0 Run\n1 Walk\n2 Brush hair\n"),
        ("classes.txt", "Brush hair,2\nRun,0\nWalk,1\n"),
    ],
)
def test_numbers_get_their_names_from_a_file_beside(root, name, text):
    (root / name).write_text(text)
    (root / "t.txt").write_text("a.mp4 2\nb.MOV 0\n")
    writer = DatasetWriter("to")
    _, items, _, order = custom_sources.find_examples(
        writer, str(root / "t.txt"), "to", custom_sources.SourceOptions()
    )
    assert [item.labels for item in items] == [("Brush hair",), ("Run",)]
    assert order == ["Run", "Walk", "Brush hair"] and name in str(writer)
    with pytest.raises(UserError, match=r"such as 3"):
        read(root, "t.txt", "a.mp4 2\nb.MOV 3\n")


def test_classes_keep_the_order_of_their_numbers(tmp_path):
    for number in range(4):
        write_video(tmp_path / f"{number}.mp4", 2)
    (tmp_path / "label_map.txt").write_text("Zebra\nYak\nAnt\n")
    (tmp_path / "t.txt").write_text("0.mp4 0\n1.mp4 0\n2.mp4 2\n3.mp4 2\n")
    prepared(tmp_path / "t.txt", tmp_path / "to")
    assert (tmp_path / "to/label_map.txt").read_text() == "Zebra\nAnt\n"


def test_sources_are_not_overwritten(tmp_path):
    for number in range(4):
        write_video(tmp_path / f"{number}.mp4", 2)
    rows = "0.mp4 3\n1.mp4 3\n2.mp4 5\n3.mp4 5\n"
    (tmp_path / "train_list.txt").write_text(rows)
    with pytest.raises(UserError, match=r"--to=.*train_list\.txt"):
        prepared(tmp_path / "train_list.txt", tmp_path)
    (tmp_path / "train_list.txt").rename(tmp_path / "t.txt")
    # Numbers without names are their own names, also the second time.
    prepared(tmp_path / "t.txt", tmp_path)
    assert (tmp_path / "label_map.txt").read_text() == "3\n5\n"
    assert "nothing to do" in prepared(tmp_path / "t.txt", tmp_path)
    (tmp_path / "label_map.txt").write_text("a\nb\nc\nd\ne\nf\n")
    with pytest.raises(UserError, match=r"--to=.*label_map\.txt"):
        prepared(tmp_path / "t.txt", tmp_path)


def test_very_long_numbers_are_names(root):
    long = "9" * 5000
    assert pairs(root, "t.txt", f"a.mp4 {long}\nb.MOV 2\n") == [("a.mp4", long), ("b.MOV", "2")]
    assert class_names.ordered({long, "10", "9"}) == sorted([long, "10", "9"])
    assert class_names.ordered({"10", "9"}) == ["9", "10"]


# Contradictions


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4,x,train\na.mp4,x,test\n", "a.mp4 .* 'test' and 'train'"),
        ("a,x\n./a.mp4,y\n", "a.mp4 .* 'x' and 'y'"),
    ],
)
def test_contradictions_are_refused(root, tmp_path, text, message):
    (root / "t.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        prepared(root / "t.csv", tmp_path / "to")


# Several labels, end to end


def test_multi_label_videos_become_lists(tmp_path):
    for number in range(6):
        write_video(tmp_path / f"{number}.mp4", 2)
    rows = "".join(f"{number}.mp4,{'run;jump' if number % 2 else 'run'}\n" for number in range(6))
    (tmp_path / "t.csv").write_text(f"path,labels\n{rows}")
    summary = prepared(tmp_path / "t.csv", tmp_path / "to", multi_label=True)
    assert "--config.data.multi_label=True" in summary
    lines = [
        line
        for split in ("train", "val")
        for line in (tmp_path / f"to/{split}_list.txt").read_text().splitlines()
    ]
    assert sorted(lines) == [f"{n}.mp4 {'0 1' if n % 2 else '1'}" for n in range(6)]
    (tmp_path / "t.csv").write_text("path,labels\n0.mp4,run\n1.mp4,jump\n")
    with pytest.raises(UserError, match="--multi-label"):
        prepared(tmp_path / "t.csv", tmp_path / "to", multi_label=True)


def test_folders_with_spaces_cannot_have_several_labels(tmp_path):
    for number in range(3):
        write_frames(tmp_path / f"my clip {number}", 2)
    (tmp_path / "t.csv").write_text("path,labels\nmy clip 0,a;b\nmy clip 1,a\nmy clip 2,b\n")
    with pytest.raises(UserError, match=r"3 folders .*'my clip 0'"):
        prepared(tmp_path / "t.csv", tmp_path / "to", multi_label=True)


# Any table gives examples or a `UserError`


def test_mutated_tables(root):
    rng = random.Random(0)
    texts = [
        b"path,label,split,speaker\na.mp4,x,train,anna\nb.MOV,y,val,ben\nsub/c.webm,x,test,\n",
        b"a.mp4 0\nb.MOV 1\nmy clip.mp4 2\nfolder 5 3\n# comment\n",
        b'[{"video": "a.mp4", "label": ["x", "y"]}, {"video": "b", "label": 3, "speaker": [1]}]',
        b'{"id": 1, "template": "a [b]"}\n{"id": "b"}\n',
        'path;label\r\n"a\nb";x;y\r\n'.encode("utf-16"),
        b"a.mp4\tx y\nb\tz\n",
    ]
    parts = [b",", b";", b"\t", b"|", b"\n", b"\r", b"\0", b'"', b"#", b"\\", b"file://", b"%zz"]
    parts += [b"[", b"]", b"C:\\", b"//", b"..", b"1" * 30, b"path", b"label", b"\xff", b"a" * 300]
    parts += [
        text.encode() for text in ("\u2028", "\u0663", "\u00b2", "file://[::1", "label_map.txt")
    ]
    for _ in range(200):
        text = bytearray(rng.choice(texts))
        for _ in range(rng.randint(1, 6)):
            place = rng.randint(0, len(text))
            if rng.random() < 0.6:
                text[place:place] = rng.choice(parts)
            else:
                del text[place : place + rng.randint(1, 10)]
        options = dict(multi_label=rng.random() < 0.3)
        options["group_by"] = rng.choice(["", "", "level1", "(a)", "speaker", "2"])
        try:
            items, _ = read(
                root, f"t{rng.choice(table_rows.TABLE_EXTENSIONS)}", bytes(text), **options
            )
        except UserError:
            continue
        assert items
        for item in items:
            assert item.path and all(item.labels) and item.split in ("", *SPLIT_NAMES)
            assert len(item.labels) == 1 or options["multi_label"]


def test_every_known_header_is_found():
    for what in ("path", "label"):
        for name in table_rows.HEADERS[what]:
            assert name == name.lower() and " " not in name
    assert not set(table_rows.HEADERS["path"]) & set(table_rows.HEADERS["label"])
