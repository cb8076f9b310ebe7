"""One global order of training, whatever the workers and where it resumes."""

import dataclasses
import json
import os
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from calrec_jax.data.feed.batch import Batch
from calrec_jax.data.feed.feed import Feed
from tests.fixtures import synthetic_caches

FEED = Feed(row_tokens=96, row_slots=10, rows=8, context=2, epoch_users=30)
TESTS = pathlib.Path(__file__).parents[1]

# Run as a program: Grain's worker processes import the main module again.
_WITH_WORKERS = """
import pickle, sys
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.feed.feed import Feed

if __name__ == "__main__":
  paths, out = sys.argv[1:-1], sys.argv[-1]
  feed = Feed(
    row_tokens=96, row_slots=10, rows=8, context=2, epoch_users=30, workers=2
  )
  reader = feed.open([TokenCache.open(path) for path in paths])
  batches = dict(reader.iterator(3, 8))
  with open(out, "wb") as file:
    pickle.dump({step: tuple(batch) for step, batch in batches.items()}, file)
"""


@pytest.fixture(scope="module")
def shops(tmp_path_factory):
  folder = tmp_path_factory.mktemp("shops")
  return [
    synthetic_caches.write_random(folder, name="shop", users=60, seed=1),
    synthetic_caches.write_random(folder, name="mart", users=25, seed=2),
  ]


def _assert_same(batch, other):
  for array, again in zip(batch, other, strict=True):
    np.testing.assert_array_equal(array, again)


@pytest.mark.parametrize("hosts", [2, 4, 8])
def test_any_number_of_hosts_sees_the_same_global_batches(shops, hosts):
  whole = FEED.open(shops)
  parts = [
    dataclasses.replace(FEED, shard_index=host, shard_count=hosts).open(shops)
    for host in range(hosts)
  ]
  for step in (0, 7, 120):
    local = [part.batch(step) for part in parts]
    _assert_same(
      whole.batch(step), Batch(*map(np.concatenate, zip(*local, strict=True)))
    )
  evaluations = [list(part.eval_batches("validation")) for part in parts]
  for batch, *local in zip(
    whole.eval_batches("validation"), *evaluations, strict=True
  ):
    _assert_same(batch, Batch(*map(np.concatenate, zip(*local, strict=True))))
  assert {part.fingerprint for part in parts} == {whole.fingerprint}


def test_resuming_needs_the_step_and_nothing_else(shops):
  straight = dict(FEED.open(shops).iterator(0, 200))
  resumed = dataclasses.replace(FEED, shard_index=1, shard_count=2).open(shops)
  for step, batch in resumed.iterator(150, 200):
    _assert_same(batch, Batch(*(array[4:] for array in straight[step])))


def test_resuming_from_a_checkpoint_on_another_number_of_hosts(shops):
  before = FEED.open(shops)
  state = json.loads(json.dumps(before.state(150)))
  after = dataclasses.replace(FEED, shard_index=3, shard_count=4).open(shops)
  step = after.resume(state)
  assert step == 150
  _assert_same(
    after.batch(step), Batch(*(array[6:] for array in before.batch(150)))
  )


def test_a_checkpoint_of_another_feed_is_refused(shops):
  state = FEED.open(shops).state(10)
  other = dataclasses.replace(FEED, seed=1, context=3).open(shops)
  with pytest.raises(
    ValueError, match=r"Feed\.context: was 2, is 3; Feed\.seed: was 0, is 1"
  ):
    other.resume(state)
  with pytest.raises(ValueError, match=r"cache mart: was '.*', is None"):
    FEED.open(shops[:1]).resume(state)


def test_worker_processes_change_nothing(shops, tmp_path):
  program = tmp_path / "with_workers.py"
  program.write_text(_WITH_WORKERS)
  out = tmp_path / "batches"
  subprocess.run(
    [sys.executable, program, *(shop.path for shop in shops), out],
    check=True,
    timeout=120,
    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    stderr=subprocess.DEVNULL,
  )
  batches = pickle.loads(out.read_bytes())
  assert list(batches) == [3, 4, 5, 6, 7]
  reader = FEED.open(shops)
  for step, batch in batches.items():
    _assert_same(batch, reader.batch(step))
