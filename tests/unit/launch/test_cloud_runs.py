"""Runs on TPU VMs and queued resources, from the first call to the last."""

import json
import re
import shutil
import signal
import subprocess
import sys

import pytest

from launch.launcher import tpu_pod
from launch.launcher.preemption import preempted_status
from launch.launcher.shell import Answer, LaunchError, Shell
from tests.fixtures import launch_stand_ins

pytestmark = pytest.mark.heavy

PLACE = ("--name=mine", "--zone=us-west4-a", "--project=p")
WHERE = ("--zone=us-west4-a", "--project=p")
GIN = "--gin_file=recipes/quickstart.gin"
# Each would be taken apart, replaced or run by a shell that sees it bare.
NASTY = (
  "--gin.MODEL_DIR='gs://bucket/my run'",
  '--gin.A="it\'s $HOME `id` $(id); rm -rf / & | > x"',
  "--gin.B=*\\n\t\n!#~{a,b}",
  "--gin.C=",
)


def _vm(world, *words, flags=(GIN,)):
  some = ("--accelerator=v5litepod-8", *words, "--", *flags)
  return world.launch("tpu_vm", *PLACE, *some)


def _pod(world, *words, flags=(GIN,)):
  some = ("--accelerator=v5litepod-16", *words, "--", *flags)
  return world.launch("tpu_pod", *PLACE, *some)


def _verbs(world, kind):
  """What gcloud was called to do with TPUs of a kind, without looking."""
  calls = world.calls("gcloud", "compute", "tpus", kind)
  return [call[4] for call in calls if call[4] in ("create", "delete")]


@pytest.fixture
def make(tmp_path):
  def made(**plan):
    return launch_stand_ins.World(tmp_path / "world", **plan)

  return made


def test_a_vm_is_created_used_and_deleted(make):
  world = make()
  more = ("--bucket=my-bucket", "--lock=gemma", "--create_flag=--network=n")
  done = _vm(world, "--spot", *more)
  assert done.returncode == 0, done.stdout + done.stderr
  printed = re.findall(r"^\+ gcloud ", done.stdout, re.MULTILINE)
  assert len(printed) == len(world.calls("gcloud"))  # All of them.
  assert world.calrec() == [["train", GIN], ["eval", GIN]]
  [create] = world.calls("gcloud", "compute", "tpus", "tpu-vm", "create")
  [label] = [word for word in create if word.startswith("--labels=")]
  assert re.fullmatch(r"--labels=calrec-launch=[0-9a-f]{16}", label)
  assert create[5:] == [
    *("mine", *WHERE, "--accelerator-type=v5litepod-8"),
    *("--version=v2-alpha-tpuv5-lite", label, "--spot", "--network=n"),
  ]
  delete = world.calls("gcloud", "compute", "tpus", "tpu-vm", "delete")
  assert [call[5:] for call in delete] == [["mine", *WHERE, "--quiet"]]
  assert not world.things()
  assert not list((world.folder / "state").iterdir())
  assert "calrec says train" in done.stdout  # The log is shown.
  assert "setup tpu,gemma my-bucket" in done.stdout
  [mount] = world.calls("gcsfuse")
  assert mount[-2:] == ["my-bucket", "/mnt/my-bucket"]
  assert "--metadata-cache-ttl-secs=0" in mount


def test_flags_arrive_as_they_were(make):
  world = make(hosts=2)
  done = _pod(world, "--verbs=train", flags=(GIN, *NASTY))
  assert done.returncode == 0, done.stdout + done.stderr
  assert world.calrec() == [["train", GIN, *NASTY]] * 2


def test_a_queued_resource_is_waited_for(make):
  states = ["WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING"]
  world = make(states=[[*states, "ACTIVE"]])
  done = _pod(world, "--valid_until_duration=6h", "--service_account=s@p")
  assert done.returncode == 0, done.stdout + done.stderr
  shown = re.findall(r"^== queued resource mine: (\w+)", done.stdout, re.M)
  assert shown == ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
  [create] = world.calls(
    "gcloud", "compute", "tpus", "queued-resources", "create"
  )
  assert create[5:11] == [
    *("mine", *WHERE, "--accelerator-type=v5litepod-16"),
    *("--runtime-version=v2-alpha-tpuv5-lite", "--node-id=mine"),
  ]
  assert create[11] == "--valid-until-duration=6h"
  assert create[-1] == "--service-account=s@p"
  [delete] = world.calls(
    "gcloud", "compute", "tpus", "queued-resources", "delete"
  )
  assert delete[5:] == ["mine", *WHERE, "--quiet", "--force"]


def test_hosts_of_slices_shard_an_evaluation(make):
  world = make(hosts=4, slices=2)
  done = _pod(world, "--slices=2")
  assert done.returncode == 0, done.stdout + done.stderr
  [create] = world.calls(
    "gcloud", "compute", "tpus", "queued-resources", "create"
  )
  assert {"--node-count=2", "--node-prefix=mine"} <= set(create)
  assert not [word for word in create if word.startswith("--node-id")]
  ssh = world.calls("gcloud", "compute", "tpus", "queued-resources", "ssh")
  assert all({"--node=all", "--worker=all"} <= set(call) for call in ssh)
  shards = sorted(call[-1] for call in world.calrec() if call[0] == "eval")
  assert shards == [f"--shard={index}/4" for index in range(4)]
  assert [call for call in world.calrec() if call[0] == "train"] == [
    ["train", GIN]
  ] * 4


@pytest.mark.parametrize(
  ("ends", "why"),
  [
    (preempted_status(), "saved its state"),
    ("vanish", "preempted"),
    ("node", "preempted"),
  ],
)
def test_a_preempted_run_starts_again(make, ends, why):
  world = make(calrec=[ends])
  done = _pod(world, "--spot")
  assert done.returncode == 0, done.stdout + done.stderr
  assert why in done.stdout
  assert _verbs(world, "queued-resources") == ["create", "delete"] * 2
  # The same command, which resumes by itself; then the next verb.
  assert world.calrec() == [["train", GIN], ["train", GIN], ["eval", GIN]]
  created = world.calls(
    "gcloud", "compute", "tpus", "queued-resources", "create"
  )
  [first, second] = created
  changed = set(first) ^ set(second)
  assert all(word.startswith("--labels=") for word in changed)


def test_taken_away_before_it_was_ready(make):
  world = make(states=[["PROVISIONING", "SUSPENDED"], ["ACTIVE"]])
  done = _pod(world, "--spot")
  assert done.returncode == 0, done.stdout + done.stderr
  assert _verbs(world, "queued-resources") == ["create", "delete"] * 2


def test_preemptions_end_somewhere(make):
  world = make(calrec=[preempted_status()] * 9)
  done = _pod(world, "--spot", "--max_preemptions=1")
  assert done.returncode == preempted_status()
  assert "Giving up: --max_preemptions=1" in done.stderr
  assert len(world.calrec()) == 2
  assert not world.things()


def test_other_failures_are_retried_as_often_as_said(make):
  world = make(calrec=[7] * 9)
  done = _pod(world, "--max_retries=1")
  assert done.returncode == 7
  assert "status 7" in done.stderr
  assert world.calrec() == [["train", GIN]] * 2
  assert not world.things()


def test_a_refusal_is_said_once_and_nothing_is_deleted(make):
  world = make(create_errors=["RESOURCE_EXHAUSTED: Quota 'TPUS' exceeded"])
  done = _pod(world)
  assert done.returncode == 1
  assert "Quota 'TPUS' exceeded" in done.stderr
  assert done.stderr.count("did not create") == 1
  assert "https://cloud.google.com/tpu/docs/quota" in done.stderr
  assert _verbs(world, "queued-resources") == ["create"]


def test_a_request_that_ran_out_of_time(make):
  world = make(states=[["WAITING_FOR_RESOURCES", "FAILED"]])
  done = _pod(world)
  assert done.returncode == 1
  assert "--valid_until_duration" in done.stderr
  assert not world.calrec()
  assert not world.things()


def test_what_existed_is_used_and_not_deleted(make):
  world = make()
  world.add("tpu-vm", "mine", ["READY"], team="ours")
  done = _vm(world)
  assert done.returncode == 0, done.stdout + done.stderr
  assert world.calrec() == [["train", GIN], ["eval", GIN]]
  assert _verbs(world, "tpu-vm") == []
  assert world.things() == {"tpu-vm/mine"}


def test_what_is_still_in_the_queue_is_waited_for(make):
  world = make()
  states = ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
  world.add("queued-resources", "mine", states)
  done = _pod(world, "--verbs=train")
  assert done.returncode == 0, done.stdout + done.stderr
  assert world.calrec() == [["train", GIN]]
  assert _verbs(world, "queued-resources") == []


def test_what_existed_is_not_deleted_when_preempted(make):
  world = make(calrec=["vanish"])
  world.add("queued-resources", "mine", ["ACTIVE"])
  done = _pod(world)
  assert done.returncode == 1
  assert "was not created here" in done.stderr
  assert _verbs(world, "queued-resources") == []


def test_another_of_the_same_name_is_not_deleted(make):
  world = make()
  _vm(world, "--keep")
  assert world.things() == {"tpu-vm/mine"}
  [mark] = (world.folder / "state").iterdir()
  assert json.loads(mark.read_text())["kind"] == "tpu-vm"
  # Deleted by hand, and made by another launcher since.
  world.add("tpu-vm", "mine", ["READY"], **{"calrec-launch": "0" * 16})
  done = world.launch("tpu_vm", *PLACE, "--stop")
  assert done.returncode == 1
  assert "gcloud compute tpus tpu-vm delete mine" in done.stderr
  assert _verbs(world, "tpu-vm") == ["create"]


def test_a_retained_machine_is_reused_and_stopped(make):
  world = make()
  first = _vm(world, "--keep")
  assert "costs money" in first.stdout
  again = _vm(world, "--keep", "--verbs=eval")
  assert again.returncode == 0, again.stdout + again.stderr
  assert _verbs(world, "tpu-vm") == ["create"]
  assert world.launch("tpu_vm", *PLACE, "--stop").returncode == 0
  assert not world.things()
  gone = world.launch("tpu_vm", *PLACE, "--stop")
  assert (gone.returncode, "There is no" in gone.stdout) == (0, True)


def test_a_broken_connection_is_reopened(make):
  world = make(broken=[True, True])
  done = _vm(world)
  assert done.returncode == 0, done.stdout + done.stderr
  assert world.calrec() == [["train", GIN], ["eval", GIN]]


def test_a_run_that_may_continue_is_not_ended(make):
  world = make(broken=[True] * 99, unreached=True)
  done = _vm(world)
  assert done.returncode == 1
  assert "The hosts do not respond" in done.stderr
  assert world.things() == {"tpu-vm/mine"}
  # Nor by a launch that does not reach it either.
  done = _vm(world)
  assert done.returncode == 1
  assert "existed already and is not deleted" in done.stderr
  assert _verbs(world, "tpu-vm") == ["create"]


def test_another_command_does_not_end_the_run_that_is_there(make):
  world = make(calrec=["wait"])
  # Tests that run in a shell's background have it ignored, and so would this.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  run = subprocess.Popen(
    [*world.script("tpu_vm"), *PLACE, "--accelerator=v6e-8", "--", GIN],
    env=world.environment,
    stdout=subprocess.DEVNULL,
  )
  signal.signal(signal.SIGINT, before)
  try:
    world.await_call_of_calrec()
    run.send_signal(signal.SIGINT)  # The launcher leaves, the run continues.
    run.wait(timeout=60)
    done = _vm(world, flags=(GIN, "--gin.other=1"))
    assert done.returncode == 1
    assert "another command" in done.stderr
    assert _verbs(world, "tpu-vm") == ["create"]
  finally:
    world.let_calrec_go()
  # The same command finds it, and starts it no second time.
  done = _vm(world)
  assert done.returncode == 0, done.stdout + done.stderr
  assert [call[0] for call in world.calrec()].count("train") <= 2
  assert _verbs(world, "tpu-vm") == ["create", "delete"]


@pytest.mark.parametrize("status", [0, 7])
def test_results_are_fetched_and_those_of_a_failed_run_too(make, status):
  world = make(calrec=[0, status])
  fetched = launch_stand_ins.ROOT / "runs" / "launch-test"
  try:
    done = _vm(world, "--fetch=runs/launch-test")
    assert done.returncode == status, done.stdout + done.stderr
    assert (fetched / "metrics.json").read_text() == "{}"
    assert world.calrec() == [["train", GIN], ["eval", GIN]]  # No retry.
    assert not world.things()
  finally:
    (fetched / "metrics.json").unlink(missing_ok=True)
    if fetched.exists():
      fetched.rmdir()


def test_a_machine_with_results_that_cannot_be_fetched_is_retained(make):
  world = make()
  done = _vm(world, "--fetch=runs/misspelt")
  assert done.returncode == 1
  assert "not deleted, so that the results" in done.stderr
  assert world.things() == {"tpu-vm/mine"}


def test_a_cloud_that_does_not_answer_is_no_absent_machine(make):
  world = make()
  (world.bin / "gcloud").write_text(
    "#!/bin/sh\necho 'PERMISSION_DENIED: no' >&2\nexit 1\n"
  )
  done = _vm(world)
  assert done.returncode == 1
  assert "PERMISSION_DENIED" in done.stderr
  assert "gcloud auth login" in done.stderr


@pytest.mark.parametrize(
  ("words", "remedy"),
  [
    (("--name=mine", "--project=p", "--", GIN), "--zone is missing"),
    (("--name=mine", "--zone=z", "--", GIN), "--project is missing"),
    ((*WHERE, "--", GIN), "--name is missing"),
    (("--name=Mine!", *WHERE, "--", GIN), "lower-case"),
    ((*PLACE, "--accelerator=v5e-16", "--", GIN), "Did you mean v5litepod?"),
    ((*PLACE, "--accelerator=v5litepo-16", "--", GIN), "mean v5litepod?"),
    ((*PLACE, "--accelerator=v4-7", "--", GIN), "v4-32"),
    ((*PLACE, "--", GIN), "--accelerator is missing"),
    ((*PLACE, "--accelerator=v6e-8"), "give them after `--`"),
    ((*PLACE, "--verbs=train,,eval", "--", GIN), "empty verb"),
    ((*PLACE, "--slices=0", "--", GIN), "--slices=0"),
    ((*PLACE, "--", "--gin_file=/etc/passwd"), "outside the checkout"),
  ],
)
def test_invalid_flags_fail_before_anything_is_created(
  words, remedy, tmp_path, monkeypatch
):
  monkeypatch.delenv("CLOUDSDK_COMPUTE_ZONE", raising=False)
  monkeypatch.delenv("CLOUDSDK_CORE_PROJECT", raising=False)
  monkeypatch.setattr(Shell, "run", lambda *_: pytest.fail("ran something"))
  absent = Answer(1, "", "NOT_FOUND")
  monkeypatch.setattr(Shell, "query", lambda *_, **__: absent)
  with pytest.raises(LaunchError, match=re.escape(remedy)) as raised:
    tpu_pod.main([f"--state_dir={tmp_path}", *words])
  assert raised.value.status == 2


@pytest.mark.parametrize("script", ["tpu_vm", "tpu_pod"])
def test_a_dry_run_needs_no_tool_and_leaves_nothing(script, tmp_path):
  environment = {"PATH": _bare_path(tmp_path), "CALREC_PYTHON": sys.executable}
  state = tmp_path / "state"
  words = [*PLACE, "--accelerator=v6e-8", f"--state_dir={state}", "--dry_run"]
  done = subprocess.run(
    [launch_stand_ins.ROOT / "launch" / f"{script}.sh", *words, "--", GIN],
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert not state.exists()
  verbs = re.findall(r"^\+ gcloud compute tpus \S+ (\w+)", done.stdout, re.M)
  in_order = ["describe", "create", "describe", "scp", *["ssh"] * 5]
  assert [verb for verb in verbs if verb != "describe"] == [
    verb for verb in (*in_order, "delete") if verb != "describe"
  ]


def test_a_missing_tool_is_named_with_its_remedy(make):
  world = make()
  world.environment["PATH"] = _bare_path(world.folder)
  done = _vm(world)
  assert done.returncode == 1
  assert "gcloud is not on this machine's PATH" in done.stderr
  assert "https://cloud.google.com/sdk/docs/install" in done.stderr


def _bare_path(folder):
  """A PATH with what the shell scripts need, and no cloud tool."""
  bare = folder / "bare"
  bare.mkdir(exist_ok=True)
  for tool in ("bash", "env", "dirname", "git"):
    (bare / tool).symlink_to(shutil.which(tool))
  return str(bare)
