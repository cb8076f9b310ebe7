"""Ids as numbers by first appearance, whatever they look like."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec_jax.data.logs.columns import id_codes

NUMBERS = st.integers(0, 30).map(str) | st.integers(0, 2**62).map(str)
ODD = st.sampled_from(
  ["007", "-1", "+2", "a", "1.0", "é", "00", "-0", "0x10", " 3", "1e3"]
)
BLOCKS = st.lists(st.lists(NUMBERS, max_size=8), max_size=6) | st.lists(
  st.lists(NUMBERS | ODD, max_size=8), max_size=6
)


def codes(blocks):
  found = id_codes.IdCodes()
  for block in blocks:
    found.add(pa.array(block, pa.large_string()))
  numbers, ids = found.finish()
  return numbers.tolist(), ids.to_pylist()


@pytest.mark.parametrize("pending", [3, 1 << 20])
@given(blocks=BLOCKS)
def test_codes_are_those_of_a_dictionary(blocks, pending):
  before, id_codes._PENDING = id_codes._PENDING, pending
  try:
    numbers, ids = codes(blocks)
  finally:
    id_codes._PENDING = before
  flat = [one for block in blocks for one in block]
  known = list(dict.fromkeys(flat))
  assert ids == known
  assert numbers == [known.index(one) for one in flat]


def test_many_numbers_and_then_a_text():
  random = np.random.default_rng(0)
  first = [str(n) for n in random.integers(0, 500, 20_000)]
  numbers, ids = codes([first, ["500", "x"], first[:3]])
  known = list(dict.fromkeys([*first, "500", "x"]))
  assert ids == known
  assert numbers[-3:] == [known.index(one) for one in first[:3]]


@given(blocks=st.lists(st.lists(NUMBERS | ODD | st.none(), max_size=8)))
def test_missing_ids_have_no_code(blocks):
  numbers, ids = codes(blocks)
  flat = [one for block in blocks for one in block]
  known = list(dict.fromkeys(one for one in flat if one is not None))
  assert ids == known
  assert numbers == [-1 if one is None else known.index(one) for one in flat]


def test_numbers_beyond_the_table():
  far = str(10**15)
  numbers, ids = codes([["3", "1", "3"], [far, "1"], [None, far, "3"]])
  assert (numbers, ids) == ([0, 1, 0, 2, 1, -1, 2, 0], ["3", "1", far])


@given(ids=st.lists(st.integers(0, 5) | st.just(10**15), max_size=12))
@pytest.mark.parametrize("kind", [pa.int64(), pa.large_string()])
def test_first_rows(kind, ids):
  found = id_codes.first_rows(pa.array(ids, pa.int64()).cast(kind))
  assert found.tolist() == [ids.index(one) for one in ids]
