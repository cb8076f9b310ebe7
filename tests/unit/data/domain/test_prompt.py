"""The pieces of a prompt as tokens."""

import json

import pytest

from calrec_jax.data.domain.prompt import Prompt
from calrec_jax.data.logs.problems import Problems
from calrec_jax.data.records import EventKinds, PromptTokens


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


KINDS = EventKinds(("view", "buy", "rent"), ("buy",))


def test_every_kind_has_its_sentence_and_the_target_s_is_asked_with():
  prompt = Prompt(prefix="", kinds={"rent": "lent"})
  tokens = prompt.tokenise(Letters(), KINDS)

  def read(pieces):
    return ["".join(map(chr, piece)) for piece in pieces]

  assert read(tokens.next_of_kind) == [
    "The next item viewed is as follows. ",
    "The next item bought is as follows. ",
    "The next item lent is as follows. ",
  ]
  assert (
    read(tokens.first_of_kind)[0] == "The first item viewed is as follows. "
  )
  assert tokens.next == tokens.next_of_kind[1]
  assert tokens.first == tokens.first_of_kind[1]
  # The usual sentences are those of a log of purchases only.
  plain = prompt.tokenise(Letters())
  assert (plain.first, plain.next) == (tokens.first, tokens.next)
  assert PromptTokens.from_json(json.loads(json.dumps(tokens.as_json()))) == (
    tokens
  )
  assert set(plain.as_json()) == {"begin", "end", "prefix", "first", "next"}
  assert prompt.of_kind("lease")[1] == (
    "The next item with the event 'lease' is as follows. "
  )
  assert prompt.of_kind("rent")[1] in prompt.pieces(KINDS.names)


def test_of_several_kinds_of_target_the_last_is_asked_for():
  kinds = EventKinds(("view", "cart", "buy"), ("cart", "buy"))
  tokens = Prompt().tokenise(Letters(), kinds)
  assert tokens.next == tokens.next_of_kind[2]


def test_settings_of_kinds_count_only_where_they_are_changed():
  assert set(Prompt().fingerprint()) == {"prefix", "first", "next", "end"}
  changed = Prompt(kinds={"view": "saw"}).fingerprint()
  assert changed["kinds"] == {"view": "saw"}
  assert "next_of_kind" in Prompt(next_of_kind="{verb}: ").fingerprint()


def test_verbs_are_texts_and_have_a_place():
  with pytest.raises(ValueError, match=r"Prompt\.kinds"):
    Prompt(kinds=("viewed",))
  with pytest.raises(ValueError, match=r"Prompt\.kinds"):
    Prompt(kinds={"view": 1})
  with pytest.raises(ValueError, match=r"Prompt\.next_of_kind.*\{verb\}"):
    Prompt(next_of_kind="The next item is as follows. ")


@pytest.mark.parametrize(
  ("kind", "verb"),
  [
    ("add to cart", "added to the cart"),
    ("Add-To-Cart", "added to the cart"),
    ("add_to_cart", "added to the cart"),
    ("page_view", "viewed"),
    ("view_item", "viewed"),
    ("Purchased", "bought"),
    ("remove_from_cart", "removed from the cart"),
    ("gift", "with the event 'gift'"),
  ],
)
def test_well_known_kinds_have_verbs_however_they_are_written(kind, verb):
  assert Prompt().of_kind(kind)[1] == f"The next item {verb} is as follows. "


def reviewed(kinds, present, **more):
  problems = Problems()
  Prompt(kinds=kinds).review(present, problems, **more)
  return problems.notes()


def test_a_misspelt_kind_is_noted_with_the_nearest_one():
  kinds = {"view": "saw", "purchse": "took"}
  [note] = reviewed(kinds, ("view", "purchase"))
  assert note.severity == "suspect"
  assert "'purchse'" in note.message
  assert "Did you mean 'purchase'?" in note.message
  [note] = reviewed(kinds, ("view", "purchase"), alone=False)
  assert note.severity == "info"
  assert not reviewed({"view": "saw"}, ("view", "purchase"))


def test_kinds_of_which_none_is_in_the_log_are_refused():
  with pytest.raises(
    ValueError, match=r"Prompt\.kinds names 'vew'.*Did you mean 'view'\?"
  ):
    reviewed({"vew": "saw"}, ("view", "buy"))
  # Those of another domain that has the same prompt.
  [note] = reviewed({"play": "played"}, ("view", "buy"), alone=False)
  assert note.severity == "info"


def test_kinds_of_a_log_that_reads_none_name_the_column():
  [note] = reviewed({"view": "saw"}, ())
  assert note.remedy == 'LogFiles.event_column = "event"'
  assert not reviewed({"view": "saw"}, (), alone=False)
