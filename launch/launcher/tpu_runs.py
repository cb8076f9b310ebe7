"""What `tpu_vm` and `tpu_pod` do with their flags."""

import argparse
from collections.abc import Sequence

from . import flags
from .marks import Marks
from .runs import CloudRun, Wishes
from .shell import LaunchError, Shell
from .tpu import QueuedResource, TpuVm


def run_on(
  machine: type[TpuVm] | type[QueuedResource],
  parser: argparse.ArgumentParser,
  argv: Sequence[str],
) -> int:
  """Runs what the command line says, or stops it.

  Args:
    machine: the kind.
    parser: with the flags of `flags.add_cloud` and `flags.add_hosts`.
    argv: the command line without the program's name.

  Returns:
    The exit status.

  Raises:
    LaunchError: as `CloudRun.run`, and for flags that are missing or wrong.
  """
  options, command = flags.parse(parser, argv, required=("zone", "project"))
  if getattr(options, "slices", 1) < 1:
    raise LaunchError(f"--slices={options.slices}: use 1 or more.", 2)
  shell = Shell(dry_run=options.dry_run)
  wishes = Wishes(
    command=command,
    max_preemptions=options.max_preemptions,
    max_retries=options.max_retries,
    poll_seconds=options.poll_seconds,
    locks=options.lock,
    bucket=options.bucket,
    fetch=options.fetch,
    keep=options.keep,
  )
  asked = machine(shell, options)
  run = CloudRun(shell, asked, Marks(options.state_dir), wishes)
  if options.stop:
    run.stop()
    return 0
  if options.spot and not options.bucket:
    shell.warn(
      "--spot without --bucket: what a run writes to the hosts' own disks is "
      "lost when they are preempted."
    )
  elif not (options.bucket or options.fetch or options.keep):
    shell.warn(
      "Without --bucket, --fetch or --keep, what a run writes to the hosts' "
      "own disks is lost when they are deleted."
    )
  return run.run()
