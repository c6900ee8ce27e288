"""Build hook of hatch: a wheel has the recipes as `trn_jax/configs`.

An editable install takes them from the repository; a folder of that name in site-packages would
hide the package.
"""

import pathlib

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Recipes(BuildHookInterface):
    """Adds the recipes to what a wheel includes."""

    def initialize(self, version, build_data):
        """Fill `build_data`, see hatchling; `version` is "standard" or "editable"."""
        if version == "standard":
            for path in pathlib.Path(self.root, "configs").glob("*.py"):
                build_data["force_include"][str(path)] = f"trn_jax/configs/{path.name}"
