"""What runs on a host: which process it is, signals, runs that live on."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

SCRIPT = pathlib.Path(__file__).parents[3] / "launch" / "on_host.sh"
LONGEST_SECONDS = 60  # Of waiting for another process, on a busy machine.
# Notes its arguments; with WAIT, it exits with 83 when it is preempted.
CALREC = """
import json, os, pathlib, signal, sys
folder = pathlib.Path(os.environ["NOTES"])
with open(folder / "calls", "a") as file:
  file.write(json.dumps(sys.argv[1:]) + chr(10))
(folder / "distributed").write_text(os.environ.get("CALREC_DISTRIBUTED", ""))
if "WAIT" in os.environ:
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(83))
  (folder / "waiting").touch()
  signal.pause()
sys.exit(int(os.environ.get("STATUS", "0")))
"""


@pytest.fixture
def host(tmp_path):
  """A host where calrec is installed and noted, outside any checkout."""
  # A copy: the checkout's own environment would come first.
  launch = tmp_path / "checkout" / "launch"
  launch.mkdir(parents=True)
  for name in ("on_host.sh", "environment.sh"):
    (launch / name).write_text((SCRIPT.parent / name).read_text("utf-8"))
  bare = tmp_path / "bin"
  bare.mkdir()
  program = tmp_path / "calrec.py"
  program.write_text(CALREC)
  for name, text in (
    ("calrec", f'exec "{sys.executable}" -IS "{program}" "$@"'),
    ("curl", "exit 22"),  # No TPU VM.
  ):
    (bare / name).write_text(f"#!/bin/sh\n{text}\n")
    (bare / name).chmod(0o755)
  return Host(tmp_path, launch / "on_host.sh", bare)


class Host:
  def __init__(self, home, script, bare):
    self.home, self._script = home, script
    self._environment = {
      "PATH": f"{bare}:{os.environ['PATH']}",
      "HOME": str(home),
      "NOTES": str(home),
    }

  def start(self, *words, **environment):
    return subprocess.Popen(
      ["bash", self._script, *words],
      env={**self._environment, **environment},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  def run(self, *words, **environment):
    process = self.start(*words, **environment)
    printed, _ = process.communicate(timeout=LONGEST_SECONDS)
    return process.returncode, printed

  def calls(self):
    return (self.home / "calls").read_text().splitlines()

  def await_call(self):
    began = time.monotonic()
    while not (self.home / "waiting").exists():
      assert time.monotonic() - began < LONGEST_SECONDS
      os.sched_yield()


def test_verbs_run_one_after_the_other(host):
  status, _ = host.run("work", "data cache,train", "--", "--gin.A='a b'")
  assert status == 0
  assert host.calls() == [
    '["data", "cache", "--gin.A=\'a b\'"]',
    '["train", "--gin.A=\'a b\'"]',
  ]


def test_flags_of_one_verb_come_last(host):
  verbs = "train,eval --gin_file=m.gin --shard=0/1"
  several = {"CALREC_NUM_PROCESSES": "2", "CALREC_PROCESS_ID": "1"}
  assert host.run("work", verbs, "--", "--x=a b", **several)[0] == 0
  assert host.calls() == [
    '["train", "--x=a b"]',
    '["eval", "--x=a b", "--gin_file=m.gin", "--shard=0/1"]',
  ]


def test_the_first_failure_ends_it(host):
  status, _ = host.run("work", "train,eval", "--", "--x", STATUS="7")
  assert (status, host.calls()) == (7, ['["train", "--x"]'])


@pytest.mark.parametrize(
  ("environment", "shard"),
  [
    ({}, None),
    ({"CALREC_NUM_PROCESSES": "3", "CALREC_PROCESS_ID": "2"}, "2/3"),
    ({"CALREC_NUM_PROCESSES": "1", "CALREC_PROCESS_ID": "0"}, None),
    ({"SLURM_PROCID": "5", "SLURM_NTASKS": "8"}, "5/8"),
    ({"TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "3"}, "3/4"),
    (
      {
        "TPU_WORKER_HOSTNAMES": "a,b",
        "TPU_WORKER_ID": "1",
        "MEGASCALE_NUM_SLICES": "3",
        "MEGASCALE_SLICE_ID": "2",
      },
      "5/6",
    ),
    ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
  ],
)
def test_the_shard_is_that_of_the_process(host, environment, shard):
  status, _ = host.run("work", "train,eval", "--", "--x", **environment)
  assert status == 0
  flag = f', "--shard={shard}"' if shard else ""
  assert host.calls() == ['["train", "--x"]', f'["eval", "--x"{flag}]']
  found_by_jax = shard is not None and "CALREC_PROCESS_ID" not in environment
  assert (host.home / "distributed").read_text() == (
    "auto" if found_by_jax else ""
  )


def test_a_requested_shard_is_respected(host):
  second = {"CALREC_NUM_PROCESSES": "2", "CALREC_PROCESS_ID": "1"}
  host.run("work", "eval", "--", "--shard=0/1", **second)
  assert host.calls() == ['["eval", "--shard=0/1"]']


def test_the_first_process_forwards_sigterm(host):
  process = host.start("work", "train,eval", "--", "--x", WAIT="")
  host.await_call()
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=LONGEST_SECONDS)
  assert process.returncode == 83
  assert host.calls() == ['["train", "--x"]']  # And no other verb.


def test_a_detached_run_starts_once_and_can_be_stopped(host):
  words = ("start", "mine", "work", "train,eval", "--", "--x")
  assert host.run(*words, WAIT="")[0] == 0
  try:
    host.await_call()
    assert "mine" not in host.run("status", "mine")[1]
    assert host.run("status", "mine")[1].endswith(": running\n")
    status, printed = host.run(*words, WAIT="")
    assert (status, "already running" in printed) == (0, True)
    status, printed = host.run(*words, "--other")
    assert (status, "another command" in printed) == (2, True)
  finally:
    status, _ = host.run("stop", "mine")
  assert status == 0
  assert host.calls() == ['["train", "--x"]']
  assert host.run("status", "mine")[1].endswith(": ended 83\n")
  # It may be started again now.
  assert host.run(*words)[0] == 0
  status, printed = host.run("follow", "mine")
  assert (status, "calrec eval (process 0 of 1)" in printed) == (0, True)
  assert host.run("status", "mine")[1].endswith(": ended 0\n")


def test_a_run_under_which_the_host_was_restarted_is_lost(host):
  assert host.run("status", "mine")[1].endswith(": absent\n")
  folder = host.home / ".calrec_runs" / "mine"
  folder.mkdir(parents=True)
  # Its process number may be another program's by now.
  (folder / "process").write_text(f"another-boot {os.getpid()}\n")
  assert host.run("status", "mine")[1].endswith(": lost\n")


def test_other_hosts_show_their_log_only_when_they_fail(host):
  second = {"CALREC_NUM_PROCESSES": "2", "CALREC_PROCESS_ID": "1"}
  for status, shown in (("0", False), ("7", True)):
    host.run("start", "mine", "work", "train", "--", STATUS=status, **second)
    _, printed = host.run("follow", "mine", **second)
    assert ("[process 1]" in printed) == shown


def test_results_are_packed_from_the_checkout(host, tmp_path):
  results = tmp_path / "checkout" / "runs" / "my run"
  results.mkdir(parents=True)
  (results / "metrics.json").write_text("{}")
  archive = tmp_path / "results.tgz"
  assert host.run("pack", archive, "runs/my run")[0] == 0
  listed = subprocess.run(
    ["tar", "--list", "--file", archive], capture_output=True, text=True
  )
  assert listed.stdout.split("\n")[1] == "runs/my run/metrics.json"


def test_what_is_missing_is_said(host):
  assert "-- is missing" in host.run("work", "train")[1]
  status, printed = host.run("--help")
  assert (status, "work VERBS -- FLAGS" in printed) == (2, True)
