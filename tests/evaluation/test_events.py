"""Tables of events, written and read."""

import csv
import os

import pytest

from trn_jax.errors import UserError
from trn_jax.evaluation.events import Event, read_events, write_events

EVENTS = [
    Event("a/1.mp4", 0.0, 1.5, "Waving", 0.75),
    Event("a/1.mp4", 61.25, 3700.125, "Nodding, twice", 1e-9),
    Event('b/"two"\n;x.mp4', 2.0, 2.5, "=HYPERLINK(1)", None),
    Event("c/дом.mp4", 0.0, 0.001, "Öffnen", -3.0),
]


def read(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode(encoding))
    return read_events(str(path))


def refusal(tmp_path, text):
    with pytest.raises(UserError) as error:
        read(tmp_path, text)
    assert "table.csv" in str(error.value)
    return str(error.value)


@pytest.mark.smoke
def test_events_that_are_written_are_read(tmp_path):
    path = str(tmp_path / "events.csv")
    write_events(path, EVENTS)
    assert read_events(path) == EVENTS
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["video", "start", "end", "label", "score"]
    assert rows[1] == ["a/1.mp4", "0.000", "1.500", "Waving", "0.75"]
    assert rows[3] == ['b/"two"\n;x.mp4', "2.000", "2.500", "=HYPERLINK(1)", ""]
    assert os.listdir(tmp_path) == ["events.csv"]
    write_events(path, [])
    assert read_events(path) == []


def test_times_are_rounded_to_milliseconds_and_events_stay_longer_than_nothing(tmp_path):
    path = tmp_path / "events.csv"
    write_events(path, [Event("v", -0.0, 1 / 3, "a"), Event("v", 2.0001, 2.0002, "a")])
    assert path.read_text().splitlines()[1:] == ["v,0.000,0.333,a,", "v,2.000,2.001,a,"]


def test_names_that_are_not_unicode_become_escapes(tmp_path):
    path = tmp_path / "events.csv"
    write_events(path, [Event("caf\udce9.mp4", 0, 1, "a", 1)])
    assert read_events(path)[0].video == r"caf\udce9.mp4"


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    def failing():
        yield EVENTS[0]
        raise UserError("broken")

    with pytest.raises(UserError, match="broken"):
        write_events(tmp_path / "events.csv", failing())
    with pytest.raises(UserError, match="nowhere"):
        write_events(tmp_path / "nowhere" / "events.csv", EVENTS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "text",
    [
        "video,start,end,label,score\né.mp4,1.5,75,Walk,0.5\n",
        " Label , End,annotator, START,Score,video\r\nWalk,0:01:15, me ,1.5,.5, é.mp4 \r\n\r\n",
        "video;start;end;label;score;\n\né.mp4;1,5;1:15,0;Walk;5e-1;\n",
        "video\tstart\tend\tlabel\tscore\n# by me\né.mp4\t00:00:01.500\t75,0\tWalk\t0,5\n",
        '# from a tool\n"video","start","end","label","score"\n"é.mp4","1.5","1:15","Walk","0.5"',
    ],
)
def test_tables_as_programs_write_them(tmp_path, text, encoding):
    assert read(tmp_path, text, encoding) == [Event("é.mp4", 1.5, 75.0, "Walk", 0.5)]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3661", 3661), ("1:01:01", 3661), ("61:01", 3661), ("0:00:00.25", 0.25), (".5", 0.5)],
)
def test_times(tmp_path, text, seconds):
    assert read(tmp_path, f"video,start,end,label\nv,0,{text},a\n")[0].end == seconds


@pytest.mark.parametrize(
    ("row", "value"),
    [
        ("v,2,1,a,1", "start 2 and end 1"),
        ("v,1,1,a,1", "start 1 and end 1"),
        ("v,-1,1,a,1", "start -1"),
        ("v,0,1e10,a,1", "1e\\+10"),
        ("v,0,1e999,a,1", "inf"),
        ("v,0,nan,a,1", "'nan'"),
        ("v,0,,a,1", "end ''"),
        ('v,0,"1,5",a,1', "'1,5'"),
        ("v,0,1:75,a,1", "'1:75'"),
        ("v,0,1:60:00,a,1", "'1:60:00'"),
        ("v,0,00:00:01:12,a,1", "'00:00:01:12'"),
        (",0,1,a,1", "video"),
        ("v,0,1,,1", "label"),
        ("v,0,1,a,high", "score 'high'"),
        ("v,0,1,a,inf", "score 'inf'"),
        ("v,0,1,a,b,1", "6 cells"),
        ("v,0,1", "3 cells"),
        ('v,0,1,"a,1', "unexpected end"),
        ('v,0,1,"a"b,1', "expected after"),
    ],
)
def test_malformed_rows(tmp_path, row, value):
    text = f"video,start,end,label,score\nv,0,1,a,1\n\n{row}\n"
    with pytest.raises(UserError, match=value) as error:
        read(tmp_path, text)
    assert "line 4" in str(error.value)


def test_all_malformed_lines_are_reported_with_their_numbers(tmp_path):
    text = (
        'video,start,end,label\n"two\nlines",0,1,a\nv,x,1,a\nv,1,2,a\nv,3,y,a\nv,1.0,2,a\nw,z,0,a\n'
    )
    found = refusal(tmp_path, text)
    lines = [line.split(":")[0].strip() for line in found.splitlines()[1:]]
    assert lines == ["line 4", "line 6", "line 7 repeats line 5", "line 8"]


def test_the_same_part_with_another_score_is_another_event(tmp_path):
    text = "video,start,end,label,score\nv,0,1,a,1\nv,0,1,a,0.5\n"
    assert [event.score for event in read(tmp_path, text)] == [1, 0.5]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", "empty"),
        ("\n\n# nothing\n", "empty"),
        ("a.mp4,0,1,Walk\n", "'a.mp4,0,1,Walk', without video, start, end, label"),
        ("video,start,label\n", "without end"),
        ("video,start,end,label,start\n", "start twice"),
    ],
)
def test_headers_that_are_none(tmp_path, text, value):
    assert value in refusal(tmp_path, text)


def test_files_that_are_no_tables(tmp_path):
    with pytest.raises(UserError, match="none"):
        read_events(str(tmp_path / "none.csv"))
    with pytest.raises(UserError, match="folder"):
        read_events(str(tmp_path))
    (tmp_path / "latin.csv").write_bytes("video,start,end,label\né,0,1,a\n".encode("latin-1"))
    with pytest.raises(UserError, match="UTF-8"):
        read_events(str(tmp_path / "latin.csv"))


@pytest.mark.parametrize(
    "fields",
    [
        dict(start=1, end=1),
        dict(start=float("nan"), end=1),
        dict(start=0, end=float("inf")),
        dict(video=" "),
        dict(label=""),
        dict(score=float("nan")),
    ],
)
def test_events_are_valid(fields):
    with pytest.raises(UserError):
        Event(**dict(video="v", start=0, end=1, label="a", score=1) | fields)
