"""Matrix FLOPs of a training step, counted from the model's shape.

A multiply-add counts as two. Gradients of frozen parameters are not computed
and not counted, and neither is what remat and the first pass over microbatches
recompute: utilisation refers to the FLOPs that training needs.
"""

from collections.abc import Callable

from calrec_jax.models.decoder_config import DecoderConfig


def layer_kernels(config: DecoderConfig) -> dict[str, int]:
  """Elements of every matrix of one layer, by parameter path."""
  query, key = (
    (config.width, heads * config.head_dim)
    for heads in (config.heads, config.kv_heads)
  )
  mlp = (config.width, config.mlp_width)
  sides = {
    **{"attention/query": query, "attention/out": query[::-1]},
    **{"attention/key": key, "attention/value": key},
    **{"mlp/wi_0": mlp, "mlp/wi_1": mlp, "mlp/wo": mlp[::-1]},
  }
  kernels = {}
  for name, (inputs, outputs) in sides.items():
    kernels[f"layers/{name}/kernel"] = inputs * outputs
    lora = config.lora
    if lora is not None and name.split("/")[1] in lora.targets:
      kernels[f"layers/{name}/lora_a"] = inputs * lora.rank
      kernels[f"layers/{name}/lora_b"] = lora.rank * outputs
  return kernels


def train_step_flops(
  config: DecoderConfig,
  *,
  tokens: float,
  loss_tokens: float,
  attended: float,
  trained: Callable[[str], bool] = lambda path: True,
) -> float:
  """FLOPs of forward and backward pass.

  The backward pass of a trained matrix costs twice its forward pass, that of a
  frozen one as much: only its input has a gradient.

  Args:
    config: Shape of the decoder, with its vocabulary.
    tokens: Tokens of the batch, without padding.
    loss_tokens: Tokens whose logits are needed.
    attended: Mean number of keys per query.
    trained: Whether the parameter at a path is trained. At least one in the
      layers or the embedding must be, so that the gradient passes all layers.
  """
  kernels = layer_kernels(config)
  updated = sum(size for path, size in kernels.items() if trained(path))
  layers = 2 * (2 * sum(kernels.values()) + updated)
  # Scores and weighted values; both factors of each have a gradient.
  layers += 3 * 2 * 2 * attended * config.heads * config.head_dim
  tied = config.tied_embeddings
  output = "token_embedder/embedding" if tied else "logits_dense/kernel"
  passes = 3 if trained(output) else 2
  logits = passes * 2 * config.width * (config.vocab_size or 0)
  return tokens * config.layers * layers + loss_tokens * logits
