"""Writes a checkpoint as a file for another program; the kind follows the end of its name."""

import contextlib
import dataclasses
import os
import pathlib
import tempfile
from typing import Any

import jax

from trn_jax.checkpoints.checkpoint import open_checkpoint
from trn_jax.errors import UserError
from trn_jax.export import golden as goldens
from trn_jax.export import hub, onnx_file, stablehlo
from trn_jax.export.metadata import metadata_of, to_text
from trn_jax.export.page import check_page, write_page
from trn_jax.export.program import ANY, DTYPES, FORMS, for_inference, program_of
from trn_jax.files import check_file, check_folder, sync
from trn_jax.loading import info_of
from trn_jax.prediction.contract import contract_of

HUB, PAGE = "hub", "page"
_WRITERS: dict[str, Any] = {"onnx": onnx_file, "stablehlo": stablehlo}  # by the end of the name
_MAX_BATCH = 1 << 16


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file or folder.
        kind: "onnx", "stablehlo", "hub" or "page".
        num_bytes: its size.
        license: of the model; `None` if it has none.
        form: one of `program.FORMS`; `None` of a hub folder, as all that follow.
        dtype: of the computation.
        inputs: text on each input, its name, dtype and shape.
        outputs: the same of the outputs.
        needs: what reads it, `{"opset": number}` or `{"stablehlo": version}`.
        difference: the largest one of the written file from the model, by the largest value, on
            the golden input.
    """

    path: str
    kind: str
    num_bytes: int
    license: str | None
    form: str | None = None
    dtype: str | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    needs: dict = dataclasses.field(default_factory=dict)
    difference: float | None = None


def kind_of(to):
    """The kind of a file by the end of its name: "onnx", "stablehlo" or "hub", a folder.

    Raises:
        UserError: there is no such kind.
    """
    if not to or os.path.basename(to)[1:] in _WRITERS:  # a file ".onnx" would be hidden
        raise UserError(f"--to={to} has no name before its end; expected one, such as model.onnx")
    end = os.path.splitext(to)[1]
    if end[1:] in _WRITERS:
        return end[1:]
    if end and not to.endswith(os.sep) and not os.path.isdir(to):
        raise UserError(
            f"--to={to} ends in {end!r}; expected {' or '.join(f'.{kind}' for kind in _WRITERS)}, "
            "or, for a hub folder, a name without an end or with '/' at its end"
        )
    return HUB


def check_place(to):
    """Check, before what takes long, that `to` is free and can be written; its kind.

    Raises:
        UserError: it exists, can't be written, or is of no kind; or a package is missing.
    """
    kind = kind_of(to)
    if os.path.lexists(to):
        raise UserError(f"--to={to} exists; remove it, or choose another name")
    (check_folder if kind == HUB else check_file)(to)
    if kind != HUB:
        _WRITERS[kind].check_installed()
    return kind


def export_page(checkpoint, to, ort, *, form="clip", **options):
    """Export a checkpoint as the web page that runs it in a browser, see `page.write_page`.

    Args:
        checkpoint: see `export`.
        to: the folder; must not exist.
        ort: the folder `dist` of the npm package onnxruntime-web.
        form: "clip" or "stream".
        **options: as of `export`.

    Returns:
        What was `Exported`.

    Raises:
        UserError: as of `export` and `page.write_page`.
    """
    check_page(to, ort, form)
    onnx_file.check_installed()
    with tempfile.TemporaryDirectory() as folder:
        found = export(checkpoint, os.path.join(folder, "model.onnx"), form=form, **options)
        write_page(found.path, to, ort)
    return dataclasses.replace(found, path=to, kind=PAGE)


def export(checkpoint, to, *, form="clip", batch=ANY, dtype="float32", protocol=None, license=None):
    """Export a checkpoint, and check what was written with its own runtime.

    Args:
        checkpoint: see `trn_jax.load_model`.
        to: file that ends in `.onnx` or `.stablehlo`, or a folder, which becomes a hub folder; it
            must not exist.
        form: one of `program.FORMS`; not for a hub folder, as `batch`, `dtype` and `protocol`.
        batch: number of clips, or of streams, or `ANY`.
        dtype: "float32" or "float16", of the computation.
        protocol: whose view is the sampling contract; by default the one with the fewest views.
        license: of the model, such as "Apache-2.0"; by default that of the checkpoint.

    Returns:
        What was `Exported`.

    Raises:
        UserError: an argument or the checkpoint doesn't fit, or the written file differs from the
            model. Nothing is left then.
    """
    _check_choices(form, batch, dtype)
    kind = check_place(to)
    opened = open_checkpoint(checkpoint)
    if kind == HUB:
        license = hub.write(opened, to, license=license)
        num_bytes = sum(path.stat().st_size for path in pathlib.Path(to).rglob("*"))
        return Exported(to, kind, num_bytes, license)
    with _on_cpu():
        return _export_program(
            opened, to, kind, form, batch, dtype, protocol=protocol, license=license
        )


def _check_choices(form, batch, dtype):
    for name, value, allowed in (("form", form, FORMS), ("dtype", dtype, DTYPES)):
        if value not in allowed:
            raise UserError(f"--{name}={value}: expected one of {', '.join(allowed)}")
    if batch != ANY and not (type(batch) is int and 0 < batch <= _MAX_BATCH):
        raise UserError(f"--batch={batch}: expected a number in 1..{_MAX_BATCH}, or 'any'")


def _export_program(opened, to, kind, form, batch, dtype, *, protocol, license):
    model = opened.load(dtype="float32")
    model.info = info_of(opened)
    contract = contract_of(model.info, protocol=protocol)
    view = contract.view
    sizes = dict(num_frames=view.num_segments, size=view.crop_size, batch=batch)
    _set_relations(model, view)
    golden = goldens.golden_of(program_of(model, form, **sizes))
    if dtype != "float32":
        model = opened.load(dtype=dtype)
        model.info = info_of(opened)
        _set_relations(model, view)
    program = program_of(for_inference(model, size=view.crop_size, dtype=dtype), form, **sizes)
    metadata = metadata_of(opened, model, program, contract, dtype=dtype, license=license)
    with _beside(to) as path:
        writer = _WRITERS[kind]
        needs = writer.write(path, program, to_text(metadata), golden)
        difference = goldens.agreement(program, golden, writer.runner(path), dtype)
        num_bytes = os.path.getsize(path)
    return Exported(
        path=to,
        kind=kind,
        num_bytes=num_bytes,
        license=metadata["license"],
        form=form,
        dtype=dtype,
        inputs=tuple(map(str, program.inputs)),
        outputs=tuple(map(str, program.outputs)),
        needs=needs,
        difference=difference,
    )


def _set_relations(model, view):
    """Let a TRN take the relations of a view, see `View.relations`."""
    if view.relations == "sample":
        raise UserError(
            "relations='sample' draws at random, but an exported model draws nothing; choose "
            "another --protocol"
        )
    if view.relations != "model" and hasattr(model.head, "eval_relations"):
        model.head.eval_relations = view.relations


def _on_cpu():
    """Compute on a CPU, if JAX has one, as accelerators round more by default."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return contextlib.nullcontext()


@contextlib.contextmanager
def _beside(to):
    """A path beside `to` for a file, which gets that name at the end of the `with` block."""
    to = pathlib.Path(to).absolute()
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{to.name}-", dir=to.parent) as folder:
            path = pathlib.Path(folder) / to.name
            yield str(path)
            sync(path)
            path.rename(to)
    except OSError as error:
        raise UserError(
            f"cannot write {to}: {error.strerror or error}; make room or choose another place"
        ) from error
