"""The loss never holds the logits of a whole batch."""

import jax
import jax.numpy as jnp
import model_toys

from calrec_jax.data.batch import Batch
from calrec_jax.models.objective import Objective

ROWS, LENGTH, CHUNK = 3, 64, 8


def _largest_logits(jaxpr):
  """Most elements of any float array whose last axis is the vocabulary."""
  largest = 0
  for equation in jaxpr.eqns:
    for variable in equation.outvars:
      shape = getattr(variable.aval, "shape", ())
      if len(shape) > 1 and shape[-1] == model_toys.VOCAB:
        largest = max(largest, variable.aval.size)
    for value in jax.tree.leaves(
      list(equation.params.values()), is_leaf=_is_program
    ):
      if _is_program(value):
        largest = max(largest, _largest_logits(getattr(value, "jaxpr", value)))
  return largest


def _is_program(value):
  return hasattr(getattr(value, "jaxpr", value), "eqns")


def _traced(chunk):
  decoder, params = model_toys.decoder()
  objective = Objective(loss_chunk_tokens=chunk)
  batch = jax.tree.map(jnp.asarray, Batch.empty(ROWS, LENGTH, 4))

  def loss(params):
    return objective(decoder, params, batch)[0]

  return jax.make_jaxpr(jax.value_and_grad(loss))(params).jaxpr


def test_no_array_of_all_logits_exists():
  assert _largest_logits(_traced(CHUNK)) == ROWS * CHUNK * model_toys.VOCAB
  # With one chunk there is such an array: the search does find it.
  whole = ROWS * LENGTH * model_toys.VOCAB
  assert _largest_logits(_traced(LENGTH)) == whole
