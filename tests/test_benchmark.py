"""The benchmark script runs and prints its rows; how fast anything is does not matter here."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import simplejpeg

pytestmark = pytest.mark.long

REPOSITORY = pathlib.Path(__file__).parent.parent
SCRIPT = REPOSITORY / "scripts" / "benchmark.py"

RECIPE = """
from trn_jax.config import base, view


def get_config():
    config = base(dataset="frames", model="trn_resnet10", num_classes=2)
    config.model.update(width=4, num_segments=2)
    config.data.train.update(num_segments=2, short_side=32, crop_size=32)
    config.data.num_threads = 2
    config.train.batch = 4
    return config
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A recipe and eight clips of two frames."""
    root = tmp_path_factory.mktemp("benchmark")
    rng = np.random.default_rng(0)
    lines = []
    for index in range(8):
        folder = root / "data" / "rawframes" / f"clip{index}"
        folder.mkdir(parents=True)
        for number in (1, 2):
            pixels = rng.integers(0, 256, (36, 40, 3), np.uint8)
            (folder / f"{number:05d}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels))
        lines.append(f"{folder.name} 2 {index % 2}\n")
    for split in ("train", "val"):
        (root / "data" / f"{split}_list.txt").write_text("".join(lines))
    (root / "data" / "label_map.txt").write_text("Up\nDown\n")
    (root / "recipe.py").write_text(RECIPE)
    return root


def run(tree, *flags, **changes):
    return subprocess.run(
        [sys.executable, str(SCRIPT), f"--config={tree}/recipe.py"]
        + [f"--config.data_dir={tree}/data", f"--workdir={tree}/run", "--rounds=2", "--steps=1"]
        + list(flags),
        env=os.environ | {"XLA_FLAGS": ""} | changes,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )


def rows(done):
    """The name of every row with numbers, and its numbers."""
    assert done.returncode == 0, done.stderr
    found = {}
    for line in done.stdout.splitlines():
        if ".." in line[34:] and "rounds" not in line:
            numbers = line[34:].replace("(", " ").replace(")", " ").replace("..", " ").split()
            found[line[:34].strip()] = [float(number) for number in numbers]
    return found


def test_both_prints_the_parts_the_whole_and_their_ratios(tree):
    found = rows(run(tree, "--what=both"))
    assert list(found) == ["data", "step", "both", "both / step", "both / data"]
    for median, low, high, *cost in found.values():
        assert 0 < low <= median <= high
        assert len(cost) == 3


def test_one_part_alone(tree):
    assert list(rows(run(tree, "--what=data"))) == ["data"]


BAD_FLAGS = {
    "worker processes": (["--config.data.num_workers=2"], "data.num_workers=2"),
    "unknown key": (["--config.train.bach=2"], "bach"),
    "too many threads": (["--threads=100000"], "--threads=100000"),
    "missing data": (["--config.data_dir=/nonexistent"], "/nonexistent"),
    "no rounds": (["--rounds=0"], "rounds"),
    "unknown part": (["--what=all"], "both"),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_bad_flags_are_explained(tree, case):
    flags, mentioned = BAD_FLAGS[case]
    done = run(tree, *flags)
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr
    assert mentioned in done.stdout + done.stderr


def test_missing_pytorch_is_explained(tree, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('not here')\n")
    done = run(tree, "--what=torch", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "needs PyTorch" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def benchmark(monkeypatch):
    spec = importlib.util.spec_from_file_location("benchmark_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_both_sides_compute_the_same(benchmark):
    pytest.importorskip("torch")
    sides = benchmark.torch_sides(clips=2, frames=2, pixels=64, threads=2)
    score, torch_score, step, torch_step = (side.run for side in sides)
    np.testing.assert_allclose(score(1), torch_score(1), rtol=1e-4)
    losses = np.array([(step(1), torch_step(1)) for _ in range(2)])
    np.testing.assert_allclose(losses[0, 0], losses[0, 1], rtol=1e-4)
    ours, theirs = losses[0] - losses[1]  # what a step has gained: the gradients agree
    assert theirs > 0.01
    assert ours == pytest.approx(theirs, rel=0.05)
