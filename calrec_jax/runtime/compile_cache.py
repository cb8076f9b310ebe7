"""Compiled programs cached on disk, so that a run restarts in seconds.

A large model compiles for minutes, and a preempted run compiles at every start.
JAX's persistent cache is therefore on for accelerators, in `compiled` next to
the token caches, and off for CPUs, which gain little.
CALREC_COMPILATION_CACHE is another folder, or `off`; a cache that
JAX_COMPILATION_CACHE_DIR sets is left alone. The keys of entries contain
program, compiler and devices. Tested by
`tests/unit/runtime/test_compile_cache.py`.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping

import jax


def keep(
  data_folder: pathlib.Path, environment: Mapping[str, str] = os.environ
) -> pathlib.Path | None:
  """Enables the cache by these rules, before anything is compiled.

  Args:
    data_folder: Folder of the dataset, the default place of the cache.
    environment: Environment variables.

  Returns:
    The folder; None if the cache is off or JAX has one already.
  """
  chosen = environment.get("CALREC_COMPILATION_CACHE", "")
  if chosen == "off" or jax.config.values["jax_compilation_cache_dir"]:
    return None
  if not chosen and jax.default_backend() == "cpu":
    return None
  folder = data_folder / "compiled"
  if chosen:
    folder = pathlib.Path(chosen).expanduser().absolute()
  folder.mkdir(parents=True, exist_ok=True)
  jax.config.update("jax_compilation_cache_dir", str(folder))
  return folder
