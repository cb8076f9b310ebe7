"""Chosen weights on disk: chosen once, and used for no other fusion."""

import json

import numpy as np
import pytest

from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.records import History
from calrec_jax.recommend import protocol, registry
from calrec_jax.recommend.fuse import fusion_record
from calrec_jax.recommend.fuse.fuse import Chosen, Fusion
from calrec_jax.recommend.prompts import PromptLimits
from calrec_jax.recommend.trained_model import TrainedModel
from tests.fixtures import recommend_toys as toys
from tests.fixtures import synthetic_caches

ITEMS, USERS = 20, 30
EQUAL = Chosen((1.0, 1.0), "")


class Shifted(protocol.Recommender):
  """Puts the item first that lies `shift` rows after the last one."""

  num_items = ITEMS

  def __init__(self, name, shift):
    self.name, self.shift, self.calls = name, shift, 0

  def describe(self):
    return f"the last item and {self.shift}"

  def _score(self, request):
    self.calls += 1
    histories = request.histories
    scores = np.zeros((len(histories), ITEMS), np.float32)
    last = np.array([history[-1] for history in histories])
    scores[np.arange(len(last)), (last + self.shift) % ITEMS] = 1
    return protocol.FullScores(scores)


class Shop(TokenCache):
  """A domain whose validation users buy the third item after the last."""

  name = "shop"

  def __init__(self, users=USERS):
    self.users = users

  def histories(self, split, limit, seed):
    assert split == "validation"
    return [
      History(
        str(user),
        np.array([user % ITEMS], np.int32),
        (user + 3) % ITEMS,
        np.zeros(2, np.int64),
      )
      for user in range(min(self.users, limit))
    ]


def members(shift=3):
  return [Shifted("right", shift), Shifted("wrong", 5)]


def chosen(folder, given, settings=None, cache=None, **origin):
  return fusion_record.chosen(
    given,
    settings or Fusion(),
    cache or Shop(),
    folder=folder / "fusion",
    origin=origin,
  )


def test_validation_users_are_queried_once(tmp_path):
  first, again = members(), members()
  found = chosen(tmp_path, first)
  assert found.weights[0] > found.weights[1]
  assert found.how == "chosen by 30 validation users"
  assert chosen(tmp_path, again) == found
  assert [member.calls for member in first + again] == [1, 1, 0, 0]


@pytest.mark.parametrize(
  "change",
  [
    {"given": members(4)},
    {"settings": Fusion(places=7)},
    {"settings": Fusion(users=9)},
    {"checkpoint": "another"},
  ],
)
def test_another_fusion_queries_again(tmp_path, change):
  chosen(tmp_path, members())
  given = change.pop("given", None) or members()
  chosen(tmp_path, given, **change)
  assert given[0].calls == 1
  assert len(list((tmp_path / "fusion").glob("shop-*.json"))) == 2


@pytest.mark.parametrize("text", ["", "{}", '{"weights": [1.0]}', "[1, 1]"])
def test_a_record_that_cannot_be_read_is_written_again(tmp_path, text):
  found = chosen(tmp_path, members())
  [record] = (tmp_path / "fusion").iterdir()
  whole = record.read_text()
  record.write_text(text)
  assert chosen(tmp_path, members()) == found
  assert record.read_text() == whole


def test_a_folder_that_takes_no_files_is_no_failure(tmp_path, capsys):
  (tmp_path / "fusion").write_text("a file")
  assert chosen(tmp_path, members()).weights[0] > 0
  assert "are not saved" in capsys.readouterr().err


def test_without_validation_users_weights_are_equal(tmp_path):
  found = chosen(tmp_path, members(), cache=Shop(users=0))
  assert found.weights == (1.0, 1.0)
  assert "no validation users" in found.how
  assert not (tmp_path / "fusion").exists()


def test_what_members_bring_is_saved_with_the_weights(tmp_path):
  found = chosen(tmp_path, members()).measured
  assert found.users == USERS
  assert found.value.value == found.alone[0].value == 1.0
  assert found.brings[0].value == 1.0
  [record] = (tmp_path / "fusion").iterdir()
  saved = json.loads(record.read_text())
  assert saved["fusion"] == found.value._asdict()
  assert saved["measured"] == found.of_members()


def as_earlier(record, **made_by):
  """A record as the release before members were measured wrote it."""
  saved = json.loads(record.read_text())
  del saved["measured"]
  saved["ndcg@10"] = saved.pop("fusion")["value"]
  saved["made_by"] |= {"choice": 1, **made_by}
  record.with_name("shop-0123456789abcdef.json").write_text(json.dumps(saved))
  record.unlink()


def test_an_earlier_record_is_still_a_stage_s_choice(tmp_path):
  found = chosen(tmp_path, members())
  [record] = (tmp_path / "fusion").iterdir()
  as_earlier(record)
  taken = of_stage(tmp_path)
  assert taken.weights == found.weights
  assert taken.measured is None


def test_what_an_earlier_search_chose_gives_way(tmp_path):
  chosen(tmp_path, members(4))
  [record] = (tmp_path / "fusion").iterdir()
  as_earlier(record)
  given = members()
  found = chosen(tmp_path, given)
  assert given[0].calls == 1
  assert found.weights != (1.0, 1.0)
  assert of_stage(tmp_path).weights == found.weights


@pytest.mark.parametrize("part", [None, 3, [{"alone": 1}], "none", []])
def test_a_record_of_no_such_measures_is_written_again(tmp_path, part):
  found = chosen(tmp_path, members())
  [record] = (tmp_path / "fusion").iterdir()
  whole = record.read_text()
  record.write_text(json.dumps({**json.loads(whole), "measured": part}))
  assert chosen(tmp_path, members()) == found
  assert record.read_text() == whole


def test_users_without_a_history_are_not_queried(tmp_path):
  shop = Shop()
  newcomer = History("new", np.zeros(0, np.int32), 4, np.zeros(1, np.int64))
  users = shop.histories("validation", USERS, 0)
  shop.histories = lambda split, limit, seed: [newcomer, *users]
  assert "30 validation users" in chosen(tmp_path, members(), cache=shop).how


def of_stage(stage, domain="shop", names=("right", "wrong"), **settings):
  return fusion_record.of_stage(stage, domain, names, Fusion(**settings))


def test_another_stage_s_weights_are_taken(tmp_path):
  found = chosen(tmp_path, members())
  taken = of_stage(tmp_path)
  assert taken.weights == found.weights != (1.0, 1.0)
  assert taken.how == f"chosen by 30 validation users for {tmp_path}"
  # Chosen again by another program, to the same end.
  chosen(tmp_path, members(), checkpoint="another")
  assert of_stage(tmp_path).weights == found.weights


@pytest.mark.parametrize(
  "other",
  [
    {"domain": "sho"},
    {"domain": "shop-2"},
    {"names": ("wrong", "right")},
    {"names": ("right", "wrong", "third")},
    {"by": "ranks"},
    {"places": 7},
  ],
)
def test_weights_of_another_fusion_are_refused(tmp_path, other):
  chosen(tmp_path, members())
  with pytest.raises(ValueError, match=r"holds no weights .*calrec eval"):
    of_stage(tmp_path, **other)
  with pytest.raises(ValueError, match="holds no weights"):
    of_stage(tmp_path / "elsewhere")


def test_weights_that_differ_are_not_chosen_from(tmp_path):
  chosen(tmp_path, members())
  chosen(tmp_path, members(4))  # No member is right: equal ones.
  with pytest.raises(ValueError, match=r"different ones .*1\.0, 1\.0"):
    of_stage(tmp_path)


def test_targets_that_were_trained_on_choose_nothing(tmp_path):
  lineage = {"training": {"feed": {"Feed.split": "validation"}}}
  model = toys.stand_in(
    TrainedModel, lineage=lineage, checkpoint=tmp_path / "checkpoint_1"
  )
  cache = toys.stand_in(
    TokenCache, catalogue=toys.catalogue(), purchases=list, name="shop"
  )
  limits = PromptLimits(max_tokens=64)
  factory = registry.RecommenderFactory(cache, model, limits, toys.mesh())
  with pytest.raises(ValueError, match=r"'dense' was .*Fusion\.weights"):
    factory._chosen_weights(Fusion(members=("last_item", "dense")))


def test_members_that_choose_have_not_counted_the_targets(
  tmp_path, monkeypatch
):
  shop = synthetic_caches.write(tmp_path, tested=(0, 1, 2))
  model = toys.stand_in(
    TrainedModel, lineage={}, checkpoint=tmp_path / "checkpoint_1"
  )
  chosen_from = []
  monkeypatch.setattr(registry.provenance, "of_answers", lambda *_: {})
  monkeypatch.setattr(
    registry.fusion_record,
    "chosen",
    lambda members, *_, **__: chosen_from.extend(members) or EQUAL,
  )
  factory = registry.RecommenderFactory(
    shop,
    model,
    PromptLimits(max_tokens=64),
    toys.mesh(),
    counted="train+validation+test",
  )
  names = ("popularity", "sequential_rules")
  factory._chosen_weights(Fusion(members=names))
  for found, answering in zip(chosen_from, factory.make(names), strict=True):
    assert found.name == answering.name
    assert found.describe() != answering.describe()
  assert "9 purchases" in chosen_from[0].describe()
