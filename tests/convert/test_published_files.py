"""Files as each code base publishes them: through the command, to the logits of the reference.

The names of the goldens are mmaction2's. How the others call the same layers is written down here
from their code, independently of the tables under test.
"""

import re
from collections import OrderedDict
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from flax import nnx
from reference_models import clips_of, state_dict
from state_dicts import INTERLACED, LAYERS, RELATIONS, SHIFTED, state_of
from torch_files import legacy_file, whole, zip_file

from trn_jax import cli, convert, create_model
from trn_jax.backbones import BACKBONES
from trn_jax.backbones.resnet import BasicBlock, ResNet
from trn_jax.checkpoints import checkpoint
from trn_jax.convert import read_torch_file, variables
from trn_jax.distributed.sharding import make_mesh

# Names: pairs of a pattern in a name of mmaction2 and what stands there instead, one after the
# other.

# A convolution and its norm are one module in mmaction2, and two attributes elsewhere.
_PLAIN = (
    (r"\b(conv\d)\.conv\b", r"\1"),
    (r"\bconv(\d)\.bn\b", r"bn\1"),
    (r"\bdownsample\.conv\b", "downsample.0"),
    (r"\bdownsample\.bn\b", "downsample.1"),
)
TORCHVISION = (*_PLAIN, (r"^backbone\.", ""), (r"^cls_head\.fc_cls", "fc"))
MMPRETRAIN_RESNET = (*_PLAIN, (r"^cls_head\.fc_cls", "head.fc"))
MMPRETRAIN = ((r"^cls_head\.fc_cls", "head.fc"),)
# TSN, TRN and TSM as TRN-pytorch and the repository of TSM have them, on several GPUs.
ORIGINAL = (
    *_PLAIN,
    (r"^backbone\.", "module.base_model."),
    (r"^cls_head\.fc_cls", "module.new_fc"),
    (r"^cls_head\.", "module."),
)
ORIGINAL_TIN = (
    (r"offset_net\.conv", "biasnet.net.conv"),
    (r"offset_net\.fc1", "biasnet.net.fc"),
    (r"offset_net\.fc2", "biasnet.net.lastlayer"),
    (r"weight_net\.conv", "weightnet.net.lastlayer"),
    *ORIGINAL,
)
ORIGINAL_TPN = (
    *_PLAIN,
    (r"^neck\.", "necks."),
    (r"(temporal_modulation_ops\.\d\.conv)\.conv", r"\1"),
    (r"downsample_ops\.(\d)\.conv\.conv", r"downsampling_ops.\1.conv"),
    (r"level_fusion_(\d)\.downsamples\.(\d)\.conv\.conv", r"level_fusion_\1.ops.\2.conv"),
    (r"level_fusion_(\d)\.downsamples\.(\d)\.conv\.bn", r"level_fusion_\1.ops.\2.norm"),
    (r"fusion_conv\.conv", "fusion_conv.0"),
    (r"fusion_conv\.bn", "fusion_conv.1"),
    # The one of the top-down flow is called 2 there.
    (r"level_fusion_2\b", "level_fusion_op"),
    (r"level_fusion_1\b", "level_fusion_op2"),
    (r"pyramid_fusion\.conv", "pyramid_fusion_op.0"),
    (r"pyramid_fusion\.bn", "pyramid_fusion_op.1"),
    (r"aux_head\.conv\.(conv|bn)", r"aux_head.convs.\1"),
)
SHIFTED_NOT_INTERLACED = ((r"\.net2\b", ".net"),)
# MobileNetV2 of the TSM repository: one sequence of blocks, each of which is one of layers.
MOBILENET_SEQUENCE = (
    *(
        (rf"\.layer{layer}\.{block}\.conv\.", f".features.{first + block}.conv.")
        for layer, (first, depth) in enumerate(
            [(1, 1), (2, 2), (4, 3), (7, 4), (11, 3), (14, 3), (17, 1)], start=1
        )
        for block in range(depth)
    ),
    (r"\.conv1\.conv\.", ".features.0.0."),
    (r"\.conv1\.bn\.", ".features.0.1."),
    (r"\.conv2\.conv\.", ".features.18.0."),
    (r"\.conv2\.bn\.", ".features.18.1."),
    *(
        (rf"(features\.\d+\.conv)\.{part}(\.net)?\.{name}\.", rf"\1.{number}{wrapper}.")
        for part in (2, 1, 0)
        for name, number, wrapper in (("conv", 3 * part, r"\2"), ("bn", 3 * part + 1, ""))
    ),
)
TIMM_SWIN = ((r"^backbone\.", ""), (r"^cls_head\.fc_cls", "head.fc"))
TIMM_SWIN_OLD = ((r"^backbone\.", ""), (r"^cls_head\.fc_cls", "head"))
CAFFE = ((r"^base_model\.", ""), (r"^new_fc", "fc"))
DENSENET = (
    (r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2"),
    (r"^backbone\.", ""),
    (r"^cls_head\.fc_cls", "classifier"),
)
SEVERAL_GPUS = ((r"^", "module."),)


def renamed(*tables):
    def rename(state):
        found = {}
        for name, value in state.items():
            for pattern, replacement in (rule for table in tables for rule in table):
                name = re.sub(pattern, replacement, name)
            found[name] = value
        assert len(found) == len(state)
        return found

    return rename


def as_it_is(state):
    return state


def without(pattern, then=as_it_is):
    return lambda state: then({n: v for n, v in state.items() if not re.search(pattern, n)})


def with_strays(state):
    """TPN makes a copy of its classifier for its first test, and never updates it."""
    kernel = state["cls_head.fc_cls.weight"]
    strays = {"cls_head.new_cls.weight": np.zeros_like(kernel)[..., None, None, None]}
    return state | strays | {"cls_head.new_cls.bias": np.ones(len(kernel), np.float32)}


def of_image_net(*tables):
    """The names of an image classifier, with the 1000 classes of ImageNet."""

    def rename(state):
        found = renamed(*tables)(state)
        names = [n for n in found if re.fullmatch(r"(fc|head|head\.fc|classifier)\.\w+", n)]
        assert len(names) == 2
        return found | {n: np.zeros((1000, *found[n].shape[1:]), np.float32) for n in names}

    return rename


def of_old_caffe(rename):
    """As PyTorch 0.1 saved them: statistics in rows, and no counters."""

    def change(state):
        found = {n: v for n, v in rename(state).items() if not n.endswith("tracked")}
        norms = {n for n in found if re.search(r"_bn\.\w+$", n)}
        assert len(norms) == 4 * 69
        return {n: v[None] if n in norms else v for n, v in found.items()}

    return change


def merged_at_the_end(state):
    """Swin before timm 0.9: patches are merged at the end of a stage, and tables are saved."""

    def before(match):
        return f"layers.{int(match[1]) - 1}.downsample"

    found = {re.sub(r"layers\.(\d)\.downsample", before, n): v for n, v in state.items()}
    assert found.keys() != state.keys()
    for stage, depth in enumerate((2, 2, 18, 2)):
        for block in range(depth):
            name = f"backbone.layers.{stage}.blocks.{block}"
            found[f"{name}.attn.relative_position_index"] = np.zeros((49, 49), np.int64)
            if block % 2 and stage < 3:
                found[f"{name}.attn_mask"] = np.zeros((64 >> 2 * stage, 49, 49), np.float32)
    return found


def deployed(state):
    """The branches of every block of a MobileOne as one convolution."""

    def fold(kernel, norm):
        scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + 1e-5)
        bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
        return kernel * scale[:, None, None, None], bias

    found = {n: v for n, v in state.items() if "branch_" not in n}
    blocks = dict.fromkeys(n.split(".branch_")[0] for n in state if "branch_conv_list" in n)
    for block in blocks:
        kernel = state[f"{block}.branch_conv_list.0.conv.weight"]
        parts = [fold(kernel, f"{block}.branch_conv_list.0.norm")]
        border = kernel.shape[-1] // 2
        if f"{block}.branch_scale.conv.weight" in state:
            point = state[f"{block}.branch_scale.conv.weight"]
            wide = np.pad(point, ((0, 0), (0, 0), (border, border), (border, border)))
            parts.append(fold(wide, f"{block}.branch_scale.norm"))
        if f"{block}.branch_norm.weight" in state:
            identity = np.zeros_like(kernel)
            for channel in range(len(kernel)):
                identity[channel, channel % kernel.shape[1], border, border] = 1
            parts.append(fold(identity, f"{block}.branch_norm"))
        found[f"{block}.branch_reparam.weight"] = sum(kernel for kernel, _ in parts)
        found[f"{block}.branch_reparam.bias"] = sum(bias for _, bias in parts)
    return found


# What lies around the state dict. `tensor` makes a tensor of the file from an array.


class HistoryBuffer:
    """What mmengine logs with: arrays, and methods that are looked up by name."""

    def __init__(self):
        self._log_history = np.arange(3.0)
        self._max_length = 1000000
        self._statistics_methods = OrderedDict(mean=HistoryBuffer.mean)

    def mean(self):
        raise NotImplementedError


def optimizer(tensor):
    momentum = {0: {"momentum_buffer": tensor(np.ones((2, 3), np.float32))}}
    return {"state": momentum, "param_groups": [{"lr": 0.01, "params": [0, 1], "foreach": None}]}


def plain(state, tensor):
    return state


def mmaction2_0x(state, tensor):
    meta = {"mmcv_version": "1.4.0", "epoch": 50, "iter": 134350, "hook_msgs": {}, "seed": 0}
    meta |= {"config": "model = dict(type='Recognizer2D')", "time": "Tue Oct 12 14:02:21 2021"}
    return {"meta": meta, "state_dict": state, "optimizer": optimizer(tensor)}


def mmaction2_1x(state, tensor):
    hub = {"log_scalars": OrderedDict({"train/loss": HistoryBuffer()}), "resumed_keys": {}}
    hub["runtime_info"] = OrderedDict(epoch=50, loop_stage="val", cur_time=np.float64(3))
    meta = {"mmengine_version": "0.2.0", "epoch": 50, "dataset_meta": {}, "seed": 1}
    checkpoint = {"meta": meta, "state_dict": state, "message_hub": hub}
    schedule = {"verbose": False, "milestones": {40: 1}, "last_step": np.int64(50)}
    return checkpoint | {"optimizer": optimizer(tensor), "param_schedulers": [schedule]}


def trn_pytorch(state, tensor):
    return {"epoch": 120, "arch": "BNInception", "state_dict": state, "best_prec1": 34.44}


def tsm_repository(state, tensor):
    checkpoint = {"epoch": 50, "arch": "resnet50", "state_dict": state}
    best = tensor(np.float32(74.1))
    return checkpoint | {"optimizer": optimizer(tensor), "best_prec1": best}


def tpn_repository(state, tensor):
    return {"meta": {"mmcv_version": "0.2.14", "time": "now"}, "state_dict": state}


def original_swin(state, tensor):
    return {"model": state}


# Every golden as its source, and as others, would publish it.


class File(NamedTuple):
    """A file with the numbers of a golden.

    Attributes:
        golden: its name.
        rename: from the golden's state dict to that of the file.
        wrap: what lies around it.
        arguments: of the command, with the name of the model first.
        absent: pattern of our variables that the file does not have.
        options: of the model, to score as the golden did.
    """

    golden: str
    rename: Any
    wrap: Any
    arguments: tuple
    absent: str | None = None
    options: tuple = ()


TRN = dict(arguments=("trn_resnet50",), options=(("eval_relations", "first"),))
SINGLE = dict(arguments=("trn_resnet50", "--option=head=trn"))
CAFFE_TRN = dict(arguments=("trn_bninception",), options=TRN["options"])
TSM_TO_TIN = dict(arguments=("tin_resnet50", "--reset-temporal-op"), absent="/temporal_op/")
HEADLESS = ("--backbone-only", "--num-classes=400")
BACKBONE = dict(absent="^(head|neck)/")
NETS = r"\.net1\."


def non_local(mode):
    return "tsm_resnet50", f"--option=non_local={mode}"


FILES = [
    File("tsn_r50_3seg", as_it_is, mmaction2_0x, ("tsn_resnet50", "--num-segments=3")),
    File("tsn_r50_3seg", as_it_is, mmaction2_1x, ("tsn_resnet50",)),
    File("tsn_r50_3seg", renamed(ORIGINAL), tsm_repository, ("tsn_resnet50",)),
    File("tsn_r50_3seg", renamed(MMPRETRAIN_RESNET), mmaction2_1x, ("tsn_resnet50",)),
    File("tsn_r50_3seg", of_image_net(TORCHVISION), plain, ("tsn_resnet50", *HEADLESS), **BACKBONE),
    File("trn_r50_single", as_it_is, mmaction2_0x, **SINGLE),
    File("trn_r50_single", renamed(ORIGINAL), trn_pytorch, **SINGLE),
    File("trn_r50_multiscale", as_it_is, mmaction2_0x, **TRN),
    File("trn_r50_multiscale", as_it_is, mmaction2_1x, **TRN),
    File("trn_r50_multiscale", renamed(ORIGINAL), trn_pytorch, **TRN),
    File("tsn_r101_8seg", as_it_is, mmaction2_1x, ("tsn_resnet101",)),
    File("tsm_r50", as_it_is, mmaction2_0x, ("tsm_resnet50",)),
    File("tsm_r50", as_it_is, mmaction2_1x, ("tsm_resnet50",)),
    File("tsm_r50", renamed(ORIGINAL), tsm_repository, ("tsm_resnet50",)),
    File("tsm_mobilenetv2", as_it_is, mmaction2_1x, ("tsm_mobilenetv2",)),
    File(
        "tsm_mobilenetv2",
        renamed(MOBILENET_SEQUENCE, ORIGINAL),
        tsm_repository,
        ("tsm_mobilenetv2",),
    ),
    File("tsm_r50_nl_gaussian", as_it_is, mmaction2_1x, non_local("gaussian")),
    File("tsm_r50_nl_dot_product", as_it_is, mmaction2_1x, non_local("dot_product")),
    File("tin_r50", as_it_is, mmaction2_1x, ("tin_resnet50",)),
    File("tin_r50", renamed(ORIGINAL_TIN), tsm_repository, ("tin_resnet50",)),
    # A TIN as it starts from a TSM, but for the parameters that only a TIN has.
    File("tin_r50", without(NETS, renamed(SHIFTED_NOT_INTERLACED)), mmaction2_0x, **TSM_TO_TIN),
    File(
        "tin_r50",
        without(NETS, renamed(SHIFTED_NOT_INTERLACED, ORIGINAL)),
        tsm_repository,
        **TSM_TO_TIN,
    ),
    File("tpn_slowonly_r50", with_strays, mmaction2_0x, ("tpn_slowonly_resnet50",)),
    File("tpn_slowonly_r50", as_it_is, mmaction2_1x, ("tpn_slowonly_resnet50",)),
    File("tpn_slowonly_r50", renamed(ORIGINAL_TPN), tpn_repository, ("tpn_slowonly_resnet50",)),
    File("tpn_tsm_r50", with_strays, mmaction2_1x, ("tpn_tsm_resnet50",)),
    File("trn_bninception_multiscale", renamed(SEVERAL_GPUS), trn_pytorch, **CAFFE_TRN),
    File(
        "trn_bninception_multiscale", of_old_caffe(renamed(SEVERAL_GPUS)), trn_pytorch, **CAFFE_TRN
    ),
    File(
        "trn_bninception_multiscale",
        without("^consensus", of_old_caffe(of_image_net(CAFFE))),
        plain,
        ("trn_bninception", "--backbone-only", "--num-classes=27"),
        options=TRN["options"],
        **BACKBONE,
    ),
    File("tsn_densenet161", as_it_is, mmaction2_0x, ("tsn_densenet161",)),
    File(
        "tsn_densenet161", of_image_net(DENSENET), plain, ("tsn_densenet161", *HEADLESS), **BACKBONE
    ),
    File("tsn_resnext101_32x4d", as_it_is, mmaction2_0x, ("tsn_resnext101_32x4d",)),
    File("tsn_resnext101_32x4d", renamed(MMPRETRAIN), mmaction2_0x, ("tsn_resnext101_32x4d",)),
    File("tsn_mobileone_s4", as_it_is, mmaction2_1x, ("tsn_mobileone_s4",)),
    File("tsn_mobileone_s4", renamed(MMPRETRAIN), mmaction2_1x, ("tsn_mobileone_s4",)),
    File("tsn_mobileone_s4", deployed, plain, ("tsn_mobileone_s4", "--option=deploy=true")),
    File("tsn_swin_base", as_it_is, mmaction2_1x, ("tsn_swin_base",)),
    File("tsn_swin_base", merged_at_the_end, mmaction2_0x, ("tsn_swin_base",)),
    File("tsn_swin_base", of_image_net(TIMM_SWIN), plain, ("tsn_swin_base", *HEADLESS), **BACKBONE),
    File(
        "tsn_swin_base",
        lambda state: of_image_net(TIMM_SWIN_OLD)(merged_at_the_end(state)),
        original_swin,
        ("tsn_swin_base", *HEADLESS),
        **BACKBONE,
    ),
]


def converted(path, arguments, to, **options):
    """The model in the checkpoint that the command writes, on one device, and what it says."""
    model, *more = arguments
    assert cli.main(["convert", f"--from={path}", f"--model={model}", f"--to={to}", *more]) == 0
    found = checkpoint.open_checkpoint(to)
    return found.load(mesh=make_mesh(jax.devices()[:1]), **options), found.info


def numbers_of(model):
    return {path: np.asarray(leaf[...]) for path, leaf in variables(model).items()}


def put_in(model, reference, absent):
    """Complete a model with those variables of the `reference` that its file could not have."""
    ours, theirs = variables(model), numbers_of(reference)
    drawn = [path for path in ours if re.search(absent, path)]
    kernels = [path for path in drawn if path.endswith("kernel")]
    assert kernels
    for path in drawn:
        # What a norm or a bias begins with may be in the file as well.
        assert path not in kernels or not np.allclose(ours[path][...], theirs[path])
        ours[path].set_value(theirs[path])


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.golden}-{f.wrap.__name__}")
def test_files_of_pytorch_give_the_logits_of_the_reference(file, golden, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    numbers = golden(f"cases/{file.golden}")
    state = state_dict(numbers)

    def tensor(value):
        return torch.from_numpy(np.array(value))

    theirs = OrderedDict((name, tensor(value)) for name, value in file.rename(state).items())
    content = file.wrap(theirs, tensor)
    options = dict(file.options)
    models = []
    path = tmp_path / "model.pth"
    for zipped in (True, False):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        with open(path, "rb") as saved:
            assert (saved.read(2) == b"PK") == zipped
        model, about = converted(path, file.arguments, tmp_path / f"{zipped}", **options)
        models.append(numbers_of(model))
        assert ("were initialised" in capsys.readouterr().out) == (file.absent is not None)
    jax.tree.map(np.testing.assert_array_equal, *models)
    if file.absent:
        options = {key: about["config"]["model"][key] for key in ("name", "num_classes")}
        reference = nnx.eval_shape(lambda: create_model(**options))
        convert.load_state_dict(reference, state)
        put_in(model, reference, file.absent)

    clips = clips_of(numbers)
    graph, values = nnx.split(model)
    logits = jax.jit(lambda values, clips: nnx.merge(graph, values)(clips))(values, clips)
    expected = np.array(numbers["outputs"]["scores_per_view"])
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


# The same in small, without PyTorch.


# Two blocks are enough, and quick to draw.
TINY = ("--option=width=16", "--option=backbone=shallow")
TINY_TSM = (*TINY, "--num-segments=3")


@pytest.fixture
def quick_draws():
    """Keys of a generator that compiles in a fraction of the default one's time."""
    with jax.default_prng_impl("unsafe_rbg"):
        yield


@pytest.mark.usefixtures("quick_draws")
@pytest.mark.parametrize(
    ("model", "layers", "rename", "wrap", "arguments"),
    [
        ("tsn_resnet10", LAYERS, as_it_is, mmaction2_1x, TINY_TSM),
        ("trn_resnet10", LAYERS + RELATIONS["trn_multiscale"], as_it_is, mmaction2_0x, TINY),
        (
            "trn_resnet10",
            LAYERS + RELATIONS["trn_multiscale"],
            renamed(ORIGINAL),
            trn_pytorch,
            TINY,
        ),
        ("tsm_resnet10", SHIFTED, as_it_is, mmaction2_1x, TINY_TSM),
        ("tsm_resnet10", SHIFTED, renamed(ORIGINAL), tsm_repository, TINY_TSM),
        ("tin_resnet10", INTERLACED, as_it_is, mmaction2_0x, TINY),
        ("tin_resnet10", INTERLACED, renamed(ORIGINAL_TIN), tsm_repository, TINY),
        (
            "tin_resnet10",
            INTERLACED,
            without(NETS, renamed(SHIFTED_NOT_INTERLACED)),
            mmaction2_1x,
            (*TINY_TSM, "--reset-temporal-op"),
        ),
    ],
)
def test_small_files_of_every_source(
    model, layers, rename, wrap, arguments, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(BACKBONES, "shallow", partial(ResNet, BasicBlock, (1, 1)))
    options = dict(name=model, backbone="shallow", width=16, num_classes=5, num_segments=3)
    expected, state = state_of(nnx.eval_shape(lambda: create_model(**options)), layers)
    theirs = rename(state)
    content = wrap({name: whole(value) for name, value in theirs.items()}, whole)
    path = tmp_path / "model.pth"
    for write in (zip_file, legacy_file):
        path.write_bytes(write(content))
        jax.tree.map(np.testing.assert_array_equal, dict(read_torch_file(path)), theirs)
    found, about = converted(path, (model, *arguments), tmp_path / "out")
    # The numbers of classes and frames are read off the file, where it tells.
    assert {key: about["config"]["model"][key] for key in options} == options

    said = capsys.readouterr().out
    if "--reset-temporal-op" in arguments:
        fresh = nnx.jit(lambda: create_model(**options))()
        drawn = {path: v for path, v in numbers_of(fresh).items() if "temporal_op" in path}
        expected |= drawn
        assert len(drawn) == 2 * 8
        assert re.search(rf"16 .*{min(drawn)}", said)
        assert f"--config.init_from={path}" in said
    else:
        assert "initialised" not in said
    jax.tree.map(np.testing.assert_array_equal, numbers_of(found), expected)
