"""A token cache read by item ids: a document's tokens are the items themselves.

Models of item ids, as SASRec, go through the same plan, packing and batches as
models of text. Item row r of a domain is the token `first_token + r`; domains
of a mixture follow one another, and token 0 is padding.
Tested by `tests/unit/data/test_item_ids.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from calrec_jax.data.cache import files as cache_files
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.records import PromptTokens

FIRST_TOKEN = 1
KIND = "items"
# Nothing stands around an item, and an item needs no end.
_NO_PROMPT = PromptTokens(begin=None, end=0, prefix=(), first=(), next=())


class ItemDomain(NamedTuple):
  """The items of one domain as tokens.

  Attributes:
    name: of the domain.
    items: how many.
    first_token: token of its row 0.
    sha256: of its item ids in the order of their rows.
  """

  name: str
  items: int
  first_token: int
  sha256: str


@dataclasses.dataclass(frozen=True)
class ItemVocabulary:
  """The vocabulary of item ids, in place of a text vocabulary.

  Attributes:
    domains: in the order of their tokens.
  """

  domains: tuple[ItemDomain, ...]
  begin: None = None
  pretrained: bool = False
  row_map: None = None
  files: tuple[str, ...] = ()

  @property
  def size(self) -> int:
    """Number of tokens, padding included."""
    return FIRST_TOKEN + sum(domain.items for domain in self.domains)

  @functools.cached_property
  def sha256(self) -> str:
    """Equal where the same tokens mean the same items."""
    return cache_files.fingerprint(
      [[domain.sha256, domain.first_token] for domain in self.domains]
    )

  def decode(self, tokens: Sequence[int]) -> str:
    """Domain and catalogue row of every item, for people."""
    return " ".join(map(self._named, tokens))

  def record(self) -> dict[str, Any]:
    """What a checkpoint keeps of it; fit for JSON."""
    return {
      "kind": KIND,
      "sha256": self.sha256,
      "size": self.size,
      "kept": None,
      "domains": [domain._asdict() for domain in self.domains],
    }

  def _named(self, token: int) -> str:
    for domain in self.domains:
      if 0 <= token - domain.first_token < domain.items:
        return f"{domain.name}:{token - domain.first_token}"
    return "padding" if token < FIRST_TOKEN else f"unknown:{token}"


class ItemCache(TokenCache):
  """A token cache whose items are one token each.

  Attributes:
    domain: its place among the tokens.
  """

  def __init__(
    self,
    path: pathlib.Path,
    manifest: dict[str, Any],
    domain: ItemDomain,
    vocabulary: ItemVocabulary,
  ):
    super().__init__(path, manifest)
    self.prompt = _NO_PROMPT
    self.domain = domain
    self._items = vocabulary

  def __reduce__(self):
    return ItemCache, (self.path, self._manifest, self.domain, self._items)

  @property
  def largest_token(self) -> int:
    """The token of the last item."""
    return self.domain.first_token + self.num_items - 1

  @property
  def vocabulary_fingerprint(self) -> str:
    """Equal for caches whose tokens mean the same."""
    return self._items.sha256

  def vocabulary(self) -> Any:
    """The items of the whole mixture."""
    return self._items

  def event_lengths(self, split: str) -> tuple[np.ndarray, np.ndarray]:
    """One token for every event; see `TokenCache`."""
    lengths, offsets = super().event_lengths(split)
    return np.ones_like(lengths), offsets

  @functools.cached_property
  def item_tokens(self) -> tuple[np.ndarray, np.ndarray]:
    """The token of each item, int32, and where each starts, int64[N + 1]."""
    rows = np.arange(self.num_items, dtype=np.int32)
    return self.domain.first_token + rows, np.arange(self.num_items + 1)

  @functools.cached_property
  def twins(self) -> np.ndarray:
    """Every item is itself alone: ids tell text twins apart."""
    return np.arange(self.num_items, dtype=np.int32)


def by_item_ids(caches: Sequence[TokenCache]) -> list[ItemCache]:
  """The caches of a mixture, read by item ids with one vocabulary."""
  domains, first = [], FIRST_TOKEN
  for cache in caches:
    domains.append(
      ItemDomain(cache.name, cache.num_items, first, item_digest(cache))
    )
    first += cache.num_items
  vocabulary = ItemVocabulary(tuple(domains))
  return [
    ItemCache(cache.path, cache._manifest, domain, vocabulary)
    for cache, domain in zip(caches, domains, strict=True)
  ]


def item_digest(cache: TokenCache) -> str:
  """sha256 of a catalogue's item ids, in the order of their rows."""
  digest = hashlib.sha256()
  for item_id in cache.catalogue.item_ids:
    digest.update(f"{item_id}\0".encode())
  return digest.hexdigest()
