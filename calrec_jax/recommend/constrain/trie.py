"""The catalogue's token sequences as a compressed trie in flat arrays.

A state is a position where a text can continue in two ways or more; tokens that
are forced belong to the edge before them. A text is decided, and the trie ends,
where no other item shares its prefix. So there are fewer states than items,
whatever the length of the texts, and nothing depends on the vocabulary's size:
a million items take tens of megabytes.

Items with the same tokens are one leaf, see `UniqueTexts`. Tested against
nested dictionaries in `tests/reference/test_trie_reference.py`.
"""

import dataclasses
import itertools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

_TEXTS_COMPARED = 2**13  # Padded to the longest while they are compared.


@flax.struct.dataclass
class TrieArrays:
  """The trie as a device holds it: S states, E edges.

  Attributes:
    depths: int32[S], tokens on the path to each state; state 0 is the root.
    paths: int32[S], offset of the path to each state in `path_tokens`.
    path_tokens: int32, tokens of all paths, one after another.
    starts: int32[S + 1], state s has the edges `starts[s]:starts[s + 1]`.
    edge_tokens: int32[E], the token that distinguishes an edge from its
      siblings; ascending within a state.
    edge_targets: int32[E], the state an edge leads to, or -1 - text where
      the text is decided.
  """

  depths: Any
  paths: Any
  path_tokens: Any
  starts: Any
  edge_tokens: Any
  edge_targets: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Trie:
  """A catalogue's trie and what bounds a walk through it.

  Attributes:
    arrays: `TrieArrays` of NumPy arrays.
    num_texts: Number of unique texts, M.
    max_choices: Most states on the way to a text.
    depths: int32[M], tokens of each text up to the state before its last
      choice: what a model has to read before the text is decided.
  """

  arrays: TrieArrays
  num_texts: int
  max_choices: int
  depths: Int[np.ndarray, " M"]

  @property
  def num_bytes(self) -> int:
    """Memory of the arrays."""
    return sum(array.nbytes for array in jax.tree.leaves(self.arrays))

  def max_read_tokens(self, paths: int) -> int:
    """Most distinct tokens on `paths` paths through the trie."""
    return int(np.sort(self.depths)[-paths:].sum())

  def on_device(
    self, sharding: jax.sharding.Sharding | None = None
  ) -> TrieArrays:
    """The arrays on a device, or everywhere on a mesh."""
    if sharding is None:
      return jax.tree.map(jnp.asarray, self.arrays)
    return jax.device_put(self.arrays, sharding)


class Texts(NamedTuple):
  """Token sequences one after another.

  Attributes:
    values: int32, the tokens of all.
    offsets: int64[M + 1], text i holds `values[offsets[i]:offsets[i + 1]]`.
  """

  values: np.ndarray
  offsets: np.ndarray

  def __len__(self) -> int:
    return len(self.offsets) - 1

  def take(self, texts: Int[np.ndarray, " K"]) -> "Texts":
    """Some of the texts, in the given order."""
    lengths = np.diff(self.offsets)[texts]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    return Texts(
      self.values[np.repeat(self.offsets[:-1][texts], lengths) + within],
      offsets,
    )


def build(texts: Texts) -> Trie:
  """The trie of distinct token sequences.

  Args:
    texts: Tokens of each unique text, end marker included.

  Raises:
    ValueError: if there is none, one is empty, two are equal, or one is a
      prefix of another: its end would be ambiguous.
  """
  if not len(texts) or not np.diff(texts.offsets).all():
    raise ValueError("A trie needs one text or more, each of one token or more")
  order = _sorted(texts)
  ordered = texts.take(order)
  shared = _shared_tokens(ordered, order)
  tree = _branchings(shared) if len(texts) > 1 else _Tree([0], [0], [-1], [0])
  return _flattened(ordered, order, tree)


@dataclasses.dataclass
class _Tree:
  """Branchings over sorted texts, in no order.

  Attributes:
    depths: tokens before each branching.
    first: the first sorted text below each branching.
    node_parents: the branching above each branching, -1 for the root.
    text_parents: the branching above each sorted text.
  """

  depths: list[int]
  first: list[int]
  node_parents: list[int]
  text_parents: list[int]


def _sorted(texts: Texts) -> Int[np.ndarray, " M"]:
  # Bytes of big-endian numbers sort as the numbers do.
  joined = texts.values.astype(">u4").tobytes()
  ends = (4 * texts.offsets).tolist()
  keys = [joined[a:b] for a, b in itertools.pairwise(ends)]
  return np.array(sorted(range(len(keys)), key=keys.__getitem__))


def _shared_tokens(
  ordered: Texts, order: Int[np.ndarray, " M"]
) -> Int[np.ndarray, " D"]:
  """How many tokens each sorted text shares with the next."""
  parts = [np.zeros(0, np.int64)]
  for start in range(0, len(ordered) - 1, _TEXTS_COMPARED):
    rows = np.arange(start, min(start + _TEXTS_COMPARED + 1, len(ordered)))
    lengths = np.diff(ordered.offsets)[rows]
    block = np.full((len(rows), lengths.max() + 1), -1, np.int32)
    block[np.arange(block.shape[1]) < lengths[:, None]] = ordered.take(
      rows
    ).values
    shared = np.argmax(block[:-1] != block[1:], axis=1)
    ended = np.flatnonzero(shared == lengths[:-1])
    # Equal texts differ nowhere, not even in their padding.
    ended = np.union1d(ended, np.flatnonzero((block[:-1] == block[1:]).all(1)))
    if len(ended):
      left, right = order[rows[ended[0] : ended[0] + 2]]
      raise ValueError(
        f"The tokens of text {left} begin those of text {right}; every item "
        "has to end with one end marker, and distinct texts have distinct "
        "tokens."
      )
    parts.append(shared)
  return np.concatenate(parts)


def _branchings(shared: Int[np.ndarray, " D"]) -> _Tree:
  """The branchings of sorted texts, from what neighbours share.

  One pass over the texts keeps the branchings above the last one on a stack
  (Kasai et al., CPM 2001, section on bottom-up traversal).
  """
  depths: list[int] = []
  first: list[int] = []
  parents: list[int] = []
  text_parents = [-1] * (len(shared) + 1)
  stack: list[int] = []
  for text, depth in enumerate([*shared.tolist(), -1]):
    below = -1  # A text as yet, then the branching taken from the stack.
    begins = text
    while stack and depths[stack[-1]] > depth:
      node = stack.pop()
      if below < 0:
        text_parents[text] = node
      else:
        parents[below] = node
      below, begins = node, first[node]
    if depth < 0:
      break
    if not stack or depths[stack[-1]] < depth:
      depths.append(depth)
      first.append(begins)
      parents.append(-1)
      stack.append(len(depths) - 1)
    if below < 0:
      text_parents[text] = stack[-1]
    else:
      parents[below] = stack[-1]
  return _Tree(depths, first, parents, text_parents)


def _flattened(
  ordered: Texts, order: Int[np.ndarray, " M"], tree: _Tree
) -> Trie:
  depths, first = np.array(tree.depths), np.array(tree.first)
  # Parents before children, the root first.
  numbered = np.lexsort((depths, first))
  number = np.empty_like(numbered)
  number[numbered] = np.arange(len(numbered))
  depths, first = depths[numbered], first[numbered]
  node_parents = np.array(tree.node_parents)[numbered]
  node_parents = np.where(node_parents < 0, -1, number[node_parents])
  text_parents = number[np.array(tree.text_parents)]

  # Edges: to every branching but the root, and to every text.
  below = np.concatenate([node_parents[1:], text_parents])
  begins = np.concatenate([first[1:], np.arange(len(order))])
  targets = np.concatenate([np.arange(1, len(depths)), -1 - order])
  sorted_ = np.lexsort((begins, below))
  below, begins, targets = below[sorted_], begins[sorted_], targets[sorted_]
  tokens = ordered.values[ordered.offsets[begins] + depths[below]]
  counts = np.bincount(below, minlength=len(depths))
  paths = np.cumsum([0, *depths.tolist()])
  within = np.arange(paths[-1]) - np.repeat(paths[:-1], depths)
  ways = ordered.values[np.repeat(ordered.offsets[first], depths) + within]
  read = np.empty(len(order), np.int32)
  read[order] = depths[text_parents]
  arrays = TrieArrays(
    depths=depths.astype(np.int32),
    paths=paths[:-1].astype(np.int32),
    # One more, so that a look-up after the end stays inside.
    path_tokens=np.append(ways, 0).astype(np.int32),
    starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
    edge_tokens=tokens.astype(np.int32),
    edge_targets=targets.astype(np.int32),
  )
  return Trie(
    arrays=arrays,
    num_texts=len(order),
    max_choices=_most_choices(node_parents),
    depths=read,
  )


def _most_choices(parents: Int[np.ndarray, " S"]) -> int:
  """The longest chain of branchings; parents have smaller numbers."""
  chain = np.ones(len(parents), np.int32)
  for node in range(1, len(parents)):
    chain[node] = chain[parents[node]] + 1
  return int(chain.max())
