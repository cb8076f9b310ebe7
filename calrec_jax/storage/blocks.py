"""Saved work in blocks that any number of processes compute.

The work, users or item texts, is divided into blocks of a fixed size. The
result of a block is one atomically written file in a folder of one identity
(`storage.identity`): results of different settings never mix, and existing ones
are not computed again. The processes share nothing but that folder. Each does
the blocks of its own shard, then any that others have not done yet. So none
waits for a dead process, and another number of processes may resume a job.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gin

from calrec_jax.errors import CalrecError, InputError, at_least, check
from calrec_jax.storage import atomic, identity

IDENTITY_FILE = "identity.json"


class BlocksError(CalrecError, ValueError):
  """A folder of blocks that cannot be used."""


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """How a job over users is divided.

  Attributes:
    block_users: Number of users per block. A killed process loses at most one
      block. Independent of batches, devices and processes; another size starts
      the job again.
  """

  block_users: int = 512

  def __post_init__(self):
    """Checks the settings."""
    check(self, block_users=at_least(1))

  def blocks(self, num_users: int) -> list[slice]:
    """The users of each block."""
    return cut(num_users, self.block_users)


def cut(count: int, size: int) -> list[slice]:
  """Slices of `size`, the last one possibly shorter, over `count` entries."""
  starts = range(0, count, size)
  return [slice(start, min(start + size, count)) for start in starts]


@dataclasses.dataclass(frozen=True)
class Shard:
  """The part of a job that one of several processes does first.

  Attributes:
    index: Index of the process, from 0; process 0 writes the result.
    count: Number of processes.
  """

  index: int = 0
  count: int = 1

  @classmethod
  def parse(cls, text: str) -> Shard:
    """The shard of a flag such as `--shard=0/4`.

    Raises:
      InputError: If the text has another form.
    """
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal()) or int(index) >= int(
      count
    ):
      raise InputError(
        f"--shard={text}: write INDEX/COUNT, from --shard=0/4 to --shard=3/4 "
        "for four processes."
      )
    return cls(int(index), int(count))

  def choose(self, missing: Sequence[int]) -> int:
    """The block to do next: the first of this shard, else one of another.

    Blocks of others are taken from the end, which their owners reach last, and
    each helper takes a different one.
    """
    own = [block for block in missing if block % self.count == self.index]
    return own[0] if own else missing[-1 - self.index % len(missing)]


class BlockStore:
  """Finished blocks of one piece of work, as files in one folder.

  Attributes:
    folder: Folder of the files, created by the first write.
    identity: Everything that determines the content of the files, as JSON.
    blocks: Entries of each block.
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    identity: Mapping[str, Any],
    blocks: Sequence[slice],
    suffix: str = ".parquet",
  ):
    self.folder = pathlib.Path(folder)
    # As it is read back, so that the two can be compared.
    self.identity = json.loads(json.dumps(identity, default=str))
    self.blocks, self._suffix = list(blocks), suffix

  @classmethod
  def under(
    cls,
    root: str | os.PathLike[str],
    made_by: Mapping[str, Any],
    blocks: Sequence[slice],
    suffix: str = ".parquet",
  ) -> BlockStore:
    """The store `root/DIGEST`, next to those of other identities."""
    store = cls(root, made_by, blocks, suffix)
    store.folder /= identity.short_digest(store.identity)
    return store

  def path(self, block: int) -> pathlib.Path:
    """File of a block, named after its first entry."""
    return self.folder / f"{self.blocks[block].start:09d}{self._suffix}"

  def missing(self) -> list[int]:
    """Blocks that have no file yet, ascending."""
    there = set(os.listdir(self.folder)) if self.folder.is_dir() else set()
    blocks = range(len(self.blocks))
    return [block for block in blocks if self.path(block).name not in there]

  def entries(self, blocks: Sequence[int] | None = None) -> int:
    """Number of entries in some blocks, by default in all."""
    chosen = range(len(self.blocks)) if blocks is None else blocks
    return sum(self.blocks[n].stop - self.blocks[n].start for n in chosen)

  def unfinished(
    self, shard: Shard, show: Callable[[int], object]
  ) -> Iterator[int]:
    """Blocks to compute and `write`, one at a time, until none is missing.

    Args:
      shard: This process among those that share the folder.
      show: Function called at each step with the number of finished entries of
        all processes.
    """
    while missing := self.missing():
      show(self.entries() - self.entries(missing))
      yield shard.choose(missing)
    show(self.entries())

  def write(self, block: int, write: Callable[[str], object]) -> None:
    """Calls `write` with a path to fill that atomically becomes the block."""
    if not (self.folder / IDENTITY_FILE).exists():
      self._write_identity()
    with atomic.replacing(self.path(block)) as part:
      write(str(part))

  def claim(self) -> None:
    """Reserves a folder of a fixed name for this identity.

    Raises:
      BlocksError: If it belongs to another identity, or cannot be created.
    """
    record = self.folder / IDENTITY_FILE
    try:
      self.folder.mkdir(parents=True, exist_ok=True)
      if not record.exists():
        if any(self.folder.glob(f"*{self._suffix}")):
          raise BlocksError(
            f"{self.folder} holds *{self._suffix} files but no "
            f"{IDENTITY_FILE}, which says what they were made from."
          )
        self._write_identity()
    except OSError as error:
      raise BlocksError(f"{self.folder} cannot be created: {error}.") from error
    changed = identity.changes(_read(record), self.identity)
    if changed:
      raise BlocksError(
        f"{self.folder} does not match:\n  " + "\n  ".join(changed)
      )

  def changes(self) -> list[str]:
    """Folders of other identities next to this one, and how they differ."""
    lines = []
    for folder in self._others():
      try:
        before = _read(folder / IDENTITY_FILE)
      except BlocksError:
        lines.append(f"{folder} is from an earlier version and not used")
        continue
      changed = identity.changes(before, self.identity)
      shown = "; ".join(changed[:4]) + ("; ..." if len(changed) > 4 else "")
      lines.append(f"{folder} has other settings and is not used: {shown}")
    return lines

  def remove_others(self) -> None:
    """Removes the folders of other identities next to this one."""
    for folder in self._others():
      shutil.rmtree(folder, ignore_errors=True)

  def _write_identity(self) -> None:
    text = json.dumps(self.identity, indent=2, sort_keys=True) + "\n"
    atomic.write_text(self.folder / IDENTITY_FILE, text)

  def _others(self) -> list[pathlib.Path]:
    found = sorted(self.folder.parent.glob("*/"))
    return [folder for folder in found if folder != self.folder]


def _read(record: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(record.read_text("utf-8"))
  except (OSError, ValueError) as fault:
    raise BlocksError(
      f"{record} cannot be read ({fault}). Remove the folder; its files are "
      "computed again."
    ) from fault
