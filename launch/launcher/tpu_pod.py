"""`launch/tpu_pod.sh`: a run on TPU slices from a queue."""

from collections.abc import Sequence

from . import flags, script
from .tpu import QueuedResource
from .tpu_runs import run_on

_DESCRIBED = """\
Runs calrec on one or more TPU slices by a queued resource: requests it, shows
its state until it is ready, copies the checkout to all hosts, creates the
environment, trains and evaluates, copies results back, and deletes it. When
preempted, it is deleted and requested again, and the run resumes."""
_EXAMPLE = """\
Both stages and the evaluation on 64 preemptible chips:

  export CLOUDSDK_CORE_PROJECT=my-project CLOUDSDK_COMPUTE_ZONE=us-west4-a
  launch/tpu_pod.sh --name=mine --accelerator=v5litepod-64 --spot \\
    --bucket=my-bucket --verbs='train,eval --gin_file=mesh/gpu.gin' \\
    -- --gin_file=mine.gin --gin_file=mesh/tpu_v5e_64.gin \\
    --gin.MODEL_DIR="'/mnt/my-bucket/mine'"

where each host evaluates on its own chips, so with a mesh of those.

Two slices of 16 chips, each with a copy of the model:

  launch/tpu_pod.sh --name=mine --accelerator=v5litepod-16 --slices=2 \\
    --bucket=my-bucket \\
    -- --gin_file=mine.gin --gin_file=mesh/tpu_multislice.gin --gin.SLICES=2 \\
    --gin.MODEL_DIR="'/mnt/my-bucket/mine'"

mine.gin is in the checkout and includes a recipe.

The same with --dry_run before `--` shows every command. The run survives
Ctrl-C; the same command reattaches to it, and this ends it:

  launch/tpu_pod.sh --name=mine --stop

More: docs/launch.md."""


def main(argv: Sequence[str]) -> int:
  """Runs the script.

  Args:
    argv: Command line without the program's name.

  Returns:
    The exit status.
  """
  parser = flags.parser("tpu_pod", _DESCRIBED, _EXAMPLE)
  flags.add_cloud(parser)
  flags.add_hosts(parser)
  parser.add_argument(
    "--slices",
    metavar="N",
    type=int,
    default=1,
    help="number of TPU slices (default: %(default)s)",
  )
  parser.add_argument(
    "--reserved", action="store_true", help="use a reservation of the project"
  )
  parser.add_argument(
    "--valid_until_duration",
    metavar="TIME",
    default="24h",
    help="maximum time in the queue, in gcloud's format (default: %(default)s)",
  )
  return run_on(QueuedResource, parser, argv)


if __name__ == "__main__":
  script.end(main)
