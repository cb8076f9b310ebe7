"""The sentences around the items of a history."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import gin

from calrec_jax.data import records
from calrec_jax.errors import InputError, refuse


class Vocabulary(Protocol):
  """The part of a vocabulary that tokenises a prompt."""

  @property
  def begin(self) -> int | None:
    """Token that begins every segment."""
    ...

  def encode(self, text: str) -> list[int]:
    """Token ids of a text."""
    ...


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
  """The pieces of a prompt. They are tokenised apart and joined as tokens.

  `prefix first ITEM end next ITEM end … next`, after which the model writes
  the next item and closes it with the end marker (section 3 of the paper;
  the end marker is this project's).

  Attributes:
    prefix: Text that opens a history.
    first: Text before the first item.
    next: Text before every later item, and at the end of a prompt.
    end: Text that closes every item; it must be one token, and no item may
      contain it.
  """

  prefix: str = "This is the summary of a user's purchase history. "
  first: str = "The first item bought is as follows. "
  next: str = "The next item bought is as follows. "
  end: str = "\n"

  def __post_init__(self) -> None:
    """Refuses a prompt without an end marker."""
    if not self.end:
      refuse(self, "end", "is empty; decoding would never stop.")

  def pieces(self) -> tuple[str, ...]:
    """All strings of the prompt that are not empty, the end marker last."""
    return tuple(filter(None, (self.prefix, self.first, self.next, self.end)))

  def fingerprint(self) -> dict[str, Any]:
    """What the tokens depend on, fit for JSON."""
    return dataclasses.asdict(self)

  def tokenise(self, vocabulary: Vocabulary) -> records.PromptTokens:
    """The prompt's pieces as tokens.

    Raises:
      InputError: if the end marker is not exactly one token.
    """
    end = vocabulary.encode(self.end)
    if len(end) != 1:
      raise InputError(
        f"Prompt.end = {self.end!r} is {len(end)} tokens in this vocabulary; "
        "it must be one. Choose a text that the vocabulary knows as one piece."
      )
    return records.PromptTokens(
      begin=vocabulary.begin,
      end=end[0],
      prefix=tuple(vocabulary.encode(self.prefix)),
      first=tuple(vocabulary.encode(self.first)),
      next=tuple(vocabulary.encode(self.next)),
    )
