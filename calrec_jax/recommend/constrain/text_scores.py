"""The model's own log-probability of catalogue texts, many a prompt.

Texts are read by few programs: a fixed number together, padded to a length
that depends on the text alone, so a score does not change with the company it
is computed in.
"""

import functools
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from calrec_jax.errors import DivergedError
from calrec_jax.recommend.constrain.likelihood import log_likelihood
from calrec_jax.recommend.constrain.trie import Texts
from calrec_jax.recommend.prefix import Prefix
from calrec_jax.runtime import placement

SCORES = ("sum", "mean")
"""Log-probability of a text, and that over its tokens."""

_TOGETHER = 8
_LENGTH_STEP = 32


class TextScorer:
  """Scores columns of one catalogue after prompts that were read."""

  def __init__(
    self, decoder: Any, params: Any, texts: Texts, mesh: Mesh | None
  ):
    """Takes the model, and the tokens of each column."""
    self._texts, self._mesh = texts, mesh
    self._lengths = np.diff(texts.offsets)
    self._score = functools.partial(log_likelihood, decoder, params, mesh=mesh)

  def __call__(
    self, prefix: Prefix, columns: Int[np.ndarray, "B K"], score: str
  ) -> Float[np.ndarray, "B K"]:
    """Scores in nats, or in nats a token; -inf for column -1.

    Args:
      prefix: prompts that were read.
      columns: asked texts of each.
      score: one of `SCORES`.
    """
    found = np.full(columns.shape, -np.inf, np.float32)
    lengths = np.where(columns >= 0, self._lengths[columns], 0)
    steps = -(-lengths // _LENGTH_STEP)
    for step in np.unique(steps[steps > 0]):
      length = int(step) * _LENGTH_STEP
      self._add(prefix, columns, steps == step, length, found)
    if not np.isfinite(found[columns >= 0]).all():
      raise DivergedError(
        "The model gives a text no probability; a model that has diverged "
        "cannot rank."
      )
    if score == "mean":
      found = np.divide(found, lengths, out=found, where=lengths > 0)
    return found

  def _add(
    self,
    prefix: Prefix,
    columns: Int[np.ndarray, "B K"],
    asked: np.ndarray,
    length: int,
    found: Float[np.ndarray, "B K"],
  ) -> None:
    """Fills in the asked ones, which all fit into the same length."""
    # The asked places of every row in front.
    order = np.argsort(~asked, axis=1, kind="stable")
    most = int(asked.sum(axis=1).max())
    for start in range(0, most, _TOGETHER):
      places = order[:, start : start + _TOGETHER]
      real = np.take_along_axis(asked, places, axis=1)
      tokens = np.zeros((len(columns), _TOGETHER, length), np.int32)
      lengths = np.zeros(tokens.shape[:2], np.int32)
      for row, place in zip(*np.nonzero(real), strict=True):
        column = columns[row, places[row, place]]
        begin, end = self._texts.offsets[column : column + 2]
        lengths[row, place] = end - begin
        tokens[row, place, : end - begin] = self._texts.values[begin:end]
      scores = np.asarray(
        self._score(prefix, *placement.place((tokens, lengths), self._mesh))
      )
      for row, place in zip(*np.nonzero(real), strict=True):
        found[row, places[row, place]] = scores[row, place]
