"""`.onnx` files: a model with its metadata and golden input, and their runs by onnxruntime."""

import base64

from trn_jax.errors import UserError
from trn_jax.export import golden as goldens
from trn_jax.export.onnx import OPSET, to_onnx

METADATA, GOLDEN = "trn_jax", "trn_jax.golden"  # keys of `metadata_props`


def check_installed():
    """Check that what writes and runs ONNX files is installed.

    Raises:
        UserError: it isn't.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"ONNX export needs the package {error.name}; install trn_jax with its extra: "
            "pip install 'trn_jax[export]'"
        ) from None


def write(path, program, metadata, golden):
    """Write a `Program` as an `.onnx` file; arguments as in `stablehlo.write`.

    Returns:
        What the file needs, `{"opset": number}`.

    Raises:
        UserError: something in it can't be exported.
    """
    import onnx

    model = to_onnx(
        program.call,
        program.structs(),
        input_names=[tensor.name for tensor in program.inputs],
        output_names=[tensor.name for tensor in program.outputs],
    )
    text = base64.b64encode(goldens.to_bytes(golden)).decode()
    onnx.helper.set_model_props(model, {METADATA: metadata, GOLDEN: text})
    onnx.save(model, path)
    return {"opset": OPSET}


def runner(path):
    """The model of an `.onnx` file as a function of a list of arrays, run by onnxruntime."""
    import onnxruntime

    # Not by its name, which onnxruntime only takes in UTF-8.
    with open(path, "rb") as file:
        content = file.read()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))
