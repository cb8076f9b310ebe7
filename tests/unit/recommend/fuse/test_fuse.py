"""Fusion by ranks and by scores against a loop, and its fairness to ties."""

import json

import numpy as np
import pytest

from calrec_jax.metrics.intervals import Interval
from calrec_jax.recommend import candidates, protocol
from calrec_jax.recommend.fuse import fuse
from calrec_jax.recommend.fuse.chosen import Measured

ITEMS = 12


class Scored(protocol.Recommender):
  """A recommender that ranks by given scores, the same for every user."""

  num_items = ITEMS

  def __init__(self, name, scores):
    self.name, self.scores = name, np.array(scores, np.float32)

  def describe(self):
    return self.name

  def _score(self, request):
    scores = np.tile(self.scores, (len(request.histories), 1))
    return protocol.FullScores(scores)


def loop_scores(members, excluded, places, by):
  """Score of every candidate, one member and one item at a time."""
  fused = {}
  for member in members:
    candidates = [row for row in range(ITEMS) if row not in excluded]
    best_first = sorted(
      (member.scores[row] for row in candidates), reverse=True
    )
    head, end = best_first[0], best_first[:places][-1]
    for row in candidates:
      score = member.scores[row]
      greater = sum(member.scores[other] > score for other in candidates)
      equal = sum(member.scores[other] == score for other in candidates)
      if greater + equal <= places:
        rank = greater + (equal + 1) / 2
        part = 1 / (60 + rank)
        if by == "scores":
          part = (score - end) / (head - end) if head > end else 1.0
        fused[row] = fused.get(row, 0.0) + part
  return fused


@pytest.mark.parametrize("by", ["ranks", "scores"])
@pytest.mark.parametrize("places", [4, 7, 40])
def test_equals_a_plain_loop(places, by):
  draw = np.random.default_rng(3)
  for _ in range(20):
    members = [
      Scored("a", draw.integers(0, 6, ITEMS)),
      Scored("b", draw.normal(size=ITEMS)),
      Scored("c", draw.integers(0, 9, ITEMS)),
    ]
    fused = fuse.Fused(members, settings=fuse.Fusion(places=places, by=by))
    history = draw.integers(0, ITEMS, 3)
    rankings = fused.recommend([history], depth=4, rules=candidates.RULES)
    for rule in candidates.RULES:
      excluded = set(candidates.exclusions([history], rule)[0].tolist())
      wanted = loop_scores(members, excluded, max(4, places), by)
      ranking = rankings[rule]
      listed = [row for row in ranking.items[0].tolist() if row >= 0]
      assert len(listed) == min(4, len(wanted))
      for row, score in zip(listed, ranking.scores[0], strict=False):
        assert score == pytest.approx(wanted.pop(row), rel=1e-6)
        assert all(score >= np.float32(rest) for rest in wanted.values())
      last = ranking.scores[0][len(listed) - 1] if listed else 0
      ties = sum(np.float32(rest) == last for rest in wanted.values())
      assert ranking.tail_ties[0] == ties


def test_identical_texts_keep_the_same_score_at_the_end_of_a_list():
  # Rows 4 and 5 tie, and a list of two places would show only the first.
  members = [
    Scored("a", [9, 0, 0, 0, 5, 5, 0, 0, 0, 0, 0, 0]),
    Scored("b", range(ITEMS)),
  ]
  fused = fuse.Fused(members, settings=fuse.Fusion(places=2))
  ranking = fused.recommend([np.array([1])], depth=2, rules=["all"])["all"]
  assert ranking.items.tolist() == [[0, 11]]
  assert ranking.tail_ties.tolist() == [0]


def test_a_member_that_is_sure_of_its_first_is_heard_by_scores():
  sure = Scored("sure", [50, 4, 3, 2, 1, 0, 0, 0, 0, 0, 0, 0])
  unsure = Scored("unsure", [7.0, 9.0, 8.9, 8.8, *range(8)])
  request = {"depth": 1, "rules": ["all"]}
  first = {
    by: fuse.Fused([sure, unsure], settings=fuse.Fusion(by=by))
    .recommend([np.array([11])], **request)["all"]
    .items[0, 0]
    for by in ("ranks", "scores")
  }
  assert first == {"ranks": 1, "scores": 0}


def test_weights_count():
  members = [
    Scored("a", np.arange(ITEMS)),
    Scored("b", -np.arange(ITEMS)),
  ]
  even = fuse.Fused(members, settings=fuse.Fusion(by="ranks"))
  first = fuse.Fused(
    members, settings=fuse.Fusion(by="ranks", weights=(2.0, 1.0))
  )
  request = {"depth": 1, "rules": ["all"]}
  assert even.recommend([np.array([1])], **request)["all"].tail_ties[0] == 1
  assert first.recommend([np.array([1])], **request)["all"].items[0, 0] == 11
  assert "2 x a + b" in first.describe()
  assert isinstance(first, protocol.Recommender)


@pytest.mark.parametrize(
  ("setting", "message"),
  [
    ({"k": -1.0}, r"Fusion\.k"),
    ({"by": "rank"}, r"Fusion\.by"),
    ({"places": 0}, r"Fusion\.places"),
    ({"users": 0}, r"Fusion\.users"),
    ({"weights": (1.0, 0.0)}, r"Fusion\.weights"),
    ({"members": ("dense",)}, r"Fusion\.members"),
    ({"members": "dense"}, r"Fusion\.members"),
  ],
)
def test_settings_are_checked(setting, message):
  with pytest.raises(ValueError, match=message):
    fuse.Fusion(**setting)


def test_members_and_weights_have_to_fit():
  one = Scored("a", np.arange(ITEMS))
  with pytest.raises(ValueError, match="two recommenders"):
    fuse.Fused([one])
  with pytest.raises(ValueError, match=r"Fusion\.weights"):
    fuse.Fused([one, one], settings=fuse.Fusion(weights=(1.0,)))
  with pytest.raises(ValueError, match=r"'runs/other'.*not given"):
    fuse.Fused([one, one], settings=fuse.Fusion(weights="runs/other"))


def test_a_fusion_names_its_members_and_where_their_weights_are_from():
  members = [Scored(name, range(ITEMS)) for name in "ab"]

  def details(chosen=None, **settings):
    settings = fuse.Fusion(**settings)
    return fuse.Fused(members, settings=settings, chosen=chosen).details()

  equal = [{"name": "a", "weight": 1.0}, {"name": "b", "weight": 1.0}]
  assert details() == {"weights": "equal", "members": equal}
  given = details(weights=(2.0, 0.5))
  assert given["weights"] == "given"
  assert [member["weight"] for member in given["members"]] == [2.0, 0.5]
  unmeasured = details(fuse.Chosen((1.0, 0.0), "chosen by 9 users"))
  assert unmeasured["weights"] == "chosen by 9 users"
  assert unmeasured["members"][1] == {"name": "b", "weight": 0.0}
  assert "chosen_by" not in unmeasured


def test_a_fusion_says_what_was_measured_of_its_members():
  low, mean = Interval(0.2, 0.1, 0.3), Interval(0.5, 0.4, 0.6)
  measured = Measured(
    9, mean, (mean, low), (Interval(0.0, 0.0, 0.0), low), (low, None)
  )
  fused = fuse.Fused(
    [Scored(name, range(ITEMS)) for name in "ab"],
    chosen=fuse.Chosen((2.0, 0.0), "chosen by 9 users", measured),
  )
  found = json.loads(json.dumps(fused.details()))
  assert found["chosen_by"] == {
    "split": "validation",
    "users": 9,
    "candidates": "not_last",
    "metric": "ndcg@10",
    "value": {"value": 0.5, "low": 0.4, "high": 0.6},
  }
  first, second = found["members"]
  assert (first["name"], first["weight"]) == ("a", 2.0)
  assert first["brings"] == {"value": 0.2, "low": 0.1, "high": 0.3}
  assert (second["name"], second["weight"], second["brings"]) == ("b", 0, None)
  assert second["alone"] == second["ahead"] == first["brings"]
