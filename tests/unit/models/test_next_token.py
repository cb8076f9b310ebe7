"""The loss holds neither a batch's logits nor its weights once a chunk."""

import jax
import jax.numpy as jnp

from calrec_jax.data.feed.batch import Batch
from calrec_jax.models import next_token
from calrec_jax.models.objective import Objective
from tests.fixtures import model_toys

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


def test_the_output_weights_are_not_saved_for_every_chunk():
  vocab, width = 1024, 32

  def loss(output, hidden, tokens, weights):
    def logits_of(output, part):
      return jnp.einsum(
        "rcd,vd->rcv",
        part,
        output.astype(jnp.bfloat16),
        preferred_element_type=jnp.float32,
      )

    nats, _ = next_token.chunked_cross_entropy(
      logits_of,
      output,
      hidden,
      tokens,
      weights,
      axes=("vocab", "embed"),
      dtype=jnp.bfloat16,
      chunk_tokens=CHUNK,
    )
    return nats.mean()

  text = str(
    jax.make_jaxpr(jax.grad(loss, (0, 1)))(
      jnp.zeros((vocab, width)),
      jnp.zeros((ROWS, LENGTH, width), jnp.bfloat16),
      jnp.zeros((ROWS, LENGTH), jnp.int32),
      jnp.ones((ROWS, LENGTH)),
    )
  )
  chunks = LENGTH // CHUNK
  assert f"[{vocab},{width}]" in text
  assert f"[{chunks},{vocab},{width}]" not in text
  assert f"[{chunks},{ROWS},{CHUNK},{width}]" in text  # The search finds.
