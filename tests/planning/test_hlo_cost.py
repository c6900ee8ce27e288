"""What is read from compiled programs, and from the errors of the compiler."""

import types

import jax
import pytest

from trn_jax.errors import UserError
from trn_jax.planning import hlo_cost

PROGRAM = """
HloModule jit_train_step, is_scheduled=true

%sum (x: f32[], y: f32[]) -> f32[] {
  ROOT %add.1 = f32[] add(%x, %y)
}

%inside (p: f32[8]) -> f32[8] {
  ROOT %r = f32[8]{0} all-reduce(f32[8]{0} %p), channel_id=1, to_apply=%sum
}

%turn (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %i = f32[2]{0} all-reduce(f32[2]{0} %x), channel_id=2, to_apply=%sum
  ROOT %c = f32[8]{0} fusion(f32[8]{0} %y), kind=kLoop, calls=%inside
}

%condition (p: (s32[], f32[8])) -> pred[] {
  ROOT %lt = pred[] compare(s32[] %i, s32[] %n), direction=LT
}

ENTRY %main (a: f32[8,4], b: bf16[3]) -> f32[7] {
  %all-reduce.1 = (f32[8,4]{1,0}, /*index=1*/bf16[3]{0}) all-reduce(%a, %b), to_apply=%sum
  %x = f32[2,16]{1,0:T(8,128)S(1)} all-gather(f32[1,16]{1,0} %c), dimensions={0}
  %s = (f32[1,16]{1,0}, f32[2,16]{1,0}) all-gather-start(f32[1,16]{1,0} %c), dimensions={0}
  %d = f32[2,16]{1,0} all-gather-done((f32[1,16]{1,0}, f32[2,16]{1,0}) %s)
  %p = pred[] collective-permute(pred[] %q), source_target_pairs={{0,1}}
  %w = (s32[], f32[8]) while((s32[], f32[8]) %t), condition=%condition, body=%turn CONFIG
  ROOT %f = f32[7]{0} fusion(f32[7]{0} %all-reduce.1), kind=kLoop
}
"""


@pytest.mark.parametrize(
    "trip_count", ["", ', backend_config={"known_init_step":{},"known_trip_count":{"n":"2"}}']
)
def test_collectives_are_read_from_programs(trip_count):
    program = PROGRAM.replace(" CONFIG", trip_count)
    found = [(each.kind, each.bytes) for each in hlo_cost.collectives(program, 3)]
    turns = 2 if trip_count else 3
    assert found == [
        *[("all-reduce", 8 * 4)] * turns,
        *[("all-reduce", 2 * 4)] * turns,
        ("all-reduce", 8 * 4 * 4 + 3 * 2),
        ("all-gather", 128),
        ("all-gather", 128),
        ("collective-permute", 1),
    ]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.31G of 15.75G hbm.",
            "8 clips .* 20.31G of 15.75G",
        ),
        ("RESOURCE_EXHAUSTED: Out of memory while trying", "8 clips .* smaller"),
        (
            "RESOURCE_EXHAUSTED: CompileTimeScopedVmemOom:\nRan out of memory in memory space vmem "
            "while allocating",
            "8 clips .*vmem.*CompileTimeScopedVmemOom:\\)$",
        ),
    ],
)
def test_lack_of_memory_is_explained(error, message):
    def fail(compiler_options):
        raise jax.errors.JaxRuntimeError(error)

    lowered = types.SimpleNamespace(compile=fail)
    traced = types.SimpleNamespace(lower=lambda: lowered)
    with pytest.raises(UserError, match=message) as raised:
        hlo_cost.cost_of(lambda devices: traced, jax.devices("cpu"), "8 clips")
    assert isinstance(raised.value, hlo_cost.DoesNotFit) == ("vmem" not in message)
