"""Meshes, rules and shardings: what fits, and what is said if it does not."""

import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from calrec_jax.models.decoder import Decoder
from calrec_jax.runtime import partitioning
from calrec_jax.runtime.partitioning import MeshShape, PartitioningError
from tests.fixtures import model_toys


def _boxed(**changes):
  blank = jnp.zeros((1, 2), jnp.int32)
  module = Decoder(model_toys.config(**changes))
  return jax.eval_shape(module.init, jax.random.key(0), blank, blank, blank)[
    "params"
  ]


@pytest.mark.parametrize(
  ("shape", "devices", "sizes"),
  [
    ({}, 8, (1, 8, 1, 1)),
    ({"fsdp": -1, "data": 2}, 8, (1, 2, 4, 1)),
    ({"replica": 2, "data": 1, "fsdp": 2, "tensor": 2}, 8, (2, 1, 2, 2)),
  ],
)
def test_sizes_of_a_mesh(shape, devices, sizes):
  assert MeshShape(**shape).resolve(devices) == sizes


@pytest.mark.parametrize(
  ("shape", "message"),
  [
    ({"tensor": 3}, "tensor 3, but 8 devices are not a multiple of 3"),
    ({"data": 4}, "= 4 devices, but there are 8"),
    ({"data": -1, "fsdp": -1}, "at most one of them is -1"),
    ({"data": 0}, "every axis is at least 1"),
  ],
)
def test_meshes_that_do_not_fit(shape, message):
  with pytest.raises(PartitioningError, match=message):
    MeshShape(**shape).resolve(8)


def _devices(slices, chips):
  return [
    types.SimpleNamespace(
      id=chips * index + chip,
      slice_index=index,
      platform="cpu",
      device_kind="cpu",
    )
    for index in range(slices)
    for chip in range(chips)
  ]


def test_a_copy_of_the_model_lies_within_one_slice():
  # Even where the devices are listed in another order.
  devices = _devices(slices=2, chips=4)[::-1]
  found = partitioning.arrange_slices((4, 1, 2, 1), devices)
  assert found.shape == (4, 1, 2, 1)
  slices = [{device.slice_index for device in copy.flat} for copy in found]
  assert slices == [{0}, {0}, {1}, {1}]
  with pytest.raises(
    PartitioningError, match=r"MeshShape\.replica a multiple of 2"
  ):
    partitioning.arrange_slices((1, 4, 2, 1), devices)


def test_unknown_logical_axis_is_refused():
  rules = partitioning.logical_axis_rules()
  with pytest.raises(PartitioningError, match="the logical axis 'emded'"):
    partitioning.partition_spec(("vocab", "emded"), rules)
  mesh = partitioning.make_mesh(MeshShape())
  with (
    partitioning.activate(mesh, rules),
    pytest.raises(PartitioningError, match="the logical axis 'lenght'"),
  ):
    partitioning.constrain(jnp.zeros((8, 2)), "activation_batch", "lenght")


def test_indivisible_dimension_says_the_arithmetic():
  mesh = partitioning.make_mesh(MeshShape(data=1, tensor=8))
  with pytest.raises(
    PartitioningError,
    match=r"'kv_heads' has 4 entries, which tensor = 8 devices do not divide.*"
    r"logical_axis_rules\.kv_heads = None",
  ):
    partitioning.state_shardings(
      _boxed(), mesh, partitioning.logical_axis_rules()
    )


def test_rows_must_split_over_the_batch_axes():
  mesh = partitioning.make_mesh(MeshShape(data=2, fsdp=2, tensor=2))
  partitioning.require_rows(12, mesh)
  with pytest.raises(PartitioningError, match=r"10 rows cannot be split.*= 4"):
    partitioning.require_rows(10, mesh)
  partitioning.require_rows(24, mesh, microbatches=3)
  with pytest.raises(
    PartitioningError, match=r"\(Stage.microbatches\) = 2 of.*multiple of 8"
  ):
    partitioning.require_rows(12, mesh, microbatches=2)


def test_one_table_decides_where_parameters_live():
  mesh = partitioning.make_mesh(MeshShape(data=2, fsdp=2, tensor=2))
  rules = partitioning.logical_axis_rules(kv_heads=None)
  found = partitioning.state_shardings(_boxed(kv_heads=1), mesh, rules)
  layer = found["layers"]
  assert {
    "embedding": found["token_embedder"]["embedding"].spec,
    "query": layer["attention"]["query"]["kernel"].spec,
    "key": layer["attention"]["key"]["kernel"].spec,
    "wo": layer["mlp"]["wo"]["kernel"].spec,
    "norm": layer["pre_mlp_norm"]["scale"].spec,
  } == {
    "embedding": PartitionSpec("tensor", "fsdp"),
    "query": PartitionSpec(None, "fsdp", "tensor", None),
    "key": PartitionSpec(None, "fsdp", None, None),
    "wo": PartitionSpec(None, "tensor", "fsdp"),
    "norm": PartitionSpec(None, None),
  }
  assert partitioning.batch_sharding(mesh).spec == PartitionSpec(
    ("replica", "data", "fsdp")
  )


def test_table_of_parameters_adds_up():
  mesh = partitioning.make_mesh(MeshShape(data=2, fsdp=2, tensor=2))
  boxed = _boxed(kv_heads=2)
  text = partitioning.parameter_table(
    boxed, mesh, partitioning.logical_axis_rules()
  )
  lines = text.splitlines()
  leaves = jax.tree.leaves(nn.meta.unbox(boxed))
  assert len(lines) == 1 + len(leaves) + 1
  row = next(line for line in lines if "mlp/wi_0" in line)
  assert row.split()[0] == "layers/mlp/wi_0/kernel"
  assert "2×16×32" in row
  assert "layers, embed, mlp" in row
  assert "·, fsdp, tensor" in row
  assert row.split()[-1] == f"{2 * 16 * 32 * 4 // 4:,}"
  total = sum(leaf.size for leaf in leaves)
  assert lines[-1].startswith(f"{total:,} parameters, {4 * total:,} bytes")
  assert lines[-1].endswith("(replica 1 × data 2 × fsdp 2 × tensor 2)")
