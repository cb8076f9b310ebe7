"""The flag `--run`: a run's own configuration instead of a gin file."""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from calrec_jax import config
from calrec_jax.checkpoint import run_folder

# Settings that are paths; those of the last group may be names instead. If a
# source has a folder, its files are relative to that.
_FOLDERS = {
  "LogFiles": ("folder",),
  "folder_domains": ("root",),
  "AmazonReviews": ("manual_dir",),
  "CompleteJourney": ("folder",),
  "Dataset": ("data_dir",),
  "SentencePieceFile": ("path",),
}
_FILES = {"LogFiles": ("interactions", "items", "orders")}
_MAYBE_FILES = {
  "PretrainedVocabulary": ("source",),
  "Stage": ("initial_checkpoint",),
  "Evaluation": ("checkpoint",),
  "Fusion": ("weights",),
  "trained_sasrec": ("checkpoint",),
}


def add_flag(parser: argparse.ArgumentParser) -> None:
  """Adds the flag to a verb that reads a trained run."""
  parser.add_argument(
    "--run",
    metavar="MODEL_DIR",
    help="a trained run, or the folder of one of its stages: its own "
    "configuration is used, and no gin file is needed",
  )


def open_run(arguments: argparse.Namespace) -> None:
  """Puts the configuration of `--run` before those of the other flags.

  Files and bindings of the command line still take precedence, so that
  `--gin.INTERACTIONS=...` names another log.

  Args:
    arguments: Arguments of the verb with `run`, `stage` and `configuration`;
      the last two are replaced.
  """
  if arguments.run is None:
    return
  run = run_folder.find(arguments.run, arguments.stage)
  given = arguments.configuration
  own = config.Configuration(files=(str(run.config),))
  own.apply()
  bindings = []
  source = f"{run.config}"
  if run.folder is not None:
    bindings += _paths_from(run.folder)
    if run.folder != pathlib.Path.cwd():
      source += f", with paths relative to {run.folder}"
  # After the paths of training: members of a fusion lie in the run's folder,
  # wherever that is by now.
  macro = config.macro("MODEL_DIR", None) is not None
  setting = "MODEL_DIR" if macro else "Stage.model_dir"
  bindings.append(f"{setting}={str(run.model_dir)!r}")
  arguments.stage = run.stage
  arguments.configuration = dataclasses.replace(
    given,
    files=(str(run.config), *given.files),
    bindings=(*bindings, *given.bindings),
  )
  print(f"--run: the stage {run.stage!r} of {source}", file=sys.stderr)


def _paths_from(folder: pathlib.Path) -> list[str]:
  """Bindings that make relative paths of the applied configuration absolute.

  Args:
    folder: Folder that they are relative to. One that exists only in the
      working directory stays as it is.
  """
  folders = config.bound_values(_FOLDERS)
  files = {} if _has_folder(folders) else config.bound_values(_FILES)
  sure = {**folders, **files}
  bindings = []
  for name, value in {**config.bound_values(_MAYBE_FILES), **sure}.items():
    path = _absolute(value, folder, sure=name in sure)
    if path != value:
      bindings.append(f"{name}={path!r}")
  return bindings


def _has_folder(bound: Mapping[str, Any]) -> bool:
  return any(name.endswith("LogFiles.folder") for name in bound)


def _absolute(value: Any, folder: pathlib.Path, *, sure: bool) -> Any:
  """A path, or several, as an absolute one where it is relative."""
  if isinstance(value, (list, tuple)):
    parts = [_absolute(part, folder, sure=sure) for part in value]
    return type(value)(parts)
  if not isinstance(value, str) or not value or "://" in value:
    return value
  path = folder / os.path.expanduser(value)
  if path.exists() or (sure and not os.path.exists(value)):
    return str(path)
  return value
