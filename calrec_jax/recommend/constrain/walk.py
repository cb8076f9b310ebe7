"""Writing items along the catalogue's trie: every text is a real one.

G hypotheses of each prompt, samples or beams, walk down the trie. Hypotheses
that have the same tokens share one branch, which the model reads once; all
branches share their prompt, and the tokens that they have in common. Forced
tokens are read without a choice, several at once where branches are few, and
what follows a text's last choice is not read at all.

Probabilities are those of the walk: at every choice the model's are made to
sum to 1 over the edges, so over all items they sum to 1, and forced tokens
count nothing. `likelihood` gives the model's own.

Tested against a loop over dictionaries, without any cache, in
`tests/reference/test_walk_reference.py`.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from calrec_jax.models.block import Branched, KeyValue
from calrec_jax.recommend.constrain import choices
from calrec_jax.recommend.constrain.trie import Trie, TrieArrays
from calrec_jax.recommend.prefix import Prefix, first_logits
from calrec_jax.runtime import placement

_LONGEST_RUN = 8  # Forced tokens that one branch reads in one step, at most.
_NARROWING = 8  # Programs for G branches, an eighth of it, and so on.


class Bounds(NamedTuple):
  """Sizes of a program's arrays, which depend on the catalogue.

  Attributes:
    root_tokens: Number of tokens that all texts begin with.
    max_edges: Most edges of any state.
    tree_tokens: Most tokens that the hypotheses of one prompt read.
  """

  root_tokens: int
  max_edges: int
  tree_tokens: int


class Walked(NamedTuple):
  """The texts of the hypotheses.

  Attributes:
    texts: int32[B, G], id of the text; -1 where a beam found no more, and in
      rows without a prompt.
    log_probs: float32[B, G], in nats, of the walk; -inf where there is none.
  """

  texts: jax.Array
  log_probs: jax.Array


class _Hypotheses(NamedTuple):
  """G of each prompt; a state of -1 has no choice ahead.

  Attributes:
    states: int32[B, G], state of the next choice.
    texts: int32[B, G], -1 until the text is decided.
    log_probs: float32[B, G].
    choices: int32[B, G], number of choices made.
    branches: int32[B, G], branch that has their tokens.
  """

  states: jax.Array
  texts: jax.Array
  log_probs: jax.Array
  choices: jax.Array
  branches: jax.Array


class _Branches(NamedTuple):
  """Distinct paths of the hypotheses, first; a state of -1 is no branch.

  Attributes:
    states: int32[B, G], state at the end of the path.
    read: int32[B, G], number of its tokens that have been read.
    ancestors: bool[B, G, N], tokens of the tree on it.
  """

  states: jax.Array
  read: jax.Array
  ancestors: jax.Array


class _Tree(NamedTuple):
  """Tokens read after each prompt.

  Attributes:
    cache: Keys and values [layers, B, N, K, F].
    depths: int32[B, N].
    counts: int32[B], number of tokens.
  """

  cache: KeyValue
  depths: jax.Array
  counts: jax.Array


class _Loop(NamedTuple):
  """State of the loop."""

  hypotheses: _Hypotheses
  branches: _Branches
  tree: _Tree


def bounds(trie: Trie, hypotheses: int, *, beams: bool) -> Bounds:
  """What a walk of `hypotheses` hypotheses through a trie needs.

  Beams that are dropped have read tokens too; samples never are.
  """
  degrees = trie.arrays.starts[1:] - trie.arrays.starts[:-1]
  tokens = hypotheses * int(trie.depths.max())
  if not beams:
    tokens = trie.max_read_tokens(hypotheses)
  return Bounds(
    root_tokens=int(trie.arrays.depths[0]),
    max_edges=int(degrees.max()),
    tree_tokens=max(1, tokens),
  )


@functools.partial(
  jax.jit, static_argnames=("decoder", "bounds", "hypotheses", "mesh")
)
def walk(
  decoder: Any,
  params: Any,
  prefix: Prefix,
  trie: TrieArrays,
  uniform: Float[Array, "B G T"] | None,
  *,
  bounds: Bounds,
  hypotheses: int,
  temperature: Float[Array, ""] | float = 1.0,
  mesh: Mesh | None = None,
) -> Walked:
  """Walks until every hypothesis is an item.

  Args:
    decoder: Module of the model.
    params: Parameters of the decoder.
    prefix: Prompts that were read.
    trie: Trie of the catalogue.
    uniform: Numbers that decide each choice of samples, see `uniform_numbers`;
      a sample depends on its own numbers and its prompt alone. None for beams:
      the most probable items, found by a search of this width.
    bounds: Bounds of the trie, for as many hypotheses.
    hypotheses: Number of hypotheses of a prompt, G.
    temperature: Divisor of the logits before sampling; not for beams.
    mesh: Devices the rows are spread over; the result is given to all.
  """
  apply = functools.partial(decoder.apply, {"params": params})
  choose = functools.partial(
    _choose, trie, uniform, temperature, bounds.max_edges
  )
  loop = _begin(decoder.config, prefix, hypotheses, bounds, uniform is None)
  if bounds.root_tokens == 0:
    found = choose(
      loop.hypotheses,
      loop.branches.states[:, :1],
      loop.branches.states[:, :1] >= 0,
      first_logits(apply, prefix)[:, None],
    )
    loop = _regrouped(found, loop.branches, loop.tree)
  programs = _programs(hypotheses, beams=uniform is None)

  def advance(loop: _Loop) -> _Loop:
    logits, ready, new = _read(apply, prefix, trie, programs, loop)
    found = choose(loop.hypotheses, loop.branches.states, ready, logits)
    return _regrouped(found, *_grown(loop.branches, loop.tree, new))

  def unfinished(loop: _Loop) -> Bool[Array, ""]:
    return jnp.any(loop.hypotheses.states >= 0)

  loop = jax.lax.while_loop(unfinished, advance, loop)
  walked = Walked(loop.hypotheses.texts, loop.hypotheses.log_probs)
  return placement.everywhere(walked, mesh)


def _programs(hypotheses: int, *, beams: bool) -> list[tuple[int, int]]:
  """Branches and tokens on each, for steps of ascending width.

  Beams are compared token by token, so they read one each.
  """
  widths = [hypotheses]
  while widths[-1] > 1:
    widths.append(-(-widths[-1] // _NARROWING))
  return [
    (width, 1 if beams else min(_LONGEST_RUN, hypotheses // width))
    for width in reversed(widths)
  ]


def _begin(
  config: Any, prefix: Prefix, hypotheses: int, bounds: Bounds, beams: bool
) -> _Loop:
  """All hypotheses at the root; of beams one, from which the others come."""
  batch, positions = len(prefix.lengths), bounds.tree_tokens
  real = (prefix.lengths > 0)[:, None]
  first = jnp.arange(hypotheses)[None] == 0
  begun = real & first if beams else jnp.broadcast_to(real, (batch, hypotheses))
  zeros = jnp.zeros((batch, hypotheses), jnp.int32)
  cache = jnp.zeros(
    (config.layers, batch, positions, config.kv_heads, config.head_dim),
    prefix.cache.keys.dtype,
  )
  return _Loop(
    _Hypotheses(
      states=jnp.where(begun, 0, -1),
      texts=zeros - 1,
      log_probs=jnp.where(begun, 0.0, -jnp.inf),
      choices=zeros,
      branches=zeros,
    ),
    _Branches(
      states=jnp.where(real & first, 0, -1),
      read=zeros,
      ancestors=jnp.zeros((batch, hypotheses, positions), bool),
    ),
    _Tree(
      KeyValue(cache, cache),
      jnp.zeros((batch, positions), jnp.int32),
      jnp.zeros(batch, jnp.int32),
    ),
  )


class _New(NamedTuple):
  """Tokens that a step has read: up to M after each prompt.

  Attributes:
    cache: keys and values [layers, B, M, K, F].
    positions: int32[B, M], their positions in the tree; N for none.
    depths: int32[B, M].
    begins: int32[B, G], position of the first token of each branch.
    counts: int32[B, G], tokens of each branch.
  """

  cache: KeyValue
  positions: jax.Array
  depths: jax.Array
  begins: jax.Array
  counts: jax.Array


def _read(
  apply: Any,
  prefix: Prefix,
  trie: TrieArrays,
  programs: list[tuple[int, int]],
  loop: _Loop,
) -> tuple[Float[Array, "B G V"], Bool[Array, "B G"], _New]:
  """Reads tokens on every branch, by the narrowest program that holds them.

  Returns:
    Logits after each branch, whether it has come to its state, and what was
    read.
  """
  branches, tree = loop.branches, loop.tree
  needed = jnp.max(jnp.sum(branches.states >= 0, axis=1))
  program = sum(
    (needed > width).astype(jnp.int32) for width, _ in programs[:-1]
  )
  length = jnp.array([length for _, length in programs])[program]
  real = jnp.maximum(branches.states, 0)
  pending = jnp.where(
    branches.states >= 0, trie.depths[real] - branches.read, 0
  )
  counts = jnp.minimum(pending, length)
  room = max(width * length for width, length in programs)
  logits, cache = jax.lax.switch(
    program,
    [
      functools.partial(_run, apply, prefix, trie, width, length, room)
      for width, length in programs
    ],
    branches,
    tree,
    counts,
  )
  begins = tree.counts[:, None] + jnp.cumsum(counts, axis=1) - counts
  at = jnp.arange(room)
  branch, within = jnp.minimum(at // length, real.shape[1] - 1), at % length
  inside = (at < real.shape[1] * length)[None] & (
    within[None] < counts[:, branch]
  )
  return (
    logits,
    (branches.states >= 0) & (pending == counts),
    _New(
      cache,
      positions=jnp.where(
        inside, begins[:, branch] + within[None], tree.depths.shape[1]
      ),
      depths=branches.read[:, branch] + within[None],
      begins=begins,
      counts=counts,
    ),
  )


def _run(
  apply: Any,
  prefix: Prefix,
  trie: TrieArrays,
  width: int,
  length: int,
  room: int,
  branches: _Branches,
  tree: _Tree,
  counts: Int[Array, "B G"],
) -> tuple[Float[Array, "B G V"], KeyValue]:
  """The model on `width` branches, `length` tokens each; padded to all."""
  states, read, ancestors = (part[:, :width] for part in branches)
  within = jnp.arange(length, dtype=jnp.int32)[None, None]
  begin = (trie.paths[jnp.maximum(states, 0)] + read)[..., None]
  tokens = jnp.where(
    within < counts[:, :width, None], trie.path_tokens[begin + within], 0
  )
  branched = Branched(
    read, prefix.lengths, ancestors, tree.depths, jnp.max(tree.counts)
  )
  hidden, cache = apply(
    tokens, branched, prefix.cache, tree.cache, method="branch"
  )
  last = jnp.maximum(counts[:, :width] - 1, 0)[..., None, None]
  last_hidden = jnp.take_along_axis(hidden, last, axis=2)[:, :, 0]
  logits = apply(last_hidden, method="logits").astype(jnp.float32)
  beyond = ((0, 0), (0, counts.shape[1] - width), (0, 0))
  unused = ((0, 0), (0, 0), (0, room - width * length), (0, 0), (0, 0))
  return (
    jnp.pad(logits, beyond),
    jax.tree.map(lambda part: jnp.pad(part, unused), cache),
  )


def _choose(
  trie: TrieArrays,
  uniform: Float[Array, "B G T"] | None,
  temperature: Float[Array, ""] | float,
  max_edges: int,
  hypotheses: _Hypotheses,
  states: Int[Array, "B W"],
  ready: Bool[Array, "B W"],
  logits: Float[Array, "B W V"],
) -> _Hypotheses:
  """Continues every hypothesis whose branch has been read to its state."""
  branches = jnp.minimum(hypotheses.branches, states.shape[1] - 1)
  choosing = (hypotheses.states >= 0) & jnp.take_along_axis(
    ready, branches, axis=1
  )
  choice = (
    trie, logits, states, branches, choosing, hypotheses.log_probs
  )  # fmt: skip
  if uniform is None:
    chosen = choices.best(*choice, max_edges=max_edges)
  else:
    now = jnp.minimum(hypotheses.choices, uniform.shape[2] - 1)
    chosen = choices.sample(
      *choice,
      jnp.take_along_axis(uniform, now[..., None], axis=2)[..., 0],
      temperature=temperature,
      max_edges=max_edges,
    )
  before = _Hypotheses(
    *(jnp.take_along_axis(part, chosen.origins, axis=1) for part in hypotheses)
  )
  target = trie.edge_targets[jnp.maximum(chosen.edges, 0)]
  moved = chosen.edges >= 0
  alive = chosen.log_probs > -jnp.inf
  return _Hypotheses(
    states=jnp.where(
      alive, jnp.where(moved, jnp.maximum(target, -1), before.states), -1
    ),
    texts=jnp.where(
      alive, jnp.where(moved, -1 - jnp.minimum(target, 0), before.texts), -1
    ),
    log_probs=chosen.log_probs,
    choices=before.choices + moved,
    branches=before.branches,
  )


def _grown(
  branches: _Branches, tree: _Tree, new: _New
) -> tuple[_Branches, _Tree]:
  """Puts what was read into the tree, and onto its branches."""

  def put(array: Array, positions: Array, values: Array) -> Array:
    return array.at[positions].set(values, mode="drop")

  by_prompt = jax.vmap(put)
  by_layer = jax.vmap(by_prompt, in_axes=(0, None, 0))
  cache = jax.tree.map(
    lambda old, part: by_layer(old, new.positions, part), tree.cache, new.cache
  )
  at = jnp.arange(tree.depths.shape[1])[None, None]
  begins, ends = new.begins, new.begins + new.counts
  own = (at >= begins[..., None]) & (at < ends[..., None])
  return (
    branches._replace(
      read=branches.read + new.counts, ancestors=branches.ancestors | own
    ),
    _Tree(
      cache,
      by_prompt(tree.depths, new.positions, new.depths),
      tree.counts + jnp.sum(new.counts, axis=1),
    ),
  )


def _regrouped(
  hypotheses: _Hypotheses, branches: _Branches, tree: _Tree
) -> _Loop:
  """One branch for all hypotheses that go to the same state."""
  states = hypotheses.states
  nowhere = jnp.iinfo(jnp.int32).max
  key = jnp.where(states >= 0, states, nowhere)
  order = jnp.argsort(key, axis=1, stable=True)
  ordered = jnp.take_along_axis(key, order, axis=1)
  before = jnp.pad(ordered[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
  new = (ordered != before) & (ordered < nowhere)
  rank = jnp.maximum(jnp.cumsum(new, axis=1) - 1, 0).astype(jnp.int32)
  # The first hypothesis of each branch, the branches first.
  width = states.shape[1]
  positions = jnp.sort(jnp.where(new, jnp.arange(width)[None], width), axis=1)
  real = positions < width
  first = jnp.take_along_axis(order, jnp.minimum(positions, width - 1), axis=1)
  old = jnp.take_along_axis(hypotheses.branches, first, axis=1)
  return _Loop(
    hypotheses._replace(
      branches=jnp.take_along_axis(rank, jnp.argsort(order, axis=1), axis=1)
    ),
    _Branches(
      states=jnp.where(real, jnp.take_along_axis(states, first, axis=1), -1),
      read=jnp.take_along_axis(branches.read, old, axis=1),
      ancestors=jnp.take_along_axis(branches.ancestors, old[..., None], axis=1),
    ),
    tree,
  )
