"""Shared set-up of the tests: eight virtual CPU devices and a cache of compiled programs."""

import collections
import copy as copying
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile

# Before the first import of jax: all are read when it starts. Most of the time of these tests goes
# into compiling programs that run once, which takes half as long if LLVM does not optimise; those
# that take long to run ask for it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_backend_optimization_level=0",
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
    ]
)
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "trn_jax_test_cache")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import jax
import pytest

GOLDENS = pathlib.Path(__file__).parent / "goldens"
_MAX_BYTES = 2 << 30  # of memory that a process of tests keeps
_LONG = ("training", "distributed", "checkpoints", "tests", "configs")  # folders of long tests
sys.path.insert(0, str(GOLDENS))  # goldens/weights.py draws weights and clips from names and seeds

jax.config.update("jax_default_matmul_precision", "highest")


def pytest_configure():
    """Let processes that tests start have the signals of the terminal, also in the background."""
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    for number, handler in defaults.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by marker
def pytest_collection_modifyitems(items):
    """Put tests in order, and give the cases of a parametrised test different markers.

    `@pytest.mark.by_default(2)` leaves its first two cases to plain `pytest`,
    `@pytest.mark.by_default("trn", "tsm")` those with one of these texts in their names; the others
    are `thorough`, and `slow` where its argument `slow` names them, too.
    `@pytest.mark.thorough(2)` and the like make the others `slow`.
    """
    # Long files first: with the short ones at the end, all workers finish at about the same time.
    folders = {item: item.path.parent.name for item in items}
    items.sort(key=lambda item: [*_LONG, folders[item]].index(folders[item]))
    seen = collections.Counter()

    def is_among(case, number, chosen):
        return any(number <= c if isinstance(c, int) else c in case for c in chosen)

    for item in items:
        test, _, case = item.nodeid.partition("[")
        seen[test] += 1
        if mark := item.get_closest_marker("by_default"):
            if not is_among(case, seen[test], mark.args):
                item.add_marker(pytest.mark.thorough)
            if is_among(case, seen[test], mark.kwargs.get("slow", ())):
                item.add_marker(pytest.mark.slow)
        mark = item.get_closest_marker("thorough")
        if mark and mark.args and not is_among(case, seen[test], mark.args):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Forget compiled programs after a file if they fill the memory: others share the machine."""
    if (nextitem is None or nextitem.path != item.path) and _resident_bytes() > _MAX_BYTES:
        jax.clear_caches()


def _resident_bytes():
    pages = pathlib.Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages.exists() else 0


@pytest.fixture(scope="session")
def golden():
    """Read one file of reference numbers: `golden("cases/tsn_r50_3seg")`."""

    def read(name):
        return json.loads((GOLDENS / f"{name}.json").read_text())

    return read


@pytest.fixture(scope="session")
def first_training(tmp_path_factory):
    """The configuration of a tiny training, and the folder of it, its data and its recipe."""
    from tiny_training import tiny_training

    from trn_jax.training import loop

    folder = tmp_path_factory.mktemp("first_training")
    config = tiny_training(folder)
    assert loop.train(config, str(folder / "run")) == 0
    assert {path.name for path in (folder / "run" / "checkpoints").iterdir()} == {"3", "6"}
    return config, folder


@pytest.fixture(scope="module")
def trained(first_training, tmp_path_factory):
    """The configuration of a tiny training and its working directory, with checkpoints 3 and 6."""
    config, folder = first_training
    place = shutil.copytree(folder, tmp_path_factory.mktemp("trained") / "training")
    return copying.deepcopy(config), place / "run"


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the working directory."""
    return shutil.copytree(trained[1], tmp_path / "run")
