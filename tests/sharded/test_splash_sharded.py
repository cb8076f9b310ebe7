"""The attention kernel on devices that split rows and heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calrec_jax.models import attention, splash
from calrec_jax.runtime import partitioning

# float32, sums in another order.
CLOSE = {"rtol": 2e-5, "atol": 1e-5}
LENGTH, ROWS, FEATURES = 128, 4, 128


def _inputs(kv_heads):
  draw = np.random.default_rng(0)
  query = draw.normal(size=(ROWS, LENGTH, 4, FEATURES))
  key, value = draw.normal(size=(2, ROWS, LENGTH, kv_heads, FEATURES))
  segments = np.sort(draw.integers(1, 4, size=(ROWS, LENGTH)), axis=1)
  starts = [[np.flatnonzero(row == s)[0] for s in row] for row in segments]
  positions = np.arange(LENGTH) - np.array(starts)
  return (
    *(jnp.asarray(array, jnp.float32) for array in (query, key, value)),
    jnp.asarray(positions, jnp.int32),
    jnp.asarray(segments, jnp.int32),
  )


# Key heads are split as query heads are, or there are too few for that.
@pytest.mark.parametrize(
  ("kv_heads", "shape"),
  [
    (2, {"data": 2, "fsdp": 2, "tensor": 2}),
    pytest.param(
      2, {"data": 1, "fsdp": 2, "tensor": 4}, marks=pytest.mark.slow
    ),
  ],
)
def test_as_on_one_device(kv_heads, shape):
  *arrays, positions, segments = _inputs(kv_heads)

  def kernel(query, key, value):
    return splash.attend(
      query,
      key,
      value,
      segment_ids=segments,
      kind=jnp.int32(1),
      windows=(None, 50),
      scale=0.1,
    )

  def xla(query, key, value):
    return attention.attend(
      query,
      key,
      value,
      positions=positions,
      segment_ids=segments,
      scale=0.1,
      window=50,
    )

  def gradients(function):
    return jax.jit(
      jax.grad(lambda *a: jnp.sum(jnp.sin(function(*a))), (0, 1, 2))
    )(*arrays)

  wanted = gradients(xla)
  mesh = partitioning.make_mesh(partitioning.MeshShape(**shape))
  rules = partitioning.logical_axis_rules()
  with partitioning.activate(mesh, rules):
    found = gradients(kernel)
  for one, other in zip(found, wanted, strict=True):
    np.testing.assert_allclose(one, other, **CLOSE)


def test_rows_that_devices_cannot_split_are_left_to_xla():
  mesh = partitioning.make_mesh(partitioning.MeshShape(data=4, tensor=2))
  with partitioning.activate(mesh, partitioning.logical_axis_rules()):
    assert splash.applies("splash", 8, LENGTH)
    assert not splash.applies("splash", 6, LENGTH)
    assert not splash.applies("splash", 8, LENGTH + 1)
    assert not splash.applies("auto", 8, LENGTH)  # No TPU.
  assert splash.applies("splash", 1, LENGTH)
