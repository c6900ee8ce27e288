"""Check that `.stablehlo` files of one version of Python and JAX are read by another one.

    python3.11 tests/cross_version.py write files && python3.12 tests/cross_version.py read files

`read` compares the answers with those that `write` has put into the files.
"""

import os
import pathlib
import sys

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # compiles faster

import jax
import numpy as np
from export_models import config_of, store

from trn_jax.export import stablehlo
from trn_jax.export.export import export

# Forms, and options of models.
CASES = {
    "clip": dict(name="tsn_resnet10", backbone="mobilenetv2_tiny", width=None),
    "stream": dict(name="tsm_resnet10", causal=True, shift_div=4),
}


def write(folder):
    """Write a file per form."""
    for form, options in CASES.items():
        checkpoint = store(folder / f"{form}_model", config_of(**options))
        export(checkpoint, str(folder / f"{form}.stablehlo"), form=form)


def read(folder):
    """Read them, and compare their answers."""
    for form in CASES:
        loaded = stablehlo.load(folder / f"{form}.stablehlo")
        frames, expected = loaded.golden().values()
        if form != "stream":
            frames, expected = frames[None], expected[None]
        carried = loaded.state(frames.shape[1])
        for given, answer in zip(frames, expected, strict=True):
            found = loaded(given, *carried)
            found, *carried = found if carried else [found]
            largest = np.abs(answer).max()
            np.testing.assert_allclose(found, answer, rtol=0, atol=1e-4 * largest)
        print(f"{form} of JAX {loaded.metadata['versions']['jax']} read by {jax.__version__}")


if __name__ == "__main__":
    command, place = sys.argv[1:]
    {"write": write, "read": read}[command](pathlib.Path(place))
