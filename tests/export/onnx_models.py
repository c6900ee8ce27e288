"""Runs exported models for the tests of this folder."""

import jax
import onnx
import onnxruntime
from jax import export

from trn_jax.export.onnx import to_onnx


def exported(function, arrays, *, dynamic=False, outputs=1):
    """The ONNX model of a function; `dynamic` leaves the leading sizes of the arrays open."""
    (batch,) = export.symbolic_shape("batch")
    inputs = [
        jax.ShapeDtypeStruct((batch, *array.shape[1:]) if dynamic else array.shape, array.dtype)
        for array in arrays
    ]
    return to_onnx(
        function,
        inputs,
        input_names=[f"input{i}" for i in range(len(arrays))],
        output_names=[f"output{i}" for i in range(outputs)],
    )


def session(model):
    """Load a model into onnxruntime."""
    onnx.checker.check_model(model, full_check=True)  # the shapes, too
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    content = model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(loaded, arrays):
    """The results of a loaded model."""
    names = [each.name for each in loaded.get_inputs()]
    return loaded.run(None, dict(zip(names, arrays, strict=True)))


def operators(model):
    """Names of the operators of a model, in order."""
    assert {node.domain for node in model.graph.node} == {""}
    return [node.op_type for node in model.graph.node]
