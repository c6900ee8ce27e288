"""The error that people, rather than programmers, are meant to read."""

import difflib

INTERRUPTED = 75  # exit status after a signal to stop: the same command resumes (EX_TEMPFAIL)
STUCK = 76  # exit status when something died or hangs: the same command goes on from there


class UserError(ValueError):
    """Something that the person at the keyboard can mend.

    The message says what was wrong, what was found, what was expected and what to do next.
    Command-line programs print it without a traceback and exit with `status`: 2, which tells those
    that start commands again that the error would come again.
    """

    status = 2


class PassingError(UserError):
    """Something that the same command may not meet again, such as a process that was killed."""

    status = STUCK


def first_line(error):
    """What an error says first, or, if it says nothing, its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def listed(problems, *, most=10):
    """Problems as indented lines, the first ones and how many more there are."""
    lines = [f"\n  {problem}" for problem in problems[:most]]
    if len(problems) > most:
        lines.append(f"\n  and {len(problems) - most:,} more")
    return "".join(lines)


def did_you_mean(name, known):
    """The end of a sentence on an unknown name: the one of `known` most like it, if any is."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else "."
