"""Matrix FLOPs of a training step, counted from the model's shape.

A multiplication with its addition counts as two. What remat computes again is
not counted: utilisation is of the FLOPs that the model needs.
"""

from calrec_jax.models.decoder_config import DecoderConfig


def layer_flops_per_token(config: DecoderConfig, attended: float) -> float:
  """Forward FLOPs of one token in all layers.

  Args:
    config: shape of the decoder.
    attended: keys that a query is multiplied with, on average.
  """
  heads = 2 * config.heads + 2 * config.kv_heads  # query, out, key, value
  projections = 2 * config.width * heads * config.head_dim
  scores = 2 * 2 * attended * config.heads * config.head_dim
  mlp = 2 * 3 * config.width * config.mlp_width
  return config.layers * (projections + scores + mlp)


def train_step_flops(
  config: DecoderConfig,
  *,
  tokens: float,
  loss_tokens: float,
  attended: float,
) -> float:
  """FLOPs of forward and backward pass; the backward one costs twice as much.

  Args:
    config: shape of the decoder, with its vocabulary.
    tokens: of the batch, padding left out.
    loss_tokens: tokens whose logits are needed.
    attended: keys of a query, on average.
  """
  logits = 2 * config.width * (config.vocab_size or 0)
  forward = tokens * layer_flops_per_token(config, attended)
  return 3 * (forward + loss_tokens * logits)
