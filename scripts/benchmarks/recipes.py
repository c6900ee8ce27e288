"""Training steps of recipes on one device, in JAX and in PyTorch, each recipe in its own process.

A new process has all of the device memory, and its peak is that of one recipe. JAX preallocates its
fraction of GPU memory: allocation on demand takes up to twice as much and frees nothing, so PyTorch
could run out.
"""

import contextlib
import copy
import multiprocessing
import traceback
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from benchmarks import machine
from benchmarks.bandwidth import measure_bandwidth
from benchmarks.measurement import OURS, Measurement
from benchmarks.torch_step import TorchStepper
from benchmarks.training import Stepper
from benchmarks.turns import Side, measure
from trn_jax import checks, create_model
from trn_jax import config as configuration
from trn_jax.distributed.sharding import batch_sharding, make_mesh
from trn_jax.errors import UserError, first_line
from trn_jax.models import cost
from trn_jax.planning.hlo_cost import DoesNotFit
from trn_jax.settings import resolved_views
from trn_jax.training import train_step

RECIPES = ("trn_sthv1", "tsm_k400", "tin_sthv1", "tpn_slowonly_k400", "tsn_swin_k400_8seg")
PYTORCH = {"eager": "PyTorch", "compiled": "PyTorch, compiled"}
_MEMORY_SETTINGS = ("MEM_FRACTION", "PREALLOCATE", "ALLOCATOR")  # set by the user: kept


def load(name: str) -> ConfigDict:
    """The configuration of a recipe.

    Raises:
        UserError: there is no such recipe.
    """
    try:
        return configuration.recipe(name).get_config()
    except UserError as error:
        raise UserError(f"--recipes: {error}") from None


def adapt(
    config: ConfigDict, *, batch: int | None, frames: int | None, pixels: int | None, dtype: str
) -> ConfigDict:
    """A copy of a recipe with another batch or clip size; `None` keeps the published one.

    Raises:
        UserError: the batch is no multiple of the groups or parts of the recipe, or that doesn't
            set the number of classes.
    """
    checks.check_num_classes(config)
    config = copy.deepcopy(config)
    config.model.dtype = dtype
    config.train.batch = batch or config.train.batch
    config.model.num_segments = frames or config.model.num_segments
    config.size = pixels or config.size
    if frames:  # also where the recipe sets it
        config.data.train.num_segments = frames
    if pixels:
        config.data.train.crop_size = pixels
    # A batch smaller than the published one of a GPU is one group.
    config.model.norm_group = min(config.model.norm_group, config.train.batch)
    # A tiny learning rate, or random labels would make the loss diverge.
    config.optim.update(lr=1e-6, schedule="constant", warmup_epochs=0.0)
    checks.check_batch(config, 1)
    return config


def share_memory(environment: MutableMapping[str, str], *, with_pytorch: bool) -> None:
    """Set the fraction of GPU memory for JAX in processes that start later, unless it is set.

    Args:
        environment: changed in place.
        with_pytorch: leave half to PyTorch.
    """
    names = ("CLIENT_MEM_FRACTION", *(f"PYTHON_CLIENT_{name}" for name in _MEMORY_SETTINGS))
    if not any(f"XLA_{name}" in environment for name in names):
        environment["XLA_CLIENT_MEM_FRACTION"] = "0.5" if with_pytorch else "0.9"


def compare(
    configs: Mapping[str, ConfigDict], *, halve: bool, **options: Any
) -> Iterator[tuple[str, Measurement | UserError]]:
    """Measure recipes one after the other; an error in one doesn't stop the others.

    Args:
        configs: `{name: recipe}`.
        halve: halve batches that don't fit into memory.
        **options: of `measure_recipe`.

    Yields:
        Names, each with its `Measurement` or an error.
    """
    for name, config in configs.items():
        found: Measurement | UserError | None = None
        while found is None:
            try:
                found = in_new_process(config, **options)
            except DoesNotFit as error:
                smaller = config.train.batch // 2
                while smaller and smaller > error.largest:
                    smaller //= 2
                if not halve or smaller < 1 or smaller % max(config.model.norm_group, 1):
                    found = error
                    continue
                print(f"{name}: {error}; trying {smaller}", flush=True)
                config = copy.deepcopy(config)
                config.train.batch = smaller
            except UserError as error:
                found = error
            except Exception as error:  # of one recipe; hours of others may precede or follow
                traceback.print_exception(error)
                found = UserError(f"{type(error).__name__}: {first_line(error)}")
        yield name, found


def in_new_process(config: ConfigDict, **options: Any) -> Measurement:
    """`measure_recipe` in a new process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(measure_recipe, config, **options).result()
        except BrokenProcessPool:
            raise UserError(
                f"the process with a batch of {config.train.batch} was killed; if the machine ran "
                "out of memory, use a smaller --batch"
            ) from None


def measure_recipe(
    config: ConfigDict, *, rounds: int, steps: int | None, threads: int, pytorch: Sequence[str]
) -> Measurement:
    """Measure the training steps of a recipe on the first device, with clips of noise.

    Args:
        config: see `trn_jax.config.base`.
        rounds: turns of each side.
        steps: per turn; by default 10 on an accelerator, 1 on a CPU.
        threads: of PyTorch.
        pytorch: keys of `PYTORCH` to compare with.

    Raises:
        DoesNotFit: the batch is too large for the device.
        UserError: the model can't take such clips.
    """
    device = jax.devices()[0]
    steps = steps or (1 if device.platform == "cpu" else 10)
    view = resolved_views(config)["data.train"]
    shape = config.train.batch, view.num_segments, view.crop_size, view.crop_size
    model = nnx.eval_shape(lambda: create_model(**config.model, rngs=nnx.Rngs(0)))
    activations = cost.measure(model, 1, *shape[1:], 3).activations
    bandwidth = measure_bandwidth(device)
    clips, labels = _noise(config, shape)
    try:
        sides, memory, left_out = _warmed_up(
            config, clips, labels, device, steps=steps, threads=threads, pytorch=pytorch
        )
        turns = measure(sides, rounds=rounds, steps=steps)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise DoesNotFit(
            f"a batch of {len(clips)} does not fit into the memory of {device.device_kind}"
        ) from None
    return Measurement(
        model=config.model.name,
        shape=shape,
        dtype=config.model.dtype,
        device=device.device_kind,
        versions=machine.describe(),
        activations=activations,
        bandwidth=bandwidth,
        turns=turns,
        memory=memory,
        left_out=left_out,
    )


def _warmed_up(
    config: ConfigDict,
    clips: np.ndarray,
    labels: np.ndarray,
    device: jax.Device,
    *,
    steps: int,
    threads: int,
    pytorch: Sequence[str],
) -> tuple[list[Side], dict[str, int], list[str]]:
    """The sides to compare after some steps each, their peak bytes, and what is left out and why.

    For the arguments, see `measure_recipe`.
    """
    sides: list[Side] = []
    memory: dict[str, int] = {}
    left_out: list[str] = []

    def add(
        name: str,
        run: Callable[[int], Any],
        peak: Callable[[], int | None],
        reset_peak: Callable[[], None] | None = None,
    ) -> None:
        run(steps)  # autotuning and allocations
        if reset_peak is not None:  # autotuning takes more memory than steps
            reset_peak()
            run(steps)
        sides.append(Side(name, len(clips), run))
        if (peak_bytes := peak()) is not None:
            memory[name] = peak_bytes

    theirs: TorchStepper | None = None
    if pytorch:
        with _or_left_out("PyTorch", left_out):
            theirs = torch_stepper(config, clips, labels, device, threads)
    run, planned = jax_stepper(config, clips, labels, device, theirs)
    add(OURS, run, lambda: (device.memory_stats() or {}).get("peak_bytes_in_use", planned))
    for mode, side in PYTORCH.items():
        if theirs is not None and mode in pytorch:
            with _or_left_out(side, left_out):
                run = theirs.compiled() if mode == "compiled" else theirs
                add(side, run, theirs.peak, theirs.reset_peak)
    return sides, memory, left_out


def _noise(config: ConfigDict, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Random clips `[*shape, 3]` and their labels."""
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (*shape, 3), np.uint8)
    labels: np.ndarray = rng.integers(0, config.model.num_classes, len(clips), np.int32)
    if config.data.multi_label:
        labels = np.eye(config.model.num_classes, dtype=np.float32)[labels]
    return clips, labels


def jax_stepper(
    config: ConfigDict,
    clips: np.ndarray,
    labels: np.ndarray,
    device: jax.Device,
    theirs: TorchStepper | None,
) -> tuple[Callable[[int], Any], int]:
    """Training steps in JAX from the weights of PyTorch, and the bytes that the compiler plans.

    Raises:
        DoesNotFit: the compiler plans more than there is; all but the state grows with the batch,
            which gives an estimate of the largest one.
    """
    mesh = make_mesh([device])
    loss = partial(
        train_step.classification_loss,
        weight=config.train.loss_weight,
        label_smoothing=config.train.label_smoothing,
    )
    stepper = Stepper(config, mesh, len(clips), loss)
    if theirs is not None:
        stepper.load(theirs.weights())
    batch = jax.device_put({"clip": clips, "label": labels}, batch_sharding(mesh))
    planned = stepper.compile(batch)
    if (limit := memory_limit(device)) is not None and planned > limit:
        state = sum(leaf.nbytes for leaf in jax.tree.leaves(stepper.state))
        raise DoesNotFit(
            f"a batch of {len(clips)} needs {planned / 2**30:.1f} of {limit / 2**30:.1f} GiB",
            len(clips) * (limit - state) / (planned - state),
        )
    return lambda steps: stepper([batch] * steps), planned


def memory_limit(device: jax.Device) -> int | None:
    """Bytes of a device that JAX may use, if known."""
    return (device.memory_stats() or {}).get("bytes_limit")


def torch_stepper(
    config: ConfigDict, clips: np.ndarray, labels: np.ndarray, device: jax.Device, threads: int
) -> TorchStepper:
    """Training steps in PyTorch on the same device.

    Raises:
        UserError: PyTorch is not installed, or not for this device.
    """
    from trn_jax.torch_models import torch

    torch.set_num_threads(threads)
    kinds = {"cpu": "cpu", "gpu": "cuda"}
    if device.platform not in kinds:
        raise UserError(f"no comparison on {device.device_kind}")
    if device.platform == "gpu" and not torch.cuda.is_available():
        raise UserError(f"PyTorch {torch.__version__} finds no GPU; install it for CUDA")
    return TorchStepper(config, clips, labels, device=kinds[device.platform])


@contextlib.contextmanager
def _or_left_out(side: str, left_out: list[str]) -> Iterator[None]:
    """Record errors of PyTorch and its compilers, so that JAX is measured anyway."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        left_out.append(f"{side} is left out: {first_line(error)}")


def is_out_of_memory(error: Exception) -> bool:
    """Whether JAX, PyTorch or a library of CUDA ran out of memory."""
    text = str(error).lower()
    # The last one is of cuDNN and cuBLAS.
    return any(part in text for part in ("resource_exhausted", "out of memory", "_alloc_failed"))
