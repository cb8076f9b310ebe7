"""Checks of settings, and the nearest name."""

import dataclasses
import math

import pytest

from calrec_jax import errors


@dataclasses.dataclass(frozen=True)
class Settings:
  value: object

  def check(self, rule):
    errors.check(self, value=rule)


@pytest.mark.parametrize(
  ("rule", "allowed", "refused", "wanted"),
  [
    (errors.at_least(1), (1, 2.5), (0, math.nan, "3", None), "at least 1"),
    (errors.above(0), (0.1,), (0, math.nan), "above 0"),
    (errors.integer(1), (1, 7), (0, 1.0, True), "a whole number, at least 1"),
    (errors.integer(0, below=4), (3,), (4,), "at least 0 and below 4"),
    (errors.within("[0, 1)"), (0, 0.5), (1, -0.1), "in [0, 1)"),
    (errors.within("(0, 1]"), (1, 0.5), (0,), "in (0, 1]"),
    (errors.one_of("a", "b"), ("a",), ("c", ["a"]), "one of 'a', 'b'"),
    (errors.some_of("a", "b"), (["a"], ("b", "a")), ((), "a", ["c"], 3), "'b'"),
    (errors.optional(errors.at_least(1)), (None, 1), (0,), "or None"),
  ],
)
def test_rules(rule, allowed, refused, wanted):
  for value in allowed:
    Settings(value).check(rule)
  for value in refused:
    with pytest.raises(errors.InputError) as raised:
      Settings(value).check(rule)
    message = str(raised.value)
    assert message.startswith(f"Settings.value = {value!r}: must be ")
    assert message.endswith(f"{wanted}.")


def test_nearest_name_in_any_case():
  assert errors.nearest("TRIAN", ["train", "eval"]) == " Did you mean 'train'?"
  assert errors.nearest("x", ["train"]) == ""
