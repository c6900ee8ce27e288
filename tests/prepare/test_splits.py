"""Splits: no operation on lists or folders moves a video to another split."""

import dataclasses
import random
from collections import Counter

import pytest

from trn_jax.errors import UserError
from trn_jax.prepare import splits
from trn_jax.prepare.examples import Example, split_called


def make(label, numbers, **fields):
    return [Example(f"{label}/clip {number}.mp4", (label,), **fields) for number in numbers]


def membership(items, *, earlier=None, seed=0, share=0.2):
    """`{path: split}`."""
    division = splits.divide(items, val_share=share, seed=seed, earlier=earlier)
    return {item.path: split for split, found in division.examples.items() for item in found}


def keys(found, items):
    return {item.key: found[item.path] for item in items}


def moved(before, after):
    return {path for path in before.keys() & after.keys() if before[path] != after[path]}


@pytest.mark.parametrize("trial", range(20))
def test_with_earlier_lists_nothing_moves_whatever_is_done(trial):
    rng = random.Random(trial)
    items = [item for label in "abcd" for item in make(label, range(rng.randint(2, 12)))]
    found = membership(items)
    for step in range(12):
        earlier = keys(found, items)
        match rng.choice(["add", "class", "remove", "order", "extract", "seed"]):
            case "add":
                label = rng.choice("abcd")
                items = items + make(label, [f"{step}-{n}" for n in range(rng.randint(1, 9))])
            case "class":
                items = items + make(f"new {step}", range(rng.randint(2, 5)))
            case "remove":
                items = [item for item in items if rng.random() < 0.9] or items
            case "order":
                items = rng.sample(items, len(items))
            case "extract":  # videos become folders of frames of the same names
                items = [dataclasses.replace(i, path=i.path.removesuffix(".mp4")) for i in items]
        # Another seed or share is for new videos only.
        after = membership(items, earlier=earlier, seed=step, share=rng.choice([0.1, 0.2, 0.5]))
        now = keys(after, items)
        assert not moved(earlier, now)
        found = after


@pytest.mark.parametrize("trial", range(10))
def test_without_earlier_lists_adding_to_classes_with_both_splits_moves_nothing(trial):
    rng = random.Random(trial)
    items = [item for label in "abc" for item in make(label, range(40))]
    before = membership(items, seed=trial)
    more = items + [item for label in "abcxyz" for item in make(label, range(100, 130))]
    rng.shuffle(more)
    assert not moved(before, membership(more, seed=trial))
    fewer = [item for item in more if item.labels != ("b",)]
    assert not moved(before, membership(fewer, seed=trial))


def test_the_seed_chooses():
    items = make("a", range(200)) + make("b", range(200))
    first = membership(items, seed=0)
    assert first == membership(items[::-1], seed=0)
    assert moved(first, membership(items, seed=1))


@pytest.mark.smoke
@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_shares_are_about_right_and_every_class_has_both(share):
    for size in (2, 3, 5, 10):
        items = [item for number in range(30) for item in make(f"class {number}", range(size))]
        division = splits.divide(items, val_share=share, seed=size)
        assert division.without("val") == division.without("train") == []
        counts = Counter(item.labels[0] for item in division.examples["val"])
        assert max(counts.values()) <= max(2 * share * size, size // 2, 1)
    items = [item for number in range(10) for item in make(f"class {number}", range(200))]
    found = list(membership(items, share=share).values())
    assert abs(found.count("val") / len(found) - share) < 0.03
    lonely = splits.divide(items + make("lonely", [0]), val_share=share, seed=0)
    assert lonely.without("val") == ["lonely"]


def test_the_form_of_a_path_does_not_matter():
    names = [f"a/Café {number}" for number in range(50)]
    forms = (
        [f"{name}.mp4" for name in names],
        [f"{name}.MOV" for name in names],
        names,  # folders of frames
        [name.replace("é", "e\N{COMBINING ACUTE ACCENT}") for name in names],
    )
    others = make("b", range(10))
    found = [
        [membership([Example(p, ("a",)) for p in form] + others)[p] for p in form] for form in forms
    ]
    assert found[0] == found[1] == found[2] == found[3]
    assert set(found[0]) == {"train", "val"}
    # The class does not matter: merging classes moves no video.
    merged = membership([Example(f"{name}.mp4", ("other",)) for name in names] + others)
    assert [merged[f"{name}.mp4"] for name in names] == found[0]


# Given splits


def test_given_splits_stay_and_test_is_never_validation():
    given = make("a", range(20), split="train") + make("b", range(20), split="train")
    tests = make("a", range(50, 60), split="test") + make("b", range(50, 60), split="test")
    division = splits.divide(given + tests, val_share=0.2, seed=0)
    assert division.validation_from_train
    assert set(division.examples["test"]) == set(tests)
    assert len(division.examples["val"]) + len(division.examples["train"]) == 40
    assert division.without("val") == []
    val = make("a", range(90, 93), split="val")
    division = splits.divide(given + tests + val, val_share=0.2, seed=0)
    assert not division.validation_from_train
    assert {s: set(found) for s, found in division.examples.items()} == {
        "train": set(given),
        "val": set(val),
        "test": set(tests),
    }


def test_videos_not_marked_for_validation_are_for_training():
    items = make("a", range(20)) + make("b", range(20))
    marked = make("a", [50], split="val") + make("b", [50], split="val")
    found = membership(items + marked)
    assert {found[item.path] for item in items} == {"train"}


def test_splits_of_the_source_precede_earlier_lists():
    items = make("a", range(4), split="train") + make("b", range(4), split="val")
    earlier = {item.key: "val" for item in items}
    division = splits.divide(items, val_share=0.2, seed=0, earlier=earlier)
    assert len(division.examples["train"]) == 4
    assert division.moved == [item.path for item in items[:4]] and division.kept == 4


def test_a_split_without_videos_is_an_error():
    for items in (
        make("a", range(3), split="test"),
        make("a", range(3), split="val"),
        make("a", [1]),
    ):
        with pytest.raises(UserError, match=r"videos for (train|val)"):
            membership(items)


# Groups


def test_groups_stay_together_in_all_classes():
    people = [f"person {number}" for number in range(30)]
    items = [
        Example(f"{label}/{person}/{take}.mp4", (label,), group=person)
        for label in ("wave", "clap")
        for person in people
        for take in range(3)
    ]
    found = membership(items)
    assert set(found.values()) == {"train", "val"}
    for person in people:
        assert len({found[item.path] for item in items if item.group == person}) == 1
    # Later clips of the same people join their split.
    more = [
        dataclasses.replace(i, path=i.path.replace("/0", "/9")) for i in items if "/0" in i.path
    ]
    after = membership(items + more)
    assert not moved(found, after)
    for item in more:
        assert after[item.path] == found[item.path.replace("/9", "/0")]


def test_small_classes_of_groups_have_both_splits():
    items = [
        Example(f"{label}/{person}.mp4", (label,), group=person)
        for label in "abcd"
        for person in ("anna", "ben", "carla")
    ]
    for seed in range(20):
        division = splits.divide(items, val_share=0.2, seed=seed)
        assert division.without("val") == division.without("train") == []


def test_earlier_lists_that_tear_a_group_apart_are_an_error():
    items = [Example(f"a/{n}.mp4", ("a",), group="anna") for n in range(4)] + make("b", range(9))
    earlier = {"a/0": "train", "a/1": "val"}
    with pytest.raises(UserError, match=r"train_list.txt.*--group-by.*\n.*anna: train, val"):
        membership(items, earlier=earlier)


def test_groups_that_the_source_tears_apart_are_named():
    items = [
        Example("a/1.mp4", ("a",), split="train", group="anna"),
        Example("a/2.mp4", ("a",), split="test", group="anna"),
        *make("a", range(9), split="val"),
    ]
    assert splits.divide(items, val_share=0.2, seed=0).torn == ["anna"]


# Earlier lists


def test_earlier_lists_are_read_in_any_form(tmp_path):
    (tmp_path / "train_list.txt").write_text("a/clip 1.mp4 0\na/2 3.mp4 0 7 9\n\n")
    (tmp_path / "val_list.txt").write_text("a/my clip 12 30 0\r\n", newline="")
    (tmp_path / "test_list.txt").write_text("gone.mp4 1\n")
    keys = ["a/clip 1", "a/2 3", "a/my clip 12", "a/my clip", "a/clip", "new"]
    assert splits.read_earlier(tmp_path, keys) == {
        "a/clip 1": "train",
        "a/2 3": "train",
        "a/my clip 12": "val",
    }
    assert splits.read_earlier(tmp_path / "none", keys) == {}


@pytest.mark.parametrize(
    ("name", "split"),
    [("Train", "train"), ("TRAINING", "train"), ("train_videos", "train"), ("trainset", "train")]
    + [("val", "val"), ("Validation", "val"), ("valid", "val"), ("dev", "val"), ("val_256", "val")]
    + [("test", "test"), ("Test Set", "test"), ("testing-data", "test")]
    + [("trains", None), ("contest", None), ("data", None), ("1", None), ("", None)],
)
def test_names_of_splits(name, split):
    assert split_called(name) == split
