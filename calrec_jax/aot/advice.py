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
  """Bindings that take memory off a program, the cheapest first.

  Nothing where it fits with a tenth of the memory to spare: fragments and the
  runtime take some.

  Args:
    record: Record of `costs.measure`.
    stage: Stage that the record was made from.
    mesh_shape: Devices along each mesh axis.
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
    return ["DenseSearch.item_rows: fewer item texts at once"]
  advice = ["Sampler.rows: fewer prompts at once"]
  if record["program"] == "write_items":
    advice.append("Sampler.samples: fewer texts for a prompt")
  return advice


def _of_state(record: dict[str, Any], mesh_shape: dict[str, int]) -> list[str]:
  """Where parameters and optimizer state alone are too much."""
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
    advice.append('DecoderConfig.remat = "dots": keeps matrix products only')
  if config.remat in ("none", "dots"):
    advice.append('DecoderConfig.remat = "full": keeps inputs of layers only')
  copies = mesh_shape["replica"] * mesh_shape["data"]
  parts = copies * mesh_shape["fsdp"]
  turns = stage.feed.rows // (parts * stage.microbatches)
  if turns > 1:
    fewest = next(k for k in range(2, turns + 1) if turns % k == 0)
    advice.append(
      f"MICROBATCHES = {stage.microbatches * fewest}: fewer rows at "
      "once, for one more forward pass and the same result"
    )
  if mesh_shape["data"] > 1:
    advice.append(
      f"MeshShape.fsdp = {mesh_shape['data'] * mesh_shape['fsdp']} and "
      "MeshShape.data = 1: parameters and optimizer state on more chips"
    )
  if turns == 1:
    advice.append("MeshShape.tensor: a layer's width on several chips")
  advice.append(
    "--gin_file=tuning/adafactor.gin or tuning/lora.gin: less optimizer state"
  )
  return advice
