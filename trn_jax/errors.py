"""`UserError`, exit statuses, and safe printing of foreign text."""

import difflib
import re
import sys

# Controls (terminals obey some), marks that break lines or reorder the text around them, and halves
# of characters, which can't be encoded. What people write with stays, in every script.
_UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff]"
)

INTERRUPTED = 75  # exit status after a signal to stop: the same command resumes (EX_TEMPFAIL)
STUCK = 76  # exit status when something died or hangs: the same command resumes


class UserError(ValueError):
    """An error that the user can fix.

    The message names the problem, what was found and expected, and the next step. Command-line
    programs print it without a traceback and exit with `status`: 2, so that launchers don't restart
    a command that would fail again.

    The message is safe to print, whatever names it quotes, see `escaped`; its line breaks stay.
    """

    status = 2

    # Not in `__str__`: TFDS turns errors that define it into a `RuntimeError`.
    def __init__(self, *messages):
        super().__init__(*(escaped(message, keep="\n\t") for message in messages))


class PassingError(UserError):
    """An error that the same command may not meet again, such as a killed process."""

    status = STUCK


def escaped(text, *, keep=""):
    r"""Foreign text, such as the name of a class, file or tensor, for a terminal, table or log.

    Args:
        text: any string.
        keep: control characters that stay, such as the line breaks of a message of our own.

    Returns:
        The text with control characters, bidirectional overrides, line separators and lone
        surrogates as Python escapes, such as `\x1b`. It is one line unless `keep` has line breaks.
    """
    return _UNSAFE.sub(lambda m: m[0] if m[0] in keep else _escape(m[0]), str(text))


def _escape(character):
    return character.encode("unicode_escape").decode()


def log(message):
    """Print a line to standard error, where messages and progress go, see `escaped`."""
    print(escaped(message), file=sys.stderr, flush=True)


def first_line(error):
    """The first line of an error's message, or its type if it has none."""
    return escaped((str(error).strip() or type(error).__name__).splitlines()[0])


def listed(problems, *, most=10):
    """Problems as indented lines, the first ones and how many more there are."""
    lines = [f"\n  {escaped(problem)}" for problem in problems[:most]]
    if len(problems) > most:
        lines.append(f"\n  and {len(problems) - most:,} more")
    return "".join(lines)


def did_you_mean(name, known, *, all_of="", most=20):
    """The end of a sentence on an unknown name: "; did you mean '...'?", or ".".

    Args:
        name: the unknown name.
        known: the known names.
        all_of: what they are, such as "classes": if none is similar, the first ones are listed.
        most: how many are listed.
    """
    known = list(known)
    if close := difflib.get_close_matches(str(name), known, n=1):
        return f"; did you mean {close[0]!r}?"
    if not (all_of and known):
        return "."
    shown, num_more = list(map(repr, known[:most])), len(known) - most
    rest = f"{num_more:,} more" if num_more > 0 else shown.pop()
    return (
        f"; the {all_of} are {', '.join(shown)} and {rest}" if shown else f"; there is only {rest}"
    )
