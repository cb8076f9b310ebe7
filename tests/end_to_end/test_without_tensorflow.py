"""Raw files to recommendations, in a process where TensorFlow is forbidden."""

import os
import subprocess
import sys

from tests.fixtures import planted_log

LONGEST_SECONDS = 600  # Of a hanging process; a busy machine is slow.

_PROGRAM = """
import importlib.machinery, sys

FORBIDDEN = {"tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio"}
attempts = []

class Forbid:
  # Whether a module is installed may be looked up, but it is not imported.
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in FORBIDDEN:
      return importlib.machinery.ModuleSpec(name, self)

  def create_module(self, spec):
    attempts.append(spec.name)
    raise ImportError(f"{spec.name} is forbidden")

  def exec_module(self, module):
    raise AssertionError

sys.meta_path.insert(0, Forbid())
from calrec_jax.__main__ import main

if __name__ == "__main__":
  for verb, *more in (
    ["train"],
    ["eval"],
    ["infer", "--user=u3", "--recommender=dense", "--top_k=2"],
  ):
    assert main([verb, *sys.argv[1:], *more]) == 0, verb
  print("attempts:", attempts)
"""


def test_training_evaluation_and_inference(tmp_path):
  recipe = planted_log.write_own_log(tmp_path / "log")
  flags = [
    f"--gin_file={recipe}",
    "--gin.joint/TRAIN_STEPS=2",
    "--gin.target/TRAIN_STEPS=2",
    '--gin.Evaluation.recommenders=("dense", "generate", "popularity")',
  ]
  output = subprocess.run(
    [sys.executable, "-c", _PROGRAM, *flags],
    check=True,
    stdout=subprocess.PIPE,
    text=True,
    timeout=LONGEST_SECONDS,
    env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
  ).stdout.splitlines()
  assert output[-1] == "attempts: []"
  assert "user u3, by dense" in output
  [cache] = (tmp_path / "log" / "data" / "caches").glob("own_log-*")
  assert (cache / "COMPLETED").exists()
  assert not (tmp_path / "log" / "data" / "tfds").exists()
