"""Worker processes: the same batches, and an end with the trainer."""

import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from absl import flags
from grey_videos import (
    assert_same_batches,
    assert_same_videos,
    batch_reader,
    eval_videos,
    evaluate,
    train,
)

from trn_jax.data import pipeline
from trn_jax.data.decode import FrameError
from trn_jax.errors import PassingError
from trn_jax.signals import STOP_SIGNALS


@pytest.mark.thorough
def test_batches_do_not_depend_on_worker_processes(grey, reference):
    flags.FLAGS.mark_as_parsed()
    assert_same_batches(train(batch_reader(grey), 10, num_workers=2), reference)
    assert_same_videos(evaluate(grey, num_workers=2, num_threads=2), evaluate(grey))


TRAINER = """
import json, multiprocessing, sys, time
from absl import flags
sys.path.insert(0, {here!r})
import pathlib, grey_videos
from trn_jax.data import pipeline

if __name__ == "__main__":
    flags.FLAGS.mark_as_parsed()
    reader = grey_videos.batch_reader(pathlib.Path({root!r}), on_error="raise")
    batches = pipeline.train_batches(reader, batch={batch}, seed=0, num_workers=2)
    for _ in range(2):  # one of each worker
        next(batches)
    print(json.dumps([child.pid for child in multiprocessing.active_children()]), flush=True)
    time.sleep(600)
"""


def is_alive(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def shared_memory(num_bytes):
    """Blocks of shared memory of a batch's size."""
    found = set()
    for entry in pathlib.Path("/dev/shm").iterdir():
        try:
            if entry.stat().st_size == num_bytes:
                found.add(entry.name)
        except FileNotFoundError:
            continue
    return found


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc and /dev/shm")
def test_worker_processes_end_with_a_killed_trainer_and_leave_no_shared_memory(grey, tmp_path):
    # Whose clips have a size that no other program's shared memory has, nor this test's elsewhere.
    batch = 40 + os.getpid() % 60
    num_bytes = batch * 3 * 16 * 16 * 3
    script = tmp_path / "trainer.py"
    here = os.path.dirname(__file__)
    script.write_text(TRAINER.format(here=here, root=str(grey), batch=batch))
    before = shared_memory(num_bytes)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as trainer:
        workers = []
        try:
            workers = json.loads(trainer.stdout.readline())
            assert len(workers) == 2 and all(map(is_alive, workers))
            assert wait_for(lambda: shared_memory(num_bytes) > before)
        finally:
            trainer.send_signal(signal.SIGKILL)
    try:
        assert wait_for(lambda: not any(map(is_alive, workers)))
        assert wait_for(lambda: shared_memory(num_bytes) <= before)
    finally:
        for pid in filter(is_alive, workers):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.by_default("False-9")
@pytest.mark.parametrize(("evaluates", "signum"), [(False, signal.SIGKILL), (True, signal.SIGSEGV)])
def test_a_killed_worker_process_is_named_and_does_not_hang(grey, evaluates, signum):
    flags.FLAGS.mark_as_parsed()
    others = set(multiprocessing.active_children())
    if evaluates:
        batches = iter(eval_videos(grey, times=50, num_workers=2))
    else:
        batches = pipeline.train_batches(batch_reader(grey), batch=4, seed=0, num_workers=2)
    try:
        next(batches)
        workers = set(multiprocessing.active_children()) - others
        assert len(workers) == 2
        os.kill(min(worker.pid for worker in workers), signum)
        with pytest.raises(PassingError, match=rf"died \(exit code -{int(signum)}.*num_workers=0"):
            for _ in batches:
                pass
    finally:
        batches.close()
    assert wait_for(lambda: not any(worker.is_alive() for worker in workers))


@pytest.mark.thorough
def test_worker_processes_stay_for_the_next_pass(grey):
    flags.FLAGS.mark_as_parsed()
    others = set(multiprocessing.active_children())
    expected = [video.example for video in evaluate(grey)]
    videos = eval_videos(grey, num_workers=2)
    seen = []
    try:
        for _ in range(3):
            assert [video.example for video in videos] == expected
            seen.append(set(multiprocessing.active_children()) - others)
        assert len(seen[0]) == 2 and seen[0] == seen[1] == seen[2]
        given_up = iter(videos)
        assert next(given_up).example == expected[0]
        given_up.close()
        assert wait_for(lambda: not any(worker.is_alive() for worker in seen[0]))
        assert [video.example for video in videos] == expected
    finally:
        videos.close()
    assert wait_for(lambda: set(multiprocessing.active_children()) <= others)


@pytest.mark.thorough
def test_worker_processes_leave_signals_to_the_trainer(grey):
    """Ctrl-C reaches all processes, and the trainer may need batches to come to its end."""
    flags.FLAGS.mark_as_parsed()
    others = set(multiprocessing.active_children())
    batches = pipeline.train_batches(batch_reader(grey), batch=4, seed=0, num_workers=2)
    try:
        for _ in range(2):  # one of each: both have begun
            next(batches)
        workers = set(multiprocessing.active_children()) - others
        for worker in workers:
            for number in STOP_SIGNALS:
                os.kill(worker.pid, number)
        for _ in range(20):
            next(batches)
        assert len(workers) == 2 and all(worker.is_alive() for worker in workers)
    finally:
        batches.close()
    assert wait_for(lambda: not any(worker.is_alive() for worker in workers))


@pytest.mark.thorough
def test_a_video_that_cannot_be_read_is_named_by_worker_processes(corrupt):
    flags.FLAGS.mark_as_parsed()
    with pytest.raises(FrameError, match=rf"{corrupt}/v(4/|10 not found)"):
        train(batch_reader(corrupt), 12, num_workers=2)
