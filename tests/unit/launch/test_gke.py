"""The JobSet for GKE, and what is done with it."""

import json
import re

import pytest

from launch.launcher.accelerators import gke_slice
from launch.launcher.flags import Command
from launch.launcher.jobset import jobset
from launch.launcher.preemption import preempted_status
from tests.fixtures import launch_stand_ins

pytestmark = pytest.mark.heavy

WORDS = ("--name=mine", "--topology=v5e:4x4", "--image=i:t")
GIN = "--gin_file=recipes/quickstart.gin"


def _pod(manifest):
  [slices] = manifest["spec"]["replicatedJobs"]
  return slices["template"]["spec"]["template"]["spec"]


def _made(**options):
  command = Command(("train", "eval"), (GIN,))
  requested = gke_slice("v5e:4x4")
  return jobset("mine", "token", requested, command, image="i:t", **options)


def test_it_requests_the_slices():
  manifest = _made(slices=3, spot=True, service_account="s")
  [slices] = manifest["spec"]["replicatedJobs"]
  assert slices["replicas"] == 3
  job = slices["template"]["spec"]
  assert (job["parallelism"], job["completions"]) == (4, 4)
  pod = _pod(manifest)
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
    "cloud.google.com/gke-tpu-topology": "4x4",
    "cloud.google.com/gke-spot": "true",
  }
  assert pod["serviceAccountName"] == "s"
  [container] = pod["containers"]
  assert container["resources"]["limits"] == {"google.com/tpu": 4}
  assert (
    manifest["metadata"]["annotations"][
      "alpha.jobset.sigs.k8s.io/exclusive-topology"
    ]
    == "cloud.google.com/gke-nodepool"
  )


def test_preemptions_restart_it_and_do_not_count():
  manifest = _made(max_retries=2)
  [rule] = manifest["spec"]["failurePolicy"]["rules"]
  assert manifest["spec"]["failurePolicy"]["maxRestarts"] == 2
  assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
  [slices] = manifest["spec"]["replicatedJobs"]
  rules = slices["template"]["spec"]["podFailurePolicy"]["rules"]
  assert rules[0]["onExitCodes"] == {
    "containerName": _pod(manifest)["containers"][0]["name"],
    "operator": "In",
    "values": [preempted_status()],
  }
  assert rules[1]["onPodConditions"] == [
    {"type": "DisruptionTarget", "status": "True"}
  ]
  # Kubernetes accepts such rules for these pods only.
  assert _pod(manifest)["restartPolicy"] == "Never"


def test_the_bucket_is_where_the_hosts_of_tpu_vms_have_it():
  manifest = _made(bucket="b")
  pod = _pod(manifest)
  [mount] = pod["containers"][0]["volumeMounts"]
  [volume] = pod["volumes"]
  assert (mount["name"], mount["mountPath"]) == (volume["name"], "/mnt/b")
  assert volume["csi"]["volumeAttributes"]["bucketName"] == "b"


def _expanded(word):
  """As Kubernetes does it: $(NAME) is a variable, $$ is $."""
  names = {"HOME": "/root"}
  return re.sub(
    r"\$\$|\$\((\w+)\)",
    lambda m: "$" if m[0] == "$$" else names.get(m[1], m[0]),
    word,
  )


@pytest.mark.parametrize(
  "flag", ["--gin.A='$(HOME) $HOME $$(HOME) it\"s; é'", "--gin.B=$", "a b"]
)
def test_flags_arrive_as_they_were(flag):
  command = Command(("train",), (flag,))
  manifest = jobset("m", "t", gke_slice("v6e:2x2"), command, image="i")
  words = _pod(json.loads(json.dumps(manifest)))["containers"][0]["command"]
  assert [_expanded(word) for word in words][-3:] == ["train", "--", flag]


def test_it_is_created_once_and_looked_after(tmp_path):
  states = [["Running", "Completed"]]
  world = launch_stand_ins.World(tmp_path / "w", states=states)
  done = world.launch("gke", *WORDS, "--", GIN)
  assert done.returncode == 0, done.stdout + done.stderr
  shown = re.findall(r"^== JobSet mine: (\w+)", done.stdout, re.M)
  assert shown == ["running", "Completed"]
  assert world.things() == {"jobset/mine"}  # Its logs stay for a week.
  stopped = world.launch("gke", "--name=mine", "--stop")
  assert stopped.returncode == 0, stopped.stderr
  assert not world.things()


def test_a_failed_one_is_recreated_by_the_same_command(tmp_path):
  states = [["Failed"], ["Completed"]]
  world = launch_stand_ins.World(tmp_path / "w", states=states)
  done = world.launch("gke", *WORDS, "--", GIN)
  assert done.returncode == 1
  assert "failed; the end of its logs is above" in done.stderr
  assert world.calls("kubectl", "--namespace=default", "logs")
  assert world.launch("gke", *WORDS, "--", GIN).returncode == 0


def test_a_jobset_of_someone_else_is_not_deleted(tmp_path):
  world = launch_stand_ins.World(tmp_path / "w")
  world.add("jobset", "mine", ["Failed"], team="ours")
  done = world.launch("gke", *WORDS, "--", GIN)
  assert (done.returncode, "not created here" in done.stderr) == (1, True)
  done = world.launch("gke", "--name=mine", "--stop")
  assert (done.returncode, "not deleted" in done.stderr) == (1, True)
  assert world.things() == {"jobset/mine"}
  assert not world.calls("kubectl", "--namespace=default", "delete")
  assert not world.calls("kubectl", "--namespace=default", "create")


def test_a_dry_run_shows_the_jobset(tmp_path):
  world = launch_stand_ins.World(tmp_path / "w")
  done = world.launch("gke", *WORDS, "--dry_run", "--", GIN)
  assert done.returncode == 0
  text = done.stdout[done.stdout.index("{") : done.stdout.rindex("}") + 1]
  command = Command(("train", "eval"), (GIN,))
  requested = gke_slice("v5e:4x4")
  assert json.loads(text) == jobset(
    "mine", "TOKEN", requested, command, image="i:t", max_retries=10
  )
  assert not world.calls()
