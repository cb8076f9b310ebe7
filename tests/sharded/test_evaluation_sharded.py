"""The metrics are the same to the last digit on one device and on eight."""

import jax
import numpy as np
import pytest

from calrec_jax.data.records import History
from calrec_jax.evaluate import Bootstrap, Protocol, evaluate
from calrec_jax.recommend import prompts
from calrec_jax.recommend.dense import dense
from calrec_jax.recommend.fuse import fuse
from calrec_jax.recommend.generate import generate, sampling
from calrec_jax.runtime import partitioning
from tests.fixtures import recommend_toys as toys

LIMITS = prompts.PromptLimits(max_tokens=96, smallest_length=96)
USERS = 21


def users():
  draw = np.random.default_rng(3)
  return [
    History(f"u{number}", items, int(draw.integers(0, 24)))
    for number, items in enumerate(toys.histories(USERS))
  ]


def results(devices, batch_users):
  """An evaluation of the model's recommenders on this number of devices."""
  module, params = toys.decoder(layers=1)
  mesh = partitioning.make_mesh(
    partitioning.MeshShape(), jax.devices()[:devices]
  )
  with partitioning.activate(mesh, partitioning.logical_axis_rules()):
    params = jax.device_put(
      params, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    )
    model = toys.domain_model(decoder=module, params=params, limits=LIMITS)
    written = generate.GenerateAndGround(
      model,
      toys.Vocabulary(),
      sampler=sampling.Sampler(samples=3, temperature=3.0, rows=4),
    )
    near = dense.Dense(
      model,
      settings=dense.DenseSearch(user_rows=4, item_rows=4, chunk=4),
    )
    return evaluate(
      [written, near, fuse.Fused([written, near])],
      users(),
      toys.catalogue(),
      protocol=Protocol(
        metrics=("ndcg@10", "recall@10", "mrr"),
        bootstrap=Bootstrap(resamples=50),
        batch_users=batch_users,
      ),
      progress=False,
    )


@pytest.fixture(scope="module")
def single():
  return results(1, USERS)


def test_eight_devices_and_other_batches_change_no_number(single):
  many = results(8, 5)
  assert many.protocol == single.protocol
  assert many.cases == single.cases
  for name, entry in single.recommenders.items():
    other = many.recommenders[name]
    for key in entry.keys() - {"cost", "validity"}:
      assert entry[key] == other[key], (name, key)
    for rule, ranks in single.ranks[name].items():
      np.testing.assert_array_equal(many.ranks[name][rule], ranks)
