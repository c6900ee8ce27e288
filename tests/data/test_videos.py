"""Video files: exact counts, the right frames of every format, and errors."""

import dataclasses
import fractions
import pathlib

import av
import cv2
import grey_videos
import numpy as np
import pytest
from grey_videos import assert_same_videos

from trn_jax.data import annotations, batches, datasets, videos
from trn_jax.data.annotations import Record
from trn_jax.data.decode import FrameError
from trn_jax.data.frame_folders import FrameFolders
from trn_jax.data.frame_index import FrameIndex
from trn_jax.data.reader import ClipReader
from trn_jax.data.views import View
from trn_jax.errors import UserError

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data"
NUM_FRAMES = 41
SIZE = (48, 64)


def picture(number):
    """A frame that encodes its number: grey on the left, height on the right."""
    frame = np.zeros((*SIZE, 3), np.uint8)
    frame[:, :32] = 20 + 5 * number
    frame[: 2 + number, 32:] = 220
    return frame


def number_of(frame):
    return round((float(frame[:, 4:28].mean()) - 20) / 5)


def write_video(path, *, codec="libx264", times=None, num_frames=NUM_FRAMES, **options):
    """Write frames 0, 1, ... at 25 frames per second, or at `times` in thousandths of a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        stream.options = {key: str(value) for key, value in options.items()}
        if times is not None:
            stream.codec_context.time_base = fractions.Fraction(1, 1000)
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], fractions.Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


UNEVEN = np.cumsum(np.random.default_rng(0).integers(5, 200, NUM_FRAMES)).tolist()
KINDS = {
    "b_frames.mp4": dict(g=12, bf=3),
    "one_key_frame.mkv": dict(g=1000, bf=2),
    "all_key_frames.mp4": dict(g=1),
    "open_groups.mp4": {"g": 10, "bf": 2, "x264-params": "open-gop=1:keyint=10:min-keyint=10"},
    "uneven.mkv": dict(times=UNEVEN, g=8),
    "mpeg4.avi": dict(codec="mpeg4", g=9, b="2000k"),
    "mpeg2.mpg": dict(codec="mpeg2video", g=9, b="4000k"),
    "wmv.wmv": dict(codec="wmv2", b="4000k"),
}


@pytest.fixture(scope="module", params=KINDS)
def video(request, tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / request.param, **KINDS[request.param])


def test_frames_have_the_times_of_the_file(tmp_path):
    path = write_video(tmp_path / "uneven.mkv", **KINDS["uneven.mkv"])
    with videos.VideoFile(str(path)) as video:
        expected = (np.array(UNEVEN) - UNEVEN[0]) / 1000
        np.testing.assert_allclose(video.times, expected, atol=1e-6)
    path = write_video(tmp_path / "untimed.avi", **KINDS["mpeg4.avi"])
    with videos.VideoFile(str(path)) as video:
        np.testing.assert_allclose(video.times[[0, 10]], [0, 0.4])


def read(path, indices):
    with videos.VideoFile(str(path)) as video:
        return video.read(indices)


def all_frames(path):
    lenient = {} if int(av.__version__.split(".")[0]) > 18 else {"metadata_errors": "ignore"}
    with av.open(str(path), **lenient) as container:
        stream = container.streams.best("video")
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]


def test_frames_are_counted_exactly(video):
    with videos.VideoFile(str(video)) as opened:
        assert opened.num_frames == NUM_FRAMES


@pytest.mark.smoke
@pytest.mark.parametrize(
    "indices",
    [[0], [40], [39, 40], [20], [5, 6, 7], [40, 0, 20, 20, 1], range(0, 41, 5), range(41)],
)
def test_frames_are_those_asked_for_in_that_order(video, indices):
    frames = read(video, np.array(indices))
    expected = all_frames(video)
    for frame, index in zip(frames, indices, strict=True):
        np.testing.assert_array_equal(frame, expected[index])
        assert number_of(frame) == index
        assert frame.dtype == np.uint8 and frame.shape == (*SIZE, 3) and frame.flags.c_contiguous


def test_a_video_can_be_read_twice(video):
    with videos.VideoFile(str(video)) as opened:
        first, second = opened.read([30, 3]), opened.read([3, 30])
    np.testing.assert_array_equal(first[0], second[1])
    np.testing.assert_array_equal(first[1], second[0])


def test_what_lies_between_groups_is_not_decoded(tmp_path, monkeypatch):
    groups = {"x264-params": "keyint=10:min-keyint=10:scenecut=0:bframes=0"}
    path = write_video(tmp_path / "v.mp4", **groups)
    decoded, number = [], FrameIndex.number_of

    def counted(index, time):
        decoded.append(time)
        return number(index, time)

    read(path, [0])  # after which the index is known
    monkeypatch.setattr(FrameIndex, "number_of", counted)
    assert [number_of(frame) for frame in read(path, [1, 22, 23, 40])] == [1, 22, 23, 40]
    assert len(decoded) == 2 + 4 + 1  # 0, 1; 20 to 23; 40


def turned(path, matrix):
    """A copy of an MP4 file whose track has another matrix for its display."""
    content = bytearray(path.read_bytes())
    header = content.index(b"tkhd")
    identity = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    place = content.index(identity, header)
    content[place : place + 36] = np.array(matrix, ">i4").tobytes()
    other = path.with_name("turned.mp4")
    other.write_bytes(content)
    return other


@pytest.mark.parametrize(
    ("quarters", "rotation"), [(1, (0, -1, 1, 0)), (2, (-1, 0, 0, -1)), (3, (0, 1, -1, 0))]
)
def test_upright_recordings_stand_upright(tmp_path, quarters, rotation):
    a, b, c, d = (entry << 16 for entry in rotation)
    plain = write_video(tmp_path / "v.mp4")
    path = turned(plain, [a, b, 0, c, d, 0, 0, 0, 1 << 30])
    (frame,), (still,) = read(path, [7]), read(plain, [7])
    np.testing.assert_array_equal(frame, np.rot90(still, quarters))
    # OpenCV's reader turns by itself.
    capture = cv2.VideoCapture(str(path))
    capture.set(cv2.CAP_PROP_POS_FRAMES, 7)
    _, other = capture.read()
    assert other.shape == frame.shape
    assert np.abs(other[..., ::-1].astype(int) - frame).mean() < 5


# What is wrong with a file


def write_sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def damage(path, *, keep):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def write_nothing(path):
    """A whole file of no frames; its kind is that of its content, not of its name."""
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()


BROKEN = {
    "missing": (lambda path: None, "video 'v.mp4' not found in"),
    "other extension": (lambda path: write_video(path.with_suffix(".mkv")), r"\(found 'v.mkv'\)"),
    "empty": (lambda path: path.touch(), r"v\.mp4 is empty \(0 bytes\)"),
    "text": (lambda path: path.write_text("no video\n" * 50), "v.mp4: Invalid data"),
    "sound": (write_sound, r"v\.mp4 has no video, only audio"),
    "no frames": (write_nothing, r"v\.mp4: End of file"),
    "cut off": (lambda path: damage(write_video(path), keep=0.5), "v.mp4: "),
    "a folder": (lambda path: path.mkdir(), r"v\.mp4.*data\.source='videos'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_cannot_be_read_are_named_with_the_reason(tmp_path, case):
    make, message = BROKEN[case]
    make(tmp_path / "v.mp4")
    with pytest.raises(FrameError, match=message):
        read(tmp_path / "v.mp4", [0])


def test_a_stream_that_ends_too_early_is_no_silent_repetition(tmp_path):
    path = write_video(tmp_path / "v.mkv", g=1)
    damage(path, keep=0.6)
    with videos.VideoFile(str(path)) as video:
        assert 5 < video.num_frames < NUM_FRAMES  # what is left of it
        assert number_of(video.read([video.num_frames - 2])[0]) == video.num_frames - 2
        with pytest.raises(FrameError, match=r"v\.mkv ends before frame 40"):
            video.read([0, 40])


def test_a_missing_folder_is_named(tmp_path):
    source = videos.VideoFiles()
    with pytest.raises(FrameError, match=f"folder {tmp_path}/none not found; check data_dir"):
        source.check(Record(0, str(tmp_path / "none" / "v.mp4"), 0, 0))


def test_without_pyav_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(UserError, match=r"needs PyAV: pip install 'trn_jax\[video\]'"):
        videos.VideoFiles()


@pytest.mark.thorough
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here")
def test_real_videos_give_the_frames_of_a_decoding_from_the_start():
    paths = [*SHARED.glob("torchvision/*.avi"), *SHARED.glob("torchvision/*.mp4")]
    paths += [SHARED / "mmaction2/test.avi", SHARED / "misc/nasa_13013.mp4"]
    for path in paths:
        expected = all_frames(path)
        indices = (np.arange(5) + 0.5) * len(expected) / 5
        with videos.VideoFile(str(path)) as video:
            assert video.num_frames == len(expected)
            for frame, index in zip(video.read(indices.astype(int)), indices, strict=True):
                np.testing.assert_array_equal(frame, expected[int(index)])


# Lists of them


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The same clips as files and as folders of frames without loss."""
    root = tmp_path_factory.mktemp("tree")
    (root / "videos").mkdir()
    lines = {"videos": [], "rawframes": []}
    for number in range(5):
        count = 4 + 9 * number
        name = f"clip {number} ä"
        path = write_video(root / "videos" / f"{name}.mp4", num_frames=count, g=6)
        (root / "rawframes" / name).mkdir(parents=True)
        for index, frame in enumerate(all_frames(path), start=1):
            cv2.imwrite(str(root / "rawframes" / name / f"{index:05d}.png"), frame[..., ::-1])
        lines["videos"].append(f"{name}.mp4 {number % 3}\r\n")
        lines["rawframes"].append(f"{name} {count} {number % 3}\r\n")
    for form, text in lines.items():
        for split in ("train", "val"):
            (root / f"sthv1_{split}_list_{form}.txt").write_text("".join(text), newline="")
    (root / "label_map.txt").write_text("a\nb\nc\n")
    return root


VIEW = View(**grey_videos.VIEW | dict(scales=(1, 0.75), flip_labels=False))


def test_files_and_folders_give_the_same_clips(tree):
    found = {}
    for form, source in (
        ("videos", videos.VideoFiles()),
        ("rawframes", FrameFolders(pattern="{:05d}.png", first_frame=1)),
    ):
        records = annotations.read_list(
            tree / f"sthv1_train_list_{form}.txt", frames_root=tree / form, num_classes=3
        )
        options = dict(seed=1, label_map={}, exact_resize=False, on_error="raise", num_threads=1)
        reader = batches.BatchReader(records, VIEW, source, **options)
        batch = reader([(0, record) for record in records])
        three = dataclasses.replace(VIEW, sampling="twice", crop="center", flip_rate=0)
        evaluated = ClipReader({"one": three}, source)
        found[form] = batch, [evaluated.read(record, 1) for record in records]
    (batch, views), (other, other_views) = found.values()
    np.testing.assert_array_equal(batch["clip"], other["clip"])
    np.testing.assert_array_equal(batch["label"], other["label"])
    assert_same_videos(views, other_views)


def test_the_form_of_the_data_is_told_from_the_folder(tree, tmp_path):
    both = datasets.locate("sthv1", tree)
    assert both.source == "frames" and both.train_list.endswith("_rawframes.txt")
    only_videos = tmp_path / "only_videos"
    only_videos.mkdir()
    for name in ("videos", "label_map.txt", "sthv1_train_list_videos.txt"):
        (only_videos / name).symlink_to(tree / name)
    (only_videos / "sthv1_val_list_videos.txt").symlink_to(tree / "sthv1_val_list_videos.txt")
    found = datasets.locate("sthv1", only_videos)
    assert found.source == "videos"
    assert found.frames == str(only_videos / "videos")
    assert found.val_list == str(only_videos / "sthv1_val_list_videos.txt")
    chosen = datasets.locate("sthv1", tree, source="videos")
    assert chosen.train_list.endswith("_videos.txt") and chosen.frames == str(tree / "videos")
    with pytest.raises(UserError, match=r"data\.source='video' is not one of frames, videos"):
        datasets.locate("sthv1", tree, source="video")


def test_a_list_of_own_files_is_recognised(tree, tmp_path):
    (tmp_path / "train_list.txt").write_text("\n  some file.WEBM 3\n")
    (tmp_path / "videos").mkdir()
    found = datasets.locate("frames", tmp_path)
    assert (found.source, found.frames) == ("videos", str(tmp_path / "videos"))
    given = datasets.locate("frames", tmp_path, frames="elsewhere")
    assert given.frames == str(tmp_path / "elsewhere")


def test_files_among_folders_are_refused_and_folders_among_files(tmp_path):
    folders = FrameFolders(pattern="{:05d}.jpg", first_frame=1)
    record = Record(0, str(tmp_path / "v.mp4"), 0, 0)
    for use in (folders.check, folders.open):
        with pytest.raises(FrameError, match=r"v\.mp4.*data\.source='frames'"):
            use(record)
    with pytest.raises(FrameError, match=r"data\.source='videos'"):
        videos.VideoFiles().check(Record(0, str(tmp_path), 7, 0))


@pytest.mark.parametrize(
    ("line", "multi_label", "expected"),
    [
        ("a b/c 1.mp4 2", False, ("a b/c 1.mp4", 0, 2)),
        ("c.mp4 120 2", False, ("c.mp4", 0, 2)),  # the number of frames is not asked for
        ("c.mp4 1 2 1", True, ("c.mp4", 0, (1, 2))),
        ("c.MKV 2", True, ("c.MKV", 0, (2,))),
        ("x.mp4.d 12 2", False, ("x.mp4.d", 12, 2)),
    ],
)
def test_lines_of_files(tmp_path, line, multi_label, expected):
    (tmp_path / "list.txt").write_text(f"{line}\n" + ("z.mp4 0 1\n" if multi_label else ""))
    record, *_ = annotations.read_list(
        tmp_path / "list.txt", frames_root="/root", num_classes=3, multi_label=multi_label
    )
    path, num_frames, label = expected
    assert (record.path, record.num_frames, record.label) == (f"/root/{path}", num_frames, label)


def test_several_labels_of_a_file_where_one_is_expected(tmp_path):
    (tmp_path / "list.txt").write_text("v.mp4 0 1 2\n")
    with pytest.raises(UserError, match=r"line 1: 'v.mp4 0 1 2' has several labels.*multi_label"):
        annotations.read_list(tmp_path / "list.txt", frames_root="/root", num_classes=3)
