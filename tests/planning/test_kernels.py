"""Kernels and bytes in the text of programs for GPUs."""

import pytest

from trn_jax.planning.kernels import kernels_of

PROGRAM = """
HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %add.1 = f32[] add(%x, %y)
}

%scaled (p0: f32[8,4], p1: f32[]) -> f32[8,4] {
  %p1 = f32[] parameter(1)
  %p0 = f32[8,4]{1,0} parameter(0)
  %wide = f32[8,4]{1,0} broadcast(%p1), dimensions={}
  ROOT %m = f32[8,4]{1,0} multiply(%p0, %wide)
}

%row (p0: f32[8,4], p1: s32[]) -> f32[1,4] {
  %p0 = f32[8,4]{1,0} parameter(0)
  %seen = f32[8,4]{1,0} bitcast(%p0)
  %p1 = s32[] parameter(1)
  ROOT %slice = f32[1,4]{1,0} dynamic-slice(%seen, %p1, %p1), dynamic_slice_sizes={1,4}
}

%filled (p0: f32[8,4], p1: f32[1,4], p2: s32[]) -> f32[8,4] {
  %p0 = f32[8,4]{1,0} parameter(0)
  %p1 = f32[1,4]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  ROOT %u = f32[8,4]{1,0} dynamic-update-slice(%p0, %p1, %p2, %p2)
}

%body (t: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %t = (s32[], f32[8,4]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%t), index=0
  %x = f32[8,4]{1,0} get-tuple-element(%t), index=1
  %r = f32[1,4]{1,0} fusion(%x, %n), kind=kLoop, calls=%row
  %f = f32[8,4]{1,0} fusion(%x, %r, %n), kind=kLoop, calls=%filled
  ROOT %out = (s32[], f32[8,4]{1,0}) tuple(%n, %f)
}

%condition (t: (s32[], f32[8,4])) -> pred[] {
  %t = (s32[], f32[8,4]{1,0}) parameter(0)
  ROOT %lt = pred[] constant(true)
}

ENTRY %main (a: f32[8,4], s: f32[], b: bf16[4,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0)
  %s = f32[] parameter(1)
  %b = bf16[4,4]{1,0} parameter(2)
  %scale = f32[8,4]{1,0} fusion(%a, %s), kind=kLoop, calls=%scaled
  %gemm = (bf16[4,4]{1,0}, s8[4096]{0}) custom-call(%b, %b), custom_call_target="__cublas$gemm"
  %g = bf16[4,4]{1,0} get-tuple-element(%gemm), index=0
  %sum-start = bf16[4,4]{1,0} all-reduce-start(%g), to_apply=%add
  %sum = bf16[4,4]{1,0} all-reduce-done(%sum-start)
  %init = (s32[], f32[8,4]{1,0}) tuple(%n0, %scale)
  %w = (s32[], /*index=1*/f32[8,4]{1,0}) while(%init), condition=%condition, body=%body TRIPS
  %copied = f32[8,4]{1,0} copy(%scale)
  ROOT %last = f32[8,4]{1,0} get-tuple-element(%w), index=1
}
"""

SCALED, GEMM, SUM, COPIED = 128 + 4 + 128, 3 * 32, 32, 256
# A row is read and written; the row is read and put in place. Both read the index.
IN_LOOP = (16 + 4 + 16) + (16 + 4 + 16)


@pytest.mark.parametrize(
    ("stated", "trips"),
    [("", 5), (', backend_config={"known_trip_count":{"n":"3"}}', 3)],
)
def test_kernels_and_their_bytes_are_counted(stated, trips):
    program = PROGRAM.replace(" TRIPS", stated)
    kernels, moved = kernels_of(program, parts=5)
    assert kernels == 4 + 2 * trips
    assert moved == SCALED + GEMM + SUM + COPIED + trips * IN_LOOP


def test_command_buffers_and_branches_are_entered():
    program = PROGRAM.replace(" TRIPS", "").replace(
        "%copied = f32[8,4]{1,0} copy(%scale)",
        "%c = f32[8,4]{1,0} conditional(%p, %scale, %scale), true_computation=%one, "
        "false_computation=%two",
    )
    called = """
%one (x: f32[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0} parameter(0)
  ROOT %y = f32[8,4]{1,0} copy(%x)
}

%two (x.1: f32[8,4]) -> f32[8,4] {
  %x.1 = f32[8,4]{1,0} parameter(0)
  ROOT %z = f32[8,4]{1,0} call(%x.1), to_apply=%one
}

ENTRY"""
    kernels, moved = kernels_of(program.replace("\nENTRY", called), parts=1)
    assert (kernels, moved) == (3 + 2 + 2, SCALED + GEMM + SUM + IN_LOOP + 2 * COPIED)


PARTS = """
%kept (p0: bf16[8,6], p1: f32[8,2], p2: f32[8,6]) -> bf16[8,2] {
  %p0 = bf16[8,6]{1,0} parameter(0)
  %wide = f32[8,6]{1,0} convert(%p0)
  %p1 = f32[8,2]{1,0} parameter(1)
  %p2 = f32[8,6]{1,0} parameter(2)
  %all = f32[8,8]{1,0} concatenate(%p1, %p2), dimensions={1}
  %more = f32[8,6]{1,0} slice(%all), slice={[0:8], [2:8]}
  %sum = f32[8,6]{1,0} add(%wide, %more)
  %three = f32[8,3]{1,0} slice(%sum), slice={[0:8], [0:3]}
  %narrow = bf16[8,3]{1,0} convert(%three)
  ROOT %two = bf16[8,2]{1,0} slice(%narrow), slice={[0:8], [1:3]}
}

ENTRY %main (a: bf16[8,6], b: f32[8,2], c: f32[8,6]) -> bf16[8,2] {
  %a = bf16[8,6]{1,0} parameter(0)
  %b = f32[8,2]{1,0} parameter(1)
  %c = f32[8,6]{1,0} parameter(2)
  ROOT %f = bf16[8,2]{1,0} fusion(%a, %b, %c), kind=kLoop, calls=%kept
}
"""


def test_fusions_read_what_slices_of_their_sums_need():
    # Of concatenated operands, the same share of each: 2 of 8 columns.
    read = 8 * 2 * 2 + (8 * 8) * 4 * 2 // 8
    assert kernels_of(PARTS) == (1, read + 8 * 2 * 2)
    whole = PARTS.replace("slice(%narrow), slice={[0:8], [1:3]}", "custom-call(%narrow)")
    whole = whole.replace("slice(%sum), slice={[0:8], [0:3]}", "transpose(%sum)")
    assert kernels_of(whole) == (1, 8 * 6 * 2 + 6 * 8 * 8 * 4 // 8 + 8 * 2 * 2)
