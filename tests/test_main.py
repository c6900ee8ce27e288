"""The command line, end to end on a few tiny clips, and what it says about bad input."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import simplejpeg

from trn_jax import checkpoint

REPOSITORY = pathlib.Path(__file__).parent.parent

# A recipe of seconds: 16 classes of the synthetic data set, a ResNet-10 of 4 channels.
RECIPE = """
from trn_jax.config import base, view


def get_config():
    config = base(dataset="frames", model="trn_resnet10", num_classes=4)
    config.model.width = 4
    config.model.num_segments = 3
    config.model.norm_group = 4
    frames = dict(num_segments=3, short_side=32, crop_size=32)
    config.data.train.update(frames, flip_rate=0.5)
    config.data.val.update(frames)
    config.data.num_threads = 2
    config.train.update(batch=8, epochs=4.0, log_every=2, eval_every=2.0, checkpoint_every=3)
    config.eval.batch = 8
    config.optim.update(lr=0.05, clip_norm=5.0)
    config.protocols.efficient = view(**frames)
    config.protocols.accurate = view(**frames, sampling="twice", crop="three")
    return config
"""


def write_frames(folder, num_frames, rng, *, size=(36, 40)):
    folder.mkdir(parents=True)
    for number in range(1, num_frames + 1):
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        (folder / f"{number:05d}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels))


@pytest.fixture
def tree(tmp_path):
    """A recipe and a data set of 24 + 10 clips of random frames, some shorter than a clip."""
    rng = np.random.default_rng(0)
    data = tmp_path / "data"
    for split, count in (("train", 24), ("val", 10)):
        lines = []
        for index in range(count):
            num_frames = 2 + index % 5
            write_frames(data / "rawframes" / f"{split}{index}", num_frames, rng)
            lines.append(f"{split}{index} {num_frames} {index % 4}\n")
        (data / f"{split}_list.txt").write_text("".join(lines))
    names = ["Waving left", "Waving right", "Nodding", "Nothing"]
    (data / "label_map.txt").write_text("".join(f"{name}\n" for name in names))
    (tmp_path / "recipe.py").write_text(RECIPE)
    return tmp_path


def command(tree, *flags, workdir="run"):
    return [
        sys.executable,
        "-m",
        "trn_jax.main",
        f"--config={tree}/recipe.py",
        f"--config.data_dir={tree}/data",
        f"--workdir={tree}/{workdir}",
        *flags,
    ]


def environment(num_devices=1):
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_COMPILATION_CACHE_DIR": cache()}


def cache():
    return os.environ["JAX_COMPILATION_CACHE_DIR"]


def run(tree, *flags, num_devices=1, **kwargs):
    return subprocess.run(
        command(tree, *flags, **kwargs),
        env=environment(num_devices),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )


def parameters(workdir):
    """All arrays of the newest checkpoint, model and optimizer."""
    import orbax.checkpoint as ocp

    found = {}
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        for item in ("model", "optimizer"):
            tree = reader.restore(checkpoint.find(workdir) / item)
            found |= {f"{item}/{name}": np.asarray(value) for name, value in tree.items()}
    return found


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_train_evaluate_and_reports(tree):
    done = run(tree)
    assert done.returncode == 0, done.stderr
    workdir = tree / "run"
    assert "Waving left <-> Waving right" in done.stderr
    assert "waiting for data" in done.stderr
    assert "efficient" in done.stdout
    entries = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    train = [entry for entry in entries if entry["group"] == "train"]
    assert [entry["step"] for entry in train] == [2, 3, 4, 6, 8, 9, 10, 12]
    assert {"loss", "top1", "lr", "grad_norm", "clips_per_second", "data_wait"} <= train[0].keys()
    assert [entry["step"] for entry in entries if entry["group"] == "val"] == [6, 12]
    assert list((workdir / "events").glob("events*"))
    assert (workdir / "classes.txt").read_text().startswith("Waving left\n")
    assert json.loads((workdir / "environment.json").read_text())["jax"]

    first = json.loads((workdir / "results" / "efficient.json").read_text())
    assert first["num_videos"] == 10
    assert first["step"] == 12
    assert sum(row["videos"] for row in first["per_class"]) == 10
    twice = json.loads((workdir / "results" / "accurate.json").read_text())
    assert twice["num_views"] == 6

    # The same checkpoint on four devices, without a recipe, gives the same scores.
    again = subprocess.run(
        [sys.executable, "-m", "trn_jax.main", "--mode=eval", f"--checkpoint={workdir}"]
        + ["--scores", "--protocol=accurate", f"--workdir={tree}/eval"],
        env=environment(4),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert again.returncode == 0, again.stderr
    other = json.loads((tree / "eval" / "results" / "accurate.json").read_text())
    assert other["metrics"] == twice["metrics"]
    assert other["list_sha256"] == twice["list_sha256"]
    scores = np.load(tree / "eval" / "results" / "accurate.npz")["scores"]
    assert scores.shape == (10, 4)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)

    # A finished run has nothing left to train, and evaluates again.
    finished = run(tree)
    assert finished.returncode == 0
    assert "resuming after step 12" in finished.stderr


def test_killed_runs_go_on_as_if_nothing_had_happened(tree):
    assert run(tree, workdir="whole").returncode == 0
    expected = parameters(tree / "whole")

    rng = np.random.default_rng(0)
    kills = 0
    while kills < 3:
        threads = int(rng.integers(1, 4))
        process = subprocess.Popen(
            command(tree, f"--config.data.num_threads={threads}", workdir="killed"),
            env=environment(),
            cwd=REPOSITORY,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        # Some time after the first step of this life; the first kill comes inside a save.
        wanted = ("step 3/", "step 6/", "step 9/")[kills]
        for line in process.stderr:
            if line.startswith(wanted):
                break
        time.sleep(0.02 * kills)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
    final = run(tree, workdir="killed")
    assert final.returncode == 0, final.stderr
    assert_equal(parameters(tree / "killed"), expected)
    entries = [
        json.loads(line) for line in (tree / "killed" / "metrics.jsonl").read_text().splitlines()
    ]
    steps = [entry["step"] for entry in entries if entry["group"] == "train"]
    assert steps == sorted(set(steps))
    leftovers = [
        p.name for p in (tree / "killed").rglob("*") if "tmp" in p.name or "part" in p.name
    ]
    assert not leftovers


def test_sigterm_saves_and_the_same_command_goes_on(tree):
    process = subprocess.Popen(
        command(tree, "--config.train.epochs=400"),
        env=environment(),
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if line.startswith("step 4/"):
            break
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "goes on from there" in said
    step = int(checkpoint.find(tree / "run").name)
    assert step >= 4
    assert f"after step {step};" in said


BAD_FLAGS = {
    "unknown key": (["--config.model.depht=50"], "depht"),
    "wrong type": (["--config.train.batch=many"], "batch"),
    "missing recipe": (["--config=nowhere.py"], "nowhere.py"),
    "unknown model": (["--config.model.name=trn_resnet51"], "trn_resnet50"),
    "unknown head": (["--config.model.head=trm"], "trn"),
    "unknown data set": (["--config.data.dataset=sthv3"], "sthv1"),
    "batch and norm group": (["--config.train.batch=6"], "norm_group"),
    "missing folder": (["--config.data_dir=/nonexistent"], "/nonexistent"),
    "missing list": (["--config.data.train_list=other.txt"], "other.txt"),
    "frame pattern": (["--config.data.frame_pattern=img_{:05d}.jpg"], "'{:05d}.jpg'"),
    "class count": (["--config.model.num_classes=5"], "num_classes"),
    "no workdir": (["--workdir="], "--workdir"),
    "eval without checkpoint": (["--mode=eval"], "--checkpoint"),
    "no such checkpoint": (["--mode=eval", "--checkpoint=/nonexistent"], "/nonexistent"),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_bad_flags_are_explained(tree, case):
    flags, mentioned = BAD_FLAGS[case]
    check_refusal(run(tree, *flags), mentioned)
    assert not (tree / "run" / "results").exists()


def check_refusal(done, mentioned):
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr
    assert "error: " in done.stderr
    assert mentioned in done.stderr


def test_batch_must_fit_the_devices(tree):
    check_refusal(run(tree, num_devices=3), "3 devices")


def test_unreadable_frames_stop_the_run_or_are_skipped(tree):
    broken = tree / "data" / "rawframes" / "train5" / "00001.jpg"
    broken.write_bytes(b"")
    check_refusal(run(tree, "--config.data.train.sampling=center"), str(broken))
    done = run(tree, "--config.data.on_error=skip", workdir="skipping")
    assert done.returncode == 0, done.stderr
    assert "were replaced" in done.stderr
    assert str(broken) in done.stderr


def test_a_workdir_belongs_to_one_configuration(tree):
    assert run(tree, "--config.train.steps=1").returncode == 0
    check_refusal(run(tree, "--config.optim.lr=0.1"), "optim.lr: 0.05 -> 0.1")
    check_refusal(
        run(tree, "--mode=eval", f"--checkpoint={tree}/run", "--config.model.head=tsn"),
        "holds another model",
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_workdir_must_be_writable(tree):
    (tree / "run").mkdir(mode=0o500)
    check_refusal(run(tree), "cannot write")


def test_a_full_disk_leaves_the_last_good_checkpoint(tree):
    assert run(tree, "--config.train.steps=3").returncode == 0
    # Files of at most 20 kB, as if the disk were full: logs still fit, checkpoints do not.
    limited = ["bash", "-c", 'ulimit -f 20; trap "" XFSZ; exec "$@"', "-"]
    done = subprocess.run(
        limited + command(tree, "--config.train.steps=6"),
        env=environment() | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1000"},  # read only
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    check_refusal(done, "the last good one is step 3")
    assert checkpoint.find(tree / "run").name == "3"
    assert run(tree, "--config.train.steps=6").returncode == 0
