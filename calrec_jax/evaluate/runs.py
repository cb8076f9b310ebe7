"""What one recommender did over all users: ranks, lists, words and time."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calrec_jax.data.records import Catalogue, History
from calrec_jax.evaluate import metrics
from calrec_jax.recommend.protocol import Ranking, Recommender

COVERAGE_CUTOFF = 10
SHOWN_ITEMS = 10


@dataclasses.dataclass(frozen=True, eq=False)
class Observation:
  """What one recommender answered for one user.

  Attributes:
    items: catalogue rows of the first places, best first.
    scores: their scores.
    explanation: what the recommender's `explain` said, or None.
  """

  items: np.ndarray
  scores: np.ndarray
  explanation: Any


@dataclasses.dataclass(eq=False)
class Run:
  """One recommender's answers, gathered batch by batch.

  Attributes:
    name: the recommender.
    description: what it says of itself.
    twins: int32[N], the smallest row with the same text.
    ranks: float64[U] for each rule, infinity for a miss.
    text_ranks: the same where any item with the target's text counts.
    seen: bool[N] for each rule, items that stood in somebody's first ten.
    observed: answers of the users of the pool, by user.
    validity: shares the recommender reported, one mapping a batch.
    batch_seconds: seconds of each call.
    batch_users: users of each call.
  """

  name: str
  description: str
  twins: np.ndarray
  ranks: dict[str, np.ndarray]
  text_ranks: dict[str, np.ndarray]
  seen: dict[str, np.ndarray]
  observed: dict[int, Observation] = dataclasses.field(default_factory=dict)
  validity: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  batch_seconds: list[float] = dataclasses.field(default_factory=list)
  batch_users: list[int] = dataclasses.field(default_factory=list)

  @classmethod
  def begin(
    cls,
    recommender: Recommender,
    num_users: int,
    catalogue: Catalogue,
    rules: Sequence[str],
  ) -> "Run":
    """A run of which no user is ranked yet."""
    return cls(
      name=recommender.name,
      description=recommender.describe(),
      twins=catalogue.twins,
      ranks={rule: np.full(num_users, np.inf) for rule in rules},
      text_ranks={rule: np.full(num_users, np.inf) for rule in rules},
      seen={rule: np.zeros(len(catalogue), bool) for rule in rules},
    )

  def collect(
    self,
    rankings: Mapping[str, Ranking],
    users: Sequence[History],
    start: int,
    horizon: int,
  ) -> None:
    """Takes the ranks of one batch; `start` is its first user."""
    targets = np.array([user.target for user in users], np.int32)
    rows = slice(start, start + len(users))
    for rule, ranks in self.ranks.items():
      ranking = rankings[rule]
      ranks[rows] = metrics.expected_ranks(ranking, targets, horizon)
      self.text_ranks[rule][rows] = metrics.text_ranks(
        ranking, targets, self.twins, horizon
      )
      top = ranking.items[:, :COVERAGE_CUTOFF]
      self.seen[rule][top[top >= 0]] = True

  def listen(
    self, recommender: Recommender, ranking: Ranking, start: int, pool: set[int]
  ) -> None:
    """Keeps what the recommender tells of its last call, where it tells."""
    validity = getattr(recommender, "validity", None)
    if validity is not None:
      self.validity.append(dict(validity() or {}))
    explain = getattr(recommender, "explain", None)
    for place in range(len(ranking.items)):
      if start + place in pool:
        self.observed[start + place] = Observation(
          items=ranking.items[place, :SHOWN_ITEMS].copy(),
          scores=ranking.scores[place, :SHOWN_ITEMS].copy(),
          explanation=None if explain is None else explain(place),
        )

  def clock(self, seconds: float, users: int) -> None:
    """Adds the time of one call."""
    self.batch_seconds.append(seconds)
    self.batch_users.append(users)

  def cost(self) -> dict[str, float | int]:
    """Users per second, without the call in which programs are compiled.

    The first call is left out where there are others; its time is given apart.
    """
    later_users = sum(self.batch_users[1:])
    users = later_users or sum(self.batch_users)
    seconds = sum(self.batch_seconds[1:] if later_users else self.batch_seconds)
    return {
      "users_per_second": users / max(seconds, 1e-9),
      "first_batch_seconds": self.batch_seconds[0],
      "seconds": sum(self.batch_seconds),
      "batch_users": self.batch_users[0],
    }

  def mean_validity(self) -> dict[str, float]:
    """The reported shares, averaged over users."""
    means = {}
    for key in dict.fromkeys(key for batch in self.validity for key in batch):
      pairs = [
        (batch[key], users)
        for batch, users in zip(self.validity, self.batch_users, strict=True)
        if batch.get(key) is not None
      ]
      total = sum(float(value) * users for value, users in pairs)
      means[key] = total / sum(users for _, users in pairs)
    return means
