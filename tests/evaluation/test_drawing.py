"""Text in the letters of OpenCV's font."""

import cv2
import numpy as np
import pytest

from trn_jax.evaluation import drawing


def test_letters_that_the_font_lacks_are_replaced(monkeypatch):
    monkeypatch.setattr(drawing, "_is_drawn", str.isascii)  # as before OpenCV 5
    assert drawing.drawable("Öffnen 開く, why?") == "Offnen ??, why?"


@pytest.mark.skipif(not hasattr(cv2, "FontFace"), reason="before OpenCV 5 there is only ASCII")
def test_letters_that_the_font_has_stay():
    assert drawing.drawable("Öffnen 開ク Мир 열") == "Öffnen 開ク Мир 열"
    assert drawing.drawable("ह 😀 a") == "? ? a"


@pytest.mark.parametrize("room", [0, 10, 60, 100, 1000])
@pytest.mark.parametrize("from_end", [False, True])
def test_shortened_text_fits(room, from_end):
    text = "Pushing something from left to right"
    found = drawing.shortened(text, room, from_end=from_end)
    assert drawing.text_width(found) <= room or found == "..."
    assert (found == text) == (room == 1000)
    kept = found.removeprefix("...") if from_end else found.removesuffix("...")
    assert text.endswith(kept) if from_end else text.startswith(kept)


def test_what_is_written_is_as_wide_as_it_says():
    image = drawing.paper(40, 400)
    drawing.write(image, "Swiping left", 20, 25, bold=True)
    _, columns = np.nonzero((image < 255).any(axis=-1))
    width = drawing.text_width("Swiping left", bold=True)
    assert 18 <= columns.min() <= 24
    assert 18 + width - 6 <= columns.max() <= 20 + width + 2
