"""Swin, ConvNeXt, EfficientNet, MobileNetV3, ViT, Inception-v3 and all ResNets of the packages.

Logits in evaluation, and loss, gradients and statistics of a step in training. Weights are random.
Each case is skipped where its package is not installed:
pip install torch torchvision timm mmpretrain mmengine mmcv-lite
"""

import jax
import numpy as np
import pytest
from flax import nnx

from trn_jax import convert, create_model

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.slow
CLASSES = 7


def torchvision(name, **options):
    models = pytest.importorskip("torchvision.models")
    return getattr(models, name)(weights=None, num_classes=CLASSES, **options)


def timm(name, **options):
    return pytest.importorskip("timm").create_model(name, num_classes=CLASSES, **options)


def mmpretrain(backbone, head, neck=True):
    pytest.importorskip("mmpretrain")
    from mmpretrain.models import build_classifier

    head = dict(type="LinearClsHead", num_classes=CLASSES) | head
    pool = dict(type="GlobalAveragePooling") if neck else None
    network = build_classifier(
        dict(type="ImageClassifier", backbone=backbone, neck=pool, head=head)
    )
    network.forward = lambda x: network.head(network.extract_feat(x))
    return network


def linear(channels):
    return dict(in_channels=channels)


SWIN = "swin_{}_patch4_window7_224"
CASES = {
    "torchvision swin_t": ("swin_tiny", torchvision, ("swin_t",), {}),
    "torchvision swin_s": ("swin_small", torchvision, ("swin_s",), {}),
    "timm swin_t": ("swin_tiny", timm, (SWIN.format("tiny"),), {}),
    "timm swin_l": ("swin_large", timm, (SWIN.format("large"),), {}),
    "mmpretrain swin_t": (
        "swin_tiny",
        mmpretrain,
        (dict(type="SwinTransformer", arch="tiny", img_size=224), linear(768)),
        {},
    ),
    "torchvision resnext50": ("resnext50_32x4d", torchvision, ("resnext50_32x4d",), {}),
    "timm resnext50": ("resnext50_32x4d", timm, ("resnext50_32x4d",), {}),
    "mmpretrain resnext50": (
        "resnext50_32x4d",
        mmpretrain,
        (dict(type="ResNeXt", depth=50), linear(2048)),
        {},
    ),
    "torchvision resnet152": ("resnet152", torchvision, ("resnet152",), {}),
    "torchvision convnext_tiny": ("convnext_tiny", torchvision, ("convnext_tiny",), {}),
    "torchvision convnext_base": ("convnext_base", torchvision, ("convnext_base",), {}),
    "timm convnext_tiny": ("convnext_tiny", timm, ("convnext_tiny",), {}),
    "mmpretrain convnext_tiny": (
        "convnext_tiny",
        mmpretrain,
        (dict(type="ConvNeXt", arch="tiny"), linear(768), False),
        {},
    ),
    "torchvision efficientnet_b0": ("efficientnet_b0", torchvision, ("efficientnet_b0",), {}),
    "timm efficientnet_b0": ("efficientnet_b0", timm, ("efficientnet_b0",), {}),
    "torchvision mobilenet_v3": ("mobilenetv3_large", torchvision, ("mobilenet_v3_large",), {}),
    "timm mobilenetv3": (
        "mobilenetv3_large",
        timm,
        ("mobilenetv3_large_100",),
        dict(norm_epsilon=1e-5),
    ),
    "mmpretrain mobilenetv3": (
        "mobilenetv3_large",
        mmpretrain,
        (
            dict(type="MobileNetV3", arch="large"),
            dict(
                type="StackedLinearClsHead",
                in_channels=960,
                mid_channels=[1280],
                act_cfg=dict(type="HSwish"),
            ),
        ),
        {},
    ),
    "torchvision vit_b_16": ("vit_base", torchvision, ("vit_b_16",), {}),
    "timm vit_b_16": ("vit_base", timm, ("vit_base_patch16_224",), {}),
    "mmpretrain vit_b_16": (
        "vit_base",
        mmpretrain,
        (
            dict(type="VisionTransformer", arch="b", img_size=224, patch_size=16),
            dict(type="VisionTransformerClsHead", in_channels=768),
            False,
        ),
        {},
    ),
    "torchvision inception_v3": (
        "inceptionv3",
        lambda name: torchvision(name, init_weights=False),
        ("inception_v3",),
        {},
    ),
    "timm inception_v3": ("inceptionv3", timm, ("inception_v3",), {}),
}


def randomise(network):
    """Statistics, biases, scales, tokens and factors that are all different."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.min() == parameter.max():
            factor = 0 if parameter.abs().max() < 1e-3 else 1
            drawn = torch.empty_like(parameter).uniform_(-0.3, 0.3, generator=generator)
            parameter.data = factor * parameter.data + drawn
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_package(case, tmp_path):
    ours, build, arguments, options = CASES[case]
    torch.manual_seed(0)
    network = build(*arguments).eval()
    randomise(network)
    torch.save(network.state_dict(), tmp_path / "model.pth")
    pixels = 299 if "inception" in case else 224
    frame = np.random.default_rng(0).integers(0, 256, (1, 1, pixels, pixels, 3), np.uint8)

    weights = convert.read_torch_file(tmp_path / "model.pth")
    assert convert.num_classes(convert.shapes(weights)) == CLASSES
    sizes = dict(num_classes=CLASSES, num_segments=1, **options)
    model = nnx.eval_shape(lambda: create_model(f"tsn_{ours}", **sizes))
    rows = convert.load_state_dict(model, weights, take_classifier=True)
    unread = convert.unread(weights, rows)
    if case == "torchvision inception_v3":  # a second classifier, of training
        assert len(unread) == 1 and "AuxLogits" in unread[0]
    else:
        assert not unread
    with jax.default_matmul_precision("highest"):
        found = np.asarray(nnx.jit(lambda model, x: model(x))(model, frame))
    x = (frame[:, 0].astype(np.float32) - model.mean) / np.array(model.std)
    with torch.inference_mode():
        expected = network(torch.from_numpy(x.transpose(0, 3, 1, 2)).float()).numpy()
    assert expected.shape == (1, CLASSES) and np.ptp(expected) > 1e-3
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
@pytest.mark.parametrize("package", ["torchvision", "timm", "mmpretrain"])
def test_all_resnets_have_their_place(package, depth):
    if package == "mmpretrain":
        width = 512 if depth < 50 else 2048
        network = mmpretrain(dict(type="ResNet", depth=depth), linear(width))
    else:
        network = dict(torchvision=torchvision, timm=timm)[package](f"resnet{depth}")
    state = {n: np.broadcast_to(np.float32(1), t.shape) for n, t in network.state_dict().items()}
    model = nnx.eval_shape(lambda: create_model(f"tsn_resnet{depth}", num_classes=CLASSES))
    rows = convert.load_state_dict(model, state, take_classifier=True)
    assert not convert.unread(state, rows)


TRAINED = {
    "swin_tiny": ("swin_t", 224, {}, dict(drop_path_rate=0.0)),
    "resnext50_32x4d": ("resnext50_32x4d", 64, {}, {}),
    "convnext_tiny": ("convnext_tiny", 64, {}, dict(drop_path_rate=0.0)),
    "efficientnet_b0": (
        "efficientnet_b0",
        64,
        dict(dropout=0.0),
        dict(drop_path_rate=0.0),
    ),
    "mobilenetv3_large": ("mobilenet_v3_large", 64, dict(dropout=0.0), {}),
    "vit_base": ("vit_b_16", 224, {}, {}),
    "inceptionv3": (
        "inception_v3",
        96,
        dict(init_weights=False, aux_logits=False, dropout=0.0),
        {},
    ),
}


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_is_that_of_torchvision(name):
    """Loss, gradients and statistics, in double precision."""
    theirs, pixels, their_options, options = TRAINED[name]
    torch.manual_seed(0)
    network = torchvision(theirs, **their_options).train()
    for module in network.modules():
        if type(module).__name__ == "StochasticDepth":
            module.p = 0.0
    randomise(network)
    state = {key: value.numpy().copy() for key, value in network.state_dict().items()}
    frames = np.random.default_rng(0).integers(0, 256, (3, 1, pixels, pixels, 3), np.uint8)
    labels = np.arange(len(frames))
    options = dict(num_classes=CLASSES, num_segments=1, dropout_rate=0.0, **options)
    with jax.enable_x64(True):
        model = nnx.eval_shape(lambda: create_model(f"tsn_{name}", dtype="float64", **options))
        convert.load_state_dict(model, state, take_classifier=True)
        graph, *states = nnx.split(model, nnx.Param, ...)
        params, others = map(nnx.as_pure, states)

        def loss(params):
            model = nnx.merge(graph, params, others)
            scores = jax.nn.log_softmax(model(frames, train=True, rngs=nnx.Rngs(0)))
            after = nnx.as_pure(nnx.split(model, nnx.Param, ...)[2])
            return -scores[np.arange(len(labels)), labels].mean(), after

        (found, after), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        ours = convert.variables(nnx.merge(graph, gradients, after))
        x = (frames[:, 0] - np.array(model.mean)) / np.array(model.std)
        logits = network.double()(torch.from_numpy(x.transpose(0, 3, 1, 2)))
        expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
        expected.backward()
        assert float(found) == pytest.approx(expected.item(), rel=1e-9)
        # Gradients have the names and the layout of their parameters.
        tensors = {key: p.grad.numpy() for key, p in network.named_parameters()}
        tensors |= {key: b.numpy() for key, b in network.named_buffers()}
        model = nnx.eval_shape(lambda: create_model(f"tsn_{name}", dtype="float64", **options))
        rows = convert.load_state_dict(model, tensors, take_classifier=True)
        sizes = {}
        for path, variable in convert.variables(model).items():
            value = np.asarray(variable[...])
            sizes[path] = np.abs(value).max()
            # Biases in front of a norm have no gradient but rounding.
            atol = 1e-7 * sizes[path] + 1e-12
            np.testing.assert_allclose(ours[path][...], value, rtol=0, atol=atol, err_msg=path)
    assert len(rows) == len(sizes) == len(ours)
    assert np.mean(np.array(list(sizes.values())) > 1e-7) > 0.9
