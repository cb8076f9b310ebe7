"""Who is answered by `calrec infer`, and from what."""

import pytest

from calrec_jax.data import building
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.dataset import Dataset
from calrec_jax.data.vocabulary.trained import TrainedSentencePiece
from calrec_jax.recommend import requests
from tests.fixtures import kinds_toys, small_logs
from tests.unit.data.cache.test_everybody import CORE, LATE, OTHERS, TEMPORAL

ALL = "abcabcabc"


@pytest.fixture(scope="module", params=["leave_one_out", "global_temporal"])
def shop(request, tmp_path_factory):
  temporal = request.param == "global_temporal"
  return small_logs.build(
    tmp_path_factory.mktemp("shop"),
    [*CORE, *LATE, *OTHERS],
    ["a", "b", "c", "rare"],
    **(TEMPORAL if temporal else {}),
  )


def answered(shop, *users):
  found = requests.of_log(shop.cache, list(users) or None)
  return {
    request.user_id: ("".join(shop.ids(request.items)), request.reason)
    for request in found
  }


def test_everybody_is_answered_from_all_that_can_be_used(shop):
  below = (
    "below the core: {} events, {} of them used; the k-core has users with 5 "
    "(Domain.min_count)"
  )
  assert answered(shop) == {
    **{f"u{user}": (ALL, None) for user in range(5)},
    "late": (ALL, None),
    "twice": ("ab", below.format(2, 2)),
    "mixed": ("c", below.format(2, 1)),
    "rare": (
      "",
      "no known item: the catalogue holds no item of 1 events",
    ),
    "unknown": (
      "",
      "no known item: no event can be used; `calrec data card` counts the bad "
      "rows",
    ),
  }


def test_requested_users_are_answered_in_their_order(shop):
  assert list(answered(shop, "twice", "u3")) == ["twice", "u3"]


def test_somebody_who_is_not_in_the_log_gets_a_request_and_a_warning(
  shop, capsys
):
  assert answered(shop, "lat") == {"lat": ("", "not in the log")}
  said = capsys.readouterr().err
  assert said == "--user=lat: not in the log. Did you mean 'late'?\n"


def test_reasons_are_counted_by_their_kind():
  reasons = ["below the core: 2 events", "not in the log", "below the core: 3"]
  assert requests.summary(reasons, 1200) == (
    "3 of 1,200 answers have a reason: 2 below the core, 1 not in the log"
  )
  assert requests.summary([], 7) == ""


def test_who_only_looked_is_told_that_a_target_is_missing(tmp_path):
  rows = kinds_toys.rows(users=6, visits=4)
  looks = tuple(("looker", item, kinds_toys.VIEW) for item in (1, 2, 3, 4))
  dataset = Dataset(
    domains=[kinds_toys.domain(kinds_toys.Log((*rows, *looks)), min_count=3)],
    vocabulary=TrainedSentencePiece(size=320),
    data_dir=str(tmp_path),
  )
  [path] = building.build(dataset, "toys", progress=False).values()
  cache = TokenCache.open(path)
  [request] = requests.of_log(cache, ["looker"])
  assert request.reason == (
    "below the core: 4 events, 3 of them used; the k-core has users with 3 "
    "(Domain.min_count), of which one may be a target"
  )
