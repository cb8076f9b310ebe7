"""A handful of users in full: what was bought, what was written, what matched.

Means hide what a recommender does; a reader judges it by a few users. They
are sampled before anything runs, then half of them are chosen among the hits
where there are enough, so that the page shows successes and failures.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from calrec_jax.data.records import Catalogue, History
from calrec_jax.evaluate.runs import Run

HIT_CUTOFF = 10
HISTORY_ITEMS = 12
POOL_PER_CASE = 16
TEXTS = 8


def sample_pool(num_users: int, num_cases: int, seed: int) -> set[int]:
  """Users whose answers are saved until it is known who was a hit."""
  size = min(num_users, num_cases * POOL_PER_CASE)
  generator = np.random.default_rng(seed)
  return set(generator.choice(num_users, size=size, replace=False).tolist())


def choose(
  runs: Sequence[Run],
  pool: set[int],
  histories: Sequence[History],
  catalogue: Catalogue,
  settings: Any,
) -> list[dict[str, Any]]:
  """Users to show in full, hits first.

  Args:
    runs: Every recommender's answers.
    pool: Users whose explanations were saved, see `sample_pool`.
    histories: Users of the split.
    catalogue: Items of the domain.
    settings: The `evaluator.Protocol`, for its rule and number of cases.

  Returns:
    One JSON-ready mapping per user, see `docs/evaluation.md`.
  """
  explaining = [run for run in runs if any(map(run.explanation, pool))]
  judged = explaining[:1] or list(runs)
  best = np.min([run.ranks[settings.rule] for run in judged], axis=0)
  hits = [user for user in sorted(pool) if best[user] <= HIT_CUTOFF]
  misses = [user for user in sorted(pool) if best[user] > HIT_CUTOFF]
  wanted = min(settings.num_cases, len(pool))
  num_hits = min(len(hits), max((wanted + 1) // 2, wanted - len(misses)))
  users = hits[:num_hits] + misses[: wanted - num_hits]
  shown = [*explaining, *(run for run in runs if run not in explaining)]
  return [
    _case(user, histories[user], shown, catalogue, settings.rule)
    for user in users
  ]


def _case(
  user: int,
  history: History,
  runs: Iterable[Run],
  catalogue: Catalogue,
  rule: str,
) -> dict[str, Any]:
  target = int(history.target)
  same_text = catalogue.text_rows == catalogue.text_rows[target]
  return {
    "user_id": history.user_id,
    "history_length": len(history.items),
    "history": [
      _item(int(row), target, catalogue)
      for row in history.items[-HISTORY_ITEMS:]
    ],
    "target": {
      **_item(target, target, catalogue),
      "train_events": int(catalogue.train_counts[target]),
      "text_twins": int(np.count_nonzero(same_text)) - 1,
    },
    "recommenders": [
      _answer(run, user, target, catalogue, rule) for run in runs
    ],
  }


def _answer(
  run: Run, user: int, target: int, catalogue: Catalogue, rule: str
) -> dict[str, Any]:
  rank = run.ranks[rule][user]
  columns = run.block.columns
  listed = zip(
    columns[f"listed.{rule}"][user], columns["score"][user], strict=True
  )
  return {
    "name": run.name,
    "rank": None if np.isinf(rank) else float(rank),
    "items": [
      {**_item(int(row), target, catalogue), "score": float(score)}
      for row, score in listed
      if row >= 0
    ],
    "texts": _texts(run.explanation(user), target, catalogue),
  }


def _texts(
  explanation: Iterable[Mapping[str, Any]], target: int, catalogue: Catalogue
) -> list[dict[str, Any]]:
  """The distinct generated texts, most probable first.

  Equal samples become one, with the number of samples it represents.
  """
  merged: dict[str, dict[str, Any]] = {}
  for sample in explanation:
    text = str(sample["text"])
    known = merged.setdefault(
      text, {"text": text, "log_prob": -math.inf, "samples": 0, "items": []}
    )
    known["log_prob"] = max(known["log_prob"], float(sample["log_prob"]))
    known["samples"] += int(sample.get("samples", 1))
    known["items"] = [
      _item(int(row), target, catalogue)
      for row in sample.get("items", ())
      if row >= 0
    ]
  ordered = sorted(merged.values(), key=lambda text: -text["log_prob"])[:TEXTS]
  return [
    {
      **text,
      "log_prob": text["log_prob"] if math.isfinite(text["log_prob"]) else None,
      "probability": math.exp(min(text["log_prob"], 0.0)),
    }
    for text in ordered
  ]


def _item(row: int, target: int, catalogue: Catalogue) -> dict[str, Any]:
  """An item as shown; `match` is "target", "twin" for its text, or empty."""
  same_text = catalogue.text_rows[row] == catalogue.text_rows[target]
  return {
    "item_id": catalogue.item_ids[row],
    "text": catalogue.texts[row],
    "match": "target" if row == target else "twin" if same_text else "",
  }
