"""The program of an exported model: its function, what goes in, and what comes out.

Forms:

- "clip": clips to logits;
- "features": clips to the features of their frames, before the head;
- "stream": a frame and the state of a stream to logits and the next state, see `streaming`. The
  arrays of the state are inputs `state.<name>` and outputs `next.<name>`, in the same order; a
  stream begins with zeros.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import Var

from trn_jax.checkpoints import arrays
from trn_jax.errors import UserError
from trn_jax.models.folding import fold_batch_norm
from trn_jax.models.streaming import streaming
from trn_jax.nn.conv3d import Conv3d
from trn_jax.nn.convolution import Conv
from trn_jax.nn.layers import Linear

FORMS = ("clip", "stream", "features")
DTYPES = ("float32", "float16")
ANY = "batch"  # the first dimension of all inputs and outputs, where the batch may be any


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or output.

    Attributes:
        name: of the array.
        shape: its dimensions; the first one is that of the batch, a number or `ANY`.
        dtype: its name, such as "uint8".
    """

    name: str
    shape: tuple
    dtype: str

    def struct(self, batch=None):
        """The same as a `jax.ShapeDtypeStruct`; `batch` replaces the first dimension."""
        first = self.shape[0] if batch is None else batch
        return jax.ShapeDtypeStruct((first, *self.shape[1:]), self.dtype)

    def to_dict(self):
        """The same as a dict that JSON can hold."""
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}

    def __str__(self):
        return f"{self.name} {self.dtype} [{', '.join(map(str, self.shape))}]"


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A model in one of `FORMS`.

    Attributes:
        form: one of `FORMS`.
        function: of the parameters and the inputs; returns a tuple of the outputs.
        parameters: `{name: array}`.
        inputs: the `Tensor`s that go in.
        outputs: the `Tensor`s that come out.
    """

    form: str
    function: Callable
    parameters: dict
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def batch(self):
        """Number of clips, or streams; `ANY`."""
        return self.inputs[0].shape[0]

    @property
    def is_stream(self):
        """Whether state goes in and comes out."""
        return self.form == "stream"

    def call(self, *inputs):
        """The function of the inputs alone."""
        return self.function(self.parameters, *inputs)

    def structs(self):
        """The inputs as `jax.ShapeDtypeStruct`s; `ANY` becomes a symbolic dimension."""
        if self.batch != ANY:
            return [tensor.struct() for tensor in self.inputs]
        (batch,) = jax.export.symbolic_shape(ANY)
        return [tensor.struct(batch) for tensor in self.inputs]


def for_inference(model, *, size, dtype="float32"):
    """The model with folded batch norms, and kernels that are stored in `dtype`.

    Args:
        model: a `Recognizer` that computes in `dtype`.
        size: height and width of its frames, in pixels.
        dtype: one of `DTYPES`.

    Raises:
        UserError: the model doesn't take frames of `size`.
    """
    model = fold_batch_norm(model, size=size)
    for _, part in nnx.iter_modules(model):
        if isinstance(part, Conv | Conv3d | Linear):
            for name in ("kernel", "bias")[: 1 + part.use_bias]:
                variable = getattr(part, name)
                setattr(part, name, type(variable)(variable[...].astype(dtype)))
    return model


def program_of(model, form, *, num_frames, size, batch=ANY):
    """The `Program` of a model.

    Args:
        model: a `Recognizer`.
        form: one of `FORMS`.
        num_frames: frames of a clip.
        size: height and width of the frames, in pixels.
        batch: number of clips, or of streams; `ANY`.

    Raises:
        UserError: the model has no such form, or doesn't take frames of that size or number.
    """
    if form not in FORMS:
        raise UserError(f"form={form!r} is not one of {', '.join(FORMS)}")
    if form != "features" and model.head is None:
        raise UserError(
            f"a model with num_classes=0 has no head, so it has no form={form!r}; export "
            "form='features'"
        )
    if form != "features" and getattr(model.head, "eval_relations", "") == "sample":
        raise UserError(
            "eval_relations='sample' draws at random, but an exported model draws nothing; use "
            "'expected' or 'first'"
        )
    if form == "stream":
        function, parameters, frames, state = _of_stream(model, size)
        inputs = [frames, *state]
        names = ["logits", *(f"next.{tensor.name.partition('.')[2]}" for tensor in state)]
    else:
        function, parameters = _of_clips(model, form)
        inputs = [Tensor("clips", (1, num_frames, size, size, 3), "uint8")]
        names = ["features" if form == "features" else "logits"]
    traced = jax.make_jaxpr(function)(parameters, *(tensor.struct() for tensor in inputs))
    outputs = [
        Tensor(name, aval.shape, aval.dtype.name)
        for name, aval in zip(names, traced.out_avals, strict=True)
    ]
    used = {v for each in traced.jaxpr.eqns for v in each.invars if isinstance(v, Var)}
    kept = {
        name: parameters[name]
        for name, variable in zip(sorted(parameters), traced.jaxpr.invars, strict=False)
        if variable in used  # an auxiliary classifier is not
    }
    return Program(form, function, kept, _with_batch(inputs, batch), _with_batch(outputs, batch))


def _with_batch(tensors, batch):
    return tuple(
        dataclasses.replace(tensor, shape=(batch, *tensor.shape[1:])) for tensor in tensors
    )


def _of_clips(model, form):
    graph, state = nnx.split(model)
    tree = nnx.as_pure(state)
    all_parameters = _on_host(tree)

    def run(parameters, clips):
        copy = nnx.merge(graph, arrays.filled(tree, all_parameters | parameters))
        return (copy.features(clips) if form == "features" else copy(clips),)

    return run, all_parameters


def _of_stream(model, size):
    """Function, parameters, and the `Tensor`s of the frames and of the state, of one stream."""
    stream = streaming(model)
    named = arrays.named(stream.init(1, size))
    structure = jax.tree.structure(stream.init(1, size))
    all_parameters = _on_host(stream.parameters)

    def run(parameters, frames, *state):
        tree = arrays.filled(stream.parameters, all_parameters | parameters)
        logits, following = stream.apply(tree, jax.tree.unflatten(structure, state), frames)
        return logits, *jax.tree.leaves(following)

    frames = Tensor("frames", (1, size, size, 3), "uint8")
    state = [
        Tensor(f"state.{name}", leaf.shape, jnp.dtype(leaf.dtype).name)
        for name, leaf in named.items()
    ]
    return run, all_parameters, frames, state


def _on_host(tree):
    return {name: np.asarray(leaf) for name, leaf in arrays.named(tree).items()}
