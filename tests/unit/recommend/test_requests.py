"""Who is answered by `calrec infer`, and from what."""

import pytest

from calrec_jax.recommend.requests import of_log
from tests.fixtures import synthetic_caches

HISTORIES = ((0, 1, 2), (3, 4), (5, 6, 0, 1), (2,))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
  return synthetic_caches.write(
    tmp_path_factory.mktemp("shop"),
    histories=HISTORIES,
    validated=(0, 2),
    tested=(0,),
  )


def requests(shop, *users):
  found = of_log(shop, list(users) or None)
  return {request.user_id: request.items.tolist() for request in found}


def test_all_users_are_answered_from_all_that_is_known(shop):
  assert requests(shop) == {
    "user-0": [0, 1, 2, 0, 1],
    "user-1": [3, 4],
    "user-2": [5, 6, 0, 1, 0],
    "user-3": [2],
  }


def test_a_user_too_new_to_be_evaluated_is_known(shop):
  assert requests(shop, "user-3") == {"user-3": [2]}
  with pytest.raises(ValueError, match=r"no such user\. Did you mean 'user-3'"):
    requests(shop, "usr-3")
