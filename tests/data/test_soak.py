"""Loaders that run for long: memory, threads and open files stay as they are after the start."""

import json
import os
import subprocess
import sys

import grey_videos
import pytest

PROGRAM = """
import gc, json, os, pathlib, sys, threading
import grey_videos
from trn_jax.data import batches, pipeline

root, num_batches, evaluates = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "eval"

def stream():
    if not evaluates:
        yield from pipeline.train_batches(grey_videos.batch_reader(root), batch=4, seed=0)
    while True:
        videos = iter(grey_videos.eval_videos(root, grey_videos.PROTOCOLS, num_threads=2))
        yield from batches.pack_clips(videos, 8)

def used():
    gc.collect()
    status = pathlib.Path("/proc/self/status").read_text()
    (resident,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    return int(resident), threading.active_count(), len(os.listdir("/proc/self/fd"))

found = []
for number, batch in enumerate(stream()):
    if number % (num_batches // 8) == 0:
        found.append(used())
    if number == num_batches:
        break
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="nothing tells what is in use")
@pytest.mark.parametrize("kind", ["train", "eval"])
@pytest.mark.parametrize("num_batches", [800, pytest.param(10_000, marks=pytest.mark.slow)])
def test_loaders_stay_as_large_as_they_are(grey, kind, num_batches):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(grey), str(num_batches), kind],
        env=os.environ | {"PYTHONPATH": os.path.dirname(grey_videos.__file__)},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    resident, threads, files = zip(*json.loads(done.stdout), strict=True)
    assert len(resident) == 9
    assert max(resident[4:]) < 1.02 * max(resident[1:4])  # kilobytes
    # At any moment one may be coming or going; what leaks stays.
    assert min(threads[4:]) <= max(threads[1:4])
    assert min(files[4:]) <= max(files[1:4])
