"""One run in a folder: a second one is refused, a later one is not."""

import os
import subprocess
import sys

import pytest

from calrec_jax.storage import run_lock

_HOLDS = """
import pathlib, sys
from calrec_jax.storage import run_lock
with run_lock.held(pathlib.Path(sys.argv[1])):
  print("held", flush=True)
  sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
  monkeypatch.setattr(run_lock, "PATIENCE_SECONDS", 0.0)


def test_the_second_run_is_refused_until_the_first_has_ended(tmp_path):
  folder = tmp_path / "run" / "train"
  first = subprocess.Popen(
    [sys.executable, "-c", _HOLDS, folder],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  )
  assert first.stdout.readline() == b"held\n"
  with (
    pytest.raises(run_lock.RunningError, match=f"process {first.pid} on "),
    run_lock.held(folder),
  ):
    pass
  with run_lock.held(folder.with_name("other")):
    pass
  first.kill()
  first.communicate()
  with run_lock.held(folder):
    written = (tmp_path / "run" / ".locks" / "train").read_text()
    assert written.startswith(f"process {os.getpid()} on ")
  with run_lock.held(folder):
    pass
  assert not folder.exists()
