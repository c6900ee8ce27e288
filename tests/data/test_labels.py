"""Labels of mirrored clips.

Numbers are those of the official label files; the maps are the published `flip_label_map`s, and for
Jester also the turns, which the published map forgets.
"""

import pathlib

import pytest

from trn_jax.data import labels
from trn_jax.errors import UserError

LABEL_MAPS = pathlib.Path(__file__).parents[3] / "shared/data/label_maps"
needs_label_maps = pytest.mark.skipif(not LABEL_MAPS.is_dir(), reason=f"{LABEL_MAPS} is not here")

STHV1 = {
    2: "Turning the camera left while filming something",
    4: "Turning the camera right while filming something",
    30: "Pushing something from left to right",
    41: "Pushing something from right to left",
    52: "Pulling something from right to left",
    66: "Pulling something from left to right",
    84: "Laying something on the table on its side, not upright",
    87: "Putting something upright on the table",
    104: "Plugging something into something but pulling it right out as you remove your hand",
    112: (
        "Putting something that cannot actually stand upright upright on the table, "
        "so it falls on its side"
    ),
}
STHV2 = {
    21: STHV1[84],
    50: STHV1[104],
    86: "Pulling something from left to right",
    87: "Pulling something from right to left",
    93: "Pushing something from left to right",
    94: "Pushing something from right to left",
    117: STHV1[112],
    119: STHV1[87],
    166: "Turning the camera left while filming something",
    167: "Turning the camera right while filming something",
}
JESTER = (
    *("Swiping Left", "Swiping Right", "Swiping Down", "Swiping Up"),
    *("Pushing Hand Away", "Pulling Hand In", "Sliding Two Fingers Left"),
    *("Sliding Two Fingers Right", "Sliding Two Fingers Down", "Sliding Two Fingers Up"),
    *("Pushing Two Fingers Away", "Pulling Two Fingers In", "Rolling Hand Forward"),
    *("Rolling Hand Backward", "Turning Hand Clockwise", "Turning Hand Counterclockwise"),
    *("Zooming In With Full Hand", "Zooming Out With Full Hand", "Zooming In With Two Fingers"),
    *("Zooming Out With Two Fingers", "Thumb Up", "Thumb Down", "Shaking Hand", "Stop Sign"),
    *("Drumming Fingers", "No gesture", "Doing other things"),
)


@pytest.mark.parametrize(
    ("names", "num_classes", "pairs"),
    [
        (STHV1, 174, [(2, 4), (30, 41), (52, 66)]),
        (STHV2, 174, [(86, 87), (93, 94), (166, 167)]),
        (dict(enumerate(JESTER)), 27, [(0, 1), (6, 7), (14, 15)]),
        (dict(enumerate(sorted(JESTER))), 27, [(11, 12), (16, 17), (21, 22)]),
    ],
    ids=["sthv1", "sthv2", "jester", "jester_sorted"],
)
@pytest.mark.parametrize("case", [str, str.upper, str.lower])
def test_mirror_classes_are_the_published_ones(names, num_classes, pairs, case):
    class_names = [case(names.get(label, f"Class {label}")) for label in range(num_classes)]
    expected = dict(pairs) | {b: a for a, b in pairs}
    assert labels.mirrored_labels(class_names) == expected


@needs_label_maps
@pytest.mark.parametrize(
    ("file", "order", "pairs"),
    [
        ("mmaction2_sthv1_label_map.txt", list, [(2, 4), (30, 41), (52, 66)]),
        ("mmaction2_sthv1_label_map.txt", sorted, [(86, 87), (93, 94), (166, 167)]),
        ("mmaction2_sthv2_label_map.txt", list, [(86, 87), (93, 94), (166, 167)]),
        ("jester_label_map_official_order.txt", list, [(0, 1), (6, 7), (14, 15)]),
        ("jester_label_map_official_order.txt", sorted, [(11, 12), (16, 17), (21, 22)]),
        ("label_map_k400.txt", list, []),
    ],
)
def test_mirror_classes_of_whole_label_maps_are_the_published_ones(file, order, pairs):
    class_names = order((LABEL_MAPS / file).read_text().splitlines())
    expected = dict(pairs) | {b: a for a, b in pairs}
    assert labels.mirrored_labels(class_names) == expected


@pytest.mark.parametrize("word", ["counterclockwise", "Counter-Clockwise", "counter clockwise"])
def test_turns_are_mirror_images_however_they_are_spelled(word):
    names = ["Turning Clockwise", f"Turning {word}", "Turning anticlockwise quickly"]
    assert labels.mirrored_labels(names) == {0: 1, 1: 0}


def test_given_pairs_exchange_their_labels():
    pairs = [("to port", "to starboard"), ["in", "out"]]  # lists, as from JSON
    names = ["in", "to port", "up", "to starboard", "out"]
    assert labels.paired_labels(pairs, names) == {1: 3, 3: 1, 0: 4, 4: 0}
    assert labels.paired_labels((), names) == {}


def test_all_problems_of_given_pairs_are_named_at_once():
    pairs = [("Swiping Lefft", "Swiping Right"), "Stop Sign", ("Thumb Up", "Thumb Up"), ("x",)]
    pairs += [("Stop Sign", "No gesture"), ("Stop Sign", "Thumb Down")]
    with pytest.raises(UserError) as caught:
        labels.paired_labels(pairs, JESTER)
    first, *problems = str(caught.value).splitlines()
    assert "flip_pairs" in first
    assert problems == [
        "  'Swiping Lefft' is not one of the 27 classes; did you mean 'Swiping Left'?",
        "  'Stop Sign' is not a pair of two class names",
        "  'Thumb Up' occurs twice",
        "  ('x',) is not a pair of two class names",
        "  'Stop Sign' occurs twice",
    ]


def test_a_direction_without_a_partner_has_no_mirror_class():
    assert labels.mirrored_labels(["Swiping Left", "Swiping Up", "Upright", "Upleft"]) == {}
