"""Error messages for weights that do not fit a model, with likely causes."""

import re
from dataclasses import dataclass, field

from flax import nnx

from trn_jax.convert import recognition
from trn_jax.errors import escaped

# Patterns of tensor names that identify a method or a backbone.
_METHODS = (
    (r"necks?\..*", "TPN"),
    (r".*\.net1\.(offset_net|biasnet)\..*", "TIN"),
    (r".*\.net\.(?!net).*", "TSM"),
    (r".*consensus\.fc_fusion_scales\..*", "multi-scale TRN"),
    (r".*consensus\.classifier\..*", "single-scale TRN"),
)
_BACKBONES = (
    (r".*(branch_reparam|reparam_conv)\..*", "MobileOne (deployed)"),
    (r".*(branch_conv_list|conv_kxk|rbr_conv)\..*", "MobileOne"),
    (r".*inception_3a_.*", "BNInception"),
    (r".*(denseblock1|stages\.0\.block)\..*", "DenseNet"),
    (r".*relative_position_bias_table", "Swin"),
    (r".*\bMixed_6a\..*", "Inception-v3"),
    (r".*\b(layer_scale|stages\.\d\.(blocks\.)?\d+\.gamma)", "ConvNeXt"),
    (r".*\b(cls_token|class_token)", "ViT"),
    (r".*\b(features\.7\.0\.block\..*|blocks\.5\.3\.se\..*)", "EfficientNet"),
    (r".*\b(features\.15\.block|blocks\.6\.0\.conv|layer15\.linear_conv)\..*", "MobileNetV3"),
    (r".*\bfeatures\.18\.0\..*|.*\bconv_pwl\..*|.*\blayer7\.0\.conv\.2\..*", "MobileNetV2"),
)
# By the number of blocks in the third stage, and whether they are bottlenecks.
_RESNETS = {
    (1, False): "10",
    (2, False): "18",
    (6, False): "34",
    (6, True): "50",
    (23, True): "101",
    (36, True): "152",
}
# Anchored, because a TIN has layers called `fc` in its blocks.
_CLASSIFIERS = (
    r".*consensus\.(?:fc_fusion_scales\.0|classifier)\.3\.bias",
    r"(?:module\.)*(?:cls_head\.|heads?\.(?:layers\.(?:1\.)?)?|base_model\.)?"
    r"(?:fc_cls|new_fc|fc_action|fc|head|classifier(?:\.[123])?|last_linear|linear)\.bias",
)
# A temporal op wraps the first convolution of a block, or a whole block.
_WRAPPED = (
    (r".*\blayer\d\.\d{1,4}\.(?:block\.)?conv1(?:\.conv)?\.net2?\..*", "blockres"),
    (r".*\b(?:layer|stage)\d\.\d{1,4}\.net\..*", "block"),
    (r".*\.conv\.0\.net\..*", "blockres"),  # MobileNetV2
)


@dataclass
class Problems:
    """Tensors that do not fit a model.

    Attributes:
        missing: our paths.
        unexpected: `(foreign name, shape)`.
        misshapen: `(foreign name, shape in our layout, our path, our shape)`.
        doubled: `(foreign name, other foreign name, our path)`.
        shift: a mismatch of the temporal ops, see `compare_shifts`, or `None`.
    """

    missing: list = field(default_factory=list)
    unexpected: list = field(default_factory=list)
    misshapen: list = field(default_factory=list)
    doubled: list = field(default_factory=list)
    shift: str | None = None

    def count(self):
        """Number of problems."""
        lists = (self.missing, self.unexpected, self.misshapen, self.doubled)
        return sum(map(len, lists)) + (self.shift is not None)

    def text(self, source, shapes, ours):
        """All problems in groups, and advice.

        Args:
            source: the source of the names.
            shapes: shapes of the tensors in the file, `{foreign name: shape}`.
            ours: shapes of the variables of the model, `{path: shape}`.
        """
        groups = {
            "missing": _by_layer((*path.rsplit("/", 1), "") for path in self.missing),
            "unexpected": _by_layer(
                (*name.rpartition(".")[::2], f" {tuple(shape)}") for name, shape in self.unexpected
            ),
            "mis-shaped": [
                f"{name} has shape {shape}, {path} needs {needed}"
                for name, shape, path, needed in self.misshapen
            ],
            "given twice": [f"{path}: {one}, {other}" for one, other, path in self.doubled],
        }
        counts = (self.missing, self.unexpected, self.misshapen, self.doubled)
        count = self.count()
        lines = [f"the {source} weights do not fit the model, {count} problem{'s' * (count > 1)}:"]
        for (title, members), found in zip(groups.items(), counts, strict=True):
            if found:
                lines += [f"  {len(found)} {title}:"]
                lines += [f"    {escaped(member)}" for member in members]
        if self.shift:
            lines.append(f"  the network of the file {self.shift}")
        lines.append(f"The weights seem to be of {describe_network(shapes)}.")
        return "\n".join([*lines, *self._advice(shapes, ours)])

    def _advice(self, shapes, ours):
        """Likely causes, each with the option that helps."""
        theirs, mine = num_classes(shapes), _our_num_classes(ours)
        if any((*a[:-1], mine) == b and a[-1:] == (theirs,) for _, a, _, b in self.misshapen):
            yield (
                f"The file has {theirs} classes, the model {mine}: create the model with "
                f"num_classes={theirs}, or keep its new classifier with reset_head=True "
                "(--reset-head)."
            )
        theirs, mine = num_segments(shapes), _our_num_segments(ours)
        if theirs and mine and theirs != mine:
            yield (
                f"The file is for {theirs} segments, the model has {mine}. TRN and TIN have a "
                "weight for each frame of a clip: create the model with "
                f"num_segments={theirs}, or load only what does not depend on it "
                "(backbone_only=True for TRN, reset_temporal_op=True for TIN; on the command line "
                "--backbone-only, --reset-temporal-op)."
            )
        backbone = next((name for pattern, name in _BACKBONES if _any(pattern, shapes)), "")
        deployed = backbone == "MobileOne (deployed)"
        if "MobileOne" in backbone and deployed != _any(r".*/branch_reparam/.*", ours):
            yield (
                "The file is in deploy form: create the model with deploy=True (--option "
                "deploy=true)."
                if deployed
                else "The file is in train form: create the model without deploy=True, then call "
                "reparameterize (trn-jax reparameterize)."
            )
        own = [path for path in ours if "/temporal_op/" in path]
        if own and set(own) <= set(self.missing):
            yield (
                "The file has no parameters of the temporal op; reset_temporal_op=True "
                "(--reset-temporal-op) keeps those of the model."
            )
        elif self.shift:
            yield (
                "Create the model with the same temporal_op, shift_place and shift_every "
                "(--option shift_place=block), or start a new training from these weights: "
                "backbone_only=True (--backbone-only) or reset_temporal_op=True "
                "(--reset-temporal-op)."
            )
        if hint := _non_local_hint(shapes, ours):
            yield hint
        if set(self.missing) == {"head/fc/kernel", "head/fc/bias"} and num_classes(shapes):
            yield "take_classifier=True (--take-classifier) loads the classifier as the head."
        heads = [path for path in ours if path.startswith(("head/", "neck/"))]
        if heads and set(heads) <= set(self.missing):
            yield "backbone_only=True (--backbone-only) keeps the neck and the head of the model."


def compare_shifts(model, source, names):
    """Describe how the temporal shifts of a file and of `model` differ; `None` if they agree.

    TSM has no parameters, so that weights of TSM and TSN fit each other's models. Only the names
    show which blocks are shifted, and whether with their shortcuts.
    """
    theirs = {
        _numbers(path): place
        for name in names
        for pattern, place in _WRAPPED
        if re.fullmatch(pattern, name) and (path := recognition.layer(name, source))
    }
    ours = {_numbers("/".join(map(str, path))): place for path, place in _shift_places(model)}
    if not theirs:
        if ours and source == "tpn":
            return "shifts the input of strided shortcuts as well, the model does not"
        wraps = source in ("mmaction2", "mmpretrain", "tsm", "tin")
        return "does not shift frames, the model does" if ours and wraps else None
    if not ours:
        return "shifts frames, the model does not"
    places = {
        "blockres": "the residual branches only (shift_place='blockres')",
        "block": "whole blocks with their shortcuts (shift_place='block')",
    }
    if (their_place := min(theirs.values())) != (our_place := min(ours.values())):
        return f"shifts {places[their_place]}, the model {places[our_place]}"
    if theirs.keys() != ours.keys():
        return (
            f"shifts frames in {len(theirs)} blocks, the model in {len(ours)} (shift_every), "
            f"{len(theirs.keys() & ours.keys())} of them the same"
        )
    return None


def _numbers(path):
    """Stage and index of a block, from a path in our model."""
    return tuple(map(int, re.findall(r"\d+", path)))[:2]


def _shift_places(model):
    """The paths of the blocks with a temporal op, and its place."""
    for path, node in nnx.iter_graph(model):
        if getattr(node, "temporal_op", None) is not None:
            yield path, getattr(node, "shift_place", None) or "block"


def _non_local_hint(shapes, ours):
    """Advice if the file and the model differ in their non-local blocks, else `None`."""
    theirs, mine = (
        tuple(_any(rf".*non_local\w*[./]{part}[./].*", names) for part in ("g", "theta"))
        for names in (shapes, ours)
    )
    has, embeds = theirs
    if theirs == mine:
        return None
    if not has:
        return (
            "The file has no non-local blocks; backbone_only=True (--backbone-only) keeps those of "
            "the model."
        )
    modes = (
        "embedded_gaussian or dot_product, which have the same weights" if embeds else "gaussian"
    )
    return f"The file has non-local blocks: create the model with non_local={modes} (--option)."


def describe_network(shapes):
    """Method, backbone, classes and segments of a network, judged by its `{name: shape}`."""
    methods = [method for pattern, method in _METHODS if _any(pattern, shapes)]
    if "TIN" in methods and "TSM" in methods:
        methods.remove("TSM")
    backbone = next((b for pattern, b in _BACKBONES if _any(pattern, shapes)), _resnet(shapes))
    facts = [" + ".join(methods) or "TSN or an image classifier"]
    facts += [f"on {backbone}"] if backbone else []
    classes, segments = num_classes(shapes), num_segments(shapes)
    facts += [f"with {classes} classes"] if classes else []
    facts += [f"for {segments} segments"] if segments else []
    return " ".join(facts)


def num_classes(shapes):
    """Number of classes of the classifier in a file, or `None`."""
    for pattern in _CLASSIFIERS:
        for name, shape in shapes.items():
            if re.fullmatch(pattern, name) and len(shape) == 1 and shape[0]:
                return shape[0]
    return None


def num_segments(shapes):
    """Number of segments of the TRN or TIN in a file, or `None`."""
    for name, shape in shapes.items():
        if re.fullmatch(r".*\.net1\.(offset_net\.fc1|biasnet\.net\.fc)\.bias", name):
            return shape[0]
        relation = re.fullmatch(r"(.*)consensus\.(fc_fusion_scales\.0|classifier)\.1\.weight", name)
        if relation and len(shape) == 2:
            layers = (shapes.get(f"{relation[1]}{layer}.bias") for layer in ("fc_cls", "new_fc"))
            embedding = next(filter(None, layers), (0,))
            return shape[1] // embedding[0] if embedding[0] else None
    return None


def _our_num_classes(ours):
    bias = ours.get("head/relations/0/output/bias") or ours.get("head/fc/bias")
    return bias[0] if bias else None


def _our_num_segments(ours):
    if "head/relations/0/hidden/kernel" in ours:
        return ours["head/relations/0/hidden/kernel"][0] // ours["head/fc/bias"][0]
    return next((s[0] for p, s in ours.items() if p.endswith("/temporal_op/offset_fc1/bias")), None)


def _resnet(shapes):
    stage = re.compile(r".*(?:\blayer3|\bencoder\.stages\.2\.layers)\.(\d{1,4})\.")
    blocks = [int(m[1]) for name in shapes if (m := stage.match(name))]
    if not blocks:
        return None
    bottleneck = _any(r".*\b(layer1\.0\.conv3|stages\.0\.layers\.0\.layer\.2)\b.*", shapes)
    kernel: tuple[int, ...] = next(
        (s for name, s in shapes.items() if re.fullmatch(r".*layer1\.0\.conv2\b.*weight", name)), ()
    )
    grouped = len(kernel) > 3 and kernel[0] != kernel[1]
    depth = _RESNETS.get((max(blocks) + 1, bottleneck), "of unknown depth")
    name = f"ResNeXt-{depth}" if grouped else f"ResNet-{depth}"
    return f"3-D {name}" if len(kernel) == 5 else name


def _any(pattern, names):
    return any(re.fullmatch(pattern, name) for name in names)


def _by_layer(entries):
    """One line for each layer, from `(layer, leaf, remark)`."""
    layers: dict[str, list[str]] = {}
    for layer, leaf, remark in entries:
        layers.setdefault(layer, []).append(f"{leaf}{remark}")
    return [f"{layer}: {', '.join(leaves)}" for layer, leaves in layers.items()]
