"""Validation of a stage in training: losses and ranking metrics.

Ranking is over the full catalogue of every domain, by the model's cheapest
recommender, which is the dense tower of a language model; `calrec eval`
measures the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import jax
import numpy as np

from calrec_jax.data.cache.item_ids import ItemCache
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.feed.feed import OpenFeed
from calrec_jax.errors import (
  InputError,
  at_least,
  check,
  integer,
  one_of,
  optional,
  refuse,
)
from calrec_jax.metrics import ranking_metrics
from calrec_jax.metrics.weighted_sum import WeightedSum
from calrec_jax.models.objective import Objective
from calrec_jax.models.row_objective import RowObjective
from calrec_jax.recommend import candidates
from calrec_jax.recommend.candidates import RULES
from calrec_jax.recommend.dense.dense import Dense
from calrec_jax.recommend.dense.sasrec import SASRecRecommender
from calrec_jax.recommend.domain_model import DomainModel
from calrec_jax.recommend.prompts import prompt_limits
from calrec_jax.recommend.protocol import Recommender
from calrec_jax.runtime import placement
from calrec_jax.train import train_step

SPLIT = "validation"


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Validation:
  """Settings of validation.

  Attributes:
    period: Steps between validations; the last step is always validated. None
      leaves it to TRAIN_BUDGET: some ten in all.
    users: Number of users of each domain, sampled once with `seed`; None is
      all.
    metrics: Names of ranking metrics, see
      `calrec_jax.metrics.ranking_metrics`. Without any, only losses are
      computed and the catalogue is not encoded, which takes most of the time
      (then CheckpointPolicy.best_metric is "loss", and best_is_highest False).
    rule: CANDIDATES, the candidate rule: "all", "not_last" or "not_seen".
    seed: Seed of the sample of users.
    at_start: Whether the initial parameters are validated too, as step 0, and
      saved as a candidate for the best: a stage then never hands over
      parameters worse than its initial ones.
    patience: Number of consecutive validations without improvement of
      CheckpointPolicy.best_metric after which the stage ends. Every improvement
      is saved, and the next stage starts from the best. None trains up to
      TRAIN_STEPS, or for TRAIN_BUDGET.
  """

  period: int | None = 500
  users: int | None = 512
  metrics: Sequence[str] = ("recall@1", "recall@10", "ndcg@10")
  rule: str = candidates.DEFAULT
  seed: int = 0
  at_start: bool = False
  patience: int | None = None

  def __post_init__(self):
    """Refuses values that would fail only at the first validation."""
    check(
      self,
      period=optional(at_least(1)),
      users=optional(at_least(1)),
      seed=integer(0),
      rule=one_of(*RULES),
      patience=optional(at_least(1)),
    )
    for name in self.metrics:
      try:
        ranking_metrics.parse(name)
      except InputError as error:
        refuse(self, "metrics", str(error))


class Validator:
  """Validates parameters on the users of every domain of a stage.

  Attributes:
    users: Number of users that could be validated; without any there is nothing
      to call.
  """

  def __init__(
    self,
    settings: Validation,
    feed: OpenFeed,
    decoder: Any,
    objective: RowObjective,
    mesh: jax.sharding.Mesh,
  ):
    self._settings, self._feed, self._mesh = settings, feed, mesh
    self.users = sum(cache.num_documents(SPLIT) for cache in feed.caches)
    self._decoder, self._objective = decoder, objective
    self._step = jax.jit(train_step.make_eval_step(decoder, objective))

  def __call__(self, params: Any) -> dict[str, float]:
    """Losses in nats and ranking metrics as fractions, over all domains."""
    sums = self._losses(params)
    for cache in self._feed.caches if self._settings.metrics else ():
      if cache.num_documents(SPLIT):
        _merge(sums, self._ranking(params, cache))
    means = {name: value.host_mean() for name, value in sums.items()}
    means["loss"] = float(self._objective.total(means))
    return means

  def _losses(self, params: Any) -> dict[str, WeightedSum]:
    batches = self._feed.eval_batches(
      SPLIT, self._settings.users, self._settings.seed
    )
    sums: dict[str, WeightedSum] = {}
    for batch in batches:
      batch = placement.from_local_rows(batch, self._mesh)
      _merge(sums, jax.device_get(self._step(params, batch)))
    return sums

  def _ranking(self, params: Any, cache: TokenCache) -> dict[str, WeightedSum]:
    settings = self._settings
    users = cache.histories(SPLIT, settings.users, settings.seed)
    names = tuple(settings.metrics)
    horizon = ranking_metrics.horizon_of(names)
    recommender = self._recommender(params, cache)
    [ranking] = recommender.recommend(
      [user.items for user in users], depth=2 * horizon, rules=(settings.rule,)
    ).values()
    ranks = ranking_metrics.expected_ranks(
      ranking, np.array([user.target for user in users]), horizon
    )
    values = ranking_metrics.user_values(names, ranks, ranks)
    return {
      name: WeightedSum(float(values[:, column].sum()), float(len(users)))
      for column, name in enumerate(names)
    }

  def _recommender(self, params: Any, cache: TokenCache) -> Recommender:
    if isinstance(cache, ItemCache):
      return SASRecRecommender(self._decoder, params, cache.domain)
    assert isinstance(self._objective, Objective)
    return Dense(
      DomainModel(
        decoder=self._decoder,
        params=params,
        catalogue=cache.catalogue,
        prompt=cache.prompt,
        limits=prompt_limits(self._feed.feed),
        temperature=self._objective.temperature,
      )
    )


def _merge(
  sums: dict[str, WeightedSum], more: Mapping[str, WeightedSum]
) -> None:
  for name, value in more.items():
    sums[name] = sums[name].merge(value) if name in sums else value
