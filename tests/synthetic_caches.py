"""Token caches of made-up items and users, for tests of the data rooms."""

import pathlib

import numpy as np

from calrec_jax.data import cache
from calrec_jax.data.records import PromptTokens

BEGIN, END = 1, 3
PROMPT = PromptTokens(
  begin=BEGIN, end=END, prefix=(4, 5), first=(6,), next=(7, 8)
)
FIRST_ITEM_TOKEN = 20


def item_tokens(length: int, seed: int) -> np.ndarray:
  """Tokens of one item: `length` of them, the end marker last."""
  numbers = np.random.default_rng(seed)
  body = numbers.integers(FIRST_ITEM_TOKEN, 90, length - 1)
  return np.append(body, END).astype(np.int32)


def write(
  folder: pathlib.Path,
  *,
  name: str = "shop",
  item_lengths=(3, 4, 5, 3, 6, 2, 4),
  histories=((0, 1, 2), (3, 4), (5, 6, 0, 1)),
  prompt: PromptTokens = PROMPT,
  vocabulary_files=(),
  validated=None,
  tested=None,
  seed: int = 0,
) -> cache.TokenCache:
  """Writes a cache whose validation targets are each user's item 0.

  Args:
    folder: gets the cache's folder.
    name: of the domain.
    item_lengths: tokens of each item.
    histories: training items of each user.
    prompt: pieces of the prompt.
    vocabulary_files: of the vocabulary.
    validated: users with a validation document; by default all.
    tested: users with a test document, who buy item 1 after item 0; by default
      there is no such split.
    seed: of the items' tokens.
  """
  items = [
    cache.CatalogueRecord(
      f"{name}-{row}", f"Title: {row}.", item_tokens(length, seed + row)
    )
    for row, length in enumerate(item_lengths)
  ]
  train = [
    cache.DocumentRecord(
      f"user-{user}", np.array(history), np.arange(len(history)) * 10
    )
    for user, history in enumerate(histories)
  ]

  def going_on(users, *bought):
    return [
      train[user]._replace(
        items=np.append(train[user].items, bought), timestamps=None
      )
      for user in (range(len(train)) if users is None else users)
    ]

  documents = {"train": train, "validation": going_on(validated, 0)}
  if tested is not None:
    documents["test"] = going_on(tested, 0, 1)
  path = folder / f"{name}-0123456789ab"
  cache.write_cache(
    path,
    items,
    documents,
    prompt,
    vocabulary_files,
    {"users": len(train)},
  )
  return cache.TokenCache.open(path)


def write_random(
  folder: pathlib.Path,
  *,
  name: str = "shop",
  users: int = 40,
  items: int = 30,
  longest_history: int = 30,
  longest_item: int = 6,
  seed: int = 0,
) -> cache.TokenCache:
  """Writes a cache of random items and histories, some longer than a row."""
  numbers = np.random.default_rng(seed)
  return write(
    folder,
    name=name,
    item_lengths=numbers.integers(2, longest_item + 1, items),
    histories=[
      numbers.integers(0, items, numbers.integers(1, longest_history + 1))
      for _ in range(users)
    ],
    seed=1000 * seed,
  )
