"""SASRec on eight devices: the same losses, step and lists as on one."""

import jax
import numpy as np
import pytest

from calrec_jax.data.cache.item_ids import FIRST_TOKEN, ItemDomain
from calrec_jax.models.next_item import NextItem
from calrec_jax.recommend import candidates
from calrec_jax.recommend.dense.sasrec import SASRecRecommender, SASRecSearch
from calrec_jax.runtime import partitioning
from calrec_jax.runtime.partitioning import MeshShape
from calrec_jax.train import optimizers, train_step
from calrec_jax.train import state as states
from tests.fixtures import sasrec_toys

SAME = 1e-5  # Float32, sums in another order; relative to the largest entry.
NOISE = 0.1  # Largest entries below it are compared absolutely.
MIXED = MeshShape(replica=2, data=1, fsdp=2, tensor=2)
ROWS = [[[3, 1, 4], [1, 5]], [], [[9, 2, 6, 5, 3]], [[5, 8, 9]]]


def step_of(objective):
  module, _ = sasrec_toys.model()
  # An epsilon far above the noise of float32, which Adam would make a step of:
  # the bias of the keys moves no softmax, its gradient is noise alone.
  optimizer = optimizers.adamw(optimizers.constant(0.01), eps=1e-2)
  return (
    module,
    optimizer,
    train_step.make_train_step(module, objective, optimizer),
  )


@pytest.mark.slow
@pytest.mark.parametrize("negatives", [None, 3])
def test_a_step_on_a_mesh_equals_that_of_one_device(negatives):
  module, optimizer, step = step_of(NextItem(negatives=negatives))
  batch = sasrec_toys.pack(ROWS, row_tokens=8)
  boxed = states.abstract_state(module, optimizer)
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shardings = jax.tree.map(lambda _: here, partitioning.unbox(boxed))
  state = states.create_state(module, optimizer, shardings, seed=7)
  expected = jax.jit(step)(state, batch)
  mesh = partitioning.make_mesh(MIXED)
  rules = partitioning.logical_axis_rules()
  with partitioning.activate(mesh, rules):
    spread = partitioning.state_shardings(boxed, mesh, rules)
    found = jax.jit(step)(
      jax.device_put(state, spread),
      jax.device_put(batch, partitioning.batch_sharding(mesh)),
    )
  leaves, _ = jax.tree_util.tree_flatten_with_path(found)
  for (path, left), right in zip(
    leaves, jax.tree.leaves(expected), strict=True
  ):
    largest = np.abs(np.asarray(right)).max(initial=NOISE)
    np.testing.assert_allclose(
      left, right, atol=SAME * largest, err_msg=jax.tree_util.keystr(path)
    )
  table = found[0].params["item_embedding"]
  assert {shard.data.shape for shard in table.addressable_shards} == {(64, 4)}


def test_lists_on_a_mesh_equal_those_of_one_device():
  module, params = sasrec_toys.model()
  histories = sasrec_toys.histories(users=5)

  def recommend():
    recommender = SASRecRecommender(
      module,
      params,
      ItemDomain("shop", sasrec_toys.ITEMS, FIRST_TOKEN, ""),
      settings=SASRecSearch(user_rows=2, chunk=2),
    )
    return recommender.recommend(histories, depth=4, rules=candidates.RULES)

  alone = recommend()
  mesh = partitioning.make_mesh(MIXED)
  with partitioning.activate(mesh, partitioning.logical_axis_rules()):
    spread = recommend()
  for rule in candidates.RULES:
    np.testing.assert_array_equal(spread[rule].items, alone[rule].items)
    np.testing.assert_allclose(
      spread[rule].scores, alone[rule].scores, rtol=SAME, atol=SAME
    )
