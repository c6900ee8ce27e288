"""`trn-jax models`, `convert` and `reparameterize`: models and their weights."""

import json
import pathlib
from functools import partial

from trn_jax.cli.arguments import CHECKPOINT, add_json, positive
from trn_jax.errors import UserError, escaped

_MAX_CLASSES = 100_000  # of a file, without --num-classes: a model may be larger than its file


def add_convert(commands):
    """`trn-jax convert`."""
    parser = commands.add_parser(
        "convert",
        help="convert PyTorch weights into a checkpoint",
        description="Convert PyTorch weights into a checkpoint for the other commands. PyTorch is "
        "not needed, and nothing in the file is executed.",
    )
    parser.add_argument("--from", required=True, dest="file", help=".pth or .safetensors")
    parser.add_argument("--model", required=True, help="name of the model, see `trn-jax models`")
    parser.add_argument("--to", required=True, help="folder of the checkpoint; must not exist")
    parser.add_argument("--num-classes", type=positive, help="default: those of the file")
    parser.add_argument(
        "--num-segments", type=positive, help="frames of a clip; default: the file's"
    )
    parser.add_argument("--classes", help="file with one class name per line")
    _add_reading(parser)
    _add_taking(parser)
    parser.set_defaults(run=_convert)


def _add_reading(parser):
    """Add which tensors of the file are read, and by which names."""
    parser.add_argument(
        "--source", default="auto", help="code base that the names are from; default: detected"
    )
    parser.add_argument(
        "--key", help="selects one of several networks in the file, such as state_dict_ema"
    )
    parser.add_argument(
        "--rename",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="replace a part of the names of tensors; OLD is a regular expression: '^encoder\\.=' "
        "removes a prefix, gamma=weight replaces every gamma; may be repeated",
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="PATTERN",
        help="skip these tensors, such as 'projector.*'; may be repeated",
    )


def _add_taking(parser):
    """Add the options of the model, and which of its parts are loaded."""
    parser.add_argument(
        "--take-classifier",
        action="store_true",
        help="load the classifier of an image network as the head of a TSN or TSM",
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare the result with PyTorch (must be installed)"
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of the model, such as shift_place=block or causal=true, see config.model in "
        "trn_jax/config.py; may be repeated",
    )
    for part, what in (
        ("reset-head", "the classifiers, for other classes"),
        ("reset-temporal-op", "the temporal op, to start a TIN from a TSM"),
        ("backbone-only", "neck and head, and the temporal op if the file has none"),
    ):
        parser.add_argument(
            f"--{part}", action="store_true", help=f"initialise {what}; load the rest"
        )


def _convert(arguments):
    from trn_jax import convert
    from trn_jax.checkpoints import checkpoint

    kept = ("reset_head", "reset_temporal_op", "backbone_only")
    drawn = {part: getattr(arguments, part) for part in kept}
    if arguments.verify:
        _check_can_verify(drawn)
        from trn_jax import verify  # raises at once if PyTorch is missing
    rename = [tuple(text.rpartition("=")[::2]) for text in arguments.rename]
    if wrong := [text for text in arguments.rename if not text.rpartition("=")[0]]:
        raise UserError(f"--rename={wrong[0]}: expected --rename=OLD=NEW")
    file = convert.read_torch_file(arguments.file, arguments.key)
    weights, origins = convert.selected(file, rename=rename, ignore=arguments.ignore)
    recipe, names = _recipe_of(arguments, convert.shapes(weights, arguments.source))
    model = _new_model(recipe, initialised=any(drawn.values()))
    options = dict(drawn, take_classifier=arguments.take_classifier)
    rows = convert.load_state_dict(model, weights, arguments.source, **options)
    about = {
        "config": recipe.to_dict(),
        "class_names": names,
        "source": {"file": arguments.file, "sha256": convert.file_sha256(arguments.file)},
    }
    check = None
    if arguments.verify:
        places = dict(file=arguments.file, weights=weights, origins=origins, rows=rows)
        check = partial(verify.verify, **places, backbone_only=arguments.backbone_only)
    comparison = checkpoint.save_model(arguments.to, model, about, check=check)
    _print_rows(rows, origins)
    num_classes = recipe.model.num_classes
    print(f"{len(rows)} tensors of {arguments.model} with {num_classes} classes: {arguments.to}")
    if arguments.verify:
        print(f"verified: {comparison}")
    _print_notes(arguments, model, weights, rows)


def _check_can_verify(drawn):
    chosen = ["--" + part.replace("_", "-") for part in drawn if drawn[part]]
    if chosen not in ([], ["--backbone-only"]):
        raise UserError(
            "--verify compares full networks, or backbones (--backbone-only), but "
            f"{', '.join(chosen)} initialises a part; remove one of the flags"
        )


def _recipe_of(arguments, shapes):
    """The configuration of the model in a file, and the names of its classes.

    `shapes` are those of the tensors, by the names of their source.
    """
    from trn_jax import config, convert
    from trn_jax.data.class_names import read_class_names
    from trn_jax.settings import set_model_option

    num_classes = arguments.num_classes or convert.num_classes(shapes)
    if num_classes is None:
        raise UserError(f"{arguments.file} has no known classifier; set --num-classes")
    if num_classes > _MAX_CLASSES and not arguments.num_classes:
        raise UserError(
            f"the classifier in {arguments.file} has {num_classes:,} classes, more than "
            f"{_MAX_CLASSES:,}; if that is right, set --num-classes={num_classes}"
        )
    names = read_class_names(arguments.classes) if arguments.classes else []
    if names and len(names) != num_classes:
        raise UserError(f"{arguments.classes} has {len(names)} classes, expected {num_classes}")
    recipe = config.base(dataset="frames", model=arguments.model, num_classes=num_classes)
    num_segments = arguments.num_segments or convert.num_segments(shapes)
    if num_segments:
        recipe.model.num_segments = num_segments
    recipe.model.dtype = "float32"  # the precision of published scores
    for option in arguments.option:
        set_model_option(recipe, option)
    return recipe, names


def _new_model(recipe, *, initialised):
    """The model of a configuration: `initialised`, or only its shapes.

    Initialisation takes longer than reading: shapes suffice if the file has all values.
    """
    from flax import nnx

    from trn_jax.models import create_model

    build = partial(create_model, **recipe.model)
    return nnx.jit(build)() if initialised else nnx.eval_shape(build)


def _print_rows(rows, origins):
    """The path of each tensor of the file in our model, and its shape."""
    lines = [(escaped(origins.get(name, name)), path, shape) for name, path, shape in rows]
    width = max((len(name) for name, _, _ in lines), default=0)
    for name, path, shape in lines:
        print(f"{name:{width}}  {path}  {' x '.join(map(str, shape))}")


def _print_notes(arguments, model, weights, rows):
    """Unread tensors, initialised variables, and how a TRN chooses its relations."""
    from trn_jax import convert

    for line in convert.unread(weights, rows):
        print(line)
    fresh = convert.variables(model).keys() - {path for _, path, _ in rows}
    if fresh:
        print(f"{len(fresh)} variables were initialised, such as {min(fresh)}.")
        if not (arguments.key or arguments.rename or arguments.ignore):
            print(
                "To train such a model, start from the file itself: "
                f"--config.init_from={arguments.file}"
            )
    relations = getattr(model.head, "relations", ())
    if any(relation.num_used < relation.num_relations for relation in relations):
        print(
            "note: mmaction2 and TRN-pytorch sample the relations of a TRN in evaluation, too, so "
            "that their logits vary by about 3 % between runs. This checkpoint has "
            f"eval_relations={model.head.eval_relations}. Choices: expected (the exact mean over "
            "all samples, reproducible), sample (random) or first (the first relations of each "
            "scale), by --option=eval_relations=sample here, or "
            "--config.model.eval_relations=sample in an evaluation"
        )


def add_reparameterize(commands):
    """`trn-jax reparameterize`."""
    parser = commands.add_parser(
        "reparameterize",
        help="fuse the branches of a trained MobileOne: same scores, fewer operations",
        description="Fuse the branches of a trained MobileOne: same scores, fewer operations.",
    )
    parser.add_argument("checkpoint", help=CHECKPOINT)
    parser.add_argument("--to", required=True, help="folder of the new checkpoint; must not exist")
    parser.set_defaults(run=_reparameterize)


def _reparameterize(arguments):
    from trn_jax import convert
    from trn_jax.checkpoints import calibration_file, checkpoint

    stored = checkpoint.open_checkpoint(arguments.checkpoint)
    directory, about = stored.directory, stored.info
    if about["config"]["model"].get("deploy"):
        raise UserError(f"{directory} is in deploy form already (model.deploy=True)")
    model = stored.load(deploy=True)
    about["config"]["model"]["deploy"] = True
    about["reparameterized_from"] = {
        "checkpoint": stored.path,
        "step": about["step"],
        "metrics": about.pop("metrics", {}),
    }
    checkpoint.save_model(arguments.to, model, about)
    if calibration := stored.calibration():  # of the same scores
        calibration_file.write(pathlib.Path(arguments.to), calibration)
    size = sum(variable.size for variable in convert.variables(model).values())
    print(f"fused {directory} into {size:,} parameters: {arguments.to}")


def add_models(commands):
    """`trn-jax models`."""
    parser = commands.add_parser(
        "models",
        help="list the models with their size and cost",
        description="List the models with their parameters and multiply-adds.",
    )
    parser.add_argument("pattern", nargs="?", default="*", help="of names, such as 'tsm_*'")
    parser.add_argument("--num-classes", type=positive, default=400, help="default: %(default)s")
    parser.add_argument(
        "--backbones", action="store_true", help="list backbones instead, with the cost of a frame"
    )
    parser.add_argument(
        "--frames", type=positive, default=8, help="frames of a clip; default: %(default)s"
    )
    parser.add_argument(
        "--pixels", type=positive, default=224, help="height and width; default: %(default)s"
    )
    add_json(parser)
    parser.set_defaults(run=_models)


def _models(arguments):
    from flax import nnx

    from trn_jax.models import cost, create_model, list_models

    if arguments.backbones:
        _backbones(arguments)
        return
    names = list_models(arguments.pattern)
    if not names:
        raise UserError(f"no model matches {arguments.pattern!r}; see `trn-jax models`")
    sizes = dict(num_classes=arguments.num_classes, num_segments=arguments.frames)
    clip = (arguments.frames, arguments.pixels, arguments.pixels, 3)
    rows = []
    if not arguments.json:
        print(f"{arguments.num_classes} classes; GFLOPs are 10^9 multiply-adds for one clip")
        print(f"{'model':24}{'parameters':>14}{'GFLOPs':>10}  clip")
    for name in names:
        model = nnx.eval_shape(partial(create_model, name, **sizes))
        found = cost.measure(model, 1, *clip)
        rows.append(dict(name=name, parameters=found.parameters, gflops=found.flops / 1e9))
        size = " x ".join(map(str, clip))
        if not arguments.json:
            columns = f"{name:24}{found.parameters:14,}{found.flops / 1e9:10.2f}"
            print(f"{columns}  {size}", flush=True)
    if arguments.json:
        print(json.dumps(dict(clip=clip, num_classes=arguments.num_classes, models=rows), indent=1))


def _backbones(arguments):
    """List backbones; one that doesn't take frames of this size is listed with the reason."""
    from flax import nnx

    from trn_jax.backbones import BACKBONES
    from trn_jax.models import cost, list_backbones, takes_temporal_op

    names = list_backbones(arguments.pattern)
    if not names:
        raise UserError(
            f"no backbone matches {arguments.pattern!r}; see `trn-jax models --backbones`"
        )
    pixels, rows = arguments.pixels, []
    if not arguments.json:
        print(f"GFLOPs are 10^9 multiply-adds for one frame of {pixels} x {pixels} pixels")
        print(f"{'backbone':20}{'channels':>10}{'parameters':>14}{'GFLOPs':>10}  temporal ops")
    for name in names:
        backbone = nnx.eval_shape(lambda name=name: BACKBONES[name](rngs=nnx.Rngs(0)))
        frames = arguments.frames if backbone.sees_clips else 1
        shape = (frames, pixels, pixels, 3)
        row = dict(name=name, channels=backbone.out_channels)
        row |= dict(temporal_ops=takes_temporal_op(BACKBONES[name]))
        try:
            found = cost.measure(backbone, *([1] if backbone.sees_clips else []), *shape)
            row |= dict(parameters=found.parameters, gflops=found.flops / frames / 1e9)
            size = f"{found.parameters:14,}{row['gflops']:10.2f}  "
            text = size + ("tsm, tin" if row["temporal_ops"] else "-")
        except UserError as problem:
            row |= dict(problem=str(problem))
            text = f"  {problem}"
        rows.append(row)
        if not arguments.json:
            print(f"{name:20}{backbone.out_channels:10,}{text}", flush=True)
    if arguments.json:
        print(json.dumps(dict(pixels=pixels, backbones=rows), indent=1))
