"""Killed makers leave nothing that is taken for whole, and full disks say so.

The processes are programs of their own, which are killed or kill themselves
(SIGKILL).
"""

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import types

import pytest

from calrec_jax.data.cache import files
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.storage import build_lock
from tests.fixtures import synthetic_caches

LONGEST_SECONDS = 120  # Of a hanging process; a busy machine is slow.

_HOLDS_A_LOCK = """
import pathlib, sys
from calrec_jax.storage import build_lock

folder = pathlib.Path(sys.argv[1])
with build_lock.alone(folder, "thing", leftovers="made/.thing-*"):
  (folder / "made" / ".thing-half").mkdir(parents=True)
  (folder / "made" / ".thing-half" / "file").write_text("half")
  print("holds it", flush=True)
  sys.stdin.read()
"""

# Writes a cache and dies at the point of this name.
_WRITES_A_CACHE = """
import os, pathlib, signal, sys
import numpy as np
from tests.fixtures import synthetic_caches
from calrec_jax.data.cache import writer
from calrec_jax.storage import build_lock

folder, point = pathlib.Path(sys.argv[1]), sys.argv[2]

def die(*args):
  os.kill(os.getpid(), signal.SIGKILL)

def dying_after(function):
  def call(*args):
    result = function(*args)
    die()
  return call

if point == "manifest":
  os.rename = die
elif point == "split":
  writer._check_users = die
elif point == "published":
  os.rename = dying_after(os.rename)
elif point.startswith("parts"):
  writer._write_json = dying_after(writer._write_json)
with build_lock.alone(folder, "shop", leftovers=".shop-0123456789ab-*"):
  synthetic_caches.write(folder)
"""

_FILLS_A_DISK = """
import pathlib, resource, sys
import numpy as np
from tests.fixtures import synthetic_caches
from calrec_jax.data.cache import files, writer
from calrec_jax.storage import build_lock

if sys.argv[2] != "disk":  # The files may not become larger.
  limit = int(sys.argv[2])
  resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
users = (
  files.DocumentRecord(f"user {n}", np.array([0, 1]), None)
  for n in range(20_000)
)
items = [
  files.CatalogueRecord(str(n), "x", synthetic_caches.item_tokens(3, n))
  for n in range(2)
]
path = pathlib.Path(sys.argv[1], "d-1")
try:
  prompt = synthetic_caches.PROMPT
  writer.write_cache(path, items, {"train": users}, prompt)
except build_lock.DiskFullError as error:
  print(error)
"""


def start(program, *arguments):
  return subprocess.Popen(
    [sys.executable, "-c", program, *map(str, arguments)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
  )


def run(program, *arguments):
  """Exit status and output."""
  with start(program, *arguments) as process:
    output, _ = process.communicate(timeout=LONGEST_SECONDS)
  return process.returncode, output


def test_a_killed_makers_leftovers_are_removed_and_a_living_ones_are_not(
  tmp_path,
):
  other = tmp_path / "made" / ".other-half"
  messages = []
  with start(_HOLDS_A_LOCK, tmp_path) as process:
    assert process.stdout.readline() == "holds it\n"
    other.mkdir()

    def say(text):  # Called when the lock is found taken.
      messages.append(text)
      if len(messages) == 1:
        assert (tmp_path / "made" / ".thing-half" / "file").exists()
        process.send_signal(signal.SIGKILL)

    with build_lock.alone(
      tmp_path, "thing", leftovers="made/.thing-*", say=say
    ):
      assert [p.name for p in (tmp_path / "made").iterdir()] == [other.name]
  assert "another process is building it" in messages[0]
  assert ".thing-half was left unfinished" in messages[1]
  assert process.returncode == -signal.SIGKILL


def test_without_locks_nothing_is_removed(tmp_path, monkeypatch):
  def no_locks(file, kind):
    raise OSError(errno.ENOTSUP, "no locks")

  monkeypatch.setattr(build_lock.fcntl, "flock", no_locks)
  (tmp_path / ".thing-half").mkdir()
  with build_lock.alone(tmp_path, "thing", leftovers=".thing-*"):
    assert (tmp_path / ".thing-half").exists()


def hashes(folder):
  return {
    path.name: hashlib.sha256(path.read_bytes()).hexdigest()
    for path in folder.rglob("*")
    if path.is_file()
  }


def test_a_cache_killed_at_any_point_is_whole_or_not_there(tmp_path):
  whole = hashes(synthetic_caches.write(tmp_path / "whole").path)
  folder = tmp_path / "killed"
  folder.mkdir()
  path = folder / "shop-0123456789ab"
  for point in ("parts", "split", "manifest", "published"):
    status, _ = run(_WRITES_A_CACHE, folder, point)
    assert status == -signal.SIGKILL
    halves = list(folder.glob(".shop-0123456789ab-*"))
    if point == "published":
      files.check(path, thorough=True)
      assert halves == []
    else:
      assert not path.exists()
      assert len(halves) == 1  # That of the run before was removed.
  assert run(_WRITES_A_CACHE, folder, "none")[0] == 0
  assert TokenCache.open(path).num_items == 7
  assert hashes(path) == whole


def test_a_file_that_may_not_grow_is_a_clear_error(tmp_path):
  status, output = run(_FILLS_A_DISK, tmp_path, 200_000)
  assert status == 0
  assert f"disk is full: {tmp_path / 'd-1'} cannot be written" in output
  assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_clear_error(tmp_path):
  mounted = subprocess.run(
    ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)],
    capture_output=True,
  )
  if mounted.returncode:
    pytest.skip("a small disk cannot be mounted by this user")
  try:
    status, output = run(_FILLS_A_DISK, tmp_path, "disk")
    left = list(tmp_path.iterdir())
  finally:
    subprocess.run(["umount", str(tmp_path)], check=True)
  assert status == 0
  free = int(output.partition(", and ")[2].partition(" ")[0].replace(",", ""))
  assert free < 100_000, output
  assert left == []


def test_too_little_room_is_seen_beforehand(tmp_path, monkeypatch):
  monkeypatch.setattr(
    shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1000)
  )
  path = tmp_path / "a" / "b"
  with (
    pytest.raises(build_lock.DiskFullError) as raised,
    build_lock.room(path, 1001),
  ):
    raise AssertionError("it was begun")
  for part in (f"{path} needs about 1,001 bytes", "1,000 bytes are free"):
    assert part in str(raised.value)
  with build_lock.room(path, 1000):
    pass


@pytest.mark.parametrize(
  "error",
  [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    RuntimeError("write() failed: No space left on device; writing x"),
  ],
)
def test_every_kind_of_full_disk_is_one_error(tmp_path, error):
  with (
    pytest.raises(build_lock.DiskFullError, match="needs about 7 bytes"),
    build_lock.room(tmp_path, 7),
    build_lock.room(tmp_path / "part"),
  ):
    raise error


@pytest.mark.parametrize(
  "error", [OSError(errno.EACCES, "no"), ValueError("x")]
)
def test_other_errors_stay_what_they_are(tmp_path, error):
  with pytest.raises(type(error)) as raised, build_lock.room(tmp_path, 7):
    raise error
  assert raised.value is error
