"""The web page of an exported model: a folder of static files that runs it in a browser."""

import json
import os
import pathlib
import shutil

from trn_jax.data.crops import RANDOM_CROPS
from trn_jax.errors import UserError, listed
from trn_jax.files import check_folder, new_folder

_FILES = pathlib.Path(__file__).parent / "page"
# Of the folder `dist` of the package onnxruntime-web; page.js takes the first three where there is
# WebGPU, else the others.
RUNTIME = (
    *("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs"),
    "ort-wasm-simd-threaded.asyncify.wasm",
    *("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
)
_GET_RUNTIME = (
    "get it with `npm pack onnxruntime-web` and `tar -xf onnxruntime-web-*.tgz`, and give "
    "--ort=package/dist"
)
_METADATA = "trn_jax"  # the key of `metadata_props`
_FORMS = ("clip", "stream")


def check_page(to, ort, form="clip"):
    """Check, before what takes long, that a page can be written.

    Args:
        to: its folder.
        ort: the folder `dist` of the npm package onnxruntime-web.
        form: of the model.

    Raises:
        UserError: files of the runtime are missing, the folder exists, or a page has no such form.
    """
    if form not in _FORMS:
        raise UserError(f"--form={form}: a page takes {' or '.join(_FORMS)}")
    if not ort:
        raise UserError(f"--page needs --ort, the runtime of browsers: {_GET_RUNTIME}")
    missing = [name for name in RUNTIME if not (pathlib.Path(ort) / name).is_file()]
    if missing:
        raise UserError(
            f"--ort={ort} lacks {len(missing)} of {len(RUNTIME)} files of onnxruntime-web; "
            f"{_GET_RUNTIME}{listed(missing)}"
        )
    if os.path.lexists(to):
        raise UserError(f"--to={to} exists; remove it, or choose another name")
    check_folder(to)


def write_page(model, to, ort):
    """Write the folder of a web page, complete or not at all.

    Any web server can serve it, such as `python -m http.server`. It needs no network otherwise.

    Args:
        model: an exported `.onnx` file of form "clip" or "stream", with its metadata.
        to: the folder; must not exist.
        ort: the folder `dist` of the npm package onnxruntime-web, of which it gets copies.

    Raises:
        UserError: see `check_page`; the model has no metadata, or takes what a page can't give.
    """
    check_page(to, ort, _checked_form(model))
    with new_folder(to) as page:
        shutil.copytree(_FILES, page)
        shutil.copyfile(model, page / "model.onnx")
        (page / "ort").mkdir()
        for name in RUNTIME:
            shutil.copyfile(pathlib.Path(ort) / name, page / "ort" / name)


def _checked_form(path):
    """The form of a model, whose frames a page can choose.

    Raises:
        UserError: it can't; with the reason.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise UserError(f"can't read {path} as ONNX: {error}") from None
    found = {entry.key: entry.value for entry in model.metadata_props}.get(_METADATA)
    if found is None:
        raise UserError(f"{path} has no metadata of trn_jax; write it with `trn-jax export`")
    metadata = json.loads(found)
    view = metadata["contract"]["view"]
    for key, drawn in (
        ("sampling", ("random", "random_clips", "random_dense")),
        ("frame_order", ("shuffled",)),
        ("crop", RANDOM_CROPS),
        ("relations", ("sample",)),
    ):
        if view[key] in drawn:
            raise UserError(
                f"{key}={view[key]!r} draws at random, which a page doesn't; choose another "
                "--protocol"
            )
    return metadata["form"]
