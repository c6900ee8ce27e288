"""The pages of the documentation as lists of commands with the output that they show.

A fence of `console` has commands behind `$ `, which may continue after a backslash, and below each
its output; a line `...` stands for any lines. A fence of `python` is a program. A comment above a
fence changes how it is run, `<!-- run: ... -->`:

    quick="--flag=value"   appended to the command unless pages are run in full
    full                   only run if pages are run in full
    exit=1                 the exit status that is expected
    varies                 the output differs from run to run

`<!-- not run: reason -->` leaves a fence out. At the start of a page, `<!-- after: page -->`
continues in the folder where that page has ended, and `<!-- given: file -->` starts with a file.
"""

import dataclasses
import re
import shlex

_FENCE = re.compile(
    r"(?:^|\n)(?:<!-- (not run|run): ([^\n]*) -->\n)?```([^\n]*)\n(.*?)\n```(?=\n|$)", re.DOTALL
)
_AFTER = re.compile(r"<!-- after: (\w+) -->\n")
_GIVEN = re.compile(r"<!-- given: ([\w.]+) -->\n")


@dataclasses.dataclass(frozen=True)
class Command:
    """A command, or a program in Python.

    Attributes:
        text: as a shell or Python takes it.
        shown: the lines of its output on the page.
        is_python: whether it is a program in Python.
        not_run: why it is left out, or "".
        quick: flags that make it short, or "".
        is_full: only run if pages are run in full.
        status: the exit status that is expected.
        varies: the output differs from run to run.
    """

    text: str
    shown: tuple = ()
    is_python: bool = False
    not_run: str = ""
    quick: str = ""
    is_full: bool = False
    status: int = 0
    varies: bool = False


@dataclasses.dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        commands: the `Command`s in order.
        after: name of the page in whose folder it continues, or "".
        given: name of a file that its folder has, or "".
        languages: of all fences, in order.
        first: where the first command is, in characters from the start; -1 if there is none.
    """

    commands: tuple
    after: str
    given: str
    languages: tuple
    first: int


def parse(text):
    """Read a page.

    Args:
        text: Markdown.

    Returns:
        A `Page`.

    Raises:
        ValueError: an option of a fence is unknown, or a fence of `console` has no command.
    """
    after, given = _AFTER.match(text), _GIVEN.match(text)
    commands, languages, first = [], [], -1
    for fence in _FENCE.finditer(text):
        kind, option, language, body = fence.groups()
        languages.append(language)
        if language not in ("console", "python"):
            continue
        first = fence.start(3) if first < 0 else first
        options = _options(option) if kind == "run" else {}
        options |= {"not_run": option} if kind == "not run" else {}
        if language == "python":
            commands.append(Command(body, is_python=True, **options))
            continue
        found = [Command(line, tuple(shown), **options) for line, shown in _console(body)]
        if not found:
            raise ValueError(f"no command starts with '$ ' in {body!r}")
        commands += found
    started = (found[1] if found else "" for found in (after, given))
    return Page(tuple(commands), *started, tuple(languages), first)


def _console(body):
    """The commands of a fence with their output."""
    found, is_open = [], False
    for line in body.split("\n"):
        if is_open:
            found[-1][0] += "\n" + line
        elif line.startswith("$ "):
            found.append([line.removeprefix("$ "), []])
        elif found:
            found[-1][1].append(line)
        else:
            raise ValueError(f"{line!r} comes before a command")
        is_open = line.endswith("\\") and (is_open or line.startswith("$ "))
    return found


def _options(text):
    options = {}
    for word in shlex.split(text):
        name, _, value = word.partition("=")
        if name == "quick" and value:
            options["quick"] = value
        elif name == "exit" and value.isdigit():
            options["status"] = int(value)
        elif word == "full":
            options["is_full"] = True
        elif word == "varies":
            options["varies"] = True
        else:
            raise ValueError(f"unknown option {word!r}")
    return options


def missing_lines(shown, output):
    """The shown lines that an output lacks: in order, adjacent but for `...`; numbers may differ.

    Args:
        shown: the lines on the page.
        output: the text that a command has printed.

    Returns:
        The lines of the first part that isn't in the output; [] if all are.
    """
    rest = [_normal(line) for line in output.rstrip().split("\n")]
    parts = [[]]
    for line in shown:
        if line.strip() == "...":
            parts.append([])
        else:
            parts[-1].append(line)
    for part in filter(None, parts):
        wanted = [_normal(line) for line in part]
        places = range(len(rest) - len(wanted) + 1)
        place = next((i for i in places if rest[i : i + len(wanted)] == wanted), None)
        if place is None:
            return part
        rest = rest[place + len(wanted) :]
    return []


def _normal(line):
    """A line without numbers, the width of columns and the folders of a machine."""
    line = re.sub(r"(?<![\w./])/[\w./-]*/(?=runs/|data/|out)", "", line)
    line = re.sub(r"(?<![\w./])/[\w./-]*/", "", line)
    return re.sub(r"-{2,}", "--", " ".join(re.sub(r"(?<![\w-])\d[\d.,:]*", "#", line).split()))
