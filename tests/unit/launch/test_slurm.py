"""Jobs for Slurm: how they are submitted, and what they do there."""

import os
import subprocess

import pytest

from launch.launcher.preemption import preempted_status
from tests.fixtures import launch_stand_ins

pytestmark = pytest.mark.heavy

ROOT = launch_stand_ins.ROOT
GIN = "--gin_file=recipes/quickstart.gin"
NASTY = "--gin.MODEL_DIR='/shared/my run; $HOME \"x\"'"
WORDS = ("--name=mine", "--nodes=2", "--gpus_per_node=4")


@pytest.fixture
def make(tmp_path):
  def made(**plan):
    return launch_stand_ins.World(tmp_path / "w", **plan)

  return made


def test_a_job_is_submitted_and_cancelled(make):
  world = make()
  account = "--sbatch_flag=--account=me"
  done = world.launch(
    "slurm", *WORDS, account, "--lock=gemma", "--", GIN, NASTY
  )
  assert done.returncode == 0, done.stderr
  [call] = world.calls("sbatch")
  assert {"--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4"} <= set(call)
  assert {"--account=me", "--requeue", f"--chdir={ROOT}"} <= set(call)
  job = call.index(str(ROOT / "launch" / "slurm_job.sh"))
  assert call[job + 1 :] == [
    "50",
    "0",
    "cuda,gemma",
    "train,eval",
    "--",
    GIN,
    NASTY,
  ]
  again = world.launch("slurm", *WORDS, "--", GIN)
  assert (again.returncode, "already queued" in again.stderr) == (1, True)
  assert world.launch("slurm", "--name=mine", "--stop").returncode == 0
  assert world.calls("scancel") == [["scancel", "77"]]


def test_another_job_of_the_same_number_is_not_cancelled(make):
  world = make()
  world.launch("slurm", *WORDS, "--", GIN)
  things = {"job/77": {"comment": "calrec-launch=another"}}
  world.write(world.read() | {"things": things})
  done = world.launch("slurm", "--name=mine", "--stop")
  assert (done.returncode, "No queued job mine" in done.stdout) == (0, True)
  assert not world.calls("scancel")


def test_a_refusal_is_said(make):
  world = make(create_errors=["Invalid account"])
  done = world.launch("slurm", *WORDS, "--", GIN)
  assert done.returncode == 1
  assert "Invalid account" in done.stderr
  assert "--sbatch_flag" in done.stderr


@pytest.mark.parametrize(
  ("status", "restarts", "requeued"),
  [
    (0, 0, False),
    (preempted_status(), 0, True),
    (preempted_status(), 3, False),  # As often as said.
    (7, 0, True),
    (7, 1, False),
  ],
)
def test_the_job_goes_back_into_the_queue(make, status, restarts, requeued):
  world = make(calrec=[status])
  # The folder of the job, as a host has it.
  checkout = world.folder / "hosts" / "0" / "calrec_jax"
  subprocess.run(
    ["ssh", "host", f"cp -r '{ROOT}/launch' '{ROOT}/setup.py' calrec_jax"],
    env=world.environment,
    check=True,
  )
  job = ["bash", ROOT / "launch" / "slurm_job.sh", "3", "1", "cpu", "train"]
  slurm = {"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": str(restarts)}
  done = subprocess.run(
    [*job, "--", GIN, NASTY],
    cwd=checkout,
    env={**os.environ, **world.environment, **slurm},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == status, done.stdout + done.stderr
  assert world.calrec() == [["train", GIN, NASTY]]
  expected = [["scontrol", "requeue", "77"]] if requeued else []
  assert world.calls("scontrol") == expected
