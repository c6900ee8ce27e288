"""The Something-Something recipe, end to end on a miniature tree in the data set's own layout."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import simplejpeg

pytestmark = pytest.mark.long

REPOSITORY = pathlib.Path(__file__).parent.parent
REAL_CLIPS = REPOSITORY.parent / "shared" / "data" / "rawframes_demo" / "demo_dataset"


def write_lists(root, num_frames):
    """Lists of the videos `1`, `2`, ... in `root`, and 174 class names."""
    lines = [f"{i} {count} {40 * i}\n" for i, count in enumerate(num_frames, start=1)]
    for split in ("train", "val"):
        (root / f"sthv1_{split}_list_rawframes.txt").write_text("".join(lines))
    names = [f"Doing {label} to something" for label in range(174)]
    names[40:42] = ["Pulling something from left to right", "Pulling something from right to left"]
    (root / "label_map.txt").write_text("\n".join(names) + "\n")


@pytest.fixture
def noise_tree(tmp_path):
    """Four videos of noise, as small as those of Something-Something V1."""
    rng = np.random.default_rng(0)
    num_frames = (30, 12, 5, 17)
    for i, count in enumerate(num_frames, start=1):
        folder = tmp_path / "rawframes" / str(i)
        folder.mkdir(parents=True)
        for number in range(1, count + 1):
            frame = rng.integers(0, 256, (100, 132, 3), np.uint8)
            (folder / f"{number:05d}.jpg").write_bytes(simplejpeg.encode_jpeg(frame))
    write_lists(tmp_path, num_frames)
    return tmp_path


@pytest.fixture
def real_tree(tmp_path):
    """Four videos of people who run and jump."""
    if not REAL_CLIPS.is_dir():
        pytest.skip("no real clips here")
    num_frames = []
    for i, source in enumerate(sorted(REAL_CLIPS.glob("*/*/")), start=1):
        frames = sorted(source.glob("*.jpg"))
        folder = tmp_path / "rawframes" / str(i)
        folder.mkdir(parents=True)
        for number, frame in enumerate(frames, start=1):
            shutil.copy(frame, folder / f"{number:05d}.jpg")
        num_frames.append(len(frames))
    write_lists(tmp_path, num_frames)
    return tmp_path


def train_and_evaluate(tree, *flags):
    """Three steps of two clips, and both protocols."""
    done = subprocess.run(
        [sys.executable, "-m", "trn_jax.main", "--config=configs/trn_sthv1.py"]
        + [f"--config.data_dir={tree}", f"--workdir={tree}/run", "--config.train.steps=3"]
        + ["--config.train.batch=2", "--config.model.norm_group=2"]
        + ["--config.eval.max_views_per_step=2", "--config.train.eval_every=0", *flags],
        cwd=REPOSITORY,
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    assert "Pulling something from left to right <->" in done.stderr
    entries = [json.loads(line) for line in (tree / "run/metrics.jsonl").read_text().splitlines()]
    assert entries[-2]["step"] == 3
    assert np.isfinite(entries[-2]["loss"])
    results = tree / "run" / "results"
    efficient = json.loads((results / "efficient.json").read_text())
    accurate = json.loads((results / "accurate.json").read_text())
    assert (efficient["num_views"], accurate["num_views"]) == (1, 6)
    assert efficient["num_videos"] == accurate["num_videos"] == 4
    assert accurate["view"]["crop_size"] == 256


def test_the_recipe_with_a_small_network(noise_tree):
    train_and_evaluate(noise_tree, "--config.model.name=trn_resnet10", "--config.model.width=4")


@pytest.mark.slow
def test_the_recipe_on_real_clips(real_tree):
    train_and_evaluate(real_tree)
