"""Golden inputs of an exported model with its outputs, by which every copy of it can be checked."""

import io

import jax
import numpy as np

from trn_jax.errors import UserError
from trn_jax.export.program import ANY

NAME = "golden.npz"
_CELLS = 4  # a frame is a board of so many coloured squares, which compresses to a few bytes
_STEPS = 4  # of a stream
_ROWS = 2  # where the batch may be any
# Of the scale of an output. Rounding to float16, with 11 bits, costs each layer 2^-12 of its scale
# on average, and the errors of layers add up: to 1e-3 in a TSM of ResNet-50.
BOUNDS = {"float32": 1e-4, "float16": 1e-2}


def inputs_of(program):
    """The golden inputs of a `Program`.

    Returns:
        A list with the inputs of every step, `{name: array}`; a single one but for streams, whose
        state is not in it.
    """
    frames = program.inputs[0]
    rows = _ROWS if program.batch == ANY else program.batch
    rng = np.random.default_rng(0)
    return [
        {frames.name: _blocks(rng, (rows, *frames.shape[1:]))}
        for _ in range(_STEPS if program.is_stream else 1)
    ]


def _blocks(rng, shape):
    """Frames of random coloured squares, uint8 `shape`, `[..., height, width, 3]`."""
    *rows, height, width, channels = shape
    colours = rng.integers(0, 256, (*rows, _CELLS, _CELLS, channels), np.uint8)
    down, across = (np.arange(side) * _CELLS // side for side in (height, width))
    return colours[..., down[:, None], across, :]


def run(program, steps, call):
    """Call a function for every step of golden inputs, and carry the state of a stream.

    Args:
        program: the `Program`.
        steps: of `inputs_of`.
        call: function of a list of arrays, in the order of `program.inputs`; returns the outputs.

    Returns:
        The first output of every step, `[steps, batch, ...]`.
    """
    rows = len(next(iter(steps[0].values())))
    state = [np.zeros((rows, *t.shape[1:]), t.dtype) for t in program.inputs[1:]]
    found = []
    for step in steps:
        output, *state = map(np.asarray, call([*step.values(), *state]))
        found.append(output)
    return np.stack(found)


def golden_of(program):
    """Golden inputs and outputs of a `Program`, computed by JAX with the highest precision.

    Returns:
        The content of `golden.npz`: `{name: array}` with the names of the input and of the first
        output; of a stream, with steps as the leading axis.
    """
    steps = inputs_of(program)
    step = jax.jit(program.call)
    with jax.default_matmul_precision("highest"):
        expected = run(program, steps, lambda inputs: step(*inputs))
    frames, output = program.inputs[0].name, program.outputs[0].name
    found = {frames: np.stack([each[frames] for each in steps]), output: expected}
    return found if program.is_stream else {name: value[0] for name, value in found.items()}


def to_bytes(golden):
    """The content of `golden.npz` as bytes; the same for the same arrays."""
    file = io.BytesIO()
    np.savez_compressed(file, **golden)
    return file.getvalue()


def agreement(program, golden, call, dtype):
    """Run a written model on its golden inputs.

    Args:
        program: the `Program` that it was written from.
        golden: see `golden_of`.
        call: the written model, see `run`.
        dtype: one of `BOUNDS`.

    Returns:
        The largest difference of the first output from the golden one, by its largest value.

    Raises:
        UserError: it is too large.
    """
    name, output = program.inputs[0].name, program.outputs[0].name
    frames, expected = golden[name], golden[output]
    if not program.is_stream:
        frames, expected = frames[None], expected[None]
    found = run(program, [{name: each} for each in frames], call)
    scale = float(np.abs(expected).max()) or 1.0
    largest = float(np.abs(found - expected).max()) / scale
    if not largest <= BOUNDS[dtype]:  # true for NaN
        raise UserError(
            f"the exported file gives other {output} than the model: {largest:.2g} of their scale "
            f"away on its golden input, more than {BOUNDS[dtype]:g}; no file was written. Please "
            "report this with the name of the model"
        )
    return largest
