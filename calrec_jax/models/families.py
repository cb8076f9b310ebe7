"""The model families that a stage can train, by their configuration.

A family tells the training loop what depends on the kind of model: its module,
objective and tokens, and the FLOPs of a step.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from calrec_jax.data.cache import item_ids
from calrec_jax.data.cache.item_ids import ItemCache, ItemDomain, ItemTexts
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.errors import InputError
from calrec_jax.models import flops, next_item, objective, sasrec
from calrec_jax.models.decoder import Decoder
from calrec_jax.models.decoder_config import DecoderConfig
from calrec_jax.models.row_objective import RowObjective
from calrec_jax.models.sasrec import SASRec, SASRecConfig

ModelConfig = DecoderConfig | SASRecConfig


class Family(NamedTuple):
  """What the training loop needs to know about a kind of model.

  Attributes:
    module: Function from a configuration, and the token caches of a mixture
      for what the model knows of their items, to its Flax module, which is
      called with tokens, positions and segment ids [R, L], and `deterministic`.
    objective: Class of its losses, a frozen dataclass, so that lineages can
      record it.
    tokens: What its tokens stand for: "texts" of items, or item "ids".
    train_step_flops: See `flops.train_step_flops`.
  """

  module: Callable[[Any, Sequence[TokenCache]], nn.Module]
  objective: type[RowObjective]
  tokens: Literal["texts", "ids"]
  train_step_flops: Callable[..., float]


def _decoder(config: DecoderConfig, caches: Sequence[TokenCache]) -> Decoder:
  del caches  # It reads the texts themselves.
  return Decoder(config)


def _sasrec(config: SASRecConfig, caches: Sequence[TokenCache]) -> SASRec:
  pairs = [
    (cache.texts(), cache.domain)
    for cache in caches
    if isinstance(cache, ItemCache)
  ]
  return SASRec(config, texts_for(config, pairs))


_DECODERS = Family(
  _decoder, objective.Objective, "texts", flops.train_step_flops
)
_SASREC = Family(_sasrec, next_item.NextItem, "ids", sasrec.train_step_flops)


def texts_for(
  config: SASRecConfig, caches: Sequence[tuple[TokenCache, ItemDomain]]
) -> ItemTexts | None:
  """The texts that a model of item ids reads; None if it reads none.

  Args:
    config: Shape of the model.
    caches: Token caches of texts, each with the item tokens of its domain; of
      others nothing is read.
  """
  if not config.text_tokens:
    return None
  if config.vocabulary_size is None:
    raise ValueError("SASRecConfig.vocabulary_size is None.")
  return item_ids.item_texts(
    caches,
    rows=config.table_rows,
    length=config.text_tokens,
    vocabulary_size=config.vocabulary_size,
  )


def family_of(config: ModelConfig) -> Family:
  """The family that a configuration belongs to."""
  if isinstance(config, DecoderConfig):
    return _DECODERS
  if isinstance(config, SASRecConfig):
    return _SASREC
  raise InputError(
    f"Stage.decoder is {config!r}; bind @DecoderConfig() or @SASRecConfig()."
  )


def abstract_params(module: nn.Module) -> Any:
  """Shapes and logical axes of a model's parameters; nothing is allocated.

  Args:
    module: Module of a family; `partitioning.place` unboxes its parameters
      and says where they live, `partitioning.unbox` gives shapes and dtypes.
  """

  def initialise() -> Any:
    # The key is made in here: the devices of the mesh need not be at hand.
    tokens = jnp.zeros((1, 1), jnp.int32)
    return module.init(jax.random.key(0), tokens, tokens, tokens)["params"]

  return jax.eval_shape(initialise)
