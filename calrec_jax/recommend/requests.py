"""Who asks for recommendations: histories by item id, as JSON lines."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import NamedTuple

import numpy as np

from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.errors import InputError


class Request(NamedTuple):
  """Who asks, with what history.

  Attributes:
    user_id: of the log or of the file of histories.
    items: int32[n] catalogue rows, oldest first.
  """

  user_id: str
  items: np.ndarray


def read_histories(
  path: pathlib.Path, cache: TokenCache, skip_unknown: bool
) -> list[Request]:
  """Reads histories by item id.

  Args:
    path: JSON lines with `user_id` and `items`.
    cache: of the domain.
    skip_unknown: whether items outside the catalogue are left out.

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
    requests.append(Request(user, np.array(found, np.int32)))
  if skipped:
    print(f"{path}: {skipped:,} unknown items left out", file=sys.stderr)
  if not requests:
    raise InputError(f"{path} holds no history.")
  return requests
