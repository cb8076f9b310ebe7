"""Runs on one machine with GPUs, reached by ssh."""

import pytest

from launch.launcher.preemption import preempted_status
from tests.fixtures import launch_stand_ins

pytestmark = pytest.mark.heavy

GIN = "--gin_file=recipes/quickstart.gin"
NASTY = "--gin.MODEL_DIR='/data/my run; $HOME \"x\"'"
BOX = ("--name=mine", "--host=me@box")


def test_a_preempted_run_starts_again(tmp_path):
  plan = {"calrec": [preempted_status(), 0]}
  world = launch_stand_ins.World(tmp_path / "w", **plan)
  done = world.launch("gpu_box", *BOX, "--", GIN, NASTY)
  assert done.returncode == 0, done.stdout + done.stderr
  flags = [GIN, NASTY]
  assert world.calrec() == [
    ["train", *flags],
    ["train", *flags],
    ["eval", *flags],
  ]
  assert all(call[:4][-1] == "me@box" for call in world.calls("ssh"))


def test_in_a_container(tmp_path):
  world = launch_stand_ins.World(tmp_path / "w")
  volume = "--volume=/data:/data"
  done = world.launch(
    "gpu_box", *BOX, "--docker", volume, "--lock=gemma", "--", GIN, NASTY
  )
  assert done.returncode == 0, done.stdout + done.stderr
  [build, run] = world.calls("docker")
  checkout = world.folder / "hosts" / "0" / "calrec_jax"
  assert build[1:] == [
    *("build", "--build-arg", "LOCKS=cuda,gemma", "--tag", "calrec_jax:cuda"),
    *("--file", f"{checkout}/launch/Dockerfile", str(checkout)),
  ]
  assert run[1:5] == ["run", "--rm", "--gpus", "all"]
  assert "/data:/data" in run
  assert f"{checkout}/runs:/calrec_jax/runs" in run
  image = run.index("calrec_jax:cuda")
  assert run[image + 1 :] == ["work", "train,eval", "--", GIN, NASTY]


def test_a_failure_is_the_launchers(tmp_path):
  world = launch_stand_ins.World(tmp_path / "w", calrec=[7])
  done = world.launch("gpu_box", *BOX, "--", GIN)
  assert (done.returncode, world.calrec()) == (7, [["train", GIN]])


def test_a_dry_run_here_uses_this_checkout(tmp_path):
  world = launch_stand_ins.World(tmp_path / "w")
  done = world.launch("gpu_box", "--name=mine", "--dry_run", "--", GIN, NASTY)
  assert done.returncode == 0
  script = f"+ bash {launch_stand_ins.ROOT}/launch/on_host.sh"
  verbs = [line.split()[3] for line in done.stdout.splitlines()]
  assert verbs == ["status", "setup", "start", "follow", "status"]
  assert done.stdout.count(script) == len(verbs)
  assert not world.calls()


def test_options_that_do_not_go_together(tmp_path):
  world = launch_stand_ins.World(tmp_path / "w")
  for words, remedy in (
    (("--volume=/a:/b",), "--volume needs --docker"),
    (("--fetch=runs",), "--fetch needs --host"),
    (("--host=-oProxyCommand=x",), "is not a host"),
  ):
    done = world.launch("gpu_box", "--name=mine", *words, "--", GIN)
    assert (done.returncode, remedy in done.stderr) == (2, True)
