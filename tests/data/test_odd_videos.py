"""Videos in the wild: rotated, corrupt, truncated, resized; and files that are none."""

import itertools
import os
import shutil

import av
import cv2
import numpy as np
import painted
import pytest
import simplejpeg

from trn_jax.data import videos
from trn_jax.data.decode import FrameError, read_video
from trn_jax.data.orientation import display_matrix, oriented, symmetry
from trn_jax.prepare.probe import probe

GROUPS = dict(g=10, bf=2)


def opening(path, **options):
    return lambda: videos.VideoFile(str(path), **options)


def read(path, indices=None):
    """All frames of a video or some, without those that do not decode."""

    def look(video):
        return video.read(range(video.num_frames) if indices is None else indices)

    return read_video(opening(path), look)


def numbers(frames):
    return [painted.number(frame) for frame in frames]


@pytest.mark.smoke
@pytest.mark.parametrize("name", sorted(painted.TRUTH))
def test_inputs_are_read_as_by_ffmpeg(name):
    truth = painted.TRUTH[name]
    if not truth["numbers"]:
        with pytest.raises(FrameError, match="only a cover picture and audio"):
            videos.VideoFile(str(painted.INPUTS / name))
        return
    with videos.VideoFile(str(painted.INPUTS / name)) as video:
        assert video.num_frames == len(truth["numbers"])
        frames = video.read(range(video.num_frames))
        streamed = [frame for frame, _ in video.stream()]
    assert numbers(frames) == truth["numbers"]
    assert painted.corners(frames[0]) == truth["corners"]
    assert frames[0].shape == (*reversed(truth["size"]), 3)
    for index in (0, 25, len(frames) // 2, len(frames) - 1):
        (alone,) = read(painted.INPUTS / name, [index])
        np.testing.assert_array_equal(alone, frames[index])
    np.testing.assert_array_equal(streamed, frames)


def test_what_is_unusual_is_counted():
    notes = {}
    for name in painted.TRUTH.keys() - {"audio_cover.mp4"}:
        with videos.VideoFile(str(painted.INPUTS / name)) as video:
            video.read(range(video.num_frames))
            notes[name] = video.notes
    assert {name for name, found in notes.items() if found} == {
        *("corrupt_mid.mp4", "trunc_fast.mp4", "change.mp4")
    }
    assert "2 of 60 frames" in notes["corrupt_mid.mp4"][0]
    assert "33 of 60 frames" in notes["trunc_fast.mp4"][0]
    assert "60 frames are scaled to 320 x 240" in notes["change.mp4"][0]


CODECS = {
    "a.3gp": dict(codec="libx264", **GROUPS),
    "a.mts": dict(codec="libx264", **GROUPS),
    "a.m2ts": dict(codec="libx264", **GROUPS),
    "a.ts": dict(codec="libx264", **GROUPS),
    "a.vob": dict(codec="mpeg2video", g=10),
    "a.ogv": dict(codec="libvpx", g=10),
    "a.gif": dict(codec="gif", pix_fmt="rgb8"),
    "a.asf": dict(codec="wmv2", g=10),
    "a.webm": dict(codec="libvpx-vp9", g=10),
    "a.mxf": dict(codec="mpeg2video", g=10),
    "a.flv": dict(codec="libx264", **GROUPS),
    "a.h264": dict(codec="libx264", **GROUPS),
}


@pytest.mark.parametrize("name", CODECS)
def test_containers(tmp_path, name):
    path = painted.write(tmp_path / name, painted.frames(30), **CODECS[name])
    assert videos.is_video(name.upper()) and not videos.is_video(f"._{name}")
    frames = read(path)
    assert numbers(frames) == list(range(30)) and painted.corners(frames[0]) == "..RB"
    for index in (0, 7, 20, 29):
        np.testing.assert_array_equal(read(path, [index])[0], frames[index])


def test_times_of_parts_are_no_videos():
    assert not videos.is_video("1.264") and not videos.is_video("0.265")


# Orientation


def turned(corners, transposed, upside_down, mirrored):
    """The corners of a frame after a symmetry."""
    grid = np.array(list(corners)).reshape(2, 2, 1)
    return "".join(oriented(grid, transposed, upside_down, mirrored).ravel())


SYMMETRIES = [(a, b, c, d) for a, d in ((1, 1), (1, -1), (-1, 1), (-1, -1)) for b, c in ((0, 0),)]
SYMMETRIES += [(0, b, c, 0) for b, c in ((1, 1), (1, -1), (-1, 1), (-1, -1))]


@pytest.mark.parametrize("scale", [1, 0.5, 3])
def test_all_display_matrices_that_keep_the_rectangle(tmp_path, scale):
    plain = painted.write(tmp_path / "v.mp4", painted.frames(2))
    frame = read(plain, [1])[0]
    height, width = frame.shape[:2]
    seen = set()
    for a, b, c, d in SYMMETRIES:
        one = int(scale * (1 << 16))
        matrix = [one * a, one * b, 0, one * c, one * d, 0, width << 16, height << 16, 1 << 30]
        path = painted.display_matrix(shutil.copy(plain, tmp_path / "turned.mp4"), matrix)
        found = read(path, [1])[0]
        # The definition: pixel (x, y) goes to (a x + c y, b x + d y), moved into sight.
        y, x = np.mgrid[:height, :width]
        u, v = a * x + c * y, b * x + d * y
        expected = np.zeros_like(found)
        expected[v - v.min(), u - u.min()] = frame
        np.testing.assert_array_equal(found, expected)
        seen.add(painted.corners(found))
    assert len(seen) == 8


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros(9, int),
        [1 << 16, 0, 0, 0, 0, 0, 0, 0, 1 << 30],
        [46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30],  # 45 degrees
        [0, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30],
    ],
)
def test_other_display_matrices_change_nothing(tmp_path, matrix):
    path = painted.write(tmp_path / "v.mp4", painted.frames(2))
    expected = read(path, [1])[0]
    np.testing.assert_array_equal(read(painted.display_matrix(path, matrix), [1])[0], expected)


def test_side_data_that_pyav_does_not_know_leaves_the_rotation():
    class Frame:
        rotation = -90

        @property
        def side_data(self):
            raise ValueError("99 is not a valid Type")

    # As FFmpeg counts, -90 degrees stand for a quarter turn to the right.
    assert symmetry(display_matrix(Frame())) == (True, False, True)


# Streams


@pytest.mark.parametrize("sizes", [(160, 320), (320, 160)])
def test_of_several_streams_the_default_one_is_read(tmp_path, sizes):
    films = [painted.frames(5, width=w, height=w * 3 // 5, start=10 * w // 160) for w in sizes]
    for name in ("v.mkv", "v.ts"):
        path = painted.write(tmp_path / name, *films)
        with videos.VideoFile(str(path)) as video:
            frames = video.read(range(video.num_frames))
            assert "2 video streams" in video.notes[0]
        # Neither is marked: the larger one, as FFmpeg's own program has it.
        assert {frame.shape for frame in frames} == {(192, 320, 3)}
        assert numbers(frames) == list(range(20, 25))


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9", "libx264", "mpeg4"])
@pytest.mark.parametrize("widths", [(160, 320), (320, 160)])
def test_frames_take_the_size_of_the_first_one(tmp_path, codec, widths):
    films = [
        painted.frames(12, width=width, height=width * 3 // 5, start=12 * number)
        for number, width in enumerate(widths)
    ]
    path = painted.write_with_sizes(tmp_path / "v.mkv", films, codec, g=6)
    frames = read(path)
    assert {frame.shape for frame in frames} == {(widths[0] * 3 // 5, widths[0], 3)}
    assert numbers(frames) == list(range(24))
    for index in (0, 11, 12, 23):  # also where the wanted frames are of one size
        np.testing.assert_array_equal(read(path, [index])[0], frames[index])


# Corrupt files


def damaged(content, kind, rng):
    """A file with a part that is missing or was overwritten."""
    content, size = bytearray(content), len(content)
    if kind == "cut off":
        return content[: int(rng.uniform(0.2, 1) * size)]
    start = int(rng.uniform(0.1, 0.9) * size)
    length = int(rng.integers(1, 3000))
    if kind == "hole":
        del content[start : start + length]
    else:
        end = min(start + length, size)
        content[start:end] = bytes(end - start)
    return content


DAMAGED = {
    "a.mp4": dict(codec="libx264", muxer={"movflags": "faststart"}, **GROUPS),
    "a.mov": dict(codec="libx264", muxer={"movflags": "frag_keyframe+empty_moov"}, **GROUPS),
    "a.mkv": dict(codec="mpeg4", g=10),
    "a.webm": dict(codec="libvpx", g=10),
    "a.ts": dict(codec="libx264", **GROUPS),
    "a.flv": dict(codec="libx264", **GROUPS),
    "a.avi": dict(codec="mpeg4", g=10, bf=2),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_of_a_damaged_file_all_that_decodes_is_read(tmp_path, name):
    film = painted.frames(40)
    content = painted.write(tmp_path / name, film, **DAMAGED[name]).read_bytes()
    path, rng = tmp_path / f"damaged{name[1:]}", np.random.default_rng(len(name))
    for kind in ("cut off", "zeros", "hole", "zeros", "cut off"):
        path.write_bytes(damaged(content, kind, rng))
        try:
            expected = painted.decoded(path)
        except Exception:
            expected = []
        if not expected:
            with pytest.raises(FrameError):
                read(path)
            continue
        frames = read(path)
        assert len(frames) == len(expected)
        # FFmpeg's VP8 takes references that are lost from whatever memory it has.
        for index, frame in enumerate(frames if name != "a.webm" else []):
            pixels = expected[index].to_ndarray(format="rgb24")
            np.testing.assert_array_equal(frame, pixels, err_msg=f"{kind}, frame {index}")
        # A read depends on nothing that was read before.
        wanted = [3 % len(frames), len(frames) - 1]
        once, again = read(path, wanted), read(path, wanted)
        np.testing.assert_array_equal(once, again)


@pytest.mark.parametrize("num_bytes", [1, 40, 700])
def test_a_cut_file_knows_what_it_has_lost(tmp_path, num_bytes):
    path = painted.write(
        tmp_path / "v.mp4", painted.frames(30), muxer={"movflags": "faststart"}, **GROUPS
    )
    path.write_bytes(path.read_bytes()[:-num_bytes])
    with videos.VideoFile(str(path)) as video:
        assert 0 < video.num_lost < 15
        assert video.num_frames + video.num_lost == 30
        assert f"{video.num_lost} of 30 frames" in video.loss


def test_corrupt_packets_are_found_before_anything_is_decoded(tmp_path):
    for codec in ("libx264", "libx265"):
        path = painted.write(tmp_path / "v.mp4", painted.frames(30), codec=codec, g=10)
        with videos.VideoFile(str(path)) as video:
            assert (video.num_frames, video.loss) == (30, "")
        with av.open(str(path)) as container:
            entry = container.streams.video[0].index_entries[15]
            start, size = entry.pos, entry.size
        content = bytearray(path.read_bytes())
        content[start : start + size] = bytes(size)
        path.write_bytes(content)
        with videos.VideoFile(str(path)) as video:
            assert video.num_frames == len(painted.decoded(path)) < 30
            assert f"{video.num_lost} of 30 frames" in video.loss


# Files that are no videos

PLAYLISTS = {
    "ffconcat": "ffconcat version 1.0\nfile 'real.mp4'\n",
    "ffconcat with a byte order mark": "\ufeffffconcat version 1.0\nfile real.mp4\n",
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nreal.ts\n#EXT-X-ENDLIST\n",
    "DASH": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>\n',
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "text": "some words\n" * 30,
    "Latin-1": "ein Vergn\xfcgen\n",
}


@pytest.mark.parametrize("extension", [".mp4", ".ts", ".m3u8", ".gif"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_texts_that_name_other_files_are_refused(tmp_path, kind, extension):
    painted.write(tmp_path / "real.mp4", painted.frames(2))
    painted.write(tmp_path / "real.ts", painted.frames(2))
    text = PLAYLISTS[kind]
    path = tmp_path / f"v{extension}"
    path.write_bytes(text.encode("latin-1" if kind == "Latin-1" else "utf-8"))
    with pytest.raises(FrameError, match=f"{path}: ") as error:
        read(path)
    if kind != "Latin-1":
        assert "text (" in str(error.value)


@pytest.mark.parametrize("name", ["v.mp4", "v.gif", "v%d.gif"])
def test_pictures_and_sound_are_refused(tmp_path, name):
    path = tmp_path / name
    picture = painted.frames(1)[0]
    for content in (simplejpeg.encode_jpeg(picture), bytes(cv2.imencode(".png", picture)[1])):
        path.write_bytes(content)
        with pytest.raises(FrameError, match="image"):
            read(path)
    path.write_bytes(b"RIFF$\x00\x00\x00WAVEfmt " + bytes(40))
    with pytest.raises(FrameError, match="audio"):
        read(path)


@pytest.mark.parametrize(
    "name",
    [
        *("a%03d.mp4", "concat:a|b.mp4", "http:x.mp4", "file:x.mp4", "a b?*.mp4", "[1].mp4"),
        *("ü.mp4", "-i.mp4", "a%d.gif", "a*.gif", "pipe:0.mp4", "data:video.mp4"),
    ],
)
def test_names_are_only_names(tmp_path, name, monkeypatch):
    codec = dict(codec="gif", pix_fmt="rgb8") if name.endswith("gif") else {}
    made = painted.write(tmp_path / f"made{name[-4:]}", painted.frames(3), **codec)
    monkeypatch.chdir(tmp_path)
    os.rename(made, tmp_path / name)
    for path in (name, tmp_path / name):
        assert numbers(read(path)) == [0, 1, 2]


@pytest.mark.parametrize(
    "path", ["http://localhost:9/a.mp4", "concat:a.mp4|b.mp4", "rtsp://127.0.0.1/a.mp4", "pipe:0"]
)
def test_protocols_are_names_of_files_that_are_not_there(path):
    with pytest.raises(FrameError, match="not found"):
        read(path)


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "gone.mp4")
    for name, message in (("fifo.mp4", "pipe"), ("link.mp4", "link to .*gone.mp4")):
        with pytest.raises(FrameError, match=message):
            read(tmp_path / name)


def test_frames_that_are_too_large_are_refused_before_they_are_decoded(tmp_path):
    path = painted.write(tmp_path / "v.mp4", painted.frames(3))
    pixels = painted.WIDTH * painted.HEIGHT
    with videos.VideoFile(str(path), max_pixels=pixels) as video:
        assert video.num_frames == 3
    for limit in (pixels - 1, 1):
        with pytest.raises(FrameError, match=rf"max_pixels={limit}"):
            read_video(opening(path, max_pixels=limit), lambda video: video.read([0]))
    # The header says less than the pictures have.
    films = [painted.frames(3, width=w, height=96) for w in (160, 640)]
    path = painted.write_with_sizes(tmp_path / "w.mkv", films, "libvpx")
    frames = read_video(
        opening(path, max_pixels=2 * pixels), lambda video: video.read(range(video.num_frames))
    )
    assert numbers(frames) == [0, 1, 2]


def test_probes_decode_parts_of_all_groups(tmp_path):
    path = painted.write(tmp_path / "v.mp4", painted.frames(40), g=10)
    found = probe(str(path))
    assert (found.num_frames, found.size, found.notes) == (40, (160, 96), ())
    found = probe(str(painted.INPUTS / "corrupt_mid.mp4"))
    assert found.num_frames == 58 and "2 of 60" in found.notes[0]
    with videos.VideoFile(str(path)) as video:
        groups = [list(video.group(number)) for number in (0, 9, 19, 39)]
    assert groups == [list(range(10)), list(range(10)), list(range(10, 20)), list(range(30, 40))]
    for name in ("trunc_nomoov.mp4",):
        (tmp_path / name).write_bytes(path.read_bytes()[:3000])
        with pytest.raises(FrameError, match=name):
            probe(str(tmp_path / name))


def test_symmetries_follow_the_definition_of_oriented():
    corners = "ABCD"
    seen = {turned(corners, *steps) for steps in itertools.product((False, True), repeat=3)}
    assert len(seen) == 8 and turned(corners, True, False, False) == "ACBD"
