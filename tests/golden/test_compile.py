"""`calrec compile` on a tiny recipe: what a TPU slice would do with it.

Compiled by the TPU compiler itself, in a process of its own: exchanges between
chips and memory as the golden file says, and one recipe that does not fit.
"""

import json
import subprocess
import sys

import jax
import pytest

from tests.fixtures import tpu_compiler

MEMORY = 0.1  # Versions of the compiler differ in what they keep.
RECIPE = (
  "--gin_file=recipes/quickstart.gin",
  "--gin_file=models/debug.gin",
  '--gin.TASK_FEATURE_LENGTHS={"tokens": 128, "slots": 8}',
  '--gin.DecoderConfig.dtype="bfloat16"',
  "--gin.DecoderConfig.attention_blocks=1",
  "--stage=target",
  "--item_tokens=16",
)
# What the compiler makes of a program changes with its version.
GOLDEN_OF = "0.10.2"

pytestmark = tpu_compiler.needed


def _compile(folder, *flags):
  output = folder / "compile.json"
  done = subprocess.run(
    [sys.executable, "-m", "calrec_jax", "compile", *RECIPE, *flags,
     f"--output={output}"],
    env=tpu_compiler.environment()
    | {"CALREC_DATA_DIR": str(folder / "data")},
    capture_output=True, text=True, timeout=600, check=False,
  )  # fmt: skip
  assert output.exists(), done.stderr
  [record] = json.loads(output.read_text())["programs"]
  return record, done


def test_a_step_on_four_chips(tmp_path, golden):
  flags = (
    "--topology=v5e:2x2",
    "--gin.MeshShape.data=2",
    "--gin.MeshShape.fsdp=2",
    "--vocab_size=512",
    "--program=train_step",
  )
  record, done = _compile(tmp_path, *flags)
  assert done.returncode == 0
  # Weights and gradients are never sent around in pieces.
  assert not any("permute" in kind for kind in record["collectives"])
  assert any("reduce-scatter@2" in kind for kind in record["collectives"])
  again, done = _compile(tmp_path, *flags)
  assert again == record  # Remembered, to the compiler's seconds.
  if jax.__version__ != GOLDEN_OF:
    pytest.skip(f"the golden file is of JAX {GOLDEN_OF}, not {jax.__version__}")
  assert record["peak_bytes"] == pytest.approx(3.37e6, rel=MEMORY)
  golden(
    "compile_tiny_step.json",
    json.dumps(
      {
        "arguments": record["arguments"],
        "executed_flops": record["executed_flops"],
        "collectives": record["collectives"],
        "mesh": record["mesh"],
      },
      indent=2,
    )
    + "\n",
  )


def test_a_recipe_that_does_not_fit(tmp_path):
  record, done = _compile(
    tmp_path,
    "--topology=v5e:2x2",
    "--vocab_size=100000000",
    "--program=train_step",
  )
  assert done.returncode == 1
  assert not record["fits"]
  assert "DOES NOT FIT" in done.stdout
  assert "MeshShape.fsdp: parameters and optimizer state alone" in done.stdout


@pytest.mark.slow
def test_a_step_on_two_slices(tmp_path):
  record, done = _compile(
    tmp_path,
    "--topology=v5e:2x2",
    "--slices=2",
    "--gin.MeshShape.replica=2",
    "--gin.MeshShape.data=2",
    "--gin.MeshShape.fsdp=2",
    "--vocab_size=512",
    "--program=train_step",
  )
  assert done.returncode == 0
  assert record["mesh"]["replica"] == 2
  # Between slices go gradients, already scattered (the embedding's twice: of
  # lookups and of logits), and the vectors that are compared; never weights.
  # What is this small is padded to whole tiles.
  across = {k: v for k, v in record["collectives"].items() if "slices" in k}
  assert across
  parameters = record["arguments"]["parameters"]
  assert sum(total["bytes"] for total in across.values()) < 3 * parameters
