"""A job over many users: cut into blocks that any number of processes do.

The users are cut into blocks of a fixed size, whoever works on them. What is
found for a block is one file, written beside its place and moved there, in a
folder that is named after everything that decides it: answers of different
settings never meet, and what is there need not be done again. Processes share
nothing but that folder. Each does its own share, the blocks whose number
leaves its index when divided by the number of processes; who is done early
does what others have not done yet. So nobody waits for a process that died,
and a job may go on with another number of processes than it began with.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import gin

from calrec_jax.errors import InputError, at_least, check
from calrec_jax.storage import atomic, lineage

MADE_BY_FILE = "made_by.json"
# Programs whose text decides what a recommender answers; see `code_digest`.
RECOMMENDING = ("data", "models", "metrics", "recommend")
_DIGITS = 16  # Of the fingerprint, in the name of a folder.


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """How a job over users is cut.

  Attributes:
    block_users: users of a block. A killed process loses what it had of one
      block. Independent of batches, devices and processes; another size begins
      the job anew.
  """

  block_users: int = 512

  def __post_init__(self):
    """Refuses blocks without users."""
    check(self, block_users=at_least(1))

  def blocks(self, num_users: int) -> list[slice]:
    """The users of each block."""
    size = self.block_users
    return [
      slice(start, min(start + size, num_users))
      for start in range(0, num_users, size)
    ]


@dataclasses.dataclass(frozen=True)
class Share:
  """Which of how many processes this is.

  Attributes:
    index: from 0; process 0 writes the result.
    count: of processes.
  """

  index: int = 0
  count: int = 1

  @classmethod
  def parse(cls, text: str) -> "Share":
    """The share that `--shard=0/4` means.

    Raises:
      InputError: for anything else.
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
    """The block to do next: of one's own the first, else one of others.

    Of others' blocks the last ones are taken, which their owners would come to
    last, and by each helper another one.
    """
    own = [block for block in missing if block % self.count == self.index]
    return own[0] if own else missing[-1 - self.index % len(missing)]


class Parts:
  """Finished blocks of one piece of work, as files in a folder of their own.

  Attributes:
    made_by: everything that decides the content of the files.
    folder: where they are.
  """

  def __init__(
    self,
    root: str | os.PathLike[str],
    made_by: Mapping[str, Any],
    blocks: Sequence[slice],
    suffix: str = ".parquet",
  ):
    """Takes the folder `root/FINGERPRINT`; it is made when first written to.

    Args:
      root: holds the parts of this work, and of the same under other settings.
      made_by: JSON-ready; everything that decides the content of the files.
      blocks: the users of each block.
      suffix: of the files.
    """
    # As it is read back, so that the two can be compared.
    self.made_by = json.loads(json.dumps(made_by, default=str))
    self._root = pathlib.Path(root)
    self.folder = self._root / lineage.digest(self.made_by)[:_DIGITS]
    self._blocks, self._suffix = list(blocks), suffix

  def path(self, block: int) -> pathlib.Path:
    """The file of a block, named after its first user."""
    return self.folder / f"{self._blocks[block].start:09d}{self._suffix}"

  def missing(self) -> list[int]:
    """The blocks that have no file yet, rising."""
    there = set(os.listdir(self.folder)) if self.folder.is_dir() else set()
    return [
      block
      for block in range(len(self._blocks))
      if self.path(block).name not in there
    ]

  def write(self, block: int, write: Callable[[str], object]) -> None:
    """Lets `write` fill a block's file, which appears whole or not at all."""
    made_by = self.folder / MADE_BY_FILE
    if not made_by.exists():
      text = json.dumps(self.made_by, indent=1, sort_keys=True) + "\n"
      atomic.write_text(made_by, text)
    with atomic.replacing(self.path(block)) as part:
      write(str(part))

  def changes(self) -> list[str]:
    """What other settings left here, a line each: what differs from these."""
    lines = []
    for folder in self._others():
      try:
        before = json.loads((folder / MADE_BY_FILE).read_text("utf-8"))
      except (OSError, json.JSONDecodeError):
        before = {}
      changed = lineage.changes(before, self.made_by)
      shown = "; ".join(changed[:4]) + ("; ..." if len(changed) > 4 else "")
      lines.append(f"{folder} is of other settings and not used: {shown}")
    return lines

  def remove_others(self) -> None:
    """Removes what other settings left here."""
    for folder in self._others():
      shutil.rmtree(folder, ignore_errors=True)

  def _others(self) -> list[pathlib.Path]:
    if not self._root.is_dir():
      return []
    return sorted(
      folder
      for folder in self._root.iterdir()
      if folder.is_dir() and folder != self.folder
    )


def code_digest(files: Collection[str]) -> str:
  """sha256 of this package's program text.

  Answers of another version of the program are not to be used again, even
  where nobody has raised a version number.

  Args:
    files: modules and folders of the package, such as `recommend`.
  """
  package = pathlib.Path(__file__).parents[1]
  digest = hashlib.sha256()
  for name in sorted(files):
    place = package / name
    found = [place] if place.is_file() else sorted(place.rglob("*.py"))
    if not found:
      raise FileNotFoundError(f"{place} holds no program text.")
    for path in found:
      digest.update(str(path.relative_to(package)).encode())
      digest.update(path.read_bytes())
  return digest.hexdigest()
