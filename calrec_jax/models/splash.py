"""Attention of packed rows by JAX's splash attention kernel for TPUs.

The kernel never writes logits to HBM, and skips blocks of keys that the causal
mask or a window hides. Other platforms can run it slowly in Pallas's
interpreter, which is how `tests/reference/test_splash_reference.py` compares it
with `attention.attend`.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as kernels,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask as masks,
)
from jaxtyping import Array, Float, Int

from calrec_jax.runtime import partitioning

KERNELS = ("auto", "xla", "splash")
# Name by which a remat policy may save the kernel's results.
RESULT = "attention"
# A block's tokens are laid out along the lanes of the vector unit.
_LANES = 128
_LARGEST_BLOCK = 512
# The scope of a kernel gives the number of blocks that it executes for all
# heads, which the cost model of `calrec_jax.aot` reads.
EXECUTED = re.compile(r"executes_(\d+)_blocks")


def applies(kernel: str, rows: int, length: int) -> bool:
  """Whether the kernel is used.

  Args:
    kernel: Name in `KERNELS`; "auto" uses the kernel on TPUs.
    rows: Rows of the batch. The kernel needs the same number on every device.
    length: Tokens of a row. The kernel needs a multiple of 128.
  """
  if kernel == "xla" or length % _LANES or rows % _devices_of_rows():
    return False
  return kernel == "splash" or _platform() == "tpu"


def attend(
  query: Float[Array, "R L H F"],
  key: Float[Array, "R L K F"],
  value: Float[Array, "R L K F"],
  *,
  segment_ids: Int[Array, "R L"],
  kind: Int[Array, ""],
  windows: Sequence[int | None],
  scale: float,
  softcap: float | None = None,
) -> Float[Array, "R L H F"]:
  """Computes `attention.attend` for one of several kinds of layer.

  Instead of a window it takes the static `windows` of all kinds of layers, of
  which `kind`, a traced value, is the index: blocks that a window hides are not
  computed. Segments are contiguous. Where rows or heads are sharded, each
  device runs the kernel on its own shard.
  """
  length, heads = query.shape[1:3]
  # A window as long as the row hides nothing.
  windows = [None if w is None or w >= length else w for w in windows]
  distinct = list(dict.fromkeys(windows))
  which = jnp.asarray([distinct.index(w) for w in windows], jnp.int32)[kind]
  run = functools.partial(
    _on_device, windows=distinct, scale=scale, softcap=softcap
  )
  rules = dict(nn.get_logical_axis_rules())
  mesh = jax.sharding.get_abstract_mesh()
  if not rules or mesh.empty:
    return run(query, key, value, segment_ids, which)

  def spec(axis: str) -> Any:
    return partitioning.partition_spec(
      ("activation_batch", "activation_length", axis, "kv"), rules
    )

  whole, heads_spec = spec("kv"), spec("activation_heads")
  shared = _parts(heads_spec[2], mesh)
  if heads % shared:
    raise partitioning.PartitioningError(
      f"{heads} heads cannot be split over the {shared} devices of the mesh "
      "axis of logical_axis_rules.activation_heads."
    )
  if key.shape[2] % shared:
    # Fewer key heads than devices: each device needs those of its queries.
    key, value = (
      jnp.repeat(part, heads // key.shape[2], axis=2) for part in (key, value)
    )
  rows = jax.sharding.PartitionSpec(*whole[:2])
  replicated = jax.sharding.PartitionSpec()
  return jax.shard_map(
    run,
    in_specs=(heads_spec, heads_spec, heads_spec, rows, replicated),
    out_specs=heads_spec,
    # The kernel does not declare over which axes its results vary.
    check_vma=False,
  )(query, key, value, segment_ids, which)


def _on_device(
  query: Array,
  key: Array,
  value: Array,
  segment_ids: Array,
  which: Array,
  windows: Sequence[int | None],
  scale: float,
  softcap: float | None,
) -> Array:
  """The kernel on the rows and heads of one device."""
  heads_first = functools.partial(jnp.swapaxes, axis1=1, axis2=2)
  # Scaled in float32: the scale itself must not be rounded to bfloat16.
  query = heads_first(query * jnp.float32(scale)).astype(value.dtype)
  ids = kernels.SegmentIds(segment_ids, segment_ids)
  branches = [
    functools.partial(_run, window=window, softcap=softcap)
    for window in windows
  ]
  output = jax.lax.switch(
    which, branches, query, heads_first(key), heads_first(value), ids
  )
  return heads_first(output).astype(value.dtype)


def _run(
  query: Array,
  key: Array,
  value: Array,
  segment_ids: Any,
  *,
  window: int | None,
  softcap: float | None,
) -> Any:
  heads, length = query.shape[1:3]
  size = math.gcd(length, _LARGEST_BLOCK)
  mask: Any = masks.CausalMask((length, length))
  if window is not None:
    mask = masks.LocalMask((length, length), (window - 1, 0), 0)
  kernel = kernels.make_splash_mha(
    masks.MultiHeadMask([mask] * heads),
    head_shards=1,
    q_seq_shards=1,
    attn_logits_soft_cap=softcap,
    residual_checkpoint_name=RESULT,
    interpret=_platform() != "tpu",
    block_sizes=kernels.BlockSizes(
      block_q=size,
      block_kv=size,
      block_kv_compute=size,
      block_q_dkv=size,
      block_kv_dkv=size,
      block_kv_dkv_compute=size,
      use_fused_bwd_kernel=True,
    ),
  )
  seen = executed_blocks(length, size, window)
  with jax.named_scope(f"executes_{heads * seen}_blocks"):
    return jax.vmap(kernel)(query, key, value, segment_ids)


def executed_blocks(length: int, size: int, window: int | None) -> int:
  """Number of blocks of a head's queries × keys that are not fully masked."""
  blocks = length // size
  query, key = np.indices((blocks, blocks))
  seen = key <= query
  if window is not None:
    # The block's first query and last key are the closest pair.
    seen &= query * size - (key * size + size - 1) < window
  return int(np.sum(seen))


def _devices_of_rows() -> int:
  """Number of devices over which a batch's rows are split."""
  entry = dict(nn.get_logical_axis_rules()).get("activation_batch")
  mesh = jax.sharding.get_abstract_mesh()
  return 1 if mesh.empty else _parts(entry, mesh)


def _platform() -> str:
  """Platform of the active mesh, which may be a compile-only topology."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def _parts(entry: Any, mesh: Any) -> int:
  return math.prod(mesh.shape[name] for name in partitioning.axis_names(entry))
