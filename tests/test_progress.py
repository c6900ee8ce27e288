"""Progress in lines and as a bar."""

import re
import sys

from trn_jax import progress


def test_progress_is_printed_in_occasional_lines(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    with progress.Progress("Unpacking", 200, "B") as bar:
        bar.add(50)
        bar.add(150)
    first, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"Unpacking: 25%, [\d.]+ MB/s, \d+:\d\d:\d\d left", first)
    assert re.fullmatch(r"Unpacking: 100%, [\d.]+ MB/s, 0:00:00 left", last)
    with progress.Progress("Counting", 4, "videos") as bar:
        bar.add(1, "all well")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Counting: 1 of 4 videos (25%), all well, ")


def test_progress_is_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.Progress("Unpacking", 200, "B") as bar:
        bar.add(200)
    assert "Unpacking: 100%|" in capsys.readouterr().err
