"""What two libraries are to compute, as files that both of them read."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import plain_two_pass
from calrec_jax.data.feed.batch import PADDING_SEGMENT, Batch

WEIGHT_DECAY = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """Settings that both libraries share.

  Attributes:
    source: a Hugging Face folder or a GGUF file.
    decoder: fields of `DecoderConfig`.
    objective: fields of `Objective`.
    learning_rate: of AdamW.
    precision: "float32" or "bfloat16", of activations; parameters are float32.
    device: "cpu" or "cuda".
    batches: how many there are.
    examples: of each batch.
    lm_tokens: of each batch's rows for the language model.
  """

  source: str
  decoder: dict[str, Any]
  objective: dict[str, Any]
  learning_rate: float
  precision: str
  device: str
  batches: int
  examples: list[int]
  lm_tokens: list[int]


def write(
  folder: pathlib.Path,
  batches: Sequence[Batch],
  kept: np.ndarray | None,
  **settings: Any,
) -> Job:
  """Writes the job: its packed batches, their examples, and plain rows.

  Args:
    folder: exists.
    batches: packed, in NumPy.
    kept: row of the model's embedding of each token; None is all of them.
    **settings: the other fields of `Job`.
  """
  rows = [language_model_rows(batch) for batch in batches]
  plain = [plain_two_pass.pad(plain_two_pass.examples_of(b)) for b in batches]
  for number, (batch, padded, tokens) in enumerate(
    zip(batches, plain, rows, strict=True)
  ):
    np.savez(folder / f"packed-{number}.npz", **batch._asdict())
    np.savez(folder / f"plain-{number}.npz", **padded._asdict())
    np.save(folder / f"rows-{number}.npy", tokens)
  if kept is not None:
    np.save(folder / "kept.npy", kept)
  job = Job(
    batches=len(batches),
    examples=[len(padded.slot_items) for padded in plain],
    lm_tokens=[tokens.size for tokens in rows],
    **settings,
  )
  (folder / "job.json").write_text(json.dumps(dataclasses.asdict(job)))
  return job


def read(folder: pathlib.Path) -> Job:
  """The settings."""
  return Job(**json.loads((folder / "job.json").read_text()))


def arrays(folder: pathlib.Path, form: str, number: int) -> dict[str, Any]:
  """A batch "packed" or "plain", by the name of its fields."""
  with np.load(folder / f"{form}-{number}.npz") as file:
    return dict(file)


def rows(folder: pathlib.Path, number: int) -> np.ndarray:
  """int32[R, L] without padding."""
  return np.load(folder / f"rows-{number}.npy")


def kept(folder: pathlib.Path) -> np.ndarray | None:
  """Row of the model's embedding of each token."""
  path = folder / "kept.npy"
  return np.load(path) if path.exists() else None


def language_model_rows(batch: Batch) -> np.ndarray:
  """The batch's tokens end to end, as rows without padding, int32[R, L]."""
  tokens = batch.tokens[batch.segment_ids != PADDING_SEGMENT]
  number = len(batch.tokens)
  length = len(tokens) // number
  return tokens[: number * length].reshape(number, length)


def told(found: np.ndarray, items: Any) -> dict[str, float]:
  """What was written for users, as both libraries tell it.

  Args:
    found: int32[users, samples, T], token ids.
    items: `Texts` of the catalogue.
  """
  known = {
    items.values[begin:end].tobytes()
    for begin, end in itertools.pairwise(items.offsets)
  }
  longest = int(np.diff(items.offsets).max())
  valid = [
    any(
      text[:length].tobytes() in known
      for length in range(1, min(longest, len(text)) + 1)
    )
    for user in found
    for text in np.ascontiguousarray(user, np.int32)
  ]
  return {
    "users": len(found),
    "valid_share": float(np.mean(valid)),
    "distinct": float(np.mean([len(np.unique(u, axis=0)) for u in found])),
  }
