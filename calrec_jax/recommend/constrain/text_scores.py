"""The model's own log-probability of catalogue texts, many per prompt.

Texts are read by few programs: a fixed number together, padded to a length
that depends on the text alone, so a score does not depend on its batch.
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
    self, prefix: Prefix, texts: Int[np.ndarray, "B K"], score: str
  ) -> Float[np.ndarray, "B K"]:
    """Scores in nats, or in nats per token; -inf for text -1.

    Args:
      prefix: Prompts that were read.
      texts: Ids of the requested texts of each, -1 for none.
      score: One of `SCORES`.
    """
    found = np.full(texts.shape, -np.inf, np.float32)
    lengths = np.where(texts >= 0, self._lengths[texts], 0)
    steps = -(-lengths // _LENGTH_STEP)
    for step in np.unique(steps[steps > 0]):
      length = int(step) * _LENGTH_STEP
      self._add(prefix, texts, steps == step, length, found)
    if not np.isfinite(found[texts >= 0]).all():
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
    texts: Int[np.ndarray, "B K"],
    requested: np.ndarray,
    length: int,
    found: Float[np.ndarray, "B K"],
  ) -> None:
    """Fills in the requested ones, which all fit into the same length."""
    # The requested ones of every row first.
    order = np.argsort(~requested, axis=1, kind="stable")
    most = int(requested.sum(axis=1).max())
    for start in range(0, most, _TOGETHER):
      indices = order[:, start : start + _TOGETHER]
      real = np.take_along_axis(requested, indices, axis=1)
      rows, at = np.nonzero(real)
      indices = indices[rows, at]
      tokens = np.zeros((len(texts), _TOGETHER, length), np.int32)
      lengths = np.zeros(tokens.shape[:2], np.int32)
      for row, to, text in zip(rows, at, texts[rows, indices], strict=True):
        begin, end = self._texts.offsets[text : text + 2]
        lengths[row, to] = end - begin
        tokens[row, to, : end - begin] = self._texts.values[begin:end]
      scores = self._score(prefix, *self._model.place((tokens, lengths)))
      found[rows, indices] = np.asarray(scores)[rows, at]
