"""Configuration of Sphinx: pages in MyST, and those that `scripts/docs_pages.py` generates.

CONTRIBUTING.md has the commands that build and check them.
"""

import inspect
import pathlib
import re
import sys

_HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE.parent), str(_HERE.parent / "scripts")]

import docs_pages  # noqa: E402
import trn_jax  # noqa: E402

project = "trn_jax"
author = "the authors of trn_jax"
version = release = trn_jax.__version__
copyright = author  # furo shows it at the end of each page

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "generated"]  # generated pages are included in others
root_doc = "index"
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # types are in the text, with shapes
napoleon_use_ivar = True
add_module_names = False
highlight_language = "none"

html_theme = "furo"
html_title = f"trn_jax {version}"
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_show_sphinx = False
html_copy_source = False

_BACK_TICKS = re.compile(r"(?<!`)`([^`]+)`(?!`)(?=(\w)?)")


def _literal_back_ticks(_app, _what, _name, _object, _options, lines):
    """Back-ticks of docstrings mark code, as in Markdown."""
    text = "\n".join(lines)
    lines[:] = _BACK_TICKS.sub(lambda m: f"``{m[1]}``" + r"\ " * bool(m[2]), text).split("\n")


def _signature(_app, what, _name, found, _options, signature, _annotation):
    """NNX hides the arguments of the constructors of its modules."""
    if what == "class" and (signature or "").startswith("(*args"):
        full = inspect.signature(found.__init__)
        own = [each for name, each in full.parameters.items() if name != "self"]
        return str(full.replace(parameters=own)), None
    return None


def setup(app):
    """Generate pages before Sphinx reads the others."""
    app.connect("builder-inited", lambda _: docs_pages.write(_HERE / "generated"))
    app.connect("autodoc-process-docstring", _literal_back_ticks, priority=100)
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True}
