"""Processes that train together, on the CPU, with collectives over TCP.

All have four devices together, as the one process that they are compared
with, so that only the way between the devices differs.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from calrec_jax.__main__ import main
from calrec_jax.checkpoint import stage_folder, store
from calrec_jax.runtime.preemption import PREEMPTED_STATUS
from calrec_jax.train import checkpointing, telemetry
from tests.fixtures import planted_log

pytestmark = pytest.mark.slow

DEVICES = 4
STAGES = ("joint", "target")
# The same sums in another order, in float32.
SAME_LOSS = 1e-5
HEARTBEAT_SECONDS = 10
# Beyond the heartbeat: JAX looks for dead processes from time to time, and
# both cores may be busy.
NOTICED_SECONDS = HEARTBEAT_SECONDS + 50
LEAVE_SECONDS = 60
LONGEST_SECONDS = 500
FED = ("tokens", "examples", "attended_keys")
TIMINGS = ("step_seconds", "tokens_per_second", "examples_per_second")
_SETTINGS = (
  "joint/TRAIN_STEPS=6",
  "target/TRAIN_STEPS=4",
  "MeshShape.data=2",
  "MeshShape.fsdp=2",
  # Lists of eight users turn over by a rounding; the best must not.
  "CheckpointPolicy.best_metric='loss'",
  "CheckpointPolicy.best_is_highest=False",
)


class Job:
  """A recipe, and jobs of several processes that train on it."""

  def __init__(self, folder):
    self.folder = folder
    self.recipe = planted_log.write_folders(folder)
    flags = [f"--gin_file={self.recipe}", f"--gin.MODEL_DIR='{folder}'"]
    assert main(["data", "cache", "--quiet", *flags]) == 0

  def start(self, model_dir, count, *more):
    """Starts the processes; each writes what it says into a file."""
    with socket.socket() as free:
      free.bind(("127.0.0.1", 0))
      address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = [f"--gin_file={self.recipe}", f"--gin.MODEL_DIR='{model_dir}'"]
    flags += [f"--gin.{setting}" for setting in (*_SETTINGS, *more)]
    self.said = [
      self.folder / f"{model_dir.name}-{index}.txt" for index in range(count)
    ]
    environment = os.environ | {
      "XLA_FLAGS": os.environ["XLA_FLAGS"].replace(
        "device_count=8", f"device_count={DEVICES // count}"
      ),
      "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
      "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "CALREC_COORDINATOR": address,
      "CALREC_NUM_PROCESSES": str(count),
      "CALREC_HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
    }
    processes = []
    for index, path in enumerate(self.said):
      with path.open("w") as said:
        processes.append(
          subprocess.Popen(
            [sys.executable, "-m", "calrec_jax", "train", *flags],
            env=environment | {"CALREC_PROCESS_ID": str(index)},
            cwd=self.folder,
            stdout=said,
            stderr=subprocess.STDOUT,
          )
        )
    return processes

  def end(self, processes, statuses, seconds=LONGEST_SECONDS):
    """Waits for the processes, which must end like that."""
    end = time.monotonic() + seconds
    try:
      for process in processes:
        process.wait(max(1, end - time.monotonic()))
    finally:
      for process in processes:
        process.kill()
    ended = [process.returncode for process in processes]
    assert ended == statuses, "\n".join(path.read_text() for path in self.said)

  def train(self, model_dir, count, *more):
    self.end(self.start(model_dir, count, *more), [0] * count)
    return model_dir

  def wait(self, processes, happened):
    end = time.monotonic() + LONGEST_SECONDS
    while not happened():
      for process, path in zip(processes, self.said, strict=True):
        assert process.poll() is None, path.read_text()
      assert time.monotonic() < end
      time.sleep(0.01)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
  return Job(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def alone(job):
  return job.train(job.folder / "alone", 1)


def rows_of(folder):
  return telemetry.read_rows(folder / telemetry.METRICS_FILE)


def assert_same_run(model_dir, expected):
  for stage in STAGES:
    folder, other = model_dir / stage, expected / stage
    found, wanted = rows_of(folder), rows_of(other)
    assert [(row["step"], row["split"]) for row in found] == [
      (row["step"], row["split"]) for row in wanted
    ]
    for row, wish in zip(found, wanted, strict=True):
      for name in wish.keys() - set(TIMINGS):
        if name in FED:
          assert row[name] == wish[name], name
        elif name.startswith("loss"):
          np.testing.assert_allclose(row[name], wish[name], rtol=SAME_LOSS)
        else:
          assert name in row
    assert store.steps(folder) == store.steps(other)
    step = store.steps(other)[-1]
    feeds = [
      store.read_json(path / f"checkpoint_{step}", "feed")
      for path in (folder, other)
    ]
    assert feeds[0] == feeds[1]
    assert not (folder / checkpointing.PREEMPTED).exists()


def at_step(folder, step):
  return lambda: any(row["step"] >= step for row in rows_of(folder))


@pytest.mark.parametrize("count", [2, 4])
def test_processes_train_as_one_does(job, alone, count):
  assert_same_run(job.train(job.folder / f"of_{count}", count), alone)


def test_one_that_dies_is_named_by_the_others(job):
  model_dir = job.folder / "dies"
  more = ("joint/TRAIN_STEPS=3000", "CheckpointPolicy.period=1000")
  processes = job.start(model_dir, 2, *more, "Validation.period=1000")
  job.wait(processes, at_step(model_dir / "joint", 3))
  processes[1].kill()
  job.end(processes, [-signal.SIGABRT, -signal.SIGKILL], NOTICED_SECONDS)
  said = job.said[0].read_text()
  assert "Task 1 heartbeat timeout" in said
  assert f"after {HEARTBEAT_SECONDS} seconds" in said
  assert "process 0 of 2 failed; if that is because another" in said
  assert not (model_dir / "joint" / stage_folder.HANDOVER).exists()


def test_if_one_is_preempted_all_stop_after_one_step_and_any_number_resumes(
  job,
):
  model_dir = job.folder / "preempted_run"
  joint = model_dir / "joint"
  long = "joint/TRAIN_STEPS=3000"
  slow = ("CheckpointPolicy.period=1000", "Validation.period=1000")
  processes = job.start(model_dir, 2, long, *slow)
  job.wait(processes, at_step(joint, 3))
  processes[1].send_signal(signal.SIGTERM)
  job.end(processes, [PREEMPTED_STATUS] * 2, LEAVE_SECONDS)
  saved = checkpointing.newest(joint)
  assert saved.parent == joint / checkpointing.PREEMPTED
  step = store.step_of(saved)
  for path in job.said:
    assert f"Preempted: saved checkpoint at step {step}; rerun" in (
      path.read_text()
    )
  for count in (4, 1):
    again = shutil.copytree(model_dir, job.folder / f"again_{count}")
    processes = job.start(again, count, long, *slow)
    job.wait(processes, at_step(again / "joint", step + 3))
    processes[0].send_signal(signal.SIGTERM)
    job.end(processes, [PREEMPTED_STATUS] * count, LEAVE_SECONDS)
    assert f"resumes from step {step}" in job.said[0].read_text()
  rows, others = (
    {
      row["step"]: row
      for row in rows_of(job.folder / f"again_{count}" / "joint")
    }
    for count in (4, 1)
  )
  # The first row after the stop; it holds steps from before it.
  [at] = [at for at in rows.keys() & others.keys() if step < at <= step + 3]
  assert [rows[at][name] for name in FED] == [others[at][name] for name in FED]
  for name in rows[at]:
    if name.startswith("loss"):
      np.testing.assert_allclose(
        rows[at][name], others[at][name], rtol=SAME_LOSS
      )
