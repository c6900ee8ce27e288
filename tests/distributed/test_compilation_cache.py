"""Compiled programs are kept beside the working directory, unless JAX was told otherwise."""

import os
import subprocess
import sys

import jax
import pytest

from trn_jax.distributed import compilation_cache


@pytest.fixture
def settings(monkeypatch):
    """JAX as it is on a GPU, with nothing set; what is set from here on is undone."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    yield jax.config
    jax.config.update("jax_compilation_cache_dir", before)
    jax.config.update("jax_enable_compilation_cache", True)


def test_the_folder_is_beside_the_working_directory(settings, tmp_path):
    compilation_cache.keep_programs(tmp_path / "runs/trn")
    folder = tmp_path / "runs/.compilation_cache"
    assert settings.jax_compilation_cache_dir == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.keep_programs(f"{tmp_path}/runs/other")
    assert settings.jax_compilation_cache_dir == str(folder)


def test_what_was_set_stays(settings, tmp_path, monkeypatch):
    jax.config.update("jax_compilation_cache_dir", "elsewhere")
    compilation_cache.keep_programs(tmp_path / "trn")
    assert settings.jax_compilation_cache_dir == "elsewhere"
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.keep_programs(tmp_path / "trn")
    assert settings.jax_compilation_cache_dir is None
    jax.config.update("jax_enable_compilation_cache", True)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    compilation_cache.keep_programs(tmp_path / "trn")
    assert settings.jax_compilation_cache_dir is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("reason", ["a file", "of another user", "read-only"])
def test_a_folder_of_no_use_is_told_of(settings, tmp_path, monkeypatch, capsys, reason):
    folder = tmp_path / ".compilation_cache"
    if reason == "a file":
        folder.write_text("")
    if reason == "of another user":
        monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    if reason == "read-only":
        monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    compilation_cache.keep_programs(tmp_path / "trn")
    assert settings.jax_compilation_cache_dir is None
    told = {"a file": "File exists", "of another user": "another user", "read-only": "written to"}
    (line,) = capsys.readouterr().err.splitlines()
    assert str(folder) in line and told[reason] in line and "JAX_COMPILATION_CACHE_DIR" in line


SCRIPT = """
import sys, jax, jax.numpy as jnp
from trn_jax.distributed import compilation_cache
jax.default_backend = lambda: "gpu"
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
compilation_cache.keep_programs(sys.argv[1])
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append("cache_hits" in name))
print(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((3, 3))).sum(), sum(hits))
"""


def test_the_second_start_compiles_nothing(tmp_path):
    without = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}

    def start():
        arguments = [sys.executable, "-c", SCRIPT, str(tmp_path / "trn")]
        done = subprocess.run(arguments, env=without, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    value, hits = start()
    assert hits == "0"
    # A file that another host is writing, or that was cut off.
    files = sorted((tmp_path / ".compilation_cache").glob("jit__lambda*-cache"))
    assert len(files) == 1
    again, hits = start()
    assert again == value and int(hits) > 0
    files[0].write_bytes(files[0].read_bytes()[:100])
    assert start()[0] == value
