"""The session on a GPU: its dry run, and the tables of what it measured."""

import importlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parent.parent.parent
SCRIPT = REPOSITORY / "scripts" / "gpu_session.sh"
PARTS = ["steps", "float32", "float32_nhwc", "small_batch", "small_batch_without_command_buffers"]
PARTS += ["loader", "profile", "views_16", "views_64"]


@pytest.fixture
def session(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module("benchmarks.session")


def run(*arguments, timeout=60, cwd=None, **environment):
    return subprocess.run(
        ["bash", str(SCRIPT), *map(str, arguments)],
        env=os.environ | {"PYTHON": sys.executable, "XLA_FLAGS": ""} | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.mark.slow
def test_a_dry_run_goes_through_all_parts(tmp_path, session):
    done = run("--dry-run", tmp_path / "session", timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "session" / "session.json").read_text())
    assert [part["name"] for part in found["parts"]] == PARTS
    assert {part["status"] for part in found["parts"]} == {0} and found["dry_run"]
    records = {part["name"]: part["records"] for part in found["parts"]}
    assert [len(records[name]) for name in PARTS] == [1] * 6 + [0] + [1] * 2
    assert [records[name][0]["dtype"] for name in PARTS[:2]] == ["bfloat16", "float32"]
    assert records["loader"][0]["advice"] and records["views_64"][0]["memory"] > 0
    assert list((tmp_path / "session" / "runs" / "profiled" / "profile").rglob("*.xplane.pb"))
    text = session.page(found)
    assert text in done.stdout and "dry run" in text
    assert str(tmp_path) not in json.dumps(found)


def test_a_part_that_fails_costs_only_that_part(tmp_path):
    """Here it is every part: the interpreter is one that fails."""
    fake = tmp_path / "python"
    fake.write_text(
        f'#!/bin/sh\ncase "$1" in */session.py) exec {sys.executable} "$@";; esac\nexit 3\n'
    )
    fake.chmod(0o755)
    done = run("--dry-run", tmp_path / "out", PYTHON=str(fake))
    found = json.loads((tmp_path / "out" / "session.json").read_text())
    assert [(part["name"], part["status"]) for part in found["parts"]] == [(p, 3) for p in PARTS]
    assert done.returncode == 1 and "views_64" in done.stderr
    assert all(f"== {name}\n" in done.stdout for name in PARTS)


def test_only_what_an_earlier_session_wrote_is_removed(tmp_path):
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\necho "$*"\nexit 3\n')
    fake.chmod(0o755)
    out = tmp_path / "out"
    run("--dry-run", out, PYTHON=str(fake))
    (out / "runs" / "profiled").mkdir(parents=True)
    for kept in ("package.json", "notes.log", "runs/mine.jsonl"):
        (out / kept).write_text("mine")
    # Of a session that ended in its first part, and of one of another version.
    (out / "steps.jsonl").write_text("{}\n")
    (out / "parts.tsv").write_text("sparse\t0\t1\tpython\n")
    (out / "sparse.log").write_text("")
    run("--dry-run", out, PYTHON=str(fake))
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    logs = {f"{name}.log" for name in PARTS}
    assert names == {"parts.tsv", "package.json", "notes.log", "runs/mine.jsonl", *logs}
    assert not (out / "runs" / "profiled").exists()


def test_places_are_those_of_the_caller(tmp_path):
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\necho "$PWD $*"\nexit 3\n')
    fake.chmod(0o755)
    run("--dry-run", "out", "--config.data_dir=data", cwd=tmp_path, PYTHON=str(fake))
    said = (tmp_path / "out" / "loader.log").read_text()
    assert said.startswith(f"{tmp_path} {SCRIPT.parent}/benchmark.py") and "_dir=data" in said


@pytest.mark.parametrize("arguments", [[], ["--dry-run"], ["--config.data_dir=data"]])
def test_the_folder_is_needed(arguments):
    done = run(*arguments)
    assert done.returncode == 2 and "usage" in done.stderr


STEPS = dict(recipe="tsm_k400", shape=[8, 8, 224, 224], dtype="bfloat16", device="NVIDIA H200")
SIDE = dict(clips_per_second=[600.0, 610.0, 590.0], peak_bytes=3 << 30, bandwidth_share=0.44)
LOADER = dict(recipe="trn_synthetic", both=90.0, replayed=100.0, loader=95.0, wait_share=0.1)
VIEWS = dict(recipe="tsn_k400_3seg", protocol="25x10", dtype="bfloat16", memory=2 << 30)


def test_tables_have_a_row_for_everything_measured(session):
    def part(name, *records, status=0):
        return dict(name=name, status=status, seconds=1, command="x", records=list(records))

    sides = {"JAX": SIDE, "PyTorch": SIDE | dict(peak_bytes=None)}
    parts = [
        part("steps", STEPS | dict(sides=sides)),
        part("float32", status=124),
        part("loader", LOADER | dict(advice="none, the loader keeps up")),
        part("views_64", VIEWS | dict(turns=[dict(wall=0.5, cpu=1.0)])),
    ]
    found = dict(machine="a CPU", date="2026-01-01", dry_run=False, parts=parts)
    lines = session.page(found).splitlines()
    assert lines[0] == "NVIDIA H200, 2026-01-01; a CPU."
    assert "Not measured: `float32` (124)." in lines
    step = "| `steps` | `tsm_k400` | 8 | bfloat16 |"
    assert f"{step} JAX | 600 | 3.0 | 0.44 |" in lines
    assert f"{step} PyTorch | 600 |  | 0.44 |" in lines
    assert "| `trn_synthetic` | 90 | 100 | 95 | 10 % | none, the loader keeps up |" in lines
    assert "| `tsn_k400_3seg` | 25x10 | 64 | bfloat16 | 2 | 2.0 |" in lines
    assert "dry run" not in session.page(found)
    assert session.page(None).endswith("yet.")
