"""`launch/tpu_vm.sh`: a run on one TPU VM."""

from collections.abc import Sequence

from . import flags, script
from .tpu import TpuVm
from .tpu_runs import run_on

_DESCRIBED = """\
Runs calrec on one TPU VM: creates it, or uses the one of that name, copies the
checkout, creates the environment, trains and evaluates, copies results back,
and deletes the TPU VM if this script created it. A preempted run is restarted
on a new one and resumes from MODEL_DIR, if that is in a bucket."""
_EXAMPLE = """\
Both stages and the evaluation of a recipe on eight chips, results in a bucket:

  export CLOUDSDK_CORE_PROJECT=my-project CLOUDSDK_COMPUTE_ZONE=us-west4-a
  launch/tpu_vm.sh --name=mine --accelerator=v5litepod-8 --bucket=my-bucket \\
    -- --gin_file=mine.gin --gin_file=mesh/tpu_v5e_8.gin \\
    --gin.MODEL_DIR="'/mnt/my-bucket/mine'"

where mine.gin is in the checkout and includes a recipe.

The same with --dry_run before `--` shows every command. The run survives
Ctrl-C; the same command reattaches to it, and this ends it:

  launch/tpu_vm.sh --name=mine --stop

More: docs/launch.md."""


def main(argv: Sequence[str]) -> int:
  """Runs the script.

  Args:
    argv: Command line without the program's name.

  Returns:
    The exit status.
  """
  parser = flags.parser("tpu_vm", _DESCRIBED, _EXAMPLE)
  flags.add_cloud(parser)
  flags.add_hosts(parser)
  return run_on(TpuVm, parser, argv)


if __name__ == "__main__":
  script.end(main)
