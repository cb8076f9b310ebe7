"""The feed: packed batches of a mixture of domains, step by step.

`Feed` has the settings, `Feed.open` combines them with token caches, and
`OpenFeed.batch(step)` is the batch of a step: a pure function, independent of
the number of hosts and worker processes. Grain only prefetches it.
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

from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.domain import splits
from calrec_jax.data.feed import assembly, plan, tokenization, windows
from calrec_jax.data.feed import since as since_lib
from calrec_jax.data.feed.batch import Batch
from calrec_jax.data.feed.newest import newest_targets
from calrec_jax.data.feed.since import Since
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
from calrec_jax.storage.identity import changes, fingerprint

# Incremented whenever the same settings give different batches than before.
_ORDER = 1
_REQUIRED: Any = gin.REQUIRED
# Settings that affect who loads a batch and how fast, but not its content.
_NOT_IN_FINGERPRINT = ("workers", "shard_index", "shard_count")
# Settings added later, with the values that change nothing: these are omitted
# from fingerprints, so that older runs still resume.
_ADDED_LATER = {
  "split": "train",
  "item_segments": True,
  "since": None,
  "newest": None,
}
_PREFETCH_BATCHES = 4
_PREFETCH_THREADS = 2


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Feed:
  """Settings of the training feed.

  Attributes:
    row_tokens: Tokens per row, L.
    row_slots: Maximum number of targets per row, S.
    rows: Rows of the global batch, R.
    max_history: Maximum number of items before a document's last target; None
      takes what fits the row.
    context: Number of items that later windows of a long history repeat as
      context before their first target. They take at most half of the row.
    targets: Which events are targets: "all" but a user's first, or only the
      "last". Of a domain with several kinds of event, all that may be targets,
      or the last of these; the others are history.
    split: Split whose events are trained on. "validation" adds the events that
      "train" holds out for validation, and no user is omitted: for a final fit,
      after all choices have been made.
    since: Day from which on events are targets, as ISO 8601 text or unix
      milliseconds; earlier ones are history. "checkpoint" is what the stage's
      initial checkpoint was not trained on yet. None is all.
    newest: Maximum number of targets of a domain, the newest by time; earlier
      events are history. None is all.
    item_segments: Whether each target also has a segment of its own, for the
      item tower. False if the objective has no towers.
    seed: Seed of the order of users, the windows and the order of rows.
    mixing_exponent: Exponent of the domains' sampling: proportional to their
      number of users to this power; 0.3 in CALRec's first stage.
    epoch_users: Maximum number of users that are planned, shuffled and packed
      at once. A pass over more users is split into several epochs.
    workers: Number of processes that assemble batches; 0 uses threads.
    shard_index: Index of the shard of every batch that this host loads.
    shard_count: Number of hosts that load.
  """

  row_tokens: int = _REQUIRED
  row_slots: int = _REQUIRED
  rows: int = _REQUIRED
  max_history: int | None = None
  context: int = 8
  targets: Literal["all", "last"] = "all"
  split: Literal["train", "validation"] = "train"
  since: str | int | Since | None = None
  newest: int | None = None
  item_segments: bool = True
  seed: int = 0
  mixing_exponent: float = 0.3
  epoch_users: int = 2**18
  workers: int = 0
  shard_index: int = 0
  shard_count: int = 1

  def __post_init__(self):
    """Checks the settings."""
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
      newest=optional(integer(1)),
      targets=one_of("all", "last"),
      split=one_of("train", "validation"),
      mixing_exponent=within("[0, 1]"),
    )
    if (
      isinstance(self.since, (str, int)) and self.since != since_lib.CHECKPOINT
    ):
      # As what it means, so that two ways to write a day are one.
      object.__setattr__(self, "since", since_lib.on_or_after(self.since))
    if self.rows % self.shard_count:
      refuse(
        self, "rows", f"must be a multiple of shard_count = {self.shard_count}."
      )

  def open(self, caches: Sequence[TokenCache]) -> OpenFeed:
    """Opens the feed on the caches of a mixture, in the given order."""
    return OpenFeed(self, caches)

  def after(self, record: Mapping[str, Any] | None, source: str) -> Feed:
    """The feed of a stage, with what is new to its initial checkpoint.

    Args:
      record: Lineage of that checkpoint; None if it starts from another source.
      source: Name of the source.

    Raises:
      InputError: If `since` is "checkpoint" and there is none that says what it
        was trained on.
    """
    if self.since != since_lib.CHECKPOINT:
      return self
    if record is None:
      raise InputError(
        f"Feed.since = {self.since!r}, but the stage starts from {source}, "
        "which has not been trained here. Set INITIAL_CHECKPOINT_PATH, or bind "
        "a day."
      )
    return dataclasses.replace(self, since=since_lib.after(record))

  @property
  def documents(self) -> str:
    """The `split` of a `TokenCache` from which users are read."""
    return "train" if self.split == "train" else "train+validation"

  @property
  def limits(self) -> windows.Limits:
    """Limits of a document."""
    return windows.Limits(
      self.row_tokens,
      self.row_slots,
      self.max_history,
      self.context,
      self.item_segments,
    )


@dataclasses.dataclass(frozen=True)
class FeedStats:
  """Statistics of the first epoch of a feed.

  Attributes:
    steps_per_epoch: Steps of the first epoch; others differ by a few.
    users_per_epoch: Users that an epoch takes from each domain.
    passes_per_epoch: Passes over the users of each domain per epoch.
    users_without_target: Users of each domain with a single event, or without
      one that may be a target, who give no training document.
    targets: Events of each domain that may be targets.
    documents: Number of documents in the first epoch.
    fill: Fraction of the tokens that are not padding.
    targets_per_row: Mean number of targets per row, empty rows included.
    slot_fill: Fraction of the slots that have a target.
  """

  steps_per_epoch: int
  users_per_epoch: Mapping[str, int]
  passes_per_epoch: Mapping[str, float]
  users_without_target: Mapping[str, int]
  targets: Mapping[str, int]
  documents: int
  fill: float
  targets_per_row: float
  slot_fill: float


class OpenFeed:
  """Batches by step. Picklable: worker processes reopen the caches.

  Attributes:
    feed: Settings.
    caches: Token caches, one for each domain of the mixture.
    fingerprint: sha256 of everything that determines the batches: settings and
      caches, but neither hosts nor workers.
  """

  def __init__(self, feed: Feed, caches: Sequence[TokenCache]):
    self.feed = feed
    self.caches = tuple(caches)
    if not caches:
      raise ValueError("Feed.open needs at least one token cache.")
    _require_one_vocabulary(caches)
    self._assembler = assembly.Assembler(
      self.caches, feed.row_tokens, feed.row_slots, feed.item_segments
    )
    self._costs = [tokenization.token_costs(cache.prompt) for cache in caches]
    self._require_fit(feed.documents, last_only=feed.targets == "last")
    self.fingerprint = fingerprint(self.settings())

  def __reduce__(self) -> tuple[Any, ...]:
    return OpenFeed, (self.feed, self.caches)

  def batch(self, step: int) -> Batch:
    """This host's rows of a step, as NumPy arrays; pure in the step."""
    epoch, first_row = self._plan.rows_of_step(step)
    return self._local_rows(self.feed.documents, epoch, first_row)

  def iterator(
    self, start_step: int = 0, stop_step: int | None = None
  ) -> Iterator[tuple[int, Batch]]:
    """`(step, batch)` from `start_step` on, prefetched by Grain.

    Args:
      start_step: First step.
      stop_step: End step, exclusive; None is endless.
    """
    steps = grain.MapDataset.range(start_step, stop_step or np.iinfo(int).max)
    # The default buffer of 500 elements would be 500 batches.
    dataset = steps.map(self._numbered_batch).to_iter_dataset(
      grain.ReadOptions(
        num_threads=_PREFETCH_THREADS, prefetch_buffer_size=_PREFETCH_BATCHES
      )
    )
    if self.feed.workers:
      # Grain's worker processes read absl flags, which remain unparsed in
      # programs that parse their own command line.
      if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
      dataset = dataset.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=self.feed.workers)
      ).map(_out_of_shared_memory)
    return iter(dataset)

  def eval_batches(
    self, split: str, limit: int | None = None, seed: int = 0
  ) -> Iterator[Batch]:
    """Packed users of an evaluation split, with the last item as target.

    Args:
      split: Name of the split, such as "validation".
      limit: Maximum number of users per domain, sampled with `seed`.
      seed: Seed of the sample.

    Yields:
      This host's rows. Every host yields the same number of batches; the last
      one is padded with empty rows.
    """
    rows = self._eval_rows(split, limit, seed)
    for first_row in range(0, rows.num_rows, self.feed.rows):
      yield self._local_rows(split, rows, first_row)

  def state(self, step: int) -> dict[str, Any]:
    """State that a checkpoint stores to resume at `step`; JSON-compatible.

    The step suffices. The epoch avoids planning earlier epochs again, and the
    settings explain a mismatch.
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
    """Checks that a state matches this feed, and returns its step.

    Raises:
      InputError: If it does not match, with the settings that differ.
    """
    if state["fingerprint"] != self.fingerprint:
      differing = changes(state["settings"], self.settings())
      raise InputError(
        "The checkpoint was written with a different data configuration and "
        f"cannot resume with the same batches: {'; '.join(differing)}. Restore "
        "these settings, or start a new run from its parameters."
      )
    self._plan.remember(state["epoch"], state["epoch_first_step"])
    return int(state["step"])

  @functools.cached_property
  def stats(self) -> FeedStats:
    """Statistics of the first epoch, which is planned if necessary."""
    epoch = self._plan.epoch(0)
    steps = -(-epoch.num_rows // self.feed.rows)
    rows = steps * self.feed.rows
    documents = epoch.documents
    targets = int(documents.slots.sum())
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
      targets=dict(zip(names, self._plan.num_targets, strict=True)),
      documents=len(documents.user),
      fill=int(documents.tokens.sum()) / (rows * self.feed.row_tokens),
      targets_per_row=targets / rows,
      slot_fill=targets / (rows * self.feed.row_slots),
    )

  @functools.cached_property
  def _plan(self) -> plan.Plan:
    feed = self.feed
    histories = [
      _histories(cache, feed.documents, feed.since, feed.newest)
      for cache in self.caches
    ]
    for cache, found in zip(self.caches, histories, strict=True):
      if found.num_targets().any():
        continue
      if feed.since is None:
        asked = ""
        if found.targets is not None:
          asked = " that may be a target (LogFiles.target_where)"
        raise InputError(
          f"There is nothing to train on in {cache.name}: no user of its "
          f"{feed.documents} split has an event{asked} after another one. Are "
          "users and times in the right columns (`calrec data card`)? "
          "Repeats of an item right after itself are removed unless "
          'Domain.dedup = "none".'
        )
      raise InputError(
        f"Nothing in the {feed.documents} split of {cache.name} is new "
        f"(Feed.since): {_described(feed.since, cache.name)}. Is this the "
        "log of today (INTERACTIONS)? A leave-one-out split holds out each "
        "user's last two events."
      )
    return plan.Plan(
      histories,
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
    """Everything that determines the batches, by gin name; JSON-compatible."""
    settings = {
      f"Feed.{name}": value
      for name, value in dataclasses.asdict(self.feed).items()
      if name not in _NOT_IN_FINGERPRINT
      and not (name in _ADDED_LATER and value == _ADDED_LATER[name])
    }
    for cache in self.caches:
      settings[f"cache {cache.name}"] = cache.fingerprint
    counts = [
      [cache.num_documents(split) for cache in self.caches]
      for split in (self.feed.documents, self.feed.split)
    ]
    if counts[0] != counts[1]:
      # Final fits used to omit users without a validation event.
      settings["documents"] = self.feed.documents
    names = [cache.name for cache in self.caches]
    return {**settings, "domains": names, "order": _ORDER}

  def _require_fit(self, split: str, *, last_only: bool) -> None:
    """Refuses events too long for a row, before the first step."""
    for cache, costs in zip(self.caches, self._costs, strict=True):
      misfit = windows.first_misfit(
        _histories(cache, split),
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
        f"with the prompt and only the item {before[0]!r} before it, it takes "
        f"{needed} tokens (user {user.user_id!r} of {split}), but "
        f"Feed.row_tokens = {self.feed.row_tokens}. Use longer rows, or "
        "truncate long texts in the Domain's fields. Its text is: "
        f"{target[1][:200]}"
      )

  def _eval_rows(
    self, split: str, limit: int | None, seed: int
  ) -> plan.PackedDocuments:
    self._require_fit(split, last_only=True)
    parts = []
    for domain, cache in enumerate(self.caches):
      users = cache.sample(split, limit, seed)
      histories = _histories(cache, split).take(users)
      cut = windows.cut_last(histories, self.feed.limits, self._costs[domain])
      parts.append(plan.as_documents(domain, users, cut))
    columns = zip(*parts, strict=True)
    documents = plan.Documents(*(np.concatenate(part) for part in columns))
    return plan.packed(documents, self.feed.limits)


def _histories(
  cache: TokenCache,
  split: str,
  new: str | int | Since | None = None,
  newest: int | None = None,
) -> Histories:
  """Tokens, possible targets and kinds of every event of a split."""
  lengths, offsets = cache.event_lengths(split)
  targets, kinds = (
    cache.event_marks(split, mark) for mark in ("targets", "kinds")
  )
  if isinstance(new, Since):
    targets = new.new_events(cache, split, targets)
  if newest is not None:
    targets = newest_targets(cache, split, targets, newest)
  return Histories(lengths, offsets, targets, kinds)


def _described(since: str | int | Since, name: str) -> str:
  trained = since.of(name) if isinstance(since, Since) else None
  if trained is None:
    return f"{since}"
  held_out = f", of which {trained.held_out} were held out" * bool(
    trained.held_out
  )
  return f"events before {splits.day(trained.before)} are known{held_out}"


def _out_of_shared_memory(numbered: tuple[int, Batch]) -> tuple[int, Batch]:
  """Copies a batch, so that Grain can free the worker's shared memory."""
  step, batch = numbered
  return step, Batch(*(np.array(array) for array in batch))


def _require_one_vocabulary(caches: Sequence[TokenCache]) -> None:
  names = [cache.name for cache in caches]
  if len(set(names)) != len(names):
    raise InputError(f"A domain appears twice in the mixture: {names}.")
  first, *others = caches
  tokens = first.vocabulary_fingerprint, first.prompt.end
  for cache in others:
    if (cache.vocabulary_fingerprint, cache.prompt.end) != tokens:
      raise InputError(
        f"The caches of {first.name} and {cache.name} have different "
        "vocabularies or end markers; run `calrec data cache` with one gin "
        "file for the whole mixture."
      )
