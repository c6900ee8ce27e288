"""The models in PyTorch: names of the published files, the logits of our models."""

import copy
import importlib
from functools import partial

import jax
import numpy as np
import pytest
import weights
from flax import nnx
from reference_models import CASES, DEPLOYED, clips_of, state_dict

from trn_jax import backbones, convert, create_model, list_models, models
from trn_jax.backbones.bninception import BNInception
from trn_jax.backbones.convnext import ConvNeXt
from trn_jax.backbones.densenet import DenseNet
from trn_jax.backbones.non_local import MODES
from trn_jax.backbones.swin import Swin
from trn_jax.backbones.vit import ViT
from trn_jax.errors import UserError
from trn_jax.models.recognizer import IMAGENET_MEAN, IMAGENET_STD

torch = pytest.importorskip("torch")
torch_models = importlib.import_module("trn_jax.torch_models")  # which needs torch


@pytest.mark.parametrize("case", [*CASES, *DEPLOYED])
def test_names_and_shapes_are_those_of_the_reference(case, golden):
    with torch.device("meta"):  # shapes without memory
        state = torch_models.create_torch_model(**(CASES | DEPLOYED)[case]).state_dict()
    found = {name: list(value.shape) for name, value in state.items()}
    assert found == {name: shape for name, shape, _ in golden(f"cases/{case}")["manifest"]}


def test_what_one_model_is_asked_for_is_not_left_for_the_next():
    before = copy.deepcopy(torch_models.MODELS)
    with torch.device("meta"):
        for name in before:
            torch_models.create_torch_model(name, num_classes=3, num_segments=4)
    assert before == torch_models.MODELS


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_logits_match_the_reference(case, golden):
    numbers = golden(f"cases/{case}")
    state = state_dict(numbers)
    theirs = torch_models.create_torch_model(**CASES[case])
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    clips = clips_of(numbers)
    with torch.inference_mode():
        found = theirs.eval()(torch.from_numpy(clips)).numpy()
    expected = np.array(numbers["outputs"]["scores_per_view"])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


# Networks of few layers, by the names of the large ones of their kind.
FEW_BLOCKS = (
    ("3a", 64, (64, 64), (64, 96), "average", 32),
    ("3c", 0, (128, 160), (64, 96), "max", 0),
    ("5b", 352, (192, 320), (192, 224), "max", 128),
)
SMALL = {
    "bninception": (partial(BNInception, FEW_BLOCKS), torch_models.BNInception),
    "densenet161": (
        partial(DenseNet, (2, 1), growth=4, width=8),
        partial(torch_models.DenseNet, (2, 1), growth=4, width=8),
    ),
    "convnext_tiny": (
        partial(ConvNeXt, (1, 2), (8, 16)),
        partial(torch_models.ConvNeXt, (1, 2), (8, 16)),
    ),
    "vit_base": (
        partial(ViT, 2, width=32, head_channels=8, pixels=32),
        partial(torch_models.ViT, 2, width=32, head_channels=8, pixels=32),
    ),
    "swin_base": (
        partial(Swin, (2, 2), width=16, head_channels=8, window=2),
        partial(torch_models.Swin, (2, 2), width=16, head_channels=8, window=2),
    ),
}


@pytest.fixture
def small(monkeypatch):
    """Make the networks small that have no small form among the models."""
    for name, (ours, theirs) in SMALL.items():
        monkeypatch.setitem(backbones.BACKBONES, name, ours)
        monkeypatch.setitem(torch_models.BACKBONES, name, theirs)
    monkeypatch.setattr("trn_jax.torch_models.bninception.BLOCKS", FEW_BLOCKS)


TINY = {
    "tsn": dict(name="tsn_resnet10", width=8),
    "tsn, bottlenecks": dict(name="tsn_resnet50", width=4),
    "trn": dict(name="trn_resnet10", width=8),
    "trn, first": dict(name="trn_resnet10", width=8, eval_relations="first"),
    "trn, single scale": dict(name="trn_resnet10", width=8, head="trn"),
    "tsm": dict(name="tsm_resnet10", width=8),
    "tsm, every second block": dict(name="tsm_resnet18", width=8, shift_every=2),
    "tsm, whole blocks": dict(name="tsm_resnet10", width=8, shift_place="block", shift_div=4),
    "tsm, causal": dict(name="tsm_resnet10", width=8, causal=True),
    "tsm, parts of clips": dict(name="tsm_resnet10", width=8, shift_segments=2),
    "tin": dict(name="tin_resnet10", width=16),
    "tpn": dict(name="tpn_slowonly_resnet14", width=4, temporal_scales=(2, 4)),
    "tpn, parallel, tsm": dict(
        name="tpn_tsm_resnet50", backbone="resnet10", width=8, conv_groups=4, flow="parallel"
    ),
    "resnext": dict(name="tsn_resnext101_32x4d", backbone="resnext14_32x4d", width=16),
    "mobileone": dict(name="tsn_mobileone_s4", backbone="mobileone_tiny"),
    "mobileone, deployed": dict(name="tsn_mobileone_s4", backbone="mobileone_tiny", deploy=True),
    "mobileone, tsm": dict(name="tsm_mobileone_s4", backbone="mobileone_tiny", num_convs=2),
    "mobilenetv2": dict(name="trn_mobilenetv2", backbone="mobilenetv2_tiny", width_factor=0.3),
    "mobilenetv2, tsm": dict(name="tsm_mobilenetv2", backbone="mobilenetv2_tiny"),
    **{f"{mode}, tsm": dict(name="tsm_resnet18", width=8, non_local=mode) for mode in MODES},
    "non-local, bottlenecks": dict(name="tsn_resnet50", width=4, non_local="gaussian"),
    "bninception": dict(name="tsn_bninception", width=16),
    "bninception, trn": dict(name="trn_bninception", width=16, num_segments=2),
    "densenet": dict(name="tsn_densenet161"),
    "swin": dict(name="tsn_swin_base"),
    "convnext": dict(name="tsn_convnext_tiny"),
    "vit": dict(name="tsn_vit_base", pixels=32),
}


def both(*, num_segments=4, pixels=32, **options):
    """Our model and PyTorch's with the same weights, and clips for them."""
    options |= dict(num_classes=5, num_segments=num_segments)
    theirs = torch_models.create_torch_model(**options)
    manifest = [
        (name, tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for name, value in theirs.state_dict().items()
    ]
    # Attention has biases that are no `bias` of a layer.
    manifest = [(name.replace("in_proj_", "in_proj."), *rest) for name, *rest in manifest]
    state = weights.deterministic_state_dict(manifest, seed=0)
    state = {name.replace("in_proj.", "in_proj_"): value for name, value in state.items()}
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    model = nnx.eval_shape(lambda: create_model(**options))
    arrays = {name: value.numpy() for name, value in theirs.state_dict().items()}
    convert.load_state_dict(model, arrays)
    clips = weights.deterministic_clip((2, num_segments, pixels, pixels, 3), seed=1)
    return model, theirs, clips


def logits(model, clips):
    graph, state = nnx.split(model)
    return jax.jit(lambda s, c: nnx.merge(graph, s)(c))(state, clips)


def torch_logits(theirs, clips):
    with torch.inference_mode():
        return theirs.eval()(torch.from_numpy(clips)).numpy()


def assert_close(found, expected):
    expected = np.asarray(expected)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("case", TINY)
def test_logits_are_ours(case, small):
    model, theirs, clips = both(**TINY[case])
    assert_close(logits(model, clips), torch_logits(theirs, clips))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["tsn_resnet18", "tsn_resnet34", "tsn_resnet152", "tsn_bninception", "tsm_resnet101"],
)
def test_logits_of_models_without_reference_are_ours(name):
    model, theirs, clips = both(name=name, pixels=64)
    assert_close(logits(model, clips), torch_logits(theirs, clips))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        dict(name="tsn_efficientnet_b0"),
        dict(name="tsn_efficientnet_b0", temporal_op="tsm", head="tsm"),
        dict(name="tsn_mobilenetv3_large"),
        dict(name="tsn_mobilenetv3_large", temporal_op="tsm", head="tsm"),
        dict(name="trn_inceptionv3", pixels=96),
    ],
)
def test_logits_of_networks_without_small_form_are_ours(options):
    model, theirs, clips = both(**dict(pixels=64) | options)
    assert_close(logits(model, clips), torch_logits(theirs, clips))


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["tsn", "tpn"])
def test_training_computes_the_same_outputs(case):
    model, theirs, clips = both(**TINY[case], dropout_rate=0.0, pixels=64)
    graph, state = nnx.split(model)

    def outputs(state, clips):
        return nnx.merge(graph, state).outputs(clips, train=True, rngs=nnx.Rngs(0))

    found, found_auxiliary = jax.jit(outputs)(state, clips)
    expected, auxiliary = theirs.outputs(torch.from_numpy(clips))
    assert_close(found, expected.detach())
    assert (auxiliary is None) == (found_auxiliary is None) == (case == "tsn")
    if auxiliary is not None:
        assert_close(found_auxiliary, auxiliary.detach())


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["mobilenetv2, tsm", "embedded_gaussian, tsm", "dot_product, tsm"])
def test_a_training_step_is_pytorch_s(case):
    """Loss, gradients and statistics, in double precision."""
    pixels = {
        key: np.float32(value).tolist()
        for key, value in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD))
    }
    labels = np.array([1, 3])
    with jax.enable_x64(True):
        options = TINY[case] | pixels | dict(dropout_rate=0.0, dtype="float64")
        model, theirs, clips = both(**options, pixels=64)
        graph, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
        params, stats = map(nnx.as_pure, states)

        def loss(params):
            model = nnx.merge(graph, params, stats)
            scores = jax.nn.log_softmax(model(clips, train=True, rngs=nnx.Rngs(0)))
            after = nnx.as_pure(nnx.state(model, nnx.BatchStat))
            return -scores[np.arange(2), labels].mean(), after

        (found, after), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    expected = torch.nn.functional.cross_entropy(
        theirs.double()(torch.from_numpy(clips)), torch.from_numpy(labels)
    )
    expected.backward()
    assert float(found) == pytest.approx(expected.item(), rel=1e-10)
    values = convert.variables(nnx.merge(graph, gradients, after))
    tensors = {name: p.grad for name, p in theirs.named_parameters()} | dict(theirs.named_buffers())
    sizes = {}
    for name, tensor in tensors.items():
        if path := convert.our_path(name, "mmaction2", values):
            value = np.asarray(values[path][...])
            if path.endswith("kernel"):
                value = np.moveaxis(value, (-1, -2), (0, 1))
            # Biases in front of a norm or of a softmax have no gradient but rounding.
            size = float(tensor.abs().max())
            np.testing.assert_allclose(
                value.reshape(tensor.shape), tensor, rtol=0, atol=1e-8 * size + 1e-12, err_msg=name
            )
            sizes[path] = size
    assert sizes.keys() == values.keys()
    assert np.mean(np.array(list(sizes.values())) > 1e-6) > 0.9


def test_relations_are_drawn_and_features_dropped_in_training():
    torch.manual_seed(0)
    features = torch.randn(1, 4, 64)
    for rate, options in ((0.8, dict(train_relations="first")), (0.0, {})):
        head = both(**TINY["trn"], **options, dropout_rate=rate)[1].cls_head
        found = torch.stack([head(features) for _ in range(10)])
        assert found.std(0).min() > 1e-3
        head.eval()
        assert torch.equal(head(features), head(features))


def test_drop_path_leaves_out_whole_frames(small):
    _, theirs, _ = both(name="tsn_swin_base", drop_path_rate=0.5)
    block = theirs.backbone.layers[1].blocks[1]
    kept = block.drop_path(torch.ones(64, 2, 2, 3)).flatten(1)
    assert {tuple(row) for row in kept.tolist()} == {(0.0,) * 12, (2.0,) * 12}
    assert block.eval().drop_path(kept) is kept


def test_every_model_has_a_pytorch_counterpart():
    for ours, theirs in (
        (backbones.BACKBONES, torch_models.BACKBONES),
        (models.TEMPORAL_OPS, torch_models.TEMPORAL_OPS),
        (models.NECKS, torch_models.NECKS),
        (models.HEADS, torch_models.HEADS),
    ):
        assert ours.keys() == theirs.keys()
    with torch.device("meta"):
        for name in list_models():
            torch_models.create_torch_model(name, num_classes=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(name="tsn_resnet11"), "unknown model 'tsn_resnet11'"),
        (dict(name="tsn_resnet10", head="vote"), "head 'vote'.* tpn"),
        (dict(name="tsn_resnet10", growth=3), "'growth'"),
        (dict(name="tsn_densenet161", temporal_op="tsm"), "temporal_op"),
    ],
)
def test_what_has_no_counterpart_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        torch_models.create_torch_model(**options, num_classes=5)
