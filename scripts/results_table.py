"""Write the tables of results into README.md and configs/README.md.

    python scripts/results_table.py                           # update the tables
    python scripts/results_table.py --check                   # exit 1 if they are stale
    python scripts/results_table.py --add trn_synthetic=runs/trn   # add the results of a run first

Published numbers come from the recipes in `configs/`, measured ones from result files of
evaluations in `configs/results/<recipe>/<protocol>.json`, parity from `scripts/parity.py`, sizes
and costs from the models, and plans from `scripts/plan_table.py`. No number is typed by hand.
"""

import argparse
import dataclasses
import json
import pathlib
import re
import shutil
import sys
from collections.abc import Callable

from parity import PARITY
from plan_table import costs_that_fit, growth_of, is_for_gpus

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
README = ROOT / "README.md"
RECIPES = CONFIGS / "README.md"
RESULTS = CONFIGS / "results"
PLANS = CONFIGS / "plans"
SYNTHETIC = tuple(
    f"{model}_synthetic" for model in ("trn", "tsm", "tsm_causal", "tin", "tpn", "tsn")
)
# One recipe per method and data set.
METHODS = (
    *("tsn_k400_3seg", "tsn_sthv2_8seg", "trn_sthv1", "trn_sthv2", "trn_bninception_jester"),
    *("tsm_k400", "tsm_sthv1", "tsm_sthv2", "tsm_jester", "tin_k400", "tin_sthv1", "tin_sthv2"),
    *("tpn_slowonly_k400", "tpn_tsm_sthv1"),
)
_DATA_SETS = {
    "jester": "Jester",
    "k400": "Kinetics-400",
    "sthv1": "Something-Something V1",
    "sthv2": "Something-Something V2",
}
_REFERENCES = ("reference_top1", "reference_top5")
# Columns of published tables, by their key in a recipe.
_COLUMNS = {
    "testing_protocol": "tested with",
    "resolution": "resolution",
    "gpus": "GPUs",
    "pretrain": "start",
    "gflops": "GFLOPs",
    "million_parameters": "million parameters",
    "gpu_memory": "MB per GPU",
}


def synthetic_table():
    """Accuracy of each method on the synthetic clips, with their frames in three orders."""
    rows = []
    orders = {"efficient": "in order", "efficient_streamed": "streamed"}
    for recipe in SYNTHETIC:
        for protocol in (*get_config(recipe).protocols, "efficient_streamed"):
            found = measured(recipe, protocol)
            if found is None:
                continue
            metrics = found["metrics"]
            names = ("top1", "reversed_class", "pair")
            order = orders.get(protocol, protocol)
            rows.append([f"`{recipe}`", order, *(percent(metrics[name]) for name in names)])
    return markdown(["recipe", "frames", "top-1", "reversed class", "pair"], rows)


def recipe_table():
    """Published and measured accuracies of the recipes."""
    rows = []
    for recipe in names():
        for protocol, published in get_config(recipe).published.items():
            found = measured(recipe, protocol)
            here = "not run"
            if found:
                here = " / ".join(percent(found["metrics"][name]) for name in ("top1", "top5"))
            there = " / ".join(
                f"{published[name]:.2f}" for name in ("top1", "top5") if name in published
            )
            rows.append([f"`{recipe}`", f"`{protocol}`", there, here])
    return markdown(["recipe", "protocol", "published top-1 / top-5", "measured here"], rows)


def methods_table():
    """Published accuracies, parity of the logits and published weights, by method and data set."""
    parity = json.loads(PARITY.read_text())
    rows = []
    for recipe in METHODS:
        config = get_config(recipe)
        rates = [f"`{name}` {row['top1']:.2f}" for name, row in config.published.items()]
        row = next(iter(config.published.values()))
        weights = row.source.partition(",")[0] if "checkpoint" in row else "none"
        found = parity[config.model.name]["difference"]
        rows.append(
            [recipe.partition("_")[0].upper(), _DATA_SETS[config.data.dataset], f"`{recipe}`"]
            + [", ".join(rates), f"{found:.1e}".replace("e-0", "e-"), weights]
        )
    header = ["method", "data set", "recipe", "published top-1, %", "parity", "weights"]
    return markdown(header, rows)


def published_table():
    """The other columns of the published tables."""
    rows = []
    for recipe in names():
        for protocol, published in get_config(recipe).published.items():
            reference = [f"{published[key]:.2f}" for key in _REFERENCES if key in published]
            cells = [str(published.get(key, "")) for key in _COLUMNS]
            checkpoint = f"`{published.checkpoint}`" if "checkpoint" in published else "none"
            rows.append([f"`{recipe}`", f"`{protocol}`", " / ".join(reference), *cells, checkpoint])
    header = ["recipe", "protocol", "original code", *_COLUMNS.values(), "checkpoint"]
    return markdown(header, rows)


def cost_table():
    """Parameters and FLOPs of the model of each recipe."""
    from flax import nnx

    from trn_jax import create_model
    from trn_jax.models.cost import measure
    from trn_jax.settings import resolved_views

    rows, known = [], {}
    for recipe in names():
        config = get_config(recipe)
        view = resolved_views(config)["data.train"]
        clip = (view.num_segments, view.crop_size, view.crop_size, 3)
        config.model.num_classes = config.model.num_classes or 2  # else from the label map
        options = {key: value for key, value in config.model.items() if value is not None}
        key = (clip, *(options.get(name) for name in ("name", "num_classes", "width", "non_local")))
        if key not in known:
            model = nnx.eval_shape(lambda options=options: create_model(**options))
            known[key] = measure(model, 1, *clip)
        cost = known[key]
        size = f"{clip[0]} x {clip[1]} x {clip[2]}"
        model = f"`{config.model.name}`, {config.model.num_classes} classes"
        numbers = f"{cost.parameters:,}", f"{cost.flops / 1e9:.2f}"
        rows.append([f"`{recipe}`", model, *numbers, size])
    return markdown(["recipe", "model", "parameters", "GFLOPs", "for a clip of"], rows)


def plan_table():
    """Memory, communication and traffic of training steps per chip, from `configs/plans`."""
    plans = [json.loads(path.read_text()) for path in sorted(PLANS.glob("*/*.json"))]
    rows = []
    for plan in sorted(plans, key=lambda plan: (plan["recipe"], plan["chips"], plan["topology"])):
        clips, cost = min(plan["costs"].items(), key=lambda pair: int(pair[0]))
        row = [f"`{plan['recipe']}`", f"`{plan['topology']}`", f"{int(clips) * plan['chips']:,}"]
        memory = f"{plan['memory'] / 2**30:.0f}"
        if "error" in cost:
            rows.append([*row, f"more than {memory}", "none", *[""] * 4])
            continue
        needed = sum(cost[key] for key in ("arguments", "outputs", "temporary", "code"))
        sent = [each["bytes"] for each in cost["collectives"]]
        kinds = dict.fromkeys(each["kind"] for each in cost["collectives"])
        row += [f"{needed / 2**30:.2f} of {memory}", _largest(plan, plans)]
        row += [f"{len(sent)} x {' and '.join(kinds)}" if sent else "", f"{sum(sent) / 1e6:.1f}"]
        kernels = cost.get("kernels")
        rows.append([*row, f"{cost['traffic'] / 1e9:.1f}", f"{kernels:,}" if kernels else ""])
    header = ["recipe", "chips", "clips per step", "GiB per chip", "largest batch", "sent", "MB"]
    return markdown([*header, "GB moved", "kernels"], rows)


def _largest(plan, plans):
    """The largest batch for the chips of a plan, predicted from the growth of their memory.

    The growth comes from a plan with two batches: this one, one for the same version of chips, or
    else one for another version, whose programs store the same activations. Those for GPUs and TPUs
    don't.
    """
    from trn_jax.planning.batch_search import largest_batch

    def version(plan):
        return plan["topology"].partition(":")[0]

    def unlike(other):
        return other != plan, version(other) != version(plan)

    def is_alike(other):
        same_kind = is_for_gpus(other["topology"]) == is_for_gpus(plan["topology"])
        return other["recipe"] == plan["recipe"] and same_kind

    alike = sorted(filter(is_alike, plans), key=unlike)
    growths = [growth for growth in map(growth_of, alike) if growth is not None]
    if not growths:
        return "not planned"
    clips = min(costs_that_fit(plan))
    own = costs_that_fit(plan)[clips]
    twice = dataclasses.replace(own, temporary=own.temporary + growths[0])
    largest = largest_batch({clips: own, 2 * clips: twice}, plan["memory"], clips)
    # The compiler may fit more than the growth predicts.
    planned = [
        max(costs_that_fit(each), default=0) for each in alike if version(each) == version(plan)
    ]
    return f"{max(largest, *planned) * plan['chips']:,}"


# By file and name of the marker.
TABLES: dict[pathlib.Path, dict[str, Callable[[], str]]] = {
    README: {"methods": methods_table},
    RECIPES: {
        "recipes": recipe_table,
        "published": published_table,
        "cost": cost_table,
        "plans": plan_table,
    },
}


def names():
    """Names of all recipes."""
    from trn_jax import config as configuration

    return configuration.recipe_names()


def get_config(recipe):
    """The configuration of a recipe."""
    from trn_jax import config as configuration

    return configuration.recipe(recipe).get_config()


def measured(recipe, protocol):
    """A result of `configs/results`, or `None`."""
    path = RESULTS / recipe / f"{protocol}.json"
    return json.loads(path.read_text()) if path.exists() else None


def percent(share):
    """`0.98765` -> `"98.77"`."""
    return f"{100 * share:.2f}"


def markdown(header, rows):
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def with_tables(file, text):
    """Replace the text between the markers of each table of `file`."""
    for name, make in TABLES[file].items():
        begin, end = f"<!-- table: {name} -->", "<!-- end of table -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if not pattern.search(text):
            sys.exit(f"error: {file} has no markers {begin} ... {end}")
        text = pattern.sub(f"{begin}\n{make()}\n{end}", text)
    return text


def add(recipe, workdir):
    """Copy the results of a run to `configs/results`."""
    if recipe not in names():
        sys.exit(f"error: no recipe {recipe!r} in {CONFIGS}")
    found = sorted(pathlib.Path(workdir, "results").glob("*.json"))
    if not found:
        sys.exit(f"error: no result files in {workdir}/results; evaluate the run first")
    for path in found:
        changed = _differences(recipe, path.stem, json.loads(path.read_text())["config"])
        if changed:
            sys.exit(f"error: {path} is not of {recipe}: {', '.join(changed)} differ")
    (RESULTS / recipe).mkdir(parents=True, exist_ok=True)
    for path in found:
        shutil.copy(path, RESULTS / recipe / path.name)


def _differences(recipe, protocol, config):
    """Keys of model, data and protocol in which a result differs from the recipe."""
    from trn_jax.settings import flat, from_dict, resolved, to_json

    ours = flat(json.loads(to_json(resolved(get_config(recipe)))))
    config = json.loads(to_json(resolved(from_dict(config))))
    prefixes = ("model.", "data.dataset", f"protocols.{protocol}.")
    return [
        key
        for key, value in flat(config).items()
        if key.startswith(prefixes) and ours.get(key) != value and not _decided(key, ours)
    ]


def _decided(key, recipe):
    """Whether the recipe leaves a key to the devices, so that a result has what they took."""
    return key == "model.dtype" and recipe[key] == "auto"


def main():
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit 1 if tables are stale")
    parser.add_argument("--add", action="append", default=[], metavar="RECIPE=WORKDIR")
    arguments = parser.parse_args()
    for pair in arguments.add:
        recipe, separator, workdir = pair.partition("=")
        if not separator:
            parser.error(f"--add {pair}: expected RECIPE=WORKDIR, such as trn_synthetic=runs/trn")
        add(recipe, workdir)
    for file in TABLES:
        before = file.read_text()
        after = with_tables(file, before)
        if after != before and arguments.check:
            sys.exit(f"error: the tables of {file} are stale; run scripts/results_table.py")
        if after != before:
            file.write_text(after)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
