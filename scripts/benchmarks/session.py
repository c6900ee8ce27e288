"""Gathers what `scripts/gpu_session.sh` measured into one file, and shows it as tables.

python scripts/benchmarks/session.py gpu_session    # writes gpu_session/session.json
"""

import argparse
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

_SCRIPTS = pathlib.Path(__file__).resolve().parent.parent
FILE = "session.json"
STORED = _SCRIPTS.parent / "docs" / "gpu_session.json"  # of the page on performance


def gather(folder: pathlib.Path, *, dry: bool) -> dict[str, Any]:
    """What a session left in its folder.

    Args:
        folder: with `parts.tsv` and a log and perhaps a `.jsonl` of each part.
        dry: whether it was a dry run.

    Returns:
        `machine`, `date`, `dry_run`, and `parts`: `name`, `status` (124: it took too long),
        `seconds`, `command` and `records` of each.
    """
    from benchmarks import machine

    parts = []
    for line in (folder / "parts.tsv").read_text().splitlines():
        name, status, seconds, command = line.split("\t")
        path = folder / f"{name}.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        part = dict(name=name, status=int(status), seconds=int(seconds))
        part |= dict(command=command.replace(str(folder), "FOLDER"))
        parts.append(part | dict(records=[json.loads(each) for each in lines]))
    date = time.strftime("%Y-%m-%d", time.gmtime())
    return dict(machine=machine.describe(), date=date, dry_run=dry, parts=parts)


def page(session: Mapping[str, Any] | None) -> str:
    """Tables of a session in Markdown; a sentence without one."""
    if session is None:
        return "No session has been stored yet."
    parts = {part["name"]: part for part in session["parts"]}
    device = _device(parts.values())
    text = [f"{device}, {session['date']}; {session['machine']}."]
    if session["dry_run"]:
        text.append("A dry run: the numbers mean nothing.")
    failed = [f"`{name}` ({part['status']})" for name, part in parts.items() if part["status"]]
    if failed:
        text.append(f"Not measured: {', '.join(failed)}.")
    tables = [_steps(parts), _loader(parts), _views(parts)]
    return "\n\n".join([*text, *(each for each in tables if each)])


def _device(parts: Any) -> str:
    devices = [each["device"] for part in parts for each in part["records"] if "device" in each]
    return devices[0] if devices else "unknown device"


def _steps(parts: Mapping[str, Any]) -> str:
    """A row per training step on noise."""
    rows = []
    for name, part in parts.items():
        for record in part["records"]:
            for side, found in record.get("sides", {}).items():
                rate = statistics.median(found["clips_per_second"])
                peak = found["peak_bytes"]
                memory = "" if peak is None else f"{peak / 2**30:.1f}"
                row = [f"`{name}`", f"`{record['recipe']}`", f"{record['shape'][0]}"]
                share = f"{found['bandwidth_share']:.2f}"
                rows.append([*row, record["dtype"], side, f"{rate:.4g}", memory, share])
    header = ["part", "recipe", "clips per step", "dtype", "by", "clips/s", "GiB", "of bandwidth"]
    return _table(header, rows)


def _loader(parts: Mapping[str, Any]) -> str:
    rows = []
    for record in parts.get("loader", {}).get("records", ()):
        row = [f"`{record['recipe']}`", f"{record['both']:.4g}", f"{record['replayed']:.4g}"]
        row += [f"{record['loader']:.4g}", f"{100 * record['wait_share']:.0f} %"]
        rows.append([*row, record["advice"]])
    header = ["recipe", "clips/s", "headspace", "loader alone", "waiting", "advice"]
    return _table(header, rows)


def _views(parts: Mapping[str, Any]) -> str:
    rows = []
    for name, part in parts.items():
        if not name.startswith("views_"):
            continue
        for record in part["records"]:
            rate = statistics.median(1 / turn["wall"] for turn in record["turns"])
            row = [f"`{record['recipe']}`", record["protocol"], name.rpartition("_")[2]]
            rows.append([*row, record["dtype"], f"{rate:.4g}", f"{record['memory'] / 2**30:.1f}"])
    header = ["recipe", "protocol", "views per step", "dtype", "videos/s", "GiB"]
    return _table(header, rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, or "" without rows."""
    import results_table

    return str(results_table.markdown(header, rows)) if rows else ""


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--dry-run", action="store_true", help="note that it was one")
    arguments = parser.parse_args()
    session = gather(arguments.folder.resolve(), dry=arguments.dry_run)
    (arguments.folder / FILE).write_text(json.dumps(session, indent=1) + "\n")
    print(page(session))
    failed = [part["name"] for part in session["parts"] if part["status"]]
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}; their logs are in {arguments.folder}")


if __name__ == "__main__":
    sys.path[:0] = [str(_SCRIPTS), str(_SCRIPTS.parent)]
    main()
