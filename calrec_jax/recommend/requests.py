"""Requests for recommendations: users of the log, or new histories.

Everybody gets an answer. Where it cannot be one from the user's own purchases,
or not from all of them, the request says why.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from calrec_jax.data.cache import everybody as everybody_lib
from calrec_jax.data.cache.everybody import Everybody
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.errors import nearest

KNOWN = everybody_lib.NAME
"""All users and purchases of the log, the newest too, as a cache names them."""

NOT_IN_LOG = "not in the log"
BELOW_CORE = "below the core"
NO_KNOWN_ITEM = "no known item"


class Request(NamedTuple):
  """A user and the history that is recommended from.

  Attributes:
    user_id: Id in the log or in the file of histories; None where a history's
      user cannot be read.
    items: int32[n] catalogue rows, oldest first; empty if there are none.
    reason: Reason why the answer is not one from all that the user bought, as
      "KIND" or "KIND: details"; None if it is.
  """

  user_id: str | None
  items: np.ndarray
  reason: str | None = None


def of_log(cache: TokenCache, users: Sequence[str] | None) -> list[Request]:
  """Requests of users of the log, from all that is known of them.

  Args:
    cache: Token cache of the domain, with `everybody`.
    users: Ids of users; None for all. One that the log does not have gets a
      request without a history, and a warning that names the nearest.
  """
  everybody = cache.everybody
  if everybody is None:
    raise ValueError(f"{cache.path}: everybody is not attached.")
  if users is None:
    return [_of_row(cache, everybody, row) for row in range(len(everybody))]
  requests = []
  for user in users:
    row = everybody.rows.get(user)
    if row is not None:
      requests.append(_of_row(cache, everybody, row))
      continue
    print(
      f"--user={user}: not in the log.{nearest(user, everybody.rows)}",
      file=sys.stderr,
    )
    requests.append(nobody(user, NOT_IN_LOG))
  return requests


def nobody(user_id: str | None, reason: str) -> Request:
  """The request of somebody of whom no purchase is known."""
  return Request(user_id, np.zeros(0, np.int32), reason)


def _of_row(cache: TokenCache, everybody: Everybody, row: int) -> Request:
  items = cache.items_of(everybody.document(row))
  others = int(everybody.other_events[row])
  events = int(everybody.offsets[row + 1] - everybody.offsets[row]) + others
  reason = None
  if not len(items):
    reason = NO_KNOWN_ITEM + (
      f": the catalogue holds no item of {events} events"
      if events
      else ": no event can be used; `calrec data card` counts the bad rows"
    )
  elif not everybody.core_events[row]:
    targets = everybody.targets
    one = "" if targets is None else ", of which one may be a target"
    reason = (
      f"{BELOW_CORE}: {events} events, {len(items)} of them used; the k-core "
      f"has users with {everybody.min_count} (Domain.min_count){one}"
    )
  return Request(everybody.user_ids[row], items, reason)


def summary(reasons: Iterable[str], total: int) -> str:
  """One line that counts the answers with a reason; empty without any."""
  kinds = Counter(reason.partition(":")[0] for reason in reasons)
  if not kinds:
    return ""
  listed = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
  return f"{kinds.total():,} of {total:,} answers have a reason: {listed}"
