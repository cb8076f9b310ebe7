"""What a log promises: the numbers of an evaluation, and how they are read."""

import numpy as np
import pytest

from calrec_jax.data import log_sample, records
from calrec_jax.evaluate import evaluator, promise, promise_text
from calrec_jax.metrics.intervals import Bootstrap
from calrec_jax.recommend import registry
from calrec_jax.recommend.prompts import PromptLimits
from tests.fixtures import recommend_toys, small_logs

BOOTSTRAP = Bootstrap(resamples=300)


def sample(baskets, texts, known=None, **more):
  """A log of users' items, oldest first; the last one is the target.

  Args:
    baskets: Items of each user.
    texts: Texts of the items.
    known: Items of each user that are known for training; by default all but
      the targets.
    more: Other fields.
  """
  train = [np.array(basket[:-1], np.int32) for basket in baskets]
  known = known or train
  items = np.concatenate(known).astype(np.int32)
  fields = dict(
    name="shop",
    texts=texts,
    histories=[
      records.History(f"u{user}", history, basket[-1])
      for user, (history, basket) in enumerate(zip(train, baskets, strict=True))
    ],
    users=len(baskets),
    counts=np.bincount(items, minlength=len(texts)),
    events=records.Purchases(items, np.cumsum([0, *map(len, known)])),
    train_users=len(baskets),
  )
  return log_sample.LogSample(**{**fields, **more})


def nameless(items):
  """Texts without a word in common."""
  return [f"word{item}" for item in range(items)]


def read(made, **settings):
  found = promise.measure(made, bootstrap=BOOTSTRAP, progress=False, **settings)
  return found, " ".join(promise_text.read(found))


def in_order(users=300, items=40):
  """Everybody goes on from item to item in the same order."""
  generator = np.random.default_rng(0)
  return [
    [(int(first) + step) % items for step in range(6)]
    for first in generator.integers(items, size=users)
  ]


def by_subject(users=300, subjects=60, of_each=20):
  """A user buys items of one subject, in no order, none of them twice."""
  generator = np.random.default_rng(0)
  return [
    (user % subjects * of_each + generator.permutation(of_each)[:5]).tolist()
    for user in range(users)
  ]


def own_items(users=500, items=200, new=0.5):
  """Users buy their three items again; half of the targets are any item."""
  generator = np.random.default_rng(0)
  baskets = []
  for _ in range(users):
    a, b, c, other = generator.permutation(items)[:4].tolist()
    target = other if generator.random() < new else b
    baskets.append([a, b, c, a, b, c, a, target])
  return baskets


def test_numbers_are_those_of_an_evaluation(tmp_path):
  generator = np.random.default_rng(0)
  events = [
    (f"u{user:03}", f"i{generator.integers(30)}", day)
    for user in range(90)
    for day in range(9)
  ]
  shop = small_logs.build(
    tmp_path, events, [f"i{item}" for item in range(30)], min_count=1
  )
  size = log_sample.Size(users=40, scores=10**9, least_users=1, events=10**9)
  made = log_sample.of_cache(shop.cache, "validation", size)
  found = promise.measure(made, rule="all", progress=False)
  names = [promise.REFERENCE, *sum(promise.SIGNALS.values(), ())]
  assert list(found.everybody.values) == names
  factory = registry.RecommenderFactory(
    shop.cache, None, PromptLimits(max_tokens=64), recommend_toys.mesh()
  )
  evaluated = evaluator.evaluate(
    factory.make(names),
    shop.cache.histories("validation", 40, 0),
    shop.cache.catalogue,
    protocol=evaluator.Protocol(
      metrics=promise.METRICS, rules=("all",), rule="all"
    ),
    progress=False,
  )
  for name, entry in evaluated.recommenders.items():
    means = found.everybody.means(name)
    for metric, mean in zip(promise.METRICS, means, strict=True):
      assert mean._asdict() == pytest.approx(entry["metrics"][metric])
  repeated = evaluated.users["target_in_history"]
  assert found.repeated == pytest.approx(np.mean(repeated))
  assert 0 < found.repeated < 1
  assert found.new.users == np.sum(~repeated)


def test_where_order_tells_most():
  found, text = read(sample(in_order(), nameless(40)))
  assert text.startswith("Order tells most (")
  assert "what others bought next" in text
  assert "Words promise little (" in text
  assert "A model of item ids will matter more than one of words." in text
  assert "Repeats tell nothing" in text
  assert found.everybody.ndcg("sequential_rules") > 0.8


def test_where_words_tell_most():
  texts = [f"subject{row // 20} item{row}" for row in range(1200)]
  found, text = read(sample(by_subject(), texts))
  words = found.everybody.best("words")
  assert text.startswith("Words tell most (")
  assert "texts say what goes together" in text
  assert found.everybody.verdict(words, "sequential_rules") == "+"
  assert "A model of words will matter most" in text


def test_where_order_and_words_tell_alike():
  texts = [f"pair{row // 2} item{row}" for row in range(40)]
  pairs = [[user % 20 * 2, user % 20 * 2 + 1] for user in range(300)]
  # Nobody has bought anything after anything: there is no rule.
  _, text = read(sample(pairs, texts))
  assert text.startswith("Words tell most (")
  assert "Order promises little (.0000, no more than popularity)." in text
  _, text = read(sample(pairs, texts, known=pairs))
  assert text.startswith(
    "Order and words tell most, about equally (1.0000 and "
  )
  assert "both have much to learn" in text


def test_where_repeats_tell_most():
  found, text = read(sample(own_items(), nameless(200)))
  assert text.startswith("Repeats tell most (")
  share = np.mean([basket[-1] in basket[:-1] for basket in own_items()])
  assert f"{share:.1%} of the targets were in the user's history" in text
  # A text is like itself and rules lead back, but neither knows a new item.
  assert found.everybody.verdict("bm25_history") == "+"
  assert found.everybody.verdict("sequential_rules") == "+"
  assert "Where they were not, neither order nor words tell more" in text
  assert "both have little to learn from" in text


def test_repeats_do_not_count_where_they_are_no_candidates():
  found, text = read(sample(own_items(), nameless(200)), rule="not_seen")
  assert found.everybody.ndcg("own_most_frequent") == 0
  assert text.endswith("Repeats are no candidates (CANDIDATES = 'not_seen').")


def test_what_is_found_alone():
  hit, miss = [1.0, 1.0], [0.0, 0.0]
  found = promise.Measured(
    {
      "popularity": np.array([hit, miss, miss, miss]),
      "bm25_last_item": np.array([hit, hit, hit, miss]),
      "bm25_history": np.array([miss, hit, miss, miss]),
      "sequential_rules": np.array([miss, miss, hit, miss]),
    },
    BOOTSTRAP,
  )
  assert found.found_alone("bm25_last_item") == 1 / 4
  assert found.found_alone("sequential_rules") == 0


def test_few_users_are_said_to_tell_little():
  _, text = read(sample(in_order(users=20), nameless(40)))
  assert text.endswith("But 20 users tell little apart.")


def test_without_words_the_rest_is_measured():
  found, _ = read(sample(in_order(), ["..."] * 40))
  assert {*found.missing} == {*promise.SIGNALS["words"]}
  printed = promise_text.format_promise(found)
  assert "bm25_history is not measured: None of the 40 item texts" in printed
  assert "Order tells most" in printed


def test_obstacles():
  assert promise.obstacle(sample(in_order(), nameless(40))) is None
  one = sample([[0, 0, 0]], ["tea"])
  assert promise.obstacle(one) == "the catalogue has one item"
  made = sample(in_order(), nameless(40))
  made.histories.clear()
  assert "no user has enough events" in promise.obstacle(made)


def test_the_table_says_what_was_sampled():
  found, _ = read(
    sample(in_order(), nameless(40), users=9000, train_users=8000)
  )
  printed = promise_text.format_promise(found)
  assert "300 of 9,000 validation users" in printed
  assert "a sample of 300 of 8,000 users, 1,500 events" in printed
  assert "NDCG@10, new" not in printed
  assert max(map(len, printed.splitlines())) <= 100
