"""Runs of `tpu_vm` and `tpu_pod`, from their flags."""

import argparse
from collections.abc import Sequence

from . import flags
from .marks import Marks
from .runs import CloudRun, RunSettings
from .shell import LaunchError, Shell
from .tpu import QueuedResource, TpuVm


def run_on(
  machine: type[TpuVm] | type[QueuedResource],
  parser: argparse.ArgumentParser,
  argv: Sequence[str],
) -> int:
  """Runs or stops the run of a command line.

  Args:
    machine: Kind of machine.
    parser: Parser with the flags of `flags.add_cloud` and `flags.add_hosts`.
    argv: Command line without the program's name.

  Returns:
    The exit status.

  Raises:
    LaunchError: As `CloudRun.run`, or if a flag is missing or invalid.
  """
  options, command = flags.parse(parser, argv, required=("zone", "project"))
  if getattr(options, "slices", 1) < 1:
    raise LaunchError(f"--slices={options.slices}: use 1 or more.", 2)
  shell = Shell(dry_run=options.dry_run)
  settings = RunSettings(
    command=command,
    max_preemptions=options.max_preemptions,
    max_retries=options.max_retries,
    poll_seconds=options.poll_seconds,
    locks=options.lock,
    bucket=options.bucket,
    fetch=options.fetch,
    keep=options.keep,
  )
  made = machine(shell, options)
  run = CloudRun(shell, made, Marks(options.state_dir), settings)
  if options.stop:
    run.stop()
    return 0
  if options.spot and not options.bucket:
    shell.warn(
      "--spot without --bucket: results on the hosts' own disks are lost when "
      "they are preempted."
    )
  elif not (options.bucket or options.fetch or options.keep):
    shell.warn(
      "Without --bucket, --fetch or --keep, results on the hosts' own disks "
      "are lost when they are deleted."
    )
  return run.run()
