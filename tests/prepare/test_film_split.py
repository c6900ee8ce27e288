"""The parts of a single film are divided by time."""

import dataclasses

import pytest

from trn_jax.prepare import splits
from trn_jax.prepare.examples import Example, Part
from trn_jax.prepare.film_split import divide_film


def film(text, *, length=2.0, step=6.0, in_frames=False):
    """One part per letter, its class, every `step` seconds."""
    times = [(number * step, number * step + length) for number in range(len(text))]
    return [
        Example("film.mp4", (label,), part=Part(*time, in_frames=in_frames))
        for label, time in zip(text, times, strict=True)
    ]


def labels(found):
    return "".join(example.labels[0] for example in found)


@pytest.mark.parametrize("in_frames", [False, True])
def test_the_end_of_the_film_is_for_validation(in_frames):
    parts = film("abababababab", in_frames=in_frames)
    found = divide_film(parts[::-1], val_share=0.2)
    assert sorted(found.train, key=lambda e: e.part) == parts[:10]
    assert sorted(found.val, key=lambda e: e.part) == parts[10:]
    assert found.between == [] and found.start == 60.0


def test_a_part_of_usual_length_lies_between():
    # 0.1 seconds are no floating-point number of steps.
    found = divide_film(film("abababababab", length=0.1, step=0.1), val_share=0.2)
    ends = max(e.part.end for e in found.train)
    assert found.start - ends == pytest.approx(0.1) and len(found.between) == 1


@pytest.mark.parametrize(
    ("text", "val"),
    [("aaaaaaaabb", "b"), ("aaaaaaabba", "ba"), ("abababaaaa", "baaaa"), ("baaaaaaaaa", "aa")],
)
def test_every_class_is_in_training_and_if_possible_in_validation(text, val):
    found = divide_film(film(text), val_share=0.2)
    assert set(labels(found.train)) == {"a", "b"}
    assert labels(found.val) == val
    assert len(found.val) <= len(found.train)


def test_thousands_of_parts_are_divided():
    # "z" is only in the second half and "g" only in the first, where validation may not begin.
    parts = film("abcdefg" * 1000 + "abcdefz" * 1000, length=2.0, step=2.0)
    found = divide_film(parts, val_share=0.25)
    assert (len(found.train), len(found.between), len(found.val)) == (10_499, 1, 3_500)
    assert found.start == 2.0 * 10_500 and found.val == parts[10_500:]


def test_parts_that_leave_no_room_are_not_divided():
    assert divide_film(film("ab", step=2.0), val_share=0.2) is None
    assert divide_film(film("abab", length=20.0, step=1.0), val_share=0.2) is None
    mixed = [*film("ab"), dataclasses.replace(film("ab")[1], part=Part(90, 99, in_frames=True))]
    assert divide_film(mixed, val_share=0.2) is None


def test_only_a_single_film_without_splits_is_divided(tmp_path):
    parts = film("abababab")
    divided = splits.divide(parts, val_share=0.2, seed=0)
    assert divided.film.between == [] and divided.examples["train"] == parts[:6]
    second = [dataclasses.replace(part, path="other.mp4") for part in parts]
    given = [dataclasses.replace(part, split="train") for part in parts]
    whole = [*parts, Example("film2.mp4", ("a",))]
    for others in (parts + second, given + [Example("v.mp4", ("a",), split="val")], whole):
        assert splits.divide(others, val_share=0.2, seed=0).film is None
    # Its lists keep a film in no split when a second one comes.
    for name, found in divided.examples.items():
        lines = [f"{e.path} {e.part.start:.3f} {e.part.end:.3f} 0\n" for e in found]
        (tmp_path / f"{name}_list.txt").write_text("".join(lines))
    assert splits.read_earlier(tmp_path, ["film", "other"]) == {}
