"""Attention inside packed rows against loops in NumPy and float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calrec_jax.models import attention

TOLERANCE = 1e-5  # Float32 values of the order of 1.
ROWS, LENGTH, HEADS, KV_HEADS, FEATURES = 2, 150, 4, 2, 6
SCALE = 0.4


def inputs(seed=0):
  numbers = np.random.default_rng(seed)
  shape = (ROWS, LENGTH)
  query = numbers.normal(size=(*shape, HEADS, FEATURES))
  key, value = numbers.normal(size=(2, *shape, KV_HEADS, FEATURES))
  positions, ids = np.zeros((2, *shape), np.int32)
  # Segments that cross the borders of blocks, and padding at the end.
  for row, lengths in enumerate([(100, 1, 30), (5, 60, 70, 15)]):
    at = 0
    for number, length in enumerate(lengths, 1):
      positions[row, at : at + length] = np.arange(length)
      ids[row, at : at + length] = number
      at += length
  return query, key, value, positions, ids


def loops(query, key, value, positions, ids, window, softcap):
  output = np.zeros((*query.shape[:3], FEATURES))
  for row, at, head in np.ndindex(ROWS, LENGTH, HEADS):
    shared = head // (HEADS // KV_HEADS)
    seen = [
      other
      for other in range(at + 1)
      if ids[row, other] == ids[row, at]
      and (
        window is None or positions[row, at] - positions[row, other] < window
      )
    ]
    scores = np.array([query[row, at, head] @ key[row, k, shared] for k in seen])
    scores *= SCALE
    if softcap is not None:
      scores = softcap * np.tanh(scores / softcap)
    weights = np.exp(scores - scores.max())
    output[row, at, head] = weights @ value[row, seen, shared] / weights.sum()
  return output


@pytest.mark.parametrize(
  ("window", "softcap"), [(None, None), (9, None), (70, 1.5)]
)
def test_blocks_equal_loops(window, softcap):
  query, key, value, positions, ids = inputs()
  wanted = loops(query, key, value, positions, ids, window, softcap)
  found = attention.attend(
    *(jnp.asarray(part, jnp.float32) for part in (query, key, value)),
    positions=jnp.asarray(positions),
    segment_ids=jnp.asarray(ids),
    scale=SCALE,
    window=window,
    softcap=softcap,
    blocks=3,
  )
  real = ids > 0
  np.testing.assert_allclose(found[real], wanted[real], atol=TOLERANCE)
  assert np.isfinite(found).all()


def test_gradient_equals_that_of_dense_attention():
  *arrays, positions, ids = inputs()
  arrays = [jnp.asarray(part, jnp.float32) for part in arrays]
  ids = jnp.asarray(ids)
  distance = positions[:, :, None] - positions[:, None]
  mask = (ids[:, :, None] == ids[:, None]) & (distance >= 0) & (distance < 40)
  # Padding is nobody's output.
  target = np.random.default_rng(1).normal(size=arrays[0].shape)
  target = jnp.asarray(target * (ids > 0)[..., None, None], jnp.float32)

  def dense(query, key, value):
    key, value = (jnp.repeat(part, 2, axis=2) for part in (key, value))
    scores = SCALE * jnp.einsum("rqhf,rmhf->rhqm", query, key)
    weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -1e9), axis=-1)
    return jnp.sum(target * jnp.einsum("rhqm,rmhf->rqhf", weights, value))

  def blocks(query, key, value):
    output = attention.attend(
      query,
      key,
      value,
      positions=jnp.asarray(positions),
      segment_ids=ids,
      scale=SCALE,
      window=40,
      blocks=3,
    )
    return jnp.sum(target * output)

  gradient = functools.partial(jax.grad, argnums=(0, 1, 2))
  wanted = jax.jit(gradient(dense))(*arrays)
  found = jax.jit(gradient(blocks))(*arrays)
  for one, other in zip(found, wanted, strict=True):
    np.testing.assert_allclose(one, other, atol=TOLERANCE)


def test_blocks_compute_nothing_above_the_diagonal():
  def products(blocks):
    """Scores that are computed for a row of 512 tokens and one head."""
    shape = jax.ShapeDtypeStruct((1, 512, 1, 4), jnp.float32)
    place = jax.ShapeDtypeStruct((1, 512), jnp.int32)

    def attend(array, place):
      return attention.attend(
        array,
        array,
        array,
        positions=place,
        segment_ids=place,
        scale=1.0,
        blocks=blocks,
      )

    lowered = jax.jit(attend).lower(shape, place)
    return lowered.cost_analysis()["flops"]

  quarter = products(4) / products(1)
  np.testing.assert_allclose(quarter, 10 / 16, rtol=0.01)
