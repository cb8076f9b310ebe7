"""Filled-up lists against a loop, their ties, and who fills them up."""

import numpy as np
import pytest

from calrec_jax.recommend import candidates, protocol
from calrec_jax.recommend.fuse.fallback import WithFallback

ITEMS = 14


class Listed(protocol.Recommender):
  """A recommender that lists and scores some items, the same for everybody."""

  num_items = ITEMS

  def __init__(self, name, scores):
    self.name, self.scores, self.calls = name, dict(scores), []

  def describe(self):
    return f"the list {self.name}"

  def _score(self, request):
    users = len(request.histories)
    self.calls.append((users, request.depth))
    items = [np.array(list(self.scores), int)] * users
    scores = [np.array(list(self.scores.values()), np.float32)] * users
    return protocol.Listed(items, scores)


def loop_groups(members, excluded):
  """Groups of tied candidates, best first, one member after another."""
  groups, taken = [], set(excluded)
  for member in members:
    left = {r: s for r, s in member.scores.items() if r not in taken}
    for score in sorted(set(left.values()), reverse=True):
      groups.append(sorted(row for row in left if left[row] == score))
    taken |= set(left)
  return groups


@pytest.mark.parametrize("depth", [1, 3, 6, 20])
def test_equals_a_plain_loop(depth):
  draw = np.random.default_rng(depth)
  for _ in range(60):
    members = []
    for name, count in zip("abc", (3, 6, ITEMS), strict=True):
      rows = draw.choice(ITEMS, draw.integers(0, count + 1), replace=False)
      values = draw.integers(-3, 3, len(rows)) * draw.choice([1.0, 1e-3, 1e9])
      members.append(Listed(name, zip(rows.tolist(), values, strict=True)))
    history = draw.integers(0, ITEMS, 3)
    rankings = WithFallback(members).recommend(
      [history], depth=depth, rules=candidates.RULES
    )
    for rule in candidates.RULES:
      excluded = candidates.exclusions([history], rule)[0].tolist()
      groups = loop_groups(members, excluded)
      order = [row for group in groups for row in group]
      ranking = rankings[rule]
      listed = ranking.items[0][ranking.items[0] >= 0].tolist()
      assert listed == order[:depth]
      scores = ranking.scores[0, : len(listed)]
      assert np.all(np.isfinite(scores))
      of = {row: place for place, group in enumerate(groups) for row in group}
      for place in range(1, len(listed)):
        tied = of[listed[place - 1]] == of[listed[place]]
        step = scores[place - 1] - scores[place]
        assert step == 0 if tied else step > 0
      beyond = [of[row] for row in order[depth:]]
      ties = beyond.count(of[listed[-1]]) if listed else 0
      assert ranking.tail_ties[0] == ties


def test_a_full_list_needs_no_other_recommender():
  first = Listed("a", {2: 5.0, 3: 5.0, 4: 1.0})
  other = Listed("b", {0: 1.0})
  model = WithFallback([first, other])
  request = {"depth": 2, "rules": ["not_last"]}
  wanted = first.recommend([np.array([0])], **request)["not_last"]
  found = model.recommend([np.array([0])], **request)["not_last"]
  for one, many in zip(found, wanted, strict=True):
    np.testing.assert_array_equal(one, many)
  assert not other.calls
  # Without item 2 the second user's list is short, and only that one.
  model.recommend([np.array([0]), np.array([2])], depth=3, rules=["not_last"])
  assert other.calls == [(1, 3)]


def test_a_long_tie_is_followed_only_as_far_as_it_is_unclear():
  first = Listed("a", {13: 1.0})
  other = Listed("b", {row: 0.0 for row in range(ITEMS)})
  ranking = WithFallback([first, other]).recommend(
    [np.array([0])], depth=3, rules=["all"]
  )["all"]
  assert ranking.items.tolist() == [[13, 0, 1]]
  assert ranking.tail_ties.tolist() == [ITEMS - 3]
  assert [depth for _, depth in other.calls] == [3, 6, 12, 24]


def test_it_tells_what_the_first_one_tells():
  first, other = Listed("a", {}), Listed("b", {1: 0.0})
  model = WithFallback([first, other])
  assert isinstance(model, protocol.Recommender)
  assert model.name == "a"
  assert model.describe() == "the list a; short lists filled up by b"
  assert model.explain(3) is None
  first.explain = lambda place: [{"text": str(place)}]
  assert model.explain(3) == [{"text": "3"}]
  first.details = lambda: {"members": ["c", "d"]}
  assert model.details() == {"members": ["c", "d"]}
  other.fingerprint = lambda: {"weights": "abc"}
  other.version = 3
  made_of = model.fingerprint()
  assert list(made_of) == ["a", "b"]
  assert made_of["a"]["fingerprint"] is None
  assert made_of["b"]["fingerprint"] == {"weights": "abc"}
  assert made_of["b"]["version"] == 3
  with pytest.raises(ValueError, match="two recommenders"):
    WithFallback([first])
