"""Runs recommenders over the users of a split and measures them.

Every recommender sees the same users, the same candidates and the same depth,
and what it returns is checked before it is believed. Numbers do not depend on
the batch size. Nothing here knows how a recommender works. `sharded` does the
same over many processes, by way of files.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
import numpy as np
import tqdm

from calrec_jax.data.records import Catalogue, History
from calrec_jax.errors import InputError, at_least, one_of, some_of
from calrec_jax.errors import check as check_settings
from calrec_jax.evaluate import cases, checks, slices, summary
from calrec_jax.evaluate.results import Results
from calrec_jax.evaluate.runs import Block, Call, Run
from calrec_jax.metrics import ranking_metrics
from calrec_jax.metrics.intervals import Bootstrap
from calrec_jax.metrics.ranking import Ranking
from calrec_jax.recommend.candidates import DEFAULT, RULES, exclusions
from calrec_jax.recommend.protocol import Curve, Recommender


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
  """What is measured, on which candidates.

  Attributes:
    metrics: Names of the metrics, see `metrics.user_values`.
    rules: Candidate rules, reported side by side: `all` items, all but the
      user's last (`not_last`), or none of the user's history (`not_seen`).
    rule: CANDIDATES, the rule of the headline metrics and of the slices.
    slice_metrics: Metrics that are also given per slice.
    batch_users: Users in one call of a recommender.
    bootstrap: Bootstrap of the intervals.
    reference: Recommender that the others are compared with; "" takes
      `popularity` where it runs, else the first.
    compared: Metric of that comparison.
    num_cases: Number of users shown in full in the report.
    seed: Seed of the sample of those users.
  """

  metrics: Sequence[str] = ranking_metrics.METRICS
  rules: Sequence[str] = RULES
  rule: str = DEFAULT
  slice_metrics: Sequence[str] = ("recall@10", "ndcg@10")
  batch_users: int = 256
  bootstrap: Bootstrap = dataclasses.field(default_factory=Bootstrap)
  reference: str = ""
  compared: str = "ndcg@10"
  num_cases: int = 6
  seed: int = 0

  def __post_init__(self):
    for name in self.metrics:
      ranking_metrics.parse(name, "Protocol.metrics")
    for field in ("slice_metrics", "compared"):
      value = getattr(self, field)
      names = (value,) if isinstance(value, str) else value
      missing = sorted(set(names) - set(self.metrics))
      if missing:
        raise InputError(
          f"Protocol.{field} names {missing}, which Protocol.metrics does not "
          "list; add it there"
        )
    check_settings(
      self, rules=some_of(*RULES), rule=one_of(*RULES), batch_users=at_least(1)
    )
    if self.rule not in self.rules:
      raise InputError(
        f"Protocol.rule is {self.rule!r}, which Protocol.rules "
        f"{tuple(self.rules)} does not list"
      )

  @property
  def horizon(self) -> int:
    """Ranks beyond this one are misses."""
    return ranking_metrics.horizon_of(tuple(self.metrics))

  @property
  def depth(self) -> int:
    """Length of a list; twice the horizon makes misses exact under ties."""
    return 2 * self.horizon


def evaluate(
  recommenders: Sequence[Recommender],
  histories: Sequence[History],
  catalogue: Catalogue,
  *,
  protocol: Protocol | None = None,
  data: Mapping[str, Any] | None = None,
  checkpoint: Mapping[str, Any] | None = None,
  progress: bool = True,
) -> Results:
  """Measures recommenders on the next item of every user.

  Args:
    recommenders: Recommenders with different names. The first one whose
      `explain` tells how it came to its list is shown first in the cases.
    histories: Users of a split, each with one target.
    catalogue: Items; every one is a candidate unless the rule excludes it.
    protocol: What to measure; by default as gin configures it.
    data: Card of the dataset, stored with the results.
    checkpoint: Lineage of the model, stored with the results.
    progress: Whether to show a progress bar for each recommender.

  Returns:
    Metrics with intervals, slices, validity and cost of each recommender, the
    rank of every user, and a few users in full.

  Raises:
    ValueError: for users or items that do not exist (`InputError`), and for a
      recommender that breaks the protocol; the message says how.
  """
  protocol = protocol or Protocol()
  histories = list(histories)
  check(recommenders, histories, catalogue, protocol)
  pool = cases.sample_pool(len(histories), protocol.num_cases, protocol.seed)
  runs = [
    run_recommender(recommender, histories, catalogue, protocol, pool, progress)
    for recommender in recommenders
  ]
  return summarise(
    runs, pool, histories, catalogue, protocol, data=data, checkpoint=checkpoint
  )


def check(
  recommenders: Sequence[Recommender],
  histories: Sequence[History],
  catalogue: Catalogue,
  protocol: Protocol,
) -> None:
  """Refuses what cannot be evaluated, before any work.

  Raises:
    InputError: for users or items that do not exist, recommenders without a
      name of their own, or a reference that does not run.
  """
  if not histories:
    raise InputError(
      "there are no users to evaluate; `calrec data card` shows the size of "
      "each split"
    )
  for history in histories:
    rows = np.append(history.items, history.target)
    if rows.min() < 0 or rows.max() >= len(catalogue):
      raise InputError(
        f"user {history.user_id!r} holds catalogue rows {rows.min()} to "
        f"{rows.max()}, but the catalogue has rows 0 to {len(catalogue) - 1}; "
        "the users belong to another catalogue"
      )
  names = [recommender.name for recommender in recommenders]
  if not names or len(set(names)) < len(names):
    raise InputError(
      f"the recommenders are named {names}; give at least one, each with a "
      "name of its own"
    )
  if protocol.reference and protocol.reference not in names:
    raise InputError(
      f"Protocol.reference is {protocol.reference!r}, which does not run; "
      f"choose from {names}"
    )


def summarise(
  runs: Sequence[Run],
  pool: set[int],
  histories: Sequence[History],
  catalogue: Catalogue,
  protocol: Protocol,
  *,
  data: Mapping[str, Any] | None = None,
  checkpoint: Mapping[str, Any] | None = None,
  split: str | None = None,
) -> Results:
  """The results of runs: every number that is reported is made here.

  Args:
    runs: Run of each recommender over all users.
    pool: Users whose explanations were saved.
    histories: Users, in the order of the runs.
    catalogue: Items of the domain.
    protocol: What was measured.
    data: Card of the dataset, stored with the results.
    checkpoint: Lineage of the model, stored with the results.
    split: Split of the users, stored with the results where it is known.
  """
  excluded = excluded_targets(histories, protocol)
  slicings = slices.slice_users(histories, catalogue)
  names = [run.name for run in runs]
  rules = summary.protocol(protocol, histories, catalogue, excluded, names)
  return Results(
    protocol=rules if split is None else {"split": split, **rules},
    data=dict(data or {}),
    checkpoint=dict(checkpoint or {}),
    recommenders=summary.recommenders(
      runs, slicings, protocol, num_items=len(catalogue)
    ),
    users=user_columns(histories, catalogue),
    excluded=excluded,
    ranks={run.name: run.ranks for run in runs},
    text_ranks={run.name: run.text_ranks for run in runs},
    cases=cases.choose(runs, pool, histories, catalogue, protocol),
  )


def run_recommender(
  recommender: Recommender,
  histories: Sequence[History],
  catalogue: Catalogue,
  protocol: Protocol,
  pool: set[int],
  progress: bool,
) -> Run:
  """One recommender's answers for all users; see `evaluate`.

  Args:
    recommender: Recommender to measure.
    histories: Users of a split.
    catalogue: Items of the domain.
    protocol: Candidate rules, depth and batch size.
    pool: Users whose explanations are saved.
    progress: Whether to show a progress bar.
  """
  name, total = recommender.name, len(histories)
  with tqdm.tqdm(
    total=total, desc=name, unit="user", disable=not progress
  ) as bar:
    block = answer_users(
      recommender, histories, catalogue, protocol, pool, done=bar.update
    )
  return Run.of(recommender, block)


def answer_users(
  recommender: Recommender,
  users: Sequence[History],
  catalogue: Catalogue,
  protocol: Protocol,
  explained: set[int],
  *,
  done: Callable[[int], object],
  first_call: bool = True,
) -> Block:
  """One recommender's checked answers for consecutive users.

  Args:
    recommender: Recommender to measure.
    users: A block of users.
    catalogue: Items of the domain.
    protocol: Candidate rules, depth and batch size.
    explained: Indices of users whose explanations are saved.
    done: Gets the number of users of each call when it is over. What it
      raises ends the work.
    first_call: Whether this process has not called the recommender yet.
  """
  block = Block.begin(len(users), protocol.rules)
  for start in range(0, len(users), protocol.batch_users):
    batch = users[start : start + protocol.batch_users]
    items = [user.items for user in batch]
    began = time.perf_counter()
    rankings = _to_host(  # Waits for the device.
      recommender.recommend(
        items, depth=protocol.depth, rules=tuple(protocol.rules)
      )
    )
    seconds = time.perf_counter() - began
    checks.check(
      recommender.name, rankings, items, catalogue, protocol, protocol.rules
    )
    block.collect(rankings, batch, start, catalogue, protocol)
    block.record_diagnostics(recommender, start, len(batch), explained)
    block.calls.append(Call(seconds, len(batch), first_call and start == 0))
    curve = _curve(recommender, items, catalogue, protocol)
    if curve is not None:
      block.follow(curve, batch, start, catalogue, protocol)
    done(len(batch))
  return block


def _curve(
  recommender: Recommender,
  items: Sequence[np.ndarray],
  catalogue: Catalogue,
  protocol: Protocol,
) -> Curve | None:
  """The checked curve of one call, where the recommender has one."""
  rules = (protocol.rule,)
  curve = recommender.recommend_curve(items, depth=protocol.depth, rules=rules)
  if curve is None:
    return None
  values = list(curve.rankings)
  if not values or values != sorted(values):
    raise ValueError(
      f"recommender {recommender.name!r}: the curve over {curve.setting} has "
      f"the values {values}; give at least one, ascending"
    )
  rankings = {
    value: _to_host(by_rule) for value, by_rule in curve.rankings.items()
  }
  for value, by_rule in rankings.items():
    name = f"{recommender.name}, {curve.setting} {value}"
    checks.check(name, by_rule, items, catalogue, protocol, rules)
  return Curve(curve.setting, rankings)


def excluded_targets(
  histories: Sequence[History], protocol: Protocol
) -> dict[str, np.ndarray]:
  """Which users' targets are no candidates, bool[U] for each rule."""
  excluded = {rule: np.zeros(len(histories), bool) for rule in protocol.rules}
  for start in range(0, len(histories), protocol.batch_users):
    users = histories[start : start + protocol.batch_users]
    targets = np.array([user.target for user in users])
    for rule, flags in excluded.items():
      out = np.asarray(exclusions([user.items for user in users], rule))
      flags[start : start + len(users)] = (out == targets[:, None]).any(axis=1)
  return excluded


def user_columns(
  histories: Sequence[History], catalogue: Catalogue
) -> dict[str, Any]:
  """What is known of every user before a recommender runs, by column."""
  targets = np.array([history.target for history in histories], np.int64)
  return {
    "user_id": [history.user_id for history in histories],
    "item_id": [catalogue.item_ids[target] for target in targets],
    "history_length": np.array([len(h.items) for h in histories], np.int32),
    "target_train_events": catalogue.train_counts[targets].astype(np.int64),
    "target_in_history": np.array(
      [bool(np.any(h.items == h.target)) for h in histories], bool
    ),
  }


def _to_host(rankings: Mapping[str, Ranking]) -> dict[str, Ranking]:
  return {
    rule: Ranking(*(np.asarray(field) for field in ranking))
    for rule, ranking in rankings.items()
  }
