"""`trn-jax extract` by the name of earlier versions."""

import sys

from trn_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["extract", *sys.argv[1:]]))
