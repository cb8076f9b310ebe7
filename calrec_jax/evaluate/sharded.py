"""An evaluation that many processes do together and that can be stopped.

The unit of work is one block of users under one recommender, a file; see
`job` for who does what. When all are there one process reads them in the order
of the users and makes the numbers, which therefore do not depend on who did
what, on how often the job was stopped, or on the number of processes.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tqdm

from calrec_jax.data.records import Catalogue, History
from calrec_jax.evaluate import block_files, cases, evaluator
from calrec_jax.evaluate.evaluator import Protocol
from calrec_jax.evaluate.results import Results
from calrec_jax.evaluate.runs import Run
from calrec_jax.recommend.protocol import Recommender, answers_of
from calrec_jax.storage import blocks as job
from calrec_jax.storage.blocks import Job, Parts, Share

SHARDS_FOLDER = "shards"
# Programs whose text decides an answer or its rank.
_PROGRAMS = (
  *job.RECOMMENDING,
  "evaluate/block_files.py",
  "evaluate/evaluator.py",
  "evaluate/runs.py",
)


class _DoneByAnother(Exception):
  """Another process has finished the block in the meantime."""


class ShardedEvaluation:
  """Recommenders on the users of a split, block by block, in a folder."""

  def __init__(
    self,
    folder: str | os.PathLike[str],
    recommenders: Sequence[Recommender],
    histories: Sequence[History],
    catalogue: Catalogue,
    made_by: Mapping[str, Mapping[str, Any]],
    *,
    settings: Job | None = None,
    protocol: Protocol | None = None,
  ):
    """Takes a job, new or begun.

    Args:
      folder: of the evaluation; answers go into `shards/RECOMMENDER` there.
      recommenders: what to measure.
      histories: the users of the split, the same for every process.
      catalogue: the items.
      made_by: for each recommender, JSON-ready, what decides its answers:
        data, split, checkpoint, settings, versions. What is known here
        (protocol, blocks, program text) is added.
      settings: how the job is cut; by default as gin configures it.
      protocol: what to measure; by default as gin configures it.

    Raises:
      ValueError: as `evaluator.evaluate`.
    """
    self._protocol = protocol or Protocol()
    self._histories, self._catalogue = list(histories), catalogue
    self._recommenders = list(recommenders)
    evaluator.check(recommenders, self._histories, catalogue, self._protocol)
    settings = settings or Job()
    self._blocks = settings.blocks(len(self._histories))
    self._pool = cases.draw_pool(
      len(self._histories), self._protocol.num_cases, self._protocol.seed
    )
    common = {
      "schema": 1,
      "program": job.code_digest(_PROGRAMS),
      "users": len(self._histories),
      "block_users": settings.block_users,
      "rules": list(self._protocol.rules),
      "rule": self._protocol.rule,
      "horizon": self._protocol.horizon,
      "cases": {
        "number": self._protocol.num_cases,
        "seed": self._protocol.seed,
      },
    }
    self._parts = {
      recommender.name: Parts(
        pathlib.Path(folder) / SHARDS_FOLDER / recommender.name,
        {
          **common,
          **made_by[recommender.name],
          "recommender": answers_of(recommender),
        },
        self._blocks,
      )
      for recommender in self._recommenders
    }

  def state(self) -> list[str]:
    """What is there of the job already, a line each; none for a new one."""
    lines = []
    for name, parts in self._parts.items():
      done = len(self._blocks) - len(parts.missing())
      if done:
        lines.append(
          f"{name}: {done} of {len(self._blocks)} blocks were done before"
        )
      lines += [f"{name}: {line}" for line in parts.changes()]
    return lines

  def work(self, share: Share, progress: bool = True) -> None:
    """Returns when every block is done, by this process or another.

    Args:
      share: which of how many processes this is.
      progress: whether to show a progress bar, of all processes' work.
    """
    called: set[str] = set()
    bar = tqdm.tqdm(
      total=len(self._histories) * len(self._recommenders),
      unit="user",
      disable=not progress,
    )
    with bar:
      while missing := self._missing(bar):
        block = share.choose(sorted(missing))
        for recommender in self._recommenders:
          if recommender.name in missing[block]:
            bar.set_description(recommender.name)
            self._answer(recommender, block, called, bar.update)

  def results(self, **described: Any) -> Results:
    """Reads all blocks and makes the numbers.

    Args:
      **described: `data`, `checkpoint` and `split`, as
        `evaluator.summarise` takes them.

    Raises:
      FileNotFoundError: if a block is missing.
      ValueError: if a file is no block of these users.
    """
    runs = []
    for recommender in self._recommenders:
      parts = self._parts[recommender.name]
      blocks = [
        block_files.read_block(parts.path(block), self._user_ids(block))
        for block in range(len(self._blocks))
      ]
      description = recommender.describe()
      runs.append(
        Run.join(
          recommender.name,
          description,
          blocks,
          self._pool,
          self._protocol.rule,
        )
      )
    return evaluator.summarise(
      runs, self._histories, self._catalogue, self._protocol, **described
    )

  def tidy(self) -> None:
    """Removes answers of other settings; these results replace theirs."""
    for parts in self._parts.values():
      parts.remove_others()

  def _missing(self, bar: tqdm.tqdm) -> dict[int, list[str]]:
    """Blocks and their recommenders that lack; shows what is there."""
    missing: dict[int, list[str]] = {}
    for name, parts in self._parts.items():
      for block in parts.missing():
        missing.setdefault(block, []).append(name)
    lacking = sum(
      len(names) * (self._blocks[block].stop - self._blocks[block].start)
      for block, names in missing.items()
    )
    bar.n = bar.total - lacking
    bar.refresh()
    return missing

  def _answer(
    self,
    recommender: Recommender,
    block: int,
    called: set[str],
    show: Callable[[int], object],
  ) -> None:
    parts, users = self._parts[recommender.name], self._blocks[block]
    path = parts.path(block)

    def done(num_users: int) -> None:
      show(num_users)
      if path.exists():
        raise _DoneByAnother

    if path.exists():
      return
    try:
      answers = evaluator.answer_users(
        recommender,
        self._histories[users],
        self._catalogue,
        self._protocol,
        {user - users.start for user in self._pool},
        done=done,
        first_call=recommender.name not in called,
      )
    except _DoneByAnother:
      return
    finally:
      called.add(recommender.name)
    parts.write(
      block,
      functools.partial(
        block_files.write_block, block=answers, user_ids=self._user_ids(block)
      ),
    )

  def _user_ids(self, block: int) -> list[str]:
    return [user.user_id for user in self._histories[self._blocks[block]]]
