"""Some users of a domain, and what is counted for recommending to them.

What recommenders without a model are measured on. It is taken from a token
cache where there is one, else from the prepared log; both give the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from calrec_jax.data import records
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.logs.columns import id_codes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
  """How much of a log is sampled.

  Attributes:
    users: Maximum number of users of the split.
    scores: Maximum number of users times items: where the catalogue is large,
      fewer users are taken.
    least_users: Number of users that are taken whatever the catalogue.
    events: Approximate maximum number of training events; whole users are
      left out.
    seed: Seed of the samples; 0 takes the users that an evaluation takes.
  """

  users: int
  scores: int
  least_users: int
  events: int
  seed: int = 0

  def users_of(self, num_items: int) -> int:
    """Maximum number of users where each is scored against all items."""
    affordable = max(self.least_users, self.scores // max(num_items, 1))
    return min(self.users, affordable)

  def train_rows(self, documents: int, events: int) -> Int[np.ndarray, " n"]:
    """Training documents that are taken, out of those with all the events."""
    share = min(1.0, self.events / max(events, 1))
    return records.sample_rows(documents, int(documents * share), self.seed)


@dataclasses.dataclass(frozen=True, eq=False)
class LogSample:
  """Some users of a split of a domain.

  Attributes:
    name: Name of the domain.
    texts: Texts of all items, by catalogue row.
    histories: Sampled users with their targets.
    users: Number of users of the split.
    counts: int64[N], training purchases of each item by all users.
    events: Training events of every kind of some users.
    train_users: Number of users with training events.
  """

  name: str
  texts: Sequence[str]
  histories: Sequence[records.History]
  users: int
  counts: Int[np.ndarray, " N"]
  events: records.Purchases
  train_users: int


def of_cache(cache: TokenCache, split: str, size: Size) -> LogSample:
  """A sample of a token cache.

  Args:
    cache: Token cache of the domain.
    split: Split of the users, "validation" or "test".
    size: How much is taken.
  """
  documents = cache.num_documents("train")
  lengths, _ = cache.event_lengths("train")
  rows = size.train_rows(documents, len(lengths))
  parts = [user.items for user in cache.documents("train", rows)]
  return LogSample(
    name=cache.name,
    texts=cache.catalogue.texts,
    histories=cache.histories(split, size.users_of(cache.num_items), size.seed),
    users=cache.num_documents(split),
    counts=cache.catalogue.train_counts,
    events=records.Purchases(
      np.concatenate([np.zeros(0, np.int32), *parts]),
      np.cumsum([0, *map(len, parts)], dtype=np.int64),
    ),
    train_users=documents,
  )


def of_prepared(
  prepared: domain_lib.Prepared, split: str, size: Size
) -> LogSample:
  """A sample of a prepared domain, the same as that of its token cache.

  Args: as of `of_cache`.
  """
  events, train = prepared.events, prepared.documents["train"]
  num_items = len(prepared.texts)
  rows = train.events()
  bought = events.items[rows[events.target_mask()[rows]]]
  part = train.take(size.train_rows(len(train), len(rows)))
  return LogSample(
    name=prepared.name,
    texts=tuple(prepared.texts),
    histories=_histories(prepared, split, size.users_of(num_items), size.seed),
    users=len(prepared.documents[split]),
    counts=np.bincount(bought, minlength=num_items),
    events=records.Purchases(
      events.items[part.events()],
      np.concatenate([[0], np.cumsum(part.stops - part.starts)]),
    ),
    train_users=len(train),
  )


def _histories(
  prepared: domain_lib.Prepared, split: str, limit: int, seed: int
) -> list[records.History]:
  """Sampled users of a split, in its order; see `TokenCache.histories`."""
  events, documents = prepared.events, prepared.documents[split]
  part = documents.take(records.sample_rows(len(documents), limit, seed))
  user_ids = id_codes.strings(events.user_ids).take(pa.array(part.users))
  known = prepared.kinds
  histories = []
  for user_id, start, stop in zip(
    user_ids.to_pylist(),
    part.starts.tolist(),
    part.stops.tolist(),
    strict=True,
  ):
    items = events.items[start:stop]
    kinds, targets = (
      None if column is None else column[start:stop]
      for column in (events.kinds, events.targets)
    )
    histories.append(
      records.History(
        user_id,
        records.document_items(items, kinds, targets, known)[:-1],
        int(items[-1]),
        events.timestamps[start:stop],
      )
    )
  return histories
