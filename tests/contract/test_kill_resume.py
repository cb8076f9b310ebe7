"""A killed run ends with the bits of one that was never stopped.

Runs are programs of their own. The test kills them (SIGKILL) when something
appears on disk, or at a random moment, and starts them again. On one device
and one mesh everything is equal to the last bit; on another mesh the data are
the same and the numbers are near.
"""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from calrec_jax.__main__ import main
from calrec_jax.checkpoint import store
from calrec_jax.runtime.preemption import PREEMPTED_STATUS
from calrec_jax.train import checkpointing, telemetry
from tests.fixtures import planted_log

STAGES = ("joint", "target")
# What a row of the log says about the machine rather than about the run.
TIMINGS = {"step_seconds", "tokens_per_second", "examples_per_second"}
# Counts of what was fed; the same on every mesh.
FED = ("tokens", "examples", "attended_keys")
# Sums in another order, in float32, over ten updates; 2e-7 was seen.
OTHER_MESH_LOSS_RTOL = 1e-5
OTHER_MESH_PARAMETER_ATOL = 1e-5
LONGEST_SECONDS = 300
LEAVE_SECONDS = 20

# Says what training imported, after it.
_PROGRAM = """
import sys
from calrec_jax.__main__ import main

if __name__ == "__main__":
  from tests.fixtures import compiled_programs

  compiled_programs.share()
  status = main(sys.argv[1:])
  print("imported:", sorted({"tensorflow", "seqio"} & set(sys.modules)))
  sys.exit(status)
"""


class Runs:
  """A recipe with its data prepared, and the programs that train on it."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.recipe = planted_log.write_folders(folder)
    self.program = folder / "program.py"
    self.program.write_text(_PROGRAM)
    made = main(["data", "cache", "--quiet", *self.flags(folder / "none")])
    assert made == 0

  def flags(self, model_dir, *more):
    return [
      f"--gin_file={self.recipe}",
      f"--gin.MODEL_DIR='{model_dir}'",
      "--gin.USE_CACHED_TASKS=True",
      *more,
    ]

  def start(self, model_dir, *more):
    """Starts training on one device in a process group of its own."""
    environment = os.environ | {
      "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", "count=1"),
      "PYTHONPATH": os.pathsep.join(sys.path),
    }
    return subprocess.Popen(
      [sys.executable, self.program, "train", *self.flags(model_dir, *more)],
      env=environment,
      cwd=self.folder,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      start_new_session=True,
    )

  def finish(self, model_dir, *more):
    """Trains to the end; what was printed."""
    run = self.start(model_dir, *more)
    printed, _ = run.communicate(timeout=LONGEST_SECONDS)
    assert run.returncode == 0, printed
    return printed

  def kill_when(self, model_dir, happened, *more):
    """Trains until `happened()`; the process gets no chance to tidy up."""
    run = self.start(model_dir, *more)
    end = time.monotonic() + LONGEST_SECONDS
    while not happened():
      assert run.poll() is None, run.stdout.read()
      assert time.monotonic() < end
      time.sleep(0.002)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    assert run.returncode == -signal.SIGKILL

  def tell_when(self, model_dir, happened, *more):
    """Trains until `happened()`, and tells it to leave; what was printed."""
    run = self.start(model_dir, *more)
    end = time.monotonic() + LONGEST_SECONDS
    while not happened():
      assert run.poll() is None, run.stdout.read()
      assert time.monotonic() < end
      time.sleep(0.002)
    run.send_signal(signal.SIGTERM)
    printed, _ = run.communicate(timeout=LEAVE_SECONDS)
    assert run.returncode == PREEMPTED_STATUS, printed
    return printed


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def straight(runs):
  """The run that is never stopped, and what it printed."""
  model_dir = runs.folder / "straight"
  return model_dir, runs.finish(model_dir)


@pytest.fixture(scope="module")
def killed(runs, straight):
  """A run killed in both stages, in the middle of the second one."""
  model_dir = runs.folder / "killed"
  joint, target = (model_dir / stage for stage in STAGES)
  runs.kill_when(model_dir, lambda: store.steps(joint))
  assert not (joint / "handover.json").exists()
  runs.kill_when(model_dir, lambda: last_step(target) >= 5)
  assert (joint / "handover.json").exists()
  assert not (target / "handover.json").exists()
  assert 0 < store.steps(target)[-1] < 12
  return model_dir


def last_step(folder):
  rows = telemetry.read_rows(folder / telemetry.METRICS_FILE)
  return rows[-1]["step"] if rows else 0


def rows_of(folder):
  return [
    {key: value for key, value in row.items() if key not in TIMINGS}
    for row in telemetry.read_rows(folder / telemetry.METRICS_FILE)
  ]


def assert_same_run(model_dir, straight, stages=STAGES):
  for stage in stages:
    folder, expected = model_dir / stage, straight / stage
    steps = store.steps(expected)
    assert store.steps(folder) == steps
    for step in steps:
      assert_same_checkpoint(
        folder / f"checkpoint_{step}", expected / f"checkpoint_{step}"
      )
    assert rows_of(folder) == rows_of(expected)
    handovers = [
      json.loads((path / "handover.json").read_text())
      for path in (folder, expected)
    ]
    assert handovers[0] == handovers[1]
    assert not list(folder.glob("*tmp*"))


def assert_same_checkpoint(checkpoint, expected):
  arrays = store.read_arrays(checkpoint)
  others = store.read_arrays(expected)
  assert arrays.keys() == others.keys()
  assert {"rng", "state/step", "target/token_embedder/embedding"} <= set(arrays)
  for path, array in arrays.items():
    assert array.tobytes() == others[path].tobytes(), f"{checkpoint} {path}"
  for item in ("feed", "metrics"):
    assert store.read_json(checkpoint, item) == store.read_json(expected, item)


def test_training_from_a_cache_imports_no_tensorflow(straight):
  assert "imported: []" in straight[1].splitlines()


def test_a_run_killed_in_both_stages_ends_with_the_same_bits(
  runs, straight, killed
):
  # The first stage resumed with threads, the second one with a process.
  model_dir = copy(runs, killed, "killed_finished")
  printed = runs.finish(model_dir, "--gin.Feed.workers=1")
  assert "joint: finished before" in printed
  assert "target: resumes from step" in printed
  assert_same_run(model_dir, straight[0])


def test_a_preempted_run_ends_with_the_same_bits(runs, straight):
  model_dir = runs.folder / "preempted_run"
  joint = model_dir / "joint"
  only = "--stage=joint"
  printed = runs.tell_when(model_dir, lambda: last_step(joint) >= 3, only)
  saved = checkpointing.newest(joint)
  assert saved is not None
  step = store.step_of(saved)
  # In a validation, before which the step's own checkpoint was saved, or not.
  assert saved.parent in (joint, joint / "preempted")
  assert f"Preempted: saved checkpoint at step {step}; rerun" in printed
  assert 3 <= step < 10
  assert f"joint: resumes from step {step}" in runs.finish(model_dir, only)
  assert_same_run(model_dir, straight[0], ["joint"])
  assert not (joint / "preempted").exists()


@pytest.mark.slow
def test_another_mesh_resumes_with_the_same_data(runs, straight, killed):
  # In this process, which has eight devices.
  model_dir = copy(runs, killed, "killed_mesh")
  changes = [
    "--gin.MeshShape.data=2",
    "--gin.MeshShape.fsdp=4",
    "--gin.CheckpointPolicy.keep=3",
    "--gin.Validation.users=6",
  ]
  assert main(["train", *runs.flags(model_dir, *changes)]) == 0
  folder, expected = (path / "target" for path in (model_dir, straight[0]))
  last = store.steps(expected)[-1]
  assert store.steps(folder)[-1] == last
  states = [
    store.read_json(path / f"checkpoint_{last}", "feed")
    for path in (folder, expected)
  ]
  assert states[0] == states[1]
  rows, others = (
    [row for row in rows_of(path) if row["split"] == "train"]
    for path in (folder, expected)
  )
  assert [row["step"] for row in rows] == [row["step"] for row in others]
  for row, other in zip(rows, others, strict=True):
    assert [row[name] for name in FED] == [other[name] for name in FED]
    for name in ("loss", "loss_nig_nats", "loss_tt_nats", "loss_ut_nats"):
      np.testing.assert_allclose(
        row[name], other[name], rtol=OTHER_MESH_LOSS_RTOL
      )
  arrays, others = (
    store.read_arrays(path / f"checkpoint_{last}")
    for path in (folder, expected)
  )
  for path, array in arrays.items():
    np.testing.assert_allclose(
      array, others[path], rtol=0, atol=OTHER_MESH_PARAMETER_ATOL
    )
  shardings = store.metadata(folder / f"checkpoint_{last}")
  embedding = shardings["target/token_embedder/embedding"]
  assert "fsdp" in str(embedding.sharding.partition_spec)


@pytest.mark.parametrize(
  ("binding", "named"),
  [
    ("LEARNING_RATE=0.5", "warmup_cosine.peak: was 0.001, is 0.5"),
    ("target/TRAIN_STEPS=20", "training.steps: was 12, is 20"),
    ("target/Feed.targets='all'", "Feed.targets: was 'last', is 'all'"),
    ("Feed.max_history=3", "Feed.max_history: was None, is 3"),
    ("BATCH_SIZE=16", "Feed.rows: was 8, is 16"),
    ("RANDOM_SEED=1", "training.seed: was 0, is 1"),
    ("Objective.alpha=0.2", "Objective.alpha: was 0.125, is 0.2"),
    ("DecoderConfig.width=16", "DecoderConfig.width: was 32, is 16"),
    ("adamw.b2=0.9", "adamw.b2: was None, is 0.9"),
    (
      "Tuning.trainable=('layers/',)",
      "Tuning.trainable: was ['.*'], is ['layers/']",
    ),
    ("DecoderConfig.lora=@Lora()", "DecoderConfig.lora.rank: was None, is 16"),
    ("target/MIXTURE_OR_TASK_NAME='shop'", "training.task: was 'mart'"),
    ("Domain.min_count=2", "data.mart."),
  ],
)
def test_another_run_is_refused(runs, killed, capsys, binding, named):
  before = contents(killed / "target")
  flags = runs.flags(killed, f"--gin.{binding}", "--stage=target")
  if binding.startswith("Domain"):
    flags.append("--gin.USE_CACHED_TASKS=False")  # Another cache.
  assert main(["train", *flags]) == 1
  said = capsys.readouterr().err
  assert named in said
  assert "Give another MODEL_DIR" in said
  assert contents(killed / "target") == before


def test_a_finished_run_is_not_passed_off_as_another(runs, straight, capsys):
  model_dir = straight[0]
  before = contents(model_dir)
  assert main(["train", *runs.flags(model_dir)]) == 0
  printed = capsys.readouterr().out
  assert "joint: finished before" in printed
  assert "target: finished before" in printed
  flags = runs.flags(model_dir, "--gin.LEARNING_RATE=0.5")
  assert main(["train", *flags]) == 1
  assert "warmup_cosine.peak: was 0.001, is 0.5" in capsys.readouterr().err
  assert contents(model_dir) == before


def test_what_does_not_decide_the_bits_may_change(runs, straight, capsys):
  changes = [
    "--gin.MeshShape.fsdp=8",
    "--gin.Feed.workers=3",
    "--gin.CheckpointPolicy.period=7",
    "--gin.Validation.period=9",
    "--gin.Stage.log_period=1",
    "--gin.logical_axis_rules.mlp=None",
  ]
  assert main(["train", *runs.flags(straight[0], *changes)]) == 0
  assert "target: finished before" in capsys.readouterr().out


def test_a_stage_whose_parent_has_not_finished_is_refused(runs, capsys):
  flags = runs.flags(runs.folder / "empty", "--stage=target")
  assert main(["train", *flags]) == 1
  said = capsys.readouterr().err
  assert "'joint', which has not finished" in said
  assert "INITIAL_CHECKPOINT_PATH" in said


def test_a_missing_cache_is_refused_where_caches_are_demanded(runs, capsys):
  flags = runs.flags(
    runs.folder / "empty", f"--gin.Dataset.data_dir='{runs.folder}/nothing'"
  )
  assert main(["train", *flags]) == 1
  said = capsys.readouterr().err
  assert "USE_CACHED_TASKS = True" in said
  assert "calrec data cache" in said


@pytest.fixture(scope="module")
def whole_seconds(runs, straight):
  """What a run takes once everything is compiled."""
  started = time.monotonic()
  runs.finish(runs.folder / "timed")
  return time.monotonic() - started


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_run_killed_again_and_again_ends_with_the_same_bits(
  runs, straight, whole_seconds, seed
):
  model_dir = runs.folder / f"random_{seed}"
  numbers = random.Random(seed)
  for _ in range(3):
    end = time.monotonic() + numbers.uniform(0.3, 1.0) * whole_seconds
    run = runs.start(model_dir)
    while run.poll() is None and time.monotonic() < end:
      time.sleep(0.002)
    if run.poll() is None:
      os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
  runs.finish(model_dir)
  assert_same_run(model_dir, straight[0])


def copy(runs, killed, name):
  return shutil.copytree(killed, runs.folder / name)


def contents(folder):
  """Size and time of change of every file, but what a killed save left."""
  return {
    path.relative_to(folder): (path.stat().st_size, path.stat().st_mtime_ns)
    for path in folder.rglob("*")
    if path.is_file() and ".orbax-checkpoint-tmp" not in str(path)
  }
