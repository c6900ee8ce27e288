"""Verify a converted checkpoint: the same clip through it and through PyTorch."""

import re
from dataclasses import dataclass

import jax
import numpy as np
from flax import nnx

from trn_jax import checkpoint, convert
from trn_jax.devices import make_mesh
from trn_jax.errors import UserError
from trn_jax.models import create_model
from trn_jax.twins import (
    create_twin,
    torch,
)  # by this way, for its message where PyTorch is missing

TOLERANCE = 1e-4  # of the largest logit; float32 in another order of sums gives 1e-6
PIXELS = 224  # side of the frames: what the networks were made for
_CELLS = 7


@dataclass(frozen=True)
class Comparison:
    """What came of the same clip on both sides.

    Attributes:
        difference: the largest difference between two logits.
        scale: the largest logit of PyTorch, without its sign.
        reader: who read the file for PyTorch.
        names: by which names its tensors found their places there.
    """

    difference: float
    scale: float
    reader: str
    names: str

    def __str__(self):
        return (
            f"largest logit difference {self.difference:.3g}, which is "
            f"{self.difference / self.scale if self.scale else 0.0:.3g} of the largest logit "
            f"{self.scale:.3g} (PyTorch {torch.__version__}, file read by {self.reader}, placed by "
            f"{self.names})"
        )


def verify(directory, file, weights, rows):
    """Compare a checkpoint with the file that it was made of.

    The model is read back from the disk and computes with the highest precision. PyTorch gets the
    weights without a detour over our layout: by its own names where the file has them, otherwise
    by the tables that the conversion used.

    Args:
        directory: the checkpoint.
        file: the file of weights; read by PyTorch if that can be done without executing it.
        weights: what `convert.read_torch_file` found in it.
        rows: what `convert.load_state_dict` took from it.

    Returns:
        A `Comparison`.

    Raises:
        UserError: the logits differ by more than `TOLERANCE` of the largest one, or the file does
            not fit the PyTorch model.
    """
    model, about = checkpoint.load_model(
        directory, mesh=make_mesh(jax.devices()[:1]), dtype="float32"
    )
    options = about["config"]["model"]
    twin = create_twin(**options)
    tensors, reader = read_tensors(file, weights)
    names = load_weights(twin, tensors, rows, options)

    clips = random_clip(options["num_segments"])
    with torch.inference_mode():
        expected = twin.eval()(torch.from_numpy(clips)).numpy()
    graph, state = nnx.split(model)
    with jax.default_matmul_precision("highest"):
        run = jax.jit(lambda state, clips: nnx.merge(graph, state)(clips))
        found = np.asarray(run(state, clips))
    difference, scale = np.abs(found - expected).max(), np.abs(expected).max()
    comparison = Comparison(float(difference), float(scale), reader, names)
    if not difference <= TOLERANCE * scale:  # so that NaN fails, too
        raise UserError(
            f"{file} was converted, but the result does not compute what PyTorch does: "
            f"{comparison}; at most {TOLERANCE:g} is rounding. No checkpoint was left. If the "
            "weights are finite and --source and --model are what you mean, this is a defect of "
            "trn_jax: please report it with the name of the file"
        )
    return comparison


def random_clip(num_segments):
    """A clip `[1, num_segments, 224, 224, 3]` of coloured squares and noise, always the same."""
    rng = np.random.default_rng(0)
    squares = rng.integers(0, 192, (1, num_segments, _CELLS, _CELLS, 3), np.uint8)
    size = PIXELS // _CELLS
    noise = rng.integers(0, 64, (1, num_segments, PIXELS, PIXELS, 3), np.uint8)
    return squares.repeat(size, 2).repeat(size, 3) + noise


def read_tensors(file, weights):
    """Read a file with PyTorch if that works without executing it.

    Args:
        file: its path.
        weights: `{name: array}`, what our own reader found in it.

    Returns:
        `{name: tensor}` for the same names, and who read them.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # whatever PyTorch refuses or does not know, our reader has read already
        content = None
    found = _mapping_with(content, set(weights))
    if found is not None:
        return {name: found[name] for name in weights}, "torch.load"
    # Through float64, which holds every dtype that weights come in and that PyTorch knows.
    tensors = {name: torch.tensor(np.asarray(w, np.float64)) for name, w in weights.items()}
    return tensors, "trn_jax"


def _mapping_with(content, names, depth=5):
    """The mapping inside `content` that holds tensors of all these names."""
    if not isinstance(content, dict) or not depth:
        return None
    if all(isinstance(content.get(name), torch.Tensor) for name in names):
        return content
    inside = (_mapping_with(value, names, depth - 1) for value in content.values())
    return next((found for found in inside if found is not None), None)


def load_weights(twin, tensors, rows, options):
    """Put the tensors of a file into a twin.

    Args:
        twin: a model of `create_twin`; changed in place.
        tensors: `{name in the file: tensor}`.
        rows: the `(name in the file, our path, shape)` of all tensors that are of use.
        options: arguments of `create_model` that give our model.

    Returns:
        By which names the tensors found their places.

    Raises:
        UserError: a tensor of the twin is missing in the file, or has another shape there.
    """
    wanted = twin.state_dict()
    taken = {_plain(name): name for name, _, _ in rows}
    places = {name for name in wanted if not name.endswith("num_batches_tracked")}
    if taken.keys() == places:
        names = "its own names"
    else:
        names = "our tables"
        model = nnx.eval_shape(lambda: create_model(**options))
        values = {name: tensor.numpy() for name, tensor in wanted.items()}
        ours = {path: name for name, path, _ in convert.load_state_dict(model, values)}
        taken = {ours[path]: name for name, path, _ in rows}
    problems = [f"{name} is missing" for name in places - taken.keys()]
    for name, foreign in taken.items():
        tensor, shape = tensors[foreign], wanted[name].shape
        # Linear layers may be 1x1 convolutions in the file, and vectors may be rows.
        if tensor.squeeze().shape == wanted[name].squeeze().shape:
            wanted[name] = tensor.reshape(shape)
        else:
            problems.append(f"{foreign} has shape {tuple(tensor.shape)}, not {tuple(shape)}")
    if problems:
        listed = "\n  ".join(sorted(problems))
        raise UserError(
            f"the file does not fit the PyTorch model, {len(problems)} problems:\n  {listed}\n"
            "Convert it without --verify if these differences are meant"
        )
    twin.load_state_dict(wanted, strict=True)
    return names


def _plain(name):
    return re.sub(r"^(module\.)+", "", name)
