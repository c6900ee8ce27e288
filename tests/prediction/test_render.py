"""Films with captions: frames, times, sizes, what changes when, scripts, and what is resumed."""

import dataclasses
import fractions
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import time

import av
import cv2
import numpy as np
import painted
import pytest
from small_models import write_films

from trn_jax import cli
from trn_jax.data.annotations import Record
from trn_jax.data.decode import FrameError
from trn_jax.data.videos import VideoFile, VideoFiles
from trn_jax.evaluation import lettering
from trn_jax.evaluation.events import Event
from trn_jax.prediction import render as module
from trn_jax.prediction.answers import Answer
from trn_jax.prediction.overlay import Story, Strip, color_of
from trn_jax.prediction.render import Films, found_again, render, story_of

NAMES = ("falling", "nothing", "rising", "turning")
EVENTS = ((0.2, 0.4, 0, 0.9), (0.6, 0.76, 2, 0.5))
STORY = Story(NAMES, EVENTS, length=0.8)
FAST = dict(preset="ultrafast")


def opening(path):
    return lambda: VideoFile(str(path), count=False)


def read(path):
    """The frames of a film, RGB, and their times."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frame.to_ndarray(format="rgb24") for frame in frames], [f.time for f in frames]


def rendered(tmp_path, film, story=STORY):
    path = tmp_path / "films" / "film.mp4"
    render(opening(film), str(path), story)
    return read(path)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """20 frames in 0.8 seconds, of 320 x 192 pixels."""
    frames = painted.frames(20, width=320, height=192)
    return painted.write(tmp_path_factory.mktemp("film") / "film.mp4", frames, **FAST)


@pytest.fixture(scope="module")
def shown(film, tmp_path_factory):
    return rendered(tmp_path_factory.mktemp("shown"), film)


@pytest.mark.smoke
def test_every_frame_is_shown_unchanged_at_its_time(shown):
    frames, times = shown
    assert [painted.number(frame[:192]) for frame in frames] == list(range(20))
    assert {painted.corners(frame[:192]) for frame in frames} == {"..RB"}
    np.testing.assert_allclose(times, np.arange(20) / 25, atol=1e-5)
    strip = Strip(320, 192, STORY)
    assert {frame.shape for frame in frames} == {(192 + strip.height, 320, 3)}


def test_captions_change_with_the_events(shown):
    frames, times = shown
    top = Strip(320, 192, STORY).bar[0]
    # Without the clock on the right.
    captions = [frame[192 : 192 + top - 6, :200].astype(int) for frame in frames]
    changes = [abs(after - before).mean() > 3 for before, after in itertools.pairwise(captions)]
    expected = [
        any(before < border <= after + 1e-6 for border in (0.2, 0.4, 0.6, 0.76))
        for before, after in itertools.pairwise(times)
    ]
    assert changes == expected and sum(changes) == 4
    marks = [caption[8:20, 8:18].reshape(-1, 3) for caption in captions]
    for number, label in ((7, 0), (17, 2)):
        nearest = np.abs(marks[number][:, None] - [color_of(n) for n in range(4)]).sum(-1)
        assert np.bincount(nearest.argmin(axis=1), minlength=4).argmax() == label


def test_the_bar_has_the_colours_of_the_events_and_a_playhead(shown):
    frames, times = shown
    top, bottom, left, right = Strip(320, 192, STORY).bar
    scale = (right - left) / STORY.length
    heads = []
    for frame, now in zip(frames, times, strict=True):
        bar = frame[192 + top + 1 : 192 + bottom - 1].astype(int).mean(axis=0)
        for start, end, label, _ in EVENTS:
            middle = (start + end) / 2
            if abs(middle - now) > 0.08:
                found = bar[round(left + middle * scale)]
                np.testing.assert_allclose(found, color_of(label), atol=40)
        head = frame[192 + bottom : 192 + bottom + 2].astype(int).mean(axis=(0, 2))
        heads.append(int(head.argmax()))
    np.testing.assert_allclose(heads, left + np.asarray(times) * scale, atol=5)
    assert np.all(np.diff(heads) > 0)


def test_times_of_a_variable_rate_stay(tmp_path):
    stamps = [0, 1, 2, 7, 8, 30, 31, 90]
    path = tmp_path / "variable.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1000, options=FAST)
        stream.width, stream.height, stream.pix_fmt = 320, 192, "yuv420p"
        stream.codec_context.time_base = fractions.Fraction(1, 1000)
        for pixels, stamp in zip(painted.frames(8, width=320, height=192), stamps, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = 11 * stamp, fractions.Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames, times = rendered(tmp_path, path)
    assert [painted.number(frame[:192]) for frame in frames] == list(range(8))
    np.testing.assert_allclose(times, np.array(stamps) * 0.011, atol=1e-5)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize(
    ("stamps", "tick", "seconds"),
    [(range(5), 1, 5), (range(24), 12, 2), ([0, 1, 2, 7, 8, 30], 10, 3.6), ([0], 2, 0.5)],
)
def test_the_last_frame_has_its_length(tmp_path, monkeypatch, codec, stamps, tick, seconds):
    film = tmp_path / "film.mp4"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("libx264", rate=tick, options=FAST)
        stream.width, stream.height, stream.pix_fmt = 320, 192, "yuv420p"
        for pixels, stamp in zip(
            painted.frames(len(stamps), width=320, height=192), stamps, strict=True
        ):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = stamp, fractions.Fraction(1, tick)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if codec != "libx264":
        monkeypatch.setattr(module, "_H264", ("gone", {}))
    _, times = rendered(tmp_path, film)
    np.testing.assert_allclose(times, np.array(stamps) / tick, atol=1e-5)
    with av.open(str(tmp_path / "films" / "film.mp4")) as container:
        (stream,) = container.streams
        assert float(container.duration / av.time_base) == pytest.approx(seconds, abs=1e-3)
        assert float(stream.duration * stream.time_base) == pytest.approx(seconds, abs=1e-3)
        assert float(stream.average_rate) == pytest.approx(len(stamps) / seconds, rel=1e-3)


def test_odd_sizes_are_padded(tmp_path):
    film = painted.write(
        tmp_path / "odd.mkv",
        painted.frames(3, width=321, height=193),
        codec="ffv1",
        pix_fmt="yuv444p",
    )
    frames, _ = rendered(tmp_path, film)
    height, width, _ = frames[0].shape
    assert width == 322 and height % 2 == 0 and height > 193
    assert [painted.number(frame[:193, :321]) for frame in frames] == [0, 1, 2]


def test_small_frames_are_magnified(tmp_path):
    film = painted.write(tmp_path / "small.mp4", painted.frames(2), **FAST)
    frames, _ = rendered(tmp_path, film)
    assert frames[0].shape[1] == 320 and painted.number(frames[1][:192]) == 1


def test_videos_stand_upright_and_have_square_pixels(tmp_path):
    film = painted.write(tmp_path / "turned.mp4", painted.frames(2, width=192, height=320), **FAST)
    painted.display_matrix(film, (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30))
    frames, _ = rendered(tmp_path, film)
    with VideoFile(str(film)) as video:
        ((_, upright),) = video.frames([1])
        assert upright.shape[:2] == (192, 320)
        assert abs(frames[1][:192].astype(int) - upright).mean() < 4
    wide = tmp_path / "wide.mp4"
    with av.open(str(wide), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=FAST)
        stream.width, stream.height, stream.pix_fmt = 320, 192, "yuv420p"
        stream.codec_context.sample_aspect_ratio = fractions.Fraction(4, 3)
        pixels = painted.frames(1, width=320, height=192)[0]
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    frames, _ = rendered(tmp_path, wide)
    assert frames[0].shape[1] == 428 and painted.corners(frames[0][:192]) == "..RB"


def test_films_without_x264(tmp_path, film, monkeypatch):
    monkeypatch.setattr(module, "_H264", ("gone", {}))
    frames, times = rendered(tmp_path, film)
    assert [painted.number(frame[:192]) for frame in frames] == list(range(20))
    np.testing.assert_allclose(times, np.arange(20) / 25, atol=1e-5)
    with av.open(str(tmp_path / "films" / "film.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"


def test_parts_and_folders_of_frames(tmp_path, film):
    record = Record(0, str(film), 0, 0, start=0.2, end=0.6)
    path = tmp_path / "part.mp4"
    render(lambda: VideoFiles().open(record), str(path), STORY)
    frames, times = read(path)
    assert [painted.number(frame[:192]) for frame in frames] == list(range(5, 15))
    np.testing.assert_allclose(times, np.arange(10) / 25, atol=1e-5)
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, pixels in enumerate(painted.frames(4, width=320, height=192), start=1):
        cv2.imwrite(str(folder / f"{number:05d}.png"), pixels[..., ::-1])
    about = {"path": str(folder), "contract": {"frame_rate": 10.0}}
    render(lambda: found_again("frames", about), str(path), STORY)
    frames, times = read(path)
    assert [painted.number(frame[:192]) for frame in frames] == list(range(4))
    np.testing.assert_allclose(times, np.arange(4) / 10, atol=1e-5)
    other = tmp_path / "part of a folder.mp4"
    render(lambda: found_again(f"{folder} [1:3]", about), str(other), STORY)
    assert [painted.number(frame[:192]) for frame in read(other)[0]] == [1, 2]
    about = {"path": str(film)}
    with found_again(f"{film} [0.200-0.600]", about) as video:
        assert video.num_frames == 10


def answer(scores, start=0.0, end=0.8, *, names=NAMES, **more):
    return Answer("film.mp4", start, end, np.array(scores, np.float32), names, **more)


def test_stories_of_whole_videos_and_of_timelines():
    whole = answer([0.1, 0.2, 0.4, 0.3], start=2.0, end=4.0)
    story = story_of([whole], [Event("film.mp4", 2.0, 4.0, "rising", 0.4)], top=2)
    assert story.events == [(0.0, 2.0, 2, 0.4)] and story.length == 2
    assert [label for label, _ in story.top] == [2, 3] and story.num_rows == 2
    windows = [
        answer([0.9, 0, 0.1, 0], 0.0, 0.8, is_window=True),
        answer([0.2, 0.8, 0, 0], 0.4, 1.2, is_window=True),
    ]
    story = story_of(windows, [])
    assert story.length == pytest.approx(1.2) and story.top == ()
    assert [each[2] for each in story.curve] == [0, 1]
    np.testing.assert_allclose([each[:2] for each in story.curve], [(0, 0.6), (0.6, 1.2)])
    assert story_of([dataclasses.replace(whole, end=None)], []).length is None


def test_strips_of_whole_videos():
    top = [(2, 0.4), (3, 0.3)]
    strips = [
        Strip(320, 192, Story(NAMES, top=top, num_rows=2)),
        Strip(320, 192, Story(NAMES, top=top, num_rows=2, is_none=True)),
        Strip(320, 192, Story(NAMES, top=top, num_rows=2, length=2.0)),
    ]
    pictures = [strip.draw(1.0).copy() for strip in strips]
    heights = [len(picture) for picture in pictures]
    assert heights[0] < heights[2] and heights[0] < heights[1]
    assert all((192 + height) % 2 == 0 for height in heights)
    assert strips[0].bar[2:] == (0, 0) and np.array_equal(pictures[0], strips[0].draw(9.0))


def test_colours_of_classes_differ():
    colors = np.array([color_of(label) for label in range(24)], int)
    distances = np.abs(colors[:, None] - colors).sum(-1) + 1000 * np.eye(24, dtype=int)
    assert distances.min() > 30


@pytest.mark.parametrize(
    "name", ["🎉", "x\u200dy", "e\u0301", "क्षत्रिय", "long " * 9999, "a\nb\x1b"]
)
@pytest.mark.parametrize("width", [16, 320])
def test_strips_of_strange_names(name, width):
    strip = Strip(width, 16, Story([name], [(0.0, 1.0, 0, 0.5)], length=1.0))
    assert strip.draw(0.5).shape == (strip.height, width, 3)


def films_of(tmp_path, film, names=NAMES):
    messages, opened = [], []

    def opening_of(name):
        opened.append(name)
        return VideoFile(str(film), count=False)

    films = Films(
        opening_of,
        lambda name: str(tmp_path / f"{name}"),
        multi_label=False,
        top=1,
        log=messages.append,
    )
    return films, messages


def test_characters_without_a_font_are_named_once(tmp_path, film):
    names = ("\U0010fffd jump", "wave")
    films, messages = films_of(tmp_path, film)
    for _ in range(2):
        films.render([answer([0.9, 0.1], names=names)], [])
    assert len(messages) == 1 and "\U0010fffd" in messages[0] and "install" in messages[0]
    assert films.num_failed == 0


@pytest.mark.parametrize("has_font", [False, True])
def test_only_letters_with_a_font_are_drawn_one_by_one(tmp_path, film, monkeypatch, has_font):
    monkeypatch.setattr(lettering, "_face", lambda c: (has_font or c.isascii(), ""))
    for name in ("_opencv_shapes", "_raqm"):
        monkeypatch.setattr(lettering, name, lambda: False)
    films, messages = films_of(tmp_path, film)
    films.render([answer([0.9, 0.1], names=("\u091a\u0932\u0928\u093e 2", "wave"))], [])
    (message,) = messages
    assert ("Devanagari" in message) != has_font
    assert (lettering.SHAPING_ADVICE in message) == has_font


def test_an_unreadable_video_costs_its_film(tmp_path):
    (tmp_path / "text.mp4").write_text("not a film\n")
    films, messages = films_of(tmp_path, tmp_path / "text.mp4")
    films.render([answer([0.9, 0.1, 0, 0])], [])
    assert films.num_failed == 1 and "it is text" in messages[0]
    assert not (tmp_path / "film.mp4").exists()


@pytest.mark.parametrize(
    ("about", "match"),
    [({}, "stream"), ({"path": "{tmp}/gone.mp4"}, "gone.mp4"), ({"path": "{tmp}"}, "{tmp}")],
)
def test_videos_that_are_gone_are_named(tmp_path, about, match):
    about = {key: value.format(tmp=tmp_path) for key, value in about.items()}
    with pytest.raises(FrameError) as caught:
        found_again("film.mp4", about)
    assert match.format(tmp=tmp_path) in str(caught.value)


def test_only_what_changed_is_rendered_again(tmp_path, film):
    path = tmp_path / "film.mp4"

    def again(story=STORY, source=film):
        render(opening(source), str(path), story)
        return path.stat().st_mtime_ns, path.stat().st_ino

    first = again()
    assert again() == first
    second = again(dataclasses.replace(STORY, events=EVENTS[:1]))
    assert second != first
    path.write_bytes(path.read_bytes()[:1000])
    third = again(dataclasses.replace(STORY, events=EVENTS[:1]))
    assert third != second and len(read(path)[0]) == 20


def test_a_kill_leaves_no_film(tmp_path):
    film = painted.write(tmp_path / "film.mp4", painted.frames(250), **FAST)
    path = tmp_path / "to.mp4"
    program = (
        "import sys, time\n"
        "from trn_jax.prediction import render\n"
        "from trn_jax.prediction.overlay import Story\n"
        "from trn_jax.data.videos import VideoFile\n"
        "add = render._Encoder.add\n"
        "def slow(*arguments):\n"
        "    time.sleep(0.05)\n"
        "    add(*arguments)\n"
        "render._Encoder.add = slow\n"
        f"opening = lambda: VideoFile({str(film)!r}, count=False)\n"
        f"render.render(opening, {str(path)!r}, Story(['a'], length=10.0))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], env=os.environ)
    try:
        partial = pathlib.Path(f"{path}.partial")
        while process.poll() is None and not partial.exists():
            time.sleep(0.02)
        assert partial.exists() and not path.exists()
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert not path.exists()
    render(opening(film), str(path), Story(["a"], length=10.0))
    assert path.exists() and not partial.exists()


def run(capsys, *arguments):
    status = cli.main(["predict", *map(str, arguments)])
    return status, capsys.readouterr().err


def test_the_command_renders(tmp_path, capsys, trn):
    films = write_films(tmp_path / "films", (20, 30))
    (tmp_path / "films" / "text.mp4").write_text("not a film\n")
    to = tmp_path / "to"
    command = [tmp_path / "films", f"--checkpoint={trn}", f"--to={to}", "--render"]
    assert run(capsys, *command)[0] == 1  # for the text
    videos = sorted((to / "videos").iterdir())
    captions = sorted((to / "captions").iterdir())
    assert [each.stem for each in videos] == [each.stem for each in captions]
    assert [len(read(each)[0]) for each in videos] == [20, 30]
    before = [each.stat().st_ino for each in videos]
    run(capsys, f"--from-scores={to}", "--render")
    assert [each.stat().st_ino for each in videos] == before
    videos[1].unlink()
    assert run(capsys, *command)[0] == 1
    assert videos[0].stat().st_ino == before[0] and len(read(videos[1])[0]) == 30
    # From the scores, with other events; a video that is gone costs its film.
    os.remove(films[0])
    status, messages = run(capsys, f"--from-scores={to}", "--render", "--threshold=0.99")
    assert status == 1 and "film0.mp4" in messages
    assert videos[1].stat().st_ino != before[1]


@pytest.mark.parametrize(
    ("arguments", "match"), [(["a.mp4"], "--to"), (["0", "--to={tmp}"], "--render")]
)
def test_what_can_not_be_rendered_is_said_first(tmp_path, capsys, arguments, match):
    arguments = [each.format(tmp=tmp_path) for each in arguments]
    status, messages = run(capsys, *arguments, "--checkpoint=gone", "--render")
    assert status == 2 and match in messages and "gone" not in messages
