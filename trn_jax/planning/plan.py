"""Memory, FLOPs and communication of a recipe on devices that need not be attached.

The training and evaluation steps are compiled ahead of time for a topology to read their cost;
nothing runs and no data set is read.
"""

import dataclasses
import math
from typing import Any

from trn_jax.data.views import View
from trn_jax.nn.precision import compute_dtype
from trn_jax.planning.batch_search import BatchSearch, find_largest_batch
from trn_jax.planning.step_cost import evaluation_cost, training_cost
from trn_jax.planning.topology import NO_GPU_NOTE, find_devices, is_described_gpu
from trn_jax.settings import protocol_names, resolved_views


def batch_step(config, num_devices):
    """The number that batches must be a multiple of, as in `checks.check_batch`."""
    group = config.model.norm_group or 1
    if config.train.accumulation > 1:  # each part holds whole groups
        return num_devices * config.train.accumulation * group
    return math.lcm(num_devices, group)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Cost of the steps of a recipe on the devices of a topology.

    Attributes:
        config: the configuration.
        topology: such as "v5e:4x4".
        num_devices: number of chips.
        memory: bytes of a chip; 0 if unknown.
        costs: `{"training step": HloCost, "evaluation, <protocol>": HloCost, ...}`.
        search: for the largest batch; `None` if the memory is unknown.
        note: on how it was compiled, or "".
    """

    config: Any
    topology: str
    num_devices: int
    memory: int
    costs: dict
    search: BatchSearch | None
    note: str = ""

    def __str__(self):
        config = self.config
        lines = [
            f"{config.model.name} in {config.model.dtype}, {config.train.batch} clips on "
            f"{self.num_devices} chips ({self.topology}){_savings(config)}"
        ]
        if self.search:
            lines += [f"{self.memory / 2**30:.1f} GiB of memory per chip", self.search.describe()]
            if self.search.largest:
                rate = self._rate_of(self.search.largest)
                lines.append(f"its learning rate by the linear scaling rule: {rate:g}")
        counted = any(each.kernels for each in self.costs.values())
        header = ["arguments", "temporary", "code", "all", "GFLOP", "GB moved"]
        header += ["kernels"] * counted
        lines.append(f"{'GiB per chip':24}" + "".join(f"{text:>12}" for text in header))
        for name, each in self.costs.items():
            values = (each.arguments, each.temporary, each.code, each.memory)
            cells = [f"{value / 2**30:.3f}" for value in values]
            cells += [_or_unknown(each.flops / 1e9, 1), _or_unknown(each.traffic / 1e9, 2)]
            cells += [f"{each.kernels:,}"] if counted else []
            lines.append(f"{name:24}" + "".join(f"{cell:>12}" for cell in cells))
        lines += _communication(self.costs["training step"])
        return "\n".join(lines + [self.note] * bool(self.note))

    def to_dict(self):
        """The plan as JSON-able values, in bytes and FLOPs per chip."""
        model, train = self.config.model, self.config.train
        found = dict(
            model=model.name,
            dtype=model.dtype,
            batch=train.batch,
            topology=self.topology,
            num_devices=self.num_devices,
            memory=self.memory or None,
            note=self.note,
        )
        if self.search:
            largest = self.search.largest
            rate = self._rate_of(largest) if largest else None
            found |= dict(largest_batch=largest, largest_batch_lr=rate)
        found["steps"] = {
            name: {
                "arguments": each.arguments,
                "temporary": each.temporary,
                "code": each.code,
                "memory": each.memory,
                "flops": None if math.isnan(each.flops) else each.flops,
                "kernels": each.kernels or None,
                "traffic": None if math.isnan(each.traffic) else each.traffic,
                "collectives": [dict(kind=c.kind, bytes=c.bytes) for c in each.collectives],
            }
            for name, each in self.costs.items()
        }
        return found

    def _rate_of(self, batch):
        return self.config.optim.lr * batch / self.config.optim.base_batch


def search_batch(config, devices, memory, cost):
    """Search for the largest batch of a recipe that fits; `cost` is that of its own batch."""

    def cost_of(batch):
        changed = config.copy_and_resolve_references()
        changed.train.batch = batch
        return training_cost(changed, devices)

    step = batch_step(config, len(devices))
    return find_largest_batch(cost_of, config.train.batch, cost, memory, step)


def make_plan(config, topology):
    """Compile the steps of a recipe for a topology.

    Returns:
        A `Plan`.

    Raises:
        UserError: see `find_devices` and `training_cost`.
    """
    devices, memory = find_devices(topology)
    config = config.copy_and_resolve_references()
    config.model.dtype = compute_dtype(config.model.dtype, devices)
    costs = {"training step": training_cost(config, devices)}
    search = search_batch(config, devices, memory, costs["training step"]) if memory else None
    for name in protocol_names(config, "all"):
        view = View(**resolved_views(config)[f"protocols.{name}"])
        costs[f"evaluation, {name}"] = evaluation_cost(config, devices[0], view)
    note = NO_GPU_NOTE if is_described_gpu(devices[0]) else ""
    return Plan(config, topology, len(devices), memory or 0, costs, search, note)


def _or_unknown(value, digits):
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"


def _savings(config):
    """Settings of the recipe that save memory."""
    settings = [
        ("model.remat", config.model.remat or 0, 0),
        ("train.accumulation", config.train.accumulation, 1),
        ("train.shard_state", config.train.shard_state, "none"),
    ]
    return "".join(f", {name}={value}" for name, value, plain in settings if value != plain)


def _communication(cost):
    if not cost.collectives:
        return ["no communication between chips in a training step"]
    kinds = dict.fromkeys(each.kind for each in cost.collectives)
    lines = ["communication between chips in a training step, per chip:"]
    for kind in kinds:
        sizes = [each.bytes for each in cost.collectives if each.kind == kind]
        lines.append(f"  {len(sizes)} x {kind}, {sum(sizes) / 1e6:.3f} MB")
    return lines
