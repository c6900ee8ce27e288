"""The benchmark script runs and prints its rows, however fast anything is."""

import fnmatch
import importlib
import importlib.util
import json
import os
import pathlib
import pickle
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simplejpeg

from trn_jax import list_models
from trn_jax.config import base
from trn_jax.distributed.sharding import make_mesh
from trn_jax.errors import UserError
from trn_jax.settings import resolved_views
from trn_jax.training import train_step

pytestmark = pytest.mark.thorough

REPOSITORY = pathlib.Path(__file__).parent.parent.parent
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
        timeout=900,  # PyTorch compiles for minutes where others compute
    )


def rows(done):
    """The name of every row with numbers, and its numbers."""
    assert done.returncode == 0, done.stderr
    found = {}
    for line in done.stdout.splitlines():
        if ".." in line[34:] and "rounds" not in line:
            shown = line[34:].partition("<=")[0]
            numbers = shown.replace("(", " ").replace(")", " ").replace("..", " ").split()
            found[line[:34].strip()] = [float(number) for number in numbers if number != "-"]
    return found


@pytest.mark.slow
def test_eval_compares_all_protocols_with_the_largest(tree):
    done = run(tree, "--what=eval")
    found = rows(done)
    assert list(found) == ["one pass", "1x10", "one pass / 1x10"]
    assert "videos/s" in done.stdout and "CPU seconds per video" in done.stdout
    assert all(number > 0 for numbers in found.values() for number in numbers)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        ([], "1x10: 10 views of 2 x 32 x 32"),
        (["--protocol=efficient", "--steps=2"], "efficient: 1 view of 2 x 32 x 32"),
        (["--config.eval.max_views_per_step=2"], "1x10: 10 views of 2 x 32 x 32"),
    ],
)
def test_a_protocol_is_timed_on_one_video_without_data(tree, flags, shown):
    done = run(tree, "--what=protocol", "--config.data_dir=/nonexistent", *flags)
    found = rows(done)
    assert f"trn_resnet10, {shown}, float32, 1 x cpu" in done.stdout
    name = shown.partition(":")[0]
    assert list(found) == [name, "seconds per video"]
    rate, low, high, *_ = found[name]
    seconds, shortest, longest = found["seconds per video"]
    assert 0 < low <= rate <= high and 0 < shortest <= seconds <= longest
    assert 1 / shortest == pytest.approx(high, rel=2e-3)
    (memory,) = (line for line in done.stdout.splitlines() if line.startswith("GiB at most"))
    assert memory.startswith("GiB at most, of the process") and 0.05 < float(memory[34:]) < 50


def test_views_are_compared_with_cutting_them_by_hand(tree):
    done = run(tree, "--what=views")
    assert list(rows(done)) == ["1x10", "1x10, OpenCV and NumPy", "1x10 / 1x10, OpenCV and NumPy"]
    assert done.stdout.rstrip().endswith("<= 0.333")


@pytest.mark.slow
def test_the_pipeline_is_taken_apart_and_compared(tree):
    flags = ("--what=data", "--threads=1", "--rounds=5", "--steps=20")
    done = run(tree, *flags, f"--other_data_dir={tree}/data")
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
    # The least of their processor time, to which whatever else is going on only adds
    read, decode, crop = (found[way][4] for way in stages[:3])
    assert 0 < read < decode < crop


@pytest.mark.slow
def test_both_prints_the_parts_the_whole_and_their_ratios(tree):
    found = rows(run(tree, "--what=both"))
    stages = ["decode", "crop", "transfer", "replayed"]
    ratios = ["both / step", "both / data", "both / replayed"]
    assert list(found) == [*stages, "data", "step", "both", *ratios]
    for median, low, high, *cost in found.values():
        assert 0 < low <= median <= high
        assert len(cost) == 3


@pytest.mark.slow
def test_one_part_alone(tree):
    assert list(rows(run(tree, "--what=step"))) == ["step"]


@pytest.mark.slow
def test_training_steps_are_timed_without_pytorch(tree, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('not here')\n")
    record = tmp_path / "record.jsonl"
    flags = ["--what=train", "--batch=2", "--pixels=48", f"--record={record}"]
    done = run(tree, *flags, PYTHONPATH=f"{tmp_path}:{REPOSITORY}")
    found = rows(done)
    assert list(found) == ["JAX"]
    assert "recipe: trn_resnet10, 2 clips of 2 x 48 x 48, bfloat16" in done.stdout
    assert "PyTorch is left out" in done.stdout and "pip install torch" in done.stdout
    rate, low, high, gib, share = found["JAX"]
    assert 0 < low <= rate <= high and gib > 0 and 0 < share < 1
    (line,) = record.read_text().splitlines()
    kept = json.loads(line)
    assert kept["recipe"] == "recipe" and kept["shape"] == [2, 2, 48, 48]
    assert len(kept["sides"]["JAX"]["clips_per_second"]) == 2 and "jax" in kept["versions"]


def test_training_steps_are_compared_with_pytorch(tree):
    pytest.importorskip("torch")
    done = run(tree, "--what=train", "--pytorch=eager", "--dtype=float32")
    assert list(rows(done)) == ["JAX", "PyTorch", "JAX / PyTorch"]
    assert "float32" in done.stdout and "left out" not in done.stdout


@pytest.mark.slow
def test_training_steps_are_compared_with_compiled_pytorch(tree):
    pytest.importorskip("torch")
    found = rows(run(tree, "--what=train"))
    sides = ["JAX", "PyTorch", "PyTorch, compiled"]
    assert list(found) == [*sides, "JAX / PyTorch", "JAX / PyTorch, compiled"]


BAD_FLAGS = {
    "unknown key": (["--config.train.bach=2"], "bach"),
    "unknown recipe": (["--config=tsn_k401"], "'tsn_k401'"),
    "missing recipe": (["--config=nowhere.py"], "there is no such file"),
    "too many threads": (["--threads=100000"], "--threads=100000"),
    "missing data": (["--config.data_dir=/nonexistent"], "/nonexistent"),
    "no rounds": (["--rounds=0"], "rounds"),
    "unknown part": (["--what=all"], "both"),
    "unknown protocol": (["--what=protocol", "--protocol=1x100"], "1x100"),
    "unknown mode of PyTorch": (["--what=train", "--pytorch=fast"], "eager, compiled"),
    "no such model": (["--what=train", "--config.model.frozen_stages=9"], "frozen_stages=9"),
}


@pytest.mark.thorough("data", "model", "missing recipe")
@pytest.mark.parametrize("case", BAD_FLAGS)
def test_bad_flags_are_explained(tree, case):
    flags, mentioned = BAD_FLAGS[case]
    done = run(tree, *flags)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert mentioned in done.stdout + done.stderr


@pytest.mark.thorough("models")
@pytest.mark.parametrize("what", ["models", "torch"])
def test_missing_pytorch_is_explained(tree, tmp_path, what):
    (tmp_path / "torch.py").write_text("raise ImportError('not here')\n")
    done = run(tree, f"--what={what}", PYTHONPATH=f"{tmp_path}:{REPOSITORY}")
    assert done.returncode == 2
    assert "pip install" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_export_is_compared_without_pytorch(tree, tmp_path):
    pytest.importorskip("onnx", reason="ONNX export needs the package onnx")
    pytest.importorskip("onnxruntime", reason="exported models are run in onnxruntime")
    (tmp_path / "torch.py").write_text("raise ImportError('not here')\n")
    flags = ["--what=export", "--models=tsm_resnet10", "--frames=4", "--pixels=32"]
    done = run(tree, *flags, PYTHONPATH=f"{tmp_path}:{REPOSITORY}")
    sides = "export, any batch", "export, one clip", "jitted"
    pairs = "export, any batch / jitted", "export, one clip / jitted"
    assert list(rows(done)) == [*sides, *pairs]
    assert "without PyTorch" in done.stdout


def part(name):
    """A fixture: one part of the script."""

    @pytest.fixture(name=name)
    def load(monkeypatch):
        monkeypatch.syspath_prepend(str(SCRIPT.parent))
        return importlib.import_module(f"benchmarks.{name}")

    return load


models, recipes, turns = part("models"), part("recipes"), part("turns")
training, torch_step = part("training"), part("torch_step")
bandwidth, measurement = part("bandwidth"), part("measurement")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tsn_resnet50", "tpn_slowonly_resnet14"])
def test_jax_and_pytorch_compute_the_same(models, name):
    pytest.importorskip("torch")
    sides = models.model_sides(name, models.Shape(2, 2, 64), dropout_rate=0.0)
    score, torch_score, step, torch_step = (side.run for side in sides)
    expected = np.asarray(torch_score(1))
    # Of the largest score: one that happens to be near 0 is a difference of larger numbers.
    np.testing.assert_allclose(score(1), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    losses = np.array([(step(1), torch_step(1)) for _ in range(2)])
    np.testing.assert_allclose(losses[0, 0], losses[0, 1], rtol=1e-4)
    ours, theirs = losses[0] - losses[1]  # what a step has gained: the gradients agree
    assert theirs > 0.01
    assert ours == pytest.approx(theirs, rel=0.05)


def test_models_are_measured_one_by_one(models, capsys, monkeypatch):
    def side(name, shape):
        return models.Side(name, shape.clips, lambda steps: sum(range(100_000 * steps)))

    def model_sides(_, shape):
        return [side(name, shape) for pair in models.RATIOS for name in pair]

    monkeypatch.setattr(models, "model_sides", model_sides)
    monkeypatch.setattr(models, "step_side", side)
    shape = models.Shape(clips=1, frames=2, pixels=32)
    names = ["tsm_resnet50", "tsn_resnet50", "tsn_swin_base"]
    summary = models.compare_models(names, shape, rounds=2, steps=1).splitlines()
    printed = capsys.readouterr().out
    for name in names[:2]:
        own = printed.partition(f"\n{name}\n")[2].splitlines()[:7]
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
    assert summary[-1].endswith("<= 1.1")


@pytest.mark.parametrize(
    ("names", "mentioned"),
    [
        ("vgg*", "--models=vgg*: "),
        ("tsm_resnet10,vgg", "--models=vgg: "),
        (",", "--models=, names"),
    ],
)
def test_unknown_models_are_explained(tree, names, mentioned):
    done = run(tree, "--what=stream", f"--models={names}")
    assert done.returncode == 2
    assert mentioned in done.stderr


def test_every_model_has_goals(models):
    goals = {
        name: next(g for pattern, *g in models.GOALS if fnmatch.fnmatchcase(name, pattern))
        for name in list_models()
    }
    assert goals["tsm_resnet101"] == goals["tin_resnet50"] == [0.8, 1.0]
    assert goals["tsn_resnext101_32x4d"] == [1.2, 12.0]
    assert goals["tsn_mobileone_s4"] == [2.0, 1.5]
    assert goals["tpn_tsm_resnet50"] == goals["tsn_swin_base"] == [1.2, 1.5]


STEPS = {
    "plain": {},
    "clipped, decayed and ahead": dict(clip_norm=0.5, weight_decay=0.1, nesterov=True),
    "frozen norms": dict(partial_bn=True),
    "in parts": dict(accumulation=2, norm_group=2),
    "smoothed and weighted": dict(label_smoothing=0.2, loss_weight=3.0),
}


@pytest.mark.parametrize("case", STEPS)
def test_pytorch_takes_the_steps_of_the_recipe(training, torch_step, case):
    pytest.importorskip("torch")
    config = base(dataset="frames", model="tsn_resnet10", num_classes=3)
    config.model.update(width=4, num_segments=2, dropout_rate=0.0)
    config.optim.update(lr=0.05, schedule="constant", clip_norm=0.0)
    config.train.batch = 4
    for key, value in STEPS[case].items():
        (section,) = (s for s in (config.model, config.train, config.optim) if key in s)
        section[key] = value
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (4, 2, 32, 32, 3), np.uint8)
    labels = np.array([0, 1, 2, 1], np.int32)
    theirs = torch_step.TorchStepper(config, clips, labels)
    options = dict(weight=config.train.loss_weight, label_smoothing=config.train.label_smoothing)
    loss = partial(train_step.classification_loss, **options)
    stepper = training.Stepper(config, make_mesh(jax.devices()[:1]), 4, loss)
    stepper.load(theirs.weights())
    batch = {"clip": jnp.asarray(clips), "label": jnp.asarray(labels)}
    losses = np.array([(float(stepper([batch])["loss"]), theirs(1)) for _ in range(4)])
    np.testing.assert_allclose(*losses.T, rtol=2e-3)
    assert np.ptp(losses[:, 1]) > 0.01


def measured(measurement, turns, **changes):
    """200 clips per second against 100 and 50, on a made-up H200."""
    rates = {
        "JAX": (200, 220, 180),
        "PyTorch": (100, 100, 100),
        "PyTorch, compiled": (400, 400, 400),
    }
    fields = dict(
        model="tsm_resnet50",
        shape=(128, 8, 224, 224),
        dtype="bfloat16",
        device="NVIDIA H200",
        versions="jax 0.10",
        activations=90_000_000,
        bandwidth=4e12,
        turns={name: [turns.Turn(1 / rate, 1.0) for rate in own] for name, own in rates.items()},
        memory={"JAX": 3 << 30, "PyTorch": 1 << 30},
        left_out=["nothing else"],
    )
    return measurement.Measurement(**fields | changes)


def test_a_measurement_is_printed_with_its_goals(measurement, turns):
    found = measured(measurement, turns)
    assert found.share("JAX") == pytest.approx(90e6 * 28 * 200 / 4e12)
    text = measurement.table("tsm_k400", found).splitlines()
    assert text[0] == "tsm_k400: tsm_resnet50, 128 clips of 8 x 224 x 224, bfloat16"
    assert text[2] == "nothing else"
    cells = {line[:34].strip(): line[34:].split() for line in text[4:]}
    assert cells["JAX"] == ["200", "(180..220)", "3", "0.126", ">=", "450"]
    assert cells["PyTorch, compiled"] == ["400", "(400..400)", "-", "0.252"]
    assert cells["JAX / PyTorch"] == ["2", "(1.8..2.2)", ">=", "1"]
    assert cells["JAX / PyTorch, compiled"][0] == "0.5"


@pytest.mark.parametrize(
    "changes",
    [
        dict(device="cpu"),
        dict(dtype="float32"),
        dict(shape=(128, 8, 64, 64)),
        dict(model="tsn_swin_base"),
    ],
)
def test_goals_apply_only_to_their_set_up(measurement, turns, changes):
    assert measured(measurement, turns).goal == 450
    assert measured(measurement, turns, **changes).goal is None


def test_recipes_are_measured_as_published(recipes):
    published = {name: recipes.load(name) for name in recipes.RECIPES}
    same = dict(batch=None, frames=None, pixels=None, dtype="bfloat16")
    batches = {name: recipes.adapt(c, **same).train.batch for name, c in published.items()}
    assert batches == {
        "trn_sthv1": 128,
        "tsm_k400": 128,
        "tin_sthv1": 48,
        "tpn_slowonly_k400": 64,
        "tsn_swin_k400_8seg": 256,
    }
    small = recipes.adapt(published["trn_sthv1"], batch=2, frames=4, pixels=64, dtype="float32")
    assert (small.train.batch, small.model.norm_group) == (2, 2)
    seen = resolved_views(small)["data.train"]
    assert (seen.num_segments, seen.crop_size) == (4, 64)
    assert small.model.dtype == "float32" and small.optim.clip_norm == 20.0
    assert published["trn_sthv1"].train.batch == 128


def test_unknown_recipes_are_explained(recipes):
    with pytest.raises(UserError, match=r"'tsm_k40'.*'tsm_k400'"):
        recipes.load("tsm_k40")


def test_a_batch_that_cannot_be_cut_is_explained(recipes):
    config = recipes.load("tin_sthv1")
    with pytest.raises(UserError, match=r"batch=10 .*model\.norm_group=6"):
        recipes.adapt(config, batch=10, frames=None, pixels=None, dtype="float32")


def test_a_recipe_without_a_number_of_classes_is_explained(recipes):
    config = recipes.load("small")
    with pytest.raises(UserError, match=r"model\.num_classes"):
        recipes.adapt(config, batch=8, frames=None, pixels=None, dtype="float32")


def test_a_batch_that_does_not_fit_is_halved(recipes, monkeypatch, capsys):
    def measured(config, **_):
        if config.train.batch > fits:
            raise recipes.DoesNotFit("too large")
        return config.train.batch

    monkeypatch.setattr(recipes, "in_new_process", measured)
    config = recipes.load("tin_sthv1")  # 48 clips in groups of 6
    fits = 12
    assert list(recipes.compare({"tin": config}, halve=True)) == [("tin", 12)]
    assert capsys.readouterr().out.splitlines() == [
        "tin: too large; trying 24",
        "tin: too large; trying 12",
    ]
    assert config.train.batch == 48
    fits = 3
    ((_, error), (_, small)) = recipes.compare({"tin": config, "again": config}, halve=True)
    assert isinstance(error, recipes.DoesNotFit) and isinstance(small, recipes.DoesNotFit)
    fits = 24
    ((_, error),) = recipes.compare({"tin": config}, halve=False)
    assert isinstance(error, recipes.DoesNotFit)


def test_halves_that_cannot_fit_are_passed_over(recipes, monkeypatch, capsys):
    tried = []

    def measured(config, **_):
        tried.append(config.train.batch)
        if config.train.batch > 6:
            raise pickle.loads(pickle.dumps(recipes.DoesNotFit("too large", 12.5)))
        return config.train.batch

    monkeypatch.setattr(recipes, "in_new_process", measured)
    config = recipes.load("tin_sthv1")  # 48 clips in groups of 6
    assert list(recipes.compare({"tin": config}, halve=True)) == [("tin", 6)]
    assert tried == [48, 12, 6]
    assert capsys.readouterr().out.startswith("tin: too large; trying 12\n")

    def never(config, **_):
        raise recipes.DoesNotFit("too large", -1.0)  # the state alone is

    monkeypatch.setattr(recipes, "in_new_process", never)
    ((_, error),) = recipes.compare({"tin": config}, halve=True)
    assert isinstance(error, recipes.DoesNotFit)


def small_recipe(batch=8):
    config = base(dataset="frames", model="tsn_resnet10", num_classes=3)
    config.model.update(width=4, num_segments=2, dropout_rate=0.0, norm_group=0)
    config.data.train.update(num_segments=2, crop_size=32)
    config.train.batch = batch
    return config


@pytest.mark.slow
def test_what_does_not_fit_is_not_run(recipes, monkeypatch):
    clips, labels = np.zeros((8, 2, 32, 32, 3), np.uint8), np.zeros(8, np.int32)
    monkeypatch.setattr(recipes, "memory_limit", lambda _: None)
    _, planned = recipes.jax_stepper(small_recipe(), clips, labels, jax.devices()[0], None)
    monkeypatch.setattr(recipes, "memory_limit", lambda _: planned - 1)
    with pytest.raises(recipes.DoesNotFit, match=r"batch of 8 .* GiB") as raised:
        recipes.jax_stepper(small_recipe(), clips, labels, jax.devices()[0], None)
    assert 7.9 < raised.value.largest < 8


def test_a_recipe_that_fails_does_not_end_the_others(recipes, monkeypatch, capfd):
    def measured(config, **_):
        if config.train.batch == 48:
            raise RuntimeError("INTERNAL: something\nin many lines")
        return config.train.batch

    monkeypatch.setattr(recipes, "in_new_process", measured)
    configs = {name: recipes.load(name) for name in ("tin_sthv1", "tsm_k400")}
    (_, error), (_, batch) = recipes.compare(configs, halve=True)
    assert isinstance(error, UserError) and str(error) == "RuntimeError: INTERNAL: something"
    assert batch == 128
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate",
        "CUDA out of memory. Tried to allocate 52.00 MiB",
        "INTERNAL: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_lack_of_memory_is_recognised(recipes, text):
    assert recipes.is_out_of_memory(RuntimeError(text))
    assert not recipes.is_out_of_memory(RuntimeError("INTERNAL: CUDNN_STATUS_EXECUTION_FAILED"))


def test_the_peak_of_pytorch_is_that_of_later_steps(recipes, monkeypatch):
    happened = []

    class Stepper:
        def __call__(self, steps):
            happened.append("run")

        def reset_peak(self):
            happened.append("reset")

        def peak(self):
            happened.append("peak")
            return 5

    monkeypatch.setattr(recipes, "torch_stepper", lambda *_: Stepper())
    monkeypatch.setattr(recipes, "jax_stepper", lambda *_: (lambda steps: None, 7))
    monkeypatch.setattr(recipes, "measure_bandwidth", lambda _: 1e9)
    found = recipes.measure_recipe(small_recipe(), rounds=1, steps=1, threads=1, pytorch=["eager"])
    assert found.memory == {"JAX": 7, "PyTorch": 5}
    assert happened[:4] == ["run", "reset", "run", "peak"]


def test_the_memory_of_a_gpu_is_shared(recipes):
    for with_pytorch, share in ((True, "0.5"), (False, "0.9")):
        environment = {}
        recipes.share_memory(environment, with_pytorch=with_pytorch)
        assert environment == {"XLA_CLIENT_MEM_FRACTION": share}
    for name in ("XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_PREALLOCATE"):
        environment = {name: "0.7"}
        recipes.share_memory(environment, with_pytorch=True)
        assert environment == {name: "0.7"}


def test_the_bandwidth_of_a_device_is_measured(bandwidth, monkeypatch):
    monkeypatch.setattr(bandwidth, "NUM_BYTES", {"cpu": 1 << 20})
    assert 1e6 < bandwidth.measure_bandwidth(jax.devices()[0]) < 1e13


@pytest.mark.slow
def test_a_step_of_a_stream_is_compared_with_the_backbone_and_a_clip(tree):
    done = run(tree, "--what=stream", "--models=tsm_resnet10", "--frames=4", "--pixels=32")
    found = rows(done)
    sides = "step", "backbone, one frame", "clip per frame"
    pairs = "step / backbone, one frame", "step / clip per frame"
    assert list(found) == [*sides, *pairs]
    assert "<= 1.1" in done.stdout and "<= 0.333" in done.stdout
