"""What one recommender did: ranks, lists, words and time, user by user.

A `Block` holds consecutive users and is what a job writes to disk; a `Run` is
all of them. Nothing in a run depends on how the users were cut into blocks.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from calrec_jax.data.records import Catalogue, History
from calrec_jax.evaluate.results import plain
from calrec_jax.metrics import ranking_metrics
from calrec_jax.metrics.ranking import Ranking
from calrec_jax.recommend.candidates import EMPTY
from calrec_jax.recommend.protocol import Curve, Recommender

VERSION = 1  # Raise it when the same lists give other ranks or files.
COVERAGE_CUTOFF = 10
SHOWN_ITEMS = 10
LISTED = max(COVERAGE_CUTOFF, SHOWN_ITEMS)


class Call(NamedTuple):
  """One call of a recommender.

  Attributes:
    seconds: until the answer was on the host.
    users: that it was for.
    first: whether it was the first of its process, which compiles programs.
  """

  seconds: float
  users: int
  first: bool


@dataclasses.dataclass(frozen=True, eq=False)
class CurveRanks:
  """Ranks of U users for each of K values of a setting.

  Attributes:
    setting: what is varied.
    values: of the setting, ascending.
    ranks: float64[K, U] under the rule of the headline, infinity for a miss.
    text_ranks: the same where any item with the target's text counts.
  """

  setting: str
  values: tuple[int | float, ...]
  ranks: np.ndarray
  text_ranks: np.ndarray


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
class Block:
  """One recommender's answers for U consecutive users, gathered by call.

  Attributes:
    ranks: float64[U] for each rule, infinity for a miss.
    text_ranks: the same where any item with the target's text counts.
    listed: int32[U, 10] for each rule, the first rows of the lists.
    scores: float32[U, 10] of those under the rule of the headline.
    explanations: JSON of what `explain` said of chosen users, by index.
    validity: float64[U] for each reported fraction, NaN where it was not.
    curve: ranks along a curve, where the recommender has one.
    calls: all calls, in the order of the users.
  """

  ranks: dict[str, np.ndarray]
  text_ranks: dict[str, np.ndarray]
  listed: dict[str, np.ndarray]
  scores: np.ndarray
  explanations: dict[int, str] = dataclasses.field(default_factory=dict)
  validity: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  curve: CurveRanks | None = None
  calls: list[Call] = dataclasses.field(default_factory=list)

  @classmethod
  def begin(cls, num_users: int, rules: Sequence[str]) -> "Block":
    """A block of which no user is ranked yet."""
    return cls(
      ranks={rule: np.full(num_users, np.inf) for rule in rules},
      text_ranks={rule: np.full(num_users, np.inf) for rule in rules},
      listed={
        rule: np.full((num_users, LISTED), EMPTY, np.int32) for rule in rules
      },
      scores=np.full((num_users, LISTED), -np.inf, np.float32),
    )

  def __len__(self) -> int:
    return len(self.scores)

  def collect(
    self,
    rankings: Mapping[str, Ranking],
    users: Sequence[History],
    start: int,
    catalogue: Catalogue,
    settings: Any,
  ) -> None:
    """Takes the lists of one call.

    Args:
      rankings: a checked ranking for each rule.
      users: of the call.
      start: the place of the first of them.
      catalogue: the items.
      settings: the `evaluator.Protocol`.
    """
    rows = slice(start, start + len(users))
    for rule, ranks in self.ranks.items():
      ranks[rows], self.text_ranks[rule][rows] = _ranks(
        rankings[rule], users, catalogue, settings.horizon
      )
      first = rankings[rule].items[:, :LISTED]
      self.listed[rule][rows, : first.shape[1]] = first
    scores = rankings[settings.rule].scores[:, :LISTED]
    self.scores[rows, : scores.shape[1]] = scores

  def follow(
    self,
    curve: Curve,
    users: Sequence[History],
    start: int,
    catalogue: Catalogue,
    settings: Any,
  ) -> None:
    """Takes the checked rankings of one call's curve; see `collect`."""
    values = tuple(curve.rankings)
    if self.curve is None:
      empty = np.full((len(values), len(self)), np.inf)
      self.curve = CurveRanks(curve.setting, values, empty, empty.copy())
    if (self.curve.setting, self.curve.values) != (curve.setting, values):
      raise ValueError(
        f"the curve over {curve.setting} has the values {values}, where those "
        f"of other users were {self.curve.values} of {self.curve.setting}"
      )
    rows = slice(start, start + len(users))
    for place, rankings in enumerate(curve.rankings.values()):
      self.curve.ranks[place, rows], self.curve.text_ranks[place, rows] = (
        _ranks(rankings[settings.rule], users, catalogue, settings.horizon)
      )

  def record(
    self, recommender: Recommender, start: int, users: int, explained: set[int]
  ) -> None:
    """Takes what the recommender reports of its last call.

    Args:
      recommender: that was called.
      start: the place of the call's first user.
      users: number of them.
      explained: Indices of users whose explanations are saved.
    """
    for fraction, value in recommender.validity().items():
      if value is None:
        continue
      values = np.asarray(value, np.float64)
      if values.shape not in ((), (users,)):
        raise ValueError(
          f"recommender {recommender.name!r}: validity() gives {fraction!r} "
          f"for {values.shape}; give one number, or one for each of the "
          f"{users} users"
        )
      column = self.validity.setdefault(fraction, np.full(len(self), np.nan))
      column[start : start + users] = values
    for place in sorted(explained & set(range(start, start + users))):
      explanation = recommender.explain(place - start)
      if explanation is not None:
        self.explanations[place] = json.dumps(explanation, default=plain)


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """One recommender's answers for all users.

  Attributes:
    name: the recommender.
    description: what it says of itself.
    block: its answers.
    observed: lists and explanations of the users of the pool, by number.
  """

  name: str
  description: str
  block: Block
  observed: dict[int, Observation]

  @classmethod
  def join(
    cls,
    name: str,
    description: str,
    blocks: Sequence[Block],
    pool: set[int],
    rule: str,
  ) -> "Run":
    """The run that blocks make, given in the order of their users.

    Args:
      name: the recommender.
      description: what it says of itself.
      blocks: all users, each in one block.
      pool: users whose lists and explanations are shown.
      rule: whose lists are shown.
    """
    block = blocks[0] if len(blocks) == 1 else join_blocks(blocks)
    observed = {
      user: Observation(
        items=block.listed[rule][user, :SHOWN_ITEMS],
        scores=block.scores[user, :SHOWN_ITEMS],
        explanation=json.loads(block.explanations.get(user, "null")),
      )
      for user in sorted(pool)
    }
    return cls(name, description, block, observed)

  @property
  def ranks(self) -> dict[str, np.ndarray]:
    """float64[U] for each rule, infinity for a miss."""
    return self.block.ranks

  @property
  def text_ranks(self) -> dict[str, np.ndarray]:
    """The same where any item with the target's text counts."""
    return self.block.text_ranks

  def seen(self, rule: str, num_items: int) -> np.ndarray:
    """Which of the items is in somebody's first ten, bool[N]."""
    top = self.block.listed[rule][:, :COVERAGE_CUTOFF]
    seen = np.zeros(num_items, bool)
    seen[top[top >= 0]] = True
    return seen

  def cost(self) -> dict[str, float | int]:
    """Users per second of one process, without calls that compile programs.

    The first call of each process is left out where there are others; the time
    of the first one is given apart.
    """
    calls = self.block.calls
    later = [call for call in calls if not call.first] or calls
    compiling = next((call for call in calls if call.first), calls[0])
    seconds = sum(call.seconds for call in later)
    return {
      "users_per_second": sum(call.users for call in later)
      / max(seconds, 1e-9),
      "first_batch_seconds": compiling.seconds,
      "seconds": sum(call.seconds for call in calls),
      "batch_users": calls[0].users,
    }

  def mean_validity(self) -> dict[str, float]:
    """The reported fractions, averaged over the users they were reported of."""
    means = {}
    for fraction, column in self.block.validity.items():
      reported = column[~np.isnan(column)]
      means[fraction] = math.fsum(reported) / len(reported)
    return means


def join_blocks(blocks: Sequence[Block]) -> Block:
  """One block of all users, in the order of the blocks.

  Raises:
    ValueError: if the blocks have other rules or other curves.
  """
  offsets = np.cumsum([0, *map(len, blocks)])
  first = blocks[0]
  fractions = dict.fromkeys(name for block in blocks for name in block.validity)
  return Block(
    ranks=_by_rule([block.ranks for block in blocks]),
    text_ranks=_by_rule([block.text_ranks for block in blocks]),
    listed=_by_rule([block.listed for block in blocks]),
    scores=np.concatenate([block.scores for block in blocks]),
    explanations={
      int(offset) + place: text
      for offset, block in zip(offsets, blocks, strict=False)
      for place, text in block.explanations.items()
    },
    validity={
      name: np.concatenate(
        [
          block.validity.get(name, np.full(len(block), np.nan))
          for block in blocks
        ]
      )
      for name in fractions
    },
    curve=None
    if first.curve is None
    else _join_curves([block.curve for block in blocks]),
    calls=[call for block in blocks for call in block.calls],
  )


def _by_rule(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  return {
    rule: np.concatenate([part[rule] for part in parts]) for rule in parts[0]
  }


def _join_curves(curves: Sequence[CurveRanks | None]) -> CurveRanks:
  known = [curve for curve in curves if curve is not None]
  settings = {(curve.setting, curve.values) for curve in known}
  if len(known) < len(curves) or len(settings) > 1:
    raise ValueError(f"blocks have other curves than each other: {settings}")
  return CurveRanks(
    known[0].setting,
    known[0].values,
    np.concatenate([curve.ranks for curve in known], axis=1),
    np.concatenate([curve.text_ranks for curve in known], axis=1),
  )


def _ranks(
  ranking: Ranking, users: Sequence[History], catalogue: Catalogue, horizon: int
) -> tuple[np.ndarray, np.ndarray]:
  """Ranks of the users' targets, and of the first items with their texts."""
  targets = np.array([user.target for user in users], np.int32)
  return (
    ranking_metrics.expected_ranks(ranking, targets, horizon),
    ranking_metrics.text_ranks(ranking, targets, catalogue.twins, horizon),
  )
