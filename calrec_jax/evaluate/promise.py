"""How much repeats, order and words promise on a log, before any training.

Recommenders without a model are measured on validation users, with the metrics
and the candidates of an evaluation, in seconds: whether the next item is one
that the user has (repeats), what others bought next (order), or one that shares
words with the user's items (words). `promise_text` prints the table and reads
it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
import tqdm
from jaxtyping import Float

from calrec_jax.data.log_sample import LogSample, Size
from calrec_jax.data.records import History
from calrec_jax.errors import InputError
from calrec_jax.evaluate.table import verdict
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
_NEW = "not_seen"
_HORIZON = ranking_metrics.horizon_of(METRICS)
_DEPTH = 2 * _HORIZON  # Makes misses exact under ties.
_BATCH_SCORES = 1 << 24  # Users times items in one call, 64 MiB of scores.
_BATCH_USERS = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
  """What recommenders without a model reach on some users.

  Attributes:
    values: float64[U, M], `METRICS` of each user, by recommender.
    bootstrap: Bootstrap of the intervals.
  """

  values: Mapping[str, Float[np.ndarray, "U M"]]
  bootstrap: Bootstrap

  @property
  def users(self) -> int:
    """Number of users."""
    return len(self.values[REFERENCE])

  def means(self, name: str) -> list[Interval]:
    """Each metric of a recommender."""
    return self.bootstrap.means(self.values[name])

  def ndcg(self, name: str) -> float:
    """NDCG@10 of a recommender, without its interval."""
    return float(np.mean(self.values[name][:, 0]))

  def verdict(self, name: str, other: str = REFERENCE) -> str:
    """`+`, `-` or `~`: is the NDCG@10 above that of another recommender?"""
    [gap] = self.bootstrap.differences(
      self.values[name][:, :1], self.values[other][:, :1]
    )
    return verdict(gap._asdict())

  def best(self, signal: str) -> str | None:
    """The recommender of a signal with the highest NDCG@10, if any ran."""
    names = [name for name in SIGNALS[signal] if name in self.values]
    return max(names, key=self.ndcg, default=None)

  def found_alone(self, name: str) -> float:
    """Fraction of targets in a recommender's ten, and in none of the others.

    Others of the same signal do not count.
    """
    [alike] = [names for names in SIGNALS.values() if name in names]
    others = [v[:, 1] > 0 for key, v in self.values.items() if key not in alike]
    alone = (self.values[name][:, 1] > 0) & ~np.any(others, axis=0)
    return float(np.mean(alone))


@dataclasses.dataclass(frozen=True, eq=False)
class Promise:
  """What a log promises.

  A text is most like itself, and what follows an item may be the same again, so
  that words and order also find what users have already. What they know beyond
  repeats shows where the target is new and the user's own items are left out.

  Attributes:
    sample: Users and what was counted.
    rule: Candidate rule.
    everybody: All sampled users under this rule.
    new: Those whose target is not in their history, under the rule `not_seen`.
    missing: Why a recommender was not measured, by its name.
  """

  sample: LogSample
  rule: str
  everybody: Measured
  new: Measured
  missing: Mapping[str, str]

  @property
  def repeated(self) -> float:
    """Fraction of the targets that are in the user's history."""
    return 1 - self.new.users / self.everybody.users


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
  recommenders, missing = _recommenders(sample, progress)
  is_new = ~np.array([np.any(h.items == h.target) for h in sample.histories])
  everybody, new = {}, {}
  for each in recommenders:
    values = _user_values(each, sample.histories, (rule, _NEW), progress)
    everybody[each.name], new[each.name] = values[rule], values[_NEW][is_new]
  bootstrap = bootstrap or Bootstrap()
  return Promise(
    sample=sample,
    rule=rule,
    everybody=Measured(everybody, bootstrap),
    new=Measured(new, bootstrap),
    missing=missing,
  )


def _recommenders(
  sample: LogSample, progress: bool
) -> tuple[list[Recommender], dict[str, str]]:
  """The recommenders of all signals, and why some are missing."""
  made, missing = [], {}
  index = functools.cache(lambda: CatalogueIndex(sample.texts))
  names = [REFERENCE, *(n for names in SIGNALS.values() for n in names)]
  for name in tqdm.tqdm(
    names, desc="count and index", leave=False, disable=not progress
  ):
    try:
      each = untrained(
        name,
        sample.texts,
        counts=lambda: sample.counts,
        events=lambda: sample.events,
        index=index,
      )
    except InputError as error:  # No text has a word.
      missing[name] = str(error)
    else:
      made.append(each)
  return made, missing


def _user_values(
  recommender: Recommender,
  histories: Sequence[History],
  rules: Sequence[str],
  progress: bool,
) -> dict[str, Float[np.ndarray, "U M"]]:
  """`METRICS` of each user, by candidate rule."""
  at_once = max(1, min(_BATCH_USERS, _BATCH_SCORES // recommender.num_items))
  ranks: dict[str, list[np.ndarray]] = {rule: [] for rule in rules}
  with tqdm.tqdm(
    total=len(histories),
    desc=recommender.name,
    unit=" users",
    leave=False,
    disable=not progress,
  ) as bar:
    for start in range(0, len(histories), at_once):
      users = histories[start : start + at_once]
      targets = np.array([user.target for user in users])
      rankings = recommender.recommend(
        [user.items for user in users], depth=_DEPTH, rules=tuple(ranks)
      )
      for rule, ranking in rankings.items():
        found = ranking_metrics.expected_ranks(ranking, targets, _HORIZON)
        ranks[rule].append(found)
      bar.update(len(users))
  return {
    rule: ranking_metrics.user_values(METRICS, found, found)
    for rule, found in zip(
      ranks, map(np.concatenate, ranks.values()), strict=True
    )
  }
