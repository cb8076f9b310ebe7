"""Vectors of a catalogue's texts, computed once for a checkpoint and saved.

The unique texts are cut into blocks (`storage.blocks`), and a block's unit
vectors are one file. A folder belongs to one identity (`vector_identity`:
checkpoint, parameters, catalogue, encoder); another one is refused. What is
there is not computed again: a killed job resumes at its block, and the next
evaluation computes nothing at all.

Where one mesh spans several processes, they compute every block together and
take turns writing.

Tested by `tests/unit/recommend/dense/test_vector_store.py`.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import tqdm
from jax.experimental import multihost_utils

from calrec_jax.errors import CalrecError
from calrec_jax.storage import blocks, identity
from calrec_jax.storage.blocks import BlocksError, BlockStore, Shard


class VectorsError(CalrecError, ValueError):
  """Vectors on disk that do not match the requested ones."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VectorPlace:
  """Where the vectors of a checkpoint are saved, and who works on them.

  Attributes:
    folder: Folder that gets one for each catalogue and identity.
    domain: Name of the catalogue.
    checkpoint: JSON-ready name of the checkpoint, part of the identity.
    shard: This process among those that share the folder.
  """

  folder: pathlib.Path
  domain: str
  checkpoint: Mapping[str, Any]
  shard: Shard = dataclasses.field(default_factory=Shard)


class CatalogueVectors:
  """Unit vectors of a catalogue's texts, in files that are mapped to memory.

  Attributes:
    count: Number of texts, M.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    made_from: Mapping[str, Any],
    count: int,
    block: int,
  ):
    """Takes the folder for an identity.

    Args:
      folder: Folder of the files.
      made_from: Identity of the vectors, see `vector_identity`.
      count: Number of texts, M.
      block: Number of texts of a file.

    Raises:
      VectorsError: if it holds vectors of another one, naming both, or cannot
        be made.
    """
    self.count, self._block = count, block
    cut = blocks.cut(count, block)
    self._store = BlockStore(folder, made_from, cut, ".npy")
    try:
      self._store.claim()
    except BlocksError as error:
      parts = made_from.get("checkpoint") or {}
      names = [str(parts[k]) for k in ("stage", "checkpoint") if k in parts]
      raise VectorsError(
        f"Item vectors of {'/'.join(names) or 'a checkpoint'} (identity "
        f"{identity.short_digest(made_from)}): {error}\nBind "
        "DenseSearch.vectors_folder to another folder (None saves each "
        "checkpoint's vectors next to it), or remove this one."
      ) from error

  @property
  def shape(self) -> tuple[int, ...]:
    """Texts and width, M and D."""
    return self.count, self._mapped(0).shape[1]

  def __getitem__(self, rows: slice) -> np.ndarray:
    """Vectors of consecutive texts, float32[rows, D], a copy."""
    start, stop, _ = rows.indices(self.count)
    parts = []
    for number in range(start // self._block, -(-stop // self._block)):
      first = number * self._block
      parts.append(self._mapped(number)[max(start - first, 0) : stop - first])
    if not parts:
      return np.zeros((0, self.shape[1]), np.float32)
    return np.concatenate(parts)

  def path(self, number: int) -> pathlib.Path:
    """The file of a block, named after its first text."""
    return self._store.path(number)

  def complete(
    self,
    encode: Callable[[slice], np.ndarray],
    *,
    shard: Shard,
    together: bool,
    bar: tqdm.tqdm,
  ) -> None:
    """Computes what is missing; returns when all of it is on disk.

    Args:
      encode: Gives unit vectors of the texts of a slice, float32[rows, D].
      shard: This process among those that share the folder.
      together: Whether one mesh spans several processes, all of which call
        `encode` with the same slices.
      bar: Progress bar of all texts.
    """

    def show(done: int) -> None:
      bar.update(done - bar.n)

    work = self._together if together else self._store.unfinished
    for number in work(shard, show):
      vectors = encode(self._store.blocks[number])
      if not np.isfinite(vectors).all():
        raise VectorsError(
          "Item vectors hold NaN or infinity; a model that has diverged cannot "
          "rank."
        )
      if not together or number % jax.process_count() == jax.process_index():
        self._write(number, vectors)

  def _together(
    self, shard: Shard, show: Callable[[int], object]
  ) -> Iterator[int]:
    """The blocks that process 0 misses, once all processes have written."""
    del shard
    while True:
      multihost_utils.sync_global_devices("catalogue vectors are written")
      count = len(self._store.blocks)
      flags = np.isin(np.arange(count), self._store.missing())
      flags = np.asarray(multihost_utils.broadcast_one_to_all(flags))
      missing = np.flatnonzero(flags).tolist()
      show(self.count - self._store.entries(missing))
      if not missing:
        return
      yield missing[0]

  def _write(self, number: int, vectors: np.ndarray) -> None:
    """Writes a block's file, which appears whole or not at all."""

    def write(path: str) -> None:
      with open(path, "wb") as file:  # np.save would give a path a suffix.
        np.save(file, vectors.astype(np.float32), allow_pickle=False)

    self._store.write(number, write)

  def _mapped(self, number: int) -> np.ndarray:
    """A block's file; only the requested part of it is read."""
    path, rows = self.path(number), self._store.blocks[number]
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
  place: VectorPlace, chosen: str | None, described: Mapping[str, Any]
) -> pathlib.Path:
  """The folder of a catalogue's vectors.

  Args:
    place: Place where they are saved by default, one folder for each identity.
    chosen: `DenseSearch.vectors_folder`: its subfolder `DOMAIN` holds them
      whatever the identity, so that another one is refused.
    described: Identity of the vectors.
  """
  if chosen is not None:
    return pathlib.Path(chosen).expanduser().absolute() / place.domain
  return place.folder / f"{place.domain}-{identity.short_digest(described)}"
