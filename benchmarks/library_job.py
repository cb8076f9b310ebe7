"""The input of two libraries, as files that both read."""

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
    source: Hugging Face folder or GGUF file.
    decoder: Fields of `DecoderConfig`.
    objective: Fields of `Objective`.
    learning_rate: Learning rate of AdamW.
    precision: Dtype of activations, "float32" or "bfloat16"; parameters are
      float32.
    device: Device, "cpu" or "cuda".
    batches: Number of batches.
    examples: Number of examples per batch.
    lm_tokens: Tokens of each batch's rows for the language model.
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
  row_map: np.ndarray | None,
  **settings: Any,
) -> Job:
  """Writes the job: its packed batches, their examples, and plain rows.

  Args:
    folder: Existing folder.
    batches: Packed batches of NumPy arrays.
    row_map: Row of each token in the model's embedding; None is all rows.
    **settings: Other fields of `Job`.
  """
  rows = [language_model_rows(batch) for batch in batches]
  plain = [plain_two_pass.pad(plain_two_pass.examples_of(b)) for b in batches]
  for number, (batch, padded, tokens) in enumerate(
    zip(batches, plain, rows, strict=True)
  ):
    np.savez(folder / f"packed-{number}.npz", **batch._asdict())
    np.savez(folder / f"plain-{number}.npz", **padded._asdict())
    np.save(folder / f"rows-{number}.npy", tokens)
  if row_map is not None:
    np.save(folder / "row_map.npy", row_map)
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
  """The fields of a batch, "packed" or "plain", by name."""
  with np.load(folder / f"{form}-{number}.npz") as file:
    return dict(file)


def rows(folder: pathlib.Path, number: int) -> np.ndarray:
  """Rows without padding, int32[R, L]."""
  return np.load(folder / f"rows-{number}.npy")


def row_map(folder: pathlib.Path) -> np.ndarray | None:
  """Row of each token in the model's embedding."""
  path = folder / "row_map.npy"
  return np.load(path) if path.exists() else None


def language_model_rows(batch: Batch) -> np.ndarray:
  """The batch's tokens concatenated into rows without padding, int32[R, L]."""
  tokens = batch.tokens[batch.segment_ids != PADDING_SEGMENT]
  number = len(batch.tokens)
  length = len(tokens) // number
  return tokens[: number * length].reshape(number, length)


def statistics(found: np.ndarray, items: Any) -> dict[str, float]:
  """Statistics of generated texts, for both libraries.

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
