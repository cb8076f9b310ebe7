"""Gin files: where they are looked for, and how their text is read.

An include is looked for beside the file that includes it, then where every
file is: in the working directory, the search paths and the project's own
folders.
"""

from __future__ import annotations

import codecs
import io
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any

from gin import config as gin_config

from calrec_jax.errors import ConfigurationError

# Earlier names of modules with configurables, which gin files of users and
# `config.gin` of earlier runs import.
_MOVED = {
  "data.domain": "data.domain.domain",
  "data.feed": "data.feed.feed",
  "data.log_files": "data.logs.log_files",
  "data.pretrained_vocabulary": "data.vocabulary.pretrained",
  "data.prompt": "data.domain.prompt",
  "data.vocabulary": "data.vocabulary.trained",
  "evaluate.intervals": "metrics.intervals",
  "evaluate.job": "storage.blocks",
  "evaluation": "evaluate.evaluation",
  "item_models": "recommend.dense.sasrec_checkpoint",
  "optimizers": "train.optimizers",
  "partitioning": "runtime.partitioning",
  "profiling": "train.profiling",
  "recommend.bm25": "recommend.baselines.bm25",
  "recommend.constrained": "recommend.constrain.constrained",
  "recommend.dense": "recommend.dense.dense",
  "recommend.fuse": "recommend.fuse.fuse",
  "recommend.ground": "recommend.generate.ground",
  "recommend.rerank": "recommend.constrain.rerank",
  "recommend.sampling": "recommend.generate.sampling",
  "recommend.sasrec": "recommend.dense.sasrec",
  "recommend.sequential_rules": "recommend.baselines.sequential_rules",
  "recommenders": "recommend.registry",
  "saving": "train.checkpointing",
  "stages": "train.stages",
  "tuning": "models.tuning",
  "validation": "train.validation",
}
_IMPORT = re.compile(r"^import calrec_jax\.([\w.]+)", flags=re.MULTILINE)

# The files that are being read, from the outermost to the innermost include.
_open: list[pathlib.Path] = []
# Folders of the files that were read, in order of their first one.
_folders: dict[pathlib.Path, None] = {}


def look_in(folders: Iterable[str | pathlib.Path]) -> None:
  """Makes gin look for files in the working directory, then in `folders`.

  It would search Python packages too, which raises a TypeError if the working
  directory has a folder of the same name, such as "runs" or "data".
  """
  _folders.clear()
  readers: list[Any] = gin_config._FILE_READERS
  readers[:] = [(_GinFile, os.path.isfile)]
  gin_config._LOCATION_PREFIXES[:] = ["", *map(str, folders)]


def folders_read() -> tuple[pathlib.Path, ...]:
  """Absolute folders of the gin files that the configuration was read from."""
  return tuple(_folders)


class _GinFile(io.StringIO):
  """A gin file as text, with the current names of moved modules.

  While it is open, gin looks for includes in its folder first.
  """

  def __init__(self, path: str):
    super().__init__(_text_of(path))
    self.name = path  # gin's messages name it.
    self._file = pathlib.Path(path).resolve()
    self._folder = pathlib.Path(path).absolute().parent

  def __enter__(self) -> _GinFile:
    if self._file in _open:
      names = " includes ".join(map(str, (*_open, self._file)))
      raise ConfigurationError(f"A gin file includes itself: {names}.")
    _open.append(self._file)
    _folders.setdefault(self._folder)
    gin_config._LOCATION_PREFIXES.insert(0, str(self._folder))
    return self

  def __exit__(self, *error: Any) -> None:
    gin_config._LOCATION_PREFIXES.remove(str(self._folder))
    _open.remove(self._file)
    self.close()


def _text_of(path: str) -> str:
  """The text of a file of any line ends, with or without a byte order mark."""
  data = pathlib.Path(path).read_bytes()
  utf_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
  try:
    text = data.decode("utf-16" if utf_16 else "utf-8-sig")
  except UnicodeDecodeError as error:
    line = data.count(b"\n", 0, error.start) + 1
    raise ConfigurationError(
      f"{path}:{line} is not UTF-8 (byte {data[error.start]:#x}): save the "
      "file in UTF-8."
    ) from error
  text = text.replace("\r\n", "\n").replace("\r", "\n")
  return _IMPORT.sub(
    lambda found: f"import calrec_jax.{_MOVED.get(found[1], found[1])}", text
  )
