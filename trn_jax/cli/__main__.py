"""`python -m trn_jax.cli`, where `trn-jax` is not on the path."""

import sys

from trn_jax.cli import main

sys.exit(main())
