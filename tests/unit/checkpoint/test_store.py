"""Checkpoints: what lies on disk, what stays, and what is refused."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from calrec_jax.checkpoint import store
from calrec_jax.runtime import partitioning
from calrec_jax.runtime.partitioning import MeshShape
from calrec_jax.train import checkpointing
from tests.fixtures.checkpoint_toys import (
  LINEAGE,
  SPECS,
  make_params,
  make_state,
  policy,
)

# TensorStore may still call back when the loop of a failed read is closed.
pytestmark = pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning"
)


def on_mesh(tree, **axes):
  """Shardings of the state's leaves: one spec for each shape."""
  mesh = partitioning.make_mesh(MeshShape(**axes))
  return jax.tree.map(
    lambda leaf: NamedSharding(
      mesh,
      SPECS["embed"]["embedding"] if leaf.ndim == 2 else PartitionSpec(),
    ),
    tree,
  )


def save_all(folder, metrics, **settings):
  """Saves a step for each of the metrics; returns the open folder."""
  opened = checkpointing.Checkpoints(folder, policy(**settings))
  for step, value in metrics.items():
    opened.save(
      make_state(step),
      step=step,
      feed={"step": step},
      lineage=LINEAGE,
      vocabulary={},
      metrics=None if value is None else {"ndcg@10": value},
    )
  opened.wait()
  return opened


def assert_equal(tree, other):
  assert jax.tree.structure(tree) == jax.tree.structure(other)
  for leaf, again in zip(
    jax.tree.leaves(tree), jax.tree.leaves(other), strict=True
  ):
    np.testing.assert_array_equal(leaf, again)
    assert leaf.dtype == again.dtype


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  folder = tmp_path_factory.mktemp("stage") / "joint"
  save_all(folder, {3: 0.25}).close()
  return folder / "checkpoint_3"


def test_the_layout_is_the_one_t5x_readers_know(saved):
  assert {"state", "feed", "lineage", "metrics"} <= {
    entry.name for entry in saved.iterdir()
  }
  paths = set(store.metadata(saved))
  assert {
    "target/embed/embedding",
    "target/norm/scale",
    "state/step",
    "state/param_states/0/mu/embed/embedding",
    "rng",
  } <= paths
  assert {path.split("/")[0] for path in paths} == {"target", "state", "rng"}
  assert store.read_json(saved, "feed") == {"step": 3}
  assert store.read_json(saved, "lineage") == LINEAGE
  assert store.read_json(saved, "metrics") == {"ndcg@10": 0.25}


def test_metadata_tells_shapes_and_arrays_read_back(saved):
  leaf = store.metadata(saved)["target/embed/embedding"]
  assert tuple(leaf.shape) == (16, 4)
  assert np.dtype(leaf.dtype) == np.float32
  arrays = store.read_arrays(saved)
  np.testing.assert_array_equal(
    arrays["target/embed/embedding"], make_params(3)["embed"]["embedding"]
  )


@pytest.mark.parametrize(
  "axes", [{"data": 8}, {"data": 1, "fsdp": 4, "tensor": 2}], ids=str
)
def test_a_state_comes_back_bit_for_bit_on_any_mesh(saved, axes):
  state = make_state(3)
  shardings = on_mesh(state, **axes)
  opened = checkpointing.Checkpoints(saved.parent, policy())
  restored, feed = opened.restore(3, state, shardings)
  opened.close()
  assert_equal(restored, state)
  assert feed == {"step": 3}
  embedding = restored.params["embed"]["embedding"]
  assert embedding.sharding == shardings.params["embed"]["embedding"]
  # The optimizer's moments lie where their parameters lie.
  moment = restored.opt_state[0].mu["embed"]["embedding"]
  assert moment.sharding == embedding.sharding


def test_parameters_alone_come_back_on_another_mesh(saved):
  params = make_params(3)
  shardings = on_mesh(params, data=2, fsdp=4)
  restored = store.restore_params(saved, params, shardings)
  assert_equal(restored, params)
  embedding = restored["embed"]["embedding"]
  assert embedding.sharding == shardings["embed"]["embedding"]
  assert embedding.addressable_shards[0].data.shape == (16, 1)


def test_another_model_is_refused_with_every_array(saved):
  params = make_params()
  params["embed"]["embedding"] = jnp.zeros((32, 4))
  params["extra"] = {"kernel": jnp.zeros(3)}
  del params["norm"]
  with pytest.raises(store.CheckpointError) as caught:
    store.restore_params(saved, params, on_mesh(params))
  message = str(caught.value)
  assert "DecoderConfig" in message
  assert "missing target/extra/kernel" in message
  assert "unexpected target/norm/scale" in message
  assert "embed/embedding is (16, 4), the model wants (32, 4)" in message


def test_a_long_list_of_differing_arrays_is_cut(saved):
  params = {f"layer{n:02}": jnp.zeros(2) for n in range(20)}
  with pytest.raises(store.CheckpointError, match="and 14 more"):
    store.restore_params(saved, params, on_mesh(params))


def test_a_state_of_another_shape_is_refused(saved):
  params = make_params()
  params["embed"]["embedding"] = jnp.zeros((32, 4))
  state = make_state(3, params)
  opened = checkpointing.Checkpoints(saved.parent, policy())
  with pytest.raises(store.CheckpointError) as caught:
    opened.restore(3, state, on_mesh(state))
  opened.close()
  # The parameter and both of its moments.
  assert str(caught.value).count("embed/embedding is (16, 4)") == 3


def test_a_path_means_a_checkpoint(tmp_path):
  stage = tmp_path / "run" / "joint"
  for step in (2, 10, 4):
    (stage / f"checkpoint_{step}").mkdir(parents=True)
  (stage / "checkpoint_12.orbax-checkpoint-tmp").mkdir()
  assert store.steps(stage) == [2, 4, 10]
  assert store.find(stage).name == "checkpoint_10"
  assert store.find(stage / "checkpoint_2").name == "checkpoint_2"
  (stage / "handover.json").write_text(
    json.dumps({"checkpoint": "checkpoint_4"})
  )
  assert store.find(str(stage)).name == "checkpoint_4"


def test_a_path_that_means_none_says_what_is_there(tmp_path):
  for stage in ("joint", "target"):
    (tmp_path / "run" / stage / "checkpoint_2").mkdir(parents=True)
  with pytest.raises(store.CheckpointError, match="stages: run/joint"):
    store.find(tmp_path / "run")
  for absent in ("run/joint/checkpoint_3", "nowhere"):
    with pytest.raises(store.CheckpointError, match="holds no"):
      store.find(tmp_path / absent)


def test_what_was_handed_over_and_is_gone_is_named(tmp_path):
  (tmp_path / "joint" / "checkpoint_2").mkdir(parents=True)
  (tmp_path / "joint" / "handover.json").write_text(
    json.dumps({"checkpoint": "checkpoint_4"})
  )
  with pytest.raises(store.CheckpointError, match="checkpoint_4, which is mis"):
    store.find(tmp_path / "joint")
  with pytest.raises(store.CheckpointError, match="Train first, by `calrec tr"):
    store.find(tmp_path / "none")
  (tmp_path / "cut" / "preempted" / "checkpoint_3").mkdir(parents=True)
  with pytest.raises(store.CheckpointError, match="interrupted before its fir"):
    store.find(tmp_path / "cut")


@pytest.mark.parametrize(
  "part", ["state", "state/d", "state/_METADATA", "state/manifest.ocdbt"]
)
def test_a_damaged_checkpoint_is_one_line(tmp_path, saved, part):
  copy = tmp_path / saved.name
  shutil.copytree(saved, copy)
  path = copy / part
  shutil.rmtree(path) if path.is_dir() else path.unlink()
  for read in (store.metadata, store.read_arrays):
    with pytest.raises(store.CheckpointError, match="damaged or incom") as one:
      read(copy)
    assert "\n" not in str(one.value)
  (copy / "lineage" / "metadata").write_text("{")
  with pytest.raises(store.CheckpointError, match="damaged or incomplete"):
    store.read_json(copy, "lineage")


@pytest.mark.parametrize(
  ("metrics", "settings", "retained", "best"),
  [
    # The best stays, as does the newest.
    ({1: 0.1, 2: 0.9, 3: 0.2, 4: 0.3}, {"keep": 1}, [2, 4], 2),
    ({1: 0.1, 2: 0.9, 3: 0.2, 4: 0.3}, {"keep": 2}, [2, 3, 4], 2),
    # Of equals the later one.
    ({1: 0.5, 2: 0.5, 3: 0.1}, {"keep": 1}, [2, 3], 2),
    ({1: 0.5, 2: 0.5}, {"keep": 1}, [2], 2),
    # Less may be better.
    ({1: 0.1, 2: 0.9}, {"keep": 1, "best_is_highest": False}, [1, 2], 1),
    # No metric: the newest.
    ({1: 0.9, 2: 0.1}, {"keep": 1, "best_metric": ""}, [2], 2),
    ({1: None, 2: None, 3: None}, {"best_metric": ""}, [2, 3], 3),
  ],
)  # fmt: skip
def test_what_stays_and_what_is_handed_over(
  tmp_path, metrics, settings, retained, best
):
  opened = save_all(tmp_path, metrics, **settings)
  assert store.steps(tmp_path) == retained
  assert opened.best_step() == best
  assert opened.latest_step() == retained[-1]
  opened.close()
  again = checkpointing.Checkpoints(tmp_path, policy(**settings))
  assert again.best_step() == best  # Also for one who comes later.
  again.close()


def test_a_metric_that_is_not_measured_is_refused():
  with pytest.raises(store.CheckpointError, match=r"ndcg@99.*recall@1"):
    policy(best_metric="ndcg@99").rank({"recall@1": 0.5})


@pytest.mark.parametrize("name", ["period", "keep"])
def test_a_policy_that_saves_nothing_is_refused(name):
  with pytest.raises(ValueError, match=f"CheckpointPolicy.{name}"):
    policy(**{name: 0})


def test_what_a_killed_save_left_is_ignored_and_removed(tmp_path, saved):
  folder = tmp_path / "joint"
  shutil.copytree(saved.parent, folder)
  left = folder / "checkpoint_5.orbax-checkpoint-tmp"
  shutil.copytree(folder / "checkpoint_3", left)
  shutil.rmtree(left / "feed")
  assert store.find(folder).name == "checkpoint_3"
  opened = checkpointing.Checkpoints(folder, policy())
  assert opened.latest_step() == 3
  # The step is saved again as if nothing had been.
  opened.save(
    make_state(5), step=5, feed={"step": 5}, lineage=LINEAGE, vocabulary={},
    metrics=None,
  )  # fmt: skip
  opened.wait()
  assert opened.latest_step() == 5
  restored, _ = opened.restore(5, make_state(), on_mesh(make_state()))
  assert_equal(restored, make_state(5))
  opened.close()
  assert not left.exists()


@pytest.mark.parametrize("gone", ["state", "metrics", "feed"])
def test_an_old_checkpoint_that_a_kill_left_half_deleted_does_no_harm(
  tmp_path, gone
):
  save_all(tmp_path, {1: 0.9, 2: 0.5, 3: 0.4}, keep=3).close()
  shutil.rmtree(tmp_path / "checkpoint_2" / gone)
  opened = checkpointing.Checkpoints(tmp_path, policy(keep=1))
  assert opened.latest_step() == 3
  assert opened.best_step() == 1
  opened.save(
    make_state(4), step=4, feed={"step": 4}, lineage=LINEAGE, vocabulary={},
    metrics={"ndcg@10": 0.1},
  )  # fmt: skip
  opened.close()
  assert store.steps(tmp_path) == [1, 4]
