"""Requests for recommendations: users of the log, or JSON lines."""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.errors import InputError, nearest

KNOWN = "train+validation+test"
"""All users and purchases of the log, the newest too, as a cache names them."""


class Request(NamedTuple):
  """A user and the history that is recommended from.

  Attributes:
    user_id: Id in the log or in the file of histories.
    items: int32[n] catalogue rows, oldest first.
  """

  user_id: str
  items: np.ndarray


def of_log(cache: TokenCache, users: Sequence[str] | None) -> list[Request]:
  """Requests of users of the log, from all that is known of them.

  Args:
    cache: Token cache of the domain.
    users: Ids of users; None for all.

  Raises:
    InputError: for an unknown user, with the nearest one.
  """
  everybody = np.arange(cache.num_documents(KNOWN))
  documents = cache.documents(KNOWN, everybody)
  known = {document.user_id: cache.items_of(document) for document in documents}
  for user in users or ():
    if user not in known:
      raise InputError(
        f"--user={user}: {cache.name} has no such user.{nearest(user, known)}"
      )
  return [Request(user, known[user]) for user in users or known]


def read_histories(
  path: pathlib.Path, cache: TokenCache, skip_unknown: bool
) -> list[Request]:
  """Reads histories by item id.

  Args:
    path: File of JSON lines with `user_id` and `items`.
    cache: Token cache of the domain.
    skip_unknown: Whether items outside the catalogue are skipped.

  Raises:
    InputError: with file and line of what cannot be used.
  """
  rows, requests, skipped = cache.catalogue.rows, [], 0
  for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
    if not line.strip():
      continue
    try:
      entry = json.loads(line)
      user, items = str(entry["user_id"]), [str(i) for i in entry["items"]]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
      raise InputError(
        f"{path}:{number}: {error}. A line looks like "
        '{"user_id": "anna", "items": ["id-1", "id-2"]}.'
      ) from error
    unknown = [item for item in items if item not in rows]
    if unknown and not skip_unknown:
      raise InputError(
        f"{path}:{number}: the catalogue of {cache.name} does not hold "
        f"{unknown[0]!r}. --skip_unknown leaves such items out."
      )
    skipped += len(unknown)
    found = [rows[item] for item in items if item in rows]
    if not found:
      raise InputError(f"{path}:{number}: user {user!r} has no known item.")
    items = cache.plain_history(np.array(found, np.int32))
    requests.append(Request(user, items))
  if skipped:
    print(f"{path}: {skipped:,} unknown items left out", file=sys.stderr)
  if not requests:
    raise InputError(f"{path} holds no history.")
  return requests
