"""What decides the vectors of a catalogue, to the last bit on one machine.

Checkpoint and lineage do not suffice: a stage may be trained again in the same
folder, on a GPU with other bits. So the parameters themselves are part of it:
a digest that is computed on their devices and is the same on every mesh.

Tested by `tests/unit/recommend/dense/test_vector_store.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from calrec_jax.recommend.domain_model import DomainModel
from calrec_jax.storage import identity

SCHEMA = 1  # Version of the encoder's code: raise it when vectors change.
_SEEDS = (0x243F6A88, 0x85A308D3)  # Two sums, 64 bits for each array.
_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}


def describe(
  *,
  checkpoint: Mapping[str, Any],
  model: DomainModel,
  encoder: Mapping[str, Any],
) -> dict[str, Any]:
  """The identity of a catalogue's vectors, JSON-ready.

  Args:
    checkpoint: Name of the checkpoint.
    model: Model and catalogue; an item's segment is made of prompt pieces.
    encoder: Sizes of the computation that decide rounding.
  """
  catalogue = model.catalogue
  tokens = hashlib.sha256(np.asarray(catalogue.values, np.int32).tobytes())
  tokens.update(np.asarray(catalogue.offsets, np.int64).tobytes())
  return identity.plain(
    {
      "schema": SCHEMA,
      "checkpoint": checkpoint,
      "parameters": params_digest(model.params),
      "decoder": dataclasses.asdict(model.decoder.config),
      "catalogue": {
        "items": len(catalogue),
        "tokens_sha256": tokens.hexdigest(),
        "prompt": dataclasses.asdict(model.prompt),
      },
      "encoder": encoder,
    }
  )


def params_digest(params: Any) -> str:
  """A digest of parameters, computed on their devices.

  Sums of mixed bits, modulo 2^32: such sums do not depend on their order, so
  neither does the digest on how the arrays are spread. It distinguishes
  parameters that differ by accident, not by malice.
  """
  leaves = jax.tree_util.tree_leaves_with_path(params)
  sums = jax.device_get([_sums(leaf) for _, leaf in leaves])
  described = {
    jax.tree_util.keystr(path): [
      list(leaf.shape),
      str(leaf.dtype),
      *map(int, two),
    ]
    for (path, leaf), two in zip(leaves, sums, strict=True)
  }
  return identity.digest(described)


@jax.jit
def _sums(leaf: jax.Array) -> jax.Array:
  """uint32[2]: sums over an array's elements of their bits, mixed."""
  unsigned = _UNSIGNED[leaf.dtype.itemsize]
  bits = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
  index = jnp.zeros(bits.shape, jnp.uint32)
  stride = 1
  for axis in reversed(range(bits.ndim)):
    along = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    index += along * jnp.uint32(stride % 2**32)
    stride *= bits.shape[axis]
  return jnp.stack(
    [
      jnp.sum(_mix(_mix(index + jnp.uint32(seed)) ^ bits), dtype=jnp.uint32)
      for seed in _SEEDS
    ]
  )


def _mix(bits: jax.Array) -> jax.Array:
  """An invertible mix of 32 bits (MurmurHash3's finalizer, A. Appleby)."""
  bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
  bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
  return bits ^ (bits >> 16)
