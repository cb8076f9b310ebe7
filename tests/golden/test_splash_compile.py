"""The attention kernel becomes a program on every generation of TPU.

Forward and backward, for layers with and without a window, on devices that
split rows and heads. Compiled in a process of its own.
"""

import subprocess
import sys

import pytest

from tests.fixtures import tpu_compiler

pytestmark = [pytest.mark.slow, tpu_compiler.needed]

PROGRAM = """
import sys

from calrec_jax.aot import environment  # Before JAX.
from calrec_jax.aot import topology

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from calrec_jax.models import splash
from calrec_jax.runtime import partitioning

name, features = sys.argv[1], int(sys.argv[2])
devices = topology.describe(name).devices
shape = partitioning.MeshShape(data=1, fsdp=len(devices) // 2, tensor=2)
mesh = partitioning.make_mesh(shape, devices)


def array(shape, dtype, *axes):
  sharding = NamedSharding(mesh, PartitionSpec(*axes))
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def loss(query, key, value, segments, kind):
  output = splash.attend(
    query, key, value, segment_ids=segments, kind=kind, windows=(None, 300),
    scale=0.1,
  )
  return jnp.sum(output.astype(jnp.float32) ** 2)


heads = ("fsdp", None, "tensor")
query = array((4, 1024, 4, features), jnp.bfloat16, *heads)
key = array((4, 1024, 2, features), jnp.bfloat16, *heads)
segments = array((4, 1024), jnp.int32, "fsdp")
with partitioning.activate(mesh, partitioning.logical_axis_rules()):
  assert splash.applies("auto", 4, 1024)
  program = jax.jit(jax.grad(loss, (0, 1, 2)))
  text = program.lower(
    query, key, key, segments, jax.ShapeDtypeStruct((), jnp.int32)
  ).compile().as_text()
# Forward and, fused, backward; two kinds of layer.
assert text.count("tpu_custom_call") >= 4, text.count("tpu_custom_call")
# Each device is on its own.
assert "all-gather" not in text and "all-reduce" not in text
"""


@pytest.mark.parametrize("features", [64, 256])
@pytest.mark.parametrize(
  "name", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"]
)
def test_it_compiles(name, features):
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM, name, str(features)],
    env=tpu_compiler.environment(),
    capture_output=True,
    text=True,
    timeout=600,
    check=False,
  )
  assert done.returncode == 0, done.stderr
