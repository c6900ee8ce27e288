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
    """A batch is too large for the memory of the device.

    Attributes:
        largest: about the largest batch that is not, if that can be told.
    """

    def __init__(self, message, largest=math.inf):
        super().__init__(message)
        self.largest = largest


@dataclasses.dataclass(frozen=True)
class Collective:
    """A communication between chips.

    Attributes:
        kind: such as "all-reduce".
        bytes: of its result on each chip.
    """

    kind: str
    bytes: int


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a compiled step needs on each chip.

    Attributes:
        arguments: bytes of what it is given, the state and a part of the batch.
        outputs: bytes of what it returns, without what takes the place of arguments.
        temporary: bytes beside these.
        code: bytes of the program.
        flops: floating point operations, two for a multiply-add; NaN if that is not known.
        traffic: bytes read from and written to memory; NaN if that is not known, as of GPUs.
        collectives: a list of `Collective`, one that is repeated as often as it is.
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
        """All bytes together."""
        return self.arguments + self.outputs + self.temporary + self.code


def cost_of(trace, devices, what, *, parts=1, once=None):
    """Compile a program.

    Args:
        trace: function of devices that traces it for them.
        devices: a list of devices.
        what: it is computed, for errors.
        parts: how often it repeats all but what `once` traces.
        once: a function as `trace`, or `None` if nothing is repeated.

    Raises:
        DoesNotFit: it needs more memory than the devices have.
        UserError: the compiler finds no way to compute it.
    """
    compiled = _compile(trace(devices).lower(), what)
    flops, traffic = _work(trace, devices, compiled)
    if once is not None:
        # Of a loop, XLA counts a single turn.
        flops_once, traffic_once = _work(once, devices)
        flops += (parts - 1) * (flops - flops_once)
        traffic += (parts - 1) * (traffic - traffic_once)
    memory = compiled.memory_analysis()
    return Cost(
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
                f"the compiler finds no way to compute {what} in the memory inside a core (vmem), "
                f"which should not depend on its size: try another one ({first_line(error)})"
            ) from None
        needed = re.search(r"Used (\S+) of (\S+) hbm", str(error))
        told = f": it needs {needed[1]} of {needed[2]} per chip" if needed else ""
        raise DoesNotFit(f"{what} does not fit into the memory{told}; take a smaller one") from None


def _work(trace, devices, compiled=None):
    """The operations, and the bytes moved, of a program on each of some devices, see `cost_of`."""
    if devices[0].platform != "gpu":
        cost = (compiled or trace(devices).lower().compile()).cost_analysis()
        return cost.get("flops", math.nan), cost.get("bytes accessed", math.nan)
    # XLA sees into none of the calls of cuDNN and cuBLAS that a compiled program consists of, so
    # operations are counted before. It counts them only on CPUs, of programs for GPUs too.
    try:
        cpu = jax.devices("cpu")[:1]
    except RuntimeError:  # JAX was told to leave it alone
        return math.nan, math.nan
    cost = trace(cpu).lower(lowering_platforms=("cuda",)).cost_analysis()
    return cost.get("flops", math.nan) / len(devices), math.nan


def collectives(program, parts=1):
    """The communications in the text of a compiled program, `Collective` by `Collective`.

    Args:
        program: its text.
        parts: how often loops are run through that do not tell.
    """
    computations = _computations(_COMMENT.sub("", program))
    times: dict[str, int] = {}  # once where nothing else is known, as of the entry
    for name, lines in reversed(computations.items()):  # what calls comes after what is called
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
    """`{name: lines}`, each after those that it calls."""
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
