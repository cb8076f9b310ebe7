"""Weights that were chosen for a fusion, kept beside the checkpoint.

Validation users are asked once: what is evaluated is what `calrec infer`
answers with afterwards. A record is used again only where everything that
decides the members' answers is equal. Tested by
`tests/unit/test_fusion_record.py`.
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
from calrec_jax.recommend.fuse import fusion_weights
from calrec_jax.recommend.fuse.fuse import Chosen, Fusion
from calrec_jax.recommend.protocol import Recommender, answers_of
from calrec_jax.storage import lineage
from calrec_jax.storage.blocks import RECOMMENDING, code_digest

FOLDER = "fusion"  # In that of a stage.
_SPLIT, _SEED = "validation", 0
_DIGITS = 16  # Of the identity, in the name of the file.


def chosen(
  members: Sequence[Recommender],
  settings: Fusion,
  cache: TokenCache,
  *,
  folder: pathlib.Path,
  origin: Mapping[str, Any],
) -> Chosen:
  """The weights of the members on a domain: read, or found out and written.

  Where nobody was kept back for validation they are equal.

  Args:
    members: the recommenders that are fused.
    settings: how.
    cache: of the domain, whose validation users choose.
    folder: of the records, made when needed.
    origin: what decides the answers of the members beside themselves.
  """
  identity = lineage.plain(
    {
      **origin,
      "fusion": dataclasses.asdict(settings),
      "members": [answers_of(member) for member in members],
      "program": code_digest(RECOMMENDING),
    }
  )
  name = f"{cache.name}-{lineage.digest(identity)[:_DIGITS]}.json"
  if (kept := _read(folder / name)) and len(kept["weights"]) == len(members):
    return _chosen_by(kept)
  users = [
    user
    for user in cache.histories(_SPLIT, settings.users, _SEED)
    if len(user.items)  # Some members answer nobody without a history.
  ]
  if not users:
    return Chosen((1.0,) * len(members), "equal, as nobody is for validation")
  weights, value = fusion_weights.choose(
    members,
    [user.items for user in users],
    np.array([user.target for user in users]),
    settings,
  )
  record = {
    "weights": weights,
    "members": [member.name for member in members],
    "users": len(users),
    "ndcg@10": value,
    "made_by": identity,
  }
  try:
    lineage.write_json(folder / name, record)
  except OSError as error:  # As on a checkpoint that is only lent.
    print(f"The weights of the fusion are not kept: {error}", file=sys.stderr)
  return _chosen_by(record)


def of_stage(
  stage: str | pathlib.Path,
  domain: str,
  members: Sequence[str],
  settings: Fusion,
) -> Chosen:
  """The weights that were chosen for another stage's fusion of such members.

  Args:
    stage: its folder.
    domain: whose validation users chose.
    members: names of the recommenders, in order.
    settings: how they are joined, as they were there.

  Raises:
    InputError: if the stage has none, or several that differ.
  """
  folder = pathlib.Path(stage).expanduser() / FOLDER
  own = re.compile(rf"{re.escape(domain)}-[0-9a-f]{{{_DIGITS}}}\.json")
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
  chosen = {name: _chosen_by(record) for name, record in found.items()}
  if len({kept.weights for kept in chosen.values()}) > 1:
    listed = ", ".join(
      f"{name} {kept.weights}" for name, kept in chosen.items()
    )
    raise InputError(
      f"Fusion.weights names {str(stage)!r}, where different ones were chosen "
      f"over time: {listed}. Bind the numbers, or remove the older files."
    )
  kept = next(iter(chosen.values()))
  return kept._replace(how=f"{kept.how} for {stage}")


def _joins(
  record: Mapping[str, Any], members: Sequence[str], settings: Fusion
) -> bool:
  """Whether a record is of these members, joined in this way."""
  made = record.get("made_by", {}).get("fusion", {})
  wanted = dataclasses.asdict(settings)
  return record.get("members") == list(members) and all(
    made.get(name) == wanted[name] for name in ("by", "k", "places")
  )


def _chosen_by(record: Mapping[str, Any]) -> Chosen:
  weights, users = tuple(record["weights"]), record["users"]
  return Chosen(weights, f"chosen by {users:,} validation users")


def _read(path: pathlib.Path) -> dict[str, Any] | None:
  """A record; None where there is none that can be read."""
  try:
    record = json.loads(path.read_text("utf-8"))
    return {
      **record,
      "weights": list(map(float, record["weights"])),
      "users": int(record["users"]),
    }
  except (OSError, ValueError, KeyError, TypeError):
    return None
