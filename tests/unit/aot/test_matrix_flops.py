"""Matrix FLOPs of traced programs against what they must be."""

import jax
import jax.numpy as jnp
import pytest
from flax.core import meta
from jax.sharding import PartitionSpec

from calrec_jax.aot import matrix_flops
from calrec_jax.models import splash
from calrec_jax.models.decoder import Decoder, DecoderConfig
from calrec_jax.runtime import partitioning

M, K, N = 4, 8, 16
ONE = 2 * M * K * N


def _count(function, *shapes):
  arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return matrix_flops.count(jax.jit(function).trace(*arrays).jaxpr)


def _twice(left, right):
  return jnp.tanh(left @ right) @ right.T


def test_a_product():
  assert _count(jnp.matmul, (M, K), (K, N)) == ONE
  assert _count(jnp.matmul, (3, M, K), (3, K, N)) == 3 * ONE


def test_a_gradient_has_two_more_products():
  def loss(left, right):
    return jnp.sum(jnp.tanh(left @ right))

  assert _count(jax.grad(loss, (0, 1)), (M, K), (K, N)) == 3 * ONE


def test_what_is_computed_again_counts():
  def loss(left, right):
    return jnp.sum(jax.checkpoint(_twice)(left, right) ** 2)

  plain = _count(
    jax.grad(lambda *a: jnp.sum(_twice(*a) ** 2), (0, 1)), (M, K), (K, N)
  )
  again = _count(jax.grad(loss, (0, 1)), (M, K), (K, N))
  assert again >= plain + ONE


@pytest.mark.parametrize("length", [1, 7])
def test_a_scan_counts_every_turn(length):
  def scanned(left, right):
    def turn(carry, _):
      return _twice(carry, right), None

    return jax.lax.scan(turn, left, None, length=length)[0]

  assert _count(scanned, (M, K), (K, N)) == 2 * ONE * length


def test_of_a_branch_the_dearest_side_counts_and_of_a_loop_one_turn():
  def branch(left, right):
    return jax.lax.cond(
      left[0, 0] > 0, lambda: _twice(left, right), lambda: left
    )

  def loop(left, right):
    return jax.lax.while_loop(
      lambda carry: carry[0, 0] > 0, lambda carry: _twice(carry, right), left
    )

  assert _count(branch, (M, K), (K, N)) == 2 * ONE
  assert _count(loop, (M, K), (K, N)) == 2 * ONE


def test_every_device_counts():
  mesh = partitioning.make_mesh(partitioning.MeshShape(data=4, tensor=2))
  spec = PartitionSpec("data")

  def by_device(left, right):
    return jax.shard_map(
      jnp.matmul,
      in_specs=(spec, PartitionSpec()),
      out_specs=spec,
      axis_names={"data"},
    )(left, right)

  with jax.set_mesh(mesh):
    assert _count(by_device, (4 * M, K), (K, N)) == 4 * ONE


def test_a_convolution():
  def convolve(image, kernel):
    return jax.lax.conv(image, kernel, (1, 1), "VALID")

  count = _count(convolve, (1, 3, 8, 8), (5, 3, 2, 2))
  assert count == 2 * (5 * 7 * 7) * (3 * 2 * 2)


@pytest.mark.parametrize(("window", "blocks"), [(None, 6), (100, 5)])
def test_a_kernel_counts_the_blocks_that_it_executes(window, blocks):
  rows, length, heads, features, size = 2, 384, 2, 128, 128

  def attend(query, segments):
    return splash.attend(
      query, query, query, segment_ids=segments, kind=jnp.int32(0),
      windows=(window,), scale=1.0,
    )  # fmt: skip

  def count(function):
    query = jax.ShapeDtypeStruct((rows, length, heads, features), jnp.float32)
    segments = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    return matrix_flops.count(jax.jit(function).trace(query, segments).jaxpr)

  one = rows * heads * blocks * 2 * size * size * features
  assert count(attend) == 2 * one
  # Then logits again, and gradients of chances, values, keys and queries; and
  # outputs times their gradients.
  backward = jax.grad(lambda q, s: jnp.sum(attend(q, s)))
  outputs = 2 * rows * heads * length * features
  assert count(backward) == (2 + 5) * one + outputs


def test_what_a_policy_keeps_is_not_computed_again():
  def count(remat):
    config = DecoderConfig(
      vocab_size=128, width=32, layers=2, heads=2, head_dim=128, kv_heads=1,
      mlp_width=32, window=100, global_every=2, remat=remat,
      attention_kernel="splash",
    )  # fmt: skip
    model = Decoder(config)
    tokens = jax.ShapeDtypeStruct((1, 256), jnp.int32)
    arguments = (jax.random.key(0), tokens, tokens, tokens)
    params = meta.unbox(jax.eval_shape(model.init, *arguments))

    def loss(params, tokens):
      return jnp.sum(model.apply(params, tokens, tokens, tokens) ** 2)

    program = jax.jit(jax.grad(loss)).trace(params, tokens)
    return matrix_flops.count(program.jaxpr)

  # A forward pass of the kernel is 3 blocks of 2 heads in each of 2 layers.
  kernel = 2 * 3 * 2 * (2 * 2 * 128**3)
  assert count("none") <= count("dots") <= count("full") - kernel
