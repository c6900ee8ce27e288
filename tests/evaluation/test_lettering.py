"""Lines of text in many scripts: what is drawn, shortened, and named as missing."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from trn_jax.evaluation import lettering


@pytest.mark.parametrize("width", [120, 1920])
def test_long_names_are_shortened(width):
    name = "Pretending to put something " * 20
    text = lettering.shortened(name, 20, width)
    assert text != name and text.endswith("…") and name.startswith(text[:-1])
    assert width - 60 < lettering.line(text, 20).shape[1] <= width
    assert lettering.shortened("short", 20, width) == "short"


needs_fonts = pytest.mark.skipif(not hasattr(cv2, "FontFace"), reason="OpenCV 4 has no such fonts")


@needs_fonts
@pytest.mark.parametrize(
    "texts",
    [
        ("挥手", "跳跃"),
        ("手を振る", "とぶ"),
        ("손 흔들기", "뛰기"),
        ("прыжок", "взмах"),
        ("šuolis", "mostas"),
    ],
)
def test_names_in_scripts_of_opencv(texts):
    assert not any(map(lettering.missing, texts))
    masks = [lettering.line(text, 24) for text in texts]
    assert all(mask.max() > 200 and mask.any(axis=0).mean() > 0.5 for mask in masks)
    assert masks[0].shape != masks[1].shape or not np.array_equal(*masks)
    marks = lettering.line("?" * len(texts[0]), 24)
    assert masks[0].shape != marks.shape or not np.array_equal(masks[0], marks)


@needs_fonts
def test_arabic_and_hebrew_are_written_from_right_to_left():
    first, second, both = (lettering.line(text, 24) for text in ("א", "ל", "אל"))
    assert both.shape[1] >= first.shape[1]
    # The first letter is on the right.
    width = np.flatnonzero(first.any(axis=0))[-1] + 1
    right = both[:, both.shape[1] - first.shape[1] :]
    assert np.abs(right[:, :width].astype(int) - first[:, :width]).mean() < 8
    assert not np.array_equal(right, second[:, : right.shape[1]])
    if not lettering.missing("قفز"):
        masks = [lettering.line(text, 24) for text in ("قفز", "زفق", "ق ف ز")]
        assert all(mask.any() for mask in masks)
        assert masks[0].shape != masks[1].shape or not np.array_equal(*masks[:2])


@pytest.mark.parametrize(
    "text", ["🎉", "a\u200db", "\U0010fffd", "e\u0301", " ", "", "क्षत्रिय", "ไทย"]
)
def test_no_text_is_too_strange(text):
    mask = lettering.line(text, 20)
    assert mask.dtype == np.uint8 and mask.shape[0] == lettering.line_height(20)


def test_opencv_4_writes_ascii():
    program = (
        "import cv2\n"
        "if hasattr(cv2, 'FontFace'):\n"
        "    del cv2.FontFace\n"
        "from trn_jax.evaluation import lettering\n"
        "assert lettering.line('jump', 20).any() and not lettering.missing('jump')\n"
        "assert lettering.line('\\U0010fffd', 20).any() and lettering.missing('\\U0010fffd')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
