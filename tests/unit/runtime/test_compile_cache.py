"""Where compiled programs are saved, and where not."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from calrec_jax.runtime import compile_cache


@pytest.fixture
def backend(monkeypatch):
  """Names the backend; puts back what was configured."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", None)
  yield lambda name: monkeypatch.setattr(jax, "default_backend", lambda: name)
  jax.config.update("jax_compilation_cache_dir", before)
  compilation_cache.reset_cache()


@pytest.mark.parametrize(
  ("name", "chosen", "expected"),
  [
    ("cpu", None, None),
    ("cpu", "mine", "mine"),
    ("tpu", None, "data/compiled"),
    ("gpu", None, "data/compiled"),
    ("tpu", "mine", "mine"),
    ("tpu", "off", None),
  ],
)
def test_the_folder(backend, tmp_path, name, chosen, expected):
  backend(name)
  environment = {}
  if chosen is not None:
    environment["CALREC_COMPILATION_CACHE"] = (
      chosen if chosen == "off" else str(tmp_path / chosen)
    )
  found = compile_cache.keep(tmp_path / "data", environment)
  assert found == (None if expected is None else tmp_path / expected)
  folder = None if expected is None else str(found)
  assert jax.config.jax_compilation_cache_dir == folder
  assert [path for path in tmp_path.rglob("*") if path == found] == (
    [] if found is None else [found]
  )


def test_programs_are_saved_after_others_were_compiled(backend, tmp_path):
  backend("tpu")
  seconds = jax.config.jax_persistent_cache_min_compile_time_secs
  jax.jit(lambda x: x + 1)(1.0)
  folder = compile_cache.keep(tmp_path, {})
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  jax.jit(lambda x: x * 3)(1.0)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
  assert list(folder.iterdir())


def test_one_that_jax_has_stays(backend, tmp_path):
  backend("tpu")
  jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
  assert compile_cache.keep(tmp_path / "data", {}) is None
  assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
