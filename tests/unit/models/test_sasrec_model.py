"""SASRec: the attention mask, the effect of packing, and dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calrec_jax.data.cache.item_ids import FIRST_TOKEN
from calrec_jax.models import next_item, sasrec
from calrec_jax.models.next_item import NextItem
from calrec_jax.models.sasrec import SASRecConfig
from tests.fixtures import sasrec_toys

pytestmark = pytest.mark.heavy

HISTORY = [3, 1, 4, 1, 5]
# The same sums in another order.
TOLERANCE = 1e-5


def alone(module, params, history):
  batch = sasrec_toys.pack([[history]], row_tokens=len(history))
  return sasrec_toys.hidden(module, params, batch)[0]


@pytest.mark.parametrize("positions", ["from_end", "from_start"])
@pytest.mark.parametrize("changed", range(1, len(HISTORY)))
def test_no_position_attends_to_a_later_item(positions, changed):
  module, params = sasrec_toys.model(positions=positions)
  other = list(HISTORY)
  other[changed] = 8
  before, after = (alone(module, params, at) for at in (HISTORY, other))
  np.testing.assert_array_equal(before[:changed], after[:changed])
  assert np.abs(before[changed] - after[changed]).max() > 0.01


def test_the_origin_of_positions_matters():
  longer = [7, *HISTORY]
  for positions, same in (("from_end", True), ("from_start", False)):
    module, params = sasrec_toys.model(positions=positions)
    # Without attention only the place of an item tells histories apart.
    params = jax.tree_util.tree_map_with_path(
      lambda path, leaf: (
        0.0 * leaf if "out" in jax.tree_util.keystr(path) else leaf
      ),
      params,
    )
    found = (
      alone(module, params, longer)[-2],
      alone(module, params, HISTORY)[-2],
    )
    assert np.allclose(*found, atol=TOLERANCE) == same


def test_packing_changes_nothing():
  module, params = sasrec_toys.model()
  documents = [[3, 1, 4], [1, 5, 9, 2], [6, 5]]
  packings = [
    [documents, [], []],
    [[documents[2]], [documents[1], documents[0]], []],
    [[document] for document in documents],
  ]
  objective = NextItem(loss_chunk_tokens=4)
  losses = [
    sasrec_toys.loss(
      objective, module, params, sasrec_toys.pack(rows, row_tokens=12)
    )[1]["loss_nig_nats"]
    for rows in packings
  ]
  for loss in losses[1:]:
    np.testing.assert_allclose(loss.total, losses[0].total, rtol=TOLERANCE)
    assert loss.weight == losses[0].weight == 2 + 3 + 1


def test_dropout_is_on_in_training_only():
  module, params = sasrec_toys.model()
  batch = sasrec_toys.pack([[HISTORY]])

  def loss(seed, module=module):
    return sasrec_toys.loss(NextItem(), module, params, batch, seed)[0]

  assert loss(1) == loss(1)
  assert loss(1) != loss(2)
  assert loss(None) not in (loss(1), loss(2))
  without, _ = sasrec_toys.model(dropout=0.0)
  assert loss(1, without) == loss(2, without)
  np.testing.assert_allclose(loss(1, without), loss(None), rtol=TOLERANCE)


def test_sampled_items_depend_on_the_steps_key_alone():
  module, params = sasrec_toys.model(dropout=0.0)
  batch = sasrec_toys.pack([[HISTORY], [[2, 7, 7]]])

  def loss(seed, objective):
    return sasrec_toys.loss(objective, module, params, batch, seed)[0]

  some = NextItem(negatives=3)
  assert loss(1, some) == loss(1, some)
  assert len({float(loss(seed, some)) for seed in range(4)}) == 4
  # Validation takes all items.
  assert loss(None, some) == loss(None, NextItem())
  drawn = next_item.sample_items(jax.random.key(0), (400,), sasrec_toys.ITEMS)
  assert set(np.asarray(drawn)) == set(
    range(FIRST_TOKEN, FIRST_TOKEN + sasrec_toys.ITEMS)
  )


def test_positions_before_the_end():
  segments = jnp.array([[1, 1, 1, 2, 2, 0, 0], [1, 2, 2, 2, 2, 2, 3]])
  assert sasrec.before_end(segments).tolist() == [
    [2, 1, 0, 1, 0, 1, 0],
    [0, 4, 3, 2, 1, 0, 0],
  ]


@pytest.mark.parametrize(
  ("changes", "named"),
  [
    ({"width": 9}, "must be a multiple of heads = 2"),
    ({"blocks": 0}, "SASRecConfig.blocks = 0: must be at least 1"),
    ({"dropout": 1.0}, r"SASRecConfig\.dropout = 1\.0"),
    ({"positions": "none"}, "'from_end', 'from_start'"),
    ({"dtype": "int8"}, r"SASRecConfig\.dtype"),
  ],
)
def test_shapes_that_no_model_has(changes, named):
  with pytest.raises(ValueError, match=named):
    SASRecConfig(**changes)


def test_the_table_has_a_row_for_every_item():
  config = SASRecConfig().for_vocabulary(1 + 130)
  assert (config.num_items, config.table_rows) == (130, 256)
  assert int(sasrec.is_item(config).sum()) == 130
  assert not bool(sasrec.is_item(config)[0])
  with pytest.raises(ValueError, match=r"SASRecConfig\.num_items = 130"):
    config.for_vocabulary(132)


def test_few_items_are_not_sampled():
  module, params = sasrec_toys.model()
  batch = sasrec_toys.pack([[HISTORY]])
  every, some, few = (
    NextItem(**settings)(module, params, batch, dropout_rng=jax.random.key(0))[
      0
    ]
    for settings in (
      {},
      {"negatives": 2},
      {"negatives": 2, "full_up_to": sasrec_toys.ITEMS},
    )
  )
  assert every == few
  assert every != some
