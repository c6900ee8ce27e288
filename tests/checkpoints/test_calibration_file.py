"""The calibration of a checkpoint, which anybody may have written."""

import copy as copying
import dataclasses
import json
import os

import numpy as np
import pytest
from mutations import mutated

from trn_jax.checkpoints import calibration_file, checksums
from trn_jax.checkpoints.calibration_file import Calibration
from trn_jax.errors import UserError

NAMES = ("falling", "nothing", "rising")
VALUES = dict(
    temperature=1.5,
    threshold=0.4,
    thresholds=dict(zip(NAMES, (0.5, 0.25, 0.3), strict=True)),
    multi_label=False,
    protocol="efficient",
    split="val",
    num_videos=12,
    list_sha256="0" * 64,
    before={"ece": 0.2, "nll": 1.25},
    after={"ece": 0.1, "nll": 1.0},
)


def with_checksum(content):
    content = {key: value for key, value in content.items() if key != "crc32"}
    return json.dumps(content | {"crc32": checksums.crc32_of(content)})


def test_what_is_written_is_read(tmp_path):
    assert calibration_file.read(tmp_path, NAMES) is None
    found = Calibration(**VALUES)
    calibration_file.write(tmp_path, found)
    assert calibration_file.read(tmp_path, NAMES) == found
    assert os.listdir(tmp_path) == [calibration_file.NAME]
    # By name, whatever the order.
    assert found.thresholds_of(NAMES[::-1]) == (0.3, 0.25, 0.5)
    for part in ("1.5", "3 classes", "12 videos", "efficient"):
        assert part in str(found)


def test_it_belongs_to_one_checkpoint(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name)
        checksums.write(tmp_path / name)
    calibration_file.write(tmp_path / "a", Calibration(**VALUES))
    assert calibration_file.read(tmp_path / "a", NAMES)
    # It is no part of what the checkpoint is checked for.
    assert checksums.problems(tmp_path / "a", ["weights"]) == []
    (tmp_path / "a" / calibration_file.NAME).rename(tmp_path / "b" / calibration_file.NAME)
    with pytest.raises(UserError, match="another checkpoint"):
        calibration_file.read(tmp_path / "b", NAMES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.049),
        ("temperature", 21),
        ("temperature", float("nan")),
        ("temperature", "1"),
        ("temperature", True),
        ("threshold", -0.1),
        ("threshold", 10**400),
        ("thresholds", {}),
        ("thresholds", [0.1]),
        ("thresholds", {"falling": 0.5, "nothing": 2, "rising": 0}),
        ("multi_label", 1),
        ("protocol", None),
        ("num_videos", 0),
        ("num_videos", 1.5),
        ("before", {"ece": 0.1}),
        ("after", {"ece": 0.1, "nll": float("inf")}),
    ],
)
def test_values_out_of_range_are_refused(tmp_path, name, value):
    with pytest.raises(UserError, match=f"{name}="):
        Calibration(**VALUES | {name: value})
    content = {"calibration": VALUES | {name: value}, "checkpoint": None}
    (tmp_path / calibration_file.NAME).write_text(with_checksum(content))
    with pytest.raises(UserError, match=rf"calibration\.json.* {name}="):
        calibration_file.read(tmp_path, NAMES)


@pytest.mark.parametrize(
    ("names", "match"),
    [(("falling", "nothing"), "'rising'"), ((*NAMES, "x"), "'x'"), (("a", "b", "c"), "'a'")],
)
def test_other_classes_are_refused(names, match):
    with pytest.raises(UserError, match=match):
        calibration_file.from_dict(VALUES, names)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "calibration"),
        ("[" * 100_000, "calibration"),
        ("[]", "object"),
        ("{}", "crc32"),
        ('{"crc32": 1}', "checksum"),
        (with_checksum({}), "checkpoint"),
        (with_checksum({"checkpoint": None}), "calibration"),
        (with_checksum({"checkpoint": None, "calibration": [1]}), "object"),
        (with_checksum({"checkpoint": None, "calibration": {"threshold": 1}}), "temperature"),
        (" " * (5 << 20), "bytes"),
    ],
)
def test_malformed_files_are_refused(tmp_path, text, match):
    (tmp_path / calibration_file.NAME).write_text(text)
    with pytest.raises(UserError, match=match):
        calibration_file.read(tmp_path, NAMES)


def test_a_folder_in_its_place_is_refused(tmp_path):
    (tmp_path / calibration_file.NAME).mkdir()
    with pytest.raises(UserError, match=calibration_file.NAME):
        calibration_file.read(tmp_path, NAMES)
    with pytest.raises(UserError, match="cannot write"):
        calibration_file.write(tmp_path, Calibration(**VALUES))
    assert os.listdir(tmp_path) == [calibration_file.NAME]


STRANGE = (None, True, -1, 1e400, float("nan"), 10**30, "x", [], {}, {"ece": {}}, [[0.5]])


def test_mutated_files_are_read_unchanged_or_refused(tmp_path):
    path = tmp_path / calibration_file.NAME
    calibration_file.write(tmp_path, Calibration(**VALUES))
    content = path.read_bytes()
    refused = 0
    for seed in range(300):
        path.write_bytes(mutated(path.name, content, seed))
        try:
            assert calibration_file.read(tmp_path, NAMES) == Calibration(**VALUES)
        except UserError:
            refused += 1
    assert refused > 200


def test_strange_values_with_a_right_checksum_are_read_or_refused(tmp_path):
    path = tmp_path / calibration_file.NAME
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        values = copying.deepcopy(VALUES)
        place = values
        key = rng.choice(list(place))
        if isinstance(place[key], dict) and rng.random() < 0.5:
            place = place[key]
            key = rng.choice(list(place))
        place[key] = STRANGE[rng.integers(len(STRANGE))]
        path.write_text(with_checksum({"calibration": values, "checkpoint": None}))
        try:
            found = calibration_file.read(tmp_path, NAMES)
            assert dataclasses.asdict(found) == values
        except UserError:
            refused += 1
    assert 200 < refused < 300
