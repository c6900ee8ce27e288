"""`.stablehlo` files: a program for JAX of other years, IREE and other compilers, with its weights.

A file is a zip archive of

- `cpu.vhlo` and `program.vhlo`, the program as a portable artifact of StableHLO (VHLO in MLIR
  bytecode), in the forms of operations that are fast on CPUs, and elsewhere. Its function `main`
  takes the weights, then the inputs, and returns the outputs;
- `program.json`: the version of StableHLO that the artifacts target, and the names of the weights
  in their order;
- `weights.safetensors`, `metadata.json` and `golden.npz`, see `trn_jax.export`.

Newer versions of StableHLO read older artifacts for five years, and much longer in practice;
`jax.export`'s own files are refused after six months.
"""

import functools
import io
import json
import os
import zipfile

import jax
import numpy as np
import safetensors.numpy
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.extend.mlir import ir, passmanager
from jax.extend.mlir.dialects import func, stablehlo
from jax.interpreters import mlir

from trn_jax.errors import UserError
from trn_jax.export import golden as goldens
from trn_jax.export.program import ANY, Tensor
from trn_jax.files import check_memory, reading
from trn_jax.npz import read_npz

TARGET = "1.0.0"  # the first version with StableHLO's promise of compatibility, of 2024
METADATA = "metadata.json"
_ABOUT, _WEIGHTS = "program.json", "weights.safetensors"
_PROGRAMS = {"cpu": "cpu.vhlo", "default": "program.vhlo"}
_LOWERED_FOR = {"cpu": "cpu", "default": "tpu"}  # whose convolutions are all convolutions
_MAX_TEXT = 64 << 20  # bytes of a JSON file
_DATE = (1980, 1, 1, 0, 0, 0)  # the same for equal content


def check_installed():
    """Check that what writes and runs the files is installed: JAX is enough."""


def write(path, program, metadata, golden):
    """Write a `.stablehlo` file.

    Args:
        path: the file.
        program: a `Program`.
        metadata: JSON, see `export.metadata`.
        golden: `{name: array}`, see `golden.golden_of`.

    Returns:
        What the file targets, `{"stablehlo": version}`.
    """
    names = list(program.parameters)
    about = {"stablehlo": TARGET, "parameters": names, "programs": _PROGRAMS}
    parts = {
        METADATA: metadata.encode(),
        _ABOUT: _json(about),
        goldens.NAME: goldens.to_bytes(golden),
    }
    parts |= {_PROGRAMS[kind]: _artifact(program, names, _LOWERED_FOR[kind]) for kind in _PROGRAMS}
    weights = {name: np.ascontiguousarray(program.parameters[name]) for name in names}
    parts[_WEIGHTS] = safetensors.numpy.save(weights)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            packed = name != _WEIGHTS  # which hardly compress
            info = zipfile.ZipInfo(name, _DATE)
            info.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
            archive.writestr(info, content)
    return {"stablehlo": TARGET}


def _json(value):
    return (json.dumps(value, indent=1) + "\n").encode()


def _artifact(program, names, platform):
    """The portable artifact, bytes, of a program whose first arguments are the parameters."""

    def run(*values):
        return program.function(dict(zip(names, values, strict=False)), *values[len(names) :])

    weights = [program.parameters[name] for name in names]
    weights = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in weights]
    step = jax.jit(run, keep_unused=True)
    exported = jax.export.export(step, platforms=[platform])(*weights, *program.structs())
    context = mlir.make_ir_context()
    with context, ir.Location.unknown(context):
        module = stablehlo.deserialize_portable_artifact(context, exported.mlir_module_serialized)
        _erase_assertions(module)
        # Locations name files of this machine.
        passmanager.PassManager.parse("builtin.module(strip-debuginfo)").run(module.operation)
        return stablehlo.serialize_portable_artifact(module, TARGET)


def _erase_assertions(module):
    """Erase the checks of symbolic shapes, which only JAX knows; `Loaded` checks its inputs."""
    found = []

    def visit(operation):
        if operation.name == "stablehlo.custom_call":
            target = ir.StringAttr(operation.attributes["call_target_name"]).value
            if target == "shape_assertion":
                found.append(operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    for operation in found:
        operation.erase()


class Loaded:
    """The program of a `.stablehlo` file as a function, from `load`.

    It is compiled for the devices of JAX, once per batch size.

    Attributes:
        metadata: a dict, see `export.metadata`.
        inputs: the `Tensor`s that go in.
        outputs: the `Tensor`s that come out.
        weights: `{name: array}` in the order of the program's first arguments.
    """

    def __init__(self, path, metadata, weights, artifacts, golden):
        self._path = path
        self.metadata = metadata
        self.inputs, self.outputs = (
            tuple(
                Tensor(each["name"], tuple(each["shape"]), each["dtype"]) for each in metadata[key]
            )
            for key in ("inputs", "outputs")
        )
        self.weights = weights
        self._artifacts = artifacts
        self._golden = golden
        self._placed: list | None = None  # the weights on the device
        self._compiled = functools.lru_cache(maxsize=16)(self._compile)

    def __call__(self, *inputs):
        """Run the program.

        Args:
            *inputs: arrays, in the order of `self.inputs`.

        Returns:
            The output, or a tuple of several, as `jax.Array`s.

        Raises:
            UserError: the number, a shape or a dtype of the inputs doesn't fit.
        """
        if len(inputs) != len(self.inputs):
            names = ", ".join(tensor.name for tensor in self.inputs)
            raise UserError(f"{len(inputs)} inputs, expected {len(self.inputs)}: {names}")
        values = [value if hasattr(value, "shape") else np.asarray(value) for value in inputs]
        batch = values[0].shape[0] if values[0].ndim else 0
        for tensor, value in zip(self.inputs, values, strict=True):
            self._check(tensor, value, batch)
        if self._placed is None:
            self._placed = [jax.device_put(value) for value in self.weights.values()]
        outputs = self._compiled(batch)(*self._placed, *values)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def state(self, batch=1):
        """The state before the first frame of `batch` streams: a list of arrays of zeros."""
        return [np.zeros((batch, *each.shape[1:]), each.dtype) for each in self.inputs[1:]]

    def golden(self):
        """Golden inputs and outputs, `{name: array}`, see `trn_jax.export.golden`.

        Raises:
            UserError: they are malformed.
        """
        content, size = self._golden
        with (
            reading(self._path, "a .stablehlo file of trn_jax"),
            zipfile.ZipFile(io.BytesIO(content)) as archive,
        ):
            return read_npz(archive, size)

    def artifact(self, platform="default"):
        """The portable artifact, bytes, for "cpu" or as it is for other platforms."""
        return self._artifacts[platform if platform in self._artifacts else "default"]

    def _check(self, tensor, value, batch):
        expected = tensor.struct(batch if tensor.shape[0] == ANY else None)
        if value.shape != expected.shape or value.dtype != expected.dtype or not batch:
            found = f"{value.dtype} [{', '.join(map(str, value.shape))}]"
            raise UserError(f"{tensor.name} is {found}, expected {tensor}")

    def _compile(self, batch):
        values = [*self.weights.values(), *(tensor.struct(batch) for tensor in self.inputs)]
        code = refined(self.artifact(jax.default_backend()), values)
        kinds = tuple(ShapedArray((batch, *t.shape[1:]), np.dtype(t.dtype)) for t in self.outputs)
        return jax.jit(lambda *arrays: _run.bind(*arrays, code=code, kinds=kinds))


def refined(artifact, values):
    """An artifact with the shapes and dtypes of its arguments, as MLIR bytecode of StableHLO.

    Args:
        artifact: a portable artifact.
        values: arrays, or `jax.ShapeDtypeStruct`s, for the arguments.
    """
    context = mlir.make_ir_context()
    with context, ir.Location.unknown(context):
        module = stablehlo.deserialize_portable_artifact(context, artifact)
        main = _main_of(module)
        types = [
            str(ir.RankedTensorType.get(value.shape, ir.RankedTensorType(kind).element_type))
            for value, kind in zip(values, main.type.inputs, strict=True)
        ]
        _register_passes()
        passes = [
            f"stablehlo-refine-arguments{{types={','.join(types)}}}",
            "stablehlo-refine-shapes",
            "func.func(stablehlo-canonicalize-dynamism)",
        ]
        pipeline = f"builtin.module({','.join(passes)})"
        passmanager.PassManager.parse(pipeline).run(module.operation)
        return mlir.module_to_bytecode(module)


@functools.cache
def _register_passes():
    stablehlo.register_stablehlo_passes()


def _main_of(module):
    return next(each for each in module.body.operations if each.name.value == "main")


# A primitive whose lowering is the program itself, so that JAX compiles and runs it like any other.
_run = Primitive("trn_jax_program")
_run.multiple_results = True
_run.def_abstract_eval(lambda *arrays, code, kinds: list(kinds))


def _lower(context, *arrays, code, kinds):
    module = ir.Module.parse(code, context.module_context.context)
    types = _main_of(module).type.results
    name = mlir.merge_mlir_modules(context.module_context.module, "program", module)
    return func.CallOp(types, ir.FlatSymbolRefAttr.get(name), list(arrays)).results


mlir.register_lowering(_run, _lower)


def runner(path):
    """The program of a file as a function of a list of arrays that returns a list."""
    loaded = load(path)

    def call(arrays):
        found = loaded(*arrays)
        return [found] if len(loaded.outputs) == 1 else found

    return call


def load(path):
    """Read a `.stablehlo` file of any version of trn_jax and JAX.

    Args:
        path: the file.

    Returns:
        The `Loaded` program.

    Raises:
        UserError: it can't be read, or is no such file.
    """
    with reading(path, "a .stablehlo file of trn_jax"), zipfile.ZipFile(path) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        texts, size = [METADATA, _ABOUT], os.path.getsize(path)
        if any(sizes.get(name, 0) > _MAX_TEXT for name in texts):
            raise UserError(f"its {' or '.join(texts)} has more than {_MAX_TEXT:,} bytes")
        if sum(info.compress_size for info in archive.infolist()) > size:
            raise UserError(f"its parts are larger than its {size:,} bytes; get it again")
        check_memory(sum(sizes.values()), size)
        metadata, about = (json.loads(archive.read(name)) for name in texts)
        found = safetensors.numpy.load(archive.read(_WEIGHTS))
        weights = {name: found[name] for name in about["parameters"]}
        artifacts = {kind: archive.read(name) for kind, name in about["programs"].items()}
        golden = archive.read(goldens.NAME), size
        return Loaded(path, metadata, weights, artifacts, golden)
