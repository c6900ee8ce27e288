"""What "auto" is on which devices."""

import types

import jax
import pytest
from flax import nnx

from trn_jax.models import create_model
from trn_jax.nn.precision import compute_dtype


def devices(*names):
    """Stand-ins: "gpu 8.0" is a GPU of this compute capability."""
    found = []
    for name in names:
        platform, _, capability = name.partition(" ")
        more = dict(compute_capability=capability) if capability else {}
        found.append(types.SimpleNamespace(platform=platform, **more))
    return found


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["cpu"], "float32"),
        (["tpu"], "bfloat16"),
        (["gpu 7.5"], "float32"),
        (["gpu 8.0"], "bfloat16"),
        (["gpu 9.0", "gpu 10.0"], "bfloat16"),
        (["gpu 9.0", "gpu 7.0"], "float32"),
        (["gpu gfx90a"], "float32"),
        (["gpu"], "float32"),
    ],
)
def test_auto_is_bfloat16_where_the_devices_have_it(names, expected):
    assert compute_dtype("auto", devices(*names)) == expected
    for stated in ("float32", "bfloat16", "float64"):
        assert compute_dtype(stated, devices(*names)) == stated


def test_models_take_auto(monkeypatch):
    options = dict(num_classes=3, num_segments=2, width=4)

    def dtype_of(dtype):
        model = nnx.eval_shape(lambda: create_model("tsm_resnet10", dtype=dtype, **options))
        assert model.backbone.conv1.dtype == model.backbone.dtype
        return model.dtype

    assert dtype_of("auto") == "float32"
    monkeypatch.setattr(jax, "devices", lambda: devices("tpu"))
    assert dtype_of("auto") == "bfloat16"
    assert dtype_of("float32") == "float32"
