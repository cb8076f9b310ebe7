"""Ids that two files write differently."""

import pyarrow as pa
import pytest

from calrec_jax.data.logs.columns import id_rules


@pytest.mark.parametrize(
  ("unknown", "known", "rules"),
  [
    (["7", "12"], ["007", "012", "100"], ("leading_zeros",)),
    (["tea-1"], ["TEA-1", "MUG-1"], ("case",)),
    (["A 1"], ["A1"], ("blanks",)),
    (["15.0", "16.0"], ["15", "16"], ("decimals",)),
    (["15", "16"], ["15.0", "16.0"], ("decimals",)),
    (["tea 1", "MUG-1"], ["Tea1", "mug-1"], ("case", "blanks")),
    (["15.0"], ["0015"], ("leading_zeros", "decimals")),
    (["tea 1"], ["TEA1"], ("case", "blanks")),
  ],
)
def test_the_rules_that_match(unknown, known, rules):
  found = id_rules.spelling(unknown, known)
  assert found.rules == rules
  assert found.matched == found.unknown == len(unknown)
  assert found.example[0] == unknown[0]
  assert found.example[1] in known
  assert found.merged == 0
  one, other = (
    id_rules.normalise(pa.array(ids, pa.large_string()), found.rules)
    for ids in (unknown, known)
  )
  assert set(one.to_pylist()) <= set(other.to_pylist())
  assert found.binding.startswith("LogFiles.id_rules = (")


def test_ids_that_match_by_no_rule():
  assert id_rules.spelling(["x"], ["y"]) is None
  assert id_rules.spelling([], ["y"]) is None
  assert id_rules.spelling(["x"], []) is None


def test_only_the_rule_that_helps_is_named():
  found = id_rules.spelling(pa.array(["7", "zzz", None]), ["007", "Abc"])
  assert found.rules == ("leading_zeros",)
  assert (found.matched, found.unknown) == (1, 2)


def test_known_ids_that_become_one_are_counted():
  assert id_rules.spelling(["TEA"], ["tea", "Tea", "mug"]).merged == 1


def test_normalise():
  ids = pa.array(["007.0", "A b\u00a0C", "000", None, "1.5"])
  assert id_rules.normalise(ids, id_rules.RULES).to_pylist() == [
    *("7", "abc", "0", None, "1.5")
  ]
  assert id_rules.normalise(ids, ()).equals(ids)


@pytest.mark.parametrize("rules", [("zeros",), "case"])
def test_unknown_rules_are_refused(rules):
  with pytest.raises(ValueError, match=r"LogFiles\.id_rules"):
    id_rules.normalise(pa.array(["a"]), rules)
