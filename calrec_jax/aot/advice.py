"""What to change when a program does not fit."""

from __future__ import annotations

import math
from typing import Any

from calrec_jax.models.decoder_config import DecoderConfig
from calrec_jax.train.stages import Stage

SPARE = 0.1


def for_record(
  record: dict[str, Any], stage: Stage, mesh_shape: dict[str, int]
) -> list[str]:
  """Bindings that reduce a program's memory, cheapest first.

  Empty if at least a tenth of the memory is free, as fragmentation and the
  runtime need some.

  Args:
    record: Record of `costs.measure`.
    stage: Configuration of the stage.
    mesh_shape: Number of devices along each mesh axis.
  """
  spare = 1 - record["peak_bytes"] / record["available_bytes"]
  if record["fits"] and spare >= SPARE:
    return []
  if record["program"] == "train_step":
    return [
      *_of_state(record, mesh_shape),
      *_of_training(stage, stage.decoder, mesh_shape),
    ]
  if record["program"] == "encode_items":
    return ["DenseSearch.item_rows: fewer item texts per batch"]
  advice = ["Sampler.rows: fewer prompts per batch"]
  if record["program"] == "write_items":
    advice.append("Sampler.samples: fewer texts per prompt")
  return advice


def _of_state(record: dict[str, Any], mesh_shape: dict[str, int]) -> list[str]:
  """Advice where parameters and optimizer state alone do not fit."""
  held = record["arguments"]["parameters"] + record["arguments"]["optimizer"]
  room = (1 - SPARE) * record["available_bytes"]
  if held < room:
    return []
  chips = math.ceil(held * mesh_shape["fsdp"] / room)
  return [
    f"MeshShape.fsdp: parameters and optimizer state alone need {chips} chips "
    "along it"
  ]


def _of_training(
  stage: Stage, config: DecoderConfig, mesh_shape: dict[str, int]
) -> list[str]:
  advice = []
  if config.remat == "none":
    advice.append('DecoderConfig.remat = "dots": saves matrix products only')
  if config.remat in ("none", "dots"):
    advice.append('DecoderConfig.remat = "full": saves inputs of layers only')
  copies = mesh_shape["replica"] * mesh_shape["data"]
  parts = copies * mesh_shape["fsdp"]
  turns = stage.feed.rows // (parts * stage.microbatches)
  if turns > 1:
    fewest = next(k for k in range(2, turns + 1) if turns % k == 0)
    advice.append(
      f"MICROBATCHES = {stage.microbatches * fewest}: fewer rows at a "
      "time, with the same result for one more forward pass"
    )
  if mesh_shape["data"] > 1:
    advice.append(
      f"MeshShape.fsdp = {mesh_shape['data'] * mesh_shape['fsdp']} and "
      "MeshShape.data = 1: parameters and optimizer state on more chips"
    )
  if turns == 1:
    advice.append("MeshShape.tensor: layers split over several chips")
  advice.append(
    "--gin_file=tuning/adafactor.gin or tuning/lora.gin: less optimizer state"
  )
  return advice
