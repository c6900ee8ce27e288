"""Compare models with their reference implementations, for the table in README.md.

    python scripts/parity.py            # minutes on a CPU
    python scripts/results_table.py     # write the table

Weights, clips and the logits of the references are those of `tests/goldens`. The largest difference
of a logit, relative to the largest logit, goes to `configs/parity.json`, by the name of the model.
"""

import argparse
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDENS = ROOT / "tests" / "goldens"
PARITY = ROOT / "configs" / "parity.json"
CASES = (
    "tsn_r50_3seg",
    "trn_r50_multiscale",
    "trn_bninception_multiscale",
    "tsm_r50",
    "tin_r50",
    "tpn_slowonly_r50",
    "tpn_tsm_r50",
)


def difference(case):
    """Compare the logits of a case.

    Returns:
        The name of the model, and a JSON-able dict with the `difference` and the `reference`.
    """
    import numpy as np
    import reference_models
    from flax import nnx

    numbers = json.loads((GOLDENS / "cases" / f"{case}.json").read_text())
    model, clips = reference_models.prepare(numbers, case)
    logits = np.asarray(nnx.jit(lambda model, clips: model(clips))(model, clips))
    expected = np.array(numbers["outputs"]["scores_per_view"])
    found = np.abs(logits - expected).max() / np.abs(expected).max()
    return reference_models.CASES[case]["name"], {
        "case": case,
        "difference": float(f"{found:.2g}"),
        "reference": numbers["reference"],
    }


def main():
    """Entry point."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")
    found = {}
    for case in CASES:
        name, found[name] = difference(case)
        print(f"{name}  {found[name]['difference']:.1e}", flush=True)
    PARITY.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(GOLDENS)]
    main()
