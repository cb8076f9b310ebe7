"""Exact search against full sorts, with ties, equal texts and exclusions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from calrec_jax.recommend import candidates
from calrec_jax.recommend.dense.topk import VectorIndex
from calrec_jax.recommend.dense.unique_texts import BestTexts, UniqueTexts

USERS, WIDTH, ITEMS, SIZE = 6, 4, 150, 3


def meshes():
  return [
    None,
    jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)),
    jax.make_mesh((2, 4), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2),
  ]


def small_integers(seed, *shape):
  """Products of these are exact in float32, so ties are ties everywhere."""
  return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def world(seed):
  """Items, many with identical text, and users with histories."""
  draw = np.random.default_rng(seed)
  first_rows = np.arange(ITEMS)
  for row in range(ITEMS):
    if draw.random() < 0.3:
      first_rows[row] = first_rows[draw.integers(0, row + 1)]
  texts = UniqueTexts(first_rows)
  vectors = small_integers(seed + 1, len(texts), SIZE)
  queries = small_integers(seed + 2, USERS, SIZE)
  histories = [
    draw.integers(0, ITEMS, draw.integers(1, WIDTH + 1)) for _ in range(USERS)
  ]
  return texts, vectors, queries, histories


def full_sort(scores, excluded, depth):
  rows = sorted(
    set(range(len(scores))) - set(excluded.tolist()),
    key=lambda row: (-scores[row], row),
  )
  listed, beyond = rows[:depth], rows[depth:]
  ties = sum(scores[row] == scores[listed[-1]] for row in beyond)
  return listed + [-1] * (depth - len(listed)), ties


@pytest.mark.parametrize("mesh", meshes(), ids=["one", "eight", "two-by-four"])
@pytest.mark.parametrize("depth", [3, 10, 200])
def test_lists_and_ties_are_those_of_a_full_sort(mesh, depth):
  cut_ties = 0
  for seed in range(0, 40, 10):
    texts, vectors, queries, histories = world(seed)
    index = VectorIndex(vectors, texts.sizes, chunk=16, mesh=mesh)
    own = candidates.exclusions(histories, "not_seen")
    own = np.pad(own, ((0, 0), (0, WIDTH - own.shape[1])), constant_values=-1)
    best = index.search(jnp.asarray(queries), texts.of(own), depth + WIDTH)
    best = type(best)(*map(np.asarray, best))
    scores = (queries @ vectors.T)[:, texts.ids]
    for rule in candidates.RULES:
      excluded = candidates.exclusions(histories, rule)
      ranking = BestTexts(best, own, texts).cut(excluded, depth)
      for user in range(USERS):
        items, ties = full_sort(scores[user], excluded[user], depth)
        assert ranking.items[user].tolist() == items
        assert ranking.tail_ties[user] == ties
        real = ranking.items[user] >= 0
        np.testing.assert_array_equal(
          ranking.scores[user][real], scores[user][ranking.items[user][real]]
        )
      cut_ties += np.count_nonzero(ranking.tail_ties)
  assert cut_ties > 0 or depth > ITEMS  # Else this proves little.


def test_every_mesh_gives_the_same_bits():
  draw = np.random.default_rng(0)
  vectors = draw.normal(size=(700, 16)).astype(np.float32)
  queries = jnp.asarray(draw.normal(size=(5, 16)).astype(np.float32))
  requested = draw.integers(0, 700, (5, 3)).astype(np.int32)
  sizes = np.ones(700, np.int32)
  first, *others = (
    VectorIndex(vectors, sizes, chunk=64, mesh=mesh).search(
      queries, requested, 20
    )
    for mesh in meshes()
  )
  for other in others:
    jax.tree.map(np.testing.assert_array_equal, first, other)


def test_scores_of_users_and_all_items_never_exist_at_once():
  users, items, depth = 64, 4096, 8
  index = VectorIndex(
    np.zeros((items, 8), np.float32),
    np.ones(items, np.int32),
    chunk=128,
    mesh=meshes()[1],
  )
  queries = jnp.zeros((users, 8))
  requested = np.zeros((users, 1), np.int32)
  from calrec_jax.recommend.dense import topk

  program = topk._program(index._mesh, index.chunk, depth, None)
  compiled = program.lower(
    index._vectors, index._sizes, queries, requested
  ).compile()
  memory = compiled.memory_analysis()
  assert memory.temp_size_in_bytes < 4 * users * items / 2


def test_only_the_first_are_sorted():
  # XLA sorts everything when it no longer sees that the first are wanted.
  index = VectorIndex(
    np.zeros((4096, 8), np.float32), np.ones(4096, np.int32), chunk=128
  )
  from calrec_jax.recommend.dense import topk

  compiled = (
    topk._program(None, index.chunk, 8, None)
    .lower(
      index._vectors,
      index._sizes,
      jnp.zeros((4, 8)),
      np.zeros((4, 1), np.int32),
    )
    .compile()
    .as_text()
  )
  assert " sort(" not in compiled
  assert "TopK" in compiled


@pytest.mark.parametrize("mesh", meshes(), ids=["one", "eight", "two-by-four"])
def test_an_approximate_search_finds_most_and_scores_exactly(mesh):
  draw = np.random.default_rng(2)
  vectors = small_integers(5, 3000, 6)
  queries = jnp.asarray(small_integers(6, 5, 6))
  sizes = draw.integers(1, 3, 3000).astype(np.int32)
  requested = draw.integers(0, 3000, (5, 2)).astype(np.int32)
  exact, approximate = (
    VectorIndex(
      vectors, sizes, chunk=64, mesh=mesh, recall_target=target
    ).search(queries, requested, 100)
    for target in (None, 0.9)
  )
  scores = np.asarray(queries) @ vectors.T
  indices = np.asarray(approximate.indices)
  np.testing.assert_array_equal(
    approximate.scores, np.take_along_axis(scores, indices, axis=1)
  )
  np.testing.assert_array_equal(approximate.requested, exact.requested)
  assert all(len(set(row)) == 100 for row in indices.tolist())
  # Among ties any vector will do, so the scores are compared.
  found = np.asarray(approximate.scores) >= np.asarray(exact.scores)[:, -1:]
  assert found.mean() >= 0.9


def test_vectors_that_are_no_numbers_are_refused():
  with pytest.raises(ValueError, match="NaN"):
    VectorIndex(
      np.full((2, 3), np.nan, np.float32), np.ones(2, np.int32), chunk=8
    )
