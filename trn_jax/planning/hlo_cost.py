"""Memory, FLOPs, kernels and collectives per device, read from compiled programs."""

import dataclasses
import math
import re

import jax

from trn_jax.errors import UserError, first_line
from trn_jax.planning.hlo_text import COMMENT, TRIPS, computations, sizes_of
from trn_jax.planning.kernels import kernels_of
from trn_jax.planning.topology import compiler_options

_COLLECTIVES = re.compile(
    r" = (?P<shapes>[^=]*?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|"
    r"collective-permute)(?P<start>-start)?\("
)
_CALLS = re.compile(
    r"\b(?P<how>calls|to_apply|body|condition|\w+_computations?)="
    r"\{?(?P<names>%[\w.-]+(?:, %[\w.-]+)*)"
)


class DoesNotFit(UserError):
    """The batch is too large for the device memory.

    Attributes:
        largest: estimate of the largest batch that fits; infinity if unknown.
    """

    def __init__(self, message, largest=math.inf):
        super().__init__(message)
        self.largest = largest


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective operation.

    Attributes:
        kind: such as "all-reduce".
        bytes: of its result on each chip.
    """

    kind: str
    bytes: int


@dataclasses.dataclass(frozen=True)
class HloCost:
    """Cost of a compiled step on each chip.

    Attributes:
        arguments: bytes of the inputs: the state and a shard of the batch.
        outputs: bytes of the outputs that don't reuse donated inputs.
        temporary: bytes of temporary buffers.
        code: bytes of the program.
        flops: floating-point operations, two per multiply-add; NaN if unknown.
        traffic: bytes read from and written to memory; NaN if unknown.
        collectives: `Collective`, repeated as often as it runs.
        kernels: number of kernels, see `kernels.kernels_of`; 0 if unknown, as for all but GPUs.
    """

    arguments: int
    outputs: int
    temporary: int
    code: int
    flops: float
    traffic: float
    collectives: list[Collective]
    kernels: int = 0

    @property
    def memory(self):
        """Total bytes."""
        return self.arguments + self.outputs + self.temporary + self.code


def cost_of(trace, devices, what, *, parts=1, once=None):
    """Compile a program and read its cost.

    Args:
        trace: function from devices to the program, traced for them.
        devices: a list of devices.
        what: name of the program in errors.
        parts: number of times that its loop runs.
        once: traces what is outside of the loop; `None` without a loop.

    Raises:
        DoesNotFit: it needs more memory than the devices have.
        UserError: the compiler fails otherwise.
    """
    compiled = _compile(trace(devices).lower(), what, compiler_options(devices))
    flops, traffic = flops_and_traffic(trace, devices, compiled)
    if once is not None:
        # XLA counts one iteration of a loop.
        flops_once, traffic_once = flops_and_traffic(once, devices)
        flops += (parts - 1) * (flops - flops_once)
        traffic += (parts - 1) * (traffic - traffic_once)
    memory, program, kernels = compiled.memory_analysis(), compiled.as_text(), 0
    if devices[0].platform == "gpu":
        kernels, traffic = kernels_of(program, parts)
    return HloCost(
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        flops=flops,
        traffic=traffic,
        collectives=list(collectives(program, parts)),
        kernels=kernels,
    )


def _compile(lowered, what, options):
    try:
        return lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        if "memory space vmem" in str(error):
            raise UserError(
                f"{what} cannot be compiled: the compiler ran out of core memory (vmem), which "
                f"should not depend on its size; try another one ({first_line(error)})"
            ) from None
        needed = re.search(r"Used (\S+) of (\S+) hbm", str(error))
        memory = f": it needs {needed[1]} of {needed[2]} per chip" if needed else ""
        raise DoesNotFit(f"{what} does not fit into memory{memory}; use a smaller one") from None


def flops_and_traffic(trace, devices, compiled=None):
    """FLOPs and bytes of memory traffic per device, NaN if unknown; arguments as of `cost_of`.

    The traffic of programs for GPUs is that of their kernels, see `kernels.kernels_of`.
    """
    if devices[0].platform != "gpu":
        cost = (compiled or trace(devices).lower().compile()).cost_analysis()
        return cost.get("flops", math.nan), cost.get("bytes accessed", math.nan)
    # Compiled programs for GPUs are calls of cuDNN and cuBLAS, which are opaque to XLA. Before
    # compilation, XLA counts FLOPs only on a CPU backend, also of programs lowered for GPUs.
    try:
        cpu = jax.devices("cpu")[:1]
    except RuntimeError:  # JAX_PLATFORMS excludes the CPU
        return math.nan, math.nan
    cost = trace(cpu).lower(lowering_platforms=("cuda",)).cost_analysis()
    return cost.get("flops", math.nan) / len(devices), math.nan


def collectives(program, parts=1):
    """Yield each `Collective` in the text of a compiled program.

    Args:
        program: HLO text.
        parts: trip count of loops that don't state theirs.
    """
    named = computations(COMMENT.sub("", program))
    times: dict[str, int] = {}  # by computation; 1 by default, as for the entry
    for name, lines in reversed(named.items()):  # callers come after callees
        for line in lines:
            known = TRIPS.search(line)
            for call in _CALLS.finditer(line):
                loops = call["how"] in ("body", "condition")
                trips = (int(known[1]) if known else parts) if loops else 1
                for called in call["names"].split(", "):
                    times[called] = max(times.get(called, 0), trips * times.get(name, 1))
    for name, lines in named.items():
        for found in _COLLECTIVES.finditer("\n".join(lines)):
            sizes = list(sizes_of(found["shapes"]))
            if found["start"] and found["kind"] != "all-reduce":
                sizes = sizes[len(sizes) // 2 :]  # operands, then results
            yield from [Collective(found["kind"], sum(sizes))] * times.get(name, 1)
