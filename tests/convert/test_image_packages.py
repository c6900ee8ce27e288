"""Image networks of the packages that publish them, converted: the same logits or features.

Weights are random. Each case is skipped where its package is not installed:
pip install torch torchvision timm transformers mmpretrain mmengine mmcv-lite
"""

import jax
import numpy as np
import pytest
from flax import nnx

from trn_jax import convert, create_model
from trn_jax.errors import UserError

torch = pytest.importorskip("torch")

CLASSES = 7


def torchvision(name):
    models = pytest.importorskip("torchvision.models")
    return getattr(models, name)(weights=None, num_classes=CLASSES)


def timm(name, **options):
    return pytest.importorskip("timm").create_model(name, num_classes=CLASSES, **options)


def transformers(name, **options):
    package = pytest.importorskip("transformers")
    config = getattr(package, f"{name}Config")(num_labels=CLASSES, **options)
    network = getattr(package, f"{name}ForImageClassification")(config)
    whole = network.forward
    network.forward = lambda x: whole(x).logits
    return network


def mmpretrain(backbone, channels):
    pytest.importorskip("mmpretrain")
    from mmpretrain.models import build_classifier

    network = build_classifier(
        dict(
            type="ImageClassifier",
            backbone=backbone,
            neck=dict(type="GlobalAveragePooling"),
            head=dict(type="LinearClsHead", num_classes=CLASSES, in_channels=channels),
        )
    )
    network.forward = lambda x: network.head(network.extract_feat(x))
    return network


SWIN = dict(embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], window_size=7)
BASIC = dict(
    embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic"
)
CASES = {
    "torchvision resnet18": ("tsn_resnet18", torchvision, ("resnet18",)),
    "torchvision resnet50": ("tsn_resnet50", torchvision, ("resnet50",)),
    "torchvision swin_b": ("tsn_swin_base", torchvision, ("swin_b",)),
    "timm resnet34": ("tsn_resnet34", timm, ("resnet34",)),
    "timm resnet101": ("tsn_resnet101", timm, ("resnet101",)),
    "timm resnext101_32x4d": ("tsn_resnext101_32x4d", timm, ("resnext101_32x4d",)),
    "timm swin": ("tsn_swin_base", timm, ("swin_base_patch4_window7_224",)),
    "torchvision mobilenet_v2": ("tsn_mobilenetv2", torchvision, ("mobilenet_v2",)),
    "timm mobilenetv2_100": ("tsn_mobilenetv2", timm, ("mobilenetv2_100",)),
    "timm mobilenetv2_050": ("tsn_mobilenetv2", timm, ("mobilenetv2_050",)),
    "timm mobilenetv2_140": ("tsn_mobilenetv2", timm, ("mobilenetv2_140",)),
    "timm mobileone_s4": ("tsn_mobileone_s4", timm, ("mobileone_s4",)),
    "transformers resnet18": ("tsn_resnet18", transformers, ("ResNet",), BASIC),
    "transformers resnet50": ("tsn_resnet50", transformers, ("ResNet",)),
    "transformers swin": ("tsn_swin_base", transformers, ("Swin",), SWIN),
    "mmpretrain resnet50": ("tsn_resnet50", mmpretrain, (dict(type="ResNet", depth=50), 2048)),
    "mmpretrain resnext101": (
        "tsn_resnext101_32x4d",
        mmpretrain,
        (dict(type="ResNeXt", depth=101), 2048),
    ),
    "mmpretrain swin": (
        "tsn_swin_base",
        mmpretrain,
        (dict(type="SwinTransformer", arch="base", img_size=224), 1024),
    ),
    "mmpretrain mobilenet_v2": (
        "tsn_mobilenetv2",
        mmpretrain,
        (dict(type="MobileNetV2"), 1280),
    ),
    "mmpretrain mobileone_s4": (
        "tsn_mobileone_s4",
        mmpretrain,
        (dict(type="MobileOne", arch="s4", out_indices=(3,)), 2048),
    ),
}


WIDTHS = {"timm mobilenetv2_050": 0.5, "timm mobilenetv2_140": 1.4}


def randomise(network):
    """Statistics of batch norms, biases and scales that are all different."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.LayerNorm):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_package(case, tmp_path):
    ours, build, arguments, *options = CASES[case]
    torch.manual_seed(0)
    network = build(*arguments, **options[0] if options else {}).eval()
    randomise(network)
    torch.save(network.state_dict(), tmp_path / "model.pth")
    frame = np.random.default_rng(0).integers(0, 256, (1, 1, 224, 224, 3), np.uint8)

    weights = convert.read_torch_file(tmp_path / "model.pth")
    assert convert.num_classes(convert.shapes(weights)) == CLASSES
    sizes = dict(num_classes=CLASSES, num_segments=1, width_factor=WIDTHS.get(case))
    model = nnx.eval_shape(lambda: create_model(ours, **sizes))
    rows = convert.load_state_dict(model, weights, take_classifier=True)
    assert not convert.unread(weights, rows)
    with jax.default_matmul_precision("highest"):
        found = np.asarray(model(frame))
    x = (frame[:, 0].astype(np.float32) - model.mean) / np.array(model.std)
    with torch.inference_mode():
        expected = network(torch.from_numpy(x.transpose(0, 3, 1, 2)).float()).numpy()
    assert expected.shape == (1, CLASSES)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


# Their classifiers stand behind a ReLU, which ours has not.
DENSENETS = {
    "torchvision": lambda: (network := torchvision("densenet161"), network.features),
    "timm": lambda: timm_densenet(),
    "mmpretrain": lambda: mmpretrain_densenet(),
}


def timm_densenet():
    network = timm("densenet161")
    network.features.norm5.act = torch.nn.Identity()  # the ReLU
    return network, network.features


def mmpretrain_densenet():
    network = mmpretrain(dict(type="DenseNet", arch="161"), 2208)
    network.backbone.transitions[3][1] = torch.nn.Identity()  # the ReLU
    return network, lambda x: network.backbone(x)[0]


@pytest.mark.slow
@pytest.mark.parametrize("package", DENSENETS)
def test_features_of_densenet_are_those_of_the_package(package):
    torch.manual_seed(0)
    network, features = DENSENETS[package]()
    randomise(network.eval())
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    build = nnx.jit(lambda: create_model("tsn_densenet161", num_classes=CLASSES, num_segments=1))
    with pytest.raises(UserError, match="take_classifier=True"):
        convert.load_state_dict(build(), state, take_classifier=True)
    model = build()
    rows = convert.load_state_dict(model, state, backbone_only=True)
    assert convert.unread(state, rows)[0].startswith("left unread: 2 tensors: ")
    frame = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        found = np.asarray(model.backbone(frame)[-1])
    with torch.inference_mode():
        expected = features(torch.from_numpy(frame.transpose(0, 3, 1, 2))).numpy()
    assert np.abs(found - expected.transpose(0, 2, 3, 1)).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.slow
def test_mobilenetv2_trains_as_torchvision_s():
    """Loss, gradients and statistics, in double precision."""
    torch.manual_seed(0)
    network = torchvision("mobilenet_v2").train()
    network.classifier[0].p = 0.0
    randomise(network)
    state = {name: value.numpy().copy() for name, value in network.state_dict().items()}
    frames = np.random.default_rng(0).integers(0, 256, (4, 1, 64, 64, 3), np.uint8)
    labels = np.arange(4)
    options = dict(num_classes=CLASSES, num_segments=1, dropout_rate=0.0, dtype="float64")
    with jax.enable_x64(True):
        model = nnx.eval_shape(lambda: create_model("tsn_mobilenetv2", **options))
        convert.load_state_dict(model, state, take_classifier=True)
        graph, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
        params, stats = map(nnx.as_pure, states)

        def loss(params):
            model = nnx.merge(graph, params, stats)
            scores = jax.nn.log_softmax(model(frames, train=True, rngs=nnx.Rngs(0)))
            after = nnx.as_pure(nnx.state(model, nnx.BatchStat))
            return -scores[np.arange(4), labels].mean(), after

        (found, after), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    x = (frames[:, 0] - np.array(model.mean)) / np.array(model.std)
    logits = network.double()(torch.from_numpy(x.transpose(0, 3, 1, 2)))
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
    expected.backward()
    assert float(found) == pytest.approx(expected.item(), rel=1e-10)
    values = convert.variables(nnx.merge(graph, gradients, after))
    tensors = {name: p.grad for name, p in network.named_parameters()}
    tensors |= dict(network.named_buffers())
    sizes = {}
    for name, tensor in tensors.items():
        path = convert.our_path(name, "torchvision_mobilenetv2", values) or ""
        path = path.replace("classifier/", "head/fc/")
        if path:
            value = np.asarray(values[path][...])
            value = np.moveaxis(value, (-1, -2), (0, 1)) if path.endswith("kernel") else value
            # Biases in front of a norm have no gradient but rounding.
            size = float(tensor.abs().max())
            atol = 1e-8 * size + 1e-12
            np.testing.assert_allclose(value, tensor, rtol=0, atol=atol, err_msg=name)
            sizes[path] = size
    assert sizes.keys() == values.keys()
    assert np.mean(np.array(list(sizes.values())) > 1e-6) > 0.9
