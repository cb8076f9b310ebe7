"""A product with shared weights equals the plain one, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calrec_jax.models import fsdp
from calrec_jax.runtime import partitioning

TOLERANCE = 1e-5  # Float32 sums in another order.
WIDTH, HEADS, FEATURES, TOKENS = 16, 4, 3, 24
MESHES = {
  "fsdp": {"data": 1, "fsdp": 8},
  "all axes": {"replica": 2, "data": 1, "fsdp": 2, "tensor": 2},
  "copies only": {"data": 8},
}


def _arrays():
  draw = np.random.default_rng(0).normal
  return (
    draw(size=(WIDTH, HEADS, FEATURES)).astype(np.float32),
    draw(size=(TOKENS, WIDTH)).astype(np.float32),
    draw(size=(TOKENS, HEADS, FEATURES)).astype(np.float32),
  )


def _loss(weights, rows, wanted):
  result = fsdp.product(rows, weights, ("embed", "heads", "kv"), jnp.float32)
  return jnp.sum((result - wanted) ** 2)


def _compiled(shape, arrays):
  mesh = partitioning.make_mesh(partitioning.MeshShape(**shape))
  rules = partitioning.logical_axis_rules()
  spec = partitioning.partition_spec(("embed", "heads", "kv"), rules)
  by_row = partitioning.batch_sharding(mesh)
  shardings = (jax.sharding.NamedSharding(mesh, spec), by_row, by_row)
  with partitioning.activate(mesh, rules):
    program = jax.jit(
      jax.value_and_grad(_loss, (0, 1)),
      in_shardings=shardings,
      out_shardings=(None, shardings[:2]),
    )
    return program.lower(*arrays).compile()


@pytest.mark.parametrize("name", MESHES)
def test_value_and_gradients(name):
  arrays = _arrays()
  weights, rows, wanted = (array.astype(np.float64) for array in arrays)
  error = np.tensordot(rows, weights, 1) - wanted
  loss, (of_weights, of_rows) = _compiled(MESHES[name], arrays)(*arrays)
  np.testing.assert_allclose(loss, (error**2).sum(), rtol=TOLERANCE)
  np.testing.assert_allclose(
    of_weights, 2 * np.einsum("tw,thf->whf", rows, error), rtol=1e-4, atol=1e-4
  )
  np.testing.assert_allclose(
    of_rows, 2 * np.einsum("whf,thf->tw", weights, error), rtol=1e-4, atol=1e-4
  )


def test_inputs_that_are_split_are_summed():
  draw = np.random.default_rng(1).normal
  weights = draw(size=(HEADS, FEATURES, WIDTH)).astype(np.float32)
  rows = draw(size=(TOKENS, HEADS, FEATURES)).astype(np.float32)
  mesh = partitioning.make_mesh(
    partitioning.MeshShape(data=2, fsdp=2, tensor=2)
  )

  def loss(rows, weights):
    result = fsdp.product(
      rows, weights, ("heads", "kv", "embed"), jnp.float32, num_inputs=2
    )
    return jnp.sum(result**2), result

  with partitioning.activate(mesh, partitioning.logical_axis_rules()):
    program = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (_, result), (of_rows, of_weights) = program(rows, weights)
  plain = np.tensordot(rows.astype(np.float64), weights, 2)
  np.testing.assert_allclose(result, plain, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(
    of_rows, 2 * np.einsum("tw,hfw->thf", plain, weights), rtol=1e-4, atol=1e-3
  )
  np.testing.assert_allclose(
    of_weights, 2 * np.einsum("tw,thf->hfw", plain, rows), rtol=1e-4, atol=1e-3
  )


def test_gradients_are_summed_and_split_at_once():
  text = _compiled(MESHES["fsdp"], _arrays()).as_text()
  assert "reduce-scatter" in text
  assert "all-gather" in text
  assert "collective-permute" not in text


def test_without_a_mesh_it_is_the_product_alone():
  weights, rows, wanted = _arrays()
  plain = np.sum((np.tensordot(rows, weights, 1) - wanted) ** 2)
  found = _loss(*map(jnp.asarray, _arrays()))
  np.testing.assert_allclose(found, plain, rtol=TOLERANCE)
