"""What decides the vectors of a catalogue, to the last bit on one machine.

Checkpoint and lineage say to people whose vectors these are. They do not
suffice: a stage may be trained again in the same folder, on a GPU with other
bits. So the parameters themselves are part of it, by a digest that is computed
where they lie and is the same on every mesh.

Tested by `tests/unit/recommend/test_catalogue_vectors.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from calrec_jax.data.records import Catalogue, PromptTokens
from calrec_jax.storage import lineage

SCHEMA = 1
_SEEDS = (0x243F6A88, 0x85A308D3)  # Two sums, 64 bits for each array.
_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}


def describe(
  *,
  checkpoint: Mapping[str, Any],
  decoder: Any,
  params: Any,
  catalogue: Catalogue,
  prompt: PromptTokens,
  encoder: Mapping[str, Any],
) -> dict[str, Any]:
  """The identity of a catalogue's vectors, JSON-ready.

  Args:
    checkpoint: names the checkpoint.
    decoder: the module of the model.
    params: its parameters.
    catalogue: the items.
    prompt: pieces of the prompt; an item's segment is made of them.
    encoder: sizes of the computation that decide rounding.
  """
  return lineage.plain(
    {
      "schema": SCHEMA,
      "checkpoint": checkpoint,
      "parameters": params_digest(params),
      "decoder": dataclasses.asdict(decoder.config),
      "catalogue": {
        "items": len(catalogue),
        "tokens_sha256": _tokens_digest(catalogue),
        "prompt": dataclasses.asdict(prompt),
      },
      "encoder": encoder,
    }
  )


def digest(identity: Mapping[str, Any]) -> str:
  """sha256 of an identity."""
  return lineage.digest(lineage.plain(identity))


def refuse_other(
  record: pathlib.Path,
  identity: Mapping[str, Any],
  error: type[ValueError],
) -> None:
  """Refuses a folder of vectors whose identity is another.

  Args:
    record: file of the identity that the folder has.
    identity: that it has to have.
    error: what is raised, naming both.
  """
  try:
    stored = json.loads(record.read_text("utf-8"))
  except (OSError, json.JSONDecodeError) as fault:
    raise error(
      f"{record} cannot be read ({fault}). Remove its folder; the vectors are "
      "computed again."
    ) from fault
  old, new = _flat(stored), _flat(lineage.plain(identity))
  changed = [
    f"{key}: {old.get(key)!r} there, {new.get(key)!r} asked for"
    for key in sorted(old.keys() | new.keys())
    if old.get(key) != new.get(key)
  ]
  if changed:
    raise error(
      f"{record.parent} holds the item vectors of {_name(stored)}, not of "
      f"{_name(identity)}:\n  "
      + "\n  ".join(changed)
      + "\nBind DenseSearch.vectors_folder to another folder (None keeps each "
      "checkpoint's vectors beside it), or remove this one."
    )


def params_digest(params: Any) -> str:
  """A digest of parameters, computed where they lie.

  Sums of mixed bits, modulo 2^32: such sums do not depend on their order, so
  neither does the digest on how the arrays are spread. It tells parameters
  apart that differ by accident, not by malice.
  """
  leaves = jax.tree_util.tree_leaves_with_path(params)
  sums = jax.device_get([_sums(leaf) for _, leaf in leaves])
  return lineage.digest(
    {
      jax.tree_util.keystr(path): [
        list(np.shape(leaf)),
        str(leaf.dtype),
        *np.asarray(pair).tolist(),
      ]
      for (path, leaf), pair in zip(leaves, sums, strict=True)
    }
  )


@jax.jit
def _sums(leaf: jax.Array) -> jax.Array:
  """uint32[2]: sums over an array's elements of their bits, mixed."""
  unsigned = _UNSIGNED[leaf.dtype.itemsize]
  bits = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
  place = jnp.zeros(bits.shape, jnp.uint32)
  stride = 1
  for axis in reversed(range(bits.ndim)):
    along = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    place += along * jnp.uint32(stride % 2**32)
    stride *= bits.shape[axis]
  return jnp.stack(
    [
      jnp.sum(_mix(_mix(place + jnp.uint32(seed)) ^ bits), dtype=jnp.uint32)
      for seed in _SEEDS
    ]
  )


def _mix(bits: jax.Array) -> jax.Array:
  """An invertible mix of 32 bits (MurmurHash3's finalizer, A. Appleby)."""
  bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
  bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
  return bits ^ (bits >> 16)


def _tokens_digest(catalogue: Catalogue) -> str:
  found = hashlib.sha256(np.asarray(catalogue.values, np.int32).tobytes())
  found.update(np.asarray(catalogue.offsets, np.int64).tobytes())
  return found.hexdigest()


def _name(identity: Mapping[str, Any]) -> str:
  """An identity in a few words: the checkpoint, and a digest of the whole."""
  parts = identity.get("checkpoint") or {}
  named = "/".join(str(parts[k]) for k in ("stage", "checkpoint") if k in parts)
  return f"{named or 'a checkpoint'} (identity {digest(identity)[:12]})"


def _flat(value: Mapping[str, Any]) -> dict[str, Any]:
  return flax.traverse_util.flatten_dict(dict(value), sep=".")
