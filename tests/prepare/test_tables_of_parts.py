"""Tables of parts of videos: times, splits by video, parts outside, background, folders."""

import collections
import itertools
import json
import pathlib
import random
import runpy

import jax
import pytest
from custom_videos import prepared, write_frames, write_video
from tiny_training import RECIPE

from trn_jax import cli
from trn_jax.data import annotations, datasets
from trn_jax.data.class_names import read_class_names
from trn_jax.errors import UserError
from trn_jax.evaluation import score_files
from trn_jax.prepare import background, times
from trn_jax.prepare.dataset_writer import DatasetWriter
from trn_jax.prepare.examples import Example, Part
from trn_jax.prepare.opened_videos import Found, OpenedVideo, Place
from trn_jax.training import loop

RATE = 10  # frames per second of `write_video`


def write_videos(root, count=4, num_frames=30):
    for number in range(count):
        write_video(root / "clips" / f"v{number}.mp4", num_frames + number)


def write_table(path, rows, header="video,start,end,label,score"):
    path.write_text("".join(f"{line}\n" for line in [header, *rows]))
    return path


ROWS = [
    f"clips/v{number}.mp4,{start},{end},{label},0.9"
    for number in range(4)
    for start, end, label in ((0.2, 0.7, "run"), (1, 1.95, "jump"), ("0:02", "0:00:02.5", "run"))
]


def records_of(to, split, **options):
    """The records of a list with the names of their classes."""
    files = datasets.locate("frames", to)
    names = read_class_names(files.class_names)
    path, root = files.of_split(split)
    found = annotations.read_list(path, frames_root=root, num_classes=len(names), **options)
    return [(record.named(root), names[record.label]) for record in found]


def everything(to, **options):
    return records_of(to, "train", **options) + records_of(to, "val", **options)


def video_of(name):
    return name.split(" [")[0]


@pytest.mark.smoke
def test_a_table_of_times_becomes_lists_of_parts(tmp_path):
    write_videos(tmp_path)
    table = write_table(tmp_path / "events.csv", ROWS)
    summary = prepared(table, tmp_path / "to")
    found = everything(tmp_path / "to")
    assert sorted(found) == sorted(
        (f"clips/v{number}.mp4 [{part}]", label)
        for number in range(4)
        for part, label in (
            ("0.200-0.700", "run"),
            ("1.000-1.950", "jump"),
            ("2.000-2.500", "run"),
        )
    )
    videos = [
        {video_of(name) for name, _ in records_of(tmp_path / "to", s)} for s in ("train", "val")
    ]
    assert all(videos) and not videos[0] & videos[1]
    line = (tmp_path / "to" / "val_list.txt").read_text().splitlines()[0]
    assert line.split(" ", 1)[1] == "0.200 0.700 1"
    assert "parts of 3 videos" in summary and "parts of 1 videos" in summary
    assert "trn-jax train small" in summary and "with_offset" not in summary
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "to").glob("*.txt")}
    assert "nothing to do" in prepared(table, tmp_path / "to")
    assert before == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "to").glob("*.txt")}


@pytest.mark.parametrize(
    "header",
    [
        "video,start,end,label",
        "Video,Start Time,End Time,Label",
        "file,begin,end,label",
        "file,t_start,t_end,label",
        "file,onset,offset,label",
        "file,time_start,time_end,label",
        "file,start_s,stop_s,label",
        "file,from,to,label",
        "file,start_timestamp,stop_timestamp,label",
        "file,Begin Time - ss.msec,End Time - ss.msec,label",
    ],
)
def test_headers_of_times(tmp_path, header):
    write_videos(tmp_path)
    rows = [f"clips/v{n}.mp4,0.5,{1 + n % 2},{'ab'[n % 2]}" for n in (0, 1, 2, 3, 0)]
    prepared(write_table(tmp_path / "t.csv", rows, header), tmp_path / "to")
    assert sorted(everything(tmp_path / "to")) == [
        ("clips/v0.mp4 [0.500-1.000]", "a"),
        ("clips/v1.mp4 [0.500-2.000]", "b"),
        ("clips/v2.mp4 [0.500-1.000]", "a"),
        ("clips/v3.mp4 [0.500-2.000]", "b"),
    ]


def test_columns_of_times_may_be_named_or_left_out(tmp_path):
    write_videos(tmp_path)
    rows = [f"clips/v{n}.mp4,0.5,1,{'ab'[n % 2]}" for n in range(4)]
    table = write_table(tmp_path / "t.csv", rows, "video,von,bis,label")
    flags = ["prepare", str(table), f"--to={tmp_path}/to"]
    assert cli.main([*flags, "--columns=start=von,end=bis"]) == 0
    names = [f"clips/v{n}.mp4 [0.500-1.000]" for n in range(4)]
    assert sorted(name for name, _ in everything(tmp_path / "to")) == names
    write_table(table, rows, "video,start,end,label")
    assert cli.main([*flags, "--columns=path=video,label=label"]) == 0  # each file is one part
    assert sorted(name for name, _ in everything(tmp_path / "to")) == list(map(video_of, names))


@pytest.mark.parametrize("header", ["start,start_frame", "start_frame,end_frame", "onset,duration"])
def test_times_that_are_no_intervals_of_seconds_are_refused(tmp_path, header, capsys):
    write_videos(tmp_path, 2)
    table = write_table(tmp_path / "t.csv", ["clips/v0.mp4,1,2,a"], f"video,{header},label")
    assert cli.main(["prepare", str(table), f"--to={tmp_path}/to"]) == 2
    error = capsys.readouterr().err
    assert header.split(",")[0] in error and "--columns=start=" in error
    assert "--columns=path=video,label=label" in error


JSON = [
    {"video": "clips/v0.mp4", "start": 0.5, "end": 1, "label": "a"},
    {"video": "clips/v1.mp4", "label": "b"},
    {"video": "clips/v2.mp4", "label": "a", "start": None, "end": None},
    {"video": "clips/v3.mp4", "label": "b"},
]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.json", json.dumps(JSON)),
        ("t.csv", "v0.mp4,0.50,1.0,a\nv1.mp4,,,b\nv2.mp4,,,a\nv3.mp4,,,b\n"),
        ("t.csv", "video;start;end;label\nv0.mp4;0,5;1,0;a\nv1;;;b\nv2;;;a\nv3;;;b\n"),
        ("t.txt", "v0.mp4 0.5 1.000 a\nv1.mp4 b\nv2.mp4 a\nv3.mp4 b\n"),
    ],
)
def test_rows_without_times_are_whole_videos(tmp_path, name, text):
    write_videos(tmp_path)
    (tmp_path / name).write_text(text)
    prepared(tmp_path / name, tmp_path / "to", videos=str(tmp_path / "clips"))
    assert sorted(everything(tmp_path / "to")) == [
        ("v0.mp4 [0.500-1.000]", "a"),
        ("v1.mp4", "b"),
        ("v2.mp4", "a"),
        ("v3.mp4", "b"),
    ]


def test_lists_of_a_prepared_data_set_can_be_prepared_again(tmp_path):
    write_videos(tmp_path)
    prepared(write_table(tmp_path / "t.csv", ROWS), tmp_path / "to")
    text = "".join((tmp_path / "to" / f"{s}_list.txt").read_text() for s in ("train", "val"))
    (tmp_path / "all.txt").write_text(text)
    (tmp_path / "label_map.txt").write_bytes((tmp_path / "to" / "label_map.txt").read_bytes())
    prepared(tmp_path / "all.txt", tmp_path / "again")
    assert sorted(everything(tmp_path / "again")) == sorted(everything(tmp_path / "to"))


@pytest.mark.parametrize("place", ["absolute", "table", "videos"])
def test_paths_are_found_wherever_the_table_is(tmp_path, place):
    write_videos(tmp_path)
    rows = [row.removeprefix("clips/") for row in ROWS]
    folder, flags = tmp_path / "predicted", {}
    folder.mkdir()
    if place == "absolute":
        rows = [f"{tmp_path}/clips/{row}" for row in rows]
    elif place == "videos":
        flags = {"videos": str(tmp_path / "clips")}
    else:
        folder = tmp_path / "clips"
    prepared(write_table(folder / "events.csv", rows), tmp_path / "to", **flags)
    assert len(everything(tmp_path / "to")) == len(ROWS)
    files = datasets.locate("frames", tmp_path / "to")
    listed = annotations.read_list(files.train_list, frames_root=files.frames, num_classes=2)
    assert all(pathlib.Path(record.path).samefile(
        tmp_path / "clips" / pathlib.Path(record.path).name) for record in listed)  # fmt: skip


def test_parts_outside_of_their_video_are_named_and_left_out(tmp_path, capsys):
    write_videos(tmp_path, 3, num_frames=20)
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"no video")
    rows = [
        *(f"clips/v{n}.mp4,{start},{start + 0.5},{label}" for n in range(3)
          for start, label in ((0, "a"), (1, "b"))),
        "clips/v0.mp4,7.25,8,a",
        "clips/v1.mp4,1.4,99,b",
        "clips/v2.mp4,-1,0.5,a",
        "clips/v2.mp4,1.5,1.5,a",
        "clips/v2.mp4,1.5,0.5,a",
        "clips/broken.mp4,0,1,a",
        "clips/broken.mp4,1,2,b",
        "clips/missing.mp4,1,2,b",
    ]  # fmt: skip
    table = write_table(tmp_path / "t.csv", rows, "video,start,end,label")
    assert cli.main(["prepare", str(table), f"--to={tmp_path}/to"]) == 1
    output = capsys.readouterr().out
    found = dict(everything(tmp_path / "to"))
    assert len(found) == 7 and found["clips/v1.mp4 [1.400-2.100]"] == "b"
    assert "clips/v0.mp4 [7.250-8.000]" in output and "2.000 s" in output
    assert "clips/v1.mp4 [1.400-99.000]" in output
    for place in ("row 10", "row 11", "row 12"):
        assert place in output
    unreadable = (tmp_path / "to" / "unreadable.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in unreadable] == ["clips/broken.mp4", "clips/missing.mp4"]


def test_all_rows_to_correct_are_named_at_once(tmp_path, capsys):
    write_videos(tmp_path, 1)
    bad = {
        3: "clips/v0.mp4,0.9,0.8,a,0.9",
        4: "clips/v0.mp4,abc,0.8,a,",
        5: "clips/v0.mp4,0.1,0.8, ,0.9",
        6: "clips/v0.mp4,0.1,0.8",
        7: ",0.1,0.8,a,0.9",
    }
    table = write_table(tmp_path / "t.csv", [ROWS[0], *bad.values()])
    assert cli.main(["prepare", str(table), f"--to={tmp_path}/to"]) == 2
    error = capsys.readouterr().err
    assert "5 rows" in error and "video,start,end,label" in error and "'train'" not in error
    for number, text in bad.items():
        assert f"row {number} is {text!r}" in error
    # A single malformed row gets the same message. Rows whose only fault is their interval are left
    # out.
    write_table(table, [*ROWS[:2], bad[6]])
    assert cli.main(["prepare", str(table), f"--to={tmp_path}/to"]) == 2
    error = capsys.readouterr().err
    assert "row 4" in error and "video,start,end,label" in error and "'train'" not in error
    write_videos(tmp_path, 4)
    write_table(table, [*ROWS, bad[3]])
    assert cli.main(["prepare", str(table), f"--to={tmp_path}/to"]) == 1
    assert "row 14" in capsys.readouterr().out


@pytest.mark.parametrize(
    "cell", ["soon", "nan", "inf", "1:99:00", "1;2", "0x10", "1.2.3", "9" * 400]
)
def test_cells_that_are_no_times_are_named(tmp_path, cell, capsys):
    write_videos(tmp_path, 1)
    rows = ["clips/v0.mp4,0.5,1,a", f"clips/v0.mp4,{cell},2,a", "clips/v0.mp4,1,,b"]
    table = write_table(tmp_path / "t.csv", rows, "video,start,end,label")
    assert cli.main(["prepare", str(table), f"--to={tmp_path}/to"]) == 2
    error = capsys.readouterr().err
    assert "2 rows" in error and "row 3" in error and "row 4" in error and cell[:20] in error


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12.5", 12.5),
        (" 0,04 ", 0.04),
        (".5", 0.5),
        ("7", 7),
        ("1e-05", 1e-5),
        ("01:12.250", 72.25),
        ("1:00:00", 3600),
        ("0:00:01,5", 1.5),
        ("75:30", 4530),
        ("-0:01", -1),
        ("-2.5", -2.5),
    ],
)
def test_forms_of_times(text, seconds):
    assert times.parse_seconds(text) == seconds


def test_splits_and_groups_hold_videos_together(tmp_path):
    write_videos(tmp_path, 6)
    rows = [
        f"clips/v{n}.mp4,{start},{start + 0.5},{label},p{n % 3}"
        for n in range(6)
        for start, label in ((0, "a"), (1, "b"), (2, "a"))
    ]
    header = "video,start,end,label,person"
    table = write_table(tmp_path / "t.csv", rows, header)
    prepared(table, tmp_path / "to", group_by="person", val_share=0.4)
    people = [
        {int(video_of(name)[-5]) % 3 for name, _ in records_of(tmp_path / "to", split)}
        for split in ("train", "val")
    ]
    assert all(people) and not people[0] & people[1]
    # Earlier lists are kept, also for a video with other parts than then.
    before = {video_of(name) for name, _ in records_of(tmp_path / "to", "val")}
    rows = [row.replace(",0,0.5,", ",0.1,0.4,") for row in rows]
    random.Random(0).shuffle(rows)
    summary = prepared(write_table(table, rows, header), tmp_path / "to", val_share=0.01)
    assert {video_of(name) for name, _ in records_of(tmp_path / "to", "val")} == before
    assert "6 videos stay" in summary


def test_contradictions_about_a_video_or_a_part_are_errors(tmp_path):
    write_videos(tmp_path, 2)
    header = "video,start,end,label,split"
    rows = ["clips/v0.mp4,0,1,a,train", "clips/v0.mp4,1,2,b,val", "clips/v1.mp4,1,2,b,val"]
    with pytest.raises(UserError, match=r"clips/v0\.mp4 is in two splits"):
        prepared(write_table(tmp_path / "t.csv", rows, header), tmp_path / "to")
    rows = ["clips/v0.mp4,0,1,a,", "clips/v0.mp4,0.0004,1.0004,b,", "clips/v1.mp4,1,2,b,"]
    with pytest.raises(UserError, match=r"\[0\.000-1\.000\] is of two classes, 'a' and 'b'"):
        prepared(write_table(tmp_path / "t.csv", rows, header), tmp_path / "to")
    rows = ["clips/v0.mp4,0,1,a", "clips/v0.mp4,1,2,b"]
    with pytest.raises(UserError, match="for val"):
        prepared(write_table(tmp_path / "t.csv", rows, "video,start,end,label"), tmp_path / "to")


def test_a_single_film_is_divided_by_time(tmp_path, capsys):
    write_video(tmp_path / "film.mp4", 120)
    rows = [f"film.mp4,{n},{n + 0.5},{'ab'[n % 2]},0.9" for n in range(10)]
    table = write_table(tmp_path / "events.csv", rows)
    summary = prepared(table, tmp_path / "to", background=0.5)
    found = {split: records_of(tmp_path / "to", split) for split in ("train", "val")}
    times = {
        split: [float(name.split("[")[1].partition("-")[0]) for name, _ in records]
        for split, records in found.items()
    }
    start = min(times["val"])
    assert max(times["train"]) + 1.0 <= start and f"from {start:.3f} s on" in summary
    assert {label for _, label in found["train"]} == {"a", "b", "nothing"}
    assert {label for _, label in found["val"]} >= {"a", "b"}
    lists = [(tmp_path / "to" / f"{split}_list.txt").read_bytes() for split in found]
    assert "nothing to do" in prepared(table, tmp_path / "to", background=0.5)
    assert lists == [(tmp_path / "to" / f"{split}_list.txt").read_bytes() for split in found]
    capsys.readouterr()
    checked = ["check", "small", f"--config.data_dir={tmp_path}/to", f"--to={tmp_path}/check"]
    assert cli.main(checked) == 0
    assert "in the training list, too" in capsys.readouterr().out
    lists = [(tmp_path / "to" / f"{split}_list.txt") for split in ("train", "val")]
    lines = [line for path in lists for line in path.read_text().splitlines(keepends=True)]
    for number, path in enumerate(lists):  # in turn
        path.write_text("".join(lines[number::2]))
    assert cli.main(checked) == 1
    assert "must all end before" in capsys.readouterr().out


def test_several_labels_of_parts(tmp_path):
    write_videos(tmp_path, 2)
    rows = [
        "clips/v0.mp4,0,1,a;b",
        "clips/v0.mp4,1,2,b",
        "clips/v1.mp4,0,1,b",
        "clips/v1.mp4,0,1,c",
    ]
    table = write_table(tmp_path / "t.csv", rows, "video,start,end,label")
    prepared(table, tmp_path / "to", multi_label=True)
    lines = [
        line
        for split in ("train", "val")
        for line in (tmp_path / "to" / f"{split}_list.txt").read_text().splitlines()
    ]
    assert sorted(lines) == [
        "clips/v0.mp4 0.000 1.000 0 1",
        "clips/v0.mp4 1.000 2.000 1",
        "clips/v1.mp4 0.000 1.000 1 2",
    ]


# Folders of frames


def test_parts_of_folders_in_seconds_need_their_rate(tmp_path, capsys):
    for number in range(3):
        write_frames(tmp_path / "clips" / f"v{number}", 30)
    rows = [f"clips/v{n},{start},{end},{c}" for n in range(3)
            for start, end, c in ((0.5, 1, "a"), (1, 9, "b"))]  # fmt: skip
    table = write_table(tmp_path / "t.csv", [*rows, "clips/v0,8,9,a"], "video,start,end,label")
    flags = ["prepare", str(table), f"--to={tmp_path}/to"]
    assert cli.main(flags) == 2
    assert "--frame-rate=" in capsys.readouterr().err
    assert cli.main([*flags, "--frame-rate=10"]) == 1
    output = capsys.readouterr().out
    assert "clips/v0 [8.000-9.000]" in output
    assert "--config.data.with_offset=True" in output
    assert sorted(everything(tmp_path / "to", with_offset=True)) == sorted(
        (f"clips/v{n} [{part}]", label)
        for n in range(3)
        for part, label in (("5:10", "a"), ("10:30", "b"))
    )
    assert cli.main([*flags, "--frame-rate=0"]) == 2
    assert "--frame-rate=0" in capsys.readouterr().err


# Background


def parts_of(to):
    """`{video: [(start, end, label)]}` in milliseconds."""
    found = collections.defaultdict(list)
    for name, label in everything(to):
        start, end = name.split(" [")[1].rstrip("]").split("-")
        found[video_of(name)].append((*(round(1000 * float(t)) for t in (start, end)), label))
    return found


def test_background_overlaps_no_labelled_part_and_is_as_long(tmp_path):
    write_videos(tmp_path, 6, num_frames=60)
    rows = [
        f"clips/v{n}.mp4,{start},{start + length},{label},1"
        for n in range(6)
        for start, length, label in ((0.3, 0.4, "run"), (2, 0.7, "jump"), (3.1, 0.4, "run"))
    ]
    table = write_table(tmp_path / "t.csv", rows)
    texts = []
    for to, changes in (("to", {}), ("again", {}), ("other", {"seed": 1})):
        summary = prepared(table, tmp_path / to, background=0.5, **changes)
        assert "9 parts" in summary
        texts.append((tmp_path / to / "train_list.txt").read_text())
    assert texts[0] == texts[1] != texts[2]
    assert (tmp_path / "to" / "label_map.txt").read_text() == "jump\nrun\nnothing\n"
    found = parts_of(tmp_path / "to")
    nothing = [part for each in found.values() for part in each if part[2] == background.NAME]
    assert len(nothing) == 9
    for start, end, _ in nothing:
        assert end - start in (400, 700)
    for each in found.values():
        each.sort()
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(each))
        assert each[0][0] >= 0 and each[-1][1] <= 6600
        assert sum(part[2] == background.NAME for part in each) in (1, 2)
    # Each has a frame.
    files = datasets.locate("frames", tmp_path / "to")
    assert files.source == "videos"


def test_background_without_room_is_less_and_none_is_an_error(tmp_path):
    write_videos(tmp_path, 2, num_frames=20)
    rows = [f"clips/v{n}.mp4,{start},{start + 0.6},{c},1" for n in range(2)
            for start, c in ((0.1, "a"), (0.95, "b"))]  # fmt: skip
    table = write_table(tmp_path / "t.csv", rows)
    with pytest.raises(UserError, match="--background=3"):
        prepared(table, tmp_path / "to", background=3.0)
    rows += ["clips/v1.mp4,1.7,1.8,a,1"]
    summary = prepared(write_table(table, rows), tmp_path / "to", background=3.0)
    assert "no room for" in summary
    assert all(a[1] <= b[0] for each in parts_of(tmp_path / "to").values()
               for a, b in zip(sorted(each), sorted(each)[1:], strict=False))  # fmt: skip


def test_background_of_thousands_of_parts(tmp_path):
    video = OpenedVideo("video", 450_000, length=18_000_000, step=40)
    found = {
        Example("film.mp4", ("ab"[n % 2],), part=Part(6 * n, 6 * n + 2)): Found(
            video, Place(6000 * n, 6000 * n + 2000)
        )
        for n in range(3000)
    }
    writer = DatasetWriter(str(tmp_path))
    all_found, order = background.add_background(writer, found, [], share=1.0, seed=0)
    places = sorted((each.place.first, each.place.end) for each in all_found.values())
    assert len(places) == 6000 and order == ["a", "b", "nothing"]
    assert all(first + 2000 == end <= 18_000_000 for first, end in places)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(places))
    # Data sets that were prepared before stay as they are.
    added = [each.place.first for example, each in all_found.items() if example not in found]
    assert added[:4] == [16370081, 9260286, 16059443, 12764464]


@pytest.mark.parametrize("share", [-1, float("nan"), float("inf"), 1e9])
def test_impossible_shares_are_named(tmp_path, share):
    write_videos(tmp_path, 2)
    table = write_table(tmp_path / "t.csv", ROWS[:6])
    with pytest.raises(UserError, match="--background="):
        prepared(table, tmp_path / "to", background=share)


def test_background_needs_parts_and_its_name(tmp_path):
    write_videos(tmp_path, 2)
    rows = ["clips/v0.mp4,0,1,Nothing ,1", "clips/v1.mp4,0,1,a,1"]
    with pytest.raises(UserError, match=r"--background=0\.5.*'Nothing'"):
        prepared(write_table(tmp_path / "t.csv", rows), tmp_path / "to", background=0.5)
    table = write_table(tmp_path / "t.csv", ["clips/v0.mp4,b", "clips/v1.mp4,a"], "video,label")
    with pytest.raises(UserError, match=r"--background=0\.5.*start"):
        prepared(table, tmp_path / "to", background=0.5)


def test_background_of_folders_of_frames(tmp_path):
    for number in range(3):
        write_frames(tmp_path / "clips" / f"v{number}", 40)
    rows = [f"clips/v{n},{start},{start + 0.5},{c},1" for n in range(3)
            for start, c in ((0.5, "a"), (2, "b"))]  # fmt: skip
    table = write_table(tmp_path / "t.csv", rows)
    prepared(table, tmp_path / "to", background=1.0, frame_rate=10.0)
    nothing = [
        name for name, label in everything(tmp_path / "to", with_offset=True) if label == "nothing"
    ]
    assert len(nothing) == 6
    for name in nothing:
        first, end = map(int, name.split(" [")[1].rstrip("]").split(":"))
        assert end - first == 5 and first >= 0 and end <= 40
        assert end <= 5 or first >= 10
        assert not (first < 25 and end > 20)


# A training


@pytest.mark.slow
def test_from_a_table_to_a_training_and_its_scores(tmp_path, monkeypatch):
    rows = [row.replace("1,1.95,jump", "1,1.95,sit") if "v1" in row or "v3" in row else row
            for row in ROWS]  # fmt: skip
    write_videos(tmp_path)
    prepared(write_table(tmp_path / "t.csv", rows), tmp_path / "to", background=0.4)
    (tmp_path / "recipe.py").write_text(RECIPE)
    config = runpy.run_path(str(tmp_path / "recipe.py"))["get_config"]()
    config.data_dir = str(tmp_path / "to")
    config.train.update(steps=5, eval_every=0.0)
    device = loop.make_mesh(jax.devices()[:1])
    monkeypatch.setattr(loop, "make_mesh", lambda: device)
    assert loop.train(config, str(tmp_path / "run")) == 0
    run = tmp_path / "run"
    result = json.loads((run / "results" / "efficient.json").read_text())
    names = [name for name, _ in records_of(tmp_path / "to", "val")]
    assert result["num_videos"] == len(names) > 2 and result["num_unreadable"] == 0
    found = score_files.read(str(run / "results" / "efficient.npz"))
    assert list(found.videos) == names
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    assert max(row["step"] for row in rows) == 5
    lists = (run / "lists" / "val.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lists] == names
