"""The folder of a run: its last stage, its configuration, its vocabulary.

A path may name a run (MODEL_DIR), a stage in it or a checkpoint. `config.gin`
in a stage's folder rebuilds the configuration, from any folder: its first line
says what its relative paths are relative to. Tested by
`tests/unit/checkpoint/test_run_folder.py`.
"""

from __future__ import annotations

import os
import pathlib
from typing import NamedTuple

from calrec_jax.checkpoint import store
from calrec_jax.checkpoint.store import CheckpointError
from calrec_jax.data.vocabulary import files as vocabulary_files
from calrec_jax.data.vocabulary.trained import RunVocabulary
from calrec_jax.errors import InputError
from calrec_jax.storage import atomic

CONFIG = "config.gin"
VOCABULARY = "vocabulary"
_FOLDER = "# Paths are relative to "


class Run(NamedTuple):
  """A stage of a run, as `calrec --run` opens it.

  Attributes:
    model_dir: MODEL_DIR, the folder of the run.
    stage: Name of the stage.
    config: Its gin file.
    folder: Folder that relative paths of the gin file are relative to; None
      where an earlier version did not write it.
  """

  model_dir: pathlib.Path
  stage: str
  config: pathlib.Path
  folder: pathlib.Path | None


def find(path: str | os.PathLike[str], stage: str | None = None) -> Run:
  """Finds the stage that a path means.

  Args:
    path: Folder of a run, of a stage, or of a checkpoint in one.
    stage: Name of the stage; None is the path's own, or the run's last one.

  Raises:
    InputError: If there is no such stage with a configuration.
  """
  folder = pathlib.Path(path).expanduser().absolute()
  if not folder.is_dir():
    raise InputError(f"--run={path}: there is no folder {folder}.")
  if not (folder / CONFIG).exists() and store.is_checkpoint(folder):
    folder = folder.parent
  if (folder / CONFIG).exists() and stage in (None, folder.name):
    found = folder
  else:
    run = folder.parent if (folder / CONFIG).exists() else folder
    found = run / stage if stage else _last(run)
  if found is None or not (found / CONFIG).exists():
    known = sorted(each.parent.name for each in folder.glob(f"*/{CONFIG}"))
    remedy = "Give the MODEL_DIR of a run, or the folder of a stage."
    if known:
      remedy = f"Choose one of its stages by --stage: {', '.join(known)}."
    raise InputError(
      f"--run={path}: {found or folder} holds no {CONFIG} of a trained stage. "
      f"{remedy}"
    )
  return Run(found.parent, found.name, found / CONFIG, _relative_to(found))


def _last(run: pathlib.Path) -> pathlib.Path | None:
  """The last stage of a run with a checkpoint, or else a configuration."""
  with_config = [each.parent for each in run.glob(f"*/{CONFIG}")]
  return store.last_stage(run) or (
    with_config[0] if len(with_config) == 1 else None
  )


def write_config(folder: pathlib.Path, text: str) -> None:
  """Writes the configuration of a stage, and what its paths start from."""
  atomic.write_text(folder / CONFIG, f"{_FOLDER}{os.getcwd()}\n{text}")


def _relative_to(folder: pathlib.Path) -> pathlib.Path | None:
  first, *_ = (folder / CONFIG).read_text("utf-8").split("\n", 1)
  if not first.startswith(_FOLDER):
    return None
  return pathlib.Path(first.removeprefix(_FOLDER))


def vocabulary_of(path: str | os.PathLike[str]) -> RunVocabulary | None:
  """The vocabulary that a model's rows belong to, as its stage stored it.

  Args:
    path: Folder of a run, of a stage, or of a checkpoint in one.

  Returns:
    None where there is none that was trained, or no such folder.
  """
  try:
    checkpoint = store.find(pathlib.Path(path).expanduser())
  except CheckpointError:
    return None
  folder = checkpoint.parent / VOCABULARY
  if not (folder / vocabulary_files.MODEL_FILE).exists():
    return None  # Of item ids, or of another kind of model.
  found = RunVocabulary(path=str(folder))
  return None if found.stored.pretrained else found
