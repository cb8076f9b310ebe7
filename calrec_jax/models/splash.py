"""Attention of packed rows by the kernel that JAX has for TPUs.

Splash attention never writes logits to the chip's memory, and leaves out blocks
of keys that the causal mask or a window hides. Other platforms can run it in
Pallas's interpreter, slowly, which is how
`tests/reference/test_splash_reference.py` holds it against `attention.attend`.
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
# By this name a policy of rematerialisation may keep what the kernel gives.
RESULT = "attention"
# A block's tokens lie along the lanes of the vector unit.
_LANES = 128
_LARGEST_BLOCK = 512
# The scope of a kernel tells how many blocks of all heads it executes, for who
# counts what a program costs.
EXECUTED = re.compile(r"executes_(\d+)_blocks")


def wanted(kernel: str, rows: int, length: int) -> bool:
  """Whether rows go through the kernel.

  Args:
    kernel: one of `KERNELS`; "auto" takes it on TPUs.
    rows: of the batch. Where devices cannot have the same share of them, none
      can run the kernel on its own.
    length: tokens of a row. Where they are no multiple of 128, the kernel
      cannot cut them into blocks.
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
  """What `attention.attend` computes, for one of several kinds of layer.

  Devices that share rows or heads each run the kernel on their own.

  Args:
    query: H heads; H is a multiple of K.
    key: K heads of F features.
    value: as the keys.
    segment_ids: attention stays within one; its tokens are neighbours.
    kind: index of the layer's window; known to the device only.
    windows: keys that a query of each kind sees at most, or None. They are
      known here: what a window hides is not computed.
    scale: multiplies the dot products.
    softcap: squashes logits into (-softcap, softcap) by tanh; None does not.

  Returns:
    The weighted values, in the dtype of the values.
  """
  length, heads = query.shape[1:3]
  # A window as long as the row hides nothing.
  windows = [None if w is None or w >= length else w for w in windows]
  distinct = list(dict.fromkeys(windows))
  which = jnp.asarray([distinct.index(w) for w in windows], jnp.int32)[kind]
  rules = dict(nn.get_logical_axis_rules())
  mesh = jax.sharding.get_abstract_mesh()
  if not rules or mesh.empty:
    return _on_device(
      query, key, value, segment_ids, which, distinct, scale, softcap
    )

  def spec(axis: str) -> Any:
    return partitioning.partition_spec(
      ("activation_batch", "activation_length", axis, "kv"), rules
    )

  whole, heads_spec = spec("kv"), spec("activation_heads")
  shared = _parts(heads_spec[2], mesh)
  if heads % shared:
    raise partitioning.PartitioningError(
      f"{heads} heads cannot be split over {shared} devices of the mesh axis "
      "that logical_axis_rules.activation_heads names."
    )
  if key.shape[2] % shared:
    # Fewer key heads than devices: each device needs those of its queries.
    key, value = (
      jnp.repeat(part, heads // key.shape[2], axis=2) for part in (key, value)
    )
  rows = jax.sharding.PartitionSpec(*whole[:2])
  replicated = jax.sharding.PartitionSpec()
  return jax.shard_map(
    functools.partial(
      _on_device, windows=distinct, scale=scale, softcap=softcap
    ),
    in_specs=(heads_spec, heads_spec, heads_spec, rows, replicated),
    out_specs=heads_spec,
    # The kernel does not say over which axes its results vary.
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
  # Not by a scale that is itself rounded to bfloat16.
  query = heads_first(query * jnp.float32(scale)).astype(value.dtype)
  ids = kernels.SegmentIds(segment_ids, segment_ids)
  branches = [
    functools.partial(
      _run, window=window, heads=query.shape[1], softcap=softcap
    )
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
  heads: int,
  softcap: float | None,
) -> Array:
  length = query.shape[2]
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
  """Blocks of a head's queries × keys that hold something to be seen."""
  blocks = length // size
  query, key = np.indices((blocks, blocks))
  seen = key <= query
  if window is not None:
    # The block's first query and last key are the nearest to one another.
    seen &= query * size - (key * size + size - 1) < window
  return int(np.sum(seen))


def _devices_of_rows() -> int:
  """How many devices share a batch's rows."""
  entry = dict(nn.get_logical_axis_rules()).get("activation_batch")
  mesh = jax.sharding.get_abstract_mesh()
  return 1 if mesh.empty else _parts(entry, mesh)


def _platform() -> str:
  """What the active mesh's devices are, which may be compiled for only."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def _parts(entry: Any, mesh: Any) -> int:
  return math.prod(mesh.shape[name] for name in partitioning.axis_names(entry))
