"""Processes evaluate or answer together; killed, they resume where they were.

The processes are programs of their own. They kill themselves (SIGKILL), with
half a block written, since a baseline is done before a test could look.
"""

import json
import os
import signal
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from calrec_jax.__main__ import main
from tests.fixtures import planted_log

LONGEST_SECONDS = 900  # Of a hanging process; a busy machine is slow.
BASELINES = "('popularity', 'last_item', 'bm25_history')"

# Dies while it writes the block of this number, counted from 1.
_PROGRAM = """
import os, pathlib, signal, sys
from calrec_jax.__main__ import main
from calrec_jax.storage.blocks import BlockStore

written, write_part = 0, BlockStore.write

def dying(parts, block, write):
  def write_half(path):
    write(path)
    if written == int(sys.argv[1]):
      half = pathlib.Path(path).read_bytes()
      pathlib.Path(path).write_bytes(half[: len(half) // 2])
      os.kill(os.getpid(), signal.SIGKILL)

  global written
  written += 1
  write_part(parts, block, write_half)

if __name__ == "__main__":
  BlockStore.write = dying
  sys.exit(main(sys.argv[2:]))
"""


class Job:
  """A recipe with its data prepared, to be evaluated into folders."""

  def __init__(self, folder):
    self.folder = folder
    self.recipe = planted_log.write_own_log(folder / "log")
    (folder / "program.py").write_text(_PROGRAM)
    assert main(["data", "cache", "--quiet", self.flags("none")[0]]) == 0

  def flags(self, output, *more):
    return [
      f"--gin_file={self.recipe}",
      f"--gin.EVAL_OUTPUT_DIR='{self.folder / output}'",
      "--gin.Job.block_users=8",
      "--gin.Bootstrap.resamples=50",
      "--gin.USE_CACHED_TASKS=True",
      *more,
    ]

  def start(self, output, dies_at, *more, verb="eval"):
    """A verb on one device, as a process of its own."""
    environment = os.environ | {
      "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", "count=1"),
    }
    program = [sys.executable, str(self.folder / "program.py"), str(dies_at)]
    return subprocess.Popen(
      [*program, verb, *self.flags(output, *more)],
      env=environment,
      cwd=self.folder,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  def place(self, output):
    return self.folder / output / "own_log"


@pytest.fixture(scope="module")
def job(tmp_path_factory):
  return Job(tmp_path_factory.mktemp("job"))


def results(folder):
  """All that is written and says nothing of the machine."""
  content = json.loads((folder / "metrics.json").read_text())
  for entry in content["recommenders"].values():
    del entry["cost"]
  cases = json.loads((folder / "cases.json").read_text())
  return content, cases, pq.read_table(folder / "per_user.parquet")


def killed(*processes):
  for process in processes:
    printed = end_of(process)
    assert process.returncode == -signal.SIGKILL, printed


def end_of(process):
  """What a process printed until it ended; one that hangs is not left."""
  try:
    return process.communicate(timeout=LONGEST_SECONDS)[0]
  finally:
    process.kill()


def test_a_killed_job_resumes_with_another_number_of_processes(job, capsys):
  flags = [f"--gin.Evaluation.recommenders={BASELINES}"]
  # 8 blocks under 3 recommenders; each process dies in its second block.
  killed(
    job.start("killed", 4, *flags, "--shard=0/2"),
    job.start("killed", 6, *flags, "--shard=1/2"),
  )
  assert not (job.place("killed") / "metrics.json").exists()
  assert main(["eval", *job.flags("straight", *flags)]) == 0
  capsys.readouterr()
  assert main(["eval", *job.flags("killed", *flags)]) == 0
  printed = capsys.readouterr().out
  assert "popularity: 3 of 8 blocks were done before" in printed
  assert "bm25_history: 2 of 8 blocks were done before" in printed
  assert results(job.place("killed")) == results(job.place("straight"))
  # Run again, nothing is left to do.
  assert main(["eval", *job.flags("killed", *flags)]) == 0
  assert "last_item: 8 of 8 blocks" in capsys.readouterr().out
  assert results(job.place("killed")) == results(job.place("straight"))


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_a_killed_inference_resumes_and_leaves_one_file(job, capsys, suffix):
  flags = job.flags("none", "--recommender=bm25_history", "--top_k=3")
  whole, cut = (
    job.folder / suffix / name / f"all.{suffix}" for name in ("one", "cut")
  )
  dying = job.start("none", 3, *flags[-2:], f"--output={cut}", verb="infer")
  killed(dying)
  assert not cut.exists()
  assert main(["infer", *flags, f"--output={cut}"]) == 0
  assert "2 of 8 blocks done before" in capsys.readouterr().out
  assert list(cut.parent.iterdir()) == [cut]
  more = ["--gin.Job.block_users=1000", f"--output={whole}"]
  assert main(["infer", *flags, *more]) == 0
  assert cut.stat().st_size
  if suffix == "jsonl":
    assert cut.read_bytes() == whole.read_bytes()
  else:
    assert pq.read_table(cut) == pq.read_table(whole)


def test_another_request_is_not_answered_by_old_blocks(job, capsys):
  output = job.folder / "requests" / "all.jsonl"
  flags = [*job.flags("none"), "--recommender=popularity"]
  shared = [*flags, f"--output={output}", "--shard=0/2"]
  assert main(["infer", *shared, "--top_k=3"]) == 0
  assert "can be removed" in capsys.readouterr().out
  first = output.read_text()
  # Answers of a process that comes later are there already.
  late = [*flags, f"--output={output}", "--shard=1/2", "--top_k=3"]
  assert main(["infer", *late]) == 0
  assert "8 of 8 blocks done before" in capsys.readouterr().out
  assert main(["infer", *shared, "--top_k=2"]) == 0
  assert "not used: top_k: was 3, is 2" in capsys.readouterr().out
  assert output.read_text() != first
  with pytest.raises(SystemExit):
    main(["infer", *flags, "--shard=0/2"])


@pytest.mark.slow
def test_a_model_is_evaluated_by_two_processes_of_which_one_dies(job):
  few = ["--gin.joint/TRAIN_STEPS=6", "--gin.target/TRAIN_STEPS=4"]
  assert main(["train", *job.flags("none", *few)]) == 0
  living = job.start("two", 0, *few, "--shard=0/2")
  killed(job.start("two", 5, *few, "--shard=1/2"))
  printed = end_of(living)
  assert living.returncode == 0, printed  # It did what the other had not.
  one = job.start("one", 0, *few)
  printed = end_of(one)
  assert one.returncode == 0, printed
  assert results(job.place("two")) == results(job.place("one"))
