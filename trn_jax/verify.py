"""Verifies a converted checkpoint: compares its output with PyTorch's for the same clip."""

from dataclasses import dataclass

import jax
import numpy as np
from flax import nnx

from trn_jax import convert
from trn_jax.checkpoints import checkpoint
from trn_jax.distributed.sharding import make_mesh
from trn_jax.errors import UserError
from trn_jax.models import create_model
from trn_jax.torch_models import create_torch_model, torch  # its error if torch is missing

TOLERANCE = 1e-4  # of the largest logit; another order of float32 sums gives 1e-6
PIXELS = 224  # side of the frames
_CELLS = 7


@dataclass(frozen=True)
class Comparison:
    """Outputs of both models for the same clip.

    Attributes:
        what: "logit" or "feature".
        difference: the largest absolute difference.
        scale: the largest absolute value in PyTorch.
        reader: reader of the file for PyTorch, "torch.load" or "trn_jax".
        names: the names by which its tensors were assigned there.
    """

    what: str
    difference: float
    scale: float
    reader: str
    names: str

    def __str__(self):
        return (
            f"largest {self.what} difference {self.difference:.3g}, which is "
            f"{self.difference / self.scale if self.scale else 0.0:.3g} of the largest {self.what} "
            f"{self.scale:.3g} (PyTorch {torch.__version__}, file read by {self.reader}, placed by "
            f"{self.names})"
        )


def verify(directory, file, weights, rows, *, origins=None, backbone_only=False):
    """Compare a checkpoint with the file that it was converted from.

    The model is read back from disk and computes with the highest precision. PyTorch's model gets
    the weights by its own names where the file has them, otherwise by the conversion tables.

    Args:
        directory: the checkpoint.
        file: the file of weights; PyTorch reads it if it can without executing it.
        weights: its tensors, from `convert.read_torch_file` and `convert.selected`.
        rows: result of `convert.load_state_dict`.
        origins: `{name: name in the file}` for tensors that have another name there.
        backbone_only: compare the features of the last stage of the backbone, not logits.

    Returns:
        A `Comparison`.

    Raises:
        UserError: the outputs differ by more than `TOLERANCE` of the largest one, or the file does
            not fit the PyTorch model.
    """
    stored = checkpoint.open_checkpoint(directory)
    model = stored.load(mesh=make_mesh(jax.devices()[:1]), dtype="float32")
    options = stored.info["config"]["model"]
    torch_model = create_torch_model(**options)
    tensors, reader = read_tensors(file, weights, origins)
    names = load_torch_weights(torch_model, tensors, rows, options, backbone_only=backbone_only)

    clips = random_clip(options["num_segments"])
    with torch.inference_mode():
        torch_model.eval()
        expected = (torch_model.backbone_features if backbone_only else torch_model)(
            torch.from_numpy(clips)
        )
    graph, state = nnx.split(model)
    with jax.default_matmul_precision("highest"):
        compute = _features if backbone_only else _logits
        run = jax.jit(lambda state, clips: compute(nnx.merge(graph, state), clips))
        found = np.asarray(run(state, clips))
    difference = np.abs(found - expected.numpy()).max()
    what = "feature" if backbone_only else "logit"
    scale = float(expected.abs().max())
    comparison = Comparison(what, float(difference), scale, reader, names)
    if not difference <= TOLERANCE * scale:  # also for NaN
        raise UserError(
            f"the converted model of {file} differs from PyTorch's: {comparison}; rounding "
            f"explains at most {TOLERANCE:g}. No checkpoint was written. If --source and --model "
            "are right, please report this with the name of the file"
        )
    return comparison


def _logits(model, clips):
    return model(clips)


def _features(model, clips):
    """Features of the last stage, `[batch, time, height, width, channels]`."""
    x = model.normalise(clips)
    batch = len(x)
    if not model.backbone.sees_clips:
        x = x.reshape(-1, *x.shape[2:])
    x = model.backbone(x)[-1]
    return x.reshape(batch, -1, *x.shape[-3:])


def random_clip(num_segments):
    """A fixed clip `[1, num_segments, 224, 224, 3]` of coloured squares and noise."""
    rng = np.random.default_rng(0)
    squares = rng.integers(0, 192, (1, num_segments, _CELLS, _CELLS, 3), np.uint8)
    size = PIXELS // _CELLS
    noise = rng.integers(0, 64, (1, num_segments, PIXELS, PIXELS, 3), np.uint8)
    return squares.repeat(size, 2).repeat(size, 3) + noise


def read_tensors(file, weights, origins=None):
    """Read a file with PyTorch, or with our reader where PyTorch would execute it.

    Args:
        file: its path.
        weights: `{name: array}`, from our reader.
        origins: `{name: name in the file}` for tensors that have another name there.

    Returns:
        `{name: tensor}` for the same names, `convert.rearranged`, and the reader's name.
    """
    origins = dict.fromkeys(weights) | (origins or {})
    origins = {name: origin or name for name, origin in origins.items()}
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # the weights of our reader remain
        content = None
    for key in getattr(weights, "path", ()):
        content = content.get(key) if isinstance(content, dict) else None
    found = _mapping_with(content, set(origins.values()))
    reader = "trn_jax" if found is None else "torch.load"
    if found is not None:
        weights = {name: found[origins[name]].detach().double().numpy() for name in weights}
    # Through float64, which holds every dtype that weights come in and that PyTorch knows.
    arrays = convert.rearranged({n: np.asarray(w, np.float64) for n, w in weights.items()})
    return {name: torch.tensor(array) for name, array in arrays.items()}, reader


def _mapping_with(content, names, depth=5):
    """The mapping inside `content` that holds tensors of all these names."""
    if not isinstance(content, dict) or not depth:
        return None
    if all(isinstance(content.get(name), torch.Tensor) for name in names):
        return content
    inside = (_mapping_with(value, names, depth - 1) for value in content.values())
    return next((found for found in inside if found is not None), None)


def load_torch_weights(torch_model, tensors, rows, options, *, backbone_only=False):
    """Load the tensors of a file into a PyTorch model.

    Args:
        torch_model: of `create_torch_model`; changed in place.
        tensors: `{name in the file: tensor}`.
        rows: result of `convert.load_state_dict`.
        options: arguments of `create_model` for our model.
        backbone_only: keep the neck and the head of the model.

    Returns:
        The names by which the tensors were assigned, "its own names" or "our tables".

    Raises:
        UserError: a tensor of the model is missing in the file, or has another shape there.
    """
    wanted = torch_model.state_dict()
    taken = {convert.unwrapped(name): name for name, _, _ in rows}
    places = {name for name in wanted if not name.endswith("num_batches_tracked")}
    if backbone_only:
        places = {name for name in places if name.startswith(("backbone.", "base_model."))}
    if taken.keys() == places:
        names = "its own names"
    else:
        names = "our tables"
        # Only the names matter here: the numbers that norms add are not those of the file.
        plain = options | dict(norm_epsilon=None)
        model = nnx.eval_shape(lambda: create_model(**plain))
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
            "Convert it without --verify if these differences are intended"
        )
    torch_model.load_state_dict(wanted, strict=True)
    return names
