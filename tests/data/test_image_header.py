"""Images of foreign cameras: turned by EXIF data, of any size, and of sizes that cannot be true."""

import struct
import zlib

import cv2
import numpy as np
import painted
import pytest
import simplejpeg

from trn_jax.data import batches, decode, image_header
from trn_jax.data.annotations import Record
from trn_jax.data.decode import FrameError
from trn_jax.data.frame_folders import FrameFolders
from trn_jax.data.memory import Scratch
from trn_jax.data.reader import ClipReader
from trn_jax.data.views import View

FOLDERS = FrameFolders(pattern="{:05d}.jpg", first_frame=1)
PICTURE = painted.frames(1, width=64, height=48)[0]


def exif(orientation, order="<"):
    """EXIF data of two tags, the second of which is the orientation."""
    mark = b"II" if order == "<" else b"MM"
    width = struct.pack(f"{order}HHII", 0x100, 4, 1, 64)
    turn = struct.pack(f"{order}HHIHH", 0x112, 3, 1, orientation, 0)
    return mark + struct.pack(f"{order}HIH", 42, 8, 2) + width + turn + bytes(4)


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def as_jpeg(orientation, order, start=b""):
    content = b"Exif\0\0" + exif(orientation, order)
    segment = b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content
    data = simplejpeg.encode_jpeg(PICTURE, quality=95, colorsubsampling="444")
    return data[:2] + start + segment + data[2:]


def as_jpeg_with_other_segments(orientation, order):
    other = b"\xff\xe1" + struct.pack(">H", 40) + b"http://ns.adobe.com/xap/1.0/\0".ljust(38)
    return as_jpeg(orientation, order, start=other)


def as_png(orientation, order):
    data = bytes(cv2.imencode(".png", PICTURE[..., ::-1])[1])
    return data[:33] + png_chunk(b"eXIf", exif(orientation, order)) + data[33:]


def as_webp(orientation, order):
    data = bytes(cv2.imencode(".webp", PICTURE[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 101])[1])
    header = struct.pack("<II", 10, 8) + (63).to_bytes(3, "little") + (47).to_bytes(3, "little")
    chunks = b"VP8X" + header + data[12:]
    chunks += b"EXIF" + struct.pack("<I", len(exif(1))) + exif(orientation, order)
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def read(data, **options):
    return decode.decode_image(data, "it", "mend it", Scratch(), **options)


# The orientations of EXIF, from the stored image.
UPRIGHT = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: np.rot90(p, 2),
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
    8: lambda p: np.rot90(p),
}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("make", [as_jpeg, as_jpeg_with_other_segments, as_png, as_webp])
def test_every_format_is_turned_as_its_exif_data_says(make, order):
    for orientation, upright in UPRIGHT.items():
        found = read(make(orientation, order))
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, upright(read(make(1, order))))
        draft = read(make(orientation, order), draft=0)
        assert draft.shape == found.shape
    for orientation in (0, 9, 65535):
        np.testing.assert_array_equal(read(make(orientation, order)), read(make(1, order)))


def test_opencv_turns_the_same_way():
    for orientation in UPRIGHT:
        data = as_jpeg(orientation, "<")
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert np.abs(read(data).astype(int) - expected).max() <= 4


@pytest.mark.parametrize("make", [as_jpeg, as_png, as_webp])
def test_exif_data_of_any_bytes_turns_nothing_or_something(make):
    rng, whole = np.random.default_rng(0), make(6, "<")
    start = whole.index(exif(6))
    for _ in range(200):
        data = bytearray(whole)
        for place in rng.integers(start, start + len(exif(6)), rng.integers(1, 8)):
            data[place] = rng.integers(256)
        assert len(image_header.orientation(bytes(data))) == 3
    for end in range(len(whole)):
        assert len(image_header.orientation(whole[:end])) == 3
        image_header.size(whole[:end])


SIZES = {
    ".png": [],
    ".webp": [],
    ".bmp": [],
    ".tiff": [],
    ".ppm": [],
    ".pgm": [],
    "lossless .webp": [cv2.IMWRITE_WEBP_QUALITY, 101],
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_read_from_headers(name):
    image = PICTURE[..., 0] if name == ".pgm" else PICTURE[..., ::-1]
    data = bytes(cv2.imencode(f".{name.rpartition('.')[2]}", image, SIZES[name])[1])
    assert image_header.size(data) == (64, 48)
    assert read(data).shape == (48, 64, 3)
    with pytest.raises(FrameError, match=r"64 x 48 .*max_pixels=3071"):
        read(data, max_pixels=64 * 48 - 1)


def bomb(width, height):
    """A PNG of a few bytes whose header has a large size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def large_jpeg(width, height):
    data = bytearray(simplejpeg.encode_jpeg(PICTURE))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (bomb(50_000, 50_000), "50000 x 50000"),
        (bomb(2**31 - 1, 2**31 - 1), "2147483647 x 2147483647"),
        (large_jpeg(65_500, 65_500), "65500 x 65500"),
        (b"BM" + bytes(12) + struct.pack("<Iii", 40, 30_000, -30_000) + bytes(30), "30000 x 30000"),
        (b"P6\n# made by hand\n40000 40000\n255\n" + bytes(100), "40000 x 40000"),
    ],
)
def test_images_that_are_too_large_are_refused_by_their_header(tmp_path, data, size):
    with pytest.raises(FrameError, match=rf"{size} pixels, more than data\.max_pixels=100000000"):
        read(data)
    (tmp_path / "00001.jpg").write_bytes(data)
    with FOLDERS.open(Record(0, str(tmp_path), 1, 0)) as video, pytest.raises(FrameError):
        video.read([0])


@pytest.mark.parametrize("data", [bomb(3000, 3000), bomb(0, 5), large_jpeg(3000, 3000)[:300]])
def test_images_that_have_less_than_they_say_are_refused_or_filled(data):
    try:
        assert read(data).shape == (3000, 3000, 3)
    except FrameError:
        return


# Frames of few pixels, down to the clip

SETTINGS = dict(
    num_segments=2,
    frame_order="forward",
    short_side=40,
    crop_size=32,
    scales=(1, 0.66),
    num_positions=13,
    flip_labels=False,
)


def views():
    random = dict(SETTINGS, sampling="random", flip_rate=0.5)
    for short_side in (40, 0):
        yield View(**random | dict(crop="multi_scale", short_side=short_side))
        yield View(**random | dict(crop="random_resized", short_side=short_side))


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (100, 1), (2, 3), (30, 31), (31, 33)])
def test_small_frames_become_clips(tmp_path, size):
    value = 77
    for number in (1, 2):
        data = cv2.imencode(".png", np.full((*size, 3), value, np.uint8))[1]
        (tmp_path / f"{number:05d}.jpg").write_bytes(bytes(data))
    record = Record(0, str(tmp_path), 2, 0)
    for view in views():
        for exact in (False, True):
            options = dict(label_map={}, exact_resize=exact, on_error="raise", num_threads=1)
            reader = batches.BatchReader([record], view, FOLDERS, seed=0, **options)
            for epoch in range(20):
                assert (reader([(epoch, record)])["clip"] == value).all()
    for crop, side in (("center", 40), ("three", 32), ("ten", 40)):
        fixed = dict(sampling="center", flip_rate=0, crop=crop, short_side=side)
        found = ClipReader({"v": View(**SETTINGS | fixed)}, FOLDERS).read(record, 0)
        assert (found.pixels[0] == value).all()


def test_frames_that_are_far_too_oblong_are_refused(tmp_path):
    data = cv2.imencode(".png", np.zeros((1, 101, 3), np.uint8))[1]
    (tmp_path / "00001.jpg").write_bytes(bytes(data))
    with (
        FOLDERS.open(Record(0, str(tmp_path), 1, 0)) as video,
        pytest.raises(FrameError, match="101 x 1 pixels"),
    ):
        video.read([0])
