"""The documentation: its commands exist and, with `-m docs`, run and print what it shows."""

import functools
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys

import doc_pages
import pytest
import state_dicts
from doc_commands import check_command
from safetensors.numpy import save_file

import trn_jax
from trn_jax import config as configuration

REPOSITORY = pathlib.Path(__file__).parent.parent
DOCS = REPOSITORY / "docs"
PAGES = {path.stem: path for path in sorted(DOCS.glob("*.md"))} | {
    name: REPOSITORY / f"{name}.md" for name in ("CONTRIBUTING", "README")
}
# Pages that have no commands of their own: contents, a frame around another page, and a notebook,
# which tests/test_notebook.py runs.
WITHOUT_COMMANDS = {"index", "contributing", "first_model"}
RUNNABLE = [name for name in PAGES if name not in WITHOUT_COMMANDS]


@pytest.fixture(scope="module")
def tools():
    """The generators of pages, `scripts/docs_pages.py`."""
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    import docs_pages

    yield docs_pages
    sys.path.remove(str(REPOSITORY / "scripts"))


@functools.cache
def page(name):
    return doc_pages.parse(PAGES[name].read_text(encoding="utf-8"))


# Conventions of the pages

EXAMPLE = """# A page

<!-- run: quick="--config.train.steps=2" exit=1 varies -->
```console
$ trn-jax train small \\
    --workdir=runs/a
step 20/314  loss 1.1
...
top-1  99.2
$ ls
```

<!-- not run: needs a camera -->
```python
print(1)
```

```text
nothing
```
"""


def test_commands_are_read_with_their_options_and_output():
    found = doc_pages.parse(EXAMPLE)
    train, ls, program = found.commands
    assert train.text == "trn-jax train small \\\n    --workdir=runs/a"
    assert train.shown == ("step 20/314  loss 1.1", "...", "top-1  99.2")
    assert (train.quick, train.status, train.varies) == ("--config.train.steps=2", 1, True)
    assert (ls.text, ls.shown, program.not_run) == ("ls", (), "needs a camera")
    assert found.languages == ("console", "python", "text")
    assert doc_pages.parse("<!-- after: other -->\n# A page\n").after == "other"
    for fence in ("<!-- run: fast -->\n```console\n$ ls\n```", "```console\nls\n```"):
        with pytest.raises(ValueError, match=r"fast|ls"):
            doc_pages.parse(fence)


def test_output_is_compared_line_by_line_without_numbers():
    output = "loading\nstep 314/314  loss 0.9\nother\ntop-1  100\nend\n"
    shown = doc_pages.parse(EXAMPLE).commands[0].shown
    assert doc_pages.missing_lines(shown, output) == []
    assert doc_pages.missing_lines(["top-1 5", "other"], output) == ["top-1 5", "other"]
    assert doc_pages.missing_lines(["...", "top-5 5"], output) == ["top-5 5"]
    for folder in ("/home/me/", ""):
        assert doc_pages.missing_lines([f"in {folder}runs/a"], "in /tmp/x/runs/a") == []
    assert doc_pages.missing_lines(["no /home/me/a"], "no /tmp/x/b") == ["no /home/me/a"]


@pytest.mark.parametrize("name", RUNNABLE)
def test_every_page_starts_with_a_command(name):
    text = PAGES[name].read_text(encoding="utf-8")
    start = text[: page(name).first]
    assert page(name).first > 0
    assert start.count("\n## ") <= 1, f"a heading comes before the first command of {name}"
    known = {"console", "python", "text"}
    for language in page(name).languages:
        assert language in known or language.startswith("{"), f"a fence of {language!r}"
    if after := page(name).after:
        assert not page(after).after


def test_a_wrong_command_is_found(tools):
    for wrong, what in {
        "trn-jax trian small": "trian",
        "trn-jax train small --workdri=a": "workdri",
        "trn-jax train small --config.train.bacth=4": "bacth",
        "trn-jax train smal": "smal",
        "trn-jax eval": "checkpoint",
        "trn-jax eval a --split=all": "all",
        "python -m trn_jax.main --config=small --mood=eval": "mood",
        "python scripts/benchmrak.py": "benchmrak",
        "python scripts/benchmark.py --waht=data": "waht",
        "pip install -e '.[vidoe]'": "vidoe",
        "frobnicate a": "frobnicate",
        "pytest -m smkoe": "smkoe",
    }.items():
        with pytest.raises(AssertionError, match=what):
            check_command(tools, wrong)


@pytest.mark.parametrize("name", RUNNABLE)
def test_the_commands_of_a_page_exist(tools, name):
    for command in page(name).commands:
        if command.is_python:
            compile(command.text, name, "exec")
        elif command.status != 2:  # those are wrong on purpose
            check_command(tools, f"{command.text} {command.quick}".strip())


@pytest.mark.parametrize("name", PAGES)
def test_files_that_a_page_names_exist(name):
    text = PAGES[name].read_text(encoding="utf-8")
    for path in re.findall(r"`((?:configs|docs|examples|scripts|tests|trn_jax)/[\w./-]*\w)`", text):
        assert (REPOSITORY / path).exists(), path
    for path in re.findall(r"\]\((?!https?:)([^)#\s]+)", text):
        assert (PAGES[name].parent / path).exists(), path


def test_the_readme_is_short():
    assert len(PAGES["README"].read_text(encoding="utf-8").splitlines()) <= 130


def test_the_version_is_the_same_everywhere():
    log = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"\n## (\S+)", log)[1] == trn_jax.__version__
    assert re.search(r"\nversion: (\S+)", citation)[1] == trn_jax.__version__
    release = PAGES["CONTRIBUTING"].read_text(encoding="utf-8").partition("## Release")[2]
    assert set(re.findall(r"trn_jax-([\d.]+)-", release)) == {trn_jax.__version__}


def test_messages_name_pages_that_exist():
    for path in (REPOSITORY / "trn_jax").rglob("*.py"):
        for named in re.findall(r"\bdocs/[\w/]+\.\w+", path.read_text(encoding="utf-8")):
            assert (REPOSITORY / named).exists(), f"{path}: {named}"


# Generated pages


def test_every_key_of_the_configuration_is_described(tools):
    sections = tools.documented_keys()
    assert [key for keys in sections.values() for key, text in keys.items() if not text] == []
    keys = {f.name for f in configuration.dataclasses.fields(configuration.ViewKeys)}
    assert set(sections["ViewKeys"]) == keys
    config = configuration.base(dataset="frames", model="trn_resnet50")
    for name in ("model", "train", "optim", "eval"):
        assert set(sections[f"_{name.upper()}"]) == set(config[name])
    text = tools.config_page()
    assert "\n`train.batch`\n: default `64`; at least 1\n" in text
    assert "one of `tsm`, `tin`" in text


def test_comments_belong_to_the_key_before_or_behind_them(tools):
    source = (
        "_TRAIN = dict(\n"
        "    # Above a key.\n"
        "    a=1,\n"
        "    b=2,  # behind one\n"
        "    # that continues\n"
        "    # And the next.\n"
        "    c=3,\n"
        "    d=4,  # the last\n"
        "    # continues\n"
        ")\n"
    )
    assert tools.documented_keys(source) == {
        "_TRAIN": {
            "a": "Above a key.",
            "b": "behind one that continues",
            "c": "And the next.",
            "d": "the last continues",
        }
    }


def test_all_commands_and_recipes_are_listed(tools):
    text = tools.commands_page()
    for name in tools.command_parsers():
        assert f"\n## trn-jax {name}\n" in text
    assert "`--initialization_timeout`" in text
    recipes = tools.recipes_page()
    for name in configuration.recipe_names():
        assert f"\n### {name}\n" in recipes
    assert "| `accurate` | 33.88 / 62.12 |" in recipes
    origins = tools.origins_table()
    assert "| `tsm_r50_1x1x8_50e_jester_rgb.py` | mmaction2 0.x | `tsm_jester` |" in origins
    assert "\n| `convert` | Weights of other code bases. |" in tools.folders_table()


def test_links_between_pages_are_checked(tmp_path):
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    try:
        from check_links import broken_links
    finally:
        sys.path.remove(str(REPOSITORY / "scripts"))
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text(
        '<p id="here"><a href="#here"><a href="#gone"><a href="sub/a.html#b%20c">'
        '<a href="sub/a.html#d"><img src="no.png"><a href="https://example.org/x#y">'
    )
    (tmp_path / "sub" / "a.html").write_text('<p id="b c"><a href="../index.html">')
    assert broken_links(tmp_path) == [
        "index.html: #gone",
        "index.html: no.png",
        "index.html: sub/a.html#d",
    ]


# Running the commands


def write_weights(path):
    """Weights of a TSN of 5 classes with ResNet-18, named as in mmaction2."""
    model = trn_jax.create_model("tsn_resnet18", num_classes=5)
    _, state = state_dicts.weights_of(model, head="tsn")
    for name, values in state.items():  # as small as those of a trained model
        state[name] = abs(values) if name.endswith("running_var") else values * 0.05
    save_file({name: values.copy(order="C") for name, values in state.items()}, path)


GIVEN = {"tsn_r18.safetensors": write_weights}


class Runner:
    """Runs pages in folders of their own; those that others continue from are run once."""

    def __init__(self, folder, is_full):
        self._folder, self._is_full = folder, is_full
        self._done = {}
        self._programs = folder / "programs"
        self._programs.mkdir()
        for name, line in (
            ("trn-jax", f'exec "{sys.executable}" -m trn_jax.cli "$@"'),
            ("python", f'exec "{sys.executable}" "$@"'),
        ):
            path = self._programs / name
            path.write_text(f"#!/bin/sh\n{line}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run(self, name):
        """Run a page, and return its folder."""
        if name in self._done:
            return self._done[name]
        found, folder = page(name), self._folder / name
        if found.after:
            shutil.copytree(self.run(found.after), folder, symlinks=True)
        else:
            folder.mkdir()
            for entry in ("configs", "examples", "scripts", "tests"):
                (folder / entry).symlink_to(REPOSITORY / entry)
        if found.given:
            GIVEN[found.given](folder / found.given)
        for command in found.commands:
            if not command.not_run and (self._is_full or not command.is_full):
                self._run_command(command, folder)
        self._done[name] = folder
        return folder

    def _run_command(self, command, folder):
        words = ["python", "-c", command.text]
        if not command.is_python:
            flags = "" if self._is_full else f" {command.quick}"
            words = ["bash", "-o", "pipefail", "-c", command.text + flags]
        environment = os.environ | {
            "PATH": f"{self._programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "COLUMNS": "100",
        }
        # The flags of the other tests make programs slow, and have eight devices.
        environment.pop("XLA_FLAGS", None)
        done = subprocess.run(
            words,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=3600,
        )
        assert done.returncode == command.status, f"{command.text}\n{done.stdout[-4000:]}"
        if self._is_full and not command.varies:
            missing = doc_pages.missing_lines(command.shown, done.stdout)
            assert missing == [], f"{command.text}\n{done.stdout[-4000:]}"


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return Runner(tmp_path_factory.mktemp("quick"), is_full=False)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return Runner(tmp_path_factory.mktemp("full"), is_full=True)


@pytest.mark.docs
@pytest.mark.parametrize("name", RUNNABLE)
def test_the_commands_of_a_page_run(quick, name):
    quick.run(name)


@pytest.mark.docs
@pytest.mark.slow
@pytest.mark.parametrize("name", RUNNABLE)
def test_the_commands_of_a_page_print_what_it_shows(full, name):
    full.run(name)
