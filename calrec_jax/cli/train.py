"""`calrec train`: trains the stages that a recipe chains, or one of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from calrec_jax import config
from calrec_jax.cli import verb
from calrec_jax.runtime import distributed, preemption
from calrec_jax.runtime.preemption import PREEMPTED_STATUS
from calrec_jax.train import loop, stages

_EPILOG = f"""\
A recipe names its stages in the macro STAGES. They are trained one after the
other, each in MODEL_DIR/<stage>; a stage starts from the best checkpoint of the
one before. Models that are only fused with the last one are named in MEMBERS;
they are trained first, each from scratch. After an interruption, rerun the same
command: it resumes bit-exactly. Missing datasets and token caches are built
first.

  calrec train --gin_file=recipes/quickstart.gin
  calrec train --gin_file=recipes/quickstart.gin --gin.target/TRAIN_STEPS=50

On SIGTERM, which announces a preemption, it finishes the current step, saves,
and exits with status {PREEMPTED_STATUS}. A later SIGTERM kills it. Ctrl-C does
the same, with status {verb.INTERRUPTED_STATUS}; a second one stops at once.

Processes of one job, on one host or several, each run this command with
CALREC_COORDINATOR=HOST:PORT, CALREC_NUM_PROCESSES and CALREC_PROCESS_ID, or
with CALREC_DISTRIBUTED=auto on Cloud TPU and Slurm.
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the verb on a command line and returns the exit status."""
  parser = verb.parser("train", __doc__, _EPILOG)
  parser.add_argument(
    "--stage", metavar="NAME", help="only this stage of the chain"
  )
  arguments = config.parse_arguments(parser, argv)
  if not arguments.dry_run:
    distributed.join()  # First: gin files may already touch a device.
  configuration = arguments.configuration
  configuration.apply()
  names = stages.chosen(arguments.stage)
  if arguments.stage is None:
    stages.refuse_shared_start(names)
    names = (*stages.members(), *names)
  if not arguments.dry_run:
    for name in names:  # A mistake in the last one is found before the first.
      with configuration.stage(name), config.explained():
        stages.Stage()
  with distributed.failures_explained(), preemption.watch() as guard:
    try:
      for name in names:
        with configuration.stage(name), config.explained():
          if arguments.dry_run:
            print(f"# Stage {name}\n{config.text()}")
          else:
            loop.run_stage(stages.Stage(), name, stages.chain_of(name), guard)
    except preemption.Preempted as preempted:
      print(
        f"calrec train: {preempted}; rerun the same command to resume.",
        file=sys.stderr,
      )
      return verb.INTERRUPTED_STATUS if guard.interrupted else PREEMPTED_STATUS
  return 0
