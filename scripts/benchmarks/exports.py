"""An exported model in onnxruntime, against PyTorch's own export and against JAX."""

import logging
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.turns import Side
from trn_jax import convert, create_model
from trn_jax.errors import UserError
from trn_jax.export.onnx import to_onnx

_NUM_CLASSES = 174
EXPORT, ONE_CLIP = "export, any batch", "export, one clip"
PYTORCH, JAX = "PyTorch's", "jitted"
GOAL = 1.05
MODELS = ("tsm_resnet50", "trn_resnet50")
_TOLERANCE = 1e-4  # of the logits' scale


def export_sides(name: str, *, frames: int, pixels: int, threads: int) -> list[Side]:
    """One clip of noise through a model in onnxruntime and in JAX.

    Args:
        name: of the model.
        frames: of a clip.
        pixels: side of a frame.
        threads: of onnxruntime.

    Returns:
        Our export for any batch and for one clip, PyTorch's of the same weights (where PyTorch can
        export), and the jitted model.

    Raises:
        UserError: onnxruntime is not installed, or the sides disagree.
    """
    options = dict(num_classes=_NUM_CLASSES, num_segments=frames)
    model = nnx.jit(lambda: create_model(name, **options))()
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (1, frames, pixels, pixels, 3), np.uint8)
    contents = {}
    try:
        contents[PYTORCH] = _pytorch_export(name, options, model, clip)
    except UserError as problem:
        print(f"without PyTorch's export: {problem}", flush=True)
    (batch,) = jax.export.symbolic_shape("batch")
    for side, size in ((EXPORT, batch), (ONE_CLIP, 1)):
        given = jax.ShapeDtypeStruct((size, *clip.shape[1:]), clip.dtype)
        names = dict(input_names=["clips"], output_names=["logits"])
        contents[side] = to_onnx(lambda x: model(x), [given], **names).SerializeToString()
    runs: dict[str, Callable[[], np.ndarray]] = {
        side: _runner(contents[side], clip, threads)
        for side in (EXPORT, ONE_CLIP, PYTORCH)
        if side in contents
    }
    graph, state = nnx.split(model)
    score = jax.jit(lambda state, clips: nnx.merge(graph, state)(clips))
    on_device = jnp.asarray(clip)
    runs[JAX] = lambda: np.asarray(score(state, on_device))
    _check(runs)
    return [Side(side, 1, _repeated(run)) for side, run in runs.items()]


def goals(sides: list[Side]) -> dict[tuple[str, str], float | None]:
    """Pairs of sides and goals for the ratio of CPU time."""
    pairs: dict[tuple[str, str], float | None] = {}
    if any(side.name == PYTORCH for side in sides):
        pairs = {(EXPORT, PYTORCH): GOAL, (ONE_CLIP, PYTORCH): GOAL}
    return pairs | {(EXPORT, JAX): None, (ONE_CLIP, JAX): None}


def _repeated(run: Callable[[], np.ndarray]) -> Callable[[int], np.ndarray]:
    def steps(count: int) -> np.ndarray:
        for _ in range(count):
            logits = run()
        return logits

    return steps


def _runner(content: bytes, clip: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
    try:
        import onnxruntime
    except ImportError:
        raise UserError("--what=export needs onnxruntime: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(content, options, providers=providers)
    (given,) = session.get_inputs()
    return lambda: session.run(None, {given.name: clip})[0]


def _pytorch_export(name: str, options: dict[str, Any], model: nnx.Module, clip: Any) -> bytes:
    """PyTorch's export of its model; its weights are copied to `model`.

    Raises:
        UserError: PyTorch is not installed, or lacks what it exports with.
    """
    from trn_jax.torch_models import create_torch_model, torch

    theirs = create_torch_model(name, **options).eval()
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    convert.load_state_dict(model, state, backbone_only=False, reset_temporal_op=None)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            example = (torch.from_numpy(clip),)
            program = torch.onnx.export(theirs, example, dynamo=True, verbose=False)
    except ImportError as problem:
        raise UserError(f"{problem}: pip install onnx onnxscript") from None
    return program.model_proto.SerializeToString()


def _check(runs: dict[str, Callable[[], np.ndarray]]) -> None:
    """Check that all sides compute the same."""
    found = {side: run() for side, run in runs.items()}
    expected = found[JAX]
    for side, logits in found.items():
        apart = np.abs(logits - expected).max() / np.abs(expected).max()
        if not apart <= _TOLERANCE:
            raise UserError(
                f"{side} differs from {JAX} by {apart:.2g} of the logits' scale; expected at most "
                f"{_TOLERANCE}"
            )
