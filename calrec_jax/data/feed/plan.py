"""The training plan: which documents are in which row of which step.

It is a pure function of the lengths in the caches, the settings and the seed.
Every host computes the same plan and loads only its own rows; resuming needs
only the step.

Each domain is an endless stream of passes over its users, each in a different
order. An epoch takes a fixed number of users from every stream, in proportion
to the domain's number of users to the power `mixing_exponent` (0.3 in CALRec's
first stage), splits them into documents, shuffles, packs, and shuffles the
rows. The last step of an epoch is padded with empty rows: no document is
dropped or deferred to another epoch.

All randomness consists of raw Philox bits, keyed by purpose, as NumPy
guarantees only raw bits across versions.
Tested by `tests/unit/data/feed/test_plan.py`.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from calrec_jax.data.feed import packing, windows
from calrec_jax.data.feed.tokenization import TokenCosts
from calrec_jax.data.feed.windows import Histories, Limits, Windows
from calrec_jax.errors import InputError

# Minimum steps of an epoch, so that the padding of its last step is small.
_SHORTEST_EPOCH_STEPS = 64


class Settings(NamedTuple):
  """Settings of the plan; see `feed.Feed`."""

  rows: int
  limits: Limits
  targets: Literal["all", "last"]
  seed: int
  mixing_exponent: float
  epoch_users: int


class Documents(NamedTuple):
  """Columns of int64[D], one entry per document.

  Attributes:
    domain: Index of the cache.
    user: User in the cache.
    start: Index of the document's first item in the user's history.
    first_target: Index of the first target.
    stop: Index after the last item.
    tokens: Tokens of the document.
    visit: Pass over the domain's users that it belongs to.
    slots: Number of targets.
  """

  domain: np.ndarray
  user: np.ndarray
  start: np.ndarray
  first_target: np.ndarray
  stop: np.ndarray
  tokens: np.ndarray
  visit: np.ndarray
  slots: np.ndarray

  def take(self, order: np.ndarray | slice) -> Documents:
    """A selection of the documents, in the given order."""
    return Documents(*(column[order] for column in self))

  def to_tuples(self) -> list[tuple[int, int, int, int, int]]:
    """(domain, user, start, first target, stop) of each, as plain ints."""
    columns = (column.tolist() for column in self[:5])
    return list(zip(*columns, strict=True))


class PackedDocuments(NamedTuple):
  """Documents in rows.

  Attributes:
    documents: Documents, ordered by row.
    row_starts: int64[rows + 1]; row r has the documents
      `row_starts[r]:row_starts[r + 1]`.
  """

  documents: Documents
  row_starts: np.ndarray

  @property
  def num_rows(self) -> int:
    """Number of non-empty rows."""
    return len(self.row_starts) - 1

  def row(self, row: int) -> Documents:
    """The documents of one row; none after the last row."""
    if row >= self.num_rows:
      return self.documents.take(slice(0, 0))
    start, stop = self.row_starts[row : row + 2]
    return self.documents.take(slice(start, stop))


class Plan:
  """Steps, epochs, and the documents of each.

  Attributes:
    quotas: Users that an epoch takes from each domain.
    num_users: Users of each domain that have a target.
    num_targets: Events of each domain that may be targets.
  """

  def __init__(
    self,
    histories: Sequence[Histories],
    costs: Sequence[TokenCosts],
    settings: Settings,
  ):
    self._histories = tuple(histories)
    self._costs = tuple(costs)
    self._settings = settings
    counts = [at.num_targets() for at in histories]
    self.num_targets = tuple(int(count.sum()) for count in counts)
    self._users = [np.flatnonzero(count) for count in counts]
    self.num_users = tuple(len(users) for users in self._users)
    if not all(self.num_users):
      empty = self.num_users.index(0)
      raise InputError(
        f"Domain {empty} has no user with two events"
        + (
          "."
          if histories[empty].targets is None
          else ", the second of which may be a target (LogFiles.target_where)."
        )
      )
    self.quotas = self._choose_quotas()
    self._lock = threading.RLock()
    self._first_steps = [0]  # Of epochs self._base, self._base + 1, ...
    self._base = 0

  def locate(self, step: int) -> tuple[int, int]:
    """The epoch of a step, and the epoch's first step.

    Packing makes epochs differ by a few steps. Without a hint from `remember`,
    all epochs before the step are planned once.
    """
    with self._lock:
      if step < self._first_steps[0]:
        self._base, self._first_steps = 0, [0]
      while self._first_steps[-1] <= step:
        epoch = self._base + len(self._first_steps) - 1
        rows = self.epoch(epoch).num_rows
        steps = -(-rows // self._settings.rows)
        self._first_steps.append(self._first_steps[-1] + steps)
      at = bisect.bisect_right(self._first_steps, step) - 1
      return self._base + at, self._first_steps[at]

  def remember(self, epoch: int, first_step: int) -> None:
    """Stores an earlier result of `locate`, so that it need not be planned."""
    with self._lock:
      if first_step > self._first_steps[-1]:
        self._base, self._first_steps = epoch, [first_step]

  def rows_of_step(self, step: int) -> tuple[PackedDocuments, int]:
    """The packed epoch of a step, and the step's first row."""
    with self._lock:  # One thread plans, the others wait for its result.
      epoch, first_step = self.locate(step)
      return self.epoch(epoch), (step - first_step) * self._settings.rows

  def epoch(self, epoch: int) -> PackedDocuments:
    """The packed documents of an epoch; the last two are cached."""
    with self._lock:
      return self._epoch(epoch)

  @functools.cached_property
  def _epoch(self) -> Callable[[int], PackedDocuments]:
    # A cache on the object: one on the class would keep the object alive.
    return functools.lru_cache(maxsize=2)(self._plan_epoch)

  @functools.cached_property
  def _pass(self) -> Callable[[int, int], tuple[np.ndarray, ...]]:
    return functools.lru_cache(maxsize=2 * len(self._users))(self._sample_pass)

  def _plan_epoch(self, epoch: int) -> PackedDocuments:
    parts = []
    for domain, quota in enumerate(self.quotas):
      parts += self._documents(domain, epoch * quota, (epoch + 1) * quota)
    documents = Documents(
      *(np.concatenate(column) for column in zip(*parts, strict=True))
    )
    seed, limits = self._settings.seed, self._settings.limits
    shuffled = documents.take(_shuffled(len(documents.user), seed, "e", epoch))
    return packed(shuffled, limits, row_order=(seed, "r", epoch))

  def _documents(self, domain: int, start: int, stop: int) -> list[Documents]:
    """Documents of users start:stop in a domain's endless stream."""
    users, costs, parts = self._users[domain], self._costs[domain], []
    limits = self._settings.limits
    for visit in range(start // len(users), (stop - 1) // len(users) + 1):
      order, uniform = self._pass(domain, visit)
      first = visit * len(users)
      piece = slice(max(start - first, 0), stop - first)
      chosen = users[order[piece]]
      histories = self._histories[domain].take(chosen)
      if self._settings.targets == "last":
        cut = windows.cut_last(histories, limits, costs)
      else:
        cut = windows.cut_all(histories, limits, costs, uniform[piece])
      parts.append(as_documents(domain, chosen, cut, visit))
    return parts

  def _sample_pass(self, domain: int, visit: int) -> tuple[np.ndarray, ...]:
    """The order of users in a pass, and a uniform sample for each."""
    seed, users = self._settings.seed, self.num_users[domain]
    order = _shuffled(users, seed, "p", domain, visit)
    uniform = _raw(users, seed, "w", domain, visit) >> np.uint64(11)
    return order, uniform * 2.0**-53

  def _choose_quotas(self) -> tuple[int, ...]:
    users = np.array(self.num_users, np.float64)
    weights = users**self._settings.mixing_exponent
    weights = weights / weights.sum()
    tokens = np.dot(weights, [self._mean_tokens(d) for d in range(len(users))])
    step_tokens = self._settings.rows * self._settings.limits.row_tokens
    tokens_wanted = _SHORTEST_EPOCH_STEPS * step_tokens
    all_users = sum(self.num_users)
    parts = -(-all_users // self._settings.epoch_users)
    epoch_users = -(-all_users // parts)
    epoch_users *= max(1, -(-int(tokens_wanted / tokens) // epoch_users))
    return apportion(epoch_users, weights)

  def _mean_tokens(self, domain: int) -> float:
    """Approximate mean tokens per user of a domain."""
    histories = self._histories[domain]
    lengths, offsets = histories.lengths, histories.offsets
    events = len(lengths) / (len(offsets) - 1)
    cost = self._costs[domain]
    limits, copies = self._settings.limits, 2
    if self._settings.targets == "last":
      events, copies = min(events, limits.max_history or events), 1
    if not limits.item_segments:
      copies = 1
    tokens = copies * float(lengths.mean()) + cost.between
    return cost.opening + events * tokens


def as_documents(
  domain: int, users: np.ndarray, cut: Windows, visit: int = 0
) -> Documents:
  """Documents from the windows of some users of a domain."""
  same = np.ones(len(cut.history), np.int64)
  return Documents(
    domain * same,
    users[cut.history],
    cut.start,
    cut.first_target,
    cut.stop,
    cut.tokens,
    visit * same,
    cut.slots,
  )


def packed(
  documents: Documents, limits: Limits, row_order: tuple | None = None
) -> PackedDocuments:
  """Packs documents into rows.

  Args:
    documents: Documents, in the order in which they are packed.
    limits: Limits, with the size of a row.
    row_order: Key of the rows' shuffle, or None for no shuffle.
  """
  rows, num_rows = packing.pack(
    documents.tokens,
    documents.slots,
    row_tokens=limits.row_tokens,
    row_slots=limits.row_slots,
  )
  if row_order is not None:
    rows = _shuffled(num_rows, *row_order)[rows]
  order = np.argsort(rows, kind="stable")
  counts = np.bincount(rows, minlength=num_rows)
  return PackedDocuments(
    documents.take(order), np.concatenate([[0], np.cumsum(counts)])
  )


def apportion(total: int, weights: np.ndarray) -> tuple[int, ...]:
  """Splits an integer by weights that sum to 1; each part is at least 1.

  The largest remainders are rounded up; ties go to the first.
  """
  exact = total * weights
  parts = np.floor(exact).astype(np.int64)
  order = np.argsort(parts - exact, kind="stable")
  parts[order[: total - int(parts.sum())]] += 1
  return tuple(int(part) for part in np.maximum(parts, 1))


def _raw(count: int, *key: int | str) -> np.ndarray:
  """Random bits of a key, uint64[count]."""
  digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
  philox = np.random.Philox(key=int.from_bytes(digest, "little"))
  return philox.random_raw(count)


def _shuffled(count: int, *key: int | str) -> np.ndarray:
  """The random permutation of range(count) of a key."""
  return np.argsort(_raw(count, *key), kind="stable")
