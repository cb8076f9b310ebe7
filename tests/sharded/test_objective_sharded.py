"""Eight devices compute what one computes, and hold the requested shards."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calrec_jax.models.objective import Objective
from calrec_jax.runtime import partitioning
from calrec_jax.runtime.partitioning import MeshShape
from tests.fixtures import model_toys

SAME = 1e-5  # Float32, sums in another order.
BFLOAT16 = 2e-2  # Relative; sums over devices are rounded to 8 bits.
MESHES = {
  "data": {"data": 8},
  "fsdp": {"data": 1, "fsdp": 8},
  "tensor": {"data": 2, "tensor": 4},
  "mixed": {"replica": 2, "data": 1, "fsdp": 2, "tensor": 2},
}
_SLOW = pytest.mark.slow  # "mixed" has its axis too.
OBJECTIVE = Objective(alpha=0.3, beta=0.2, loss_chunk_tokens=16)


def _decoder(**changes):
  shape = {**model_toys.GEMMA, "kv_heads": 4, "tied_embeddings": False}
  return model_toys.decoder(**{**shape, "layers": 2, **changes})


@functools.cache
def _batch():
  documents = model_toys.documents(count=12)
  rows = [documents[at : at + 2] for at in range(0, 12, 2)]
  # Rows of very different fill, and two without anything.
  return model_toys.pack([*rows[:2], [], *rows[2:], []], 96, 9)


def _loss(decoder, params, batch):
  return OBJECTIVE(decoder, params, batch)


def _gradient(decoder):
  return jax.value_and_grad(functools.partial(_loss, decoder), has_aux=True)


@functools.cache
def _alone():
  """Value and gradient on one device."""
  decoder, params = _decoder()
  return jax.jit(_gradient(decoder))(params, _batch())


@functools.cache
def _on_mesh(name, dtype="float32"):
  """Value and gradient on a mesh, their shardings, and the program's text."""
  decoder, params = _decoder(dtype=dtype)
  mesh = partitioning.make_mesh(MeshShape(**MESHES[name]))
  rules = partitioning.logical_axis_rules()
  blank = jnp.zeros((1, 2), jnp.int32)
  boxed = jax.eval_shape(decoder.init, jax.random.key(0), blank, blank, blank)
  shardings = partitioning.state_shardings(boxed["params"], mesh, rules)
  with partitioning.activate(mesh, rules):
    params = jax.device_put(params, shardings)
    batch = jax.device_put(_batch(), partitioning.batch_sharding(mesh))
    program = jax.jit(_gradient(decoder)).lower(params, batch).compile()
    return program(params, batch), shardings, program.as_text()


@pytest.mark.parametrize(
  "name", ["data", "fsdp", "mixed", pytest.param("tensor", marks=_SLOW)]
)
def test_loss_gradients_and_metrics(name):
  wanted = _alone()
  found, shardings, _ = _on_mesh(name)
  for left, right in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
    np.testing.assert_allclose(left, right, atol=SAME, rtol=SAME)
  # A gradient lives where its parameter lives: it is never whole anywhere.
  for gradient, sharding in zip(
    jax.tree.leaves(found[1]), jax.tree.leaves(shardings), strict=True
  ):
    assert gradient.sharding.is_equivalent_to(sharding, gradient.ndim)


@pytest.mark.slow
def test_bfloat16_on_a_mesh():
  decoder, params = _decoder(dtype="bfloat16")
  wanted, _ = jax.jit(functools.partial(_loss, decoder))(params, _batch())
  ((loss, _), _), _, _ = _on_mesh("mixed", "bfloat16")
  np.testing.assert_allclose(loss, wanted, rtol=BFLOAT16)


def test_no_device_receives_the_rows_of_others():
  """Only pooled vectors, ids and sums travel; no token's states, no logits."""
  _, _, text = _on_mesh("data")
  moves = r"= \(?\w+\[([\d,]*)\][^=]*? (?:all-gather|all-to-all|collective-p)"
  sizes = [
    int(np.prod([int(number) for number in shape.split(",") if number]))
    for shape in re.findall(moves, text)
  ]
  vectors = _batch().slot_items.size * _decoder()[0].config.width
  assert max(sizes) == vectors  # The in-batch negatives themselves do.


@pytest.mark.parametrize("name", ["data", "fsdp"])
def test_output_weights_travel_once_a_pass_not_once_a_chunk(name):
  _, _, text = _on_mesh(name)
  assert "shard_map/while" in text
  for line in text.splitlines():
    if re.search(r" (all-reduce|all-gather)(-start)?\(", line):
      assert "shard_map/while" not in line, line


def test_parameters_are_created_where_they_live():
  decoder, _ = _decoder()
  mesh = partitioning.make_mesh(MeshShape(**MESHES["mixed"]))
  rules = partitioning.logical_axis_rules()
  blank = jnp.zeros((1, 2), jnp.int32)

  def create(key):
    return decoder.init(key, blank, blank, blank)["params"]

  boxed = jax.eval_shape(create, jax.random.key(0))
  shardings = partitioning.state_shardings(boxed, mesh, rules)
  with partitioning.activate(mesh, rules):
    params = jax.jit(
      lambda key: nn.meta.unbox(create(key)), out_shardings=shardings
    )(jax.random.key(3))
  kernel = params["layers"]["mlp"]["wi_0"]["kernel"]
  assert kernel.addressable_shards[0].data.shape == (2, 8, 16)
  wanted = nn.meta.unbox(jax.jit(create)(jax.random.key(3)))
  for left, right in zip(*map(jax.tree.leaves, (params, wanted)), strict=True):
    np.testing.assert_allclose(left, right, atol=SAME)


def test_hidden_states_are_split_by_rows():
  decoder, params = _decoder()
  mesh = partitioning.make_mesh(MeshShape(**MESHES["mixed"]))
  rules = partitioning.logical_axis_rules()
  with partitioning.activate(mesh, rules):
    batch = jax.device_put(_batch(), partitioning.batch_sharding(mesh))
    hidden = jax.jit(decoder.apply)(
      {"params": params}, batch.tokens, batch.positions, batch.segment_ids
    )
  assert hidden.sharding.shard_shape(hidden.shape)[0] == 2
