"""The sentences around the items of a history."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import gin

from calrec_jax.data import records
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.vocabulary import files
from calrec_jax.errors import InputError, nearest, refuse

_VIEWS = (
  *("view", "viewed", "viewitem", "pageview", "productview"),
  *("detail", "detailview"),
)
_PURCHASES = (
  *("purchase", "purchased", "buy", "bought", "order", "orders", "ordered"),
  *("transaction", "sale"),
)
VERBS = {
  **dict.fromkeys(_VIEWS, "viewed"),
  **dict.fromkeys(("click", "clicks", "clicked"), "clicked"),
  **dict.fromkeys(
    ("cart", "addtocart", "carts", "addtobasket", "basket"), "added to the cart"
  ),
  **dict.fromkeys(
    ("removefromcart", "removefrombasket"), "removed from the cart"
  ),
  **dict.fromkeys(
    ("wishlist", "addtowishlist", "favorite", "favourite", "fav"),
    "added to the wish list",
  ),
  **dict.fromkeys(_PURCHASES, "bought"),
}
"""What a user did with an item in an event of a well-known kind, whose name is
in small letters without blanks, hyphens and underscores."""
_VERB = "{verb}"
_OF_KINDS = ("kinds", "first_of_kind", "next_of_kind")


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
  """The pieces of a prompt, tokenised separately and joined as tokens.

  `prefix first ITEM end next ITEM end … next`, after which the model generates
  the next item and its end marker (section 3 of the paper; the end marker is
  this project's).

  Attributes:
    prefix: Text before a history.
    first: Text before the first item.
    next: Text before every later item, and at the end of a prompt.
    end: Text after every item; it must be one token, and no item may contain
      it.
    kinds: Where a domain has several kinds of event, the verb of each kind,
      such as `{"view": "viewed", "purchase": "bought"}`. Kinds that are not
      named have one of `VERBS`, or else "with the event 'NAME'".
    first_of_kind: Then the text before a first item, with `{verb}` in it.
    next_of_kind: Likewise before every later item. A prompt ends with that of
      the kind that may be a target; of several, with the most frequent one's.
  """

  prefix: str = "This is the summary of a user's purchase history. "
  first: str = "The first item bought is as follows. "
  next: str = "The next item bought is as follows. "
  end: str = "\n"
  kinds: Mapping[str, str] = dataclasses.field(default_factory=dict)
  first_of_kind: str = "The first item {verb} is as follows. "
  next_of_kind: str = "The next item {verb} is as follows. "

  def __post_init__(self) -> None:
    """Checks the settings."""
    if not isinstance(self.kinds, Mapping) or not all(
      isinstance(text, str) for pair in self.kinds.items() for text in pair
    ):
      refuse(
        self,
        "kinds",
        "must map the names of kinds of event to verbs, such as "
        "{'view': 'viewed', 'purchase': 'bought'}.",
      )
    for name in ("first_of_kind", "next_of_kind"):
      if _VERB not in getattr(self, name):
        refuse(self, name, f"must contain {_VERB}, or kinds look the same.")
    if not self.end:
      refuse(self, "end", "is empty; decoding would never stop.")

  def pieces(self, kinds: Sequence[str] = ()) -> tuple[str, ...]:
    """All non-empty strings of the prompt, the end marker last.

    Args:
      kinds: Names of the kinds of event.
    """
    texts = (self.prefix, self.first, self.next)
    for kind in kinds:
      texts += self.of_kind(kind)
    return tuple(filter(None, (*texts, self.end)))

  def of_kind(self, kind: str) -> tuple[str, str]:
    """The texts before a first and a later item of an event of this kind."""
    plain = re.sub(r"[\s_-]", "", kind.lower())
    known = VERBS.get(plain, f"with the event {kind!r}")
    verb = self.kinds.get(kind, known)
    return (
      self.first_of_kind.replace(_VERB, verb),
      self.next_of_kind.replace(_VERB, verb),
    )

  def review(
    self,
    present: Sequence[str],
    problems: problems_lib.Problems,
    *,
    alone: bool = True,
  ) -> None:
    """Notes the names of `kinds` that a domain's events do not have.

    Args:
      present: Names of the domain's kinds of event; empty if it reads none.
      problems: Receives the notes.
      alone: Whether no other domain has this prompt, for which a name may be.

    Raises:
      InputError: If `alone`, and the events have kinds, but none of these.
    """
    unknown = [name for name in self.kinds if name not in present]
    if not unknown:
      return
    if not present:
      if alone:
        problems.note(
          "suspect",
          "Prompt.kinds names kinds of event, but none are read",
          'LogFiles.event_column = "event"',
        )
      return
    known = ", ".join(map(repr, present))
    if alone and len(unknown) == len(self.kinds):
      raise InputError(
        f"Prompt.kinds names {unknown[0]!r}, a kind that no event has; the "
        f"kinds are {known}.{nearest(unknown[0], present)}"
      )
    for name in unknown:
      problems.note(
        "suspect" if alone else "info",
        f"Prompt.kinds names {name!r}, a kind that no event has; the kinds are "
        f"{known}.{nearest(name, present)}".removesuffix("."),
      )

  def fingerprint(self) -> dict[str, Any]:
    """Everything the tokens depend on; JSON-compatible."""
    settings = dataclasses.asdict(self)
    for field in dataclasses.fields(self):
      # Added later: prompts without them have the fingerprint of before.
      if field.name in _OF_KINDS and settings[field.name] == (
        {} if field.name == "kinds" else field.default
      ):
        del settings[field.name]
    return settings

  def tokenise(
    self,
    vocabulary: files.Vocabulary,
    kinds: records.EventKinds | None = None,
  ) -> records.PromptTokens:
    """The prompt's pieces as tokens.

    Args:
      vocabulary: Vocabulary of the tokens.
      kinds: Kinds of event of the domain; None if it has one kind only.

    Raises:
      InputError: If the end marker is not exactly one token.
    """
    end = vocabulary.encode(self.end)
    if len(end) != 1:
      raise InputError(
        f"Prompt.end = {self.end!r} is {len(end)} tokens in this vocabulary; "
        "it must be one. Choose a text that the vocabulary knows as one piece."
      )
    plain = records.PromptTokens(
      begin=vocabulary.begin,
      end=end[0],
      prefix=tuple(vocabulary.encode(self.prefix)),
      first=tuple(vocabulary.encode(self.first)),
      next=tuple(vocabulary.encode(self.next)),
    )
    if kinds is None:
      return plain
    firsts, nexts = (
      tuple(tuple(vocabulary.encode(text)) for text in texts)
      for texts in zip(*map(self.of_kind, kinds.names), strict=True)
    )
    return dataclasses.replace(
      plain,
      first=firsts[kinds.query],
      next=nexts[kinds.query],
      first_of_kind=firsts,
      next_of_kind=nexts,
    )
