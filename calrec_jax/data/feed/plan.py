"""The plan of training: which documents stand in which row of which step.

It is a pure function of the lengths in the caches, the settings and the seed.
Every host computes the same plan and loads only its own rows; to resume takes
the step and nothing else.

Each domain is an endless stream of passes over its users, each pass in an
order of its own. An epoch takes a fixed number of users from every stream, in
proportion to the domain's users to the power `mixing_exponent` (0.3 in
CALRec's first stage), cuts them into documents, shuffles, packs, and shuffles
the rows. The last step of an epoch is filled up with empty rows: nothing is
dropped, no document waits for another epoch.

All randomness is raw bits of Philox, keyed by what it is for, as NumPy keeps
only raw bits the same between versions.
Tested by `tests/unit/data/test_plan.py`.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import threading
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from calrec_jax.data.feed import packing, windows
from calrec_jax.data.feed.tokenization import TokenCosts
from calrec_jax.data.feed.windows import Histories, Limits, Windows
from calrec_jax.errors import InputError

# An epoch has at least so many steps, so that the rows that fill up its last
# step are few.
_SHORTEST_EPOCH_STEPS = 64


class Settings(NamedTuple):
  """What the plan depends on besides the lengths; see `feed.Feed`."""

  rows: int
  limits: Limits
  targets: Literal["all", "last"]
  seed: int
  mixing_exponent: float
  epoch_users: int


class Documents(NamedTuple):
  """Columns of int64[D], one entry a document.

  Attributes:
    domain: which of the caches.
    user: its user.
    start: position of the document's first item in the user's history.
    first_target: position of the first target.
    stop: one behind the last item.
    tokens: tokens of the document.
    visit: which pass over the domain's users it belongs to.
  """

  domain: np.ndarray
  user: np.ndarray
  start: np.ndarray
  first_target: np.ndarray
  stop: np.ndarray
  tokens: np.ndarray
  visit: np.ndarray

  def take(self, order: np.ndarray | slice) -> Documents:
    """Some of the documents, in the given order."""
    return Documents(*(column[order] for column in self))

  def placed(self) -> list[tuple[int, int, int, int, int]]:
    """(domain, user, start, first target, stop) of each, as plain ints."""
    columns = (column.tolist() for column in self[:5])
    return list(zip(*columns, strict=True))


class PackedDocuments(NamedTuple):
  """Documents in rows.

  Attributes:
    documents: ordered by row.
    row_starts: int64[number of rows + 1], row r holds the documents
      `row_starts[r]..row_starts[r + 1]`.
  """

  documents: Documents
  row_starts: np.ndarray

  @property
  def num_rows(self) -> int:
    """Rows that hold a document."""
    return len(self.row_starts) - 1

  def row(self, row: int) -> Documents:
    """The documents of one row; none behind the last row."""
    if row >= self.num_rows:
      return self.documents.take(slice(0, 0))
    return self.documents.take(
      slice(self.row_starts[row], self.row_starts[row + 1])
    )


class Plan:
  """Steps, epochs, and the documents of each.

  Attributes:
    quotas: users that an epoch takes from each domain.
    num_users: users of each domain that have a target.
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
    self._users = [np.flatnonzero(np.diff(at.offsets) > 1) for at in histories]
    self.num_users = tuple(len(users) for users in self._users)
    if not all(self.num_users):
      empty = self.num_users.index(0)
      raise InputError(f"domain {empty} has no user with two events")
    self.quotas = self._choose_quotas()
    self._lock = threading.RLock()
    self._first_steps = [0]  # Of epochs self._base, self._base + 1, ...
    self._base = 0

  def locate(self, step: int) -> tuple[int, int]:
    """The epoch of a step, and the epoch's first step.

    Epochs differ by a few steps, as packing comes out. Without a hint from
    `remember`, all epochs before the step are planned once.
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
    """A hint of an earlier `locate`, which spares planning what lies before.

    It changes how fast a step is found, never what is found.
    """
    with self._lock:
      if first_step > self._first_steps[-1]:
        self._base, self._first_steps = epoch, [first_step]

  def rows_of_step(self, step: int) -> tuple[PackedDocuments, int]:
    """The epoch that a step lies in, and the first of its rows."""
    with self._lock:  # One thread plans, the others wait for its result.
      epoch, first_step = self.locate(step)
      return self.epoch(epoch), (step - first_step) * self._settings.rows

  def epoch(self, epoch: int) -> PackedDocuments:
    """The packed documents of an epoch; the last two are kept."""
    with self._lock:
      return self._epoch(epoch)

  @functools.cached_property
  def _epoch(self):
    # A cache of this object's own: one on the class would keep it alive.
    return functools.lru_cache(maxsize=2)(self._plan_epoch)

  @functools.cached_property
  def _pass(self):
    return functools.lru_cache(maxsize=2 * len(self._users))(self._draw_pass)

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
    """Documents of the users start..stop of a domain's endless stream."""
    users, parts = self._users[domain], []
    for visit in range(start // len(users), (stop - 1) // len(users) + 1):
      order, uniform = self._pass(domain, visit)
      first = visit * len(users)
      piece = slice(max(start - first, 0), stop - first)
      drawn = users[order[piece]]
      histories = self._histories[domain].take(drawn)
      cut = self._cut(histories, self._costs[domain], uniform[piece])
      parts.append(as_documents(domain, drawn, cut, visit))
    return parts

  def _cut(self, histories, costs, uniform) -> Windows:
    limits = self._settings.limits
    if self._settings.targets == "last":
      return windows.cut_last(histories, limits, costs)
    return windows.cut_all(histories, limits, costs, uniform)

  def _draw_pass(self, domain: int, visit: int) -> tuple[np.ndarray, ...]:
    """The order of users in a pass, and a uniform number for each."""
    seed, users = self._settings.seed, self.num_users[domain]
    order = _shuffled(users, seed, "p", domain, visit)
    uniform = _raw(users, seed, "w", domain, visit) >> np.uint64(11)
    return order, uniform * 2.0**-53

  def _choose_quotas(self) -> tuple[int, ...]:
    users = np.array(self.num_users, np.float64)
    weights = users**self._settings.mixing_exponent
    weights = weights / weights.sum()
    tokens = np.dot(weights, [self._mean_tokens(d) for d in range(len(users))])
    tokens_wanted = (
      _SHORTEST_EPOCH_STEPS
      * self._settings.rows
      * self._settings.limits.row_tokens
    )
    all_users = sum(self.num_users)
    parts = -(-all_users // self._settings.epoch_users)
    epoch_users = -(-all_users // parts)
    epoch_users *= max(1, -(-int(tokens_wanted / tokens) // epoch_users))
    return apportion(epoch_users, weights)

  def _mean_tokens(self, domain: int) -> float:
    """Tokens a user of a domain brings, roughly."""
    lengths, offsets = self._histories[domain]
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
  """Windows of some users of a domain as documents."""
  same = np.ones(len(cut.history), np.int64)
  return Documents(
    domain * same,
    users[cut.history],
    cut.start,
    cut.first_target,
    cut.stop,
    cut.tokens,
    visit * same,
  )


def packed(
  documents: Documents, limits: Limits, row_order: tuple | None = None
) -> PackedDocuments:
  """Puts documents into rows.

  Args:
    documents: in the order in which they are packed.
    limits: gives the size of a row.
    row_order: key of the shuffle of the rows, or None to leave them.
  """
  found = packing.pack(
    documents.tokens,
    documents.stop - documents.first_target,
    row_tokens=limits.row_tokens,
    row_slots=limits.row_slots,
  )
  rows = found.rows
  if row_order is not None:
    rows = _shuffled(found.num_rows, *row_order)[rows]
  order = np.argsort(rows, kind="stable")
  counts = np.bincount(rows, minlength=found.num_rows)
  return PackedDocuments(
    documents.take(order), np.concatenate([[0], np.cumsum(counts)])
  )


def apportion(total: int, weights: np.ndarray) -> tuple[int, ...]:
  """Splits a whole number by weights that sum to 1; everyone gets one.

  The largest remainders are rounded up, the first of equal ones first.
  """
  exact = total * weights
  shares = np.floor(exact).astype(np.int64)
  order = np.argsort(shares - exact, kind="stable")
  shares[order[: total - int(shares.sum())]] += 1
  return tuple(int(share) for share in np.maximum(shares, 1))


def _raw(count: int, *key: int | str) -> np.ndarray:
  """uint64[count] of random bits that belong to a key."""
  digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
  philox = np.random.Philox(key=int.from_bytes(digest, "little"))
  return philox.random_raw(count)


def _shuffled(count: int, *key: int | str) -> np.ndarray:
  """A permutation of 0..count-1 that belongs to a key."""
  return np.argsort(_raw(count, *key), kind="stable")
