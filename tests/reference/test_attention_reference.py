"""Attention of packed rows against loops over rows, heads and keys."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calrec_jax.models import attention
from tests.fixtures import model_toys

EXACT = 2e-6  # float32 sums of a few dozen terms of size 1.


def _reference(query, key, value, positions, segments, scale, window, cap):
  rows, length, heads, features = query.shape
  shared = heads // key.shape[2]
  output = np.zeros((rows, length, heads, features))
  for row in range(rows):
    for at in range(length):
      if not segments[row, at]:
        continue
      for head in range(heads):
        scores, values = [], []
        for other in range(length):
          distance = positions[row, at] - positions[row, other]
          if segments[row, other] != segments[row, at] or distance < 0:
            continue
          if window is not None and distance >= window:
            continue
          score = scale * float(
            query[row, at, head] @ key[row, other, head // shared]
          )
          scores.append(cap * math.tanh(score / cap) if cap else score)
          values.append(value[row, other, head // shared])
        chances = np.exp(np.array(scores) - max(scores))
        output[row, at, head] = chances / chances.sum() @ np.array(values)
  return output


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize(
  ("window", "cap", "blocks", "length"),
  [(None, None, 1, 40), (7, None, 4, 150), (None, 1.5, 3, 150)],
)
def test_packed_rows(kv_heads, window, cap, blocks, length):
  draw = np.random.default_rng(0)
  query = draw.normal(size=(2, length, 4, 8))
  key, value = draw.normal(size=(2, 2, length, kv_heads, 8))
  packed = [
    model_toys.packed_row((length // 2, 5, 1, length // 4), length),
    model_toys.packed_row((9,), length),
  ]
  positions, segments = (np.stack(part) for part in zip(*packed, strict=True))
  settings = {"scale": 0.4, "window": window, "softcap": cap}
  found = attention.attend(
    *(jnp.asarray(part, jnp.float32) for part in (query, key, value)),
    positions=jnp.asarray(positions),
    segment_ids=jnp.asarray(segments),
    blocks=blocks,
    **settings,
  )
  wanted = _reference(query, key, value, positions, segments, 0.4, window, cap)
  real = segments > 0
  np.testing.assert_allclose(
    np.asarray(found)[real], wanted[real], atol=EXACT, rtol=EXACT
  )
  assert np.isfinite(found).all()


def test_blocks_do_not_change_gradients():
  draw = np.random.default_rng(1)
  query, key, value = draw.normal(size=(3, 2, 130, 2, 4)).astype(np.float32)
  positions, segments = (
    jnp.asarray(np.stack([part] * 2))
    for part in model_toys.packed_row((70, 40), 130)
  )

  def total(inputs, blocks):
    output = attention.attend(
      *inputs,
      positions=positions,
      segment_ids=segments,
      scale=0.5,
      blocks=blocks,
    )
    real = (segments > 0)[..., None, None]
    return jnp.sum(jnp.where(real, output, 0.0) ** 2)

  one, three = (
    jax.jit(jax.grad(total), static_argnums=1)((query, key, value), blocks)
    for blocks in (1, 3)
  )
  for left, right in zip(one, three, strict=True):
    np.testing.assert_allclose(left, right, atol=2e-5, rtol=2e-5)
    assert np.isfinite(left).all()
