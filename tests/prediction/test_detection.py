"""Events from scores of windows, whose times are known by construction."""

import itertools

import numpy as np
import pytest

from trn_jax.errors import UserError
from trn_jax.evaluation.events import Event
from trn_jax.prediction.answers import Answer
from trn_jax.prediction.detection import DetectionSettings, EventDetector, events_of

NAMES = ("falling", "nothing", "rising")


def windows(*rows, length=2.0, stride=1.0):
    """Windows from 0 on with these scores."""
    return [
        Answer("v", n * stride, n * stride + length, np.array(row, np.float32), NAMES, True)
        for n, row in enumerate(rows)
    ]


def found(answers, multi_label=False, **settings):
    events = events_of(answers, NAMES, DetectionSettings(**settings), multi_label=multi_label)
    return [(e.label, round(e.start, 3), round(e.end, 3), round(e.score, 3)) for e in events]


IDLE, UP, DOWN = (0.1, 0.8, 0.1), (0.1, 0.0, 0.9), (0.9, 0.1, 0.0)


def test_a_window_stands_for_the_time_around_its_middle():
    # Middles at 1, 2, 3, 4, 5: borders halfway.
    assert found(windows(IDLE, UP, UP, IDLE, DOWN), extend=False) == [
        ("rising", 1.5, 3.5, 0.9),
        ("falling", 4.5, 6.0, 0.9),
    ]


def test_the_first_and_the_last_window_reach_the_ends_of_the_video():
    assert found(windows(UP)) == [("rising", 0.0, 2.0, 0.9)]
    ends = [("rising", 0, 1.5, 0.9), ("rising", 2.5, 4.0, 0.9)]
    assert found(windows(UP, IDLE, UP), extend=False) == ends


def test_an_event_lasts_as_long_as_a_window_where_it_has_room():
    rows = IDLE, IDLE, UP, IDLE, IDLE, IDLE
    assert found(windows(*rows, length=3.0)) == [("rising", 2.0, 5.0, 0.9)]
    # Another event, and the ends of the video, limit it.
    rows = UP, IDLE, IDLE, UP, DOWN, DOWN
    assert found(windows(*rows, length=3.0)) == [
        ("rising", 0.0, 3.0, 0.9),
        ("rising", 3.0, 5.0, 0.9),
        ("falling", 5.0, 8.0, 0.9),
    ]
    # Where classes don't exclude each other, only events of the same class do.
    both = windows(UP, IDLE, DOWN, IDLE, IDLE, length=3.0)
    assert found(both, multi_label=True, threshold=0.85) == [
        ("rising", 0.0, 3.0, 0.9),
        ("falling", 2.0, 5.0, 0.9),
    ]


def test_what_has_no_room_on_one_side_goes_to_the_other():
    # The end of the video, and an event before.
    assert found(windows(IDLE, IDLE, IDLE, UP, length=3.0)) == [("rising", 3.0, 6.0, 0.9)]
    rows = DOWN, DOWN, DOWN, UP, IDLE, IDLE, IDLE
    assert found(windows(*rows, length=3.0)) == [
        ("falling", 0.0, 4.0, 0.9),
        ("rising", 4.0, 7.0, 0.9),
    ]
    # The next event needs nothing of the time between; what never becomes one has no say.
    rows = DOWN, DOWN, DOWN, UP, IDLE, DOWN, DOWN, DOWN, DOWN
    assert found(windows(*rows, length=2.5))[1] == ("rising", 3.75, 5.75, 0.9)
    rows = DOWN, DOWN, DOWN, UP, (0.4, 0.6, 0.0), IDLE, IDLE
    assert found(windows(*rows, length=3.0))[1] == ("rising", 4.0, 7.0, 0.9)


@pytest.mark.parametrize("seed", range(4))
def test_events_are_shorter_than_a_window_only_without_room(seed):
    rng = np.random.default_rng(seed)
    scores = windows(*rng.dirichlet((0.2, 0.5, 0.2), 100), length=3.0)
    events = events_of(scores, NAMES, DetectionSettings(hysteresis=1.0))
    ends = [0.0, *(event.end for event in events)]
    starts = [*(event.start for event in events[1:]), scores[-1].end]
    short = 0
    for event, before, after in zip(events, ends, starts, strict=False):
        if event.end - event.start < 3.0 - 1e-6:
            short += 1
            assert event.start == pytest.approx(before)
            # The next one may have needed less than half of the time between.
            assert after - event.end < 1.5
    assert short and len(events) > short


def test_nothing_is_no_event():
    assert found(windows(IDLE, IDLE)) == []


def test_hysteresis_keeps_an_event_together():
    weak = (0.3, 0.3, 0.4)
    scores = windows(IDLE, UP, weak, UP, weak, IDLE)
    assert found(scores, threshold=0.5, hysteresis=0.8) == [("rising", 1.5, 5.5, 0.65)]
    assert len(found(scores, threshold=0.5, hysteresis=1.0)) == 2
    # A weak score alone begins no event.
    assert found(windows(weak, weak), threshold=0.5, hysteresis=0.5) == []


def test_thresholds_are_per_class():
    scores = windows(UP, IDLE, DOWN)
    assert [event[0] for event in found(scores, threshold=(0.95, 0.5, 0.5))] == ["rising"]
    assert [event[0] for event in found(scores, threshold=(0.5, 0.5, 0.95))] == ["falling"]


def test_short_events_are_left_out():
    scores = windows(IDLE, UP, IDLE, UP, UP, IDLE)
    assert len(found(scores)) == 2
    assert found(scores, min_seconds=1.5) == [("rising", 3.5, 5.5, 0.9)]


def test_smoothing_averages_windows_and_shortens_at_the_ends():
    scores = windows(UP, IDLE, UP, UP, IDLE, IDLE)
    # Means of three: 0.5, 0.633, 0.633, 0.633, 0.367, 0.1.
    assert found(scores, smoothing=3, threshold=0.6, hysteresis=0.8) == [
        ("rising", 0.0, 4.5, pytest.approx((0.5 * 1.5 + 0.6333 * 3) / 4.5, abs=1e-3))
    ]
    assert found(windows(UP), smoothing=5) == [("rising", 0.0, 2.0, 0.9)]
    assert found(windows(UP, UP), smoothing=5) == [("rising", 0.0, 3.0, 0.9)]
    # Each of the three takes in all.
    mean = pytest.approx((0.9 + 0.9 + 0) / 3, abs=1e-3)
    assert found(windows(UP, UP, DOWN), smoothing=5) == [("rising", 0.0, 4.0, mean)]


def test_classes_may_overlap_where_they_dont_exclude_each_other():
    both = (0.8, 0.1, 0.9)
    assert found(windows(both, both), multi_label=True) == [
        ("falling", 0.0, 3.0, 0.8),
        ("rising", 0.0, 3.0, 0.9),
    ]
    assert found(windows(both, both)) == [("rising", 0.0, 3.0, 0.9)]


@pytest.mark.parametrize("smoothing", [1, 3, 5])
def test_events_come_as_soon_as_they_have_ended(smoothing):
    rng = np.random.default_rng(smoothing)
    scores = windows(*rng.dirichlet(np.full(3, 0.3), 60))
    settings = DetectionSettings(smoothing=smoothing)
    detector = EventDetector("v", NAMES, settings)
    seen = []
    for window in scores:
        for event in detector.add(window):
            assert event.end <= window.end
            seen.append(event)
    seen += detector.finish()
    whole = events_of(scores, NAMES, settings)
    assert sorted(seen, key=lambda e: e.start) == whole and len(whole) > 5
    assert all(a.end <= b.start for a, b in itertools.pairwise(whole))


def test_a_whole_video_is_an_event_of_its_best_class():
    answer = Answer("v", 0.0, 3.0, np.array([0.2, 0.3, 0.5], np.float32), NAMES)
    assert events_of([answer], NAMES, DetectionSettings()) == [Event("v", 0.0, 3.0, "rising", 0.5)]
    several = events_of([answer], NAMES, DetectionSettings(threshold=0.2), multi_label=True)
    assert [event.label for event in several] == ["falling", "rising"]
    unknown = Answer("v", 0.0, None, answer.scores, NAMES)
    assert events_of([unknown], NAMES, DetectionSettings()) == []
    assert events_of([Answer("v", 0.0, None, problem="gone")], NAMES, DetectionSettings()) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("threshold", 1.5),
        ("threshold", float("nan")),
        ("hysteresis", 0.0),
        ("smoothing", 2),
        ("min_seconds", -1.0),
        ("min_seconds", float("inf")),
    ],
)
def test_settings_out_of_range_are_refused(key, value):
    with pytest.raises(UserError, match=f"{key}="):
        DetectionSettings(**{key: value})
