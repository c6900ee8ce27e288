"""Checks that the programs, flags, settings and files of a documented command exist."""

import os
import pathlib
import re
import shlex
import tomllib

from trn_jax import config as configuration
from trn_jax.errors import UserError
from trn_jax.recipe_flags import with_settings

REPOSITORY = pathlib.Path(__file__).parent.parent


def check_command(tools, text):
    """Check a command of a shell.

    Args:
        tools: the module `scripts/docs_pages.py`.
        text: the command, perhaps of several programs.

    Raises:
        AssertionError: a program, flag, setting, recipe or file doesn't exist.
    """
    words = shlex.split(text.replace("\\\n", " "), comments=True)
    part = []
    for word in [*words, "&&"]:
        if word in ("&&", "|"):
            _check_program(tools, part)
            part = []
        elif word != ">" and part[-1:] != [">"]:
            part.append(word)
        else:
            part = [*part, word] if word == ">" else part[:-1]


def _check_program(tools, words):
    program, *rest = words
    if program == "trn-jax":
        _check_trn_jax(tools, rest)
    elif program == "python" and rest[:2] == ["-m", "trn_jax.main"]:
        _check_main(tools, rest[2:])
    elif program == "python" and rest[0].endswith(".py"):
        _check_script(rest[0], rest[1:])
    elif program == "pip" and rest[0] == "install":
        extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
        for found in re.findall(r"\[(.*?)\]", " ".join(rest)):
            assert set(found.split(",")) <= extras["optional-dependencies"].keys(), found
    elif program == "pytest":
        markers = (REPOSITORY / "pyproject.toml").read_text()
        for marker in re.findall(r"\w+", rest[rest.index("-m") + 1]) if "-m" in rest else ():
            assert marker in ("and", "or", "not") or f'"{marker}: ' in markers, marker
    else:
        known = ("python", "ls", "cat", "head", "cp", "mkdir", "rm", "git", "cd", "ruff", "mypy")
        known += (".ci/run", "srun", "sbatch", "printf", "echo", "npm", "tar")
        known += ("uv", "wheel/bin/pip", "wheel/bin/pytest")
        is_ours = program.startswith("scripts/") and (REPOSITORY / program).is_file()
        assert program in known or is_ours, f"unknown program {program}"


def _check_trn_jax(tools, rest):
    parsers = tools.command_parsers()
    if not rest or rest[0] == "--help":
        return
    assert rest[0] in parsers, f"trn-jax has no command {rest[0]}"
    parser, problems = parsers[rest[0]], []

    def error(message):
        problems.append(message)
        raise SystemExit(message)

    parser.error = error
    if "--help" in rest:
        return
    try:
        chosen, others = parser.parse_known_args(rest[1:])
    except SystemExit:
        raise AssertionError(f"{' '.join(rest)}: {problems}") from None
    recipe = getattr(chosen, "recipe", None) or getattr(chosen, "config", None)
    if others:
        assert getattr(chosen, "takes_settings", False), f"{rest[0]} takes no {others}"
    if rest[0] in ("train", "plan"):
        _check_settings(tools, recipe, others)
    else:
        _check_settings(tools, None, others)


def _check_main(tools, rest):
    _check_settings(tools, None, rest)


def _check_settings(tools, recipe, words):
    """Check settings by applying them to the recipe, and other flags by their names."""
    config = configuration.base(dataset="frames", model="trn_resnet50", num_classes=3)
    config.protocols.accurate = configuration.view(sampling="twice", crop="three")
    named = [word for word in words if word.startswith("--config=")]
    words = [word for word in words if word not in named]
    recipe = recipe or (named[0].partition("=")[2] if named else None)
    if recipe and not os.path.basename(recipe).startswith("my"):
        name = pathlib.Path(recipe).stem
        assert name in configuration.recipe_names(), f"there is no recipe {name}"
        config = configuration.recipe(name).get_config()
    settings = [word for word in words if word.startswith("--config.")]
    try:
        with_settings(config, settings)
    except UserError as error:
        raise AssertionError(str(error)) from None
    flags = tools.main_flags()
    for word in words:
        if word not in settings:
            name = word.lstrip("-").partition("=")[0]
            assert word.startswith("--") and name in flags, f"unknown flag {word}"


def _check_script(path, rest):
    assert (REPOSITORY / path).is_file(), f"there is no {path}"
    folder = REPOSITORY / "scripts" / "benchmarks" if "benchmark" in path else REPOSITORY / path
    files = [REPOSITORY / path, *folder.glob("*.py")] if folder.is_dir() else [folder]
    text = "\n".join(file.read_text() for file in files)
    rest = rest[: rest.index("--")] if "--" in rest else rest
    for word in rest:
        name = word.partition("=")[0].lstrip("-").replace("_", "[-_]")
        if word.startswith("--") and not word.startswith(("--config", "--help")):
            assert re.search(rf"""["'](--)?{name}["']""", text), f"{path} has no flag {word}"
