"""The wheel: what people install has all that runs without the repository."""

import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

from trn_jax import config

REPOSITORY = pathlib.Path(__file__).parent.parent
LOAD_ALL = """
import trn_jax
from trn_jax import config
print(trn_jax.__file__)
for name in config.recipe_names():
    print(name, config.recipe(name).get_config().model.name)
"""
NOTHING_ELSE = """
import sys
for name in ("configs", "scripts", "tests"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"{name} can be imported")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    (path,) = folder.glob("*.whl")
    return path


def run(python, *arguments, cwd, **environment):
    inherited = {key: os.environ[key] for key in os.environ if key != "PYTHONPATH"}
    done = subprocess.run(
        [python, *arguments],
        cwd=cwd,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_recipes_and_the_page_come_with_the_package(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "unpacked")
    pages = tmp_path / "unpacked" / "trn_jax" / "pages"
    assert {"style.css", "sorting.js", "thresholds.js"} <= {path.name for path in pages.iterdir()}
    (tmp_path / "elsewhere").mkdir()
    said = run(
        sys.executable,
        *("-c", LOAD_ALL),
        cwd=tmp_path / "elsewhere",
        PYTHONPATH=str(tmp_path / "unpacked"),
    )
    page = tmp_path / "unpacked" / "trn_jax" / "export" / "page"
    assert {path.name for path in page.iterdir()} >= {"index.html", "page.js", "style.css"}
    first, *lines = said.splitlines()
    assert pathlib.Path(first).is_relative_to(tmp_path / "unpacked")
    assert [line.split()[0] for line in lines] == config.recipe_names()


@pytest.mark.slow
def test_a_fresh_environment_trains(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    scripts = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python = str(scripts / "python")
    run(python, "-m", "pip", "install", "--quiet", str(wheel), cwd=tmp_path)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    said = run(python, "-c", LOAD_ALL, cwd=folder)
    assert len(said.splitlines()) == 1 + len(config.recipe_names())
    run(python, "-c", NOTHING_ELSE, cwd=folder)
    assert "prepare" in run(str(scripts / "trn-jax"), "--help", cwd=folder)
    for recipe in ("trn_synthetic", "tsn_synthetic"):
        small = ["--config.train.steps=5", "--config.train.batch=8", "--config.model.width=4"]
        run(python, "-m", "trn_jax.main", f"--config={recipe}", *small, cwd=folder)
        assert (folder / "runs" / recipe / "results" / "efficient.json").exists()
