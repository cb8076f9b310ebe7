"""Compiled programs cached on disk, so that a run restarts in seconds.

A large model compiles for minutes, and a run that is preempted compiles as
often as it starts. On accelerators JAX's persistent cache is therefore on, in
`compiled` beside the token caches; on a CPU, where it gains little, it is off.
CALREC_COMPILATION_CACHE names another folder, or is `off`. A cache that JAX's
own JAX_COMPILATION_CACHE_DIR names stays. Entries are found by program,
compiler and devices, so that none is ever wrong. Tested by
`tests/unit/test_compilation.py`.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping

import jax

_VARIABLE = "CALREC_COMPILATION_CACHE"
_OFF = "off"


def keep(
  data_folder: pathlib.Path, environment: Mapping[str, str] = os.environ
) -> pathlib.Path | None:
  """Switches the cache on, if it is to be, before anything is compiled.

  Args:
    data_folder: Folder of the dataset; holds the cache unless the environment
      says otherwise.
    environment: Environment of the process.

  Returns:
    The folder, or None where it is off or JAX has one already.
  """
  chosen = environment.get(_VARIABLE, "")
  if chosen == _OFF or jax.config.jax_compilation_cache_dir:
    return None
  if not chosen and jax.default_backend() == "cpu":
    return None
  folder = (
    pathlib.Path(chosen).expanduser().absolute()
    if chosen
    else data_folder / "compiled"
  )
  folder.mkdir(parents=True, exist_ok=True)
  jax.config.update("jax_compilation_cache_dir", str(folder))
  return folder
