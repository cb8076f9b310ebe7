"""The evaluator on toy recommenders: numbers, checks, and invariances."""

import dataclasses

import gin
import numpy as np
import pytest

from calrec_jax.evaluate import Bootstrap, Protocol, evaluate, table
from calrec_jax.evaluate.evaluator import run_recommender
from calrec_jax.evaluate.runs import Block, Call, Run
from calrec_jax.metrics.ranking import Ranking
from calrec_jax.recommend import protocol
from calrec_jax.recommend.baselines import baselines
from tests.fixtures import evaluation_toys as toys

FLOAT = 1e-12
FAST = Bootstrap(resamples=100)


def run(recommenders=None, users=None, items=None, **settings):
  items = items or toys.catalogue(same_text=[(3, 4)])
  recommenders = recommenders or [
    toys.popularity(items),
    toys.by_distance(items),
  ]
  return evaluate(
    recommenders,
    users or toys.histories(),
    items,
    protocol=Protocol(**{"bootstrap": FAST, **settings}),
    progress=False,
  )


def loop_rank(scores, target, excluded):
  if target in excluded:
    return np.inf
  rows = [row for row in range(len(scores)) if row not in excluded]
  greater = sum(scores[row] > scores[target] for row in rows)
  equal = sum(scores[row] == scores[target] for row in rows)
  return greater + (equal + 1) / 2


def test_ranks_equal_a_loop_under_every_rule():
  users = toys.histories()
  results = run(users=users)
  for rule, out in {
    "all": lambda items: [],
    "not_last": lambda items: items[-1:].tolist(),
    "not_seen": lambda items: items.tolist(),
  }.items():
    expected = [
      loop_rank(-np.abs(np.arange(40) - u.items[-1]), u.target, out(u.items))
      for u in users
    ]
    np.testing.assert_array_equal(results.ranks["near"][rule], expected)
  found = results.recommenders["near"]
  by_hand = np.mean(results.ranks["near"]["not_last"] <= 10)
  assert abs(found["metrics"]["recall@10"]["value"] - by_hand) < FLOAT
  assert found["metrics"] == found["candidates"]["not_last"]["metrics"]


@pytest.mark.parametrize("batch_users", [1, 7, 30, 64])
def test_the_batch_size_changes_no_number(batch_users):
  # Few cases, so that the pool they come from is a part of the users.
  whole = run(batch_users=30, num_cases=1)
  parts = run(batch_users=batch_users, num_cases=1)
  for name, entry in parts.recommenders.items():
    other = whole.recommenders[name]
    for key in ("metrics", "candidates", "slices", "difference"):
      assert entry[key] == other[key]
    for rule in ("all", "not_last", "not_seen"):
      np.testing.assert_array_equal(
        parts.ranks[name][rule], whole.ranks[name][rule]
      )
    for key, value in entry["validity"].items():
      assert abs(value - other["validity"][key]) < FLOAT
  assert parts.protocol == whole.protocol
  assert parts.cases == whole.cases


def test_excluded_targets_are_misses_and_counted():
  users = [
    toys.history(0, [1, 2], 2),  # The last item: no candidate by default.
    toys.history(1, [1, 2], 1),  # Seen, but not the last.
    toys.history(2, [1, 2], 3),
    toys.history(3, [], 3),
  ]
  items = toys.catalogue()
  results = run([toys.popularity(items)], users=users, items=items)
  assert results.protocol["excluded_targets"] == {
    "all": 0,
    "not_last": 1,
    "not_seen": 2,
  }
  ranks = results.ranks["popularity"]
  assert ranks["all"][:2].tolist() == [3, 2]
  assert ranks["not_last"][:2].tolist() == [np.inf, 2]
  assert ranks["not_seen"][:2].tolist() == [np.inf, np.inf]


def test_the_difference_is_paired_and_zero_to_itself():
  found = run().recommenders
  own = found["popularity"]["difference"]
  assert own["to"] == "popularity"
  assert own["metrics"]["ndcg@10"] == {"value": 0.0, "low": 0.0, "high": 0.0}
  difference = found["near"]["difference"]["metrics"]["ndcg@10"]["value"]
  values = [found[n]["metrics"]["ndcg@10"]["value"] for n in found]
  assert abs(difference - (values[1] - values[0])) < FLOAT


def test_slices_add_up_to_the_whole():
  found = run().recommenders["near"]
  for buckets in found["slices"].values():
    assert sum(bucket["users"] for bucket in buckets.values()) == 30
    total = sum(
      bucket["users"] * bucket["recall@10"]["value"]
      for bucket in buckets.values()
      if bucket["users"]
    )
    assert abs(total / 30 - found["metrics"]["recall@10"]["value"]) < FLOAT
    for bucket in buckets.values():
      assert (bucket["recall@10"]["low"] is None) == (bucket["users"] == 0)


def test_coverage_counts_items_of_the_first_ten_places():
  items = toys.catalogue()
  found = run([toys.popularity(items)], items=items).recommenders["popularity"]
  # Everybody sees the ten most popular, or eleven where one is the last item.
  lasts = {int(user.items[-1]) for user in toys.histories()}
  expected = (10 + any(last < 10 for last in lasts)) / 40
  assert found["metrics"]["coverage@10"]["value"] == expected


def test_text_hits_count_identical_texts():
  users = [toys.history(0, [5], 3)]
  results = run(
    users=users,
    metrics=("ndcg@10", "recall@10", "recall@10_text", "recall@1_text"),
    num_cases=0,
  )
  found = results.recommenders["near"]["metrics"]
  # 4 and 6 tie at distance 1; 4 has the text of 3: first at rank 1.5.
  assert results.text_ranks["near"]["not_last"][0] == 1.5
  assert found["recall@10_text"]["value"] == 1.0
  assert found["recall@1_text"]["value"] == 0.0
  assert results.protocol["items_with_text_twins"] == 2


def test_cost_leaves_the_compiling_calls_out():
  block = Block.begin(40, ("all",))
  block.calls = [
    Call(10.0, 10, first=True),
    Call(1.0, 10, first=False),
    Call(8.0, 10, first=True),  # Of another process.
    Call(1.0, 10, first=False),
  ]
  run = Run("x", "", block)
  assert run.cost() == {
    "users_per_second": 10.0,
    "first_batch_seconds": 10.0,
    "seconds": 20.0,
    "batch_users": 10,
  }


@pytest.mark.parametrize("batch_users", [7, 30])
def test_a_curve_has_every_metric_at_every_value(batch_users):
  items = toys.catalogue(same_text=[(3, 4)])
  found = run(
    [toys.Nearby(items), toys.popularity(items)],
    items=items,
    batch_users=batch_users,
  ).recommenders
  assert "curve" not in found["popularity"]
  curve = found["nearby"]["curve"]
  assert curve["setting"] == "samples"
  assert [point["value"] for point in curve["points"]] == [1, 2, 4]
  # With another number of samples it is another recommender.
  for point in curve["points"]:
    alone = run([toys.Nearby(items, samples=point["value"])], items=items)
    metrics = dict(alone.recommenders["nearby"]["metrics"])
    del metrics["coverage@10"]
    assert point["metrics"] == metrics


@pytest.mark.parametrize(
  ("values", "said"),
  [
    ((), "at least one"),
    ((2, 1), "ascending"),
    ((1, 99), "broken, samples 99"),
  ],
)
def test_a_broken_curve_is_refused(values, said):
  class Broken(toys.Nearby):
    name = "broken"

    def recommend_curve(self, histories, *, depth, rules):
      curve = super().recommend_curve(histories, depth=depth, rules=rules)
      wrong = {
        rule: r._replace(scores=-r.scores)
        for rule, r in curve.rankings[1].items()
      }
      known = {1: curve.rankings[1], 2: curve.rankings[2], 99: wrong}
      return protocol.Curve("samples", {v: known[v] for v in values})

  with pytest.raises(ValueError, match=said):
    run([Broken(toys.catalogue())])


def test_validity_of_every_user_does_not_depend_on_the_batches():
  class Telling(toys.Writer):
    def validity(self):
      return {"fraction": [1 / (1 + len(items)) for items in self.last]}

  def fraction(batch_users):
    writer = Telling("telling", lambda items: np.arange(40))
    found = run([writer], batch_users=batch_users)
    return found.recommenders["telling"]["validity"]["fraction"]

  expected = np.mean([1 / (1 + len(u.items)) for u in toys.histories()])
  assert abs(fraction(30) - expected) < FLOAT
  assert fraction(1) == fraction(7) == fraction(30)


def test_validity_of_other_users_is_refused():
  class Telling(toys.Writer):
    def validity(self):
      return {"fraction": [0.5, 0.5]}

  with pytest.raises(ValueError, match="one for each of the 30 users"):
    run([Telling("telling", lambda items: np.arange(40))])


def test_cases_show_hits_and_misses_with_their_texts():
  results = run(num_cases=4)
  ranks = results.ranks["near"]["not_last"]
  by_user = dict(zip(results.users["user_id"], ranks, strict=True))
  assert len(results.cases) == 4
  assert [by_user[case["user_id"]] <= 10 for case in results.cases] == [
    True,
    True,
    False,
    False,
  ]
  first = results.cases[0]["recommenders"][0]
  assert first["name"] == "near"  # It explains itself, so it comes first.
  assert first["rank"] == by_user[results.cases[0]["user_id"]]
  assert [text["samples"] for text in first["texts"]] == [2, 1]
  assert first["texts"][0]["probability"] == pytest.approx(np.exp(-0.5))
  matches = [item["match"] for item in first["items"]]
  assert matches.count("target") == 1


def break_ranking(change):
  """A recommender that is right but for one thing."""

  class Broken(toys.Scorer):
    def recommend(self, histories, *, depth, rules):
      answer = super().recommend(histories, depth=depth, rules=rules)
      answer["not_last"] = change(answer["not_last"], histories)
      return answer

  return Broken("broken", lambda items: np.arange(40)[::-1])


def with_items(ranking, place, value):
  items = ranking.items.copy()
  items[0, place] = value
  return ranking._replace(items=items)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda r, h: r._replace(items=r.items[:, :5]), "shape"),
    (lambda r, h: Ranking(r.items[:, 1:], r.scores[:, 1:], r.tail_ties), "99"),
    (lambda r, h: with_items(r, 1, r.items[0, 0]), "twice"),
    (lambda r, h: with_items(r, 0, 40), "beyond the 40 items"),
    (lambda r, h: with_items(r, 3, -1), "empty position"),
    (lambda r, h: r._replace(scores=-r.scores), "not sorted"),
    (lambda r, h: r._replace(scores=r.scores * np.nan), "not numbers"),
    (lambda r, h: r._replace(tail_ties=r.tail_ties + 1), "not full"),
    (lambda r, h: with_items(r, 38, h[0][-1]), "the rule excludes"),
  ],
)
def test_broken_answers_are_refused(change, message):
  with pytest.raises(ValueError, match=f"'broken'.*'not_last'.*{message}"):
    run([break_ranking(change)])


def test_a_missing_rule_is_refused():
  class Lazy(toys.Scorer):
    def recommend(self, histories, *, depth, rules):
      return super().recommend(histories, depth=depth, rules=rules[:1])

  with pytest.raises(ValueError, match="'not_last' is missing"):
    run([Lazy("lazy", lambda items: np.arange(40))])


def test_wrong_users_are_refused():
  with pytest.raises(ValueError, match="no users"):
    evaluate([], [], toys.catalogue(), progress=False)
  with pytest.raises(ValueError, match=r"'u0'.*rows 0 to 39"):
    run(users=[toys.history(0, [1], 40)])
  items = toys.catalogue()
  with pytest.raises(ValueError, match="name of its own"):
    run([toys.popularity(items), toys.popularity(items)], items=items)


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("metrics", ("recall@ten",)),
    ("rules", ("unseen",)),
    ("rules", ()),
    ("rule", "other"),
    ("slice_metrics", ("recall@7",)),
    ("compared", "ndcg@7"),
    ("batch_users", 0),
  ],
)
def test_impossible_settings_name_their_binding(field, value):
  with pytest.raises(ValueError, match=rf"Protocol\.{field}"):
    Protocol(**{field: value})


def test_an_unknown_reference_is_refused():
  with pytest.raises(ValueError, match=r"Protocol\.reference.*'popular'"):
    run(reference="popular")


def test_bars_and_rankings_of_jax_arrays_are_read(capsys):
  jnp = pytest.importorskip("jax.numpy")

  class OnDevice(toys.Scorer):
    def recommend(self, histories, *, depth, rules):
      answer = super().recommend(histories, depth=depth, rules=rules)
      return {
        rule: Ranking(*map(jnp.asarray, ranking))
        for rule, ranking in answer.items()
      }

  items = toys.catalogue()
  scorer = OnDevice("device", lambda rows: items.train_counts)
  results = evaluate(
    [scorer, toys.popularity(items)],
    toys.histories(),
    items,
    protocol=dataclasses.replace(Protocol(), bootstrap=FAST),
  )
  for rule in ("all", "not_last", "not_seen"):
    np.testing.assert_array_equal(
      results.ranks["device"][rule], results.ranks["popularity"][rule]
    )
  assert "popularity" in capsys.readouterr().err


def test_gin_sets_the_protocol_and_its_bootstrap():
  with gin.unlock_config():
    gin.parse_config(
      "Protocol.batch_users = 7\nBootstrap.resamples = 12\n"
      "Protocol.metrics = ['ndcg@10', 'recall@10']"
    )
  try:
    found = Protocol()
  finally:
    gin.clear_config()
  assert (found.batch_users, found.bootstrap.resamples) == (7, 12)
  assert found.depth == 20


def test_the_baselines_of_the_project_follow_the_protocol():
  items = toys.catalogue()
  results = run(
    [
      baselines.Popularity(items.train_counts),
      baselines.LastItem(len(items)),
      baselines.OwnMostFrequent(len(items)),
    ],
    items=items,
  )
  ours = run([toys.popularity(items)], items=items)
  for rule in ("all", "not_last", "not_seen"):
    np.testing.assert_array_equal(
      results.ranks["popularity"][rule], ours.ranks["popularity"][rule]
    )
  # Of items that were seen, nothing is left to repeat.
  found = results.recommenders["last_item"]["candidates"]["not_seen"]
  assert found["metrics"]["recall@50"]["value"] == 0.0


@pytest.mark.parametrize("batch_users", [1, 7, 30])
def test_only_the_sampled_users_are_retained(batch_users):
  items, users = toys.catalogue(), toys.histories()
  found = run_recommender(
    toys.by_distance(items),
    users,
    items,
    Protocol(batch_users=batch_users),
    {8, 20},
    progress=False,
  )
  for user, history in enumerate(users):
    explained = found.explanation(user)
    assert bool(explained) == (user in (8, 20))
    if explained:
      assert explained[0]["items"] == [history.items[-1]]


def test_ties_that_decide_hits_are_in_the_numbers_and_a_note():
  items = toys.catalogue(12)
  # No target is the last item, which is no candidate.
  users = [toys.history(user, [user], user + 1) for user in range(11)]
  constant = toys.Scorer("constant", lambda _: np.zeros(12))
  results = run([constant], users, items)
  ties = results.recommenders["constant"]["ties"]
  # Eleven candidates tie: by the expected rank, 6, all are hits at ten.
  assert results.recommenders["constant"]["metrics"]["recall@10"]["value"] == 1
  assert ties["recall@10"]["users"] == 1
  assert abs(ties["recall@10"]["at_random"] - 10 / 11) < FLOAT
  assert ties["recall@20"] == {"users": 0, "at_random": 1}
  shown = table.format_table(results)
  assert "100% of users: Recall@10 is 1.0000 by the expected rank" in shown
  assert ".9091 if ties were broken at random" in shown
  without = {
    name: {key: value for key, value in entry.items() if key != "ties"}
    for name, entry in results.recommenders.items()
  }
  assert table.tie_notes(without) == []  # As an earlier version wrote them.
