"""Sheets of clips."""

import base64
import html.parser
import itertools

import cv2
import numpy as np
import pytest

from trn_jax.evaluation import clip_sheet, drawing
from trn_jax.evaluation.clip_sheet import Row, Sheet

NAMES = ("Swiping left", "Swiping right", "<b>&\x1b[1m", "開く", "ह")
RED, GREEN, BLUE, VERMILION = (200, 0, 0), (0, 200, 0), (0, 0, 200), (213, 94, 0)


def row(colors=(RED, GREEN, BLUE), size=64, **changes):
    """A clip of frames of one colour each."""
    pixels = np.empty((len(colors), size, size, 3), np.uint8)
    pixels[:] = np.array(colors)[:, None, None]
    options = dict(pixels=pixels, labels=[0], mirrored=False, video="v1.mp4")
    return Row(**options | dict(frames=range(0, 4 * len(colors), 4)) | changes)


def sheet(*rows):
    return Sheet("Clips", ("a note",), NAMES, rows)


def places(image, color):
    """Rows and columns of the pixels of a colour."""
    return np.nonzero((np.abs(image.astype(int) - color) < 3).all(axis=-1))


def test_frames_of_a_clip_are_side_by_side_and_clips_one_below_the_other():
    image = clip_sheet.picture(sheet(row(), row((BLUE, GREEN, RED))))
    assert image.dtype == np.uint8
    above, below = np.split(image, [(image.shape[0] + 40) // 2])
    for part, colors in ((above, (RED, GREEN, BLUE)), (below, (BLUE, GREEN, RED))):
        columns = [places(part, color)[1] for color in colors]
        assert columns[0].max() < columns[1].min() < columns[1].max() < columns[2].min()
        assert {len(found) for found in columns} == {128**2}  # magnified twice


@pytest.mark.parametrize(("num_frames", "size"), [(1, 16), (3, 224), (8, 224), (32, 112), (8, 64)])
def test_sheets_have_a_moderate_width(num_frames, size):
    image = clip_sheet.picture(sheet(row([RED] * num_frames, size)))
    assert 560 < image.shape[1] < max(1320, 70 * num_frames)
    found, _ = places(image, RED)
    assert len(found) >= num_frames * 64**2


def test_mirrored_clips_are_marked_with_the_label_before():
    given = sheet(row(), row(mirrored=True), row(mirrored=True, labels=[1], labels_before=[0]))
    assert [given.mark(each) for each in given.rows][:2] == ["", "mirrored"]
    assert "Swiping left" in given.mark(given.rows[2])
    marks = [len(places(clip_sheet.picture(sheet(each)), VERMILION)[0]) for each in given.rows]
    assert 0 == marks[0] < marks[1] < marks[2]


def test_long_names_do_not_reach_into_each_other(monkeypatch):
    written = []
    write = drawing.write

    def noted(image, text, x, y, *color, **font):
        written.append((x, y, x + drawing.text_width(text, **font), text))
        write(image, text, x, y, *color, **font)

    monkeypatch.setattr(clip_sheet, "write", noted)
    names = ["a long name of a class " * 9, "another one " * 20]
    given = row(mirrored=True, labels=[1], labels_before=[0], video="folder/" * 30 + "v1.mp4")
    times = dict(times=[1234.5] * 3)
    for each in (given, row(**times), row([RED] * 30, frames=range(10**5, 10**5 + 30))):
        image = clip_sheet.picture(Sheet("t", ("n" * 400,), names, [each]))
        lines = {}
        for left, y, right, _ in written:
            lines.setdefault(y, []).append((left, right))
        for parts in map(sorted, lines.values()):
            assert parts[0][0] >= 0 and parts[-1][1] <= image.shape[1]
            assert all(a[1] <= b[0] for a, b in itertools.pairwise(parts))
        if each is given:
            assert any(text.endswith("v1.mp4") for *_, text in written)
        written.clear()


def test_classes_that_the_font_has_no_letters_for_have_their_number(monkeypatch):
    written = []
    monkeypatch.setattr(clip_sheet, "write", lambda image, text, *_, **__: written.append(text))
    monkeypatch.setattr(drawing, "_is_drawn", str.isascii)
    clip_sheet.picture(sheet(row(labels=[3])))
    assert "class 3: ??" in written
    assert clip_sheet.lacks_letters(sheet(row(), row(labels=[3])))
    assert not clip_sheet.lacks_letters(sheet(row()))


def test_frames_have_numbers_and_times_as_far_as_they_fit(monkeypatch):
    written = []
    monkeypatch.setattr(clip_sheet, "write", lambda image, text, *_, **__: written.append(text))
    clip_sheet.picture(sheet(row(times=[0.0, 0.4, 0.8])))
    assert written[-3:] == ["frame 0, 0.00 s", "frame 4, 0.40 s", "frame 8, 0.80 s"]
    numbers = range(10**6, 10**6 + 30)
    clip_sheet.picture(sheet(row([RED] * 30, frames=numbers, times=[1e4] * 30)))
    assert written[-30:] == list(map(str, numbers))


class Reader(html.parser.HTMLParser):
    """Tags, texts and pictures of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.pictures = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attributes = dict(attrs)
        assert "href" not in attributes and not any(name.startswith("on") for name in attributes)
        if "src" in attributes:
            kind, _, content = attributes["src"].partition("base64,")
            assert kind == "data:image/jpeg;"
            data = np.frombuffer(base64.b64decode(content), np.uint8)
            self.pictures.append(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))

    def handle_data(self, data):
        self.text += data


def test_a_page_has_everything_in_it_and_nothing_foreign_as_markup():
    given = [
        row(labels=[2, 3], video="<i>v</i>.mp4", times=[0.0, 0.4, 0.8]),
        row(labels=[1], labels_before=[0], mirrored=True, part="view 2 of 10"),
    ]
    text = clip_sheet.page(sheet(*given))
    page = Reader(text)
    assert not {"script", "link", "b", "i"} & set(page.tags)
    assert "\x1b" not in text
    for part in ("<b>&\\x1b[1m, 開く", "<i>v</i>.mp4", "0.40 s", "view 2 of 10", "Swiping right"):
        assert part in page.text
    assert page.tags.count("mark") == 1 and page.tags.count("section") == 2
    assert len(page.pictures) == 6
    for found, color in zip(page.pictures, 2 * (RED, GREEN, BLUE), strict=True):
        assert found.shape == (64, 64, 3)
        np.testing.assert_allclose(found.mean((0, 1)), color, atol=3)
