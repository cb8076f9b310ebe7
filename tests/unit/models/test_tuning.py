"""Partial fine-tuning: the gradients of full training, for the chosen part."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from calrec_jax.checkpoint import store
from calrec_jax.errors import InputError
from calrec_jax.models.decoder import Decoder
from calrec_jax.models.objective import Objective
from calrec_jax.models.tuning import EVERYTHING, Tuning, TuningError, join
from calrec_jax.runtime import partitioning
from calrec_jax.train import checkpointing, optimizers, state, train_step
from tests.fixtures import model_toys

pytestmark = pytest.mark.heavy

# Float32; the compiler may fuse the smaller program otherwise.
SAME = 1e-6
OBJECTIVE = Objective(alpha=0.3, beta=0.2, loss_chunk_tokens=16)
MLP = Tuning(trainable=("mlp/w", "norm/scale$"))
STORED = Tuning(trainable=("attention/",), frozen_dtype="bfloat16")


@functools.cache
def decoder(**changes):
  return Decoder(model_toys.config(**changes))


@functools.cache
def batch():
  rows = [[document] for document in model_toys.documents(count=3)]
  return model_toys.pack(rows, row_tokens=64, row_slots=6)


@functools.cache
def created(tuning, optimizer=None, **changes):
  """A state on the first device."""
  optimizer = optimizer or optimizers.adamw(optimizers.constant(0.1))
  boxed = state.abstract_state(decoder(**changes), optimizer, tuning)
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shardings = jax.tree.map(lambda _: here, partitioning.unbox(boxed))
  return state.create_state(decoder(**changes), optimizer, shardings, 3, tuning)


@functools.cache
def step_of(tuning, optimizer=None):
  optimizer = optimizer or optimizers.adamw(optimizers.constant(0.1))
  return jax.jit(
    train_step.make_train_step(decoder(), OBJECTIVE, optimizer, tuning)
  )


def flat(tree):
  return traverse_util.flatten_dict(tree, sep="/")


def test_the_parts_are_the_whole_again():
  params = created(EVERYTHING).params
  trained, frozen = EVERYTHING.split(params)
  assert jax.tree.structure(trained) == jax.tree.structure(params)
  assert not frozen
  trained, frozen = MLP.split(params)
  assert set(flat(trained)) == {
    "layers/mlp/wi_0/kernel",
    "layers/mlp/wi_1/kernel",
    "layers/mlp/wo/kernel",
    "layers/pre_attention_norm/scale",
    "layers/pre_mlp_norm/scale",
    "decoder_norm/scale",
  }
  assert set(flat(trained)).isdisjoint(flat(frozen))
  whole = join(trained, frozen)
  assert jax.tree.structure(whole) == jax.tree.structure(params)


@pytest.mark.slow
def test_gradients_are_those_of_full_training():
  # With plain descent at rate 1 an update is the gradient.
  optimizer = optax.sgd(1.0)
  found, wanted = (
    step_of(tuning, optimizer)(created(tuning, optimizer), batch())[0]
    for tuning in (MLP, EVERYTHING)
  )
  before = flat(created(EVERYTHING, optimizer).params)
  for path, leaf in flat(wanted.params).items():
    gradient = before[path] - leaf
    assert np.abs(gradient).max() > 0, path
    if MLP.trains(path):
      np.testing.assert_allclose(
        before[path] - flat(found.params)[path],
        gradient,
        atol=SAME * np.abs(gradient).max() + 1e-7,
        err_msg=path,
      )
    else:
      np.testing.assert_array_equal(flat(found.params)[path], before[path])


@pytest.mark.parametrize("tuning", [MLP, STORED], ids=["mlp", "stored"])
def test_frozen_parameters_keep_their_bits(tuning):
  first = created(tuning)
  last = first
  for _ in range(3):
    last, _ = step_of(tuning)(last, batch())
  before, after = flat(first.params), flat(last.params)
  assert before.keys() == after.keys()
  for path, leaf in before.items():
    assert leaf.dtype == after[path].dtype
    moved = np.asarray(leaf).tobytes() != np.asarray(after[path]).tobytes()
    assert moved == tuning.trains(path), path


def test_frozen_parameters_have_no_optimizer_state():
  opt_state = created(MLP).opt_state
  trained, _ = MLP.split(created(MLP).params)
  shapes = sorted(leaf.shape for leaf in jax.tree.leaves(trained))
  moments = sorted(
    leaf.shape for leaf in jax.tree.leaves(opt_state) if leaf.ndim
  )
  assert moments == sorted(2 * shapes)


def test_frozen_matrices_are_stored_in_their_dtype():
  full = flat(created(EVERYTHING).params)
  for path, leaf in flat(created(STORED).params).items():
    if STORED.trains(path) or path.endswith("scale"):
      assert leaf.dtype == jnp.float32, path
      np.testing.assert_array_equal(leaf, full[path], err_msg=path)
    else:
      assert leaf.dtype == jnp.bfloat16, path
      np.testing.assert_array_equal(leaf, full[path].astype(jnp.bfloat16))


def test_in_bfloat16_the_dtype_they_are_stored_in_changes_no_bit():
  module = decoder(dtype="bfloat16")
  stored, full = (
    created(Tuning(trainable=STORED.trainable, frozen_dtype=dtype)).params
    for dtype in ("bfloat16", None)
  )
  found, wanted = (
    jax.jit(OBJECTIVE, static_argnums=0)(module, params, batch())[0]
    for params in (stored, full)
  )
  assert float(found) == float(wanted)


def test_a_saved_state_resumes_bit_exactly(tmp_path):
  step = step_of(STORED)
  middle, _ = step(created(STORED), batch())
  opened = checkpointing.Checkpoints(
    tmp_path, checkpointing.CheckpointPolicy(best_metric="")
  )
  opened.save(middle, step=1, feed={}, lineage={}, vocabulary={}, metrics=None)
  opened.wait()
  shardings = jax.tree.map(lambda leaf: leaf.sharding, middle)
  abstract = jax.eval_shape(lambda: middle)
  restored, _ = opened.restore(1, abstract, shardings)
  opened.close()
  straight, again = (step(state, batch())[0] for state in (middle, restored))
  assert_same_bits(straight, again)
  # All parameters are on disk, and moments of the trained ones alone.
  stored = store.metadata(tmp_path / "checkpoint_1")
  assert {p for p in stored if p.startswith("target/")} == {
    f"target/{path}" for path in flat(middle.params)
  }
  moments = [path for path in stored if "/mu/" in path]
  assert moments
  assert all(STORED.trains(path) for path in moments)


def assert_same_bits(tree, other):
  assert jax.tree.structure(tree) == jax.tree.structure(other)
  for leaf, again in zip(
    jax.tree.leaves(tree), jax.tree.leaves(other), strict=True
  ):
    assert leaf.dtype == again.dtype
    assert np.asarray(leaf).tobytes() == np.asarray(again).tobytes()


@pytest.mark.parametrize(
  ("settings", "said"),
  [
    ({"trainable": ("atention/qurey",)}, r"'atention/qurey'.*attention/query"),
    ({"trainable": ("lora_[ab]$",)}, r"'lora_\[ab\]\$' matches no"),
    ({"trainable": ()}, r"train\s+nothing"),
  ],
)
def test_patterns_that_match_nothing_are_refused(settings, said):
  with pytest.raises(TuningError, match=said):
    created(Tuning(**settings))


@pytest.mark.parametrize(
  ("settings", "said"),
  [
    ({"trainable": "mlp"}, r"write \('mlp',\)"),
    ({"trainable": ("(",)}, "no regular expression"),
    ({"frozen_dtype": "int8"}, r"Tuning.frozen_dtype = 'int8'.*bfloat16"),
  ],
)
def test_settings_that_mean_nothing_are_refused(settings, said):
  with pytest.raises(InputError, match=said):
    Tuning(**settings)


def test_the_table_says_what_is_trained_and_what_it_costs():
  mesh = partitioning.make_mesh(partitioning.MeshShape(data=4, tensor=2))
  rules = partitioning.logical_axis_rules()
  tuning = Tuning(trainable=("wi_0",), frozen_dtype="bfloat16")
  optimizer = optimizers.adamw(optimizers.constant(0.1))
  boxed = state.abstract_state(decoder(), optimizer, tuning)
  table = partitioning.parameter_table(
    boxed.params, mesh, rules, tuning.frozen_paths(boxed.params)
  )
  rows = {line.split()[0]: line for line in table.splitlines()}
  assert "trained" in rows["layers/mlp/wi_0/kernel"]
  assert "float32" in rows["layers/mlp/wi_0/kernel"]
  assert "frozen" in rows["layers/mlp/wo/kernel"]
  assert "bfloat16" in rows["layers/mlp/wo/kernel"]
  shardings = partitioning.state_shardings(boxed, mesh, rules)
  plain = partitioning.unbox(boxed)
  trained = 2 * 16 * 32
  total = sum(leaf.size for leaf in jax.tree.leaves(plain.params))
  counters = 2 * 4  # Of Adam and of the schedule.
  assert tuning.summary(plain.params, plain.opt_state, shardings.opt_state) == (
    f"{trained:,} parameters are trained, {total - trained:,} are frozen; "
    f"optimizer state {8 * trained + counters:,} bytes, "
    f"{4 * trained + counters:,} bytes on each device"
  )
