"""Parts of videos: their frames by what is painted on them, on every road that reads videos."""

import dataclasses
import fractions
import itertools
import shutil

import av
import cv2
import numpy as np
import painted
import pytest
import simplejpeg
from grey_videos import assert_same_batches, assert_same_videos

from trn_jax import cli
from trn_jax.data import annotations, batches, check, frame_index, parts, records, videos
from trn_jax.data.annotations import Record
from trn_jax.data.decode import FrameError, read_video
from trn_jax.data.frame_folders import FrameFolders
from trn_jax.data.reader import ClipReader
from trn_jax.data.views import View
from trn_jax.errors import UserError

NUM_FRAMES = 50
OPEN_GOP = {"g": 10, "bf": 2, "x264-params": "open-gop=1:keyint=10:min-keyint=10"}
KINDS = {
    "b_frames.mp4": dict(g=12, bf=3),
    "open_groups.mp4": OPEN_GOP,
    "one_key_frame.mkv": dict(g=1000, bf=2),
    "uneven.mkv": dict(g=8),
    "no_times.avi": dict(codec="mpeg4", g=9, b="2000k"),
    "mpeg2.mpg": dict(codec="mpeg2video", g=9, b="4000k"),
    "stream.ts": dict(g=10, bf=2),
}
UNEVEN = [0, *np.cumsum(np.random.default_rng(0).integers(5, 200, NUM_FRAMES - 1)).tolist()]
VIEW = dict(
    num_segments=4,
    sampling="random",
    frame_order="forward",
    short_side=48,
    crop="multi_scale",
    crop_size=48,
    scales=(1, 0.75),
    num_positions=5,
    flip_rate=0.5,
    flip_labels=False,
)
STAMPLESS = np.full(NUM_FRAMES, np.nan)
OPTIONS = dict(seed=3, label_map={}, exact_resize=False, on_error="raise", num_threads=2)
FILES = videos.VideoFiles()


def write(path, times=None, **options):
    """Fifty painted frames, at 25 frames per second or at times in milliseconds."""
    film = painted.frames(NUM_FRAMES)
    if times is None:
        return painted.write(path, film, **options)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *film[0].shape[:2], "yuv420p"
        stream.options = {key: str(value) for key, value in options.items()}
        stream.codec_context.time_base = fractions.Fraction(1, 1000)
        for pixels, time in zip(film, times, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, fractions.Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module", params=KINDS)
def video(request, tmp_path_factory):
    """A file and the times of its frames in milliseconds."""
    path = tmp_path_factory.mktemp("videos") / request.param
    times = UNEVEN if "uneven" in request.param else None
    write(path, times, **KINDS[request.param])
    return path, times or [40 * number for number in range(NUM_FRAMES)]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write(tmp_path_factory.mktemp("film") / "film.mp4", **OPEN_GOP)


def part(path, start, end, **changes):
    return dataclasses.replace(Record(0, str(path), 0, 0, start, end), **changes)


def read(record, indices=None, source=FILES):
    """Frames of a record, by default all; of corrupt videos those that decode."""

    def frames(opened):
        return opened.read(range(opened.num_frames) if indices is None else indices)

    return read_video(lambda: source.open(record), frames)


def numbers(record, **options):
    return [painted.number(frame) for frame in read(record, **options)]


# Which frames


def test_times_are_those_of_display(video):
    path, times = video
    with videos.VideoFile(str(path)) as opened:
        found = opened.times
    assert found[0] == 0 and len(found) == NUM_FRAMES
    np.testing.assert_allclose(found * 1000, times, atol=0.5)


def test_a_part_that_is_the_whole_video_is_that_bit_for_bit(video):
    path, times = video
    whole = read(Record(0, str(path), 0, 0))
    found = read(part(path, 0.0, times[-1] / 1000 + 0.04))
    assert len(found) == NUM_FRAMES
    np.testing.assert_array_equal(found, whole)


@pytest.mark.smoke
def test_frames_of_a_part_are_those_from_its_start_and_before_its_end(video):
    path, times = video
    rng = np.random.default_rng(1)
    for _ in range(12):
        start, end = np.sort(rng.choice(times[-1], 2, replace=False)).tolist()
        expected = [number for number, time in enumerate(times) if start <= time < end]
        record = part(path, start / 1000, end / 1000)
        if expected:
            assert numbers(record) == expected
        else:
            with pytest.raises(FrameError, match=parts.decimal(start / 1000)):
                read(record)


def test_neighbouring_parts_share_no_frame_and_lose_none(video):
    path, times = video
    edges = [0, times[1], times[17], times[18], times[40], 10**6]
    intervals = itertools.pairwise(edge / 1000 for edge in edges)
    found = [numbers(part(path, start, end)) for start, end in intervals]
    assert [len(each) for each in found] == [1, 16, 1, 22, 10]
    assert list(itertools.chain(*found)) == list(range(NUM_FRAMES))


def test_times_are_compared_in_milliseconds():
    thirtieths = np.arange(60) / 30
    assert parts.frames_between(thirtieths, 0.333, 0.667) == range(10, 20)
    assert parts.frames_between(thirtieths, 1 / 3, 2 / 3) == range(10, 20)
    assert parts.frames_between(thirtieths, 0.334, 0.668) == range(11, 21)
    assert not parts.frames_between(thirtieths, 2.0, 9.0)
    assert [parts.decimal(t) for t in (0, 12.5, 0.0996, 3599.9999)] == [
        "0.000",
        "12.500",
        "0.100",
        "3600.000",
    ]


def test_single_frames_of_a_part_and_those_outside(film):
    record = part(film, 0.4, 1.2)  # frames 10 to 29
    assert numbers(record, indices=[19, 0, 5, 5]) == [29, 10, 15, 15]
    with FILES.open(record) as opened:
        assert opened.num_frames == 20
        for outside in (20, -1):
            with pytest.raises(FrameError, match=r"\[0\.400-1\.200\]"):
                opened.read([outside])


def test_a_part_may_end_behind_the_video_but_not_begin_there(film):
    with FILES.open(part(film, 1.9, 99.0)) as opened:
        assert opened.num_frames == 2
        assert "99.000" in opened.notes[0] and "2.000" in opened.notes[0]
    with FILES.open(part(film, 1.0, 2.0)) as opened:
        assert opened.notes == ()
    for start, end in ((2.0, 3.0), (0.041, 0.079)):
        with pytest.raises(FrameError) as error:
            FILES.open(part(film, start, end))
        for expected in (str(film), parts.decimal(start), parts.decimal(end), "2.000", "50"):
            assert expected in str(error.value)


CORRUPT = sorted(name for name in painted.TRUTH if name.startswith(("corrupt", "trunc")))


@pytest.mark.parametrize("name", CORRUPT)
def test_parts_of_a_corrupt_video_have_its_frames_that_decode(name):
    path, expected = painted.INPUTS / name, painted.TRUTH[name]["numbers"]
    found = []
    for tenth in range(0, 70, 5):
        try:
            found += numbers(part(path, tenth / 25, (tenth + 5) / 25))
        except FrameError:
            assert not set(range(tenth, tenth + 5)) & set(expected)
    assert found == expected


def test_times_stay_where_they_are_if_the_first_frames_do_not_decode(tmp_path):
    path = write(tmp_path / "v.mp4", g=10, bf=2)
    with av.open(str(path)) as container:
        packet = next(container.demux(video=0))
        position, size = packet.pos, packet.size
    content = bytearray(path.read_bytes())
    at = position
    while at < position + size:  # the units of the first key frame
        if content[at + 4] & 31 == 5:
            content[at + 4] = 0x60  # one that no decoder knows
        at += 4 + int.from_bytes(content[at : at + 4], "big")
    path.write_bytes(content)
    assert numbers(part(path, 0.4, 0.8)) == list(range(10, 20))
    assert numbers(part(path, 0.2, 0.6)) == list(range(10, 15))
    with pytest.raises(FrameError, match=r"0\.400.* 2\.000 s .*40"):
        read(part(path, 0.0, 0.4))


def test_a_whole_video_costs_nothing_more_and_a_part_no_decoding(film, monkeypatch):
    class Unread:
        def __get__(self, *_):
            raise AssertionError("times of a whole video are read")

    def fail(*_):
        raise AssertionError("decoded for its times")

    monkeypatch.setattr(videos, "time_frames", fail)
    assert len(read(part(film, 0.4, 1.2))) == 20
    monkeypatch.setattr(videos.VideoFile, "times", Unread())
    assert len(read(Record(0, str(film), 0, 0))) == NUM_FRAMES


def test_packets_are_read_once_for_many_parts_until_the_file_changes(tmp_path, monkeypatch):
    path = write(tmp_path / "v.mp4", g=10)
    calls = []
    original = videos.read_packets
    monkeypatch.setattr(
        videos, "read_packets", lambda *given: calls.append(given) or original(*given)
    )
    found = [numbers(part(path, start / 25, (start + 7) / 25)) for start in (30, 0, 8)]
    assert found == [list(range(start, start + 7)) for start in (30, 0, 8)]
    assert len(calls) == 1
    painted.write(path, painted.frames(20, start=100), g=5)
    assert numbers(part(path, 0.2, 0.4)) == list(range(105, 110)) and len(calls) == 2


@pytest.mark.parametrize("extension", ["mp4", "mkv", "avi"])
def test_packets_are_read_once_for_many_clips(tmp_path, monkeypatch, extension):
    path = write(tmp_path / f"v.{extension}", codec="mpeg4", g=10)
    calls = []
    original = videos.read_packets
    monkeypatch.setattr(
        videos, "read_packets", lambda *given: calls.append(given) or original(*given)
    )
    whole = Record(0, str(path), 0, 0)
    first, again = read(whole), read(whole)
    assert len(calls) == (2 if extension == "avi" else 1)
    np.testing.assert_array_equal(first, again)


def test_few_files_are_kept():
    kept = frame_index.KeptPackets(10, max_files=1)
    packets = [frame_index.Packets(None, count, True, True) for count in range(3)]
    for count, name in ((0, "a"), (1, "b")):
        assert kept.get((name,), lambda count=count: packets[count]) is packets[count]
    assert kept.get(("b",), lambda: packets[2]) is packets[1]
    assert kept.get(("a",), lambda: packets[2]) is packets[2]


def test_packets_of_few_frames_are_kept():
    kept = frame_index.KeptPackets(10)

    def packets(count):
        return frame_index.Packets(None, count, True, True)

    assert kept.get(("a",), lambda: packets(6)).num_listed == 6
    assert kept.get(("b",), lambda: packets(4)).num_listed == 4
    assert kept.get(("a",), lambda: packets(0)).num_listed == 6
    assert kept.get(("c",), lambda: packets(3)).num_listed == 3  # b was read before a
    assert kept.get(("a",), lambda: packets(0)).num_listed == 6
    assert kept.get(("d",), lambda: packets(99)).num_listed == 99
    assert kept.get(("a",), lambda: packets(1)).num_listed == 1


def test_without_time_stamps_the_rate_is_used_and_without_both_it_is_an_error(
    tmp_path, monkeypatch
):
    path = write(tmp_path / "v.avi", codec="mpeg4")
    monkeypatch.setattr(videos, "time_frames", lambda *_: (NUM_FRAMES, 0, (160, 96), STAMPLESS))
    with videos.VideoFile(str(path)) as opened:
        opened.rate = 50.0
        np.testing.assert_array_equal(opened.times, np.arange(NUM_FRAMES) / 50)
    with videos.VideoFile(str(path)) as opened:
        opened.rate = 0.0
        with pytest.raises(FrameError, match=f"{path}.*rate"):
            print(opened.times)


def test_unknown_and_earlier_times_follow_by_the_rate():
    nan = np.nan
    for times, expected in (
        ([nan, nan, nan], [0, 0.5, 1]),
        ([0, 0.4, nan, nan, 2], [0, 0.4, 0.9, 1.4, 2]),
        ([0, 10, 2, 3, 11, 11], [0, 10, 10.5, 11, 11, 11]),
    ):
        clock = frame_index.AscendingClock(2.0)
        np.testing.assert_allclose([clock.time(float(time)) for time in times], expected)
        assert not clock.jumps


# Lists


def read_list(tmp_path, text, **options):
    (tmp_path / "list.txt").write_text(text)
    return annotations.read_list(
        tmp_path / "list.txt", frames_root="/root", num_classes=200, **options
    )


def test_lines_of_parts_of_files(tmp_path):
    found = read_list(tmp_path, "clip 1.5 b.mp4 12.500 17.250 3\na.MKV 7\na.mkv 0.0 0.04 12\n")
    assert found == [
        Record(0, "/root/clip 1.5 b.mp4", 0, 3, 12.5, 17.25),
        Record(1, "/root/a.MKV", 0, 7),
        Record(2, "/root/a.mkv", 0, 12, 0.0, 0.04),
    ]
    assert [record.named("/root") for record in found] == [
        "clip 1.5 b.mp4 [12.500-17.250]",
        "a.MKV",
        "a.mkv [0.000-0.040]",
    ]
    several = read_list(tmp_path, "a.mp4 1.5 2.5 3 4 3\nb.mp4 1\n", multi_label=True)
    assert several[0] == Record(0, "/root/a.mp4", 0, (3, 4), 1.5, 2.5)
    assert annotations.lists_videos(tmp_path / "list.txt")


def test_lines_with_offsets(tmp_path):
    found = read_list(tmp_path, "some dir/a 12 163 3\nb 0 5 4\n", with_offset=True)
    assert found == [
        Record(0, "/root/some dir/a", 163, 3, offset=12),
        Record(1, "/root/b", 5, 4, offset=0),
    ]
    assert [record.named("/root") for record in found] == ["some dir/a [12:175]", "b [0:5]"]
    several = read_list(tmp_path, "a 12 163 3 7 3\nb 1 2 3\n", with_offset=True, multi_label=True)
    assert several[0] == Record(0, "/root/a", 163, (3, 7), offset=12)


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("a.mp4 1.5 3", {}),
        ("a.mp4 1.5 20 3", {}),
        ("a.mp4 1 2.5 3", {}),
        ("a.mp4 2.5 2.5 3", {}),
        ("a.mp4 2.5 1.5 3", {}),
        ("a.mp4 1.0001 1.0002 3", {}),
        ("a.mp4 -1.5 2.5 3", {}),
        ("a.mp4 nan 2.5 3", {}),
        ("a.mp4 1.5 inf 3", {}),
        ("a.mp4 1e0 2e0 3", {}),
        (f"a.mp4 1.5 {'9' * 400}.0 3", {}),
        ("a.mp4 1.5 9999999999.5 3", {}),
        ("a.mp4 0:01.5 0:02.5 3", {}),
        ("a.mp4 1.5 2.5 3 4", {}),
        ("a.mp4 1.5 2.5 999", {}),
        ("a 12 163 3", {}),
        ("a 163 3", dict(with_offset=True)),
        ("a -1 163 3", dict(with_offset=True)),
        ("a 0 0 3", dict(with_offset=True)),
        ("a 1.5 163 3", dict(with_offset=True)),
        ("12 163 3", dict(with_offset=True)),
        ("a 12 163 3 4", dict(with_offset=True)),
        ("a 12 163", dict(with_offset=True, multi_label=True)),
        ("a 12", dict(with_offset=True, multi_label=True)),
    ],
)
def test_malformed_lines_are_named(tmp_path, line, options):
    good = {1: "b.mp4 1.0 2.0 3 4\n", 0: "b.mp4 1.0 2.0 3\n"}[bool(options.get("multi_label"))]
    with pytest.raises(UserError, match="line 2") as error:
        read_list(tmp_path, f"{good}{line}\n", **options)
    assert line.split()[0] in str(error.value)


def test_a_part_of_a_folder_has_the_frames_behind_its_offset(tmp_path):
    for number in range(1, 31):
        image = painted.frames(1, start=number - 1)[0]
        path = tmp_path / "a" / f"{number:05d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(_png(image))
    folders = FrameFolders(pattern="{:05d}.png", first_frame=1)
    record = Record(0, str(tmp_path / "a"), 8, 0, offset=12)
    folders.check(record)
    assert numbers(record, source=folders) == list(range(12, 20))
    whole = dataclasses.replace(record, num_frames=30, offset=0)
    np.testing.assert_array_equal(
        read(whole, source=folders), read(dataclasses.replace(whole, offset=None), source=folders)
    )
    with pytest.raises(FrameError, match=r"00032\.png"):
        folders.check(dataclasses.replace(record, num_frames=20))


def _png(image):
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


# Clips, checks and records


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A data set of parts of two videos, which are the same."""
    root = tmp_path_factory.mktemp("tree")
    # Encoded once: x264 may encode the same frames differently the next time.
    one = write(root / "videos" / "one.mp4", **OPEN_GOP)
    shutil.copy(one, one.with_name("two two.mp4"))
    lines = ["one.mp4 0.000 0.520 0", "one.mp4 0.520 2.000 1", "one.mp4 1.960 5.000 0"]
    (root / "train_list.txt").write_text("".join(f"{line}\n" for line in lines))
    (root / "val_list.txt").write_text("two two.mp4 0.400 1.200 1\ntwo two.mp4 0\n")
    (root / "label_map.txt").write_text("a\nb\n")
    return root


def listed(root, split="train"):
    return annotations.read_list(
        root / f"{split}_list.txt", frames_root=str(root / "videos"), num_classes=2
    )


def test_clips_of_a_part_are_those_of_a_video_of_its_frames(tree, tmp_path):
    found = listed(tree)
    copies = []
    for record in found:
        folder = tmp_path / str(record.index)
        folder.mkdir()
        frames = read(record)
        for number, frame in enumerate(frames, start=1):
            (folder / f"{number:05d}.png").write_bytes(_png(frame))
        copies.append(Record(record.index, str(folder), len(frames), record.label))
    folders = FrameFolders(pattern="{:05d}.png", first_frame=1)
    read_batch, clips = [], []
    for source, records_of in ((FILES, found), (folders, copies)):
        reader = batches.BatchReader(records_of, View(**VIEW), source, **OPTIONS)
        read_batch.append(reader([(epoch, each) for epoch in (0, 1) for each in records_of]))
        view = View(**VIEW | dict(sampling="twice", crop="three", flip_rate=0))
        evaluated = ClipReader({"one": view}, source)
        clips.append([evaluated.read(record, 1) for record in records_of])
    assert_same_batches(read_batch[:1], read_batch[1:])
    assert_same_videos(*clips)


def look(tree, **options):
    lists = {name: (tree / f"{name}_list.txt", tree / "videos") for name in ("train", "val")}
    return check.check(lists, FILES, class_names=["a", "b"], **options)


@pytest.mark.parametrize("deep", [False, True])
def test_the_check_reads_parts(tree, deep):
    findings = look(tree, deep=deep)
    assert [each.num_frames for each in findings.lists["train"]] == [13, 37, 1]
    assert [each.num_frames for each in findings.lists["val"]] == [20, NUM_FRAMES]
    for each in findings.lists["train"]:
        assert "two two.mp4" in each.problems[0] and "in the validation list" in each.problems[0]


def test_overlaps_of_parts_are_named(tree, tmp_path):
    root = shutil.copytree(tree, tmp_path / "tree")
    painted.write(root / "videos" / "two two.mp4", painted.frames(40), g=10)
    findings = look(root)
    assert findings.num_problems == 0
    notes = [each.notes for each in findings.lists["train"]]
    assert notes[:2] == [(), ()]
    assert any("5.000" in note for note in notes[2])  # it ends behind the video
    assert any("[0.520-2.000]" in note and "[1.960-5.000]" in note for note in notes[2])
    (note,) = findings.lists["val"][0].notes + findings.lists["val"][1].notes
    assert "overlaps" in note and "two two.mp4 [0.400-1.200]" in note
    path = root / "train_list.txt"
    added = "two two.mp4 1.300 1.400 0\none.mp4 0.520 2.000 1\none.mp4 3.000 4.000 1\n"
    path.write_text(path.read_text() + added)
    problems = [each.problems for each in look(root).lists["train"]]
    assert problems[:3] == [(), (), ()]
    assert "in the validation list" in problems[3][0]
    assert "one.mp4 [0.520-2.000] of the same list" in problems[4][0]
    assert "3.000" in problems[5][0] and "2.000" in problems[5][0]


def test_the_check_reads_lines_with_offsets(tmp_path):
    for name, start in (("a", 0), ("b", 0), ("c", 60)):
        folder = tmp_path / "rawframes" / name
        folder.mkdir(parents=True)
        for number, image in enumerate(painted.frames(12, start=start), start=1):
            (folder / f"{number:05d}.png").write_bytes(_png(image))
    (tmp_path / "train_list.txt").write_text("a 0 5 0\na 4 5 1\na 9 4 1\n")
    (tmp_path / "val_list.txt").write_text("b 3 2 0\nc 0 12 1\n")
    lists = {n: (tmp_path / f"{n}_list.txt", tmp_path / "rawframes") for n in ("train", "val")}
    folders = FrameFolders(pattern="{:05d}.png", first_frame=1)
    findings = check.check(lists, folders, class_names=["a", "b"], with_offset=True)
    first, second, third = findings.lists["train"]
    assert "in the validation list" in first.problems[0]
    assert "in the validation list" in second.problems[0]
    assert "00013.png" in third.problems[0]
    assert not any(each.problems for each in findings.lists["val"])
    (tmp_path / "names.txt").write_text("a\nb\n")
    flags = ["check", f"--list={tmp_path}/val_list.txt", f"--videos={tmp_path}/rawframes"]
    flags += [f"--classes={tmp_path}/names.txt", "--frame-pattern={:05d}.png", f"--to={tmp_path}"]
    assert cli.main([*flags, "--with-offset"]) == 0
    assert cli.main(flags) == 1


def test_records_of_parts_have_only_their_frames(tree, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    from trn_jax.tfds.build_records import build_records

    build_records(str(tree), str(tmp_path))
    source = records.VideoRecords(str(tmp_path / "video_folder"))
    stored = source.videos("train", num_classes=2) + source.videos("validation", num_classes=2)
    expected = listed(tree) + listed(tree, "val")
    assert [video.name for video in stored] == [
        record.named(str(tree / "videos")) for record in expected
    ]
    for video, record in zip(stored, expected, strict=True):
        assert (video.label, video.start, video.offset) == (record.label, None, None)
        frames = read(record)
        images = source.open(video).images(range(video.num_frames))
        assert images == [simplejpeg.encode_jpeg(frame, quality=95) for frame in frames]


def test_batches_of_records_are_those_of_folders_with_offsets(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    rng = np.random.default_rng(0)
    for name in ("a", "b c"):
        folder = tmp_path / "rawframes" / name
        folder.mkdir(parents=True)
        for number in range(1, 21):
            pixels = rng.integers(0, 256, (64, 80, 3), np.uint8)
            (folder / f"{number:05d}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels))
    (tmp_path / "train_list.txt").write_text("a 0 5 0\na 4 9 1\nb c 10 10 1\n")
    (tmp_path / "val_list.txt").write_text("b c 0 9 0\n")
    (tmp_path / "label_map.txt").write_text("a\nb\n")
    assert cli.main(["records", str(tmp_path), f"--to={tmp_path}/records", "--with-offset"]) == 0
    source = records.VideoRecords(str(tmp_path / "records" / "video_folder"))
    stored = source.videos("train", num_classes=2)
    assert [video.name for video in stored] == ["a [0:5]", "a [4:13]", "b c [10:20]"]
    found = annotations.read_list(
        tmp_path / "train_list.txt",
        frames_root=str(tmp_path / "rawframes"),
        num_classes=2,
        with_offset=True,
    )
    folders = FrameFolders(pattern="{:05d}.jpg", first_frame=1)
    rows = [
        batches.BatchReader(each, View(**VIEW), opened, **OPTIONS)([(2, one) for one in each])
        for each, opened in ((found, folders), (stored, source))
    ]
    assert_same_batches(rows[:1], rows[1:])
