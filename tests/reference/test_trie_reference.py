"""The flat trie against nested dictionaries."""

import collections

import numpy as np
import pytest

from calrec_jax.recommend.constrain import trie

END = 2


def texts_of(sequences):
  return trie.Texts(
    np.concatenate([np.asarray(text, np.int32) for text in sequences]),
    np.cumsum([0, *map(len, sequences)]),
  )


def drawn(num_texts, tokens, longest, seed=0, begin=()):
  numbers = np.random.default_rng(seed)
  found = {
    (*begin, *numbers.integers(3, 3 + tokens, numbers.integers(longest)), END)
    for _ in range(num_texts)
  }
  return [tuple(map(int, text)) for text in sorted(found, key=hash)]


def plain_ways(sequences):
  """For each text: (tokens so far, choices there, choice) at every choice."""
  following = collections.defaultdict(set)
  for text in sequences:
    for depth in range(len(text)):
      following[text[:depth]].add(text[depth])
  return [
    [
      (text[:depth], sorted(following[text[:depth]]), text[depth])
      for depth in range(len(text))
      if len(following[text[:depth]]) > 1
    ]
    for text in sequences
  ]


def walked(built, sequences):
  """The same from the arrays, following each text from the root."""
  arrays = built.arrays
  ways = []
  for number, text in enumerate(sequences):
    state, way = 0, []
    while True:
      depth = arrays.depths[state]
      path = arrays.path_tokens[arrays.paths[state] :][:depth]
      edges = slice(arrays.starts[state], arrays.starts[state + 1])
      tokens = arrays.edge_tokens[edges].tolist()
      way.append((tuple(path.tolist()), tokens, text[depth]))
      target = arrays.edge_targets[edges][tokens.index(text[depth])]
      if target < 0:
        assert -1 - target == number
        assert built.depths[number] == depth
        break
      state = target
    ways.append(way)
  return ways


@pytest.mark.parametrize(
  "sequences",
  [
    drawn(300, 4, 7),
    drawn(300, 40, 5, seed=1),
    drawn(40, 2, 30, seed=2, begin=(7, 7, 8)),
    [(5, END), (5, 6, END)],
    [(END,), (5, END)],
  ],
  ids=["deep", "wide", "long", "nested", "empty item"],
)
def test_every_text_is_found_by_its_choices(sequences):
  built = trie.build(texts_of(sequences))
  wanted = plain_ways(sequences)
  assert walked(built, sequences) == wanted
  assert built.num_texts == len(sequences)
  assert built.max_choices == max(map(len, wanted))
  states = {way[0] for ways in wanted for way in ways}
  assert len(built.arrays.depths) == len(states)
  assert len(built.arrays.edge_tokens) == len(states) - 1 + len(sequences)


def test_an_only_text_is_one_choice():
  built = trie.build(texts_of([(4, 5, END)]))
  assert built.arrays.edge_targets.tolist() == [-1]
  assert built.arrays.edge_tokens.tolist() == [4]
  assert built.arrays.starts.tolist() == [0, 1]
  assert built.max_choices == 1
  assert built.max_read_tokens(32) == 0


def test_read_tokens_bound_any_ways():
  built = trie.build(texts_of([(4, 5, 6, END), (4, 5, 7, END), (8, END)]))
  assert sorted(built.depths.tolist()) == [0, 2, 2]
  assert built.max_read_tokens(1) == 2
  assert built.max_read_tokens(9) == 4


def test_more_texts_than_are_compared_at_once(monkeypatch):
  monkeypatch.setattr(trie, "_TEXTS_COMPARED", 7)
  sequences = drawn(100, 4, 7)
  built = trie.build(texts_of(sequences))
  assert walked(built, sequences) == plain_ways(sequences)


@pytest.mark.parametrize(
  "sequences",
  [[(4, 5), (4, 5, END)], [(4, END), (4, END)], [(4, END), ()], []],
  ids=["beginning", "twice", "empty", "none"],
)
def test_texts_that_cannot_be_distinguished_are_refused(sequences):
  with pytest.raises(ValueError, match=r"begin those of|one text or more"):
    trie.build(
      trie.Texts(
        np.array([t for s in sequences for t in s], np.int32),
        np.cumsum([0, *map(len, sequences)]),
      )
    )
