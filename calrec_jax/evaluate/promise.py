"""How much repeats, order and words promise on a log, before any training.

Recommenders without a model are measured on validation users, with the metrics
and the candidates of an evaluation, in seconds: whether the next item is one
that the user has (repeats), what others bought next (order), or one that shares
words with the user's items (words). `promise_text` prints the table and reads
it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import tqdm
from jaxtyping import Float

from calrec_jax.data.log_sample import LogSample, Size
from calrec_jax.data.records import History
from calrec_jax.errors import InputError
from calrec_jax.metrics import ranking_metrics
from calrec_jax.metrics.intervals import Bootstrap, Interval
from calrec_jax.recommend.baselines.bm25 import CatalogueIndex
from calrec_jax.recommend.baselines.untrained import untrained
from calrec_jax.recommend.candidates import DEFAULT
from calrec_jax.recommend.protocol import Recommender

SPLIT = "validation"
SIZE = Size(users=2048, scores=1 << 27, least_users=256, events=1_000_000)
METRICS = ("ndcg@10", "recall@10")
REFERENCE = "popularity"
SIGNALS: Mapping[str, tuple[str, ...]] = {
  "repeats": ("own_most_frequent", "last_item"),
  "order": ("sequential_rules",),
  "words": ("bm25_last_item", "bm25_history"),
}
_HORIZON = ranking_metrics.horizon_of(METRICS)
_DEPTH = 2 * _HORIZON  # Makes misses exact under ties.
_BATCH_SCORES = 1 << 24  # Users times items in one call, 64 MiB of scores.
_BATCH_USERS = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Promise:
  """What recommenders without a model reach on users of a log.

  Attributes:
    sample: Users and what was counted.
    rule: Candidate rule.
    values: float64[U, M], `METRICS` of each user, by recommender.
    missing: Why a recommender was not measured, by its name.
    bootstrap: Bootstrap of the intervals.
  """

  sample: LogSample
  rule: str
  values: Mapping[str, Float[np.ndarray, "U M"]]
  missing: Mapping[str, str]
  bootstrap: Bootstrap

  def means(self, name: str) -> list[Interval]:
    """Each metric of a recommender."""
    return self.bootstrap.means(self.values[name])

  def ndcg(self, name: str) -> float:
    """NDCG@10 of a recommender."""
    return float(np.mean(self.values[name][:, 0]))

  def verdict(self, name: str, other: str = REFERENCE) -> str:
    """`+`, `-` or `~`: is the NDCG@10 above that of another recommender?"""
    [gap] = self.bootstrap.differences(
      self.values[name][:, :1], self.values[other][:, :1]
    )
    return "+" if gap.low > 0 else "-" if gap.high < 0 else "~"

  def best(self, signal: str) -> str | None:
    """The recommender of a signal with the highest NDCG@10, if any ran."""
    names = [name for name in SIGNALS[signal] if name in self.values]
    return max(names, key=self.ndcg, default=None)

  def repeated(self) -> float:
    """Fraction of the targets that are in the user's history."""
    return float(
      np.mean([np.any(h.items == h.target) for h in self.sample.histories])
    )

  def found_alone(self, signal: str) -> float:
    """Fraction of targets in the ten of a signal's best, and in no other's."""
    own = self.best(signal)
    assert own is not None
    others = [
      self.values[name][:, 1] > 0
      for name in self.values
      if name not in SIGNALS[signal]
    ]
    alone = (self.values[own][:, 1] > 0) & ~np.any(others, axis=0)
    return float(np.mean(alone))


def obstacle(sample: LogSample) -> str | None:
  """Why nothing can be measured on a log, or None."""
  if len(sample.texts) < 2:
    return "the catalogue has one item"
  if not sample.histories:
    return f"no user has enough events for a {SPLIT} target"
  return None


def measure(
  sample: LogSample,
  *,
  rule: str = DEFAULT,
  bootstrap: Bootstrap | None = None,
  progress: bool = True,
) -> Promise:
  """Measures the recommenders that need no model.

  Args:
    sample: Users of a log, for which `obstacle` finds none.
    rule: Candidate rule, out of `candidates.RULES`.
    bootstrap: Bootstrap of the intervals; by default as gin configures it.
    progress: Whether progress bars are shown.

  Raises:
    InputError: for an unknown rule.
  """
  recommenders, missing = _recommenders(sample)
  return Promise(
    sample=sample,
    rule=rule,
    values={
      each.name: _user_values(each, sample.histories, rule, progress)
      for each in recommenders
    },
    missing=missing,
    bootstrap=bootstrap or Bootstrap(),
  )


def _recommenders(
  sample: LogSample,
) -> tuple[list[Recommender], dict[str, str]]:
  """The recommenders of all signals, and why some are missing."""
  made, missing = [], {}
  index, why = None, ""
  try:
    index = CatalogueIndex(sample.texts)
  except InputError as error:  # No text has a word.
    why = str(error)
  for name in (REFERENCE, *(n for names in SIGNALS.values() for n in names)):
    if index is None and name in SIGNALS["words"]:
      missing[name] = why
      continue
    made.append(
      untrained(
        name,
        sample.texts,
        counts=lambda: sample.counts,
        events=lambda: sample.events,
        index=lambda: index,  # pyright: ignore
      )
    )
  return made, missing


def _user_values(
  recommender: Recommender,
  histories: Sequence[History],
  rule: str,
  progress: bool,
) -> Float[np.ndarray, "U M"]:
  """`METRICS` of each user."""
  at_once = max(1, min(_BATCH_USERS, _BATCH_SCORES // recommender.num_items))
  ranks = []
  with tqdm.tqdm(
    total=len(histories),
    desc=recommender.name,
    unit=" users",
    leave=False,
    disable=not progress,
  ) as bar:
    for start in range(0, len(histories), at_once):
      users = histories[start : start + at_once]
      ranking = recommender.recommend(
        [user.items for user in users], depth=_DEPTH, rules=(rule,)
      )[rule]
      targets = np.array([user.target for user in users])
      ranks.append(ranking_metrics.expected_ranks(ranking, targets, _HORIZON))
      bar.update(len(users))
  found = np.concatenate(ranks)
  return ranking_metrics.user_values(METRICS, found, found)
