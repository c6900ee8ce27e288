"""Build hook of hatch: ships the recipes in the wheel as `trn_jax/configs`.

Editable installs use those of the repository: a folder `trn_jax` in site-packages would shadow the
package.
"""

import pathlib

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Recipes(BuildHookInterface):
    """Adds the recipes to a wheel."""

    def initialize(self, version, build_data):
        """Update `build_data`, see hatchling; `version` is "standard" or "editable"."""
        if version == "standard":
            for path in pathlib.Path(self.root, "configs").glob("*.py"):
                build_data["force_include"][str(path)] = f"trn_jax/configs/{path.name}"
