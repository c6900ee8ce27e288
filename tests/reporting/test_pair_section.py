"""What a report says of classes that are each other backwards."""

import dataclasses
import json

import numpy as np
import pytest
from example_runs import some_scores, write_run
from page_elements import Elements
from small_training import write_frames

from trn_jax import cli
from trn_jax.config import base
from trn_jax.evaluation.scores import Scores
from trn_jax.reporting.matching import aligned
from trn_jax.reporting.pair_section import measured_pairs
from trn_jax.reporting.report_page import compared, run_page
from trn_jax.reporting.runs import read_run
from trn_jax.settings import to_json

PAIRS = {0: 1, 1: 0, 4: 5, 5: 4}


def test_pairs_are_measured_by_counting():
    guesses = [0, 1, 0, 1, 2, 0, 3, 2]
    labels = np.array([0, 0, 1, 1, 1, 2, 2, 0])
    missing = np.array([False] * 7 + [True])  # counts as wrong, and for no class
    found = Scores(
        np.eye(5, dtype=np.float32)[guesses], labels, [], [], {0: 1, 1: 0, 2: 3, 3: 2, 4: 4},
        missing=missing,
    )  # fmt: skip
    (pair,) = measured_pairs(found)  # class 3 has no videos, and 4 is its own reverse
    assert pair.labels == (0, 1) and pair.num_videos == 6
    assert pair.right == pytest.approx(2 / 6) and pair.backwards == pytest.approx(2 / 6)


def test_a_page_shows_pairs_of_two_runs(tmp_path):
    write_run(tmp_path / "good", some_scores(sure=30.0, reversed_class=PAIRS))
    blind = some_scores(sure=30.0, reversed_class=PAIRS)
    # It sees which pair it is, and says the first class of it.
    scores = blind.scores.copy()
    for first, second in ((0, 1), (4, 5)):
        scores[blind.labels == second] = np.eye(6, dtype=np.float32)[first]
    write_run(tmp_path / "blind", dataclasses.replace(blind, scores=scores))
    page = tmp_path / "page.html"
    command = ["report", str(tmp_path / "good"), str(tmp_path / "blind"), f"--to={page}"]
    assert cli.main(command) == 0
    parsed = Elements(page.read_text(encoding="utf-8"))
    keys = [each["id"] for each in parsed.count["section"]]
    assert keys.index("pairs") == keys.index("classes") + 1
    text = " ".join(parsed.text.split())
    assert "good 100.0 %" in text and "blind 50.0 %" in text
    assert "frames can't be shown" in text  # of these made-up videos
    # Alone, a run has the same section, without the second one's column.
    alone = Elements(run_page(read_run(str(tmp_path / "good"))))
    assert "second run %" in text and "second run %" not in alone.text
    # Without such classes, or with several labels per video, there is none.
    write_run(tmp_path / "other", some_scores())
    several = np.eye(6, dtype=np.float32)[blind.labels]
    write_run(tmp_path / "several", dataclasses.replace(blind, labels=several))
    for folder in ("other", "several"):
        parsed = Elements(run_page(read_run(str(tmp_path / folder))))
        assert "pairs" not in [each["id"] for each in parsed.count["section"]]


def test_a_pair_is_shown_as_strips_of_frames(tmp_path):
    names = ["Opening", "Closing"]
    labels = np.array([0, 0, 1, 1])
    scores = np.array([[0.6, 0.4], [0.9, 0.1], [0.3, 0.7], [0.4, 0.6]], np.float32)
    videos = [f"clip{number}" for number in range(4)]
    found = Scores(scores, labels, videos, names, {0: 1, 1: 0}, protocol="efficient")
    config = base(dataset="frames", model="trn_resnet10", num_classes=2)
    config.data_dir = str(tmp_path / "data")
    rng = np.random.default_rng(0)
    for video, count in zip(videos, (5, 6, 7, 8), strict=True):
        write_frames(tmp_path / "data" / "rawframes" / video, count, rng)
    lines = [
        f"clip{i} {n} {label}\n" for i, n, label in zip(range(4), (5, 6, 7, 8), labels, strict=True)
    ]
    (tmp_path / "data" / "val_list.txt").write_text("".join(lines))
    (tmp_path / "data" / "label_map.txt").write_text("Opening\nClosing\n")
    write_run(tmp_path / "run", found, config=json.loads(to_json(config)), split="val")
    page = run_page(read_run(str(tmp_path / "run")))
    strips = [each["aria-label"] for each in Elements(page).count["ol"]]
    # The surest video of each class: clip1 and clip2.
    assert strips == [
        "6 frames of a video of Opening, in order",
        "7 frames of a video of Closing, in order",
    ]
    # One that can't be read costs itself.
    for path in (tmp_path / "data" / "rawframes" / "clip2").iterdir():
        path.write_bytes(b"no picture")
    parsed = Elements(run_page(read_run(str(tmp_path / "run"))))
    assert len(parsed.count["ol"]) == 1 and "The video can't be shown" in parsed.text


def test_runs_are_compared_by_names_and_on_the_videos_of_both(tmp_path):
    """The second run has the classes in another order, and fewer videos."""
    first = some_scores(sure=30.0, reversed_class=PAIRS)
    order, half = [5, 3, 1, 0, 2, 4], slice(0, 30)
    place = {label: order.index(label) for label in range(6)}
    second = dataclasses.replace(
        first,
        scores=first.scores[half][:, order],
        labels=np.array([place[label] for label in first.labels[half].tolist()]),
        videos=first.videos[half],
        class_names=[first.class_names[label] for label in order],
        reversed_class={place[a]: place[b] for a, b in PAIRS.items()},
    )
    write_run(tmp_path / "one", first)
    write_run(tmp_path / "two", second)
    one, two = (read_run(str(tmp_path / name)) for name in ("one", "two"))
    parsed = Elements(run_page(one, against=two, difference=compared(one, two)))
    text = " ".join(parsed.text.split())
    assert "one 100.0 %" in text and "two 100.0 %" in text
    assert [pair.num_videos for pair in measured_pairs(aligned(first, second)[0])] == [10, 10]
