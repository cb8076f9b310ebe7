"""A build that is killed at any point ends with what an unbroken one writes.

The processes are programs of their own that kill themselves (SIGKILL) where
most is half done, one point after another in the same data folder.
"""

import hashlib
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.fixtures import planted_log

LONGEST_SECONDS = 900  # Of a hanging process; a busy machine is slow.

# Dies at the point of this name, or in the middle of a file.
_PROGRAM = """
import os, pathlib, signal, sys
from calrec_jax.__main__ import main
from calrec_jax.data.cache import writer

point = sys.argv[1]

def die(*args, **kwargs):
  os.kill(os.getpid(), signal.SIGKILL)

def after(calls, function):
  def call(*args, **kwargs):
    result = function(*args, **kwargs)
    if len(seen) == calls:
      die()
    seen.append(None)
    return result

  seen = []
  return call

if point == "vocabulary half":
  os.rename = die
elif point == "vocabulary":
  os.rename = after(0, os.rename)
elif point.startswith("dataset"):
  from calrec_jax.data.seqio import builder

  examples, info = builder.examples_lib.Examples, builder.tfds.core.DatasetInfo
  if point == "dataset half":  # The catalogue has 48 examples, then users come.
    examples._example = after(60, examples._example)
  elif point == "dataset before its move":
    info.write_to_directory = after(0, info.write_to_directory)
  else:
    builder.write = after(0, builder.write)
elif point == "cache half":
  writer._Writer.__call__ = after(60, writer._Writer.__call__)
elif point == "cache before its move":
  os.rename = die
elif point == "cache":
  os.rename = after(0, os.rename)

if __name__ == "__main__":
  sys.exit(main(sys.argv[2:]))
"""

# What builds, and its points; each comes after what the one before has left
# whole, which is counted after the last point of each thing that is built.
POINTS = (
  ("cache", "vocabulary half"),
  ("cache", "vocabulary"),
  ("cache", "cache half"),
  ("cache", "cache before its move"),
  ("cache", "cache"),
  ("build", "dataset half"),
  ("build", "dataset before its move"),
  ("build", "dataset"),
)
WHOLE = {"vocabulary": 1, "cache": 2, "dataset": 3}  # What there is afterwards.


def hashes(folder):
  """Every file but the locks and TFDS's records, which have no fixed bytes."""
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
    and ".locks" not in path.parts
    and ".tfrecord-" not in path.name
  }


def examples(folder):
  """All examples of the TFDS dataset by split, in their order."""
  from calrec_jax.data.seqio.quiet_tensorflow import tfds

  [path] = folder.glob("tfds/purchase_histories/*/1.0.0")
  opened = tfds.builder_from_directory(path)
  return {
    split: list(opened.as_dataset(split=split).as_numpy_iterator())
    for split in opened.info.splits
  }


def whole(folder):
  """How many of vocabulary, dataset and cache are complete."""
  places = ("vocabularies/*", "tfds/purchase_histories/*/1.0.0", "caches/*")
  return sum(
    any(not path.name.startswith(".") for path in folder.glob(place))
    for place in places
  )


def halves(folder):
  """What was begun and is not finished."""
  return [
    *folder.glob("vocabularies/.*"),
    *folder.glob("tfds/purchase_histories/*/incomplete.*"),
    *folder.glob("caches/.*"),
  ]


@pytest.mark.slow
def test_a_build_killed_at_any_point_ends_the_same(tmp_path):
  recipe = planted_log.write_own_log(tmp_path / "log")
  program = tmp_path / "program.py"
  program.write_text(_PROGRAM)

  def build(folder, action, point):
    arguments = ["data", action, "--quiet", f"--gin_file={recipe}"]
    return subprocess.run(
      [
        *(sys.executable, program, point, *arguments),
        f"--gin.Dataset.data_dir='{folder}'",
      ],
      timeout=LONGEST_SECONDS,
      env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
      stdout=subprocess.DEVNULL,
    ).returncode

  killed, straight = tmp_path / "killed", tmp_path / "straight"
  complete = 0
  for action, point in POINTS:
    assert build(killed, action, point) == -signal.SIGKILL, point
    complete = WHOLE.get(point, complete)
    assert whole(killed) == complete, point
    assert len(halves(killed)) == (0 if point in WHOLE else 1), point
  for action in ("cache", "build"):
    assert build(killed, action, "none") == 0
    assert build(straight, action, "none") == 0
  assert halves(killed) == []
  assert hashes(killed) == hashes(straight)
  np.testing.assert_equal(examples(killed), examples(straight))
