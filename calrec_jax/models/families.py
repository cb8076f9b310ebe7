"""The families of models that a stage can train, by their configuration.

A family gives the loop all that depends on the kind of model: the module, what
its tokens are, and the FLOPs of a step. Its objective goes with it.
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
  """What the loop asks of a kind of model.

  Attributes:
    module: makes the Flax module of a configuration. It is called with tokens,
      positions and segment ids [R, L], and `deterministic`.
    objective: the class of its losses, a frozen dataclass, so that lineages
      keep it.
    tokens: "texts" of items, or the items' "ids".
    train_step_flops: see `flops.train_step_flops`.
  """

  module: Callable[[Any], nn.Module]
  objective: type[RowObjective]
  tokens: Literal["texts", "ids"]
  train_step_flops: Callable[..., float]


_FAMILIES = {
  DecoderConfig: Family(
    Decoder, objective.Objective, "texts", flops.train_step_flops
  ),
  SASRecConfig: Family(
    SASRec, next_item.NextItem, "ids", sasrec.train_step_flops
  ),
}


def family_of(config: ModelConfig) -> Family:
  """The family that a configuration belongs to.

  Raises:
    TypeError: for something else, with the binding.
  """
  for kind, family in _FAMILIES.items():
    if isinstance(config, kind):
      return family
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
