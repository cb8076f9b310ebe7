"""Lineage: what may change in a run that resumes, and what may not."""

import json

import pytest

from calrec_jax.storage import identity, lineage

TRAINING = {
  "steps": 8,
  "optimizer": {"warmup_cosine.peak": 1e-3},
  "feed": {"Feed.targets": "all"},
}


def record(**changes):
  values = {
    "stage": "joint",
    "parent": None,
    "data": {"shop": {"fingerprint": "abc"}},
    "training": TRAINING,
    "configuration": "Feed.rows = 8\n",
  }
  return lineage.describe(**{**values, **changes})


def stored(value):
  """A record as it comes back from disk."""
  return json.loads(json.dumps(value))


def test_a_record_says_what_a_run_depends_on(tmp_path):
  path = tmp_path / "stage" / "lineage.json"
  lineage.write_json(path, record())
  read = json.loads(path.read_text())
  assert read == record()
  assert read["schema"] == lineage.SCHEMA
  assert {"calrec_jax", "jax", "flax", "optax", "numpy"} <= set(
    read["versions"]
  )
  assert [entry.name for entry in path.parent.iterdir()] == ["lineage.json"]


def test_the_same_run_resumes(tmp_path):
  lineage.refuse_changes(stored(record()), record(), tmp_path)


def test_what_does_not_decide_the_bits_may_change(tmp_path):
  before = stored(record()) | {"versions": {"jax": "0.1"}, "device": "TPU"}
  now = record(configuration="MeshShape.fsdp = 8\n")
  assert now["configuration_sha256"] != before["configuration_sha256"]
  lineage.refuse_changes(before, now, tmp_path)


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"steps": 9}, "training.steps: was 8, is 9"),
    (
      {"optimizer": {"warmup_cosine.peak": 0.5}},
      "warmup_cosine.peak: was 0.001, is 0.5",
    ),
    ({"feed": {"Feed.targets": "last"}}, "Feed.targets: was 'all', is 'last'"),
    ({"optimizer": {}}, "warmup_cosine.peak: was 0.001, is None"),
  ],
)
def test_a_changed_value_is_named_with_both_sides(tmp_path, change, said):
  now = record(training={**TRAINING, **change})
  with pytest.raises(lineage.LineageError) as caught:
    lineage.refuse_changes(stored(record()), now, tmp_path)
  message = str(caught.value)
  assert said in message
  assert str(tmp_path) in message
  assert "MODEL_DIR" in message


def test_another_parent_or_other_data_is_refused(tmp_path):
  changes = {
    "parent": {"stage": "joint", "checkpoint": "checkpoint_4"},
    "data": {"shop": {"fingerprint": "other"}},
  }
  with pytest.raises(lineage.LineageError) as caught:
    lineage.refuse_changes(stored(record()), record(**changes), tmp_path)
  assert "parent.checkpoint" in str(caught.value)
  assert "data.shop.fingerprint: was 'abc', is 'other'" in str(caught.value)


def test_checkpoints_of_an_unknown_run_are_not_continued(tmp_path):
  with pytest.raises(
    lineage.LineageError, match=r"no lineage\.json.*MODEL_DIR"
  ):
    lineage.refuse_changes(None, record(), tmp_path)


def test_a_digest_knows_no_order_of_keys():
  assert identity.digest({"a": 1, "b": 2}) == identity.digest({"b": 2, "a": 1})
  assert identity.digest({"a": 1}) != identity.digest({"a": 2})


def test_the_split_that_was_learned_is_known():
  learned = {"training": {"feed": {"Feed.split": "validation"}}}
  assert lineage.trained_split(learned) == "validation"
  for usual in ({"training": {"feed": {}}}, {"training": {}}, {}):
    assert lineage.trained_split(usual) == "train"
