"""Compiled programs that all tests share, now and in later runs.

Tests compile more than they compute. JAX's own persistent cache may be read by
one process while another writes to it: entries are not written atomically. This
one moves them into place whole and checks what it reads, so that the processes
of a run share their programs as they appear, and a damaged file costs no more
than compiling again. Entries are found by program, compiler and flags; the
processor, which JAX leaves out, names the folder.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import uuid

import jax
from jax._src import compilation_cache
from jax._src.compilation_cache_interface import CacheInterface

FOLDER = pathlib.Path(__file__).parents[1] / ".jax_test_cache"
MAX_BYTES = 2**30
_DIGEST_BYTES = hashlib.sha256().digest_size


class SharedCache(CacheInterface):
  """A folder of compiled programs, for any number of processes at once."""

  def __init__(self, folder: pathlib.Path):
    self.folder = self._path = folder  # The latter for JAX.
    folder.mkdir(parents=True, exist_ok=True)

  def get(self, key: str) -> bytes | None:
    """The program, or None where there is none that is whole."""
    path = self.folder / key
    try:
      data = path.read_bytes()
      os.utime(path)  # The least recently used are removed first.
    except OSError:
      return None
    digest, value = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    return value if digest == hashlib.sha256(value).digest() else None

  def put(self, key: str, value: bytes) -> None:
    """Adds a program, or replaces one that `get` refused."""
    partial = self.folder / f".{uuid.uuid4().hex}"
    # On a full disk tests are slow, not wrong.
    with contextlib.suppress(OSError):
      partial.write_bytes(hashlib.sha256(value).digest() + value)
      partial.replace(self.folder / key)


def share(folder: pathlib.Path = FOLDER) -> None:
  """Makes this process take its programs from the folder, and add to it."""
  folder = folder / _processor()
  others = compilation_cache.get_file_cache

  def get_file_cache(path: str) -> tuple[CacheInterface, str] | None:
    return (SharedCache(folder), path) if path == str(folder) else others(path)

  compilation_cache.get_file_cache = get_file_cache
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def prune(folder: pathlib.Path = FOLDER, max_bytes: int = MAX_BYTES) -> None:
  """Removes the least recently used programs beyond a size in bytes."""
  files = [
    (status.st_mtime_ns, status.st_size, path)
    for path in folder.glob("*/*")
    if (status := path.stat())
  ]
  excess = sum(size for _, size, _ in files) - max_bytes
  for _, size, path in sorted(files):
    if excess <= 0:
      break
    path.unlink(missing_ok=True)
    excess -= size


def _processor() -> str:
  """A name for what XLA compiles for."""
  try:
    text = pathlib.Path("/proc/cpuinfo").read_text("utf-8")
    lines = text.split("\n\n")[0].splitlines()
    about = [line for line in lines if line.startswith(("model", "flags"))]
  except OSError:  # Not Linux.
    about = [platform.processor()]
  digest = hashlib.sha256("\n".join([platform.machine(), *about]).encode())
  return f"{platform.machine()}-{digest.hexdigest()[:12]}"
