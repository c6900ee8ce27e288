"""A recipe of every method, end to end on miniature trees in the layouts of the data sets."""

import json
import os
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
import simplejpeg

from trn_jax.data.datasets import DATASETS

pytestmark = pytest.mark.thorough

REPOSITORY = pathlib.Path(__file__).parents[2]
REAL_CLIPS = REPOSITORY.parent / "shared" / "data" / "rawframes_demo" / "demo_dataset"

# Recipe: data set, number of classes, a small network of the kind, views of the protocols.
CASES = {
    "trn_sthv1": ("sthv1", 174, "trn_resnet10", {"efficient": 1, "accurate": 6}),
    "tsn_k400_3seg": ("k400", 400, "tsn_resnet10", {"efficient": 1, "25x10": 10}),
    "tsm_jester": ("jester", 27, "tsm_resnet10", {"efficient": 1, "accurate": 6}),
    "tin_sthv1": ("sthv1", 174, "tin_resnet10", {"efficient": 1}),
    "tpn_slowonly_k400": ("k400", 400, "tpn_slowonly_resnet14", {"efficient": 1, "10x3": 30}),
    "trn_bninception_jester": ("jester", 27, None, {"efficient": 1, "1x10": 10}),
}
FAMILIES = ("trn_sthv1", "tsn_k400_3seg", "tsm_jester", "tin_sthv1", "tpn_slowonly_k400")
# Gestures of Jester and doings of Something-Something that are mirror images of each other.
MIRRORED = {
    1: "Swiping Left",
    2: "Swiping Right",
    3: "Sliding Two Fingers Left",
    4: "Sliding Two Fingers Right",
    5: "Pulling something from left to right",
    6: "Pulling something from right to left",
}


def write_tree(root, dataset, num_classes, videos):
    """Write `videos`, lists of frames `[h, w, 3]`, in the layout of a data set, for both splits."""
    files = DATASETS[dataset]
    lines = []
    for number, frames in enumerate(videos, start=1):
        for folder in {files.frames, files.val_frames or files.frames}:
            path = root / folder / str(number)
            path.mkdir(parents=True)
            for index, frame in enumerate(frames, start=files.first_frame):
                data = simplejpeg.encode_jpeg(np.ascontiguousarray(frame))
                (path / files.frame_pattern.format(index)).write_bytes(data)
        lines.append(f"{number} {len(frames)} {number}\n")
    for name in (files.train_list, files.val_list):
        (root / name).write_text("".join(lines))
    names = [MIRRORED.get(label, f"Doing {label} to something") for label in range(num_classes)]
    (root / files.class_names).write_text("".join(f"{name}\n" for name in names))


def noise_videos():
    """As small as those of Something-Something V1, some shorter than a clip."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (count, 100, 132, 3), np.uint8) for count in (30, 12, 5, 70)]


def real_videos():
    """People who run and jump."""
    if not REAL_CLIPS.is_dir():
        pytest.skip("no real clips here")
    return [
        [cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) for path in sorted(folder.glob("*.jpg"))]
        for folder in sorted(REAL_CLIPS.glob("*/*/"))
    ]


def train_and_evaluate(recipe, tree, *flags, xla_flags=""):
    """Three steps of two clips, and all protocols."""
    done = subprocess.run(
        [sys.executable, "-m", "trn_jax.main", f"--config=configs/{recipe}.py"]
        + [f"--config.data_dir={tree}", f"--workdir={tree}/run", "--config.train.steps=3"]
        + ["--config.train.batch=2", "--config.model.norm_group=2"]
        + ["--config.eval.max_views_per_step=4", "--config.train.eval_every=0", *flags],
        cwd=REPOSITORY,
        env=os.environ | {"XLA_FLAGS": xla_flags},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    lines = (tree / "run" / "metrics.jsonl").read_text().splitlines()
    trained, validated = (
        [entry for entry in map(json.loads, lines) if entry["group"] == group]
        for group in ("train", "val")
    )
    assert trained[-1]["step"] == validated[-1]["step"] == 3
    assert np.isfinite(trained[-1]["loss"]) and trained[-1]["grad_norm"] > 0
    dataset, num_classes, _, protocols = CASES[recipe]
    results = tree / "run" / "results"
    for protocol, num_views in protocols.items():
        found = json.loads((results / f"{protocol}.json").read_text())
        assert (found["num_videos"], found["num_views"]) == (4, num_views)
        assert found["config"]["data"]["dataset"] == dataset
        with np.load(results / f"{protocol}.npz") as scores:
            assert scores["scores"].shape == (4, num_classes)
            np.testing.assert_allclose(scores["scores"].sum(1), 1, rtol=1e-4)
    assert {path.stem for path in results.glob("*.json")} == set(protocols)
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("recipe", FAMILIES)
def test_the_recipe_with_a_small_network(tmp_path, recipe):
    dataset, num_classes, model, _ = CASES[recipe]
    write_tree(tmp_path, dataset, num_classes, noise_videos())
    width = 16 if recipe.startswith("tin") else 4  # TIN moves a quarter of a quarter of them
    small = [f"--config.model.name={model}", f"--config.model.width={width}"]
    fast = "--xla_backend_optimization_level=0"
    said = train_and_evaluate(recipe, tmp_path, *small, xla_flags=fast)
    if recipe in ("trn_sthv1", "tin_sthv1", "tsm_jester"):
        mirrors = "Swiping Left <->" if "jester" in recipe else "from left to right <->"
        assert (mirrors in said) == (recipe != "tin_sthv1")  # it never mirrors


@pytest.mark.slow
@pytest.mark.parametrize("recipe", CASES)
def test_the_recipe_on_real_clips(tmp_path, recipe):
    dataset, num_classes, _, _ = CASES[recipe]
    write_tree(tmp_path, dataset, num_classes, real_videos())
    train_and_evaluate(recipe, tmp_path)
