"""Weights that were chosen for a fusion, saved next to the checkpoint.

Validation users choose once: what is evaluated is what `calrec infer` uses
afterwards. A record is used again only where everything that decides the
members' answers is equal. Tested by
`tests/unit/recommend/fuse/test_fusion_record.py`.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.errors import InputError
from calrec_jax.recommend import candidates
from calrec_jax.recommend.fuse import fusion_weights
from calrec_jax.recommend.fuse.chosen import Chosen, Measured
from calrec_jax.recommend.fuse.fuse import Fusion
from calrec_jax.recommend.fuse.joined import join
from calrec_jax.recommend.protocol import Recommender
from calrec_jax.storage import identity, lineage

FOLDER = "fusion"  # In that of a stage.
_SPLIT, _SEED = "validation", 0


def chosen(
  members: Sequence[Recommender],
  settings: Fusion,
  cache: TokenCache,
  *,
  folder: pathlib.Path,
  origin: Mapping[str, Any],
) -> Chosen:
  """The weights of the members on a domain: read, or chosen and written.

  Without validation users they are equal.

  Args:
    members: Recommenders that are fused.
    settings: How they are fused.
    cache: Token cache of the domain whose validation users choose.
    folder: Folder of the records, made when needed.
    origin: What decides the answers of the members beyond themselves.
  """
  made_by = identity.plain(
    {
      **origin,
      "fusion": dataclasses.asdict(settings),
      "members": [member.identity() for member in members],
      "choice": fusion_weights.VERSION,
    }
  )
  name = f"{cache.name}-{identity.short_digest(made_by)}.json"
  saved = _read(folder / name)
  if saved and len(saved["weights"]) == len(members):
    return _chosen_by(saved)
  users = cache.histories(_SPLIT, settings.users, _SEED)
  # Some members cannot answer a user without a history.
  users = [user for user in users if len(user.items)]
  if not users:
    return Chosen((1.0,) * len(members), "equal weights: no validation users")
  joined = join(
    members,
    [user.items for user in users],
    np.array([user.target for user in users]),
    settings,
  )
  weights = fusion_weights.choose(joined)
  measured = fusion_weights.measure(joined, weights)
  record = {
    "weights": weights,
    "members": [member.name for member in members],
    "users": len(users),
    "fusion": measured.value._asdict(),
    "measured": measured.of_members(),
    "made_by": made_by,
  }
  try:
    lineage.write_json(folder / name, record)
  except OSError as error:  # As on a read-only checkpoint.
    print(f"The weights of the fusion are not saved: {error}", file=sys.stderr)
  return _chosen_by(record)


def of_stage(
  stage: str | pathlib.Path,
  domain: str,
  members: Sequence[str],
  settings: Fusion,
) -> Chosen:
  """The weights that were chosen for another stage's fusion of such members.

  Args:
    stage: Folder of the stage.
    domain: Name of the domain whose validation users chose.
    members: Names of the recommenders, in order.
    settings: How they are joined, as they were there.

  Raises:
    InputError: if the stage has none, or several that differ.
  """
  folder = pathlib.Path(stage).expanduser() / FOLDER
  own = re.compile(rf"{re.escape(domain)}-[0-9a-f]{{16}}\.json")
  found = {
    path.name: record
    for path in sorted(folder.glob("*"))
    if own.fullmatch(path.name)
    and (record := _read(path))
    and _joins(record, members, settings)
  }
  if not found:
    raise InputError(
      f"Fusion.weights names {str(stage)!r}, but {folder} holds no weights of "
      f"{', '.join(members)} on {domain!r}, joined as here. `calrec eval` of "
      "that stage with the same Fusion.members chooses them."
    )
  # An earlier release may have chosen others, by a search that ends elsewhere.
  newest = max(map(_choice, found.values()))
  chosen = {
    name: _chosen_by(record)
    for name, record in found.items()
    if _choice(record) == newest
  }
  if len({one.weights for one in chosen.values()}) > 1:
    listed = ", ".join(f"{name} {one.weights}" for name, one in chosen.items())
    raise InputError(
      f"Fusion.weights names {str(stage)!r}, where different ones were chosen "
      f"over time: {listed}. Bind the numbers, or remove the older files."
    )
  first = next(iter(chosen.values()))
  return first._replace(how=f"{first.how} for {stage}")


def _joins(
  record: Mapping[str, Any], members: Sequence[str], settings: Fusion
) -> bool:
  """Whether a record is of these members, joined in this way."""
  made = record.get("made_by", {}).get("fusion", {})
  made = {"rule": candidates.DEFAULT, **made}  # Earlier records have no rule.
  wanted = dataclasses.asdict(settings)
  return record.get("members") == list(members) and all(
    made.get(name) == wanted[name] for name in ("by", "k", "places", "rule")
  )


def _choice(record: Mapping[str, Any]) -> int:
  """The version of the code that chose the weights."""
  return record["made_by"].get("choice", 0)


def _chosen_by(record: Mapping[str, Any]) -> Chosen:
  users = record["users"]
  return Chosen(
    tuple(record["weights"]),
    f"chosen by {users:,} validation users",
    # Earlier releases did not measure the members.
    Measured.read(record) if "measured" in record else None,
  )


def _read(path: pathlib.Path) -> dict[str, Any] | None:
  """A record; None where there is none that can be read."""
  try:
    record = json.loads(path.read_text("utf-8"))
    weights = list(map(float, record["weights"]))
    record = {**record, "weights": weights, "users": int(record["users"])}
    measured = _chosen_by(record).measured
    if measured and len(measured.alone) != len(weights):
      return None
  except (OSError, ValueError, KeyError, TypeError):
    return None
  return record
