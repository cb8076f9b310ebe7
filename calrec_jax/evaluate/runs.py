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

VERSION = 2  # Raise it when the same lists give other ranks or files.
COVERAGE_CUTOFF = 10
LISTED = 10  # Items of a list that are saved, for coverage and the report.


class Call(NamedTuple):
  """One call of a recommender.

  Attributes:
    seconds: Time until the answer was on the host.
    users: Number of users.
    first: Whether it was the first of its process, which compiles programs.
  """

  seconds: float
  users: int
  first: bool


class Varied(NamedTuple):
  """The setting that a curve varies, and its values, ascending."""

  setting: str
  values: tuple[int | float, ...]


@dataclasses.dataclass(eq=False)
class Block:
  """One recommender's answers for U consecutive users, gathered by call.

  Attributes:
    columns: Arrays of U rows by name. For each candidate rule `rank.RULE` and
      `text_rank.RULE`, float64, infinity for a miss (the latter where any item
      with the target's text counts), and `listed.RULE`, int32[U, 10], the
      first rows of the lists. `score`: float32[U, 10], those of the headline's
      rule. `tie.first` and `tie.last`: float64, the best and the worst rank of
      the target by how its tie is broken, under the headline's rule; infinity
      if it is not listed. `explanation`: JSON of what `explain` said, or None.
      `validity.NAME`: float64, NaN where it was not reported. `curve.rank` and
      `curve.text_rank`: float64[U, K] under the headline's rule.
    varied: What the K values of the curve are of; None without a curve.
    calls: All calls, in the order of the users.
  """

  columns: dict[str, np.ndarray]
  varied: Varied | None = None
  calls: list[Call] = dataclasses.field(default_factory=list)

  @classmethod
  def begin(cls, num_users: int, rules: Sequence[str]) -> "Block":
    """A block of which no user is ranked yet."""
    columns = {
      "score": np.full((num_users, LISTED), -np.inf, np.float32),
      "explanation": np.full(num_users, None, object),
      "tie.first": np.full(num_users, np.inf),
      "tie.last": np.full(num_users, np.inf),
    }
    for rule in rules:
      columns[f"rank.{rule}"] = np.full(num_users, np.inf)
      columns[f"text_rank.{rule}"] = np.full(num_users, np.inf)
      listed = np.full((num_users, LISTED), EMPTY, np.int32)
      columns[f"listed.{rule}"] = listed
    return cls(columns)

  def __len__(self) -> int:
    return len(self.columns["score"])

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
      rankings: Checked ranking of each rule.
      users: Users of the call.
      start: Index of the first of them in the block.
      catalogue: Items of the domain.
      settings: The `evaluator.Protocol`.
    """
    rows = slice(start, start + len(users))
    for rule in settings.rules:
      ranks, text_ranks = _ranks(rankings[rule], users, catalogue, settings)
      self.columns[f"rank.{rule}"][rows] = ranks
      self.columns[f"text_rank.{rule}"][rows] = text_ranks
      first = rankings[rule].items[:, :LISTED]
      self.columns[f"listed.{rule}"][rows, : first.shape[1]] = first
    targets = np.array([user.target for user in users])
    spans = ranking_metrics.tie_spans(rankings[settings.rule], targets)
    self.columns["tie.first"][rows], self.columns["tie.last"][rows] = spans
    scores = rankings[settings.rule].scores[:, :LISTED]
    self.columns["score"][rows, : scores.shape[1]] = scores

  def follow(
    self,
    curve: Curve,
    users: Sequence[History],
    start: int,
    catalogue: Catalogue,
    settings: Any,
  ) -> None:
    """Takes the checked rankings of one call's curve; see `collect`."""
    varied = Varied(curve.setting, tuple(curve.rankings))
    if self.varied is None:
      self.varied = varied
      for name in ("curve.rank", "curve.text_rank"):
        self.columns[name] = np.full((len(self), len(varied.values)), np.inf)
    if self.varied != varied:
      raise ValueError(
        f"the curve over {curve.setting} has the values {varied.values}, where "
        f"those of other users were {self.varied.values} of "
        f"{self.varied.setting}"
      )
    rows = slice(start, start + len(users))
    for index, rankings in enumerate(curve.rankings.values()):
      ranks = _ranks(rankings[settings.rule], users, catalogue, settings)
      self.columns["curve.rank"][rows, index] = ranks[0]
      self.columns["curve.text_rank"][rows, index] = ranks[1]

  def record_diagnostics(
    self, recommender: Recommender, start: int, users: int, explained: set[int]
  ) -> None:
    """Takes what the recommender reports of its last call.

    Args:
      recommender: Recommender that was called.
      start: Index of the call's first user in the block.
      users: Number of users of the call.
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
      column = self.columns.setdefault(
        f"validity.{fraction}", np.full(len(self), np.nan)
      )
      column[start : start + users] = values
    for index in sorted(explained & set(range(start, start + users))):
      explanation = recommender.explain(index - start)
      if explanation is not None:
        text = json.dumps(explanation, default=plain)
        self.columns["explanation"][index] = text

  def named(self, kind: str) -> dict[str, np.ndarray]:
    """The columns `kind.NAME`, by NAME."""
    prefix = f"{kind}."
    return {
      name.removeprefix(prefix): column
      for name, column in self.columns.items()
      if name.startswith(prefix)
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """One recommender's answers for all users.

  Attributes:
    name: Name of the recommender.
    description: What it says of itself.
    block: Its answers.
    details: What else it says of itself, see `Recommender.details`.
  """

  name: str
  description: str
  block: Block
  details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @classmethod
  def of(cls, recommender: Recommender, block: Block) -> "Run":
    """The run of a recommender whose answers are all there."""
    return cls(
      recommender.name, recommender.describe(), block, recommender.details()
    )

  @property
  def ranks(self) -> dict[str, np.ndarray]:
    """float64[U] for each rule, infinity for a miss."""
    return self.block.named("rank")

  @property
  def text_ranks(self) -> dict[str, np.ndarray]:
    """The same where any item with the target's text counts."""
    return self.block.named("text_rank")

  def explanation(self, user: int) -> list[dict[str, Any]]:
    """What the recommender's `explain` said of a user; may be empty."""
    return json.loads(self.block.columns["explanation"][user] or "[]")

  def seen(self, rule: str, num_items: int) -> np.ndarray:
    """Which of the items is in somebody's first ten, bool[N]."""
    top = self.block.columns[f"listed.{rule}"][:, :COVERAGE_CUTOFF]
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
    seconds = max(sum(call.seconds for call in later), 1e-9)
    return {
      "users_per_second": sum(call.users for call in later) / seconds,
      "first_batch_seconds": compiling.seconds,
      "seconds": sum(call.seconds for call in calls),
      "batch_users": calls[0].users,
    }

  def mean_validity(self) -> dict[str, float]:
    """The reported fractions, averaged over the users they were reported of."""
    means = {}
    for fraction, column in self.block.named("validity").items():
      reported = column[~np.isnan(column)]
      means[fraction] = math.fsum(reported) / len(reported)
    return means


def join_blocks(blocks: Sequence[Block]) -> Block:
  """One block of all users, in the order of the blocks.

  Raises:
    ValueError: if the blocks have different curves.
  """
  curves = {block.varied for block in blocks}
  if len(curves) > 1:
    raise ValueError(f"blocks have different curves: {curves}")
  names = dict.fromkeys(name for block in blocks for name in block.columns)
  columns = {
    # A fraction may be reported of some users only.
    name: np.concatenate(
      [b.columns.get(name, np.full(len(b), np.nan)) for b in blocks]
    )
    for name in names
  }
  calls = [call for block in blocks for call in block.calls]
  return Block(columns, blocks[0].varied, calls)


def _ranks(
  ranking: Ranking,
  users: Sequence[History],
  catalogue: Catalogue,
  settings: Any,
) -> tuple[np.ndarray, np.ndarray]:
  """Ranks of the users' targets, and of the first items with their texts."""
  targets, horizon = np.array([u.target for u in users]), settings.horizon
  return (
    ranking_metrics.expected_ranks(ranking, targets, horizon),
    ranking_metrics.text_ranks(ranking, targets, catalogue.text_rows, horizon),
  )
