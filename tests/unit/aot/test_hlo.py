# ruff: noqa: E501 (lines as the compiler writes them)
"""How often parts of a compiled program run, and what they exchange."""

import pytest

from calrec_jax.aot import collectives, hlo

PROGRAM = """\
HloModule jit_step, entry_computation_layout={()->f32[]}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%inner_body (p: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %p = (s32[], f32[8,16]) parameter(0)
  %two = s32[] constant(2)
  %i = s32[] get-tuple-element(%p), index=0
  %next = s32[] add(%i, %two)
  %v = f32[8,16] get-tuple-element(%p), index=1
  %sent = f32[8,16]{1,0} collective-permute(%v), channel_id=7, source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  ROOT %r = (s32[], f32[8,16]) tuple(%next, %sent)
}

%inner_condition (p: (s32[], f32[8,16])) -> pred[] {
  %p = (s32[], f32[8,16]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] constant(6)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%all-reduce-scatter.1 (a: f32[64]) -> f32[16] {
  %a = f32[64] parameter(0)
  %whole = f32[64] all-reduce(%a), channel_id=3, replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %part = f32[16] dynamic-slice(%whole), dynamic_slice_sizes={16}
}

%body (p: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %p = (s32[], f32[8,16]) parameter(0)
  %one = s32[] constant(1)
  %i = s32[] get-tuple-element(%p), index=0
  %next = s32[] add(%i, %one)
  %start = (bf16[2,16], bf16[8,16]{1,0:T(8,128)(2,1)}) all-gather-start(%x), channel_id=1, replica_groups=[2,2]<=[2,2]T(1,0), dimensions={0}, metadata={op_name="layer/gather"}
  %w = (s32[], f32[8,16]) while(%p), condition=%inner_condition, body=%inner_body
  ROOT %r = (s32[], f32[8,16]) tuple(%next, %w)
}

%condition (p: (s32[], f32[8,16])) -> pred[] {
  %p = (s32[], f32[8,16]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] constant(5)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%open (p: (s32[], f32[8,16])) -> pred[] {
  %p = (s32[], f32[8,16]) parameter(0)
  ROOT %flag = pred[] get-tuple-element(%p), index=0
}

%unused (p: f32[]) -> f32[] {
  ROOT %never = f32[1000]{0} all-reduce(%p), channel_id=9, replica_groups={{0,1}}
}

ENTRY %main (a: f32[64]) -> f32[] {
  %a = f32[64] parameter(0)
  %kernel = f32[64] custom-call(%a), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"blocks": 4
}}, metadata={op_name="attention"}
  %loop = (s32[], f32[8,16]) while(%t), condition=%condition, body=%body
  %last = (s32[], f32[8,16]) while(%t), condition=%open, body=%inner_body
  %cut = f32[16] fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1
  %many = (f32[4]{0}, /*index=1*/f32[4]{0}) all-reduce(%a, %a), channel_id=4, replica_groups=mesh['a'=2,'b'=2] {'b'}, to_apply=%add
  %again = (f32[4]{0}, /*index=1*/f32[4]{0}) all-reduce(%a, %a), channel_id=4, replica_groups=mesh['a'=2,'b'=2] {'b'}, to_apply=%add
  %send = (f32[16,8]{1,0:T(8,128)}, u32[], token[]) send(%cut, %t), channel_id=6, is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2}x{0:1}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (f32[16,8]{1,0:T(8,128)}, u32[], token[]) recv(%t), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2}x{0:1}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %done = (f32[16,8]{1,0:T(8,128)}, token[]) recv-done(%recv), channel_id=1, is_host_transfer=true
  ROOT %out = f32[] constant(0)
}
"""


@pytest.fixture(scope="module")
def module():
  return hlo.parse(PROGRAM)


def test_runs_multiply_along_loops(module):
  assert module.runs["body"] == 5
  # Three turns, two at a time, in each of the five, and one of unknown length.
  assert module.runs["inner_body"] == 5 * 3 + 1
  assert module.runs["unused"] == 0
  assert module.open_loops == 1


def _within(module):
  """Those that go over links, of whatever devices."""
  found = collectives.find(module, 4, slices=2)
  return [one for one in found if one.bytes != 512]


def test_collectives_by_kind_and_group(module):
  found = collectives.by_kind(collectives.find(module, 4, slices=2))
  within = collectives.by_kind(
    [one._replace(across_slices=False) for one in _within(module)]
  )
  assert found["all-reduce@2 across slices"] == {"runs": 1, "bytes": 512}
  assert within == {
    "all-gather@2": {"runs": 5, "bytes": 5 * 8 * 16 * 2},
    "all-reduce@2": {"runs": 1, "bytes": 2 * 4 * 4},
    "collective-permute@2": {"runs": 16, "bytes": 16 * 8 * 16 * 4},
    "reduce-scatter@4": {"runs": 1, "bytes": 64 * 4},
  }


def test_collectives_across_slices_are_distinguished(module):
  across = {one.kind: one.across_slices for one in _within(module)}
  # Gathers pair devices 0 and 2, the named reduction 0 and 1.
  assert across == {
    "all-gather": True,
    "all-reduce": False,
    "collective-permute": False,
    "reduce-scatter": True,
  }


def test_least_time_on_a_ring():
  one = collectives.Collective("all-gather", 4, False, 1, 1000, "")
  assert one.seconds(100.0) == pytest.approx(7.5)
  assert one._replace(kind="all-reduce").seconds(100.0) == pytest.approx(15.0)
  assert one._replace(chips=1).seconds(100.0) == 0.0


def test_another_text_is_refused():
  with pytest.raises(ValueError, match="no ENTRY"):
    hlo.parse("HloModule nothing\n")
