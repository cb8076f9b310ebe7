"""What the quickstart trains, as resolved, and how its model is sharded."""

import gin
import jax
import jax.numpy as jnp
import pytest

from calrec_jax import config
from calrec_jax.models.decoder import Decoder, DecoderConfig
from calrec_jax.runtime import partitioning
from calrec_jax.runtime.partitioning import MeshShape

TOKENS = 2000  # Of a vocabulary; the model rounds them up.
MESHES = (
  {"data": 8},
  {"data": 1, "fsdp": 8},
  {"data": 1, "fsdp": 2, "tensor": 4},
  {"replica": 2, "data": 1, "fsdp": 2, "tensor": 2},
)


@pytest.fixture(autouse=True)
def clean_gin():
  yield
  gin.clear_config()


@pytest.mark.parametrize("stage", ["joint", "target"])
def test_the_configuration_is_as_it_was(golden, stage):
  config.Configuration(files=("recipes/quickstart.gin",)).apply(stage)
  golden(f"quickstart_{stage}.gin", config.text())


def test_every_parameter_lies_where_it_lay(golden):
  config.Configuration(files=("models/tiny.gin",)).apply()
  decoder = Decoder(DecoderConfig().for_vocabulary(TOKENS))
  tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  boxed = jax.eval_shape(
    decoder.init, jax.random.key(0), tokens, tokens, tokens
  )["params"]
  rules = partitioning.logical_axis_rules()
  tables = [
    partitioning.parameter_table(
      boxed, partitioning.make_mesh(MeshShape(**axes)), rules
    )
    for axes in MESHES
  ]
  golden("tiny_parameters.txt", "\n\n".join(tables) + "\n")
