"""Plan large recipes for slices of TPUs and machines with GPUs, for the table in configs/README.md.

    python scripts/plan_table.py                        # all missing plans; takes hours
    python scripts/plan_table.py --topologies=v5e:4x4   # those of one topology
    python scripts/results_table.py                     # write the table

Needs the compilers (`pip install "trn_jax[plan,plan-gpu]"`), but no TPU or GPU. Each plan of a
training step in bfloat16 is written to `configs/plans/<recipe>/<topology>.json` when it is done, so
an interrupted command resumes.

Each chip takes one group of clips that share batch statistics, so chips exchange no statistics. The
published batch is for 8 GPUs, too small for most slices; the learning rate follows from the linear
scaling rule.
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
# The first topology is planned with two batches, to measure how memory grows with the clips of a
# chip, which is the same for all topologies. If the second batch doesn't fit, the next topology is.
TOPOLOGIES = ("v5e:4x4", "v5p:8x8x8", "v6e:16x16", "v5e:16x16")
# Each of them is planned with two batches, since the memory of a GPU grows by its own libraries.
GPUS = ("h200:8", "a100:8", "l4:1", "rtx4090:1")
_WITHOUT_GROUPS = 8  # clips per chip without batch norm: the published "32xb8" of Swin


def path_of(recipe, topology):
    """File of a plan."""
    return PLANS / recipe / f"{topology.replace(':', '-')}.json"


def clips_per_chip(config):
    """Clips per step on each chip."""
    return config.model.norm_group or _WITHOUT_GROUPS


def costs_that_fit(plan):
    """`{clips per chip: HloCost}` of the batches that fit."""
    from trn_jax.planning.hlo_cost import HloCost

    found = {int(clips): cost for clips, cost in plan["costs"].items() if "error" not in cost}
    return {clips: HloCost(**cost) for clips, cost in found.items()}


def growth_of(plan):
    """Additional bytes per chip for twice the clips; `None` if the plan doesn't show it."""
    from trn_jax.planning.batch_search import rematerializes

    costs = costs_that_fit(plan)
    if len(costs) < 2 or rematerializes(costs):
        return None
    return costs[max(costs)].memory - costs[min(costs)].memory


def is_for_gpus(topology):
    """Whether a topology has GPUs."""
    from trn_jax.planning.topology import gpu_names

    return topology.partition(":")[0] in gpu_names()


def growth_is_known(recipe, topology):
    """Whether an existing plan has the growth, which that of a TPU has for all of them."""
    if is_for_gpus(topology):
        return False
    plans = [json.loads(path.read_text()) for path in (PLANS / recipe).glob("*.json")]
    return any(growth_of(each) is not None for each in plans if not is_for_gpus(each["topology"]))


def make(recipe, topology, *, twice):
    """Compile the training step of a recipe with one batch, or with two, for a topology.

    Returns:
        A JSON-able dict with `gradient` and `memory`, bytes of the gradient and of a chip, and in
        `costs`, by clips per chip, the fields of `hlo_cost.HloCost` or an `error`.
    """
    import jax
    from flax import nnx

    from trn_jax import config as configuration
    from trn_jax import create_model
    from trn_jax.errors import UserError
    from trn_jax.planning.step_cost import training_cost
    from trn_jax.planning.topology import find_devices

    config = configuration.recipe(recipe).get_config()
    config.model.dtype = "bfloat16"
    devices, memory = find_devices(topology)
    compiler = "jax-cuda12-plugin" if devices[0].platform == "gpu" else "libtpu"
    model = nnx.eval_shape(lambda: create_model(**config.model))
    trained = jax.tree.leaves(nnx.as_pure(nnx.state(model, nnx.Param)))
    found = {
        "recipe": recipe,
        "topology": topology,
        "chips": len(devices),
        "memory": memory,
        "gradient": sum(leaf.size * leaf.dtype.itemsize for leaf in trained),
        "jax": jax.__version__,
        compiler: importlib.metadata.version(compiler),
        "costs": {},
    }
    clips = clips_per_chip(config)
    for each in (clips, 2 * clips) if twice else (clips,):
        config.train.batch = each * len(devices)
        try:
            cost = dataclasses.asdict(training_cost(config, devices))
        except UserError as error:
            cost = {"error": str(error)}
        found["costs"][str(each)] = cost
    return found


def main():
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", default=",".join(RECIPES), help="comma-separated names")
    everywhere = ",".join(TOPOLOGIES + GPUS)
    parser.add_argument("--topologies", default=everywhere, help="such as v5e:4x4,h200:8")
    arguments = parser.parse_args()
    for topology in arguments.topologies.split(","):
        for recipe in arguments.recipes.split(","):
            path = path_of(recipe, topology)
            if path.exists():
                continue
            start = time.time()
            # In a new process, because the compiler does not free its memory.
            with concurrent.futures.ProcessPoolExecutor(
                1, mp_context=multiprocessing.get_context("spawn")
            ) as pool:
                twice = not growth_is_known(recipe, topology)
                found = pool.submit(make, recipe, topology, twice=twice).result()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found, indent=1) + "\n")
            print(f"{path}: {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
