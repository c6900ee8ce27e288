"""The benchmark script runs and prints its rows; how fast anything is does not matter here."""

import fnmatch
import importlib
import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import simplejpeg

from trn_jax import list_models

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
    config.protocols.efficient = view(num_segments=2, short_side=32, crop_size=32)
    config.protocols["1x10"] = view(num_segments=2, short_side=40, crop_size=32, crop="ten")
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
            shown = line[34:].partition("<=")[0]
            numbers = shown.replace("(", " ").replace(")", " ").replace("..", " ").split()
            found[line[:34].strip()] = [float(number) for number in numbers]
    return found


def test_eval_compares_all_protocols_with_the_largest(tree):
    done = run(tree, "--what=eval")
    found = rows(done)
    assert list(found) == ["one pass", "1x10", "one pass / 1x10"]
    assert "videos/s" in done.stdout and "CPU seconds per video" in done.stdout
    assert all(number > 0 for numbers in found.values() for number in numbers)


def test_views_are_compared_with_cutting_them_by_hand(tree):
    done = run(tree, "--what=views")
    assert list(rows(done)) == ["1x10", "1x10, OpenCV and NumPy", "1x10 / 1x10, OpenCV and NumPy"]
    assert done.stdout.rstrip().endswith("<= 0.333")


def test_the_pipeline_is_taken_apart_and_compared(tree):
    done = run(tree, "--what=data", "--threads=1", f"--other_data_dir={tree}/data")
    found = rows(done)
    stages = ["frames, read", "frames, decode", "frames, crop", "frames"]
    peers = ["PyTorch", "PyTorch, 1 workers"] if importlib.util.find_spec("torch") else []
    assert ("PyTorch is not installed" in done.stdout) == (not peers)
    own = [
        *stages,
        "frames, to the devices",
        "frames, 1 workers",
        "decode and resize alone",
        *peers,
    ]
    own += [f"2: {stage}" for stage in stages]
    assert list(found)[: len(own)] == own
    pairs = ["frames, 1 workers / frames", "frames / decode and resize alone"]
    pairs += [f"frames / {peer}" for peer in peers]
    assert list(found)[len(own) :] == [*pairs, "2: frames / frames"]
    assert all(number >= 0 for numbers in found.values() for number in numbers)
    read, decode, crop = (found[way][3] for way in stages[:3])
    assert 0 < read < decode < crop


def test_both_prints_the_parts_the_whole_and_their_ratios(tree):
    found = rows(run(tree, "--what=both"))
    assert list(found) == ["data", "step", "both", "both / step", "both / data"]
    for median, low, high, *cost in found.values():
        assert 0 < low <= median <= high
        assert len(cost) == 3


def test_one_part_alone(tree):
    assert list(rows(run(tree, "--what=step"))) == ["step"]


BAD_FLAGS = {
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


@pytest.mark.parametrize("what", ["models", "torch"])
def test_missing_pytorch_is_explained(tree, tmp_path, what):
    (tmp_path / "torch.py").write_text("raise ImportError('not here')\n")
    done = run(tree, f"--what={what}", PYTHONPATH=f"{tmp_path}:{REPOSITORY}")
    assert done.returncode == 2
    assert "needs PyTorch" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def models(monkeypatch):
    """The part of the script that compares models."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module("benchmarks.models")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tsn_resnet50", "tpn_slowonly_resnet14"])
def test_both_sides_compute_the_same(models, name):
    pytest.importorskip("torch")
    sides = models.twin_sides(name, models.Shape(2, 2, 64), dropout_rate=0.0)
    score, torch_score, step, torch_step = (side.run for side in sides)
    np.testing.assert_allclose(score(1), torch_score(1), rtol=1e-4)
    losses = np.array([(step(1), torch_step(1)) for _ in range(2)])
    np.testing.assert_allclose(losses[0, 0], losses[0, 1], rtol=1e-4)
    ours, theirs = losses[0] - losses[1]  # what a step has gained: the gradients agree
    assert theirs > 0.01
    assert ours == pytest.approx(theirs, rel=0.05)


def test_models_are_measured_one_by_one(models, capsys, monkeypatch):
    def side(name, shape):
        return models.Side(name, shape.clips, lambda steps: sum(range(100_000 * steps)))

    def twin_sides(_, shape):
        return [side(name, shape) for pair in models.TWIN_RATIOS for name in pair]

    monkeypatch.setattr(models, "twin_sides", twin_sides)
    monkeypatch.setattr(models, "step_side", side)
    shape = models.Shape(clips=1, frames=2, pixels=32)
    names = ["tsm_resnet50", "tsn_resnet50", "tsn_swin_base"]
    summary = models.compare_models(names, shape, rounds=2, steps=1).splitlines()
    said = capsys.readouterr().out
    for name in names[:2]:
        own = said.partition(f"\n{name}\n")[2].splitlines()[:7]
        assert [line[:20].strip() for line in own[1:]] == [
            "evaluation",
            "evaluation, PyTorch",
            "step",
            "step, PyTorch",
            "evaluation / evaluat",
            "step / step, PyTorch",
        ]
        assert own[5].endswith("<= 0.8") and own[6].endswith("<= 1")
    assert [line.split()[0] for line in summary[1:4]] == names
    assert summary[3].split()[-1] == "1.5" and summary[3].count("<=") == 2
    assert summary[-1].startswith("tsm_resnet50 / tsn_resnet50")
    assert summary[-1].endswith("<= 1.15")


def test_unknown_models_are_explained(tree):
    pytest.importorskip("torch")
    done = run(tree, "--what=models", "--models=vgg*")
    assert done.returncode == 2
    assert "no model is called 'vgg*'" in done.stderr


def test_every_model_has_goals(models):
    goals = {
        name: next(g for pattern, *g in models.GOALS if fnmatch.fnmatchcase(name, pattern))
        for name in list_models()
    }
    assert goals["tsm_resnet101"] == goals["tin_resnet50"] == [0.8, 1.0]
    assert goals["tsn_resnext101_32x4d"] == [1.2, 12.0]
    assert goals["tsn_mobileone_s4"] == [2.0, 1.5]
    assert goals["tpn_tsm_resnet50"] == goals["tsn_swin_base"] == [1.2, 1.5]
