"""What columns look like by their values."""

import pyarrow as pa
import pytest

from calrec_jax.data.logs.guessing import profile


def one(name, values):
  return profile.profiles(pa.table({name: values}))[name]


@pytest.mark.parametrize(
  ("name", "values", "expected"),
  [
    ("event", ["view", "addtocart", "transaction"], True),
    ("x", ["pv", "buy", "cart", "fav"], True),
    ("x", ["clicks", "carts", "orders"], True),
    ("status", ["Completed", "Refunded"], True),
    ("event_name", ["alpha", "beta"], True),
    ("x", ["alpha", "beta", "buy"], False),
    (
      "text",
      ["I bought it twice, it is good", "I bought it once or so"],
      False,
    ),
    ("color", ["red", "green"], False),
    ("event", ["purchase"], False),
  ],
)
def test_kinds_of_event(name, values, expected):
  assert bool(one(name, values * 3).kinds()) == expected


@pytest.mark.parametrize(
  ("values", "expected"),
  [
    (["2020-09-13", "2020-09-14"], True),
    ([1_600_000_000, 1_600_000_100], True),
    (["13.09.2020 10:00", "14.09.2020 11:00"], True),
    ([1, 2, 3], False),
    (["9.95", "12.50"], False),
    (["214530001", "214530002"], False),
    (["A1", "B2"], False),
  ],
)
def test_times(values, expected):
  assert (one("x", values).time is not None) == expected


def test_lists_of_ids():
  assert one("x", ["N551 N552 N553 N554", "N551 N559 N553 N777 N1"]).is_lists
  assert not one("x", ["A very good tea", "Two bags of it, loose"]).is_lists


def test_grades():
  assert one("x", [1, 2, 3, 4, 5, 5, 4]).is_grades()
  assert not one("x", [1, 1, 1, 2, 3, 1]).is_grades()  # Counts.
  assert not one("x", [0, 1, 0, 1]).is_grades()


def test_descriptions_say_the_same_of_an_item():
  table = pa.table(
    {
      "item": ["a", "b", "a", "b", "a"],
      "title": ["Tea", "Milk", "Tea", "Milk", "Tea"],
      "review": ["good", "bad", "fine", "ok", "so"],
    }
  )
  found = profile.profiles(table)
  assert profile.is_description(found["item"], found["title"])
  assert not profile.is_description(found["item"], found["review"])


def test_values_that_are_written_once():
  table = pa.table(
    {
      "order": ["1", "1", "2", "3", "3"],
      "user": ["a", "b", "c", "d", "e"],
      "time": ["x", None, "y", "z", None],
    }
  )
  found = profile.profiles(table)
  assert profile.written_once(found["time"], found) == "order"
  assert profile.written_once(found["user"], found) is None
  holes = pa.table({"order": ["1", "2", "3"], "time": ["x", None, "y"]})
  found = profile.profiles(holes)
  assert profile.written_once(found["time"], found) is None


def test_a_word_that_seems_to_mean_none():
  users = [f"u{n}" for n in range(6)] + ["guest"] * 4
  assert one("user", users).absent == "guest"
  assert one("user", [f"u{n}" for n in range(6)]).absent is None


def test_amounts_have_texts():
  column = one("price", pa.array([1.5, None, 2.0]))
  assert column.texts.to_pylist() == ["1.5", "2"]
  assert column.missing == pytest.approx(1 / 3)
