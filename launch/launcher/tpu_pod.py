"""`launch/tpu_pod.sh`: a run on TPU slices that are waited for in a queue."""

from collections.abc import Sequence

from . import flags, script
from .tpu import QueuedResource
from .tpu_runs import run_on

_DESCRIBED = """\
Runs calrec on a TPU slice, or several, by a queued resource: asks for it, shows
its state until it is there, copies the checkout to all hosts, makes the
environment, trains and evaluates, brings results back, and deletes it. When it
is preempted it is deleted, asked for again, and the run goes on."""
_EXAMPLE = """\
Both stages and the evaluation on 64 chips that may be taken away:

  export CLOUDSDK_CORE_PROJECT=my-project CLOUDSDK_COMPUTE_ZONE=us-west4-a
  launch/tpu_pod.sh --name=mine --accelerator=v5litepod-64 --spot \\
    --bucket=my-bucket --verbs='train,eval --gin_file=mesh/gpu.gin' \\
    -- --gin_file=mine.gin --gin_file=mesh/tpu_v5e_64.gin \\
    --gin.MODEL_DIR="'/mnt/my-bucket/mine'"

where each host evaluates with its own chips, so with a mesh of those.

Two slices of 16 chips, each with a copy of the model:

  launch/tpu_pod.sh --name=mine --accelerator=v5litepod-16 --slices=2 \\
    --bucket=my-bucket \\
    -- --gin_file=mine.gin --gin_file=mesh/tpu_multislice.gin --gin.SLICES=2 \\
    --gin.MODEL_DIR="'/mnt/my-bucket/mine'"

mine.gin lies in the checkout and includes a recipe.

The same with --dry_run before `--` shows every command. Ctrl-C leaves the run
going; the same command finds it again, and this ends it:

  launch/tpu_pod.sh --name=mine --stop

More: docs/launch.md."""


def main(argv: Sequence[str]) -> int:
  """Runs the script.

  Args:
    argv: the command line without the program's name.

  Returns:
    The exit status.
  """
  parser = flags.parser("tpu_pod", _DESCRIBED, _EXAMPLE)
  flags.add_cloud(parser)
  flags.add_hosts(parser)
  parser.add_argument(
    "--slices", metavar="N", type=int, default=1, help="default: %(default)s"
  )
  parser.add_argument(
    "--reserved", action="store_true", help="from a reservation of the project"
  )
  parser.add_argument(
    "--valid_until_duration",
    metavar="TIME",
    default="24h",
    help="how long it may wait in the queue, as of gcloud (default: "
    "%(default)s)",
  )
  return run_on(QueuedResource, parser, argv)


if __name__ == "__main__":
  script.end(main)
