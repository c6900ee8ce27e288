"""Plan large recipes for slices of TPUs, for the table in configs/README.md.

    python scripts/plan_table.py                        # whatever is missing; takes hours
    python scripts/plan_table.py --topologies=v5e:4x4   # the same, of one topology
    python scripts/results_table.py                     # write the table

Needs the compiler for TPUs (`pip install "trn_jax[plan]"`), but no TPU. Every plan is kept in
`configs/plans/<recipe>/<topology>.json` as soon as it is made, so that the command can be
interrupted and goes on where it was. It is what `trn-jax plan` finds for the training step, in
bfloat16.

A chip takes as many clips as share batch statistics in the recipe, so that no statistics travel
between chips. The published batch is that of 8 GPUs, too small for most slices; its learning rate
then follows from the linear rule.
"""

import argparse
import concurrent.futures
import dataclasses
import importlib.metadata
import json
import multiprocessing
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PLANS = ROOT / "configs" / "plans"
RECIPES = ("trn_sthv1", "tsm_k400", "tpn_slowonly_k400", "tsn_swin_k400_8seg")
# The first one is planned with two batches, which tell how the memory of a chip grows with its
# clips, whatever their number and version. If the second takes too much memory to tell, so is the
# next one.
TOPOLOGIES = ("v5e:4x4", "v5p:8x8x8", "v6e:16x16", "v5e:16x16")
_WITHOUT_GROUPS = 8  # clips per chip of networks without batch norm: the published "32xb8" of Swin


def path_of(recipe, topology):
    """Where the plan of a recipe is kept."""
    return PLANS / recipe / f"{topology.replace(':', '-')}.json"


def clips_per_chip(config):
    """Clips of a step that each chip takes."""
    return config.model.norm_group or _WITHOUT_GROUPS


def fitting(plan):
    """`{clips per chip: Cost}` of what a plan found to fit."""
    from trn_jax.planning.hlo_cost import Cost

    found = {int(clips): cost for clips, cost in plan["costs"].items() if "error" not in cost}
    return {clips: Cost(**cost) for clips, cost in found.items()}


def growth_of(plan):
    """The bytes that a chip needs more for twice the clips; `None` if a plan does not tell."""
    from trn_jax.planning.batch_search import computes_twice

    costs = fitting(plan)
    if len(costs) < 2 or computes_twice(costs):
        return None
    return costs[max(costs)].memory - costs[min(costs)].memory


def growth_is_known(recipe):
    """Whether a plan that is there tells it."""
    plans = [json.loads(path.read_text()) for path in (PLANS / recipe).glob("*.json")]
    return any(growth_of(plan) is not None for plan in plans)


def make(recipe, topology, *, twice):
    """Compile the training step of a recipe with one batch, or with two, for a topology.

    Returns:
        A dict that JSON can hold: `gradient`, the bytes of the gradient, `memory` of a chip in
        bytes, and for each number of clips per chip the fields of `compiled.Cost`, or `error`, why
        there are none.
    """
    import jax
    from flax import nnx

    from trn_jax import config as configuration
    from trn_jax import create_model
    from trn_jax.errors import UserError
    from trn_jax.planning import plan

    config = configuration.recipe(recipe).get_config()
    config.model.dtype = "bfloat16"
    devices, memory = plan.find_devices(topology)
    model = nnx.eval_shape(lambda: create_model(**config.model))
    trained = jax.tree.leaves(nnx.as_pure(nnx.state(model, nnx.Param)))
    found = {
        "recipe": recipe,
        "topology": topology,
        "chips": len(devices),
        "memory": memory,
        "gradient": sum(leaf.size * leaf.dtype.itemsize for leaf in trained),
        "jax": jax.__version__,
        "libtpu": importlib.metadata.version("libtpu"),
        "costs": {},
    }
    clips = clips_per_chip(config)
    for each in (clips, 2 * clips) if twice else (clips,):
        config.train.batch = each * len(devices)
        try:
            cost = dataclasses.asdict(plan.training_cost(config, devices))
        except UserError as error:
            cost = {"error": str(error)}
        found["costs"][str(each)] = cost
    return found


def main():
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", default=",".join(RECIPES), help="with commas between them")
    parser.add_argument("--topologies", default=",".join(TOPOLOGIES), help="such as v5e:4x4,v4:2x2")
    arguments = parser.parse_args()
    for topology in arguments.topologies.split(","):
        for recipe in arguments.recipes.split(","):
            path = path_of(recipe, topology)
            if path.exists():
                continue
            start = time.time()
            # A process of its own: the compiler does not give its memory back.
            with concurrent.futures.ProcessPoolExecutor(
                1, mp_context=multiprocessing.get_context("spawn")
            ) as pool:
                twice = not growth_is_known(recipe)
                found = pool.submit(make, recipe, topology, twice=twice).result()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found, indent=1) + "\n")
            print(f"{path}: {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
