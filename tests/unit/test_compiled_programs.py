"""Compiled programs of the tests: shared, bounded, and never in the way."""

import os

import jax
import pytest
from jax._src import compilation_cache

from tests.fixtures import compiled_programs


@pytest.fixture
def cache(tmp_path):
  return compiled_programs.SharedCache(tmp_path / "programs")


def test_programs_come_back_whole_or_not_at_all(cache, tmp_path):
  assert cache.get("jit_f-1") is None
  cache.put("jit_f-1", b"program")
  assert cache.get("jit_f-1") == b"program"
  (path,) = (tmp_path / "programs").iterdir()
  whole = path.read_bytes()
  for damaged in (b"", whole[:-1], whole[:35] + b"?" + whole[36:]):
    path.write_bytes(damaged)
    assert cache.get("jit_f-1") is None
  cache.put("jit_f-1", b"program")
  assert cache.get("jit_f-1") == b"program"


def test_a_folder_that_cannot_be_written_is_no_error(cache, tmp_path):
  (tmp_path / "programs").rmdir()
  cache.put("jit_f-1", b"program")
  assert cache.get("jit_f-1") is None


def test_the_least_recently_used_are_removed(cache, tmp_path):
  for age, key in enumerate("abcd"):
    cache.put(key, bytes(100))
    os.utime(tmp_path / "programs" / key, (1000 - age, 1000 - age))
  assert cache.get("d") is not None  # Is now the most recent.
  compiled_programs.prune(tmp_path, max_bytes=300)
  left = sorted(path.name for path in (tmp_path / "programs").iterdir())
  assert left == ["a", "d"]


def test_jax_uses_it():
  jax.jit(lambda x: x * 3 + 41)(1.0)
  cache = compilation_cache._get_cache(jax.devices()[0].client)
  assert isinstance(cache, compiled_programs.SharedCache)
  assert any(cache.folder.glob("jit__lambda*"))
