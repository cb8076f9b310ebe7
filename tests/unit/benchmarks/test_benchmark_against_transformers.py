"""Two libraries do the same job, and their results are compared."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks import (
  against_transformers,
  library_job,
  library_process,
  plain_two_pass,
  side_by_side,
  two_libraries,
)
from calrec_jax.data.feed.batch import Batch
from calrec_jax.data.feed.feed import Feed
from calrec_jax.models.decoder_config import DecoderConfig
from calrec_jax.models.objective import Objective
from calrec_jax.models.pretrained import sources
from tests.fixtures import synthetic_caches, transformers_logits
from tests.reference import transformers_goldens

ROW_MAP = np.array([0, 1, 2, 3, *range(10, 60)], np.int32)
needs_transformers = pytest.mark.skipif(
  not transformers_logits.importable(),
  reason=f"needs PyTorch and Transformers: {transformers_logits.INSTALL}",
)


def write_job(tmp_path, family="gemma3"):
  """A job on a tiny random model, whose vocabulary is cut."""
  cache = synthetic_caches.write_random(
    tmp_path / "shop", users=12, longest_history=12, seed=4
  )
  feed = Feed(row_tokens=64, row_slots=8, rows=2, context=3).open([cache])
  # The toy's ids exceed the model's.
  batch = feed.batch(0)
  batch = batch._replace(tokens=batch.tokens % len(ROW_MAP))
  model = tmp_path / "model"
  transformers_goldens.write_folder(model, family)
  source = sources.open_source(model)
  decoder = DecoderConfig(
    **source.decoder_fields(), vocab_size=len(ROW_MAP), dtype="float32"
  )
  folder = tmp_path / "job"
  folder.mkdir()
  job = library_job.write(
    folder,
    [batch],
    ROW_MAP,
    source=str(model),
    decoder=dataclasses.asdict(decoder),
    objective=dataclasses.asdict(Objective(direction="both")),
    learning_rate=1e-3,
    precision="float32",
    device="cpu",
  )
  return folder, job, batch


def test_a_job_is_read_as_it_was_written(tmp_path):
  folder, job, batch = write_job(tmp_path)
  assert library_job.read(folder) == job
  packed = Batch(**library_job.arrays(folder, "packed", 0))
  for one, other in zip(packed, batch, strict=True):
    np.testing.assert_array_equal(one, other)
  plain = plain_two_pass.PlainBatch(**library_job.arrays(folder, "plain", 0))
  assert job.examples == [len(plain.slot_items)]
  assert job.examples == [(batch.slot_items >= 0).sum()]
  rows = library_job.rows(folder, 0)
  assert job.lm_tokens == [rows.size]
  filled = batch.tokens[batch.segment_ids > 0]
  np.testing.assert_array_equal(rows.ravel(), filled[: rows.size])
  np.testing.assert_array_equal(library_job.row_map(folder), ROW_MAP)


@pytest.mark.slow
def test_this_library_steps_in_a_process_of_its_own(tmp_path):
  folder, job, _ = write_job(tmp_path)
  with library_process.LibraryProcess(
    two_libraries.MODULES["calrec_jax"], folder, threads=1, device="cpu"
  ) as process:
    loaded = process.call("load", source=job.source)
    assert loaded["cpu_seconds"] > 0
    process.call("begin", part="language_model")
    losses = [process.call("step", batch=0)["loss"] for _ in range(3)]
    assert losses[2] < losses[1] < losses[0]
    with pytest.raises(library_process.LibraryError, match="failed at load"):
      process.call("load", source=job.source, checkpoint=True)


def test_a_row_is_described_in_parts(tmp_path):
  _, job, _ = write_job(tmp_path)
  row = {"source": "tiny", "threads": 1, "job": dataclasses.asdict(job)}
  figures = {"cpu_seconds": 2.0, "wall_seconds": 3.0, "peak_bytes": 4e9}
  row["load"] = {
    "gguf": {"calrec_jax": figures, "transformers": figures},
    "checkpoint": {"calrec_jax": figures},
  }
  text = against_transformers.describe(row)
  assert "vocabulary of 54" in text
  [both] = [x for x in text.splitlines() if "gguf: CPU seconds" in x]
  assert both.split()[-3:] == ["2.0", "2.0", "1.00"]
  [alone] = [x for x in text.splitlines() if "checkpoint: CPU seconds" in x]
  assert alone.split()[-2:] == ["2.0", "–"]


def test_other_losses_are_refused():
  worst = {}
  one = {"loss": 2.0, "gradient_norm": 1.0}
  found = {"calrec_jax": one, "transformers": one | {"loss": 2.0001}}
  two_libraries._agree(found, "float32", worst)
  assert worst["loss"] == pytest.approx(5e-5, rel=0.01)
  found["transformers"]["loss"] = 2.001
  with pytest.raises(
    side_by_side.DisagreementError, match="cannot be compared"
  ):
    two_libraries._agree(found, "float32", worst)


@needs_transformers
def test_both_libraries_have_the_same_objective(tmp_path):
  folder, job, _ = write_job(tmp_path)
  results = two_libraries.compare(
    folder, ("objective",), repetitions=1, threads=1
  )
  differences = results["objective"]["largest_relative_difference"]
  assert differences.keys() >= {"loss_tt_nats", "loss_ut_nats", "gradient_norm"}
  assert max(differences.values()) < side_by_side.TOLERANCES["float32"]
  row = {"source": "tiny", "threads": 1, "job": dataclasses.asdict(job)}
  row |= results
  assert json.loads(json.dumps(row)) == row
  assert "examples/CPU second" in against_transformers.describe(row)


@needs_transformers
@pytest.mark.slow
def test_all_parts_of_a_llama(tmp_path):
  folder, job, _ = write_job(tmp_path, "llama3")
  results = two_libraries.compare(
    folder, two_libraries.PARTS, repetitions=1, threads=1
  )
  both = results["load"]["huggingface"]
  assert both["calrec_jax"]["parameters"] == both["transformers"]["parameters"]
  row = {"source": "tiny", "threads": 1, "job": dataclasses.asdict(job)}
  row |= results
  text = against_transformers.describe(row)
  for line in ("load checkpoint", "tokens/CPU second", "examples/CPU second"):
    assert line in text
