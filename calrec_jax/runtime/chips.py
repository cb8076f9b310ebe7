"""Peak FLOP/s of accelerators, as specified by their manufacturers."""

from __future__ import annotations

import jax

# Dense bfloat16 matrix FLOP/s of one device, by JAX's device kind. Sources:
# cloud.google.com/tpu/docs (system architecture pages) and NVIDIA's data sheets
# (without sparsity).
PEAK_FLOPS = {
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5e": 197e12,
  "TPU v5": 459e12,
  "TPU v5p": 459e12,
  "TPU v6 lite": 918e12,
  "TPU v6e": 918e12,
  "NVIDIA A100-SXM4-80GB": 312e12,
  "NVIDIA A100-SXM4-40GB": 312e12,
  "NVIDIA H100 80GB HBM3": 989e12,
  "NVIDIA H200": 989e12,
}


def peak_flops() -> float | None:
  """FLOP/s of all devices together, or None if the peak is unknown."""
  peak = PEAK_FLOPS.get(jax.devices()[0].device_kind)
  return peak * jax.device_count() if peak else None
