"""Which items of a catalogue may be recommended: the one candidate filter.

Validation, the weights of a fusion, evaluation and inference read it, and the
gin macro CANDIDATES names the rule for all of them.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

RULES = ("all", "not_last", "not_seen")
"""All items of the catalogue; all but a last item that cannot be the next; all
but what is in the user's history, whatever its kind of event.

`not_last` excludes the item of a user's last event: consecutive repeats are
removed, so it is never the next target. That holds for an event that may be a
target itself. The item that was viewed last is often the one that is bought, so
after an event of another kind nothing is excluded, nor where targets are of
several kinds: a purchase may follow the cart.
"""
DEFAULT = "not_last"
MACRO = "CANDIDATES"

EMPTY = -1  # Fills a list that has fewer candidates than positions.


def exclusions(
  histories: Sequence[np.ndarray], rule: str
) -> Int[np.ndarray, "B E"]:
  """Rows that a rule takes out of each user's candidates.

  Args:
    histories: Catalogue rows of each of B users, oldest first;
      `records.EventItems` where events have kinds.
    rule: Name out of `RULES`.

  Returns:
    Distinct rows, ascending, right-padded with -1; E is what the longest needs.
  """
  if rule == "all":
    out = [np.empty(0, np.int32) for _ in histories]
  elif rule == "not_last":
    out = [_settled(history[-1:]) for history in histories]
  else:
    out = [np.unique(history).astype(np.int32) for history in histories]
  width = max(map(len, out), default=0)
  filled = np.full((len(out), width), EMPTY, np.int32)
  for user, rows in enumerate(out):
    filled[user, : len(rows)] = rows
  return filled


def _settled(last: np.ndarray) -> np.ndarray:
  """The last item, int32[1], if it cannot be the next target."""
  settled = getattr(last, "settled", None)
  rows = np.asarray(last, np.int32)
  return rows if settled is None else rows[settled]
