"""The model families that a stage can train, by their configuration.

A family tells the training loop what depends on the kind of model: its module,
objective and tokens, and the FLOPs of a step.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

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
    module: Function from a configuration to its Flax module, which is called
      with tokens, positions and segment ids [R, L], and `deterministic`.
    objective: Class of its losses, a frozen dataclass, so that lineages can
      record it.
    tokens: What its tokens stand for: "texts" of items, or item "ids".
    train_step_flops: See `flops.train_step_flops`.
  """

  module: Callable[[Any], nn.Module]
  objective: type[RowObjective]
  tokens: Literal["texts", "ids"]
  train_step_flops: Callable[..., float]


_DECODERS = Family(
  Decoder, objective.Objective, "texts", flops.train_step_flops
)
_SASREC = Family(SASRec, next_item.NextItem, "ids", sasrec.train_step_flops)


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
