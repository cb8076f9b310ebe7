"""The sentences around the items of a history."""

from __future__ import annotations

import dataclasses
from typing import Any

import gin

from calrec_jax.data import records
from calrec_jax.data.vocabulary import files
from calrec_jax.errors import InputError, refuse


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
  """

  prefix: str = "This is the summary of a user's purchase history. "
  first: str = "The first item bought is as follows. "
  next: str = "The next item bought is as follows. "
  end: str = "\n"

  def __post_init__(self) -> None:
    """Checks the settings."""
    if not self.end:
      refuse(self, "end", "is empty; decoding would never stop.")

  def pieces(self) -> tuple[str, ...]:
    """All non-empty strings of the prompt, the end marker last."""
    return tuple(filter(None, (self.prefix, self.first, self.next, self.end)))

  def fingerprint(self) -> dict[str, Any]:
    """Everything the tokens depend on; JSON-compatible."""
    return dataclasses.asdict(self)

  def tokenise(self, vocabulary: files.Vocabulary) -> records.PromptTokens:
    """The prompt's pieces as tokens.

    Raises:
      InputError: If the end marker is not exactly one token.
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
