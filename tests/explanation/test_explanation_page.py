"""The page and the words of explanations, and the pictures of deciding frames."""

from types import SimpleNamespace

import numpy as np
import pytest
from example_explanation import HOSTILE, Explainer, explanation_page

from trn_jax.errors import UserError
from trn_jax.explanation import page as pages
from trn_jax.explanation import summary
from trn_jax.explanation.deciding import (
    DecidingFrames,
    deciding_positions,
    frames_of,
    line_of,
    strip,
)
from trn_jax.explanation.explanation import Explanation
from trn_jax.explanation.page import ExplanationPage, heated


def test_sentences(explanation):
    text = " ".join(summary.sentences(explanation))
    for part in (
        "0.90",
        "0.08 s, 0.48 s and 0.68 s",
        "100 %",
        "decides",
        "开门",
        "0.80",
        "After 60 %",
    ):
        assert part in text


def test_sentences_of_what_needs_no_order(explanation):
    explanation.order["reversed"] = explanation.order["forward"]
    text = " ".join(summary.sentences(explanation))
    assert "no difference" in text and "0.30" in text


def test_the_order_does_not_decide_where_the_prediction_stays(explanation):
    explanation.order["reversed"] = np.array([0.5, 0.3, 0.2])
    text = " ".join(summary.sentences(explanation))
    assert "decides" not in text and "0.50" in text


def test_frames_that_count_against_the_prediction_are_not_hidden(explanation):
    explanation.values.values[0] = [0.1, -1.0, -2.0, -3.0]
    assert "(-5.90)" in " ".join(summary.sentences(explanation))


def test_scores_of_zero_have_no_sign(explanation):
    explanation.order["reversed"] = explanation.order["forward"] + 0.001
    assert "order score 0.00" in summary.text_of(explanation)


def test_frames_of_equal_values_are_not_named(explanation):
    explanation.values.values[0] = [1.0, 1.0, 1.1, 1.0]
    text = " ".join(summary.sentences(explanation))
    assert "equally" in text and "0.48 s" not in text


def test_frames_without_times_have_numbers(explanation):
    explanation.times[:] = np.nan
    assert "Frames 2, 12 and 17" in " ".join(summary.sentences(explanation))
    assert [each["time"] for each in frames_of(explanation)] == [None] * 4
    assert "frame 17 (+3.00)" in line_of({"frames": frames_of(explanation)})


def test_text_has_every_number(explanation):
    text = summary.text_of(explanation)
    for part in ("+3.00 ± 0.10", "-1.00", "2: +4.00", "reversed 0.100", "order score 0.80", "60 %"):
        assert part in text


@pytest.mark.smoke
def test_page(explanation):
    text = explanation_page([explanation, explanation], about=[("checkpoint", "x")])
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text
    assert "default-src &#x27;none&#x27;" in text and "://" not in text
    assert text.count("<script") == 1
    for part in ("开门", "0.48 s", "+3.00 ± 0.10", "Aligned", "Score by the order", "How to read"):
        assert part in text
    # Per video: its frames, their maps and two representative frames; and the alignment.
    assert text.count("<img") == 2 * (4 + 4 + 2) + 2 * 2
    assert len(text) < 200_000


def test_page_names_unreadable_videos(explanation):
    broken = Explanation(video="x.mp4", problem=f"x.mp4 is broken {HOSTILE}")
    text = explanation_page([broken, explanation])
    assert "x.mp4 is broken &lt;script" in text and "<script>alert" not in text


def test_pages_leave_out_what_does_not_fit(explanation, monkeypatch):
    size = len(explanation_page([explanation]))
    monkeypatch.setattr(pages, "_ROOM", size)
    found = ExplanationPage(Explainer())
    for _ in range(40):
        found.add(explanation)
    text = found.html()
    shown = text.count('aria-labelledby="video')
    assert 1 <= shown < 5 and found.num_left_out == 40 - shown
    assert f"{40 - shown} more videos" in text
    monkeypatch.setattr(pages, "_ROOM", 0)  # a single video is never left out
    assert explanation_page([explanation]).count('aria-labelledby="video') == 1


@pytest.mark.parametrize("room", [pages._ROOM_ALIGNED, 20_000])
def test_alignments_are_limited(explanation, monkeypatch, room):
    monkeypatch.setattr(pages, "_ROOM_ALIGNED", room)
    text = explanation_page([explanation] * 7)
    number = text.count("aligned frames") / 2
    assert number == 12 if room > 20_000 else 0 < number < 12
    assert len(text) < 200_000 + room


def test_page_without_a_readable_video():
    assert explanation_page([Explanation(video="x", problem="gone")]) == ""


def test_maps_colour_what_supports_a_class():
    pixels = np.full((2, 16, 16, 3), 100, np.uint8)
    maps = np.zeros((2, 2, 2), np.float32)
    maps[0, 0, 0] = 1
    found = heated(pixels, maps).astype(int)
    assert found[0, 1, 1, 0] > found[0, 1, 1, 2] + 50  # red, not blue
    assert (found[1] == 100).all() and abs(found[0, -1, -1] - 100).max() <= 1


def test_strip_frames_what_decides(explanation):
    np.testing.assert_array_equal(deciding_positions(explanation), [0, 2, 3])
    image = strip(explanation)
    assert image.dtype == np.uint8 and image.shape[2] == 3
    framed = (image == (213, 94, 0)).all(axis=2).any(axis=0)
    side = 224 + 4
    found = [framed[10 + n * side : 10 + (n + 1) * side - 4].any() for n in range(4)]
    assert found == [True, False, True, True]


def test_a_file_in_place_of_the_folder_of_frames(explanation, tmp_path):
    (tmp_path / "frames").write_text("")
    video = SimpleNamespace(name="a.mp4")
    path = str(tmp_path / "frames" / "a")
    deciding = DecidingFrames(lambda _: [explanation], [video], lambda _: path)
    with pytest.raises(UserError, match=r"folder .*frames"):
        deciding(SimpleNamespace(video="a.mp4"))


def test_no_frame_supports_a_class(explanation):
    explanation.values.values[0] = -1
    assert "No frame" in " ".join(summary.sentences(explanation))
    assert "no frame" in line_of({"frames": frames_of(explanation)})
    assert explanation_page([explanation])
    assert strip(explanation).any()
