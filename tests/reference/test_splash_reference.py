"""The TPU's attention kernel, interpreted, against XLA's attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calrec_jax.models import attention, splash
from tests.fixtures import model_toys

# float32, sums in another order.
CLOSE = {"rtol": 2e-5, "atol": 1e-5}


def _inputs(length, heads, kv_heads, features):
  draw = np.random.default_rng(0)
  query = draw.normal(size=(2, length, heads, features))
  key, value = draw.normal(size=(2, 2, length, kv_heads, features))
  rows = [
    model_toys.packed_row([length // 2, 19, 70], length),
    model_toys.packed_row([length - 30], length),
  ]
  positions, segments = (
    jnp.asarray(np.stack(part)) for part in zip(*rows, strict=True)
  )
  arrays = (jnp.asarray(x, jnp.float32) for x in (query, key, value))
  return (*arrays, positions, segments)


@pytest.mark.parametrize(
  ("kind", "windows", "cap", "kv_heads"),
  [(0, (None,), None, 1), (1, (None, 140), 5.0, 2)],
)
def test_forward_and_gradients(kind, windows, cap, kv_heads):
  *arrays, positions, segments = _inputs(384, 2, kv_heads, 128)
  weights = (
    jnp.asarray(
      np.random.default_rng(1).normal(size=arrays[0].shape), jnp.float32
    )
    * (segments > 0)[..., None, None]
  )

  def kernel(query, key, value):
    output = splash.attend(
      query,
      key,
      value,
      segment_ids=segments,
      kind=jnp.int32(kind),
      windows=windows,
      scale=0.1,
      softcap=cap,
    )
    return jnp.sum(output * weights)

  def xla(query, key, value):
    output = attention.attend(
      query,
      key,
      value,
      positions=positions,
      segment_ids=segments,
      scale=0.1,
      window=windows[kind],
      softcap=cap,
    )
    return jnp.sum(output * weights)

  found = jax.jit(jax.value_and_grad(kernel, argnums=(0, 1, 2)))(*arrays)
  wanted = jax.jit(jax.value_and_grad(xla, argnums=(0, 1, 2)))(*arrays)
  for one, other in zip(
    jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True
  ):
    np.testing.assert_allclose(one, other, **CLOSE)
