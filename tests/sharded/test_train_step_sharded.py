"""A whole training step on eight devices: the same state, where it belongs."""

import functools
import logging

import flax.linen as nn
import jax
import numpy as np
import pytest

from calrec_jax.models.objective import Objective
from calrec_jax.runtime import partitioning
from calrec_jax.runtime.partitioning import MeshShape
from calrec_jax.train import optimizers, train_step
from calrec_jax.train import state as states
from tests.fixtures import document_toys

SAME = 1e-5  # Float32, sums in another order; relative to the largest entry.
MESHES = {
  "data": MeshShape(data=8),
  "fsdp": MeshShape(data=1, fsdp=8),
  "tensor": MeshShape(data=4, tensor=2),
  "mixed": MeshShape(replica=2, data=1, fsdp=2, tensor=2),
}
_SLOW = pytest.mark.slow
REST = ("data", "tensor")  # "mixed" has their axes too.
OBJECTIVE = Objective(alpha=0.3, beta=0.2, loss_chunk_tokens=16)


@functools.cache
def decoder():
  return document_toys.decoder()[0]


@functools.cache
def optimizer():
  # An epsilon above the noise of float32: where a gradient is nothing but
  # noise, Adam would make a whole step of it.
  return optimizers.adamw(optimizers.constant(0.1), eps=1e-3)


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
  """Eight rows, two of them empty."""
  cache = document_toys.cache(tmp_path_factory.mktemp("cache"))
  one, two, three, four = document_toys.DOCUMENTS
  layout = [[one], [], [two, four], [three], [four], [], [two], [one, two]]
  return document_toys.rows(cache, layout)


def jitted_step():
  step = train_step.make_train_step(decoder(), OBJECTIVE, optimizer())
  return jax.jit(step)


@pytest.fixture(scope="module")
def alone(batch):
  """State, stepped state and metrics of one device."""
  boxed = states.abstract_state(decoder(), optimizer())
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shardings = jax.tree.map(lambda _: here, nn.meta.unbox(boxed))
  state = states.create_state(decoder(), optimizer(), shardings, seed=7)
  return state, *jitted_step()(state, document_toys.on_device(batch))


def assert_same(found, wanted):
  leaves, _ = jax.tree_util.tree_flatten_with_path(found)
  for (path, left), right in zip(leaves, jax.tree.leaves(wanted), strict=True):
    largest = np.abs(np.asarray(right)).max(initial=0)
    np.testing.assert_allclose(
      left, right, atol=SAME * largest, err_msg=jax.tree_util.keystr(path)
    )


@pytest.mark.parametrize(
  "name", ["fsdp", "mixed", *(pytest.param(n, marks=_SLOW) for n in REST)]
)
def test_a_step_on_a_mesh_equals_that_of_one_device(name, batch, alone, caplog):
  mesh = partitioning.make_mesh(MESHES[name])
  rules = partitioning.logical_axis_rules()
  with partitioning.activate(mesh, rules):
    boxed = states.abstract_state(decoder(), optimizer())
    shardings = partitioning.state_shardings(boxed, mesh, rules)
    state = jax.device_put(alone[0], shardings)
    placed = jax.device_put(batch, partitioning.batch_sharding(mesh))
    step = jitted_step()
    stepped, metrics = step(state, placed)
    with caplog.at_level(logging.WARNING), jax.log_compiles():
      step(stepped, placed)
  assert_same(stepped, alone[1])
  assert_same(metrics, alone[2])
  # What a step returns lies where it took it from, the moments of Adam too.
  jax.tree.map(assert_lies, stepped, shardings)
  # So that the next one finds its program.
  assert "Finished XLA compilation" not in caplog.text


def assert_lies(array, sharding):
  assert array.sharding.is_equivalent_to(sharding, array.ndim)


def test_a_state_is_created_where_it_belongs(alone):
  mesh = partitioning.make_mesh(MESHES["mixed"])
  rules = partitioning.logical_axis_rules()
  with partitioning.activate(mesh, rules):
    boxed = states.abstract_state(decoder(), optimizer())
    shardings = partitioning.state_shardings(boxed, mesh, rules)
    state = states.create_state(decoder(), optimizer(), shardings, seed=7)
  assert_same(state, alone[0])
  jax.tree.map(assert_lies, state, shardings)
  # [layers, embed, mlp] over fsdp 2 and tensor 2.
  for tree in (state.params, *moments(state)):
    kernel = tree["layers"]["mlp"]["wi_0"]["kernel"]
    assert kernel.shape == (2, 16, 24)
    assert {shard.data.shape for shard in kernel.addressable_shards} == {
      (2, 8, 12)
    }


def moments(state):
  """Adam's two, wherever optax keeps them."""
  is_adam = lambda part: hasattr(part, "mu")  # noqa: E731
  found = [
    part
    for part in jax.tree.leaves(state.opt_state, is_leaf=is_adam)
    if is_adam(part)
  ]
  assert len(found) == 1
  return nn.meta.unbox((found[0].mu, found[0].nu))
