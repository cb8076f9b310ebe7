"""An evaluation that many processes do together and that can be stopped.

The unit of work is one block of users under one recommender, a file; see
`storage.blocks` for who does what. When all are there, one process reads them
in the order of the users and makes the numbers, which therefore do not depend
on who did what, on how often the job was stopped, or on the number of
processes.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tqdm

from calrec_jax.data.records import Catalogue, History
from calrec_jax.evaluate import block_files, cases, evaluator, runs
from calrec_jax.evaluate.evaluator import Protocol
from calrec_jax.evaluate.results import Results
from calrec_jax.evaluate.runs import Run
from calrec_jax.recommend.protocol import Recommender
from calrec_jax.storage.blocks import BlockStore, Job, Shard

SHARDS_FOLDER = "shards"


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
    """Takes a new or an unfinished job.

    Args:
      folder: Folder of the evaluation; answers go into `shards/RECOMMENDER`.
      recommenders: What to measure.
      histories: Users of the split, the same for every process.
      catalogue: Items of the domain.
      made_by: For each recommender, JSON-ready, what decides its answers:
        data, split, checkpoint, settings, versions. What is known here
        (protocol, blocks) is added.
      settings: How the job is cut; by default as gin configures it.
      protocol: What to measure; by default as gin configures it.

    Raises:
      InputError: as `evaluator.check`.
    """
    self._protocol = protocol = protocol or Protocol()
    self._histories, self._catalogue = list(histories), catalogue
    self._recommenders = list(recommenders)
    self._called: set[str] = set()  # Recommenders, by this process.
    evaluator.check(recommenders, self._histories, catalogue, protocol)
    settings, users = settings or Job(), len(self._histories)
    self._blocks = settings.blocks(users)
    self._pool = cases.sample_pool(users, protocol.num_cases, protocol.seed)
    common = {
      "schema": 1,
      "ranks": runs.VERSION,
      "users": users,
      "block_users": settings.block_users,
      "rules": list(protocol.rules),
      "rule": protocol.rule,
      "horizon": protocol.horizon,
      "cases": {"number": protocol.num_cases, "seed": protocol.seed},
    }
    self._stores = {
      recommender.name: BlockStore.under(
        pathlib.Path(folder) / SHARDS_FOLDER / recommender.name,
        {
          **common,
          **made_by[recommender.name],
          "recommender": recommender.identity(),
        },
        self._blocks,
      )
      for recommender in self._recommenders
    }

  def state(self) -> list[str]:
    """What is done of the job already, a line each; none for a new one."""
    lines, count = [], len(self._blocks)
    for name, store in self._stores.items():
      if done := count - len(store.missing()):
        lines.append(f"{name}: {done} of {count} blocks were done before")
      lines += [f"{name}: {line}" for line in store.changes()]
    return lines

  def work(self, shard: Shard, progress: bool = True) -> None:
    """Returns when every block is done, by this process or another.

    Args:
      shard: This process among those that do the job.
      progress: Whether to show a progress bar, of all processes' work.
    """
    bar = tqdm.tqdm(
      total=len(self._histories) * len(self._recommenders),
      unit="user",
      disable=not progress,
    )
    with bar:
      while missing := self._missing(bar):
        block = shard.choose(sorted(missing))
        for recommender in self._recommenders:
          if recommender.name in missing[block]:
            bar.set_description(recommender.name)
            self._answer(recommender, block, bar.update)

  def results(self, **described: Any) -> Results:
    """Reads all blocks and makes the numbers.

    Args:
      **described: `data`, `checkpoint` and `split`, as
        `evaluator.summarise` takes them.

    Raises:
      FileNotFoundError: if a block is missing.
      InputError: if a file is no block of these users.
    """
    found = []
    for recommender in self._recommenders:
      store = self._stores[recommender.name]
      block = runs.join_blocks(
        [
          block_files.read_block(store.path(block), self._user_ids(block))
          for block in range(len(self._blocks))
        ]
      )
      found.append(Run.of(recommender, block))
    return evaluator.summarise(
      found,
      self._pool,
      self._histories,
      self._catalogue,
      self._protocol,
      **described,
    )

  def tidy(self) -> None:
    """Removes answers of other settings; these results replace theirs."""
    for store in self._stores.values():
      store.remove_others()

  def _missing(self, bar: tqdm.tqdm) -> dict[int, list[str]]:
    """Recommenders of which a block is missing; shows what is there."""
    missing: dict[int, list[str]] = {}
    left = 0
    for name, store in self._stores.items():
      own = store.missing()
      left += store.entries(own)
      for block in own:
        missing.setdefault(block, []).append(name)
    bar.n = bar.total - left
    bar.refresh()
    return missing

  def _answer(
    self, recommender: Recommender, block: int, show: Callable[[int], object]
  ) -> None:
    store, users = self._stores[recommender.name], self._blocks[block]
    path = store.path(block)

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
        first_call=recommender.name not in self._called,
      )
    except _DoneByAnother:
      return
    finally:
      self._called.add(recommender.name)
    write = functools.partial(
      block_files.write_block, block=answers, user_ids=self._user_ids(block)
    )
    store.write(block, write)

  def _user_ids(self, block: int) -> list[str]:
    return [user.user_id for user in self._histories[self._blocks[block]]]
