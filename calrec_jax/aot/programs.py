"""The programs of a recipe, traced for absent devices.

They are the functions that training and recommendation call, with the recipe's
shapes; nothing is executed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calrec_jax.data.feed.batch import Batch
from calrec_jax.errors import InputError
from calrec_jax.models import flops
from calrec_jax.models.decoder import Decoder
from calrec_jax.models.decoder_config import DecoderConfig
from calrec_jax.models.families import abstract_params
from calrec_jax.recommend import prefix
from calrec_jax.recommend.dense import dense
from calrec_jax.recommend.generate import sampling
from calrec_jax.recommend.prompts import prompt_limits
from calrec_jax.runtime import partitioning, placement
from calrec_jax.train import state as states
from calrec_jax.train import train_step
from calrec_jax.train.stages import Stage

NAMES = ("train_step", "read_prompts", "write_items", "encode_items")


class Sizes(NamedTuple):
  """Sizes of a program that the data determines.

  Attributes:
    vocab_size: Rows of the embedding.
    item_tokens: Tokens of the longest item, end marker included.
  """

  vocab_size: int
  item_tokens: int


class Program(NamedTuple):
  """One program of a recipe.

  Attributes:
    name: Name: "train_step", "read_prompts", "write_items" or "encode_items".
    what: Human-readable shapes.
    trace: Function that returns the traced program, ready to be lowered.
    needed_flops: Matrix FLOPs that the model needs, over all devices, if known;
      see `needed_by_step`.
    arguments: Bytes of the arguments per device, by kind.
    per_token: Whether its loop generates one token per iteration; costs are
      then those of the prompts and one token.
  """

  name: str
  what: str
  trace: Callable[[], Any]
  needed_flops: float | None
  arguments: Mapping[str, int]
  per_token: bool = False


def of_stage(
  stage: Stage, sizes: Sizes, mesh: jax.sharding.Mesh
) -> list[Program]:
  """The programs of a stage and of recommending with its model.

  Call them inside `partitioning.activate`.

  Args:
    stage: Configuration of the stage.
    sizes: Sizes that the data determines.
    mesh: Mesh of the devices to compile for.
  """
  config = dataclasses.replace(decoder_of(stage), vocab_size=sizes.vocab_size)
  decoder = Decoder(config)
  return [
    _train_step(stage, decoder, mesh),
    *_recommending(stage, decoder, sizes, mesh),
  ]


def decoder_of(stage: Stage) -> DecoderConfig:
  """The stage's model, which must be a language model."""
  if not isinstance(stage.decoder, DecoderConfig):
    kind = type(stage.decoder).__name__
    raise InputError(
      f"Stage.decoder is a {kind}, but `calrec compile` compiles language "
      "models only; bind @DecoderConfig()."
    )
  return stage.decoder


def needed_by_step(stage: Stage, config: DecoderConfig) -> float:
  """FLOPs that a step needs if each row is one history of targets only.

  The most that rows of this length can need, by the definition of utilisation
  in training (`flops.train_step_flops`). Executed FLOPs are counted for the
  same rows.
  """
  rows, length = stage.feed.rows, stage.feed.row_tokens
  window = config.window or length
  attended = [
    np.minimum(np.arange(1, length + 1), length if whole else window)
    for whole in config.is_global()
  ]
  return flops.train_step_flops(
    config,
    tokens=rows * length,
    loss_tokens=rows * length,
    attended=float(np.mean(attended)),
    trained=stage.tuning.trains,
  )


def _train_step(
  stage: Stage, decoder: Decoder, mesh: jax.sharding.Mesh
) -> Program:
  feed = stage.feed
  partitioning.require_rows(feed.rows, mesh, stage.microbatches)
  boxed = states.abstract_state(
    decoder, stage.optimizer, stage.tuning, stage.averaging
  )
  state = _sharded(*partitioning.place(boxed, mesh))
  rows = Batch.empty(feed.rows, feed.row_tokens, feed.row_slots)
  by_rows = partitioning.batch_sharding(mesh)
  batch = _sharded(rows, jax.tree.map(lambda _: by_rows, rows))
  step = train_step.make_train_step(
    decoder,
    stage.objective,
    stage.optimizer,
    stage.tuning,
    stage.microbatches,
    stage.averaging,
  )
  what = (
    f"{feed.rows} rows of {feed.row_tokens} tokens with {feed.row_slots} slots"
  )
  if stage.microbatches > 1:
    what += f" in {stage.microbatches} microbatches"
  arguments = {
    "parameters": local_bytes(state.params),
    "optimizer": local_bytes(state.opt_state),
    "batch": local_bytes(batch),
  }
  return Program(
    "train_step",
    what,
    lambda: jax.jit(step, donate_argnums=0).trace(state, batch),
    needed_by_step(stage, decoder.config),
    arguments,
  )


def _recommending(
  stage: Stage, decoder: Decoder, sizes: Sizes, mesh: jax.sharding.Mesh
) -> list[Program]:
  """Prefilling prompts, generating items, encoding the catalogue."""
  boxed = abstract_params(decoder)
  params = _sharded(*partitioning.place(boxed, mesh))
  sampler, search = sampling.Sampler(), dense.DenseSearch()
  prompts = placement.whole_rows(sampler.rows, mesh)
  items = placement.whole_rows(search.item_rows, mesh)
  limits = prompt_limits(stage.feed)
  longest = limits.usual_tokens or limits.max_tokens or stage.feed.row_tokens
  generated = sampler.max_new_tokens
  if generated is None:
    generated = sizes.item_tokens
  rows = partitioning.batch_sharding(mesh)

  def array(shape: tuple[int, ...], dtype: Any = jnp.int32) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=rows)

  held = {"parameters": local_bytes(params)}
  return [
    Program(
      "read_prompts",
      f"{prompts} prompts of {longest} tokens",
      lambda: prefix.read.trace(
        decoder, params, array((prompts, longest)), array((prompts,))
      ),
      None,
      held,
    ),
    Program(
      "write_items",
      f"{prompts} prompts of {longest} tokens × {sampler.samples} texts of "
      f"{generated} tokens",
      lambda: sampling.sample.trace(
        decoder,
        params,
        array((prompts, longest)),
        array((prompts,)),
        array((prompts, sampler.samples, generated), jnp.float32),
        temperature=sampler.temperature,
        end_token=0,
        vocab_size=sizes.vocab_size,
        mesh=mesh,
      ),
      None,
      held,
      per_token=True,
    ),
    Program(
      "encode_items",
      f"{items} items of {sizes.item_tokens} tokens",
      lambda: dense.embed_rows.trace(
        decoder,
        params,
        array((items, sizes.item_tokens)),
        array((items,)),
        tower="item",
        begins=True,
        mesh=mesh,
      ),
      None,
      held,
    ),
  ]


def _sharded(shapes: Any, shardings: Any) -> Any:
  return jax.tree.map(
    lambda shape, sharding: jax.ShapeDtypeStruct(
      shape.shape, shape.dtype, sharding=sharding
    ),
    shapes,
    shardings,
  )


def local_bytes(tree: Any) -> int:
  """Bytes per device of a tree of sharded shapes."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape))
    * np.dtype(leaf.dtype).itemsize
    for leaf in jax.tree.leaves(tree)
  )
