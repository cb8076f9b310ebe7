"""The model's own log-probability of catalogue texts, many a prompt.

Texts are read by few programs: a fixed number together, padded to a length
that depends on the text alone, so a score does not change with the company it
is computed in.
"""

import functools

import numpy as np
from jaxtyping import Float, Int

from calrec_jax.errors import DivergedError
from calrec_jax.recommend.constrain.likelihood import log_likelihood
from calrec_jax.recommend.domain_model import DomainModel
from calrec_jax.recommend.prefix import Prefix

SCORES = ("sum", "mean")
"""Log-probability of a text, and that over its tokens."""

_TOGETHER = 8
_LENGTH_STEP = 32


class TextScorer:
  """Scores unique texts of one catalogue after prompts that were read."""

  def __init__(self, model: DomainModel):
    """Takes the model and its catalogue."""
    self._model, self._texts = model, model.text_tokens
    self._lengths = np.diff(self._texts.offsets)
    self._score = functools.partial(
      log_likelihood, model.decoder, model.params, mesh=model.mesh
    )

  def __call__(
    self, prefix: Prefix, columns: Int[np.ndarray, "B K"], score: str
  ) -> Float[np.ndarray, "B K"]:
    """Scores in nats, or in nats a token; -inf for column -1.

    Args:
      prefix: Prompts that were read.
      columns: Requested texts of each, -1 for none.
      score: One of `SCORES`.
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
    requested: np.ndarray,
    length: int,
    found: Float[np.ndarray, "B K"],
  ) -> None:
    """Fills in the requested ones, which all fit into the same length."""
    # The requested ones of every row first.
    order = np.argsort(~requested, axis=1, kind="stable")
    most = int(requested.sum(axis=1).max())
    for start in range(0, most, _TOGETHER):
      places = order[:, start : start + _TOGETHER]
      real = np.take_along_axis(requested, places, axis=1)
      tokens = np.zeros((len(columns), _TOGETHER, length), np.int32)
      lengths = np.zeros(tokens.shape[:2], np.int32)
      for row, place in zip(*np.nonzero(real), strict=True):
        column = columns[row, places[row, place]]
        begin, end = self._texts.offsets[column : column + 2]
        lengths[row, place] = end - begin
        tokens[row, place, : end - begin] = self._texts.values[begin:end]
      scores = np.asarray(
        self._score(prefix, *self._model.place((tokens, lengths)))
      )
      for row, place in zip(*np.nonzero(real), strict=True):
        found[row, places[row, place]] = scores[row, place]
