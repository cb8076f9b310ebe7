"""The feed: packed batches of a mixture of domains, step by step.

`Feed` holds the settings, `Feed.open` joins them with token caches, and
`OpenFeed.batch(step)` is the batch of a step: a pure function, whatever the
number of hosts and of worker processes. Grain only runs it ahead of training.
Tested by `tests/unit/data/test_feed.py` and
`tests/contract/test_feed_order.py`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import gin
import grain.python as grain
import numpy as np
from absl import flags

from calrec_jax.data.cache import files
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.feed import assembly, plan, tokenization, windows
from calrec_jax.data.feed.batch import Batch
from calrec_jax.data.feed.windows import Histories
from calrec_jax.errors import (
  InputError,
  check,
  integer,
  one_of,
  optional,
  refuse,
  within,
)

# Raised whenever the same settings would give other batches than before.
_ORDER = 1
_REQUIRED: Any = gin.REQUIRED
# Settings that say who loads a batch and how fast, not what is in it.
_NOT_IN_FINGERPRINT = ("workers", "shard_index", "shard_count")
# Settings that came later, with the values that change nothing: these are left
# out, so that runs begun before can go on.
_ADDED_LATER = {"split": "train", "item_segments": True}
_PREFETCH_BATCHES = 4
_PREFETCH_THREADS = 2


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Feed:
  """Settings of the training feed.

  Attributes:
    row_tokens: tokens of a row, L.
    row_slots: targets a row has room for, S.
    rows: rows of the global batch, R.
    max_history: most items before a document's last target; None takes what
      fits the row.
    context: items that a further window of a long history repeats as history,
      before its first target. They take at most half of the row.
    targets: "all" makes every event but a user's first a target, "last" only
      the last one.
    split: the last events that are trained on. "validation" adds those that
      "train" keeps back for validation, and no user is left out: for a last
      fit, when nothing is left to be chosen.
    item_segments: whether each target is written a second time, alone, for
      the item tower. False where the objective reads no towers.
    seed: of the order of users, of the windows and of the rows.
    mixing_exponent: domains are drawn in proportion to their users to this
      power; 0.3 in CALRec's first stage.
    epoch_users: most users that are planned, shuffled and packed at once. A
      pass over more users is split into several epochs.
    workers: processes that assemble batches; 0 uses threads of this process.
    shard_index: which part of every batch this host loads.
    shard_count: number of hosts that load.
  """

  row_tokens: int = _REQUIRED
  row_slots: int = _REQUIRED
  rows: int = _REQUIRED
  max_history: int | None = None
  context: int = 8
  targets: Literal["all", "last"] = "all"
  split: Literal["train", "validation"] = "train"
  item_segments: bool = True
  seed: int = 0
  mixing_exponent: float = 0.3
  epoch_users: int = 2**18
  workers: int = 0
  shard_index: int = 0
  shard_count: int = 1

  def __post_init__(self):
    """Refuses settings that no feed can have."""
    check(
      self,
      row_tokens=integer(1),
      row_slots=integer(1),
      rows=integer(1),
      context=integer(1),
      epoch_users=integer(1),
      seed=integer(0),
      workers=integer(0),
      shard_count=integer(1),
      shard_index=integer(0, below=self.shard_count),
      max_history=optional(integer(1)),
      targets=one_of("all", "last"),
      split=one_of("train", "validation"),
      mixing_exponent=within("[0, 1]"),
    )
    if self.rows % self.shard_count:
      refuse(
        self, "rows", f"must be a multiple of shard_count = {self.shard_count}."
      )

  def open(self, caches: Sequence[TokenCache]) -> OpenFeed:
    """Joins the settings with the caches of a mixture, in the given order."""
    return OpenFeed(self, caches)

  @property
  def documents(self) -> str:
    """Where the users are read: as `split` of a `TokenCache`."""
    return "train" if self.split == "train" else "train+validation"

  @property
  def limits(self) -> windows.Limits:
    """What a document may be."""
    return windows.Limits(
      self.row_tokens,
      self.row_slots,
      self.max_history,
      self.context,
      self.item_segments,
    )


@dataclasses.dataclass(frozen=True)
class FeedStats:
  """What the first epoch of a feed looks like.

  Attributes:
    steps_per_epoch: steps of the first epoch; others differ by a few.
    users_per_epoch: users that an epoch takes from each domain.
    passes_per_epoch: that, divided by the domain's users.
    users_without_target: users of each domain with a single event: they are
      no training documents.
    documents: in the first epoch.
    fill: share of the tokens that are not padding.
    targets_per_row: mean over the rows of the epoch, empty ones included.
    slot_fill: share of the slots that hold a target.
  """

  steps_per_epoch: int
  users_per_epoch: Mapping[str, int]
  passes_per_epoch: Mapping[str, float]
  users_without_target: Mapping[str, int]
  documents: int
  fill: float
  targets_per_row: float
  slot_fill: float


class OpenFeed:
  """Batches by step. Picklable: worker processes open their own.

  Attributes:
    feed: the settings.
    caches: one for each domain of the mixture.
    fingerprint: sha256 of all that decides the batches: the settings and the
      caches, but neither hosts nor workers.
  """

  def __init__(self, feed: Feed, caches: Sequence[TokenCache]):
    self.feed = feed
    self.caches = tuple(caches)
    if not caches:
      raise ValueError("a feed needs at least one token cache")
    _require_one_vocabulary(caches)
    self._assembler = assembly.Assembler(
      self.caches, feed.row_tokens, feed.row_slots, feed.item_segments
    )
    self._costs = [tokenization.token_costs(cache.prompt) for cache in caches]
    self._require_fit(feed.documents, last_only=feed.targets == "last")
    self.fingerprint = files.fingerprint(self.settings())

  def __reduce__(self):
    return OpenFeed, (self.feed, self.caches)

  def batch(self, step: int) -> Batch:
    """This host's rows of a step, in NumPy: a pure function of the step."""
    epoch, first_row = self._plan.rows_of_step(step)
    return self._local_rows(self.feed.documents, epoch, first_row)

  def iterator(
    self, start_step: int = 0, stop_step: int | None = None
  ) -> Iterator[tuple[int, Batch]]:
    """`(step, batch)` from `start_step` on, assembled ahead by Grain.

    Args:
      start_step: the first step.
      stop_step: one behind the last; None goes on without end.
    """
    steps = grain.MapDataset.range(start_step, stop_step or np.iinfo(int).max)
    # The default buffer of 500 elements would be 500 batches.
    dataset = steps.map(self._numbered_batch).to_iter_dataset(
      grain.ReadOptions(
        num_threads=_PREFETCH_THREADS, prefetch_buffer_size=_PREFETCH_BATCHES
      )
    )
    if self.feed.workers:
      # Grain's worker processes read absl flags, which programs that parse
      # their own command line leave unparsed.
      if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
      dataset = dataset.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=self.feed.workers)
      ).map(_out_of_shared_memory)
    return iter(dataset)

  def eval_batches(
    self, split: str, limit: int | None = None, seed: int = 0
  ) -> Iterator[Batch]:
    """Packed users of an evaluation split, the last item the only target.

    Args:
      split: such as "validation".
      limit: at most so many users of each domain, drawn with `seed`.
      seed: of that draw.

    Yields:
      This host's rows. Every host yields the same number of batches; the
      last one is filled up with empty rows.
    """
    rows = self._eval_rows(split, limit, seed)
    for first_row in range(0, rows.num_rows, self.feed.rows):
      yield self._local_rows(split, rows, first_row)

  def num_eval_batches(
    self, split: str, limit: int | None = None, seed: int = 0
  ) -> int:
    """How many batches `eval_batches` yields."""
    return -(-self._eval_rows(split, limit, seed).num_rows // self.feed.rows)

  def state(self, step: int) -> dict[str, Any]:
    """What a checkpoint keeps to go on with `step`; fit for JSON.

    The step says all. The epoch spares planning earlier epochs again, and
    the settings explain a refusal.
    """
    epoch, first_step = self._plan.locate(step)
    return {
      "step": step,
      "fingerprint": self.fingerprint,
      "epoch": epoch,
      "epoch_first_step": first_step,
      "settings": self.settings(),
    }

  def resume(self, state: Mapping[str, Any]) -> int:
    """Checks that a state is of this very feed, and returns its step.

    Raises:
      ValueError: if it is not, naming the settings that differ.
    """
    if state["fingerprint"] != self.fingerprint:
      mine, theirs = self.settings(), state["settings"]
      differing = [
        f"{name} was {theirs.get(name)!r} and is {mine.get(name)!r}"
        for name in sorted({*mine, *theirs})
        if mine.get(name) != theirs.get(name)
      ]
      raise InputError(
        "the checkpoint was fed differently and cannot be continued to the "
        f"same batches: {'; '.join(differing)}. Set them back, or start a "
        "new run from its parameters."
      )
    self._plan.remember(state["epoch"], state["epoch_first_step"])
    return int(state["step"])

  @functools.cached_property
  def stats(self) -> FeedStats:
    """What the first epoch looks like; plans it if need be."""
    epoch = self._plan.epoch(0)
    steps = -(-epoch.num_rows // self.feed.rows)
    rows = steps * self.feed.rows
    documents = epoch.documents
    targets = int((documents.stop - documents.first_target).sum())
    names = [cache.name for cache in self.caches]
    quotas, users = self._plan.quotas, self._plan.num_users
    return FeedStats(
      steps_per_epoch=steps,
      users_per_epoch=dict(zip(names, quotas, strict=True)),
      passes_per_epoch={
        name: quota / count
        for name, quota, count in zip(names, quotas, users, strict=True)
      },
      users_without_target={
        cache.name: cache.num_documents(self.feed.documents) - count
        for cache, count in zip(self.caches, users, strict=True)
      },
      documents=len(documents.user),
      fill=int(documents.tokens.sum()) / (rows * self.feed.row_tokens),
      targets_per_row=targets / rows,
      slot_fill=targets / (rows * self.feed.row_slots),
    )

  @functools.cached_property
  def _plan(self) -> plan.Plan:
    feed = self.feed
    return plan.Plan(
      [
        Histories(*cache.event_lengths(self.feed.documents))
        for cache in self.caches
      ],
      self._costs,
      plan.Settings(
        rows=feed.rows,
        limits=feed.limits,
        targets=feed.targets,
        seed=feed.seed,
        mixing_exponent=feed.mixing_exponent,
        epoch_users=feed.epoch_users,
      ),
    )

  def _numbered_batch(self, step: int) -> tuple[int, Batch]:
    return step, self.batch(step)

  def _local_rows(
    self, split: str, packed: plan.PackedDocuments, first_row: int
  ) -> Batch:
    """This host's rows of the batch that starts at `first_row`."""
    count = self.feed.rows // self.feed.shard_count
    start = first_row + self.feed.shard_index * count
    rows = [packed.row(row) for row in range(start, start + count)]
    return self._assembler.batch(split, rows)

  def settings(self) -> dict[str, Any]:
    """All that decides the batches, by gin names; fit for JSON."""
    settings = {
      f"Feed.{name}": value
      for name, value in dataclasses.asdict(self.feed).items()
      if name not in _NOT_IN_FINGERPRINT
      and not (name in _ADDED_LATER and value == _ADDED_LATER[name])
    }
    for cache in self.caches:
      settings[f"cache {cache.name}"] = cache.fingerprint
    documents = self.feed.documents
    if any(
      cache.num_documents(documents) != cache.num_documents(self.feed.split)
      for cache in self.caches
    ):
      # Last fits once left out users without a validation event.
      settings["documents"] = documents
    names = [cache.name for cache in self.caches]
    return {**settings, "domains": names, "order": _ORDER}

  def _require_fit(self, split: str, *, last_only: bool) -> None:
    """Refuses events too long for a row before any step is taken."""
    for cache, costs in zip(self.caches, self._costs, strict=True):
      misfit = windows.first_misfit(
        Histories(*cache.event_lengths(split)),
        self.feed.limits,
        costs,
        last_only=last_only,
      )
      if misfit is None:
        continue
      index, position, needed = misfit
      user = cache.document(split, index)
      before, target = (
        cache.item(int(user.items[at])) for at in (position - 1, position)
      )
      raise InputError(
        f"Item {target[0]!r} of {cache.name} does not fit a row as a target: "
        f"with the prompt and the one item {before[0]!r} before it, it takes "
        f"{needed} tokens (user {user.user_id!r} of {split}), but "
        f"Feed.row_tokens = {self.feed.row_tokens}. Use longer rows, or cut "
        f"long texts in the Domain's fields. Its text is: {target[1][:200]}"
      )

  def _eval_rows(
    self, split: str, limit: int | None, seed: int
  ) -> plan.PackedDocuments:
    self._require_fit(split, last_only=True)
    parts = []
    for domain, cache in enumerate(self.caches):
      users = cache.sample(split, limit, seed)
      histories = Histories(*cache.event_lengths(split)).take(users)
      cut = windows.cut_last(histories, self.feed.limits, self._costs[domain])
      parts.append(plan.as_documents(domain, users, cut))
    columns = zip(*parts, strict=True)
    documents = plan.Documents(*(np.concatenate(part) for part in columns))
    return plan.packed(documents, self.feed.limits)


def _out_of_shared_memory(numbered: tuple[int, Batch]) -> tuple[int, Batch]:
  """Copies a batch, so that Grain can free what its worker shared."""
  step, batch = numbered
  return step, Batch(*(np.array(array) for array in batch))


def _require_one_vocabulary(caches: Sequence[TokenCache]) -> None:
  names = [cache.name for cache in caches]
  if len(set(names)) != len(names):
    raise InputError(f"a domain stands twice in the mixture: {names}")
  first = caches[0]
  for cache in caches[1:]:
    if (cache.vocabulary_fingerprint, cache.prompt.end) != (
      first.vocabulary_fingerprint,
      first.prompt.end,
    ):
      raise InputError(
        f"the caches of {first.name} and {cache.name} were made with different "
        "vocabularies or end markers; run `calrec data cache` with one gin "
        "file for the whole mixture"
      )
