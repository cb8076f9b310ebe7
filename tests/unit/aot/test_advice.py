"""What is said where a program does not fit."""

import types

from calrec_jax.aot import advice, table
from calrec_jax.models.decoder_config import DecoderConfig

MESH = {"replica": 1, "data": 2, "fsdp": 4, "tensor": 1}


def _stage(rows=32, microbatches=1, remat="none"):
  return types.SimpleNamespace(
    decoder=DecoderConfig(remat=remat),
    feed=types.SimpleNamespace(rows=rows),
    microbatches=microbatches,
  )


def _record(program="train_step", peak=20, fits=False, held=1):
  return {
    "stage": "joint",
    "program": program,
    "what": "8 rows",
    "peak_bytes": peak * 2**30,
    "available_bytes": 16 * 2**30,
    "fits": fits,
    "arguments": {"parameters": held * 2**30, "optimizer": 2**30},
  }


def test_nothing_where_a_tenth_is_free():
  record = _record(peak=14, fits=True)
  assert advice.for_record(record, _stage(), MESH) == []
  assert advice.for_record(_record(peak=15, fits=True), _stage(), MESH)


def test_training():
  found = advice.for_record(_record(), _stage(), MESH)
  bindings = [line.split(":")[0] for line in found]
  assert bindings[:3] == [
    'DecoderConfig.remat = "dots"',
    'DecoderConfig.remat = "full"',
    "MICROBATCHES = 2",
  ]
  assert any("MeshShape.fsdp = 8" in line for line in found)
  # Parts of three rows a device are three.
  found = advice.for_record(_record(), _stage(24), MESH)
  assert any("MICROBATCHES = 3" in line for line in found)
  # Nothing that is done already.
  found = advice.for_record(_record(), _stage(8, remat="full"), MESH)
  assert not any("remat" in line or "MICROBATCHES" in line for line in found)
  assert any("MeshShape.tensor" in line for line in found)


def test_a_state_that_is_too_large_needs_more_chips():
  found = advice.for_record(_record(held=30), _stage(), MESH)
  # 31 GiB on each of 4, and a tenth of 16 GiB stays free.
  assert "need 9 chips" in found[0]


def test_recommending():
  found = advice.for_record(_record("write_items"), _stage(), MESH)
  assert [line.split(":")[0] for line in found] == [
    "Sampler.rows",
    "Sampler.samples",
  ]


def test_what_does_not_fit_is_said_in_capitals():
  record = _record() | {"advice": ["BINDING = 1: why"]}
  text = table.render([record])
  assert "20.00 GiB of 16.00 GiB, DOES NOT FIT" in text
  assert "to change         BINDING = 1: why" in text
