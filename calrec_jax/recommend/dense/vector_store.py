"""Vectors of a catalogue's texts, computed once for a checkpoint and kept.

The distinct texts are cut into blocks of a fixed size, whoever works on them,
and a block's unit vectors are one file. A folder holds the blocks of one
identity (`vector_identity`: checkpoint, parameters, catalogue, encoder), which
is written beside them; another one is refused. What is there is not computed
again: a killed job goes on at the block it was in, and the next evaluation
computes nothing at all.

Several processes share the folder and nothing else: each does the blocks whose
number leaves its index when divided by their number, then what is still
missing, so that nobody waits for one that died. Where one mesh spans several
processes they compute every block together instead, and take turns writing.

Tested by `tests/unit/recommend/test_catalogue_vectors.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tqdm
from jax.experimental import multihost_utils

from calrec_jax.errors import CalrecError
from calrec_jax.recommend.dense import vector_identity
from calrec_jax.storage import atomic, lineage

IDENTITY_FILE = "identity.json"
_DIGITS = 16  # Of an identity, in the name of its folder.


class VectorsError(CalrecError, ValueError):
  """Vectors on disk that are not those that are asked for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VectorPlace:
  """Where the vectors of a checkpoint are kept, and who works on them.

  Attributes:
    folder: gets a folder for each catalogue and identity.
    domain: name of the catalogue.
    checkpoint: JSON-ready; names the checkpoint, for people and as part of the
      identity.
    share: this process's index among those that share the folder.
    shares: how many there are.
  """

  folder: pathlib.Path
  domain: str
  checkpoint: Mapping[str, Any]
  share: int = 0
  shares: int = 1


class CatalogueVectors:
  """Unit vectors of a catalogue's texts, in files that are mapped to memory.

  Attributes:
    folder: holds them.
    count: texts, M.
    block: texts of a file.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    identity: Mapping[str, Any],
    count: int,
    block: int,
  ):
    """Takes the folder for this identity.

    Raises:
      VectorsError: if it holds vectors of another one, naming both, or cannot
        be made.
    """
    self.folder, self.count, self.block = folder, count, block
    try:
      folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise VectorsError(
        f"There is no place for item vectors ({error}). Bind "
        "DenseSearch.vectors_folder to a folder that can be written to."
      ) from error
    record = folder / IDENTITY_FILE
    if not record.exists():
      if any(folder.glob("*.npy")):
        raise VectorsError(
          f"{folder} holds arrays but no {IDENTITY_FILE}, so that nobody knows "
          "whose vectors they are. Remove the folder, or bind "
          "DenseSearch.vectors_folder to another one."
        )
      lineage.write_json(record, lineage.plain(identity))
    vector_identity.refuse_other(record, identity, VectorsError)

  @property
  def blocks(self) -> list[slice]:
    """The texts of each block."""
    return [
      slice(start, min(start + self.block, self.count))
      for start in range(0, self.count, self.block)
    ]

  @functools.cached_property
  def shape(self) -> tuple[int, int]:
    """Texts and width, M and D."""
    return self.count, self._mapped(0).shape[1]

  def __getitem__(self, rows: slice) -> np.ndarray:
    """Vectors of consecutive texts, float32[rows, D], a copy."""
    start, stop, _ = rows.indices(self.count)
    parts = []
    for number in range(start // self.block, -(-stop // self.block)):
      first = number * self.block
      parts.append(self._mapped(number)[max(start - first, 0) : stop - first])
    if not parts:
      return np.zeros((0, self.shape[1]), np.float32)
    return np.concatenate(parts)

  def path(self, number: int) -> pathlib.Path:
    """The file of a block, named after its first text."""
    return self.folder / f"{number * self.block:09d}.npy"

  def missing(self) -> list[int]:
    """Blocks without a file, rising."""
    there = set(os.listdir(self.folder))
    return [
      number
      for number in range(len(self.blocks))
      if self.path(number).name not in there
    ]

  def complete(
    self,
    encode: Callable[[slice], np.ndarray],
    *,
    share: int,
    shares: int,
    together: bool,
    bar: tqdm.tqdm,
  ) -> None:
    """Computes what is missing; returns when all of it is on disk.

    Args:
      encode: unit vectors of the texts of a slice, float32[rows, D].
      share: this process's index, see `VectorPlace`.
      shares: of how many.
      together: whether one mesh spans several processes, all of which call
        `encode` with the same slices.
      bar: of all texts.
    """
    while missing := self._agreed(self.missing(), together):
      bar.update(self._finished(missing) - bar.n)
      number = missing[0] if together else _choose(missing, share, shares)
      vectors = encode(self.blocks[number])
      if not np.isfinite(vectors).all():
        raise VectorsError(
          "Item vectors hold NaN or infinity; a model that has diverged cannot "
          "rank."
        )
      if not together or number % jax.process_count() == jax.process_index():
        self._write(number, vectors)
    bar.update(self.count - bar.n)

  def _finished(self, missing: Sequence[int]) -> int:
    left = [self.blocks[number] for number in missing]
    return self.count - sum(block.stop - block.start for block in left)

  def _agreed(self, missing: list[int], together: bool) -> list[int]:
    """What process 0 sees missing, once everybody has written."""
    if not together:
      return missing
    multihost_utils.sync_global_devices("catalogue vectors are written")
    flags = np.isin(np.arange(len(self.blocks)), self.missing())
    flags = np.asarray(multihost_utils.broadcast_one_to_all(flags))
    return np.flatnonzero(flags).tolist()

  def _write(self, number: int, vectors: np.ndarray) -> None:
    """A block's file appears whole or not at all."""
    with (
      atomic.replacing(self.path(number)) as part,
      part.open("wb") as file,  # np.save would give a path a suffix.
    ):
      np.save(file, vectors.astype(np.float32), allow_pickle=False)

  def _mapped(self, number: int) -> np.ndarray:
    """A block's file; only what is asked of it is read."""
    path, rows = self.path(number), self.blocks[number]
    try:
      array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
      raise VectorsError(
        f"{path} cannot be read ({error}). Remove it; it is computed again."
      ) from error
    if array.ndim != 2 or len(array) != rows.stop - rows.start:
      raise VectorsError(
        f"{path} is {array.dtype}{list(array.shape)}, but its block has "
        f"{rows.stop - rows.start} texts. Remove it; it is computed again."
      )
    return array


def folder_of(
  place: VectorPlace, chosen: str | None, identity: Mapping[str, Any]
) -> pathlib.Path:
  """The folder of a catalogue's vectors.

  Args:
    place: where they are kept by default, one folder for each identity.
    chosen: `DenseSearch.vectors_folder`, whose folder `DOMAIN` they are in
      whatever the identity, so that another one is refused.
    identity: what the vectors are made of.
  """
  if chosen is not None:
    return pathlib.Path(chosen).expanduser().absolute() / place.domain
  name = f"{place.domain}-{vector_identity.digest(identity)[:_DIGITS]}"
  return place.folder / name


def _choose(missing: Sequence[int], share: int, shares: int) -> int:
  """One's own first; of others' the last, which they would come to last."""
  own = [number for number in missing if number % shares == share]
  return own[0] if own else missing[-1 - share % len(missing)]
