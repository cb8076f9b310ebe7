"""`launch/slurm.sh`: a run on the hosts of a Slurm cluster."""

import argparse
import secrets
from collections.abc import Sequence

from . import flags, script
from .flags import ROOT, Command
from .marks import LABEL, Marks
from .shell import LaunchError, Shell

_KIND = "slurm-job"
_SECONDS_TO_SAVE = 300  # Signalled this long before the time limit.
_DESCRIBED = """\
Submits a job that runs calrec on several hosts, with one process per GPU (or
per host without GPUs), which find each other automatically. When it is
preempted, or its time ends, it saves, is requeued, and resumes from MODEL_DIR.
The checkout must be in a folder shared by all hosts."""
_EXAMPLE = """\
Four hosts with eight GPUs each, for at most a day at a time:

  launch/slurm.sh --name=mine --nodes=4 --gpus_per_node=8 --time=24:00:00 \\
    --sbatch_flag=--partition=gpu \\
    -- --gin_file=mine.gin --gin_file=mesh/gpu.gin \\
    --gin.MODEL_DIR="'/shared/runs/mine'"

The same with --dry_run before `--` shows every command. This ends it:

  launch/slurm.sh --name=mine --stop

More: docs/launch.md."""


def main(argv: Sequence[str]) -> int:
  """Runs the script.

  Args:
    argv: Command line without the program's name.

  Returns:
    The exit status.

  Raises:
    LaunchError: If the job is not accepted.
  """
  options, command = flags.parse(_parser(), argv)
  shell, marks = Shell(dry_run=options.dry_run), Marks(options.state_dir)
  queued = _queued(shell, marks, options.name)
  if options.stop:
    if queued is None:
      shell.say(f"No queued job {options.name} was submitted here.")
    else:
      shell.check(["scancel", queued], "Is it yours?")
    marks.forget(_KIND, options.name)
    return 0
  if queued is not None:
    raise LaunchError(
      f"Job {options.name} is already queued as job {queued}. End it with "
      "--stop, or choose another --name."
    )
  _submit(shell, marks, options, command)
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = flags.parser("slurm", _DESCRIBED, _EXAMPLE)
  flags.add_retries(parser)
  flags.add_locks(parser)
  parser.add_argument(
    "--nodes",
    metavar="N",
    type=int,
    default=1,
    help="number of hosts (default: %(default)s)",
  )
  parser.add_argument(
    "--gpus_per_node",
    metavar="N",
    type=int,
    default=0,
    help="GPUs per host, 0 for CPU hosts (default: %(default)s)",
  )
  parser.add_argument(
    "--time",
    default="24:00:00",
    help="time limit of one submission (default: %(default)s)",
  )
  parser.add_argument(
    "--sbatch_flag",
    metavar="--FLAG=VALUE",
    action="append",
    default=[],
    help="extra flag of sbatch, such as --sbatch_flag=--account=me "
    "(repeatable)",
  )
  return parser


def _submit(
  shell: Shell, marks: Marks, options: argparse.Namespace, command: Command
) -> None:
  if options.nodes < 1 or options.gpus_per_node < 0:
    raise LaunchError(
      f"--nodes={options.nodes} must be at least 1, --gpus_per_node="
      f"{options.gpus_per_node} at least 0.",
      2,
    )
  token = "TOKEN" if options.dry_run else secrets.token_hex(8)
  gpus = options.gpus_per_node
  locks = ",".join(["cuda" if gpus else "cpu", *options.lock])
  log = options.state_dir.absolute() / f"{options.name}.%j.log"
  submit = [
    *("sbatch", "--parsable", f"--job-name={options.name}"),
    *(f"--nodes={options.nodes}", f"--time={options.time}"),
    # Under Slurm JAX expects one process per GPU.
    f"--ntasks-per-node={max(gpus, 1)}",
    *([f"--gpus-per-node={gpus}"] if gpus else []),
    *("--requeue", "--open-mode=append", f"--output={log}"),
    f"--signal=TERM@{_SECONDS_TO_SAVE}",
    *(f"--chdir={ROOT}", f"--comment={LABEL}={token}"),
    *options.sbatch_flag,
    *(str(ROOT / "launch" / "slurm_job.sh"), str(options.max_preemptions)),
    *(str(options.max_retries), locks),
    *command.words(),
  ]
  if not options.dry_run:
    options.state_dir.mkdir(parents=True, exist_ok=True)
  answer = shell.query(submit, assumed="JOB")
  if answer.status:
    raise LaunchError(
      f"sbatch did not accept the job:\n{answer.stderr.strip()}\nSet partition "
      "and account with --sbatch_flag; `sinfo` lists partitions."
    )
  # Of several clusters, sbatch prints JOB;CLUSTER.
  job = answer.stdout.strip().partition(";")[0]
  if not options.dry_run:
    marks.write(_KIND, options.name, token=token, job=job)
  shell.say(f"Job {job}; its log: {str(log).replace('%j', job)}")


def _queued(shell: Shell, marks: Marks, name: str) -> str | None:
  """The unfinished job of this name that was submitted here."""
  noted = marks.read(_KIND, name)
  if noted is None:
    return None
  job = noted["job"]
  answer = shell.query(
    ["squeue", "--noheader", f"--jobs={job}", "--format=%k"],
    assumed=f"{LABEL}={noted['token']}",
  )
  # Ids are reused after a while; the comment is unique to this job.
  if (
    answer.status == 0 and answer.stdout.strip() == f"{LABEL}={noted['token']}"
  ):
    return job
  return None


if __name__ == "__main__":
  script.end(main)
