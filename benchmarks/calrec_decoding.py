"""calrec_jax's side of `decoding`."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np

from benchmarks import library_job
from calrec_jax.recommend import prefix
from calrec_jax.recommend.constrain import trie, walk
from calrec_jax.recommend.generate import sampling
from calrec_jax.recommend.prompts import TokenRows, token_rows

_NO_END = -1  # No token is an end marker: all texts have the same length.


class Writer:
  """Generates items for the users of a job."""

  def __init__(self, folder: pathlib.Path, decoder: Any, params: Any):
    self._folder, self._decoder, self._params = folder, decoder, params
    prompts = trie.Texts(**library_job.arrays(folder, "prompts", 0))
    self._prompts = np.split(prompts.values, prompts.offsets[1:-1])
    self._batches = list(
      token_rows(self._prompts, len(self._prompts), smallest_length=128)
    )
    self._items = trie.Texts(**library_job.arrays(folder, "items", 0))

  def read_prompts(self) -> dict[str, float]:
    """Prefills the prompts, as every form does before it generates."""
    for batch in self._batches:
      jax.block_until_ready(self._read(batch))
    return {}

  def decode(
    self, form: str, samples: int, tokens: int, temperature: float
  ) -> dict[str, float]:
    """Generates in one of the forms; see `decoding`."""
    if form in ("samples", "beams"):
      texts = self._walked(samples, temperature, beams=form == "beams")
      return _statistics([set(row[row >= 0].tolist()) for row in texts], 1.0)
    found = np.zeros((len(self._prompts), samples, tokens), np.int32)
    for batch in self._batches:
      write = self._shared if form == "shared" else self._unshared
      drawn = write(batch, samples, tokens, temperature)
      found[batch.indices] = drawn[: len(batch.indices)]
    np.save(self._folder / f"decoded-{form}.npy", found)
    return library_job.statistics(found, self._items)

  def _read(self, batch: TokenRows) -> prefix.Prefix:
    return prefix.read(self._decoder, self._params, batch.tokens, batch.lengths)

  def _numbers(self, batch: TokenRows, samples: int, steps: int) -> np.ndarray:
    return sampling.uniform_rows(
      0, batch.sequences, len(batch.lengths), samples, steps
    )

  def _shared(
    self, batch: TokenRows, samples: int, tokens: int, temperature: float
  ) -> np.ndarray:
    uniform = self._numbers(batch, samples, tokens)
    return self._sampled(batch.tokens, batch.lengths, uniform, temperature)

  def _unshared(
    self, batch: TokenRows, samples: int, tokens: int, temperature: float
  ) -> np.ndarray:
    """One row per sample, one user at a time."""
    return np.stack(
      [
        self._sampled(
          np.repeat(batch.tokens[row : row + 1], samples, axis=0),
          np.repeat(batch.lengths[row : row + 1], samples),
          numbers[:, None],
          temperature,
        )[:, 0]
        for row, numbers in enumerate(
          self._numbers(batch, samples, tokens)[: len(batch.indices)]
        )
      ]
    )

  def _sampled(
    self,
    tokens: np.ndarray,
    lengths: np.ndarray,
    uniform: np.ndarray,
    temperature: float,
  ) -> np.ndarray:
    found = sampling.sample(
      self._decoder,
      self._params,
      tokens,
      lengths,
      uniform,
      temperature=temperature,
      end_token=_NO_END,
      vocab_size=self._decoder.config.vocab_size,
    )
    return np.asarray(found.tokens)

  def _walked(
    self, samples: int, temperature: float, *, beams: bool
  ) -> np.ndarray:
    built = trie.build(self._items)
    arrays = built.on_device()
    found = np.full((len(self._prompts), samples), -1, np.int32)
    for batch in self._batches:
      uniform = None
      if not beams:
        uniform = self._numbers(batch, samples, built.max_choices)
      walked = walk.walk(
        self._decoder,
        self._params,
        self._read(batch),
        arrays,
        uniform,
        bounds=walk.bounds(built, samples, beams=beams),
        hypotheses=samples,
        temperature=temperature,
      )
      texts = np.asarray(walked.texts)
      found[batch.indices] = texts[: len(batch.indices)]
    return found


def _statistics(written: list[set[int]], valid: float) -> dict[str, float]:
  return {
    "users": len(written),
    "valid_share": valid,
    "distinct": float(np.mean([len(texts) for texts in written])),
  }
