"""What a stage takes over from a parent whose LoRA is not its own."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from calrec_jax.checkpoint import restore as restoring
from calrec_jax.checkpoint import store
from calrec_jax.models import lora as loras
from calrec_jax.models.decoder import Decoder
from calrec_jax.models.lora import Lora
from calrec_jax.runtime import partitioning
from calrec_jax.train import checkpointing
from calrec_jax.train.state import TrainState
from tests.fixtures import model_toys

pytestmark = pytest.mark.heavy

SAME = 1e-5  # Float32, sums in another order.
TRAINED = Lora(rank=3, alpha=12.0, targets=("value", "wo"))


def config(lora):
  return model_toys.config(lora=lora)


def abstract(shape, dtype=jnp.float32, **axes):
  """Shapes and shardings of a decoder's parameters."""
  tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  boxed = jax.eval_shape(
    Decoder(shape).init, jax.random.key(0), tokens, tokens, tokens
  )["params"]
  mesh = partitioning.make_mesh(partitioning.MeshShape(**axes))
  shardings = partitioning.state_shardings(
    boxed, mesh, partitioning.logical_axis_rules()
  )
  plain = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype),
    partitioning.unbox(boxed),
  )
  return plain, shardings


@functools.cache
def drawn(lora, seed=0):
  numbers = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: jnp.asarray(numbers.normal(size=leaf.shape), leaf.dtype),
    abstract(config(lora))[0],
  )


def save(folder, lora, params):
  """A checkpoint as a stage writes it."""
  record = dataclasses.asdict(config(lora))
  opened = checkpointing.Checkpoints(
    folder, checkpointing.CheckpointPolicy(best_metric="")
  )
  opened.save(
    TrainState(jnp.zeros((), jnp.int32), params, {}, jnp.zeros(2, jnp.uint32)),
    step=1,
    feed={},
    lineage={"training": {"DecoderConfig": json.loads(json.dumps(record))}},
    vocabulary={},
    metrics=None,
  )
  opened.close()
  return folder / "checkpoint_1"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  return save(tmp_path_factory.mktemp("lora"), TRAINED, drawn(TRAINED))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
  return save(tmp_path_factory.mktemp("plain"), None, drawn(None))


def assert_equal(found, wanted, atol=0.0):
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=0, atol=atol),
    found,
    wanted,
  )


def restore(checkpoint, lora, fresh=None, **settings):
  shapes, shardings = abstract(config(lora), **settings)
  if fresh is not None:
    fresh = jax.device_put(fresh, shardings)
  params = restoring.restore_params(
    checkpoint, config(lora), shapes, shardings, fresh=fresh
  )
  jax.tree.map(assert_lies, params, shapes, shardings)
  return params


def assert_lies(leaf, shape, sharding):
  assert leaf.dtype == shape.dtype
  assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


def test_a_stage_with_the_same_lora_continues_with_it(trained):
  assert_equal(
    restore(trained, TRAINED, fresh=drawn(TRAINED, 1)), drawn(TRAINED)
  )


@pytest.mark.parametrize(
  "axes", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=str
)
def test_a_stage_without_lora_gets_the_merged_kernels(trained, axes):
  wanted = loras.merge_lora(drawn(TRAINED), config(TRAINED))
  kernel = wanted["layers"]["mlp"]["wo"]["kernel"]
  before = drawn(TRAINED)["layers"]["mlp"]["wo"]["kernel"]
  assert np.abs(kernel - before).max() > 1
  for fresh in (None, drawn(None, 1)):
    assert_equal(restore(trained, None, fresh, **axes), wanted, 10 * SAME)


def test_merged_kernels_are_stored_as_the_stage_wants_them(trained):
  wanted = loras.merge_lora(drawn(TRAINED), config(TRAINED))
  found = restore(trained, None, drawn(None, 1), dtype=jnp.bfloat16)
  assert_equal(
    jax.tree.map(lambda leaf: leaf.astype(jnp.float32), found),
    wanted,
    2**-8 * 20,  # Bfloat16 has eight bits, the largest number is below 20.
  )


def test_matrices_missing_in_the_source_start_fresh(plain):
  fresh = drawn(TRAINED, 1)
  found = restore(plain, TRAINED, fresh)
  assert_equal(loras.without_lora(found), drawn(None))
  assert_equal(loras.lora_leaves(found), loras.lora_leaves(fresh))


@pytest.mark.parametrize(
  "changes", [{"alpha": 24.0}, {"rank": 2}, {"targets": ("query",)}], ids=str
)
def test_another_lora_merges_the_parents_and_starts_fresh(trained, changes):
  other = dataclasses.replace(TRAINED, **changes)
  fresh = drawn(other, 1)
  found = restore(trained, other, fresh)
  merged = loras.merge_lora(drawn(TRAINED), config(TRAINED))
  assert_equal(loras.without_lora(found), merged, 10 * SAME)
  assert_equal(loras.lora_leaves(found), loras.lora_leaves(fresh))
  # An evaluation has nothing fresh to put there.
  with pytest.raises(store.CheckpointError, match=r"lora = None"):
    restore(trained, other)


def test_an_evaluation_of_matrices_that_are_not_there_is_refused(plain):
  with pytest.raises(store.CheckpointError, match="trained with None"):
    restore(plain, TRAINED)


def test_another_model_is_still_refused(trained):
  shape = model_toys.config(width=32)
  shapes, shardings = abstract(shape)
  with pytest.raises(store.CheckpointError, match="the model wants"):
    restoring.restore_params(trained, shape, shapes, shardings, fresh=shapes)


def test_matrices_without_their_settings_are_refused(tmp_path):
  checkpoint = save(tmp_path, None, drawn(TRAINED))
  with pytest.raises(store.CheckpointError, match="scaling is not known"):
    restore(checkpoint, None)


def test_the_leaves_of_lora_are_known_by_their_names():
  paths = traverse_util.flatten_dict(loras.lora_leaves(drawn(TRAINED)), sep="/")
  assert set(paths) == {
    f"layers/{name}/{leaf}"
    for name in ("attention/value", "mlp/wo")
    for leaf in loras.LEAVES
  }
