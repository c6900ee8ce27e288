"""Files of annotation tools: each becomes the same lists, and malformed ones are refused."""

import json
import re

import pytest
from custom_videos import prepared, write_video

from trn_jax import cli
from trn_jax.data import annotations, datasets
from trn_jax.data.class_names import read_class_names
from trn_jax.errors import UserError
from trn_jax.prepare import annotation_tools, custom_sources, xml_files
from trn_jax.prepare.dataset_writer import DatasetWriter

# Videos have 10 frames per second.
PARTS = {
    "v0.mp4": [(0.5, 1.0, "run"), (1.0, 2.0, "jump")],
    "v1.mp4": [(0.0, 0.4, "jump"), (2.0, 2.5, "run")],
    "v2.mp4": [(0.2, 1.2, "run"), (1.5, 1.9, "jump")],
}


@pytest.fixture
def root(tmp_path):
    for number in range(3):
        write_video(tmp_path / f"v{number}.mp4", 30)
    return tmp_path


def read(root, name, content, **options):
    """The examples of a file with this content, as `{name: class}`, and the summary."""
    path = root / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    writer = DatasetWriter(str(root / "to"))
    _, examples, _, _ = custom_sources.find_examples(
        writer, str(path), str(root / "to"), custom_sources.SourceOptions(**options)
    )
    return {each.name: each.labels[0] for each in examples}, str(writer), writer.status


def listed(to):
    """`{name of a part: class}` of both lists."""
    files = datasets.locate("frames", to)
    names = read_class_names(files.class_names)
    found = {}
    for path, folder in (files.of_split("train"), files.of_split("val")):
        for record in annotations.read_list(path, frames_root=folder, num_classes=len(names)):
            found[record.named(folder)] = names[record.label]
    return found


EXPECTED = {
    f"{name} [{start:.3f}-{end:.3f}]": label
    for name, parts in PARTS.items()
    for start, end, label in parts
}


# The same parts in every format


def activitynet(parts=PARTS, subset="", **changes):
    database = {
        name.removesuffix(".mp4"): {
            "duration": 3.0,
            **({"subset": subset} if subset else {}),
            "annotations": [{"segment": [a, b], "label": label} for a, b, label in found],
        }
        for name, found in parts.items()
    }
    return {"version": "1.3", "database": database | changes}


def eaf(name, parts, *, media="", tier="Action", extra="", origin=""):
    media = media or (
        f'<MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/clips/{name}" MIME_TYPE="video/mp4" '
        f'RELATIVE_MEDIA_URL="./{name}" {origin}/>'
    )
    times = [round(1000 * time) for a, b, _ in parts for time in (a, b)]
    slots = "".join(
        f'<TIME_SLOT TIME_SLOT_ID="ts{n}" TIME_VALUE="{time}"/>' for n, time in enumerate(times)
    )
    entries = "".join(
        f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{n}" TIME_SLOT_REF1="ts{2 * n}" '
        f'TIME_SLOT_REF2="ts{2 * n + 1}"><ANNOTATION_VALUE>{label}</ANNOTATION_VALUE>'
        "</ALIGNABLE_ANNOTATION></ANNOTATION>"
        for n, (_, _, label) in enumerate(parts)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ANNOTATION_DOCUMENT AUTHOR="" VERSION="3.0" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        f'<HEADER TIME_UNITS="milliseconds">{media}</HEADER><TIME_ORDER>{slots}'
        f'<TIME_SLOT TIME_SLOT_ID="open"/></TIME_ORDER><TIER TIER_ID="{tier}">{entries}</TIER>'
        f'<TIER TIER_ID="empty"/>{extra}</ANNOTATION_DOCUMENT>'
    )


def boris_aggregated(parts=PARTS):
    header = (
        "Observation id,Media file,Subject,Behavior,Behavior type,Start (s),Stop (s),Duration (s)"
    )
    rows = [
        f"o1,{name},ape,{label},STATE,{a},{b},{b - a}"
        for name, found in parts.items()
        for a, b, label in found
    ]
    return "\n".join([header, *rows, "o1,v0.mp4,ape,sneeze,POINT,1.0,1.0,NA"]) + "\n"


def boris_tabular(parts=PARTS, separator="\t"):
    lines = [
        "Observation id\to1",
        "Media file(s)",
        "Player #1\tv0.mp4",
        "",
        "Time\tMedia file path\tTotal length\tFPS\tSubject\tBehavior\tComment\tStatus",
    ]
    rows = []
    for name, found in parts.items():
        for a, b, label in found:
            rows.append(f"{a}\t{name}\t3\t10\tape\t{label}\t\tSTART")
            rows.append(f"{b}\t{name}\t3\t10\tape\t{label}\t\tSTOP")
        rows.append(f"1.2\t{name}\t3\t10\tape\tsneeze\t\tPOINT")
    return "\n".join([*lines, *rows]).replace("\t", separator) + "\n"


def label_studio(parts=PARTS, *, kind="timelinelabels", place="/data/upload/1/0123abcd-{}"):
    tasks = []
    for number, (name, found) in enumerate(parts.items(), start=1):
        results = []
        for a, b, label in found:
            if kind == "timelinelabels":
                value = {"ranges": [{"start": round(10 * a) + 1, "end": round(10 * b)}]}
            else:
                value = {"start": a, "end": b, "channel": 0}
            results.append({"type": kind, "id": "x", "value": value | {kind: [label]}})
        results.append({"type": "choices", "value": {"choices": ["good"]}})
        cancelled = {"was_cancelled": True, "result": [{"type": kind, "value": {"ranges": [7]}}]}
        tasks.append({
            "id": number,
            "data": {"video": place.format(name), "title": "a film"},
            "annotations": [{"result": results}, cancelled],
        })  # fmt: skip
    return tasks


def cvat(name, parts, *, extra="", meta=""):
    tracks = "".join(
        f'<track id="{n}" label="{label}" source="manual">'
        + "".join(
            f'<box frame="{frame}" keyframe="1" outside="{int(frame == round(10 * b))}" xtl="1.5"/>'
            for frame in sorted({round(10 * a), round(10 * a) + 1, round(10 * b)})
        )
        + "</track>"
        for n, (a, b, label) in enumerate(parts)
    )
    meta = meta or f"<task><id>5</id><name>t</name><source>{name}</source></task>"
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>'
        f"<meta>{meta}</meta>{tracks}{extra}</annotations>"
    )


FORMATS = {
    "activitynet": lambda: {"a.json": json.dumps(activitynet())},
    "elan": lambda: {f"{n}.eaf": eaf(n, parts) for n, parts in PARTS.items()},
    "boris aggregated": lambda: {"b.csv": boris_aggregated()},
    "boris tabular": lambda: {"b.tsv": boris_tabular()},
    "boris tabular with commas": lambda: {"b.csv": boris_tabular(separator=",")},
    "label studio timeline": lambda: {"l.json": json.dumps(label_studio())},
    "label studio seconds": lambda: {
        "l.json": json.dumps(label_studio(kind="labels", place="/data/local-files/?d=clips/{}"))
    },
    "cvat": lambda: {f"{n}.xml": cvat(n, parts) for n, parts in PARTS.items()},
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_parts(root, name):
    files = FORMATS[name]()
    folder = root / "annotated"
    folder.mkdir()
    for path, text in files.items():
        (folder / path).write_text(text)
    source = folder if len(files) > 1 else folder / next(iter(files))
    summary = prepared(source, root / "to", videos=str(root))
    assert listed(root / "to") == EXPECTED
    assert "trn-jax train small" in summary
    if "boris" in name:
        assert "point events" in summary and "sneeze" in summary
    if "label studio" in name:
        assert "'choices'" in summary


def test_annotations_may_lie_beside_their_videos(root):
    for name, parts in PARTS.items():
        (root / f"{name}.eaf").write_text(eaf(name, parts))
    prepared(root, root / "to")
    assert listed(root / "to") == EXPECTED


@pytest.mark.parametrize("beside", [True, False])
def test_a_malformed_file_among_several_costs_its_own_parts(root, beside):
    folder = root if beside else root / "annotated"
    folder.mkdir(exist_ok=True)
    for name, parts in PARTS.items():
        (folder / f"{name}.eaf").write_text(eaf(name, parts))
    (folder / "bad.eaf").write_text("<ANNOTATION_DOCUMENT>")
    (folder / "empty.eaf").write_text(eaf("v0.mp4", [(0, 1, "")]))
    flags = ["prepare", str(folder), f"--to={root}/to"] + ([] if beside else [f"--videos={root}"])
    assert cli.main(flags) == 1
    assert listed(root / "to") == EXPECTED
    for name in PARTS:
        (folder / f"{name}.eaf").write_text("<ANNOTATION_DOCUMENT>")
    assert cli.main(flags) == 2


def test_files_without_parts_are_an_error(root, capsys):
    for name, text in {
        "a.json": json.dumps(activitynet({})),
        "b.csv": boris_aggregated({}),
        "c.xml": cvat("v0.mp4", []),
        "l.json": json.dumps([{"data": {"video": "v0.mp4"}, "annotations": []}]),
    }.items():
        (root / name).write_text(text)
        assert cli.main(["prepare", str(root / name), f"--to={root}/to"]) == 2
        assert name in capsys.readouterr().err


def test_the_rate_of_annotated_frames_may_be_another(root):
    for name, parts in PARTS.items():
        (root / f"{name}.xml").write_text(cvat(name, parts))
    prepared(root, root / "to", frame_rate=20.0)
    assert set(listed(root / "to")) == {
        f"{name} [{a / 2:.3f}-{b / 2:.3f}]" for name, parts in PARTS.items() for a, b, _ in parts
    }


# ActivityNet


def test_subsets_of_activitynet_are_splits(root):
    text = activitynet({"v0.mp4": PARTS["v0.mp4"]}, subset="training")
    text["database"] |= activitynet({"v1.mp4": PARTS["v1.mp4"]}, subset="validation")["database"]
    text["database"] |= {"v9": {"subset": "testing", "annotations": []}}
    (root / "a.json").write_text(json.dumps(text))
    summary = prepared(root / "a.json", root / "to")
    assert (root / "to" / "val_list.txt").read_text().startswith("v1.mp4 0.000 0.400")
    assert "videos without annotations" in summary and "v9" in summary


def test_names_with_the_mark_of_activitynet_and_missing_videos(root):
    (root / "v0.mp4").rename(root / "v_v0.mp4")
    found, _, _ = read(root, "a.json", json.dumps(activitynet({"v0": [(0, 1, "a")]})))
    assert found == {"v_v0.mp4 [0.000-1.000]": "a"}
    found, _, _ = read(root, "a.json", json.dumps(activitynet({"v_v0": [(0, 1, "a")]})))
    assert found == {"v_v0.mp4 [0.000-1.000]": "a"}
    flags = ["prepare", str(root / "b.json"), f"--to={root}/to"]
    parts = PARTS | {"gone.mp4": [(0, 1, "run"), (1, 2, "jump")], "v0.mp4": []}
    (root / "b.json").write_text(json.dumps(activitynet(parts)))
    assert cli.main(flags) == 1
    assert (root / "to" / "unreadable.txt").read_text().count("gone") == 2  # once, with the reason


def test_impossible_parts_are_named_and_left_out(root):
    parts = {"v0.mp4": [(-1.0, 1.0, "a"), (2.0, 1.0, "a"), (1.0, 1.0, "a"), (1e11, 1e12, "a"),
                        (0, 1, "b"), (0.5, 1.5, " ")]}  # fmt: skip
    found, summary, status = read(root, "a.json", json.dumps(activitynet(parts)))
    assert found == {"v0.mp4 [0.000-1.000]": "b"} and status == 1
    assert "4 parts that don't end" in summary and "without a class" in summary
    for number in (1, 2, 3):
        assert f"annotation {number} of video 'v0'" in summary


ANNOTATION = {"segment": [0, 1], "label": "a"}


@pytest.mark.parametrize(
    "entry",
    [
        7,
        [],
        None,
        {"annotations": 7},
        {"annotations": [7]},
        {"annotations": [ANNOTATION], "subset": "some"},
        {"annotations": [ANNOTATION], "subset": 7},
        {"annotations": [{"segment": [0, 1]}]},
        {"annotations": [{"segment": [0, 1], "label": 7}]},
        {"annotations": [{"segment": [0, 1], "label": ["a"]}]},
        {"annotations": [{"label": "a"}]},
        *({"annotations": [{"segment": segment, "label": "a"}]} for segment in (
            [0], [0, 1, 2], "01", ["0", "1"], [True, 2], [None, 2], [0, float("nan")],
            [0, float("inf")], [0, 10**400], {"start": 0}, [[0], 1])),
    ],
)  # fmt: skip
def test_malformed_entries_of_activitynet_are_named(root, entry):
    with pytest.raises(UserError, match=r"a\.json.*v7"):
        read(root, "a.json", json.dumps(activitynet(v7=entry)))


def test_a_database_that_is_none(root):
    for content in ({"database": [1]}, {"database": None}, {"database": "x"}):
        with pytest.raises(UserError, match="'database'"):
            read(root, "a.json", json.dumps(content))


# ELAN


def test_tiers_are_chosen_by_name_unless_there_is_one(root):
    extra = (
        '<TIER TIER_ID="Hand" PARENT_REF="Action"><ANNOTATION><REF_ANNOTATION ANNOTATION_ID="r0" '
        'ANNOTATION_REF="a1"><ANNOTATION_VALUE>left</ANNOTATION_VALUE></REF_ANNOTATION>'
        "</ANNOTATION></TIER>"
    )
    text = eaf("v0.mp4", PARTS["v0.mp4"], extra=extra)
    with pytest.raises(UserError, match=r"v\.eaf.*Action \(2 .*Hand \(1 .*--columns='label="):
        read(root, "v.eaf", text)
    actions = {"v0.mp4 [0.500-1.000]": "run", "v0.mp4 [1.000-2.000]": "jump"}
    assert read(root, "v.eaf", text, columns={"label": "Action"})[0] == actions
    found = read(root, "v.eaf", text, columns={"label": "Hand"})[0]
    assert found == {"v0.mp4 [1.000-2.000]": "left"}
    with pytest.raises(UserError, match="'Foot'"):
        read(root, "v.eaf", text, columns={"label": "Action;Foot"})
    (root / "v.eaf").write_text(text)
    flags = ["prepare", str(root / "v.eaf"), f"--to={root}/to"]
    assert cli.main([*flags, "--columns=label=Action;Hand"]) == 2  # one part of two classes


def test_times_of_elan_count_from_the_origin_of_the_video(root):
    text = eaf("v0.mp4", PARTS["v0.mp4"], origin='TIME_ORIGIN="250"')
    assert set(read(root, "v.eaf", text)[0]) == {"v0.mp4 [0.750-1.250]", "v0.mp4 [1.250-2.250]"}


def test_the_video_of_elan_is_found_by_the_end_of_its_path(root):
    for media in (
        '<MEDIA_DESCRIPTOR MEDIA_URL="file:///somewhere/else/v1.mp4" MIME_TYPE="video/mp4"/>',
        '<MEDIA_DESCRIPTOR MEDIA_URL="file:///v.wav" MIME_TYPE="audio/x-wav"/>'
        '<MEDIA_DESCRIPTOR MEDIA_URL="file:///D:/x/y.mp4" RELATIVE_MEDIA_URL="../../x/v1.mp4" '
        'MIME_TYPE="video/mp4"/>',
    ):
        found, _, _ = read(root, "v.eaf", eaf("", PARTS["v0.mp4"], media=media))
        assert set(found) == {"v1.mp4 [0.500-1.000]", "v1.mp4 [1.000-2.000]"}


def test_annotations_without_times_are_named(root):
    text = eaf("v0.mp4", PARTS["v0.mp4"]).replace('REF2="ts3"', 'REF2="open"')
    found, summary, status = read(root, "v.eaf", text)
    assert list(found) == ["v0.mp4 [0.500-1.000]"] and status == 1
    assert "a1 of tier 'Action'" in summary


BAD_EAF = {
    "no video": (lambda text: re.sub("<MEDIA_DESCRIPTOR[^>]*>", "", text), "MEDIA_DESCRIPTOR"),
    "cut": (lambda text: text[: len(text) // 2], "not complete XML"),
    "no root": (lambda text: text.replace("ANNOTATION_DOCUMENT", "DOCUMENT"), "ELAN"),
    "a time": (lambda text: text.replace('TIME_VALUE="500"', 'TIME_VALUE="nan"'), "ts0 is 'nan'"),
    "a huge time": (lambda text: text.replace('TIME_VALUE="500"', f'TIME_VALUE="{10**30}"'), "ts0"),
    "a loop": (
        lambda text: text.replace(
            "</ANNOTATION_DOCUMENT>",
            '<TIER TIER_ID="Loop"><ANNOTATION>'
            '<REF_ANNOTATION ANNOTATION_ID="x" ANNOTATION_REF="y"/>'
            '<REF_ANNOTATION ANNOTATION_ID="y" ANNOTATION_REF="x"/></ANNOTATION></TIER>'
            "</ANNOTATION_DOCUMENT>",
        ),
        "circle",
    ),
}


@pytest.mark.parametrize("case", BAD_EAF)
def test_malformed_files_of_elan(root, case):
    change, message = BAD_EAF[case]
    options = {"columns": {"label": "Loop"}} if case == "a loop" else {}
    with pytest.raises(UserError, match=message) as error:
        read(root, "v.eaf", change(eaf("v0.mp4", PARTS["v0.mp4"])), **options)
    assert "v.eaf" in str(error.value)


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">{}]><ANNOTATION_DOCUMENT>&{};</ANNOTATION_DOCUMENT>'
LAUGHS = "".join(
    f'<!ENTITY {b} "{10 * f"&{a};"}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB.format(LAUGHS, "i"),
        BOMB.format('<!ENTITY x SYSTEM "file:///etc/passwd">', "x"),
        '<!DOCTYPE a SYSTEM "http://example.org/a.dtd"><ANNOTATION_DOCUMENT/>',
        "<ANNOTATION_DOCUMENT>" + "<a>" * 500 + "</a>" * 500 + "</ANNOTATION_DOCUMENT>",
        "<ANNOTATION_DOCUMENT>&undefined;</ANNOTATION_DOCUMENT>",
        "<ANNOTATION_DOCUMENT",
        "",
        "<ANNOTATION_DOCUMENT a='1' a='2'/>",
    ],
)
def test_dangerous_and_broken_xml_is_refused(tmp_path, text):
    path = tmp_path / "v.eaf"
    path.write_text(text)
    with pytest.raises(UserError):
        xml_files.read_xml(str(path))
    assert cli.main(["prepare", str(path), f"--to={tmp_path}/to"]) == 2


def test_xml_that_takes_much_more_memory_than_its_file_is_refused(tmp_path):
    path = tmp_path / "v.eaf"
    path.write_text("<ANNOTATION_DOCUMENT>" + "<a/>" * 350_000 + "</ANNOTATION_DOCUMENT>")
    with pytest.raises(UserError, match="in memory"):
        xml_files.read_xml(str(path))


def test_other_encodings_of_xml(root):
    text = eaf("v0.mp4", [(0.5, 1, "Läufe")])
    for encoding in ("utf-16", "latin-1"):
        content = text.replace("UTF-8", encoding).encode(encoding)
        assert read(root, "v.eaf", content)[0] == {"v0.mp4 [0.500-1.000]": "Läufe"}
    for wrong in (text.replace("UTF-8", "klingon").encode(), text.encode("latin-1")):
        with pytest.raises(UserError, match=r"v\.eaf"):
            read(root, "v.eaf", wrong)


# BORIS


def test_events_of_boris_that_have_no_pair_are_named(root):
    lines = boris_tabular().splitlines()
    lines.remove("1.0\tv0.mp4\t3\t10\tape\trun\t\tSTOP")
    lines.remove("0.0\tv1.mp4\t3\t10\tape\tjump\t\tSTART")
    lines.append("0.3\tv2.mp4\t3\t10\t\t\t\tSTART")
    found, summary, status = read(root, "b.tsv", "\n".join(lines))
    expected = dict(EXPECTED)
    del expected["v0.mp4 [0.500-1.000]"], expected["v1.mp4 [0.000-0.400]"]
    assert found == expected and status == 1
    assert "'run', begins and has no end" in summary and "'jump', ends and has not" in summary
    assert "rows without a behavior" in summary


def test_subjects_of_boris_behave_at_the_same_time(root):
    header = "Observation id,Subject,Behavior,Behavior type,Time,Media file name"
    rows = ["o,a,run,START,0.1,v0.mp4", "o,b,run,START,0.2,v0.mp4", "o,a,run,STOP,0.7,v0.mp4",
            "o,b,run,STOP,00:00:01.500,v0.mp4"]  # fmt: skip
    found, _, status = read(root, "b.csv", "\n".join([header, *rows]))
    assert set(found) == {"v0.mp4 [0.100-0.700]", "v0.mp4 [0.200-1.500]"} and status == 0


def test_the_video_of_boris_may_stand_above_the_table(root):
    header = "Time\tSubject\tBehavior\tStatus"
    rows = "0.5\tape\trun\tSTART\n1.0\tape\trun\tSTOP\n"
    found, _, _ = read(root, "b.tsv", f"Player #1\tv1.mp4\n{header}\n{rows}")
    assert found == {"v1.mp4 [0.500-1.000]": "run"}
    text = boris_aggregated().replace("Media file", "Source").replace(",v", ",player #1:v")
    assert read(root, "b.csv", text)[0] == EXPECTED
    for above in ("Player #1\tnone", "Player #1\tv1.mp4\nPlayer #2\tv2.mp4"):
        with pytest.raises(UserError, match=r"b\.tsv: row .* media file"):
            read(root, "b.tsv", f"{above}\n{header}\n{rows}")


def test_times_of_boris_that_are_none(root):
    for cell in ("", "NA", "nan", "-"):
        text = boris_aggregated().replace("STATE,0.5,1.0", f"STATE,0.5,{cell}")
        with pytest.raises(UserError, match=r"b\.csv: row 2.*stop_s"):
            read(root, "b.csv", text)


# Label Studio


def test_regions_may_have_several_labels_and_ranges(root):
    tasks = label_studio({"v0.mp4": [(0.5, 1.0, "run")]})
    value = tasks[0]["annotations"][0]["result"][0]["value"]
    value["ranges"].append({"start": 1, "end": 2})
    assert set(read(root, "l.json", json.dumps(tasks))[0]) == {
        "v0.mp4 [frames 5 to 10]",
        "v0.mp4 [frames 0 to 2]",
    }
    value["timelinelabels"].append("jump")
    with pytest.raises(UserError, match=r"l\.json.*--multi-label"):
        read(root, "l.json", json.dumps(tasks))
    found, _, _ = read(root, "l.json", json.dumps(tasks), multi_label=True)
    assert len(found) == 2


def test_rectangles_are_parts_while_they_are_enabled(root):
    keys = [(3, True), (6, False), (9, True), (12, True)]
    value = {"sequence": [{"frame": f, "enabled": e} for f, e in keys], "labels": ["cat"]}
    tasks = label_studio({"v0.mp4": []})
    result = {"type": "videorectangle", "value": value | {"framesCount": 30}}
    tasks[0]["annotations"][0]["result"] = [result]
    found, _, _ = read(root, "l.json", json.dumps(tasks))
    assert found == {"v0.mp4 [frames 2 to 6]": "cat", "v0.mp4 [frames 8 to 30]": "cat"}
    for wrong in (
        {"sequence": [7]},
        {"sequence": [{"frame": "x"}]},
        {"labels": 3},
        {"sequence": 1},
    ):
        result["value"] = value | wrong
        with pytest.raises(UserError, match=r"l\.json.*task 1"):
            read(root, "l.json", json.dumps(tasks))


def spoilt(change):
    tasks = label_studio()
    change(tasks)
    return json.dumps(tasks)


def result_of(tasks):
    return tasks[1]["annotations"][0]["result"][0]


BAD_TASKS = {
    "a number": lambda tasks: tasks.__setitem__(1, 7),
    "data": lambda tasks: tasks[1].update(data=[1]),
    "no video": lambda tasks: tasks[1].update(data={"text": "hello"}),
    "annotations": lambda tasks: tasks[1].update(annotations={"a": 1}),
    "an annotation": lambda tasks: tasks[1].update(annotations=[3]),
    "result": lambda tasks: tasks[1]["annotations"][0].update(result={"a": 1}),
    "a result": lambda tasks: tasks[1]["annotations"][0].update(result=["x"]),
    "value": lambda tasks: result_of(tasks).update(value=None),
    "ranges": lambda tasks: result_of(tasks)["value"].update(ranges=3),
    "a range": lambda tasks: result_of(tasks)["value"].update(ranges=[3]),
    "a frame": lambda tasks: result_of(tasks)["value"].update(ranges=[{"start": "x", "end": 3}]),
    "half a frame": lambda tasks: result_of(tasks)["value"].update(
        ranges=[{"start": 1.5, "end": 3}]
    ),
    "NaN": lambda tasks: result_of(tasks)["value"].update(
        ranges=[{"start": float("nan"), "end": 3}]
    ),
    "huge": lambda tasks: result_of(tasks)["value"].update(ranges=[{"start": 1, "end": 10**40}]),
    "labels": lambda tasks: result_of(tasks)["value"].update(timelinelabels="run"),
    "a label": lambda tasks: result_of(tasks)["value"].update(timelinelabels=[7]),
}


@pytest.mark.parametrize("case", BAD_TASKS)
def test_malformed_tasks_are_named(root, case):
    with pytest.raises(UserError, match=r"l\.json: .*task 2"):
        read(root, "l.json", spoilt(BAD_TASKS[case]))


# CVAT


def test_tracks_may_come_and_go_and_tags_of_consecutive_frames_are_one_part(root):
    shapes = {3: 0, 4: 0, 6: 1, 9: 0, 12: 1, 14: 0, 15: 0}
    extra = '<track id="9" label="box">'
    extra += "".join(f'<points frame="{f}" outside="{o}"/>' for f, o in shapes.items())
    extra += "</track>" + "".join(f'<tag label="wave" frame="{f}"/>' for f in (20, 22, 21, 25))
    extra += '<image id="27" name="f"><tag label="wave"/><box label="x"/></image>'
    found, summary, _ = read(root, "c.xml", cvat("v2.mp4", [], extra=extra))
    assert found == {
        "v2.mp4 [frames 3 to 6]": "box",
        "v2.mp4 [frames 9 to 12]": "box",
        "v2.mp4 [frames 14 to 16]": "box",
        "v2.mp4 [frames 20 to 23]": "wave",
        "v2.mp4 [frames 25 to 26]": "wave",
        "v2.mp4 [frames 27 to 28]": "wave",
    }
    assert "images with shapes" in summary


def test_projects_of_cvat_have_a_video_per_task(root):
    meta = "<project><tasks>" + "".join(
        f"<task><id>{n}</id><source>v{n}.mp4</source></task>" for n in (0, 1)
    ) + "</tasks></project>"  # fmt: skip
    shape = '<box frame="1" outside="0"/>'
    extra = "".join(
        f'<track label="{c}" task_id="{n}">{shape}</track>' for n, c in ((1, "a"), (0, "b"))
    )
    text = cvat("", [], meta=meta, extra=extra)
    assert read(root, "c.xml", text)[0] == {
        "v1.mp4 [frames 1 to 2]": "a",
        "v0.mp4 [frames 1 to 2]": "b",
    }
    with pytest.raises(UserError, match=r"c\.xml.*2 videos"):
        read(root, "c.xml", text.replace(' task_id="1"', ""))


@pytest.mark.parametrize("frame", ["x", "1.5", "-", "", "9" * 40, "nan"])
def test_frames_that_are_none(root, frame):
    extra = f'<track id="7" label="a"><box frame="{frame}" outside="0"/></track>'
    with pytest.raises(UserError, match=r"c\.xml: .*track 7"):
        read(root, "c.xml", cvat("v0.mp4", [], extra=extra))


def test_cvat_without_a_video(root):
    text = cvat("v0.mp4", PARTS["v0.mp4"], meta="<task><id>1</id></task>")
    with pytest.raises(UserError, match=r"c\.xml.*<source>"):
        read(root, "c.xml", text)


def test_frames_after_the_end_of_the_video(root, capsys):
    far = [(0.5, 1.0, "run"), (1.0, 2.0, "jump"), (2.9, 9.0, "run"), (5.0, 6.0, "run")]
    for name, parts in (PARTS | {"v0.mp4": far}).items():
        (root / f"{name}.xml").write_text(cvat(name, parts))
    assert cli.main(["prepare", str(root), f"--to={root}/to"]) == 1
    output = capsys.readouterr().out
    assert "v0.mp4 [frames 50 to 60] (the video has 30 frames)" in output
    assert "v0.mp4 [frames 29 to 90]" in output
    assert listed(root / "to") == EXPECTED | {"v0.mp4 [2.900-3.000]": "run"}


# Which file is of which tool


def test_other_files_are_of_no_tool(root):
    for name, text in {
        "t.csv": "video,label\nv0.mp4,a\n",
        "t.tsv": "video\tbehavior\nv0.mp4\ta\n",
        "t.json": '[{"video": "v0.mp4", "label": "a"}]',
        "t.jsonl": '{"video": "v0.mp4", "label": "a"}\n',
        "t.txt": "v0.mp4 a\n",
        "t.xml": "<other/>",
    }.items():
        (root / name).write_text(text)
        assert annotation_tools.tool_of(str(root / name)) is None, name
    assert read(root, "t.tsv", "video\tbehavior\tlabel\nv0.mp4\ta\tb\n")[0] == {"v0.mp4": "b"}
    with pytest.raises(UserError, match=r"t\.xml.*CVAT"):
        read(root, "t.xml", "<other/>")


def test_flags_for_tables_are_refused(root):
    text = json.dumps(activitynet())
    with pytest.raises(UserError, match="--columns"):
        read(root, "a.json", text, columns={"label": "x"})
    with pytest.raises(UserError, match="--columns=path="):
        read(root, "a.json", text, columns={"path": "x"})
