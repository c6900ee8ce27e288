"""Weights and inputs that two programs can agree on without exchanging files.

Every tensor of a model is drawn from a random stream seeded by the tensor's
*name*, so any program that knows a model's manifest (names and shapes) and one
integer seed can rebuild exactly the same parameters with NumPy alone.  The
order of the manifest does not matter, and neither does the framework.

Shapes follow the PyTorch convention: linear weights are ``(out, in)``,
convolution kernels ``(out, in / groups, *spatial)``.
"""

import hashlib
import math

import numpy as np

__all__ = ["deterministic_state_dict", "deterministic_clip", "self_check"]

# Scale factors of the individual rules, in one place.
_BIAS_STD = 0.05
_RUNNING_MEAN_STD = 0.1
_RUNNING_VAR_RANGE = (0.5, 1.5)
_POSITION_BIAS_STD = 0.5


def _generator(seed, name):
    """A PCG64 generator that depends on ``seed`` and ``name`` only."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def _is_integer(dtype):
    return dtype.startswith(("int", "uint", "bool"))


def _draw(name, shape, seed, norm_weight):
    rng = _generator(seed, name)
    leaf = name.rpartition(".")[2]
    if leaf == "running_mean":
        return rng.standard_normal(shape) * _RUNNING_MEAN_STD
    if leaf == "running_var":
        return rng.uniform(*_RUNNING_VAR_RANGE, size=shape)
    if leaf == "relative_position_bias_table":
        return rng.standard_normal(shape) * _POSITION_BIAS_STD
    if len(shape) >= 2:
        fan_in = math.prod(shape[1:])
        return rng.standard_normal(shape) * math.sqrt(2.0 / fan_in)
    if leaf == "weight":  # the scale of a normalisation layer
        return rng.uniform(*norm_weight, size=shape)
    if leaf == "bias":
        return rng.standard_normal(shape) * _BIAS_STD
    raise ValueError(f"no rule for tensor {name!r} of shape {tuple(shape)}")


def deterministic_state_dict(manifest, seed, *, norm_weight=(0.4, 0.8), gains=None):
    """Draw a full state dict as ``{name: float32 array}``.

    Args:
        manifest: iterable of ``(name, shape, dtype)``; dtype is a string such
            as ``"float32"`` or ``"int64"``.
        seed: integer shared by all tensors of one model.
        norm_weight: range of the uniform distribution of the scales of
            normalisation layers (one-dimensional ``weight`` tensors).  Each
            test case records the range that keeps its network well scaled.
        gains: optional ``{name: factor}``; the named tensors are multiplied
            by the factor after being drawn.

    ``num_batches_tracked`` counters come back as zero.  Other integer buffers
    (index tables and the like) describe the architecture rather than learned
    state, so they are left out for the model to fill in itself.
    """
    gains = dict(gains or {})
    state = {}
    for name, shape, dtype in manifest:
        shape = tuple(int(size) for size in shape)
        if _is_integer(dtype):
            if name.endswith("num_batches_tracked"):
                state[name] = np.zeros(shape, dtype)
            continue
        value = _draw(name, shape, seed, norm_weight) * gains.pop(name, 1.0)
        state[name] = np.asarray(value, dtype=np.float32)
    if gains:
        raise ValueError(f"gains for tensors not in the manifest: {sorted(gains)}")
    return state


def _upsample(grid, size, axis):
    """Integer linear interpolation along ``axis`` to ``size`` samples."""
    cells = grid.shape[axis] - 1
    position = np.arange(size) * (cells * 256) // max(size - 1, 1)
    lower = np.minimum(position >> 8, cells - 1)
    fraction = position - (lower << 8)
    bcast = [1] * grid.ndim
    bcast[axis] = size
    fraction = fraction.reshape(bcast)
    left, right = grid.take(lower, axis), grid.take(lower + 1, axis)
    return (left * (256 - fraction) + right * fraction) >> 8


def deterministic_clip(shape, seed, *, grid=5):
    """Draw uint8 frames of ``shape = (..., height, width, channels)``.

    Each frame is an independent blend of a flat colour, a low-frequency
    pattern and some pixel noise, so frames differ from each other in average
    colour, in layout and in detail.  Only integer arithmetic is used: the
    pixels are the same on every platform.
    """
    *lead, height, width, channels = (int(size) for size in shape)
    frames = math.prod(lead)
    rng = _generator(seed, "clip")

    def random_bytes(*dims):
        count = math.prod(dims)
        return np.frombuffer(rng.bytes(count), np.uint8).reshape(dims).astype(np.int32)

    colour = random_bytes(frames, 1, 1, channels)
    pattern = random_bytes(frames, grid, grid, channels)
    noise = random_bytes(frames, height, width, channels)
    pattern = _upsample(_upsample(pattern, height, 1), width, 2)
    pixels = (3 * colour + 4 * pattern + noise) >> 3
    return pixels.astype(np.uint8).reshape(shape)


def self_check():
    """Raise if this NumPy draws other numbers than the recorded ones."""
    drawn = deterministic_state_dict(
        [
            ("probe.weight", (2, 3), "float32"),
            ("probe.norm.weight", (3,), "float32"),
            ("probe.norm.bias", (3,), "float32"),
        ],
        seed=0,
    )
    for name, expected in _PROBE.items():
        if not np.allclose(drawn[name].ravel(), expected, rtol=1e-6, atol=0):
            raise RuntimeError(f"NumPy {np.__version__} draws {name} differently")
    clip = deterministic_clip((2, 9, 7, 3), seed=0)
    if hashlib.blake2b(clip.tobytes(), digest_size=8).hexdigest() != _PROBE_CLIP:
        raise RuntimeError(f"NumPy {np.__version__} draws clips differently")


_PROBE = {
    "probe.weight": [
        -0.803891718,
        0.952109277,
        -0.145419851,
        0.362057358,
        0.380909264,
        -0.0875446573,
    ],
    "probe.norm.weight": [0.519126236, 0.617082357, 0.529876947],
    "probe.norm.bias": [-0.0766286105, 0.0463793762, 0.0243903827],
}
_PROBE_CLIP = "795ff0fc9a33037d"
