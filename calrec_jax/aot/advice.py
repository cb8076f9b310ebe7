"""Settings to change if a program does not fit."""

from __future__ import annotations

import math
from typing import Any

from calrec_jax.aot import programs
from calrec_jax.runtime import partitioning
from calrec_jax.train.stages import Stage

SPARE = 0.1


def for_record(
  record: dict[str, Any], stage: Stage, mesh_shape: dict[str, int]
) -> list[str]:
  """Bindings that reduce a program's memory, cheapest first.

  Empty if at least `SPARE` of the memory is free for fragmentation and the
  runtime.

  Args:
    record: Record of `costs.measure`.
    stage: Configuration of the stage.
    mesh_shape: Number of devices along each mesh axis.
  """
  spare = 1 - record["peak_bytes"] / record["available_bytes"]
  if record["fits"] and spare >= SPARE:
    return []
  if record["program"] == "train_step":
    return _for_state(record, mesh_shape) + _for_training(stage, mesh_shape)
  if record["program"] == "encode_items":
    return ["DenseSearch.item_rows: fewer item texts per batch"]
  advice = ["Sampler.rows: fewer prompts per batch"]
  if record["program"] == "write_items":
    advice.append("Sampler.samples: fewer texts per prompt")
  return advice


def _for_state(record: dict[str, Any], mesh_shape: dict[str, int]) -> list[str]:
  """Advice if parameters and optimizer state alone do not fit."""
  state = record["arguments"]["parameters"] + record["arguments"]["optimizer"]
  usable = (1 - SPARE) * record["available_bytes"]
  if state < usable:
    return []
  chips = math.ceil(state * mesh_shape["fsdp"] / usable)
  return [
    f"MeshShape.fsdp: parameters and optimizer state alone need {chips} chips "
    "along it"
  ]


def _for_training(stage: Stage, mesh_shape: dict[str, int]) -> list[str]:
  advice = []
  remat = programs.decoder_of(stage).remat
  if remat == "none":
    advice.append('DecoderConfig.remat = "dots": saves matrix products only')
  if remat in ("none", "dots"):
    advice.append('DecoderConfig.remat = "full": saves inputs of layers only')
  parts = math.prod(mesh_shape[axis] for axis in partitioning.BATCH_AXES)
  rows = stage.feed.rows // (parts * stage.microbatches)  # Per device.
  if rows > 1:
    fewest = next(k for k in range(2, rows + 1) if rows % k == 0)
    advice.append(
      f"MICROBATCHES = {stage.microbatches * fewest}: fewer rows at a "
      "time, with the same result for one more forward pass"
    )
  if mesh_shape["data"] > 1:
    advice.append(
      f"MeshShape.fsdp = {mesh_shape['data'] * mesh_shape['fsdp']} and "
      "MeshShape.data = 1: parameters and optimizer state on more chips"
    )
  if rows == 1:
    advice.append("MeshShape.tensor: layers split over several chips")
  advice.append(
    "--gin_file=tuning/adafactor.gin or tuning/lora.gin: less optimizer state"
  )
  return advice
