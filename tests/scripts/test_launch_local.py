"""The local launcher starts processes together and leaves none behind."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "scripts" / "launch_local.py"
SLEEP = "import time; time.sleep(600)"


def start(*flags, script, arguments=()):
    """Start the launcher with a Python `script`, in which `index` is that of its process."""
    script = f"import os, sys, time\nindex = int(os.environ['TRN_JAX_PROCESS_ID'])\n{script}"
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *flags, "--", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"XLA_FLAGS": "--other --xla_force_host_platform_device_count=8"},
    )


def launch(*flags, script, arguments=()):
    """Run it to its end: exit status, standard output, standard error."""
    process = start(*flags, script=script, arguments=arguments)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def is_alive(pid):
    """Whether a process is there and has not ended."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def pids(folder, count):
    """The ids that processes have written to `folder/<anything>`, when there are `count`."""
    written = [path.read_text() for path in folder.glob("*")]
    return [int(text) for text in written if text] if len(written) == count else []


WRITE_ID = """
open(f"{sys.argv[1]}/{os.getpid()}", "w").write(str(os.getpid()))
"""


@pytest.mark.parametrize(
    "flags",
    [("--processes=3", "--devices-per-process=4"), ("--hosts=3", "--devices-per-host=4")],
    ids=["flags", "aliases"],
)
def test_every_process_has_its_place_and_its_lines_an_index(flags):
    script = """
print("out", index, os.environ["TRN_JAX_NUM_PROCESSES"], os.environ["JAX_PLATFORMS"])
print("flags", os.environ["XLA_FLAGS"])
print(os.environ["TRN_JAX_COORDINATOR"], os.getpgid(0) == os.getpid(), file=sys.stderr)
"""
    status, out, err = launch(*flags, script=script)
    assert status == 0
    expected = [f"[{n}] out {n} 3 cpu" for n in range(3)]
    xla = "--other  --xla_force_host_platform_device_count=4"
    assert sorted(out.splitlines()) == sorted(expected + [f"[{n}] flags {xla}" for n in range(3)])
    places = {line[4:] for line in err.splitlines()}
    assert len(places) == 1
    assert places.pop().endswith(" True")


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("sys.exit(3 * index)", 3),
        ("sys.exit([3, 2][index])", 2),
        ("os.kill(os.getpid(), 9) if index else None", 137),
    ],
)
def test_the_exit_status_is_that_of_the_failure(script, expected):
    assert launch(script=script)[0] == expected


def test_when_one_fails_the_others_are_ended_even_if_they_do_not_want_to(tmp_path):
    script = f"""
import signal
signal.signal(signal.SIGTERM, lambda *_: print("not me", flush=True))
{WRITE_ID}
while len(os.listdir(sys.argv[1])) < 2:
    time.sleep(0.01)
if index:
    sys.exit(5)
while True:
    time.sleep(1)
"""
    status, out, err = launch("--grace=2", script=script, arguments=[tmp_path])
    assert status == 5
    assert "[0] not me" in out
    assert re.search(r"process 1 .* 5$", err, re.MULTILINE)
    assert not any(map(is_alive, pids(tmp_path, 2)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_go_on_to_all_and_nothing_starts_again(tmp_path, number):
    script = f"""
import signal
def stop(number, _):
    print("got", number, flush=True)
    sys.exit(75)
signal.signal({int(number)}, stop)
{WRITE_ID}
time.sleep(600)
"""
    process = start("--restarts=3", script=script, arguments=[tmp_path])
    wait_until(lambda: pids(tmp_path, 2))
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert sorted(out.splitlines()) == [f"[{index}] got {int(number)}" for index in range(2)]
    assert " 2 of at most" not in err


@pytest.mark.parametrize(("failure", "starts"), [(1, 3), (75, 3), (2, 1)])
def test_restarts(tmp_path, failure, starts):
    """All start again, unless the error is one that would come again."""
    script = f"""
{WRITE_ID}
if index == 0:
    sys.exit({failure})
time.sleep(600)
"""
    flags = ("--restarts=2", "--grace=0.2")
    status, _, err = launch(*flags, script=script, arguments=[tmp_path])
    assert status == failure
    assert len(re.findall(r"^launch_local: process 0 .* \d+$", err, re.MULTILINE)) == starts


def test_a_restart_that_goes_well_ends_well(tmp_path):
    script = f"{WRITE_ID}\nsys.exit(index and len(os.listdir(sys.argv[1])) < 3)"
    status, _, err = launch("--restarts=5", script=script, arguments=[tmp_path])
    assert status == 0, err


def test_nothing_is_left_when_the_launcher_is_killed(tmp_path):
    """Neither the processes nor what they have started."""
    script = f"""
import subprocess
subprocess.Popen([sys.executable, "-c", {f"import sys, os{WRITE_ID}{SLEEP}"!r}, sys.argv[1]])
{WRITE_ID}
time.sleep(600)
"""
    process = start(script=script, arguments=[tmp_path])
    wait_until(lambda: len(pids(tmp_path, 4)) == 4)
    found = pids(tmp_path, 4)
    assert all(map(is_alive, found))
    process.kill()
    process.communicate(timeout=60)
    wait_until(lambda: not any(map(is_alive, found)))


def test_a_command_that_cannot_be_started():
    command = [sys.executable, str(SCRIPT), "--restarts=3", "--", "/no/such/program"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "/no/such/program" in done.stderr and "Traceback" not in done.stderr
