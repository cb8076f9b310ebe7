"""Cards as text: what is said first, what was left out, and many files."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec_jax.data.domain import card as card_lib
from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.logs.log_files import LogFiles

HEADER = "user_id,item_id,timestamp,title,quantity\n"
START = 1_700_000_000


def prepared(source, **options):
  domain = domain_lib.Domain(name="shop", source=source, min_count=1, **options)
  return domain, domain.prepare()


def card_of(source, **options):
  domain, found = prepared(source, **options)
  return card_lib.build_card(
    domain,
    found,
    item_tokens=[np.arange(2) for _ in found.texts],
    vocabulary={"size": 9, "sha256": "0" * 64},
    leakage_checks=[],
  )


@pytest.fixture
def parts(tmp_path):
  """Fifteen parts of a log; the last has a bad row."""
  for part in range(15):
    rows = "".join(
      f"u{user},i{item},{START + 10 * part + item},Tea {item},{item}\n"
      for user in range(2)
      for item in range(3)
    )
    rows += "x,i1\n" if part == 14 else ""
    (tmp_path / f"part-{part}.csv").write_text(HEADER + rows)
  return tmp_path


def test_many_files_are_summed_up(parts):
  card = card_of(LogFiles(interactions=str(parts)))
  assert [row["lines"] for row in card["reading"]] == [7] * 14 + [8]
  assert [row["file"] for row in card["reading"]][:3] == [
    *("part-0.csv", "part-1.csv", "part-2.csv")
  ]
  text = card_lib.render(card)
  assert text.count("  read part-") == 12
  assert "  read 3 more files of 22 lines" in text
  assert text.count("  in   ") == 13
  assert "  in   3 more files" in text
  assert "malformed_row       first at part-14.csv:8" in text


def test_rows_that_a_condition_left_out_are_on_the_card(parts):
  source = LogFiles(interactions=str(parts), where="quantity > 0")
  card = card_of(source)
  assert card["excluded"] == {"quantity > 0": 30}
  text = card_lib.render(card)
  assert "  rows left out by LogFiles.where\n" in text
  assert "           30  quantity > 0\n" in text
  assert "left out" not in card_lib.render(
    card_of(LogFiles(interactions=str(parts)))
  )


def test_a_card_of_an_earlier_release_says_so(parts):
  card = card_of(LogFiles(interactions=str(parts)))
  for name in ("notes", "reading", "times", "excluded"):
    del card[name]
  text = card_lib.render(card)
  assert "made by an earlier release" in text
  assert "  read part-" not in text


EVENTS = st.lists(
  st.tuples(
    st.sampled_from("uv"), st.sampled_from("ab"), st.integers(START, START + 2)
  ),
  min_size=1,
  max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(EVENTS)
def test_duplicates_are_counted_and_the_first_one_is_kept(
  tmp_path_factory, events
):
  path = tmp_path_factory.mktemp("log") / "log.csv"
  rows = "".join(f"{u},{i},{t},Tea {i},1\n" for u, i, t in events)
  path.write_text(HEADER + rows)
  source = LogFiles(interactions=str(path))
  for duplicates, expected in (
    ("drop", [*dict.fromkeys(events)]),
    ("keep", events),
  ):
    _, found = prepared(source, duplicates=duplicates, dedup="none")
    # Those of one time keep their order.
    expected = sorted(expected, key=lambda event: event[2])
    for user in "uv":
      mine = [(i, 1000 * t) for u, i, t in expected if u == user]
      assert [
        (found.item_ids[item], time)
        for row, item, time in zip(
          found.events.users,
          found.events.items,
          found.events.timestamps.tolist(),
          strict=True,
        )
        if found.events.user_ids[row] == user
      ] == mine
    assert found.problems.count("duplicate_event") == len(events) - len(
      expected
    )


def test_ids_are_hashed_as_lines():
  ids = pa.array(["x", "a", "", "\u00e9\nb"], pa.large_string())
  assert card_lib._lines(ids[1:]) == "a\n\n\u00e9\nb\n".encode()
  assert card_lib._lines(ids[:0]) == b""
