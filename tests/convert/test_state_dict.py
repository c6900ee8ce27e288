"""Names and layouts of foreign weights, and what is said when they do not fit."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from state_dicts import (
    INTERLACED,
    LAYERS,
    ORIGINAL_TIN,
    ORIGINAL_TSM,
    RELATIONS,
    RESNET,
    SHIFTED,
    TRN_PYTORCH,
    check,
    state_of,
    weights_of,
)

from trn_jax import convert, create_model
from trn_jax.convert import variables
from trn_jax.convert.diagnosis import describe_network
from trn_jax.convert.name_tables import NAME_TABLES
from trn_jax.errors import UserError

HEADS = ("tsn", "trn", "trn_multiscale")


def abstract(head="trn_multiscale", backbone="resnet50", dtype="float32"):
    options = dict(num_classes=5, num_segments=4, width=4, backbone=backbone, dtype=dtype)
    return nnx.eval_shape(lambda: create_model("trn_resnet50", head=head, **options))


@pytest.mark.by_default("resnet18")
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
@pytest.mark.parametrize("head", HEADS)
def test_every_name_is_mapped_and_every_tensor_arrives(head, backbone):
    model = abstract(head, backbone)
    ours, theirs = weights_of(model, head)
    convert.load_state_dict(model, theirs, source="mmaction2")
    for path, leaf in variables(model).items():
        np.testing.assert_array_equal(np.asarray(leaf[...]), ours[path], err_msg=path)


@pytest.mark.smoke
def test_names_of_published_checkpoints():
    _, theirs = weights_of(abstract())
    shapes = {name: value.shape for name, value in theirs.items()}
    assert shapes["backbone.conv1.conv.weight"] == (4, 3, 7, 7)
    assert shapes["backbone.conv1.bn.running_var"] == (4,)
    assert shapes["backbone.layer1.0.conv3.conv.weight"] == (16, 4, 1, 1)
    assert shapes["backbone.layer2.0.downsample.conv.weight"] == (32, 16, 1, 1)
    assert shapes["backbone.layer4.2.conv2.bn.running_mean"] == (32,)
    assert shapes["cls_head.fc_cls.weight"] == (256, 128)
    assert shapes["cls_head.consensus.fc_fusion_scales.0.1.weight"] == (256, 4 * 256)
    assert shapes["cls_head.consensus.fc_fusion_scales.2.3.bias"] == (5,)


def test_counters_preprocessing_and_copies_are_ignored_and_the_source_is_recognised():
    model = abstract()
    ours, theirs = weights_of(model)
    theirs["backbone.conv1.bn.num_batches_tracked"] = np.array(7)
    theirs["data_preprocessor.mean"] = np.zeros((3, 1, 1))
    theirs["cls_head.new_cls.weight"] = np.zeros((5, 4, 1, 1, 1))
    convert.load_state_dict(model, theirs)
    kernel = variables(model)["backbone/conv1/kernel"]
    np.testing.assert_array_equal(kernel[...], ours["backbone/conv1/kernel"])


def test_the_model_has_memory_of_its_own():
    model = abstract()
    _, theirs = weights_of(model)
    name = "backbone.conv1.bn.running_var"
    theirs[name] = aligned(theirs[name])
    expected = theirs[name].copy()
    convert.load_state_dict(model, theirs)
    theirs[name] += 1
    np.testing.assert_array_equal(variables(model)["backbone/bn1/var"][...], expected)


def aligned(value):
    """A copy where JAX would do without one: at a multiple of 64 bytes."""
    memory = np.empty(value.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    found = memory[start : start + value.nbytes].view(value.dtype).reshape(value.shape)
    found[...] = value
    return found


def test_values_take_the_dtype_of_the_parameters():
    model = abstract(dtype="bfloat16")
    _, theirs = weights_of(model)
    halves = {name: value.astype(np.float16) for name, value in theirs.items()}
    convert.load_state_dict(model, halves)
    assert {leaf.dtype for leaf in variables(model).values()} == {jnp.dtype("float32")}


def test_all_problems_are_reported_at_once_and_nothing_is_loaded():
    model = abstract()
    ours, theirs = weights_of(model)
    convert.load_state_dict(model, theirs)
    broken = {name: value + 1 for name, value in theirs.items()}
    del broken["backbone.layer3.1.conv2.bn.running_var"]
    broken["cls_head.fc_cls.weight"] = np.zeros((128, 256))  # the right size, but transposed
    broken["backbone.layer5.0.conv1.conv.weight"] = np.zeros((1, 2, 3, 4))
    broken["backbone.conv1.conv.bias"] = np.zeros(4)
    broken["fc.weight"] = np.zeros((2, 3))
    with pytest.raises(UserError) as caught:
        convert.load_state_dict(model, broken)
    first, *lines, last = str(caught.value).splitlines()
    assert re.search("mmaction2.* 5 ", first)
    assert lines == [
        "  1 missing:",
        "    backbone/layer3/1/bn2: var",
        "  3 unexpected:",
        "    backbone.layer5.0.conv1.conv: weight (1, 2, 3, 4)",
        "    backbone.conv1.conv: bias (4,)",
        "    fc: weight (2, 3)",
        "  1 mis-shaped:",
        "    cls_head.fc_cls.weight has shape (256, 128), head/fc/kernel needs (128, 256)",
    ]
    assert "multi-scale TRN on ResNet-50 with 5 classes for 4 segments" in last
    for path, leaf in variables(model).items():
        np.testing.assert_array_equal(np.asarray(leaf[...]), ours[path], err_msg=path)


def test_weights_of_another_head_do_not_fit():
    _, theirs = weights_of(abstract("trn_multiscale"))
    with pytest.raises(UserError, match=r"12 unexpected:\n    cls_head\.consensus\.fc_fusion_"):
        convert.load_state_dict(abstract("tsn"), theirs)


def test_unknown_sources_are_refused():
    with pytest.raises(UserError, match=r"unknown source 'caffe' .*auto, mmaction2"):
        convert.load_state_dict(abstract(), {}, source="caffe")


@pytest.mark.by_default("resnet10", slow=("resnet50-t",))
@pytest.mark.parametrize(
    ("source", "layers", "temporal_op", "head"),
    [
        ("mmaction2", SHIFTED, "a_shift", "tsn"),
        ("mmaction2", INTERLACED, "an_interlace", "tsn"),
        ("tsm", ORIGINAL_TSM, "a_shift", "tsn"),
        ("tin", ORIGINAL_TIN, "an_interlace", "tsn"),
        ("trn", TRN_PYTORCH, None, "trn_multiscale"),
    ],
)
@pytest.mark.parametrize("backbone", ["resnet10", "resnet50"])
def test_every_source_is_recognised_and_complete(
    build, source, layers, temporal_op, head, backbone
):
    expected, theirs = state_of(build(temporal_op, head=head, backbone=backbone), layers)
    for chosen in ("auto", source):
        model = build(temporal_op, head=head, backbone=backbone)
        report = convert.load_state_dict(model, theirs, chosen)
        check(model, expected)
        assert len(report) == len(expected) == len(theirs)
        assert [name for name, _, _ in report] == list(theirs)
        assert {path: shape for _, path, shape in report} == {
            path: value.shape for path, value in expected.items()
        }


def wrapped(names, wrapper):
    return {re.sub(r"(layer\d\.\d)\.", rf"\1.{wrapper}.", name): names[name] for name in names}


@pytest.mark.parametrize(
    ("layers", "wrapper", "options"),
    [
        (SHIFTED, "block", {}),  # what a non-local layer follows
        (LAYERS, "net", dict(shift_place="block")),
        (ORIGINAL_TSM[1:], "net", dict(shift_place="block")),
    ],
)
def test_wrapped_blocks_are_unwrapped(build, layers, wrapper, options):
    expected, theirs = state_of(build("a_shift"), layers)
    model = build("a_shift", **options)
    convert.load_state_dict(model, wrapped(theirs, wrapper))
    check(model, expected)


def test_torchvision_gives_a_backbone(build):
    expected, theirs = state_of(build(), (*RESNET, (r"head/fc", "fc")))
    theirs["fc.weight"], theirs["fc.bias"] = np.ones((1000, 32)), np.ones(1000)
    model = build()
    report = convert.load_state_dict(model, theirs, backbone_only=True)
    check(model, expected, but=["head/"])
    assert len(report) == len(theirs) - 2
    with pytest.raises(UserError) as caught:
        convert.load_state_dict(build(), theirs)
    first, *lines = str(caught.value).splitlines()
    assert re.search("torchvision.* 2 ", first)
    assert lines[:2] == ["  2 missing:", "    head/fc: bias, kernel"]
    seen = ("ResNet-10 with 1000 classes", "--take-classifier", "--backbone-only")
    assert all(part in line for part, line in zip(seen, lines[2:], strict=True))


def test_backbone_only_ignores_the_head_of_the_file_whatever_it_is(build):
    expected, theirs = state_of(build(head="tsn"), LAYERS)
    theirs |= {"cls_head.consensus.classifier.1.weight": np.ones((1, 2))}
    theirs |= {"neck.unknown.weight": np.ones(3), "cls_head.other": np.ones(3)}
    model = build(num_classes=7)
    convert.load_state_dict(model, theirs, backbone_only=True)
    check(model, expected, but=["head/"])
    with pytest.raises(UserError, match=r"1 unexpected:\n    backbone\.extra: weight"):
        convert.load_state_dict(
            model, theirs | {"backbone.extra.weight": np.ones(1)}, backbone_only=True
        )


def test_an_imagenet_backbone_starts_any_temporal_op(build):
    expected, theirs = state_of(build(), (*RESNET, (r"head/fc", "fc")))
    for temporal_op in ("a_shift", "an_interlace"):
        model = build(temporal_op)
        convert.load_state_dict(model, theirs, backbone_only=True)
        check(model, expected, but=["head/", "/temporal_op/"])


def test_another_number_of_classes_is_an_error_unless_the_head_is_reset(build):
    expected, theirs = state_of(build(num_classes=9), LAYERS)
    model = build(num_classes=5)
    with pytest.raises(UserError, match=r"num_classes=9.*reset_head=True \(--reset-head\)"):
        convert.load_state_dict(model, theirs)
    convert.load_state_dict(model, theirs, reset_head=True)
    check(model, expected, but=["head/"])


def test_resetting_the_head_of_a_trn_keeps_its_embedding(build):
    layers = LAYERS + RELATIONS["trn_multiscale"]
    expected, theirs = state_of(build(head="trn_multiscale", num_classes=9), layers)
    model = build(head="trn_multiscale")
    with pytest.raises(UserError, match="num_classes=9"):
        convert.load_state_dict(model, theirs)
    convert.load_state_dict(model, theirs, reset_head=True)
    check(model, expected, but=["/output/"])


def test_a_head_is_reset_even_when_the_classes_are_as_many(build):
    expected, theirs = state_of(build(), LAYERS)
    model = build()
    report = convert.load_state_dict(model, theirs, reset_head=True)
    check(model, expected, but=["head/fc"])
    assert not any(path.startswith("head/") for _, path, _ in report)


@pytest.mark.parametrize("prefix", ["cls_head.", "module.", ""])
@pytest.mark.parametrize("head", ["trn", "trn_multiscale"])
def test_the_segments_of_a_trn_are_read_off_its_first_layer(build, head, prefix):
    _, theirs = state_of(build(head=head, num_segments=6), LAYERS + RELATIONS[head])
    if prefix != "cls_head.":
        theirs = {name.replace("fc_cls", "new_fc"): value for name, value in theirs.items()}
    shapes = {name.replace("cls_head.", prefix): v.shape for name, v in theirs.items()}
    assert (convert.num_segments(shapes), convert.num_classes(shapes)) == (6, 5)


@pytest.mark.parametrize("head", ["trn", "trn_multiscale"])
def test_a_trn_of_other_segments_is_explained(build, head):
    _, theirs = state_of(build(head=head, num_segments=6), LAYERS + RELATIONS[head])
    message = "6 segments.* 4.*num_segments=6"
    with pytest.raises(UserError, match=message):
        convert.load_state_dict(build(head=head), theirs)


def test_a_tin_of_other_segments_is_explained(build):
    expected, theirs = state_of(build("an_interlace", num_segments=6), INTERLACED)
    model = build("an_interlace")
    with pytest.raises(UserError, match="num_segments=6"):
        convert.load_state_dict(model, theirs)
    convert.load_state_dict(model, theirs, reset_temporal_op=True)
    check(model, expected, but=["/temporal_op/"])


def test_tsm_starts_tin(build):
    expected, theirs = state_of(build("a_shift"), SHIFTED)
    model = build("an_interlace")
    with pytest.raises(UserError, match=r"TSM on ResNet-10(?s:.*)reset_temporal_op=True"):
        convert.load_state_dict(model, theirs)
    report = convert.load_state_dict(model, theirs, reset_temporal_op=True)
    check(model, expected, but=["/temporal_op/"])
    assert ("backbone.layer1.0.conv1.conv.net.weight", "backbone/layer1/0/conv1/kernel") in {
        (name, path) for name, path, _ in report
    }
    model = build("an_interlace")
    convert.load_state_dict(model, theirs, reset_temporal_op=None)
    check(model, expected, but=["/temporal_op/"])


def test_a_temporal_op_that_the_file_has_is_taken(build):
    expected, theirs = state_of(build("an_interlace"), INTERLACED)
    model = build("an_interlace")
    convert.load_state_dict(model, theirs, reset_temporal_op=None)
    check(model, expected)
    shifted = state_of(build("a_shift"), SHIFTED)[1]
    with pytest.raises(UserError, match="shifts frames, the model does not"):
        convert.load_state_dict(build(), shifted, reset_temporal_op=None)


def test_weights_with_shifts_do_not_pass_for_weights_without(build):
    shifted, plain = state_of(build("a_shift"), SHIFTED)[1], state_of(build(), LAYERS)[1]
    message = "1 problem:\n  the network of the file shifts frames, the model does not\n.* TSM on"
    with pytest.raises(UserError, match=message):
        convert.load_state_dict(build(), shifted)
    with pytest.raises(UserError, match="of the file does not shift frames, the model does\n"):
        convert.load_state_dict(build("a_shift"), plain)
    convert.load_state_dict(build(), shifted, backbone_only=True)
    convert.load_state_dict(build("a_shift"), plain, reset_temporal_op=True)


@pytest.mark.thorough
def test_shifts_elsewhere_do_not_pass_for_those_of_the_model(build):
    residual = state_of(build("a_shift"), SHIFTED)[1]
    blocks = wrapped(state_of(build(), LAYERS)[1], "net")
    message = r"shifts whole blocks .*, the model the residual branches only (?s:.*)--option"
    with pytest.raises(UserError, match=message):
        convert.load_state_dict(build("a_shift"), blocks)
    with pytest.raises(UserError, match=r"shifts the residual branches only .* the model whole"):
        convert.load_state_dict(build("a_shift", shift_place="block"), residual)
    # ResNet-50 has 3 + 4 + 6 + 3 blocks, of which every second one is 2 + 2 + 3 + 2.
    every = state_of(build("a_shift", backbone="resnet50"), SHIFTED)[1]
    model = build("a_shift", backbone="resnet50", shift_every=2)
    message = r"in 16 blocks, the model in 9 \(shift_every\), 9 of them the same"
    with pytest.raises(UserError, match=message):
        convert.load_state_dict(model, every)
    convert.load_state_dict(model, every, backbone_only=True)


@pytest.mark.thorough
def test_other_forms_of_mobileone_are_explained():
    trained, deployed = (
        nnx.eval_shape(
            lambda deploy=deploy: create_model(
                "tsn_resnet10", backbone="mobileone_s4", num_classes=5, deploy=deploy
            )
        )
        for deploy in (False, True)
    )
    for model, name, message in (
        (trained, "branch_reparam", r"in deploy form: .*deploy=True \(--option deploy=true\)"),
        (deployed, "branch_conv_list.0.conv", r"in train form: .* call reparameterize"),
    ):
        with pytest.raises(UserError, match=message):
            convert.load_state_dict(model, {f"backbone.stage1.0.{name}.weight": np.ones(1)})


def test_what_stays_needs_values(build):
    _, theirs = state_of(build(), LAYERS)
    with pytest.raises(UserError, match=r"2 variables .* head/fc/bias.* without nnx\.eval_shape"):
        convert.load_state_dict(nnx.eval_shape(build), theirs, reset_head=True)


def test_tensors_given_twice_are_refused(build):
    _, theirs = state_of(build("a_shift"), SHIFTED)
    theirs["backbone.layer1.0.conv1.conv.weight"] = theirs[
        "backbone.layer1.0.conv1.conv.net.weight"
    ]
    with pytest.raises(UserError, match=r"1 given twice:\n    backbone/layer1/0/conv1/kernel: "):
        convert.load_state_dict(build("a_shift"), theirs)


def test_names_of_nobody_are_refused(build):
    with pytest.raises(
        UserError,
        match=r"unknown naming scheme.*\n  encoder\.0\.weight\n(?s:.*)torchvision +layer1",
    ):
        convert.load_state_dict(build(), {"encoder.0.weight": np.ones(3)})


@pytest.mark.parametrize(
    ("state", "seen"),
    [
        ({"neck.x.weight": (1,), "backbone.layer3.5.conv1.conv.net.weight": (1,)}, "TPN + TSM"),
        ({"a.net1.offset_net.fc1.bias": (8,), "a.net2.weight": (1,)}, "TIN for 8 segments"),
        ({"a.net1.biasnet.net.fc.bias": (8,), "module.new_fc.bias": (5,)}, "with 5 classes for 8"),
        ({"base_model.inception_3a_1x1.weight": (1,), "new_fc.bias": (9,)}, "on BNInception"),
        ({"layer1.0.conv3.weight": (1,), "layer3.22.bn1.bias": (1,)}, "on ResNet-101"),
        (
            {
                "backbone.layer1.0.conv2.weight": (128, 4, 3, 3),
                "backbone.layer1.0.conv3.weight": (256, 128, 1, 1),
                "backbone.layer3.22.bn1.bias": (1,),
            },
            "on ResNeXt-101",
        ),
        (
            {
                "backbone.layer1.0.conv2.conv.weight": (64, 64, 1, 3, 3),
                "backbone.layer1.0.conv3.conv.weight": (256, 64, 1, 1, 1),
                "backbone.layer3.5.conv1.conv.weight": (1, 1, 1, 1, 1),
            },
            "on 3-D ResNet-50",
        ),
        ({"backbone.stage1.0.branch_reparam.weight": (1,)}, "MobileOne (deployed)"),
        ({"backbone.layers.0.blocks.0.attn.relative_position_bias_table": (1, 1)}, "Swin"),
        ({"features.denseblock1.denselayer1.norm1.weight": (1,)}, "DenseNet"),
    ],
)
def test_networks_are_told_by_their_names(state, seen):
    assert seen in describe_network(state)


# Layouts, on models that are nothing but their variables


def bare(shapes):
    """A model that has zeros of these shapes, `{path: shape}`."""
    model = nnx.Dict()
    for path, shape in shapes.items():
        *parents, leaf = path.split("/")
        node = model
        for parent in parents:
            if parent not in node:
                node[parent] = nnx.Dict()
            node = node[parent]
        node[leaf] = nnx.Param(np.zeros(shape, np.float32))
    return model


def loaded(value, path, shape, name, source="torchvision"):
    model = bare({path: shape})
    convert.load_state_dict(model, {name: np.asarray(value)}, source)
    return np.asarray(variables(model)[path][...])


def test_kernels_have_their_channels_last():
    rng = np.random.default_rng(0)
    path, name = "backbone/conv1/kernel", "conv1.weight"
    for spatial in ((), (3,), (3, 5), (2, 3, 5)):
        theirs = rng.normal(size=(7, 4, *spatial)).astype(np.float32)
        ours = loaded(theirs, path, (*spatial, 4, 7), name)
        for index in np.ndindex(*theirs.shape):
            output, channel, *place = index
            assert ours[(*place, channel, output)] == theirs[index]


def test_one_by_one_convolutions_are_matrices():
    theirs = np.arange(6.0, dtype=np.float32).reshape(2, 3, 1, 1)
    ours = loaded(theirs, "backbone/conv1/kernel", (3, 2), "conv1.weight")
    np.testing.assert_array_equal(ours, theirs[:, :, 0, 0].T)
    with pytest.raises(UserError, match=r"has shape \(1, 1, 3, 2\)"):
        loaded(theirs, "backbone/conv1/kernel", (2, 3), "conv1.weight")


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_2d_kernels_are_inflated(dtype):
    theirs = np.random.default_rng(0).normal(size=(2, 4, 3, 3)).astype(dtype)
    ours = loaded(theirs, "backbone/conv1/kernel", (3, 3, 3, 4, 2), "conv1.weight")
    still = theirs.transpose(2, 3, 1, 0)
    for frame in ours:
        np.testing.assert_array_equal(frame, still.astype(np.float32) / 3)


def test_a_matrix_is_what_the_model_says():
    row = np.arange(4.0, dtype=np.float32)[None]
    model = bare({"backbone/bn1/scale": (4,), "backbone/bn1/mean": (4,)})
    convert.load_state_dict(model, {"bn1.weight": row, "bn1.running_mean": row}, "torchvision")
    for leaf in variables(model).values():
        np.testing.assert_array_equal(leaf[...], row[0])
    table = np.arange(6.0, dtype=np.float32).reshape(3, 2)
    np.testing.assert_array_equal(
        loaded(table, "backbone/conv1/table", (3, 2), "conv1.table"), table
    )


TPN_LAYERS = {
    "spatial_modulation.spatial_modulation.0.0.conv": "spatial_modulation/0/0/conv",
    "spatial_modulation.spatial_modulation.0.0.bn": "spatial_modulation/0/0/bn",
    "temporal_modulation_ops.1.conv": "temporal_modulation/1",
    "downsampling_ops.0.conv": "downsamples/0",
    "level_fusion_op2.ops.1.conv": "level_fusion_1/downsamples/1/conv",
    "level_fusion_op2.ops.1.norm": "level_fusion_1/downsamples/1/bn",
    "level_fusion_op2.fusion_conv.0": "level_fusion_1/fusion_conv/conv",
    "level_fusion_op2.fusion_conv.1": "level_fusion_1/fusion_conv/bn",
    "level_fusion_op.ops.0.conv": "level_fusion_2/downsamples/0/conv",
    "level_fusion_op.ops.0.norm": "level_fusion_2/downsamples/0/bn",
    "level_fusion_op.fusion_conv.0": "level_fusion_2/fusion_conv/conv",
    "level_fusion_op.fusion_conv.1": "level_fusion_2/fusion_conv/bn",
    "pyramid_fusion_op.0": "pyramid_fusion/conv",
    "pyramid_fusion_op.1": "pyramid_fusion/bn",
    "aux_head.convs.conv": "auxiliary/conv/conv",
    "aux_head.convs.bn": "auxiliary/conv/bn",
    "aux_head.fc": "auxiliary/fc",
}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_original_tpn(prefix):
    shapes = {"backbone/layer1/0/conv2/kernel": (1, 3, 3, 2, 2), "head/fc/bias": (5,)}
    state = {"backbone.layer1.0.conv2.weight": np.ones((2, 2, 1, 3, 3))}
    state |= {"cls_head.fc_cls.bias": np.ones(5), "cls_head.new_cls.bias": np.zeros(5)}
    for number, (theirs, ours) in enumerate(TPN_LAYERS.items()):
        leaf = "scale" if ours.endswith("bn") else "kernel"
        shape = (4,) if leaf == "scale" else (3, 1, 1, 2, 4)
        shapes[f"neck/{ours}/{leaf}"] = shape
        state[f"necks.{theirs}.weight"] = np.full(shape[::-1][:2] + shape[:-2], number + 1.0)
        if leaf == "scale":
            state[f"necks.{theirs}.weight"] = np.full(shape, number + 1.0)
    state = {prefix + name: value for name, value in state.items()}
    model = bare(shapes)
    assert len(convert.load_state_dict(model, state)) == len(shapes)
    found = variables(model)
    for number, ours in enumerate(TPN_LAYERS.values()):
        leaf = "scale" if ours.endswith("bn") else "kernel"
        assert np.all(found[f"neck/{ours}/{leaf}"][...] == number + 1), ours


def test_a_classifier_made_for_testing_is_ignored(build):
    expected, theirs = state_of(build(), LAYERS)
    theirs["cls_head.new_cls.weight"] = np.zeros((5, 32, 1, 1, 1))
    model = build()
    convert.load_state_dict(model, theirs)
    check(model, expected)


@pytest.mark.parametrize("source", NAME_TABLES)
def test_tables_are_pairs_of_patterns(source):
    for pattern, replacement in NAME_TABLES[source]:
        groups = re.compile(pattern).groups
        assert all(int(number) <= groups for number in re.findall(r"\\(\d)", replacement))


SHAPES = ((), (0,), (5,), (5, 1), (1, 5), (0, 0), (4, 4), (1,) * 7, (2, 2, 2))
NAMES = ("", ".", "..", ".weight", "module.module.", "x" * 9999, "layer3.99999.conv1.weight")
NAMES += (f"layer3.{'9' * 5000}.conv1.net.weight", "consensus.fc_fusion_scales.0.1.weight")
NAMES += (f"consensus.fc_fusion_scales.{'9' * 5000}.1.weight", "new_fc.bias", "conv1_7x7_s2.weight")


@pytest.mark.by_default(slow=("options0-tsn",))
@pytest.mark.parametrize("head", ["tsn", "trn_multiscale"])
@pytest.mark.parametrize("options", [{}, {"backbone_only": True}])
def test_tensors_of_any_shape_and_name_are_taken_or_explained(head, options):
    model = abstract(head, "resnet10")
    _, theirs = weights_of(model, head)
    keys = [next(n for n in theirs if part in n) for part in ("conv1.conv", "bn", "fc_cls", "bias")]
    changes = [(key, np.zeros(shape, np.float32)) for key in keys for shape in SHAPES]
    changes += [(key, np.zeros(theirs[key].shape, dtype)) for key in keys for dtype in "?FDU"]
    states = [(theirs | {name: value}, "mmaction2") for name, value in changes]
    states += [
        ({name: np.zeros(shape, np.float32), "layer1.0.conv1.net.weight": np.zeros(1)}, source)
        for name in NAMES
        for shape in SHAPES[:5]
        for source in ("auto", "bninception", "tsm")
    ]
    refused = []
    for state, source in states:
        shapes = {name: value.shape for name, value in state.items()}
        convert.num_segments(shapes)
        assert convert.num_classes(shapes) != 0
        try:
            convert.load_state_dict(model, state, source, **options)
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > len(states) // 2
    assert any("of type complex64" in text for text in refused)
