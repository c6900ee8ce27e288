"""The command line, end to end on a few tiny clips, and what it says about bad input."""

import hashlib
import json
import os
import pathlib
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
import types
from functools import partial

import numpy as np
import pytest
from flax import nnx
from small_training import REPOSITORY, assert_identical, make_tree, parameters
from state_dicts import weights_of
from tiny_training import RECIPE, environment
from torch_files import safetensors_file

from trn_jax import create_model
from trn_jax.checkpoints import finding
from trn_jax.config import base
from trn_jax.errors import UserError
from trn_jax.evaluation import score_files
from trn_jax.training import loop, start


@pytest.fixture
def tree(tmp_path):
    """A recipe and a data set of 24 + 10 clips of random frames, some shorter than a clip."""
    names = ["Waving left", "Waving right", "Nodding", "Nothing"]
    make_tree(tmp_path, RECIPE, num_val=10, class_names=names)
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


def run(tree, *flags, num_devices=1, **kwargs):
    return execute(command(tree, *flags, **kwargs), num_devices)


def execute(words, num_devices=1, cwd=REPOSITORY):
    return subprocess.run(
        words,
        env=environment(num_devices),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_train_evaluate_and_reports(tree):
    done = run(tree, num_devices=2)
    assert done.returncode == 0, done.stderr
    workdir = tree / "run"
    assert "Waving left <-> Waving right" in done.stderr
    assert "waiting for data" in done.stderr
    assert re.search(
        r"\n12 steps in 0:0\d:\d\d, \S+ s each: devices busy \d+ %, waiting", done.stderr
    )
    assert "efficient" in done.stdout
    entries = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    (spent,) = (entry for entry in entries if entry["group"] == "run")
    assert spent["step"] == spent["steps"] == 12
    assert 0 < spent["devices_busy"] + spent["data_wait"] <= 1
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
        + ["--protocol=accurate,efficient", f"--workdir={tree}/eval", f"--dump={tree}/s.json"],
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
    kept = score_files.read(tree / "eval" / "results" / "accurate.npz")
    assert kept.scores.shape == (10, 4)
    np.testing.assert_allclose(kept.scores.sum(axis=1), 1, atol=1e-5)
    assert kept.videos == [f"val{index}" for index in range(10)]
    assert kept.about["list_sha256"] == twice["list_sha256"]
    dumped = [score_files.read(tree / f"s_{name}.json") for name in ("accurate", "efficient")]
    np.testing.assert_array_equal(dumped[0].scores, kept.scores)
    assert [found.protocol for found in dumped] == ["accurate", "efficient"]
    assert [found.metrics() for found in dumped] == [twice["metrics"], first["metrics"]]

    # A finished run has nothing left to train, and evaluates again, here on one device.
    finished = run(tree)
    assert finished.returncode == 0
    once_more = json.loads((workdir / "results" / "accurate.json").read_text())
    assert once_more["metrics"] == twice["metrics"]
    assert "resuming after step 12" in finished.stderr


def kill_and_resume(tree, *, epochs, kills, seed, flags=()):
    """Kill a run again and again; in the end it must be what an undisturbed run is.

    Two of three kills come while a checkpoint is being written, the others anywhere. Every life
    has another number of decoding threads.

    Returns:
        The files of shared memory that there were, and which are gone.
    """
    recipe = tree / "recipe.py"
    recipe.write_text(recipe.read_text().replace("epochs=4.0", f"epochs={epochs}.0"))
    assert run(tree, workdir="whole").returncode == 0
    temporary = tree / "tmp"
    temporary.mkdir()
    shared_memory = set()
    rng = np.random.default_rng(seed)
    for kill in range(kills):
        process = subprocess.Popen(
            command(
                tree, f"--config.data.num_threads={rng.integers(1, 4)}", *flags, workdir="killed"
            ),
            env=environment() | {"TMPDIR": str(temporary)},
            cwd=REPOSITORY,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        said = []
        saves = 0
        for line in process.stderr:
            said.append(line)
            # With a checkpoint every third step, a save begins right after the line of step 3k.
            # The first save of every life is left alone, or nothing would ever be finished.
            found = re.match(r"step (\d+)/", line)
            saves += found is not None and int(found[1]) % 3 == 0
            if saves == 2:
                break
        if kill % 3 < 2:
            wait_until(partial(begun_save, tree / "killed", found[1]))
        else:
            time.sleep(rng.uniform(0, 0.3))
        shared_memory |= shared_memory_of(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "".join(said)
        wait_until(partial(is_gone, process.pid))  # workers end by themselves
    final = run(tree, *flags, workdir="killed")
    assert final.returncode == 0, final.stderr
    assert "resuming after step" in final.stderr
    assert_identical(parameters(tree / "killed"), parameters(tree / "whole"))
    logs = [
        [json.loads(line) for line in (tree / workdir / "metrics.jsonl").read_text().splitlines()]
        for workdir in ("whole", "killed")
    ]
    for log in logs:
        steps = [entry["step"] for entry in log if entry["group"] == "train"]
        assert steps == sorted(set(steps))
    assert [e for e in logs[0] if e["group"] == "val"] == [
        e for e in logs[1] if e["group"] == "val"
    ]
    unfinished = [p for p in (tree / "killed").rglob("*") if re.search("tmp|part|probe", p.name)]
    assert not unfinished
    assert not list(temporary.iterdir())
    wait_until(lambda: not any(map(os.path.exists, shared_memory)))
    return shared_memory


def wait_until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


def begun_save(workdir, step):
    """Whether a save has begun, which may also have ended if nobody looked in between."""
    folder = workdir / "checkpoints"
    return (folder / step).exists() or list(folder.glob(f"{step}.*tmp*"))


def shared_memory_of(group):
    """The files of the blocks of shared memory of a process group."""
    found = set()
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) == group:
                # Not what has no name any more, and goes with the last process: "... (deleted)".
                found |= set(re.findall(r"/dev/shm/\S+$", (folder / "maps").read_text(), re.M))
        except OSError:
            continue  # it has ended, or is somebody else's
    return found


def is_gone(group):
    """Whether no process of a process group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


MOBILENET = {
    'model="trn_resnet10"': 'model="tsm_mobilenetv2"',
    "config.model.width = 4": 'config.model.update(backbone="mobilenetv2_tiny", width_factor=0.25)',
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, MOBILENET], ids=["trn", "tsm_mobilenetv2"])
def test_killed_runs_go_on_as_if_nothing_had_happened(tree, changes):
    recipe = tree / "recipe.py"
    text = recipe.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    recipe.write_text(text)
    kill_and_resume(tree, epochs=6, kills=3, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_ten_kills(tree, workers):
    flags = [f"--config.data.num_workers={workers}"]
    shared_memory = kill_and_resume(tree, epochs=30, kills=10, seed=workers, flags=flags)
    assert bool(shared_memory) == bool(workers)


def begin(tree, *flags):
    return subprocess.Popen(
        command(tree, *flags),
        env=environment(),
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.by_default(slow=("1]", "10]"))
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_saves_and_the_same_command_goes_on(tree, number):
    process = begin(tree, "--config.train.epochs=400")
    for line in process.stderr:
        if line.startswith("step 4/"):
            break
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == loop.INTERRUPTED
    assert "resumes" in said
    step = int(finding.find(tree / "run").name)
    assert step >= 4
    assert f"stopped by {number.name} after step {step};" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_a_signal_in_the_start_ends_the_run(tree, number):
    """While it waits for a list that never comes."""
    path = tree / "data" / "train_list.txt"
    path.unlink()
    os.mkfifo(path)
    process = begin(tree)
    writers = []
    wait_until(lambda: writers.extend(open_pipe(path)) or writers or process.poll() is not None)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    os.close(*writers)
    assert process.returncode == loop.INTERRUPTED
    assert said == (
        f"stopped by {number.name} during startup (looking for the data). The same command starts "
        "from the beginning\n"
    )


def open_pipe(path):
    """The open end of a pipe with a name, for writing, as soon as a process reads from it."""
    try:
        return [os.open(path, os.O_WRONLY | os.O_NONBLOCK)]
    except OSError:
        return []


@pytest.mark.thorough
def test_the_loop_runs_ahead_of_the_devices_between_log_lines(tree, monkeypatch):
    config = runpy.run_path(f"{tree}/recipe.py")["get_config"]()
    config.data_dir = str(tree / "data")
    config.train.update(log_every=3, eval_every=0.0, checkpoint_every=100)
    dispatched = 0
    log_line_is_due = threading.Event()

    class Unfinished:
        """A result of the devices that is not there before the next log line is due."""

        def __array__(self, dtype=None, copy=None):
            assert log_line_is_due.wait(timeout=20), "the loop waits for the devices"
            return np.zeros(())

    def dispatch(state, arrays):
        nonlocal dispatched
        log_line_is_due.clear()
        dispatched += 1
        if dispatched % 3 == 0:
            log_line_is_due.set()
        return state, dict.fromkeys(("loss", "top1", "grad_norm", "lr"), Unfinished())

    monkeypatch.setattr(start, "jit_train_step", lambda *_, **__: dispatch)
    assert loop.train(config, str(tree / "run")) == 0
    assert dispatched == 12


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "recorded"), [("2:3", "2 to 3"), ("4:99", ""), ("99:100", None)])
def test_steps_are_recorded_for_xprof(tree, steps, recorded):
    """Also if the training ends before the last of them."""
    flags = ("--config.train.steps=5", "--config.train.eval_every=0", f"--profile_steps={steps}")
    done = run(tree, *flags)
    assert done.returncode == 0, done.stderr
    found = list((tree / "run/profile").rglob("*.xplane.pb"))
    assert len(found) == (recorded is not None)
    logged = f"recorded steps {recorded} in {tree}/run/profile" in done.stderr
    assert logged == bool(recorded)


def test_help_lists_the_flags_and_succeeds(capsys):
    from trn_jax import main

    with pytest.raises(SystemExit) as stopped:
        main.run([main.__name__, "--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("Train, evaluate or calibrate.\n")
    assert "\n  --mode\n        <train|eval|calibrate>: " in said and "(default: train)" in said
    assert "--num_processes" in said and "--num_hosts" not in said  # its alias


BAD_FLAGS = {
    "no range of steps": (["--profile_steps=5"], "--profile_steps=5 is not <first step>:<last"),
    "a range that ends first": (["--profile_steps=5:2"], "such as 10:15"),
    "too short a limit": (["--config.train.step_timeout=3"], "expected at least 10 seconds"),
    "unknown key": (["--config.model.depht=50"], "depht=50: the recipe has no setting depht; trn"),
    "misspelt key": (["--config.train.bacth=8"], "no setting bacth; did you mean batch?"),
    "wrong type": (["--config.train.batch=many"], "flag --config.train.batch=many: invalid"),
    "unknown flag": (["--workdri=run"], "'workdri'. Did you mean: workdir ?; --help"),
    "missing recipe": (["--config=nowhere.py"], "nowhere.py"),
    "unknown model": (["--config.model.name=trn_resnet51"], "trn_resnet50"),
    "unknown head": (["--config.model.head=trm"], "trn"),
    "unknown data set": (["--config.data.dataset=sthv3"], "sthv1"),
    "batch and norm group": (["--config.train.batch=6"], "norm_group"),
    "missing folder": (["--config.data_dir=/nonexistent"], "/nonexistent"),
    "missing list": (["--config.data.train_list=other.txt"], "other.txt"),
    "frame pattern": (["--config.data.frame_pattern=img_{:05d}.jpg"], "'{:05d}.jpg'"),
    "class count": (["--config.model.num_classes=5"], "num_classes"),
    "flag of mmaction2": (
        ["--work-dir", "x"],
        "--work-dir is a flag of mmaction2; here it is --workdir",
    ),
    "another one": (["--cfg-options", "a=1"], "one by one, such as --config.optim.lr=0.01"),
    "a word": (
        ["configs/trn.py"],
        "'configs/trn.py' belongs to no flag; a recipe is given as --config=",
    ),
    "no such protocol": (["--config.protocols.25x10.crop=ten"], "25x10"),
    "no such step": (
        ["--mode=eval", "--checkpoint=/nonexistent@7"],
        "no checkpoint in /nonexistent",
    ),
    "eval without checkpoint": (["--mode=eval"], "--checkpoint"),
    "calibrate without checkpoint": (["--mode=calibrate"], "--checkpoint"),
    "dump of a calibration": (
        ["--mode=calibrate", "--checkpoint=/nonexistent", "--dump=scores.npz"],
        "--dump",
    ),
    "workdir of a calibration": (
        ["--mode=calibrate", "--checkpoint=/nonexistent"],
        "requires --mode=eval or train; a calibration is stored in the checkpoint",
    ),
    "dump of a training": (["--dump=scores.npz"], "--mode=eval"),
    "split of a training": (["--split=test"], "--mode=eval"),
    "dtype of a training": (["--dtype=float32"], "--config.model.dtype=float32"),
    "checkpoint of a training": (["--checkpoint=old"], "--config.init_from=old"),
    "protocol of a training": (["--protocol=accurate"], "--protocol=accurate requires --mode=eval"),
    "lists of an evaluation": (
        ["--mode=eval", "--checkpoint=/nonexistent", "--ignore_lists"],
        "--ignore_lists requires --mode=train",
    ),
    "streamed training": (["--pooling=mean"], "--pooling=mean requires --mode=eval"),
    "profile of an evaluation": (
        ["--mode=eval", "--checkpoint=/nonexistent", "--profile_steps=1:2"],
        "--mode=train",
    ),
    "pooling of clips": (
        ["--mode=eval", "--checkpoint=/nonexistent", "--pooling=mean"],
        "--streamed",
    ),
    "streamed calibration": (
        ["--mode=calibrate", "--checkpoint=/nonexistent", "--streamed"],
        "--mode=eval",
    ),
    "unknown split": (["--mode=eval", "--split=dev"], "val|test|train"),
    "dump in an unknown format": (
        ["--mode=eval", "--checkpoint=/nonexistent", "--dump=scores.csv"],
        ".npz, .json, .pkl",
    ),
    "one label instead of several": (["--config.data.multi_label=True"], "multi_label=False"),
    "no such checkpoint": (["--mode=eval", "--checkpoint=/nonexistent"], "/nonexistent"),
}


# Every command begins in a process that has imported everything already.
_REFUSED = """
import json, os, sys
from trn_jax import main
from trn_jax.training import loop, start
from trn_jax.evaluation import evaluate

for case, arguments in json.load(sys.stdin).items():
    if not os.fork():
        os.dup2(os.open(f"{sys.argv[1]}/{case}", os.O_WRONLY | os.O_CREAT), 2)
        main.run(["trn_jax.main", *arguments])
        sys.exit()
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """`{case: process}`, what commands with bad flags end with and say."""
    tree = tmp_path_factory.mktemp("refused")
    make_tree(tree, RECIPE, num_val=10)
    (tree / "said").mkdir()
    commands = {case: command(tree, *flags)[3:] for case, (flags, _) in BAD_FLAGS.items()}
    done = subprocess.run(
        [sys.executable, "-c", _REFUSED, str(tree / "said")],
        input=json.dumps(commands),
        env=environment(),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    assert not (tree / "run" / "results").exists()
    said = {case: (tree / "said" / case).read_text() for case in commands}
    codes = zip(commands, map(int, done.stdout.split()), strict=True)
    return {case: types.SimpleNamespace(returncode=c, stderr=said[case]) for case, c in codes}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_bad_flags_are_explained(refused, case):
    check_refusal(refused[case], BAD_FLAGS[case][1])


@pytest.mark.by_default(1)
@pytest.mark.parametrize("overrides", [(), ("--config.model.num_classes=3",)])
def test_a_recipe_that_does_not_exist_is_named(tmp_path, overrides):
    flags = ["--config=nowhere.py", f"--workdir={tmp_path}/run", *overrides]
    done = execute([sys.executable, "-m", "trn_jax.main", *flags])
    check_refusal(done, "cannot load the recipe nowhere.py: there is no such file in")
    assert "--config=trn_sthv1" in done.stderr and "config_config" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("trn_sthv1", ""),
        ("configs/trn_sthv1.py", "configs/trn_sthv1.py is not here; taking the recipe that comes"),
        ("trn_shtv1", "there is no recipe 'trn_shtv1'; did you mean 'trn_sthv1'?"),
    ],
)
def test_recipes_are_found_by_name_from_anywhere(tmp_path, value, said):
    done = execute([sys.executable, "-m", "trn_jax.main", f"--config={value}"], cwd=tmp_path)
    check_refusal(done, said)
    assert said.startswith("there is no") or "data/sthv1" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "recipe.py, line 1: SyntaxError: invalid syntax"),
        ("import nowhere", "recipe.py, line 1: ModuleNotFoundError: No module named 'nowhere'"),
        (
            "def get_config():\n    return nothing",
            "recipe.py, line 2: NameError: name 'nothing' is",
        ),
        ("", "get_config; see configs/trn_sthv1.py"),
        (
            "def get_config():\n    return int('x')",
            "recipe.py, line 2: ValueError: invalid literal",
        ),
        ("def get_config():\n    return 5", "get_config() of the recipe gives 5; expected what"),
        (
            "from trn_jax import errors\ndef get_config():\n    raise errors.UserError('in words')",
            "error: in words\n",
        ),
    ],
)
def test_a_recipe_that_fails_is_told_with_the_line(tmp_path, text, message):
    (tmp_path / "recipe.py").write_text(text)
    flags = [f"--config={tmp_path}/recipe.py", f"--workdir={tmp_path}/run"]
    done = execute([sys.executable, "-m", "trn_jax.main", *flags])
    check_refusal(done, message)


def check_refusal(done, mentioned):
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "error: " in done.stderr
    assert mentioned in done.stderr


def test_batch_must_fit_the_devices(tree):
    check_refusal(run(tree, num_devices=3), "3 devices")


@pytest.mark.slow
def test_unreadable_frames_stop_the_run_or_are_skipped(tree):
    broken = tree / "data" / "rawframes" / "train5" / "00001.jpg"
    broken.write_bytes(b"")
    flags = ["--config.data.train.sampling=center", "--config.data.on_error=raise"]
    check_refusal(run(tree, *flags), str(broken))
    done = run(tree, workdir="skipping")
    assert done.returncode == 0, done.stderr
    assert "clips replaced" in done.stderr and "were replaced" in done.stderr
    assert str(broken) in done.stderr
    for path in (tree / "data" / "rawframes" / "val2").iterdir():
        path.write_bytes(b"")
    flags = ["--mode=eval", f"--checkpoint={tree}/skipping", "--protocol=efficient"]
    done = run(tree, *flags, workdir="evaluated")
    assert done.returncode == 1 and "val2" in done.stderr, done.stderr
    found = json.loads((tree / "evaluated" / "results" / "efficient.json").read_text())
    assert (found["num_unreadable"], found["unreadable"]) == (1, ["val2"])
    assert found["metrics"]["top1"] <= 0.9
    dump = score_files.read(str(tree / "evaluated" / "results" / "efficient.npz"))
    assert dump.missing.tolist() == [index == 2 for index in range(10)]
    done = run(tree, *flags, "--config.data.on_error=raise", workdir="refused")
    check_refusal(done, "val2")


@pytest.mark.slow
def test_training_starts_from_foreign_weights(tree):
    model = nnx.eval_shape(
        lambda: create_model("trn_resnet10", num_classes=9, num_segments=3, width=4)
    )
    ours, theirs = weights_of(model)
    positive = {name: np.abs(value) for name, value in theirs.items()}  # as variances have to be
    averaged = {f"model_ema.{name}": value for name, value in positive.items()}
    (tree / "weights.safetensors").write_bytes(safetensors_file(positive | averaged))
    flags = [f"--config.init_from={tree}/weights.safetensors", "--config.optim.lr=0"]
    done = run(tree, *flags, "--config.train.steps=1")
    assert done.returncode == 0, done.stderr
    assert "starting from the weights of" in done.stderr
    assert "weights.safetensors: left unread: " in done.stderr
    found = parameters(tree / "run")
    path = "backbone/layer4/0/conv1/kernel"
    np.testing.assert_array_equal(found["model/" + path.replace("/", ".")], np.abs(ours[path]))
    check_refusal(run(tree, "--config.init_from=nowhere.pth", workdir="other"), "nowhere.pth")


def test_the_published_file_is_found_in_a_folder(tmp_path):
    config = base(dataset="frames", model="trn_resnet10", num_classes=5)
    config.init_from = str(tmp_path)
    with pytest.raises(UserError, match="names no file"):
        start.initial_weights(config)
    digest = hashlib.sha256(b"").hexdigest()[:8]
    config.init_url = f"https://example.org/models/net-{digest}.safetensors"
    with pytest.raises(UserError, match=f"net-{digest}.safetensors.*example.org/models"):
        start.initial_weights(config)
    path = tmp_path / f"net-{digest}.safetensors"
    path.write_bytes(safetensors_file({"weight": np.arange(3.0)}))
    with pytest.raises(UserError, match=f"not with {digest}"):
        start.initial_weights(config)
    true = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    path.rename(tmp_path / f"net-{true}.safetensors")
    config.init_url = f"https://example.org/models/net-{true}.safetensors"
    np.testing.assert_array_equal(start.initial_weights(config)["weight"], np.arange(3.0))


@pytest.mark.slow
def test_a_workdir_belongs_to_one_configuration(tree):
    # Not yet to this one, which fails when it reads its first batches.
    video, elsewhere = tree / "data" / "rawframes" / "train5", tree / "elsewhere"
    video.rename(elsewhere)
    flags = ["--config.optim.lr=0.2", "--config.data.on_error=raise"]
    check_refusal(run(tree, *flags), str(video))
    elsewhere.rename(video)
    assert run(tree, "--config.train.steps=1").returncode == 0
    check_refusal(run(tree, "--config.optim.lr=0.1"), "optim.lr: 0.05 -> 0.1")
    check_refusal(
        run(tree, "--mode=eval", f"--checkpoint={tree}/run", "--config.model.head=tsn"),
        "holds another model",
    )


def test_a_workdir_must_be_writable(tree):
    check_refusal(run(tree, workdir="recipe.py/run"), "cannot write to the working directory")


@pytest.mark.slow
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
    assert finding.find(tree / "run").name == "3"
    assert run(tree, "--config.train.steps=6").returncode == 0


# Looking at the data


@pytest.mark.parametrize("as_json", [False, True])
def test_the_data_of_a_recipe_is_looked_at(tree, as_json):
    flags = [f"--config.data_dir={tree}/data", f"--to={tree}/looked", *["--json"] * as_json]
    words = ["-m", "trn_jax.cli", "check", f"{tree}/recipe.py", *flags]
    (tree / "data" / "rawframes" / "val3" / "00002.jpg").unlink()
    done = subprocess.run(
        [sys.executable, *words], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1, done.stderr
    if as_json:
        found = json.loads(done.stdout)["lists"]
        assert (found["train"]["videos"], found["train"]["problems"]) == (24, [])
        (problem,) = found["val"]["problems"]
        assert problem["line"] == 4 and "00002.jpg" in problem["problems"][0]
    else:
        assert "train: 24 videos, 0 with problems\nval: 10 videos, 1 with problems" in done.stdout
    assert (tree / "looked" / "val_quarantine.txt").read_text().startswith("val3 ")
    assert not (tree / "run").exists()
