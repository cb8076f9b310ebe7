"""A toy catalogue and recommenders whose answers are known."""

import numpy as np

from calrec_jax.data.records import Catalogue, History
from calrec_jax.recommend.protocol import Curve, Ranking


def catalogue(num_items=40, twins=(), train_counts=None) -> Catalogue:
  """Items with one token and the end marker; `twins` share their text."""
  tokens = np.stack([np.arange(10, 10 + num_items), np.ones(num_items)], axis=1)
  texts = [f"Title: thing {row}." for row in range(num_items)]
  for first, second in twins:
    tokens[second] = tokens[first]
    texts[second] = texts[first]
  if train_counts is None:
    train_counts = np.arange(num_items)[::-1]
  return Catalogue(
    item_ids=tuple(f"i{row}" for row in range(num_items)),
    texts=tuple(texts),
    values=tokens.astype(np.int32).ravel(),
    offsets=np.arange(num_items + 1, dtype=np.int64) * 2,
    train_counts=np.asarray(train_counts, np.int64),
    train_recent=np.zeros(num_items),
  )


def history(user, items, target) -> History:
  return History(f"u{user}", np.array(items, np.int32), target)


def histories(num_users=30, num_items=40, seed=0) -> list[History]:
  generator = np.random.default_rng(seed)
  return [
    history(
      user,
      generator.integers(0, num_items, size=generator.integers(1, 15)),
      int(generator.integers(0, num_items)),
    )
    for user in range(num_users)
  ]


class Scorer:
  """Ranks by `score(items)`, a float for every catalogue row."""

  def __init__(self, name, score):
    self.name = name
    self.score = score

  def describe(self):
    return f"the toy {self.name}"

  def recommend(self, histories, *, depth, rules=("not_last",)):
    return {
      rule: stack([self.rank(items, depth, rule) for items in histories])
      for rule in rules
    }

  def rank(self, items, depth, rule) -> Ranking:
    scores = np.array(self.score(items), np.float32)
    out = {"all": [], "not_last": items[-1:], "not_seen": items}[rule]
    rows = np.setdiff1d(np.arange(len(scores)), out)
    order = rows[np.argsort(-scores[rows], kind="stable")]
    listed, beyond = order[:depth], order[depth:]
    padding = depth - len(listed)
    return Ranking(
      np.pad(listed, (0, padding), constant_values=-1).astype(np.int32),
      np.pad(scores[listed], (0, padding), constant_values=-np.inf),
      np.int32((scores[beyond] == scores[listed[-1]]).sum()),
    )


class Writer(Scorer):
  """A scorer that says what it wrote for each user of the last call."""

  def recommend(self, histories, *, depth, rules=("not_last",)):
    self.last = [list(map(int, items)) for items in histories]
    return super().recommend(histories, depth=depth, rules=rules)

  def describe(self):
    return "writes <b>texts</b>"

  def validity(self):
    return {"catalogue_share": float(np.mean([len(i) > 5 for i in self.last]))}

  def explain(self, place):
    row = self.last[place][-1]
    return [
      {"text": f"text {row}", "log_prob": -0.5, "items": [row]},
      {"text": f"text {row}", "log_prob": -0.5, "items": [row]},
      {"text": "<script>alert(1)</script>", "log_prob": -3.0, "items": []},
    ]


class Nearby(Scorer):
  """Ranks the items near each of the last few items; tells the curve."""

  name = "nearby"

  def __init__(self, items_catalogue, samples=4):
    self.rows = np.arange(len(items_catalogue))
    self.samples = samples
    self.score = lambda items: self.near(items, samples)

  def near(self, items, samples):
    return -np.abs(self.rows - items[-samples:, None]).min(axis=0)

  def recommend_curve(self, histories, *, depth, rules):
    return Curve(
      "samples",
      {
        samples: Scorer(
          "", lambda items, n=samples: self.near(items, n)
        ).recommend(histories, depth=depth, rules=rules)
        for samples in (1, 2, 4)
      },
    )


def stack(rankings) -> Ranking:
  return Ranking(*(np.stack(fields) for fields in zip(*rankings, strict=True)))


def popularity(items_catalogue) -> Scorer:
  counts = items_catalogue.train_counts.astype(np.float32)
  return Scorer("popularity", lambda items: counts)


def by_distance(items_catalogue) -> Writer:
  """Items near the last one first: distinct for every user, with ties."""
  rows = np.arange(len(items_catalogue))
  return Writer("near", lambda items: -np.abs(rows - int(items[-1])))
