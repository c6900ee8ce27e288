"""`trn-jax export`: a checkpoint for ONNX runtimes, StableHLO compilers, browsers, or the hub."""

import argparse
import dataclasses
import json
import shlex
from collections.abc import Callable
from functools import partial

from trn_jax.cli.arguments import CHECKPOINT, add_json, add_license, check_unused
from trn_jax.errors import escaped, log
from trn_jax.signals import interrupting

_ANY = "any"
_NOT_OF_FOLDERS = ("form", "batch", "dtype", "protocol")


def add_export(commands):
    """`trn-jax export CHECKPOINT --to=FILE`."""
    parser = commands.add_parser(
        "export",
        help="export a model to ONNX, StableHLO, a web page or a hub folder",
        description="Export a model with its class names, sampling contract and calibration. It "
        "takes RGB pixels in 0..255, as uint8; normalisation is inside. At the end the file is run "
        "by its own runtime on a golden input, and kept only if it returns the model's logits.",
    )
    add = parser.add_argument
    add("checkpoint", help=CHECKPOINT)
    add(
        "--to",
        required=True,
        help="name.onnx, name.stablehlo, or a folder, which becomes a hub folder; must not exist",
    )
    add(
        "--form",
        choices=("clip", "stream", "features"),
        default="clip",
        help="clip: clips to logits (default); stream: a frame and a state to logits and the next "
        "state; features: clips to the features of their frames",
    )
    add(
        "--batch",
        type=_batch,
        default=_ANY,
        metavar="N",
        help="fixed number of clips; default: any",
    )
    add(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="dtype of the computation; default: float32",
    )
    add(
        "--protocol",
        help="protocol of the recipe, whose view is the sampling contract; default: the one with "
        "the fewest views",
    )
    add(
        "--page",
        action="store_true",
        help="write a web page that runs the model in browsers to the folder --to; needs --ort",
    )
    add("--ort", metavar="DIST", help="with --page: folder dist of the npm package onnxruntime-web")
    add_license(parser)
    add_json(parser)
    parser.set_defaults(run=_export, default_of=parser.get_default)


def _batch(text):
    if text == _ANY:
        return text
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is neither a positive number nor '{_ANY}'")
    return value


def _export(arguments):
    from trn_jax.export.export import HUB, check_place, export, export_page
    from trn_jax.export.program import ANY

    write: Callable = export
    if arguments.page:
        write = partial(export_page, ort=arguments.ort)
    else:
        check_unused(arguments, ["ort"], "is the runtime of a page; add --page")
        if check_place(arguments.to) == HUB:
            check_unused(
                arguments,
                _NOT_OF_FOLDERS,
                "has no effect on a hub folder, which any form can "
                "be exported from; leave it out, or give --to=name.onnx or name.stablehlo",
            )
    with interrupting():  # or what is half-written would stay
        found = write(
            arguments.checkpoint,
            arguments.to,
            form=arguments.form,
            batch=ANY if arguments.batch == _ANY else arguments.batch,
            dtype=arguments.dtype,
            protocol=arguments.protocol,
            license=arguments.license,
        )
    if not found.license:
        log("it has no license, so nobody may use it; --license=... states one")
    if arguments.json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
    else:
        print("\n".join(map(escaped, _lines(found))))


def _lines(found):
    """What was written, and what to do next."""
    size = f"{found.num_bytes / 1e6:.3g} MB"
    if found.form is None:
        return [
            f"{found.path}: hub folder, {size}",
            f"next: trn-jax push {shlex.quote(found.path)} hf:<user>/<name>; "
            "all commands take it, too",
        ]
    (needs, version), *_ = found.needs.items()
    needed = f"opset {version}" if needs == "opset" else f"StableHLO {version} (VHLO) and later"
    lines = [
        f"{found.path}: {found.kind}, {found.form}, {found.dtype}, {size}, {needed}",
        *(f"input   {text}" for text in _shortened(found.inputs)),
        *(f"output  {text}" for text in _shortened(found.outputs)),
        f"differs by {found.difference:.1e} of the scale from the model, on the golden input",
    ]
    return [*lines, f"next: {_next_step(found)}"]


def _shortened(texts, most=4):
    """The first inputs or outputs; the state of a stream may have many arrays."""
    more = [f"and {len(texts) - most} more"] if len(texts) > most else []
    return [*texts[:most], *more]


def _next_step(found):
    path = shlex.quote(found.path)
    if found.kind == "page":
        return f"python -m http.server -d {path}, and open http://localhost:8000"
    if found.kind == "onnx":
        if found.form == "clip":
            return f"python examples/run_onnx.py {path} <video>"
        return f"onnxruntime.InferenceSession({found.path!r})"
    return f"trn_jax.export.stablehlo.load({found.path!r}), or iree-compile its program.vhlo"
