"""Memory, FLOPs and collectives per device, read from compiled programs."""

import dataclasses
import math
import re

import jax

from trn_jax.errors import UserError, first_line

_COLLECTIVES = re.compile(
    r" = (?P<shapes>[^=]*?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|"
    r"collective-permute)(?P<start>-start)?\("
)
_COMMENT = re.compile(r"/\*.*?\*/")
_COMPUTATION = re.compile(r"(?:ENTRY )?(%[\w.-]+) \(.*\{\s*")
_CALLS = re.compile(
    r"\b(?P<how>calls|to_apply|body|condition|\w+_computations?)="
    r"\{?(?P<names>%[\w.-]+(?:, %[\w.-]+)*)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_SHAPE = re.compile(r"\b(?P<type>pred|[suf]\d+|bf16)\[(?P<sizes>[\d,]*)\]")


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
        traffic: bytes read from and written to memory; NaN if unknown, as for GPUs.
        collectives: `Collective`, repeated as often as it runs.
    """

    arguments: int
    outputs: int
    temporary: int
    code: int
    flops: float
    traffic: float
    collectives: list[Collective]

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
    compiled = _compile(trace(devices).lower(), what)
    flops, traffic = flops_and_traffic(trace, devices, compiled)
    if once is not None:
        # XLA counts one iteration of a loop.
        flops_once, traffic_once = flops_and_traffic(once, devices)
        flops += (parts - 1) * (flops - flops_once)
        traffic += (parts - 1) * (traffic - traffic_once)
    memory = compiled.memory_analysis()
    return HloCost(
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        flops=flops,
        traffic=traffic,
        collectives=list(collectives(compiled.as_text(), parts)),
    )


def _compile(lowered, what):
    try:
        return lowered.compile()
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
    """FLOPs and bytes of memory traffic per device, NaN if unknown; arguments as of `cost_of`."""
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
    computations = _computations(_COMMENT.sub("", program))
    times: dict[str, int] = {}  # by computation; 1 by default, as for the entry
    for name, lines in reversed(computations.items()):  # callers come after callees
        for line in lines:
            known = _TRIPS.search(line)
            for call in _CALLS.finditer(line):
                loops = call["how"] in ("body", "condition")
                trips = (int(known[1]) if known else parts) if loops else 1
                for called in call["names"].split(", "):
                    times[called] = max(times.get(called, 0), trips * times.get(name, 1))
    for name, lines in computations.items():
        for found in _COLLECTIVES.finditer("\n".join(lines)):
            sizes = [_bytes(shape) for shape in _SHAPE.finditer(found["shapes"])]
            if found["start"] and found["kind"] != "all-reduce":
                sizes = sizes[len(sizes) // 2 :]  # operands, then results
            yield from [Collective(found["kind"], sum(sizes))] * times.get(name, 1)


def _computations(program):
    """`{name: lines}`, callees before callers."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in program.splitlines():
        if begun := _COMPUTATION.fullmatch(line):
            lines = found[begun[1]] = []
        lines.append(line)
    return found


def _bytes(shape):
    count = math.prod(int(size) for size in shape["sizes"].split(",") if size)
    bits = re.search(r"\d+", shape["type"])
    return count * (int(bits[0]) // 8 if bits else 1)
