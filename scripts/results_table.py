"""Write the tables of results into README.md.

    python scripts/results_table.py                           # write the tables anew
    python scripts/results_table.py --check                   # exit 1 if they are stale
    python scripts/results_table.py --add trn_synthetic=runs/trn   # take up results of a run, too

Published numbers come from the recipes in `configs/`, measured ones from the result files that an
evaluation writes, kept in `configs/results/<recipe>/<protocol>.json`. No number is typed by hand.
"""

import argparse
import importlib
import json
import pathlib
import re
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
CONFIGS = ROOT / "configs"
RESULTS = CONFIGS / "results"
CONTROLS = ("trn_synthetic", "tsn_synthetic")


def synthetic_table():
    """What each head makes of the synthetic clips, with their frames in three orders."""
    rows = []
    for recipe in CONTROLS:
        for protocol in get_config(recipe).protocols:
            metrics = measured(recipe, protocol)["metrics"]
            names = ("top1", "partner", "pair")
            order = {"efficient": "as they are"}.get(protocol, protocol)
            rows.append([f"`{recipe}`", order, *(percent(metrics[name]) for name in names)])
    return markdown(["recipe", "frames", "top-1", "partner class", "either of the pair"], rows)


def recipe_table():
    """Published and measured accuracies, side by side."""
    rows = []
    for recipe in sorted(path.stem for path in CONFIGS.glob("*.py")):
        for protocol, published in get_config(recipe).published.items():
            found = measured(recipe, protocol)
            here = "not run"
            if found:
                here = " / ".join(percent(found["metrics"][name]) for name in ("top1", "top5"))
            there = f"{published.top1:.2f} / {published.top5:.2f}"
            rows.append([f"`{recipe}`", f"`{protocol}`", there, here])
    return markdown(["recipe", "protocol", "published top-1 / top-5", "measured here"], rows)


TABLES = {"synthetic": synthetic_table, "recipes": recipe_table}


def get_config(recipe):
    """The configuration of a recipe."""
    return importlib.import_module(f"configs.{recipe}").get_config()


def measured(recipe, protocol):
    """A result file of `configs/results`, or `None`."""
    path = RESULTS / recipe / f"{protocol}.json"
    return json.loads(path.read_text()) if path.exists() else None


def percent(share):
    """`0.98765` -> `"98.77"`."""
    return f"{100 * share:.2f}"


def markdown(header, rows):
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def with_tables(text):
    """Replace what stands between the marks of every table."""
    for name, make in TABLES.items():
        begin, end = f"<!-- table: {name} -->", "<!-- end of table -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(text):
            sys.exit(f"error: {README.name} has no place for a table: {begin} ... {end}")
        text = pattern.sub(f"{begin}\n{make()}\n{end}", text)
    return text


def add(recipe, workdir):
    """Keep the results of a run for the tables."""
    if not (CONFIGS / f"{recipe}.py").exists():
        sys.exit(f"error: no recipe {recipe!r} in {CONFIGS}")
    found = sorted(pathlib.Path(workdir, "results").glob("*.json"))
    if not found:
        sys.exit(f"error: no result files in {workdir}/results; evaluate the run first")
    (RESULTS / recipe).mkdir(parents=True, exist_ok=True)
    for path in found:
        shutil.copy(path, RESULTS / recipe / path.name)


def main():
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether tables are stale")
    parser.add_argument("--add", action="append", default=[], metavar="RECIPE=WORKDIR")
    arguments = parser.parse_args()
    for pair in arguments.add:
        recipe, separator, workdir = pair.partition("=")
        if not separator:
            parser.error(f"--add {pair}: expected RECIPE=WORKDIR, such as trn_synthetic=runs/trn")
        add(recipe, workdir)
    before = README.read_text()
    after = with_tables(before)
    if after == before:
        return
    if arguments.check:
        sys.exit("error: the tables of README.md are stale; run scripts/results_table.py")
    README.write_text(after)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
