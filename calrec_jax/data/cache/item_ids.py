"""A token cache read by item ids: a document's tokens are the items themselves.

Models of item ids, such as SASRec, use the same plan, packing and batches as
models of text. Item row r of a domain is the token `first_token + r`; the
domains of a mixture are numbered consecutively, and token 0 is padding. Such a
model may also read what the items are called, see `ItemTexts`.
Tested by `tests/unit/data/test_item_ids.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from calrec_jax.data.cache.files import CacheError
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.records import PromptTokens
from calrec_jax.storage import atomic
from calrec_jax.storage.identity import fingerprint

FIRST_TOKEN = 1
KIND = "items"
ITEMS_FILE = "items.json"  # In the folder of a stage.
# Items need no text around them and no end marker.
_NO_PROMPT = PromptTokens(begin=None, end=0, prefix=(), first=(), next=())


class ItemDomain(NamedTuple):
  """The items of one domain as tokens.

  Attributes:
    name: Name of the domain.
    items: Number of items.
    first_token: Token of its row 0.
    sha256: Hash of its item ids in catalogue order.
    texts_sha256: Hash of the tokens of their texts; None in the record of an
      earlier release.
  """

  name: str
  items: int
  first_token: int
  sha256: str
  texts_sha256: str | None = None


class ItemTexts:
  """The text of each item as tokens of the text vocabulary, cut to a length.

  Equal and hashable by content, as a part of a model's structure.

  Attributes:
    tokens: int32[V, W], the first W tokens of the text of each of V item
      tokens; -1 after a text's end, and for tokens that are no item.
    vocabulary_size: Number of tokens of the text vocabulary.
  """

  def __init__(self, tokens: np.ndarray, vocabulary_size: int):
    self.tokens, self.vocabulary_size = tokens, vocabulary_size
    content = f"{tokens.shape} {vocabulary_size} ".encode() + tokens.tobytes()
    self._digest = hashlib.sha256(content).digest()

  def __eq__(self, other: object) -> bool:
    return isinstance(other, ItemTexts) and self._digest == other._digest

  def __hash__(self) -> int:
    return hash(self._digest)


@dataclasses.dataclass(frozen=True)
class ItemVocabulary:
  """The vocabulary of item ids, instead of a text vocabulary.

  Attributes:
    domains: Domains in the order of their tokens.
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
    """Hash that is equal if the same tokens mean the same items."""
    return fingerprint(
      [[domain.sha256, domain.first_token] for domain in self.domains]
    )

  def decode(self, tokens: Sequence[int]) -> str:
    """Domain and catalogue row of every item, human-readable."""
    return " ".join(map(self._name, tokens))

  def record(self) -> dict[str, Any]:
    """The record that a checkpoint stores; JSON-compatible."""
    return {
      "kind": KIND,
      "sha256": self.sha256,
      "size": self.size,
      "kept": None,
      "domains": [domain._asdict() for domain in self.domains],
    }

  def _name(self, token: int) -> str:
    for domain in self.domains:
      if 0 <= token - domain.first_token < domain.items:
        return f"{domain.name}:{token - domain.first_token}"
    return "padding" if token < FIRST_TOKEN else f"unknown:{token}"


class ItemCache(TokenCache):
  """A token cache whose items are one token each.

  Attributes:
    domain: Range of its tokens.
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

  def __reduce__(self) -> tuple[Any, ...]:
    return ItemCache, (self.path, self._manifest, self.domain, self._items)

  @property
  def largest_token(self) -> int:
    """Token of the last item."""
    return self.domain.first_token + self.num_items - 1

  @property
  def vocabulary_fingerprint(self) -> str:
    """Hash that is equal for caches with the same items."""
    return self._items.sha256

  def vocabulary(self) -> Any:
    """Items of the whole mixture, an `ItemVocabulary`."""
    return self._items

  def event_lengths(self, split: str) -> tuple[np.ndarray, np.ndarray]:
    """One token per event; see `TokenCache`."""
    lengths, offsets = super().event_lengths(split)
    return np.ones_like(lengths), offsets

  @functools.cached_property
  def item_tokens(self) -> tuple[np.ndarray, np.ndarray]:
    """Token of each item, int32, and their offsets, int64[N + 1]."""
    rows = np.arange(self.num_items, dtype=np.int32)
    return self.domain.first_token + rows, np.arange(self.num_items + 1)

  @functools.cached_property
  def text_rows(self) -> np.ndarray:
    """Each item's own row: ids distinguish items with identical text."""
    return np.arange(self.num_items, dtype=np.int32)

  def texts(self) -> TokenCache:
    """The same cache, read by the tokens of the texts."""
    return TokenCache(self.path, self._manifest)


def by_item_ids(caches: Sequence[TokenCache]) -> list[ItemCache]:
  """The caches of a mixture, read by item ids with one vocabulary."""
  domains, first = [], FIRST_TOKEN
  for cache in caches:
    domains.append(domain_of(cache, first))
    first += cache.num_items
  vocabulary = ItemVocabulary(tuple(domains))
  return [
    ItemCache(cache.path, cache._manifest, domain, vocabulary)
    for cache, domain in zip(caches, domains, strict=True)
  ]


def domain_of(cache: TokenCache, first_token: int = FIRST_TOKEN) -> ItemDomain:
  """The items of a cache as tokens from a first one on."""
  return ItemDomain(
    cache.name,
    cache.num_items,
    first_token,
    sha256=item_digest(cache),
    texts_sha256=texts_digest(cache),
  )


def item_digest(cache: TokenCache) -> str:
  """sha256 of a catalogue's item ids, in order."""
  return _digest_of(cache.catalogue.item_ids)


def _digest_of(item_ids: Sequence[str]) -> str:
  digest = hashlib.sha256()
  for item_id in item_ids:
    digest.update(f"{item_id}\0".encode())
  return digest.hexdigest()


def texts_digest(cache: TokenCache) -> str:
  """sha256 of the tokens of a catalogue's texts, in order."""
  values, offsets = cache.item_tokens
  digest = hashlib.sha256(np.asarray(values, np.int32).tobytes())
  digest.update(np.asarray(offsets, np.int64).tobytes())
  return digest.hexdigest()


def write_items(caches: Sequence[ItemCache], path: pathlib.Path) -> None:
  """Writes which items the tokens mean, for a log that will have others."""
  ids = {cache.name: cache.texts().catalogue.item_ids for cache in caches}
  atomic.write_text(path, json.dumps(ids))


def read_items(path: pathlib.Path, domain: ItemDomain) -> list[str]:
  """The ids of a domain's items, by row.

  Raises:
    CacheError: if they are not there, or not those of the domain.
  """
  try:
    found = json.loads(path.read_text("utf-8"))[domain.name]
    right = _digest_of(found) == domain.sha256
  except (OSError, ValueError, KeyError, TypeError):
    right, found = False, []
  if not right:
    raise CacheError(
      f"{path} does not hold the items that {domain.name} was trained on. Copy "
      "the folder again, or train again."
    )
  return found


def item_texts(
  caches: Sequence[tuple[TokenCache, ItemDomain]],
  *,
  rows: int,
  length: int,
  vocabulary_size: int,
) -> ItemTexts:
  """What a model of item ids reads of the items' texts.

  Args:
    caches: Token caches of texts, each with the item tokens of its domain;
      items of domains that are missing have no text.
    rows: Number of item tokens, V.
    length: Most tokens of a text that are read, W.
    vocabulary_size: Number of tokens of the text vocabulary.
  """
  tokens = np.full((rows, length), -1, np.int32)
  for cache, domain in caches:
    values, offsets = cache.item_tokens
    lengths = np.minimum(np.diff(offsets), length)
    places = np.arange(length) < lengths[:, None]
    at = np.minimum(offsets[:-1, None] + np.arange(length), len(values) - 1)
    own = slice(domain.first_token, domain.first_token + domain.items)
    tokens[own] = np.where(places, values[at], -1)
  return ItemTexts(tokens, vocabulary_size)
