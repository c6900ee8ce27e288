"""Several hosts: how they find each other, and that they compute what one host computes."""

import dataclasses
import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from small_training import REPOSITORY, command, environment, losses, make_tree, parameters

from trn_jax import checks
from trn_jax.checkpoints import finding
from trn_jax.config import base
from trn_jax.data import datasets
from trn_jax.distributed import processes, watchdog
from trn_jax.distributed.sharding import make_mesh
from trn_jax.errors import STUCK, UserError
from trn_jax.recipe_data import Data
from trn_jax.training import loop

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[3-4]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_NODES": "2",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}


@pytest.fixture
def initialized(monkeypatch):
    """What the runtime is asked to do; the environment knows of no hosts."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_", "JOB_", "TRN_JAX_", "TPU_")):
            monkeypatch.delenv(name)
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: asked.append(options))
    return asked


def set_all(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def free_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def test_one_process_initializes_nothing(initialized, monkeypatch):
    processes.initialize()
    processes.initialize(num_processes=1)
    set_all(monkeypatch, SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"})
    processes.initialize()
    set_all(monkeypatch, SLURM)
    processes.initialize(num_processes=1)  # one of the tasks, by itself
    assert initialized == []


def test_the_flags_say_where_the_hosts_are(initialized, monkeypatch):
    set_all(monkeypatch, SLURM)  # is not asked
    address = free_address()
    for host in range(2):
        processes.initialize(address, 2, host)
    assert [options["process_id"] for options in initialized] == [0, 1]
    for options in initialized:
        assert (options["coordinator_address"], options["num_processes"]) == (address, 2)
        assert options["cluster_detection_method"] == "deactivate"


def test_the_environment_says_what_the_flags_do_not(initialized, monkeypatch):
    address = free_address()
    assert processes.VARIABLES == (
        "TRN_JAX_COORDINATOR",
        "TRN_JAX_NUM_PROCESSES",
        "TRN_JAX_PROCESS_ID",
    )
    for names in (("TRN_JAX_NUM_HOSTS", "TRN_JAX_HOST"), processes.VARIABLES[1:]):
        set_all(monkeypatch, dict(zip(names, ("3", "2"), strict=True)))
        monkeypatch.setenv("TRN_JAX_COORDINATOR", address)
        processes.initialize()
        options = initialized.pop()
        assert (options["num_processes"], options["process_id"]) == (3, 2)
        for name in names:
            monkeypatch.delenv(name)
    set_all(monkeypatch, dict(TRN_JAX_NUM_PROCESSES="3", TRN_JAX_PROCESS_ID="two"))
    with pytest.raises(UserError, match="TRN_JAX_PROCESS_ID=two"):
        processes.initialize()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((None, 2, 0), "--num_processes, --process_id without --coordinator_address"),
        (("10.0.0.1:80", None, 0), "--coordinator_address, --process_id without --num_processes"),
        (("10.0.0.1:80", 2, None), "--coordinator_address, --num_processes without --process_id"),
        ((None, 1, 1), "--num_processes, --process_id without --coordinator_address"),
        (("10.0.0.1:80", 2, 2), "--num_processes=2 and --process_id=2"),
        (("10.0.0.1:80", 2, -1), "--num_processes=2 and --process_id=-1"),
        (("10.0.0.1:80", 0, 0), "--num_processes=0 and --process_id=0"),
        (("10.0.0.1", 2, 1), "--coordinator_address=10.0.0.1 is not <host>:<port>"),
        (("10.0.0.1:http", 2, 1), "is not <host>:<port>"),
        (("10.0.0.1:65536", 2, 1), "is not <host>:<port>"),
    ],
)
def test_flags_that_do_not_fit_together(initialized, flags, message):
    with pytest.raises(UserError, match=message):
        processes.initialize(*flags)
    assert initialized == []


def test_a_port_that_is_taken(initialized):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(UserError, match=r"127\.0\.0\.1:\d+: .*in use"):
            processes.initialize(address, 2, 0)
        processes.initialize(address, 2, 1)  # does not wait there
    assert len(initialized) == 1


@pytest.mark.parametrize("cluster", [SLURM, OPEN_MPI])
def test_clusters_are_found(initialized, monkeypatch, cluster):
    set_all(monkeypatch, cluster)
    processes.initialize(timeout=7)
    (options,) = initialized
    # The watchdog comes before the runtime, which ends a process without a word.
    assert options.pop("heartbeat_timeout_seconds") > watchdog.SILENCE
    assert options == {"initialization_timeout": 67, "local_device_ids": None}


@pytest.mark.parametrize(("tasks", "devices"), [("2", [0, 1, 2, 3]), ("8", None)])
def test_a_task_of_slurm_with_a_node_of_its_own_takes_all_gpus(
    initialized, monkeypatch, tasks, devices
):
    set_all(monkeypatch, SLURM | {"SLURM_NTASKS": tasks, "SLURM_GPUS_ON_NODE": "4"})
    processes.initialize()
    assert initialized[0]["local_device_ids"] == devices


def test_a_cluster_that_cannot_be_understood(initialized, monkeypatch):
    set_all(monkeypatch, SLURM | {"SLURM_NTASKS": "many"})
    with pytest.raises(UserError, match=r"many.*--num_processes=1"):
        processes.initialize()


def test_a_pod_without_a_number_is_alone(initialized, monkeypatch, recwarn):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    processes.initialize()
    assert not initialized and not recwarn


@pytest.mark.parametrize("host", [0, 1])
def test_hosts_that_do_not_come_are_told_of(host):
    """By the process that waits: the runtime would abort it."""
    script = "from trn_jax.distributed import processes; "
    script += f"processes.initialize({free_address()!r}, 2, {host}, timeout=1)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == STUCK
    assert "not all processes connected within 1 s (at 127.0.0.1:" in done.stderr
    assert f"by process {host} of 2" in done.stderr


@pytest.mark.parametrize(("host", "order"), [(0, ["write", "wait"]), (1, ["wait", "write"])])
def test_the_first_host_goes_first(monkeypatch, host, order):
    happened = []
    monkeypatch.setattr(jax, "process_index", lambda: host)
    monkeypatch.setattr(processes, "barrier", lambda: happened.append("wait"))
    with processes.process_zero_first():
        happened.append("write")
    assert happened == order
    happened.clear()

    def write():
        with processes.process_zero_first():
            happened.append("write")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert happened == order  # the others do not wait for ever


def test_data_is_written_by_one_host_first(monkeypatch, tmp_path):
    happened = []
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(processes, "barrier", lambda: happened.append("wait"))
    locate = datasets.locate
    monkeypatch.setattr(
        datasets, "locate", lambda *a, **k: happened.append("locate") or locate(*a, **k)
    )
    config = base(dataset="frames", model="tsn_resnet10", num_classes=2)
    config.data_dir = str(tmp_path / "missing")
    with pytest.raises(UserError, match=r"--config\.data_dir="):
        Data(config, str(tmp_path))
    assert happened == ["wait", "locate"]


@pytest.mark.smoke
def test_the_batch_is_cut_over_all_hosts():
    config = base(dataset="frames", model="tsn_resnet10", num_classes=2)
    config.train.batch = 12
    with pytest.raises(UserError, match=r"train.batch=12 .*8 devices \(2 processes x 4\)"):
        checks.check_batch(config, 8, 2)


@dataclasses.dataclass(frozen=True)
class Device:
    process_index: int
    id: int


def test_the_devices_of_a_host_are_side_by_side():
    """Hosts of a TPU pod lie in a grid, whose chips are numbered row by row."""
    pod = [Device(number // 2 % 2, number) for number in range(8)]
    assert [d.process_index for d in pod] == [0, 0, 1, 1, 0, 0, 1, 1]
    found = [d.id for d in make_mesh(pod).devices]
    assert found == [0, 1, 4, 5, 2, 3, 6, 7]


def test_hosts_with_unequal_numbers_of_devices_are_refused():
    with pytest.raises(UserError, match="process 0 has 2, process 1 has 1"):
        make_mesh([Device(0, 0), Device(0, 1), Device(1, 2)])


# The same training on 2 hosts x 4 devices, 1 x 8 and 1 x 1


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts")
    make_tree(folder)
    return folder


def train_on_two_hosts(tree, workdir, *flags):
    """What the two processes print."""
    done = subprocess.run(
        command(tree, workdir, *flags),
        env=environment(),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done


def train_here(tree, workdir, monkeypatch, *, num_devices):
    """Train on the devices of this process."""
    config = runpy.run_path(f"{tree}/recipe.py")["get_config"]()
    config.data_dir = str(tree / "data")
    monkeypatch.setattr(loop, "make_mesh", lambda: make_mesh(jax.devices()[:num_devices]))
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)  # for all threads
    try:
        assert loop.train(config, str(tree / workdir)) == 0
    finally:
        jax.config.update("jax_enable_x64", before)


def assert_same(folder, other):
    """Losses and parameters of two trainings, which are in float64."""
    assert len(losses(folder)) == 5
    np.testing.assert_allclose(losses(folder), losses(other), rtol=0, atol=1e-9)
    a, b = parameters(folder), parameters(other)
    assert a.keys() == b.keys()
    assert {value.dtype.name for value in a.values()} <= {"float64", "int32"}
    for name, value in a.items():
        np.testing.assert_allclose(value, b[name], rtol=0, atol=1e-9, err_msg=name)


@pytest.fixture(scope="module")
def two_hosts(tree):
    """The working directory of a training of two hosts, and what they said."""
    return tree / "two_hosts", train_on_two_hosts(tree, "two_hosts")


@pytest.mark.thorough
def test_two_hosts_compute_what_one_host_and_one_device_compute(tree, two_hosts, monkeypatch):
    """Statistics of groups of two clips, and drawn relations, included."""
    folder, _ = two_hosts
    for num_devices in (8, 1):
        train_here(tree, f"one_host_{num_devices}", monkeypatch, num_devices=num_devices)
        assert_same(folder, tree / f"one_host_{num_devices}")


@pytest.mark.thorough
def test_only_the_first_host_says_something(two_hosts):
    folder, done = two_hosts
    # The runtime writes of its connections on both, in pieces.
    told = "step 1|parameters|videos|labels|results|top-1|error|saved|stopped"
    lines = [line for line in (done.stdout + done.stderr).splitlines() if re.search(told, line)]
    assert any("step 5/5" in line for line in lines)
    assert any("results in" in line for line in lines)
    assert [line for line in lines if not line.startswith("[0]")] == []
    assert json.loads((folder / "environment.json").read_text())["processes"] == 2
    assert json.loads((folder / "results/efficient.json").read_text())["num_videos"] == 7


@pytest.mark.slow
def test_two_hosts_accumulate_as_one_step(tree, two_hosts):
    train_on_two_hosts(tree, "accumulated", "--config.train.accumulation=2")
    assert_same(two_hosts[0], tree / "accumulated")


@pytest.mark.slow
def test_a_checkpoint_of_two_hosts_goes_on_on_one(tree, two_hosts, monkeypatch):
    folder, _ = two_hosts
    resumed = tree / "resumed"
    shutil.copytree(folder, resumed)
    shutil.rmtree(resumed / "checkpoints/5")
    assert finding.find(resumed).name == "3"
    train_here(tree, "resumed", monkeypatch, num_devices=8)
    assert finding.find(resumed).name == "5"
    assert_same(folder, resumed)


@pytest.mark.slow
def test_two_hosts_go_on_from_the_checkpoint_before_a_damaged_one(tree, two_hosts):
    folder, _ = two_hosts
    shutil.copytree(folder, tree / "damaged")
    largest = max(
        (tree / "damaged/checkpoints/5/model").rglob("*"), key=lambda path: path.stat().st_size
    )
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    done = train_on_two_hosts(tree, "damaged")
    told = re.findall(r"\[(\d)\] the checkpoint of step 5 is corrupt: (\w+)/", done.stderr)
    assert told == [("0", "model")]
    assert "resuming after step 3" in done.stderr
    assert (tree / "damaged/checkpoints/5.damaged").is_dir()
    assert_same(folder, tree / "damaged")


@pytest.mark.slow
def test_a_state_that_is_cut_over_two_hosts(tree, two_hosts, monkeypatch):
    """Its checkpoint is resumed with whole arrays, on one host."""
    folder, _ = two_hosts
    train_on_two_hosts(tree, "cut", "--config.train.shard_state=all")
    assert_same(folder, tree / "cut")
    metrics = [
        json.loads((each / "results/efficient.json").read_text())["metrics"]
        for each in (folder, tree / "cut")
    ]
    assert metrics[0] == metrics[1]
    shutil.rmtree(tree / "cut/checkpoints/5")
    train_here(tree, "cut", monkeypatch, num_devices=8)
    assert_same(folder, tree / "cut")
