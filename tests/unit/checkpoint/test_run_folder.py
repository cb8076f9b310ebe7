"""A run, a stage and a checkpoint as one path; what a run folder holds."""

import json
import os
import pathlib

import pytest

from calrec_jax.checkpoint import run_folder, store
from calrec_jax.data.vocabulary import files, trained
from calrec_jax.errors import InputError
from calrec_jax.storage import identity
from calrec_jax.train import checkpointing
from tests.fixtures.checkpoint_toys import make_state, policy


def write_stage(run, name, parent=None, finished=True, steps=3):
  """A stage's folder; returns what a later stage records of it."""
  folder, record = run / name, {"stage": name, "parent": parent}
  opened = checkpointing.Checkpoints(folder, policy(best_metric=""))
  opened.save(
    make_state(steps),
    step=steps,
    feed={},
    lineage=record,
    vocabulary={},
    metrics=None,
  )
  opened.wait()
  opened.close()
  (folder / "lineage.json").write_text(json.dumps(record))
  run_folder.write_config(folder, f"# {name}\n")
  if finished:
    handed = {"checkpoint": f"checkpoint_{steps}", "steps": steps}
    (folder / "handover.json").write_text(json.dumps(handed))
  return {
    "stage": name,
    "checkpoint": f"checkpoint_{steps}",
    "lineage_sha256": identity.digest(record),
  }


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
  """A chain whose first stage was written last, from another run's stage."""
  run = tmp_path_factory.mktemp("runs") / "chain"
  before = write_stage(run.with_name("before"), "target")
  joint = write_stage(run, "joint", before)
  write_stage(run, "target", joint)
  os.utime(run / "joint" / "handover.json")
  return run


def test_a_run_means_its_last_finished_stage(chain):
  assert store.find(chain) == chain / "target" / "checkpoint_3"
  assert store.find(chain / "joint") == chain / "joint" / "checkpoint_3"


def test_an_unfinished_stage_counts_only_alone(tmp_path):
  parent = write_stage(tmp_path, "joint")
  write_stage(tmp_path, "target", parent, finished=False)
  assert store.find(tmp_path) == tmp_path / "joint" / "checkpoint_3"
  (tmp_path / "joint" / "handover.json").unlink()
  with pytest.raises(store.CheckpointError, match=r"holds stages: .*joint"):
    store.find(tmp_path)


@pytest.mark.parametrize("part", ["", "target", "target/checkpoint_3"], ids=str)
def test_every_path_into_a_run_opens_it(chain, part):
  run = run_folder.find(chain / part)
  assert run.model_dir == chain
  assert run.stage == "target"
  assert run.config == chain / "target" / "config.gin"
  assert run.folder == pathlib.Path.cwd()


def test_a_stage_can_be_chosen(chain):
  for path in (chain, chain / "target", chain / "joint"):
    assert run_folder.find(path, "joint").stage == "joint"
  with pytest.raises(InputError, match="by --stage: joint, target"):
    run_folder.find(chain, "other")


def test_what_is_no_run_is_refused(tmp_path):
  with pytest.raises(InputError, match="there is no folder"):
    run_folder.find(tmp_path / "nowhere")
  with pytest.raises(InputError, match=r"holds no config\.gin"):
    run_folder.find(tmp_path)


def test_a_configuration_of_an_earlier_version_has_no_folder(tmp_path):
  write_stage(tmp_path, "train")
  (tmp_path / "train" / "config.gin").write_text("import calrec_jax\n")
  assert run_folder.find(tmp_path).folder is None


def test_the_vocabulary_is_that_of_the_stage(chain, tmp_path):
  assert run_folder.vocabulary_of(chain) is None
  assert run_folder.vocabulary_of(tmp_path) is None
  model = trained.TrainedSentencePiece(size=300).train(
    ["good tea", "green tea"], ["\n"]
  )
  folder = chain / "target" / "vocabulary"
  stored = files.write(str(folder), model, trained.BEGIN)
  own = run_folder.vocabulary_of(chain)
  assert own.stored.sha256 == stored.sha256
  given = trained.SentencePieceFile(path=stored.model_file)
  assert own.fingerprint((), None) == given.fingerprint((), None)
  made = own.make(str(tmp_path / "copy"), (), None, None)
  for name in ("sentencepiece.model", "vocabulary.json"):
    copy = pathlib.Path(made.folder, name)
    assert copy.read_bytes() == (folder / name).read_bytes()
