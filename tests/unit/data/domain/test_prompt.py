"""The pieces of a prompt as tokens."""

import pytest

from calrec_jax.data.domain.prompt import Prompt


class Letters:
  """A vocabulary of single characters."""

  begin = 1

  def encode(self, value):
    return [ord(letter) for letter in value]


def test_pieces_are_tokenised_apart():
  tokens = Prompt(prefix="ab", first="c", next="de", end="\n").tokenise(
    Letters()
  )
  assert tokens.begin == 1
  assert tokens.end == 10
  assert (tokens.prefix, tokens.first, tokens.next) == (
    (97, 98),
    (99,),
    (100, 101),
  )


def test_the_end_marker_is_one_token():
  with pytest.raises(ValueError, match=r"Prompt\.end"):
    Prompt(end="ab").tokenise(Letters())
  with pytest.raises(ValueError, match=r"Prompt\.end"):
    Prompt(end="")


def test_empty_pieces_are_no_symbols():
  assert Prompt(prefix="", first="a", next="b").pieces() == ("a", "b", "\n")
