"""Frames of folders: exact pixels, no unneeded files, and the errors of bad ones."""

import builtins
import os

import cv2
import numpy as np
import pytest
import simplejpeg

from trn_jax.data import frame_folders
from trn_jax.data.annotations import Record
from trn_jax.data.decode import FrameError
from trn_jax.data.frame_folders import FrameFolders

PATTERN = "{:05d}.jpg"


def picture(number, height=16, width=24):
    """An image that encodes its number: red is 20 times it, green falls downwards."""
    image = np.full((height, width, 3), 10, np.uint8)
    image[..., 0] = 20 * number
    image[..., 1] = np.linspace(200, 40, height).astype(np.uint8)[:, None]
    return image


def jpeg(image):
    return simplejpeg.encode_jpeg(image, quality=95, colorspace="RGB", colorsubsampling="444")


@pytest.fixture
def folder(tmp_path):
    """Ten frames, 1 to 10."""
    path = tmp_path / "video"
    path.mkdir()
    for number in range(1, 11):
        (path / PATTERN.format(number)).write_bytes(jpeg(picture(number)))
    return path


def read(folder, indices, pattern=PATTERN, first_frame=1):
    source = FrameFolders(pattern=pattern, first_frame=first_frame)
    with source.open(Record(0, str(folder), 10, 0)) as video:
        assert video.num_frames == 10
        return video.read(indices)


def check(folder, num_frames=10, pattern=PATTERN, first_frame=1):
    source = FrameFolders(pattern=pattern, first_frame=first_frame)
    source.check(Record(0, str(folder), num_frames, 0))


def numbers(frames):
    return [round(float(frame[..., 0].mean()) / 20) for frame in frames]


# Good input


def test_frames_come_in_rgb_in_the_order_asked_for(folder):
    frames = read(folder, np.array([9, 0, 4]))
    assert numbers(frames) == [10, 1, 5]
    for frame, number in zip(frames, (10, 1, 5), strict=True):
        assert frame.dtype == np.uint8
        assert np.abs(frame.astype(int) - picture(number)).max() <= 4


def test_the_number_of_the_first_frame_is_added(folder):
    assert numbers(read(folder, [1, 2], first_frame=0)) == [1, 2]
    assert numbers(read(folder, [0, 1], first_frame=3)) == [3, 4]


def test_only_the_frames_that_are_used_are_opened_and_each_only_once(folder, monkeypatch):
    for number in (2, 4, 7):
        (folder / PATTERN.format(number)).write_bytes(b"broken, and not in the way")
    opened = []
    real_open = builtins.open

    def counting_open(path, *args, **kwargs):
        opened.append(os.path.basename(path))
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", counting_open)
    frames = read(folder, np.array([0, 0, 2, 5, 5, 0]))
    assert numbers(frames) == [1, 1, 3, 6, 6, 1]
    assert sorted(opened) == ["00001.jpg", "00003.jpg", "00006.jpg"]


def test_frames_overwrite_each_other_but_not_those_of_another_video(folder):
    source = FrameFolders(pattern=PATTERN, first_frame=1)
    with source.open(Record(0, str(folder), 10, 0)) as video:
        one, other = video.frames([5, 2, 5]), video.frames([7, 9])
        (first, low), (second, high) = next(one), next(other)
        assert (first, second, numbers([low, high])) == (2, 7, [3, 8])
        assert [number for number, _ in one] == [5]
        assert numbers([low, high]) == [6, 8]


@pytest.mark.parametrize(
    ("draft", "height"), [(None, 240), (0, 240), (200, 240), (120, 120), (121, 240), (25, 30)]
)
def test_drafts_are_close_and_no_smaller_than_wanted(tmp_path, draft, height):
    y, x = np.mgrid[0:1:240j, 0:1:320j]
    waves = np.stack([np.sin(20 * x), np.cos(15 * y), np.sin(10 * (x + y))], -1)
    image = (127 + 100 * waves).astype(np.uint8)
    (tmp_path / "00001.jpg").write_bytes(simplejpeg.encode_jpeg(image, quality=90))
    with FrameFolders(pattern=PATTERN, first_frame=1).open(Record(0, str(tmp_path), 1, 0)) as video:
        (frame,) = [frame.copy() for _, frame in video.frames([0], draft)]
        (exact,) = video.read([0])
    assert frame.shape == (height, height * 4 // 3, 3)
    expected = cv2.resize(exact, frame.shape[1::-1], interpolation=cv2.INTER_AREA)
    error = np.abs(frame.astype(int) - expected)
    assert error.max() <= (12 if draft is not None else 0) and error.mean() < 2


def test_png_frames_are_read_whatever_they_are_called(folder):
    for name in ("00001.png", "00003.jpg"):
        assert cv2.imwrite(str(folder / "x.png"), picture(7)[..., ::-1])
        (folder / "x.png").rename(folder / name)
    (png,) = read(folder, [0], pattern="{:05d}.png")
    np.testing.assert_array_equal(png, picture(7))
    np.testing.assert_array_equal(read(folder, [0, 2])[1], picture(7))


def test_grey_jpegs_have_three_channels(folder):
    grey = simplejpeg.encode_jpeg(picture(3)[..., 1:2].copy(), colorspace="GRAY")
    (folder / "00001.jpg").write_bytes(grey)
    (frame,) = read(folder, [0])
    assert frame.shape == (16, 24, 3)
    assert (frame == frame[..., :1]).all()


def test_folders_may_have_spaces(folder):
    spaced = folder.rename(folder.parent / "a folder  of frames")
    assert numbers(read(spaced, [0, 9])) == [1, 10]
    check(spaced)


def test_a_good_folder_passes_the_check(folder):
    check(folder)
    check(folder, num_frames=4)


# Bad input: the message names the file and the next step


def fails(message, call, *args, **kwargs):
    with pytest.raises(FrameError) as error:
        call(*args, **kwargs)
    for part in (message,) if isinstance(message, str) else message:
        assert part in str(error.value)


@pytest.mark.parametrize("call", [lambda f: read(f, [0]), check])
def test_a_missing_folder(folder, call):
    none = folder / "none"
    fails((f"folder {none} not found", "data_dir", "data.frames"), call, none)


def test_a_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    fails(("'00001.jpg'", str(tmp_path), "no images"), read, tmp_path, [0])


def test_a_file_in_place_of_a_folder(folder):
    file = folder / "00001.jpg"
    fails(str(file), read, file, [0])


@pytest.mark.parametrize("call", [lambda f: read(f, [20]), lambda f: check(f, num_frames=11)])
def test_a_folder_whose_names_cannot_be_read(folder, call, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(frame_folders.os, "listdir", refuse)
    fails(f"can't read {folder}: Permission denied", call, folder)


@pytest.mark.parametrize("call", [lambda f: read(f, [0, 10]), lambda f: check(f, num_frames=11)])
def test_fewer_frames_than_the_list_says(folder, call):
    message = ("'00011.jpg' not found", "10 images", "'00001.jpg' to '00010.jpg'", "second column")
    fails(message, call, folder)


@pytest.mark.parametrize(
    ("pattern", "name"), [("img_{:05d}.jpg", "img_00001.jpg"), ("{:06d}.jpg", "000001.jpg")]
)
@pytest.mark.parametrize("call", [lambda f, p: read(f, [0], p), lambda f, p: check(f, pattern=p)])
def test_a_wrong_pattern_is_told_the_right_one(folder, pattern, name, call):
    message = f"frame {name!r} not found in {folder} (found '00001.jpg')"
    fails((message, "set data.frame_pattern='{:05d}.jpg'"), call, folder, pattern)


@pytest.mark.parametrize(
    ("found", "expected_hint"),
    [
        ("img_00001.jpg", "'img_{:05d}.jpg'"),
        ("00001.png", "'{:05d}.png'"),  # as long as the name asked for
        ("00001.jpeg", "'{:05d}.jpeg'"),
        ("x0001.jpg", "'x{:04d}.jpg'"),
        ("v2_00001.jpg", "'v2_{:05d}.jpg'"),
    ],
)
def test_the_proposed_pattern_fits_what_is_there(tmp_path, found, expected_hint):
    (tmp_path / found).write_bytes(jpeg(picture(5)))
    with pytest.raises(FrameError) as error:
        read(tmp_path, [0])
    assert str(error.value).endswith(f"set data.frame_pattern={expected_hint}")
    pattern = expected_hint.strip("'")
    assert numbers(read(tmp_path, [0], pattern=pattern)) == [5]


def test_images_without_numbers_get_no_proposal(tmp_path):
    (tmp_path / "cover.jpg").write_bytes(jpeg(picture(5)))
    with pytest.raises(FrameError, match=r"\(found 'cover\.jpg'\)$"):
        read(tmp_path, [0])


def test_unpadded_names_work_and_missing_ones_are_not_blamed_on_the_pattern(tmp_path):
    for number in range(1, 13):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(picture(number)))
    assert numbers(read(tmp_path, [0, 11], pattern="{}.jpg")) == [1, 12]
    fails(("'13.jpg' not found", "second column"), read, tmp_path, [12], pattern="{}.jpg")


def test_frames_numbered_from_0_are_told_the_setting(folder):
    for number in range(1, 11):
        (folder / PATTERN.format(number)).rename(folder / PATTERN.format(number - 1))
    for num_frames in (10, 9):
        fails(("numbered from 0", "data.first_frame=0"), check, folder, num_frames=num_frames)
    fails("data.first_frame", read, folder, [9])
    check(folder, first_frame=0)


def test_frames_of_different_size(folder):
    (folder / "00004.jpg").write_bytes(jpeg(picture(4, height=18)))
    assert len(read(folder, [0, 1, 2])) == 3
    message = (str(folder), "differ in size", "(16, 24, 3)", "(18, 24, 3)")
    fails(message, read, folder, [0, 3])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_jpeg(folder, share):
    path = folder / "00003.jpg"
    data = path.read_bytes()[: int(share * path.stat().st_size)]
    path.write_bytes(data)
    message = (f"decode {path} ({len(data)} bytes)", "extract this video again")
    fails(message, read, folder, [0, 2])


def test_a_file_of_zero_bytes(folder):
    (folder / "00003.jpg").write_bytes(b"")
    fails((f"{folder / '00003.jpg'} is empty (0 bytes)", "again"), read, folder, [2])


def test_a_file_that_is_no_image(folder):
    (folder / "00003.jpg").write_text("<html>404</html>")
    fails((str(folder / "00003.jpg"), "neither a JPEG"), read, folder, [2])


def test_a_folder_in_place_of_a_frame(folder):
    (folder / "00003.jpg").unlink()
    (folder / "00003.jpg").mkdir()
    fails(f"read {folder / '00003.jpg'}", read, folder, [2])
