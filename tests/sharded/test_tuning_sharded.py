"""LoRA and Adafactor on eight devices: the numbers of one, where they belong.

Adafactor's means of rows and columns lie along the axes that are left.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from calrec_jax.models import lora as loras
from calrec_jax.models.decoder import Decoder, DecoderConfig
from calrec_jax.models.lora import Lora
from calrec_jax.models.objective import Objective
from calrec_jax.models.tuning import EVERYTHING, Tuning
from calrec_jax.runtime import partitioning
from calrec_jax.runtime.partitioning import MeshShape
from calrec_jax.train import checkpointing, optimizers, train_step
from calrec_jax.train import state as states
from tests.fixtures import document_toys

SAME = 1e-5  # Float32, sums in another order; relative to the largest entry.
MESH = MeshShape(replica=2, data=1, fsdp=2, tensor=2)
OTHER_MESH = MeshShape(data=1, fsdp=8)
OBJECTIVE = Objective(alpha=0.3, beta=0.2, loss_chunk_tokens=16)


@dataclasses.dataclass(frozen=True)
class Case:
  decoder: Decoder
  optimizer: Any
  tuning: Tuning

  def abstract(self):
    return states.abstract_state(self.decoder, self.optimizer, self.tuning)

  def created(self, shardings):
    return states.create_state(
      self.decoder, self.optimizer, shardings, 7, self.tuning
    )

  @functools.cached_property
  def step(self):
    return train_step.make_train_step(
      self.decoder, OBJECTIVE, self.optimizer, self.tuning
    )


CASES = {
  "lora": Case(
    Decoder(DecoderConfig(**document_toys.GEMMA, lora=Lora(rank=3))),
    # An epsilon far above the noise of float32, of which Adam would make a
    # step: the gradients are small, as the matrices are.
    optimizers.adamw(optimizers.constant(0.1), eps=0.1),
    Tuning(trainable=("lora_[ab]$",), frozen_dtype="bfloat16"),
  ),
  "adafactor": Case(
    document_toys.decoder()[0],
    optimizers.adafactor(
      optimizers.constant(0.1), min_factored_size=8, weight_decay=0.1
    ),
    EVERYTHING,
  ),
}


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
  """Eight rows, two of them empty."""
  cache = document_toys.cache(tmp_path_factory.mktemp("cache"))
  one, two, three, four = document_toys.DOCUMENTS
  layout = [[one], [], [two, four], [three], [four], [], [two], [one, two]]
  return document_toys.rows(cache, layout)


@pytest.fixture(scope="module")
def alone(batch):
  """A case on one device: state, stepped state and metrics."""

  @functools.cache
  def run(name):
    case = CASES[name]
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = partitioning.unbox(case.abstract())
    state = case.created(jax.tree.map(lambda _: here, abstract))
    state = state._replace(params=with_full_b(state.params))
    step = jax.jit(case.step)
    return state, *step(state, document_toys.on_device(batch))

  return run


def with_full_b(params):
  """A starts to learn when B is not zero any more."""
  draw = np.random.default_rng(3)
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: (
      leaf + 0.1 * draw.normal(size=leaf.shape).astype(np.float32)
      if path[-1].key == "lora_b"
      else leaf
    ),
    params,
  )


def shardings_of(case, mesh):
  return partitioning.state_shardings(
    case.abstract(), mesh, partitioning.logical_axis_rules()
  )


def assert_same(found, wanted):
  leaves, _ = jax.tree_util.tree_flatten_with_path(found)
  for (path, left), right in zip(leaves, jax.tree.leaves(wanted), strict=True):
    left, right = (np.asarray(leaf, np.float32) for leaf in (left, right))
    largest = np.abs(right).max(initial=0)
    np.testing.assert_allclose(
      left, right, atol=SAME * largest, err_msg=jax.tree_util.keystr(path)
    )


def assert_lies(array, sharding):
  assert array.sharding.is_equivalent_to(sharding, array.ndim)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "adafactor"])
def test_a_step_on_a_mesh_equals_that_of_one_device(
  name, batch, alone, tmp_path
):
  case, mesh = CASES[name], partitioning.make_mesh(MESH)
  before, first, metrics = alone(name)
  shardings = shardings_of(case, mesh)
  with partitioning.activate(mesh, partitioning.logical_axis_rules()):
    placed = jax.device_put(batch, partitioning.batch_sharding(mesh))
    found, measured = jax.jit(case.step)(
      jax.device_put(before, shardings), placed
    )
  assert_same(found, first)
  assert_same(measured, metrics)
  jax.tree.map(assert_lies, found, shardings)
  # Saved there, it comes back on another mesh, moments and all.
  opened = checkpointing.Checkpoints(
    tmp_path, checkpointing.CheckpointPolicy(best_metric="")
  )
  opened.save(found, step=1, feed={}, lineage={}, vocabulary={}, metrics=None)
  opened.wait()
  shardings = shardings_of(case, partitioning.make_mesh(OTHER_MESH))
  restored, _ = opened.restore(
    1, partitioning.unbox(case.abstract()), shardings
  )
  opened.close()
  jax.tree.map(assert_lies, restored, shardings)
  jax.tree.map(np.testing.assert_array_equal, restored, found)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_state_is_created_where_it_belongs(name, alone):
  case, mesh = CASES[name], partitioning.make_mesh(MESH)
  with partitioning.activate(mesh, partitioning.logical_axis_rules()):
    state = case.created(shardings_of(case, mesh))
  before = alone(name)[0]
  assert_same(
    loras.without_lora(state.params), loras.without_lora(before.params)
  )
  assert_same(state.opt_state, before.opt_state)


def test_thin_matrices_are_split_along_the_axes_of_their_kernel():
  mesh = partitioning.make_mesh(MESH)
  layers = shardings_of(CASES["lora"], mesh).params["layers"]
  out, wi = layers["attention"]["out"], layers["mlp"]["wi_0"]
  assert {
    "wi_a": wi["lora_a"].spec,
    "wi_b": wi["lora_b"].spec,
    "out_a": out["lora_a"].spec,
    "out_b": out["lora_b"].spec,
  } == {
    "wi_a": PartitionSpec(None, "fsdp", None),
    "wi_b": PartitionSpec(None, None, "tensor"),
    "out_a": PartitionSpec(None, "tensor", None, None),
    "out_b": PartitionSpec(None, None, "fsdp"),
  }


def test_means_lie_along_the_axes_that_are_left():
  mesh = partitioning.make_mesh(MESH)
  state = shardings_of(CASES["adafactor"], mesh).opt_state
  is_factored = lambda part: hasattr(part, "v_row")  # noqa: E731
  [moments] = filter(is_factored, jax.tree.leaves(state, is_leaf=is_factored))
  # [layers, embed 16, mlp 24], split over fsdp and tensor.
  rows, columns = (
    tree["layers"]["mlp"]["wi_0"]["kernel"].spec
    for tree in (moments.v_row, moments.v_col)
  )
  assert rows == PartitionSpec(None, "fsdp")
  assert columns == PartitionSpec(None, "tensor")
