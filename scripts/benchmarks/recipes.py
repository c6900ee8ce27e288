"""Training steps of recipes on one device, in JAX and in PyTorch, each recipe in its own process.

A process of its own gives a recipe all of the device's memory, and its peak is that recipe's. JAX
takes its part of a GPU's memory at once: where it takes as much as it needs, it asks for up to
twice of that, and what it has it keeps, so that PyTorch may go without.
"""

import contextlib
import copy
import dataclasses
import multiprocessing
import statistics
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
from benchmarks.training import Stepper
from benchmarks.turns import Side, Turn, measure, spread
from benchmarks.twin_step import TwinStepper
from trn_jax import checks, create_model
from trn_jax import config as configuration
from trn_jax.distributed.sharding import batch_sharding, make_mesh
from trn_jax.errors import UserError, first_line
from trn_jax.models import cost
from trn_jax.planning.hlo_cost import DoesNotFit
from trn_jax.settings import resolved_views
from trn_jax.training import train_step

RECIPES = ("trn_sthv1", "tsm_k400", "tin_sthv1", "tpn_slowonly_k400", "tsn_swin_k400_8seg")
OURS = "JAX"
TWINS = {"eager": "PyTorch", "compiled": "PyTorch, compiled"}
# Clips per second that are wanted on one H200, of 8 frames of 224 pixels in bfloat16.
GOALS = {"trn_resnet50": 450, "tsm_resnet50": 450}

# How often a training step reads or writes each activation if nothing is fused: a convolution,
# the statistics of its batch norm, that norm and ReLU, and all of them backwards. In bfloat16 that
# is 28 bytes per activation.
_ACCESSES = 14
_BYTES = {"bfloat16": 2, "float32": 4}
_OF_MEMORY = ("MEM_FRACTION", "PREALLOCATE", "ALLOCATOR")  # settings of people that stay


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A recipe's training steps, as they were measured.

    Attributes:
        model: its name.
        shape: batch, frames, height and width.
        dtype: of the computation.
        device: its kind.
        versions: of what decides about speed.
        activations: of one clip, see `trn_jax.models.cost`.
        bandwidth: of the device's memory, bytes per second, measured.
        turns: of each side.
        memory: bytes that each side took at most, where that is known.
        left_out: why a side is missing, one line each.
    """

    model: str
    shape: tuple[int, int, int, int]
    dtype: str
    device: str
    versions: str
    activations: int
    bandwidth: float
    turns: dict[str, list[Turn]]
    memory: dict[str, int]
    left_out: list[str]

    def rates(self, side: str) -> list[float]:
        """Clips per second, turn by turn."""
        return [1 / turn.wall for turn in self.turns[side]]

    def ratios(self, side: str) -> list[float]:
        """Our clips per second in units of those of another side, round by round."""
        pairs = zip(self.rates(OURS), self.rates(side), strict=True)
        return [own / other for own, other in pairs]

    def share(self, side: str) -> float:
        """Share of the memory bandwidth, if every activation moves as in the unfused model."""
        moved = self.activations * _ACCESSES * _BYTES[self.dtype]
        return moved * statistics.median(self.rates(side)) / self.bandwidth

    @property
    def goal(self) -> int | None:
        """Clips per second that are wanted of us, if anything is."""
        wanted = "H200" in self.device and self.shape[1:] == (8, 224, 224)
        return GOALS.get(self.model) if wanted and self.dtype == "bfloat16" else None

    def record(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        sides = {
            name: {
                "clips_per_second": self.rates(name),
                "peak_bytes": self.memory.get(name),
                "bandwidth_share": self.share(name),
            }
            for name in self.turns
        }
        told = dataclasses.asdict(self)
        return {key: told[key] for key in told if key not in ("turns", "memory")} | {"sides": sides}


def load(name: str) -> ConfigDict:
    """The recipe `configs/<name>.py`.

    Raises:
        UserError: there is none of that name.
    """
    try:
        return configuration.recipe(name).get_config()
    except UserError as error:
        raise UserError(f"--recipes: {error}") from None


def adapt(
    config: ConfigDict, *, batch: int | None, frames: int | None, pixels: int | None, dtype: str
) -> ConfigDict:
    """The recipe for clips of another number or size; `None` leaves them as published.

    Raises:
        UserError: the batch cannot be cut as the recipe says.
    """
    config = copy.deepcopy(config)
    config.model.dtype = dtype
    config.train.batch = batch or config.train.batch
    config.model.num_segments = frames or config.model.num_segments
    config.size = pixels or config.size
    # A batch below the published one of a GPU is a group of its own.
    config.model.norm_group = min(config.model.norm_group, config.train.batch)
    # The rate does not matter for speed, as long as random labels lead nowhere.
    config.optim.update(lr=1e-6, schedule="constant", warmup_epochs=0.0)
    checks.check_batch(config, 1)
    return config


def share_memory(environment: MutableMapping[str, str], *, with_pytorch: bool) -> None:
    """Set how much of a GPU's memory JAX takes in processes that start later, unless it is set.

    Args:
        environment: where to set it.
        with_pytorch: leave PyTorch half of it.
    """
    names = ("CLIENT_MEM_FRACTION", *(f"PYTHON_CLIENT_{name}" for name in _OF_MEMORY))
    if not any(f"XLA_{name}" in environment for name in names):
        environment["XLA_CLIENT_MEM_FRACTION"] = "0.5" if with_pytorch else "0.9"


def compare(
    configs: Mapping[str, ConfigDict], *, halve: bool, **options: Any
) -> Iterator[tuple[str, Measurement | UserError]]:
    """Measure recipes one after the other, and go on where one of them cannot be.

    Args:
        configs: `{name: recipe}`.
        halve: a batch that does not fit into the memory.
        **options: of `measure_recipe`.

    Yields:
        Names, with what was measured, or why nothing was.
    """
    for name, config in configs.items():
        found: Measurement | UserError | None = None
        while found is None:
            try:
                found = _in_own_process(config, **options)
            except DoesNotFit as error:
                smaller = config.train.batch // 2
                while smaller and smaller > error.largest:
                    smaller //= 2
                if not halve or smaller < 1 or smaller % max(config.model.norm_group, 1):
                    found = error
                    continue
                print(f"{name}: {error}; so {smaller} instead", flush=True)
                config = copy.deepcopy(config)
                config.train.batch = smaller
            except UserError as error:
                found = error
            except Exception as error:  # of one recipe or another, which hours may have gone before
                traceback.print_exception(error)
                found = UserError(f"{type(error).__name__}: {first_line(error)}")
        yield name, found


def _in_own_process(config: ConfigDict, **options: Any) -> Measurement:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(measure_recipe, config, **options).result()
        except BrokenProcessPool:
            raise UserError(
                f"the process that trained with a batch of {config.train.batch} was killed, as it "
                "is by the system when the machine has no more memory; take a smaller --batch"
            ) from None


def measure_recipe(
    config: ConfigDict, *, rounds: int, steps: int | None, threads: int, twins: Sequence[str]
) -> Measurement:
    """Measure the training steps of a recipe, on clips of noise that are on the first device.

    Args:
        config: see `trn_jax.config.base`.
        rounds: turns of each side.
        steps: per turn; `None` for 10 on an accelerator, 1 on a CPU.
        threads: of PyTorch.
        twins: the forms of PyTorch to compare with, of `TWINS`.

    Raises:
        DoesNotFit: the batch is too large for the device.
        UserError: the model cannot see such clips.
    """
    device = jax.devices()[0]
    steps = steps or (1 if device.platform == "cpu" else 10)
    view = resolved_views(config)["data.train"]
    shape = config.train.batch, view.num_segments, view.crop_size, view.crop_size
    model = nnx.eval_shape(lambda: create_model(**config.model, rngs=nnx.Rngs(0)))
    activations = cost.measure(model, 1, *shape[1:], 3).activations
    bandwidth = measure_bandwidth(device)
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (*shape, 3), np.uint8)
    labels: np.ndarray = rng.integers(0, config.model.num_classes, len(clips), np.int32)
    if config.data.multi_label:
        labels = np.eye(config.model.num_classes, dtype=np.float32)[labels]
    sides: list[Side] = []
    memory: dict[str, int] = {}
    left_out: list[str] = []

    def add(
        name: str,
        run: Callable[[int], Any],
        peak: Callable[[], int | None],
        forget_peak: Callable[[], None] | None = None,
    ) -> None:
        run(steps)  # which finds the fastest form of each operation, and takes the memory
        if forget_peak is not None:  # what was tried took more
            forget_peak()
            run(steps)
        sides.append(Side(name, len(clips), run))
        if (taken := peak()) is not None:
            memory[name] = taken

    try:
        twin: TwinStepper | None = None
        if twins:
            with _or_left_out("PyTorch", left_out):
                twin = _twin(config, clips, labels, device, threads)
        run, planned = our_step(config, clips, labels, device, twin)
        add(OURS, run, lambda: (device.memory_stats() or {}).get("peak_bytes_in_use", planned))
        for form, side in TWINS.items():
            if twin is not None and form in twins:
                with _or_left_out(side, left_out):
                    run = twin.compiled() if form == "compiled" else twin
                    add(side, run, twin.peak, twin.forget_peak)
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


def our_step(
    config: ConfigDict,
    clips: np.ndarray,
    labels: np.ndarray,
    device: jax.Device,
    twin: TwinStepper | None,
) -> tuple[Callable[[int], Any], int]:
    """Our training steps, from the weights of the twin; and the bytes that they are planned in.

    Raises:
        DoesNotFit: the compiler plans for more than there is. What is not the state grows with the
            batch, which tells about how large one may be.
    """
    mesh = make_mesh([device])
    loss = partial(
        train_step.classification_loss,
        weight=config.train.loss_weight,
        label_smoothing=config.train.label_smoothing,
    )
    stepper = Stepper(config, mesh, len(clips), loss)
    if twin is not None:
        stepper.load(twin.weights())
    batch = jax.device_put({"clip": clips, "label": labels}, batch_sharding(mesh))
    planned = stepper.compile(batch)
    if (limit := _memory_limit(device)) is not None and planned > limit:
        state = sum(leaf.nbytes for leaf in jax.tree.leaves(stepper.state))
        raise DoesNotFit(
            f"a batch of {len(clips)} needs {planned / 2**30:.1f} of {limit / 2**30:.1f} GiB",
            len(clips) * (limit - state) / (planned - state),
        )
    return lambda steps: stepper([batch] * steps), planned


def _memory_limit(device: jax.Device) -> int | None:
    """The bytes that JAX may take of a device, if that is known."""
    return (device.memory_stats() or {}).get("bytes_limit")


def _twin(
    config: ConfigDict, clips: np.ndarray, labels: np.ndarray, device: jax.Device, threads: int
) -> TwinStepper:
    from trn_jax.torch_models import torch

    torch.set_num_threads(threads)
    kinds = {"cpu": "cpu", "gpu": "cuda"}
    if device.platform not in kinds:
        raise UserError(f"it is not compared on {device.device_kind}")
    if device.platform == "gpu" and not torch.cuda.is_available():
        raise UserError(f"PyTorch {torch.__version__} finds no GPU; install it for CUDA")
    return TwinStepper(config, clips, labels, device=kinds[device.platform])


@contextlib.contextmanager
def _or_left_out(side: str, left_out: list[str]) -> Iterator[None]:
    """Note what goes wrong in PyTorch or its compilers, for ours are worth timing all the same."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        left_out.append(f"{side} is left out: {first_line(error)}")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of XLA, cuDNN or cuBLAS means that memory ran out."""
    text = str(error).lower()
    return any(said in text for said in ("resource_exhausted", "out of memory", "_alloc_failed"))


def table(name: str, found: Measurement) -> str:
    """Describe a measurement, with what is wanted of a GPU."""
    batch, frames, height, width = found.shape
    lines = [
        f"{name}: {found.model}, {batch} clips of {frames} x {height} x {width}, {found.dtype}",
        f"{found.device}, {found.bandwidth / 1e9:.4g} GB/s; "
        f"{found.activations / 1e6:.4g} million activations per clip",
        *found.left_out,
        f"{'':34}{'clips/s':>32}{'GiB at most':>14}{'of bandwidth':>14}",
    ]
    for side in found.turns:
        taken = found.memory.get(side)
        memory = "-" if taken is None else f"{taken / 2**30:.3g}"
        goal = f"{f'>= {found.goal}':>10}" if found.goal and side == OURS else ""
        cells = f"{memory:>14}{found.share(side):>14.3g}{goal}"
        lines.append(f"{side:34}{spread(found.rates(side)):>32}{cells}")
    goal = "" if found.device == "cpu" else f"{'>= 1':>38}"
    for side in (side for side in found.turns if side != OURS):
        lines.append(f"{f'{OURS} / {side}':34}{spread(found.ratios(side)):>32}{goal}")
    return "\n".join(lines)
