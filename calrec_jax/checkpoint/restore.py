"""Parameters of a checkpoint, for a model that may differ in its LoRA.

A stage may train LoRA and the next one everything, or the other way round:
matrices missing in the model are merged into the kernels, matrices missing in
the checkpoint are freshly initialised. `store` checks that all else matches.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax

from calrec_jax.checkpoint import store
from calrec_jax.models import lora as loras
from calrec_jax.models import tuning
from calrec_jax.models.decoder import Decoder, DecoderConfig
from calrec_jax.models.families import abstract_params
from calrec_jax.models.lora import Lora
from calrec_jax.runtime import partitioning


def restore_params(
  checkpoint: pathlib.Path,
  config: DecoderConfig,
  abstract: Any,
  shardings: Any,
  fresh: Any = None,
) -> Any:
  """Reads only the parameters, onto their devices.

  A checkpoint's LoRA is read as it is if the model's has the same settings, and
  merged if they differ or the model has none.

  Args:
    checkpoint: Path of a `checkpoint_<step>` folder.
    config: Configuration of the model that the parameters are for.
    abstract: Unboxed shapes and dtypes of its parameters.
    shardings: `NamedSharding` of each parameter.
    fresh: Freshly initialised parameters of the model, the source of LoRA's if
      the checkpoint's do not fit. None refuses such a checkpoint.

  Raises:
    CheckpointError: with every missing, unexpected and mismatched array.
  """
  stored = stored_lora(checkpoint)
  if stored == config.lora:
    return store.restore_params(checkpoint, abstract, shardings)
  if config.lora is not None and fresh is None:
    raise store.CheckpointError(
      f"{checkpoint} was trained with {stored}, DecoderConfig.lora is "
      f"{config.lora}. Bind Lora as it was trained, or DecoderConfig.lora = "
      "None, which merges the checkpoint's."
    )
  base, base_shardings = map(loras.without_lora, (abstract, shardings))
  if stored is None:
    params = store.restore_params(checkpoint, base, base_shardings)
  else:
    stored_config = dataclasses.replace(config, lora=stored)
    params = _merged(checkpoint, stored_config, base, base_shardings)
  return params if fresh is None else loras.fill_missing(params, fresh)


def stored_lora(checkpoint: pathlib.Path) -> Lora | None:
  """The settings of a checkpoint's LoRA; None if it has none.

  Raises:
    CheckpointError: if its lineage does not record them.
  """
  paths = store.metadata(checkpoint)
  if not any(path.split("/")[-1] in loras.LEAVES for path in paths):
    return None
  training = store.read_json(checkpoint, "lineage").get("training", {})
  settings = training.get("DecoderConfig", {}).get("lora")
  if settings is None:
    raise store.CheckpointError(
      f"{checkpoint} holds LoRA matrices, but its lineage has no "
      "DecoderConfig.lora, so that their scaling is not known."
    )
  return Lora(**settings)


def _merged(
  checkpoint: pathlib.Path, config: DecoderConfig, base: Any, shardings: Any
) -> Any:
  """The parameters of a checkpoint with its LoRA merged, on `shardings`."""
  mesh = jax.tree.leaves(shardings)[0].mesh
  params = store.restore_params(
    checkpoint, *partitioning.place(abstract_params(Decoder(config)), mesh)
  )

  def merge(kernels: Any, low_rank: Any) -> Any:
    return loras.merge_lora(tuning.join(kernels, low_rank), config)

  merged = jax.jit(merge, out_shardings=shardings, donate_argnums=0)(
    loras.without_lora(params), loras.lora_leaves(params)
  )
  return jax.tree.map(
    lambda leaf, wanted: leaf.astype(wanted.dtype), merged, base
  )
