"""The rules that keep the code in layers, read off the source itself."""

import ast
import collections
import fnmatch
import graphlib
import importlib.metadata
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

REPOSITORY = pathlib.Path(__file__).parent.parent
PACKAGE = REPOSITORY / "trn_jax"

# Imports only go down: a room (a folder or file of the package) imports rooms of its floor or of
# lower ones, and never in a circle.
FLOORS = (
    ("errors",),
    (
        *("allowed", "config", "files", "nn", "npz", "pages", "progress", "recipe_flags"),
        *("settings", "signals"),
    ),
    ("backbones", "data"),
    ("models", "prepare"),
    ("convert", "distributed", "tfds", "torch_models"),
    ("build", "checkpoints", "checks", "loading", "optim", "recipe_data", "verify"),
    ("evaluation", "planning", "training"),
    ("prediction", "probing", "reporting"),
    ("explanation", "export"),
    ("cli", "main"),
)


# What code may use that knows nothing of JAX or of configurations.
GROUND = tuple(f"trn_jax.{name}" for name in ("errors", "files", "progress", "signals"))


def name_of(path):
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in SOURCES.items()}


def room(module):
    """`"data"` for `"trn_jax.data.videos"`; the package's own file is the uppermost room."""
    return module.split(".")[1] if "." in module else ""


def floor(module):
    """The number of its floor, or `None`."""
    floors = [number for number, rooms in enumerate(FLOORS) if room(module) in rooms]
    return floors[0] if floors else len(FLOORS) if module == "trn_jax" else None


def imports(tree, known):
    """What a module imports, in functions too; `from package import module` names the module."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in known else node.module)
    return found


def own_imports(name):
    """The modules of this package that a module imports."""
    found = imports(TREES[name], [*SOURCES, "trn_jax.__version__"])
    # The version is all that the package's own file defines; everybody may know it.
    return {i for i in found if i.split(".")[0] == "trn_jax"} - {"trn_jax.__version__"}


def outside_imports(tree):
    return {i.split(".")[0] for i in imports(tree, SOURCES)} - {"trn_jax", *sys.stdlib_module_names}


@pytest.mark.smoke
@pytest.mark.parametrize("name", SOURCES)
def test_imports_go_down(name):
    assert floor(name) is not None, f"{name} is on none of the FLOORS"
    upward = [i for i in own_imports(name) if floor(i) is None or floor(i) > floor(name)]
    assert upward == []


def test_no_imports_go_in_circles():
    modules = {name: own_imports(name) - {name} for name in SOURCES}
    rooms: dict[str, set[str]] = {}
    for name, found in modules.items():
        rooms.setdefault(room(name), set()).update({room(i) for i in found} - {room(name)})
    for graph in (modules, rooms):
        graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_the_import_rules_can_fail():
    tree = ast.parse(
        "def f():\n    from trn_jax.training import loop\n    import trn_jax.build as r"
    )
    assert imports(tree, SOURCES) == {"trn_jax.training.loop", "trn_jax.build"}
    assert floor("trn_jax.training.loop") > floor("trn_jax.build") > floor("trn_jax.models.trn")
    assert floor("trn_jax.helpers") is None and floor("trn_jax") > floor("trn_jax.cli")
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()


def test_data_knows_nothing_of_jax_or_of_models():
    for name in SOURCES:
        if name.startswith("trn_jax.data"):
            assert outside_imports(TREES[name]).isdisjoint({"jax", "flax", "optax", "orbax"}), name
            allowed = ("trn_jax.data", "trn_jax.config", *GROUND)
            assert all(i.startswith(allowed) for i in own_imports(name)), name


def test_preparation_knows_nothing_of_jax_or_of_models():
    for name in SOURCES:
        if name.startswith("trn_jax.prepare"):
            assert outside_imports(TREES[name]) <= {"cv2", "numpy", "simplejpeg", "tqdm"}, name
            allowed = ("trn_jax.prepare", "trn_jax.data", *GROUND)
            assert all(i.startswith(allowed) for i in own_imports(name)), name


def test_builders_of_records_know_nothing_of_jax_or_of_models():
    for name in SOURCES:
        if name.startswith("trn_jax.tfds"):
            assert outside_imports(TREES[name]).isdisjoint({"jax", "flax", "optax", "orbax"}), name
            allowed = ("trn_jax.tfds", "trn_jax.prepare", "trn_jax.data", *GROUND)
            assert all(i.startswith(allowed) for i in own_imports(name)), name


def test_networks_know_nothing_of_data_or_of_configurations():
    for name in SOURCES:
        if name.startswith(("trn_jax.models", "trn_jax.backbones", "trn_jax.nn", "trn_jax.optim")):
            allowed: tuple = ("trn_jax.nn", "trn_jax.errors")
            if not name.startswith("trn_jax.nn"):
                allowed += ("trn_jax.models", "trn_jax.backbones")
            assert all(i.startswith(allowed) for i in own_imports(name)), name


def test_few_modules_see_a_configuration():
    seen = {name for name, tree in TREES.items() if "ml_collections" in outside_imports(tree)}
    assert seen <= {"trn_jax.config", "trn_jax.main", "trn_jax.recipe_flags"}
    assert outside_imports(TREES["trn_jax.config"]) == {"ml_collections"}


def test_metrics_need_numpy_only():
    for name in ("calibration", "metrics", "event_metrics"):
        assert outside_imports(TREES[f"trn_jax.evaluation.{name}"]) == {"numpy"}


def test_recipes_import_the_base_only():
    paths = sorted((REPOSITORY / "configs").glob("*.py"))
    assert paths
    for path in paths:
        found = imports(ast.parse(path.read_text()), {})
        assert all(i == "trn_jax.config" for i in found), path.name


# What compares our models with PyTorch's. Everything else works without.
WITH_TORCH = ("trn_jax.torch_models", "trn_jax.torch_models.*", "trn_jax.verify")


def test_everything_imported_is_a_declared_dependency():
    with open(REPOSITORY / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    declared = {distribution(d) for d in project["dependencies"]}
    owners = importlib.metadata.packages_distributions()
    for name, tree in TREES.items():
        for imported in outside_imports(tree):
            if imported == "torch" and compares_with_torch(name):
                assert "torch" in map(distribution, project["optional-dependencies"]["torch"])
                continue
            if imported == "av":
                assert name == "trn_jax.data.containers"
                assert "av" in map(distribution, project["optional-dependencies"]["video"])
                continue
            if imported == "pyarrow":
                assert name == "trn_jax.prediction.feature_files"
                extra = project["optional-dependencies"]["parquet"]
                assert "pyarrow" in map(distribution, extra)
                continue
            if imported in ("onnx", "onnxruntime", "google"):  # protobuf, of onnx
                assert room(name) == "export"
                extra = {distribution(d) for d in project["optional-dependencies"]["export"]}
                assert {"onnx", "onnxruntime"} <= extra
                continue
            if imported == "huggingface_hub":
                assert name == "trn_jax.checkpoints.hub"
                extra = project["optional-dependencies"]["hub"]
                assert "huggingface-hub" in map(distribution, extra)
                continue
            if imported == "matplotlib":
                assert name == "trn_jax.reporting.figures"
                extra = project["optional-dependencies"]["report"]
                assert "matplotlib" in map(distribution, extra)
                continue
            if imported == "PIL":
                assert name == "trn_jax.evaluation.lettering"
                extra = project["optional-dependencies"]["captions"]
                assert "pillow" in map(distribution, extra)
                continue
            if imported == "tensorflow_datasets" and name.startswith("trn_jax.tfds"):
                assert "tensorflow-datasets" in map(
                    distribution, project["optional-dependencies"]["tfds"]
                )
                continue
            if imported == "tensorflow":
                # The tf.data.Dataset of those who have it, and nothing of ours.
                assert name == "trn_jax.tfds.video_folder"
                continue
            provided_by = {d.lower().replace("_", "-") for d in owners[imported]}
            assert provided_by & declared, f"{name} imports {imported}"


def distribution(requirement):
    return re.match(r"[\w-]+", requirement)[0].lower().replace("_", "-")


def compares_with_torch(name):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in WITH_TORCH)


def test_nothing_imports_pytorch_unasked():
    for name, tree in TREES.items():
        if not compares_with_torch(name):
            at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
            found = imports(ast.Module(at_once, []), SOURCES)
            assert not any(i == "torch" or compares_with_torch(i) for i in found), name


def test_networks_of_pytorch_share_no_code_with_ours():
    # Tables of sizes and names apart: what is to be compared must not be the same thing.
    allowed = {
        "trn_jax.errors",
        "trn_jax.models",
        "trn_jax.models.recognizer",
        "trn_jax.backbones.bninception",
    }
    for name in SOURCES:
        if name.startswith("trn_jax.torch_models"):
            assert all(
                i in allowed or i.startswith("trn_jax.torch_models") for i in own_imports(name)
            )
            assert outside_imports(TREES[name]) <= {"numpy", "torch"}


# What an import costs


def modules_after(code):
    """The packages that are loaded after `code` has run in a fresh interpreter."""
    code = f"{code}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return set(found.stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    loaded = modules_after("import trn_jax, trn_jax.config")
    assert loaded.isdisjoint(
        {"jax", "jaxlib", "flax", "optax", "orbax", "grain", "cv2", "numpy", "torch", "tensorflow"}
    )


def test_loader_modules_do_not_load_jax():
    names = ("sampling", "decode", "augment", "crops", "labels", "annotations", "datasets")
    names += ("records", "synthetic")
    modules = [f"trn_jax.data.{name}" for name in names]
    loaded = modules_after(f"import {', '.join(modules)}, trn_jax.prepare")
    assert loaded.isdisjoint({"jax", "jaxlib", "flax", "torch", "tensorflow"})


def test_training_needs_no_other_framework_and_opens_no_device():
    # A platform that does not exist: whoever opens a device while being imported fails. And no
    # PyTorch, which libraries that we use would load if it happened to be there.
    loaded = modules_after(
        "import os, sys; os.environ['JAX_PLATFORMS'] = 'none_such'; sys.modules['torch'] = None\n"
        "import trn_jax.main, trn_jax.training.loop, trn_jax.convert; del sys.modules['torch']"
    )
    assert "jax" in loaded
    assert loaded.isdisjoint({"torch", "tensorflow", "pandas", "matplotlib"})


# House rules


@pytest.mark.parametrize("name", SOURCES)
def test_input_is_not_checked_with_assert(name):
    # Assertions vanish under `python -O`, and their message is for programmers.
    assert [node.lineno for node in ast.walk(TREES[name]) if isinstance(node, ast.Assert)] == []


def test_no_module_is_a_drawer_for_odds_and_ends():
    vague = {"utils", "util", "common", "misc", "helpers", "helper", "tools", "base"}
    folders_and_files = {part for name in SOURCES for part in name.split(".")}
    assert folders_and_files.isdisjoint(vague)


def undocumented(tree, prefix=""):
    """Public modules, classes, functions and methods without a docstring."""
    found = [] if ast.get_docstring(tree) else [prefix or "module"]
    if isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef):
        return found  # what is defined inside a function is private
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in (node for node in tree.body if isinstance(node, kinds)):
        if not node.name.startswith("_") or node.name == "__call__":
            found += undocumented(node, f"{prefix}.{node.name}")
    return found


@pytest.mark.parametrize("name", SOURCES)
def test_everything_public_has_a_docstring(name):
    assert undocumented(TREES[name]) == []


@pytest.mark.parametrize("folder", ["trn_jax", "configs", "tests", "scripts"])
def test_nothing_is_left_to_do(folder):
    marks = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX")))
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}"
        for path in sorted((REPOSITORY / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if marks.search(line)
    ]
    assert found == []


def test_test_modules_have_names_of_their_own():
    # pytest imports them by their names alone.
    counts = collections.Counter(path.name for path in (REPOSITORY / "tests").rglob("*.py"))
    assert {name for name, count in counts.items() if count > 1} <= {"conftest.py"}


def test_tests_import_no_test_modules_and_no_private_names():
    for path in (REPOSITORY / "tests").rglob("*.py"):
        tree = ast.parse(path.read_text())
        found = {i.split(".")[-1] for i in imports(tree, SOURCES)}
        assert not any(name.startswith("test_") for name in found), path
        modules = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("trn_jax")
            for alias in node.names
        }
        private = [
            f"{node.value.id}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and re.match("_[a-z]", node.attr)
            and isinstance(node.value, ast.Name)
            and node.value.id in modules
        ]
        assert private == [], path
