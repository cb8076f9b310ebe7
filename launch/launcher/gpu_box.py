"""`launch/gpu_box.sh`: a run on one machine with GPUs."""

from collections.abc import Sequence

from . import flags, script
from .box import Box, ThisMachine
from .hosts import Hosts
from .runs import End, Outcome, Wishes, again, follow
from .shell import LaunchError, Shell

_DESCRIBED = """\
Runs calrec on a machine with NVIDIA GPUs: this one, or one that ssh reaches.
The environment of the checkout, with JAX for CUDA, is made there; with --docker
it is the image of launch/Dockerfile instead. A run that was told to leave saves
its state and is started again."""
_EXAMPLE = """\
On this machine, and on another one, in a container, with a folder of logs:

  launch/gpu_box.sh --name=quick -- --gin_file=recipes/quickstart.gin \\
    --gin_file=mesh/gpu.gin

  launch/gpu_box.sh --name=quick --host=me@box --docker --volume=/data:/data \\
    --fetch=runs/quickstart -- --gin_file=recipes/quickstart.gin \\
    --gin_file=mesh/gpu.gin

The same with --dry_run before `--` shows every command. Ctrl-C leaves the run
going; the same command finds it again, and this tells it to save and leave:

  launch/gpu_box.sh --name=quick --stop

More: docs/launch.md."""


def main(argv: Sequence[str]) -> int:
  """Runs the script.

  Args:
    argv: the command line without the program's name.

  Returns:
    The exit status.

  Raises:
    LaunchError: if the run fails.
  """
  parser = flags.parser("gpu_box", _DESCRIBED, _EXAMPLE)
  flags.add_hosts(parser)
  parser.add_argument(
    "--host", metavar="USER@HOST", help="as ssh calls it (default: here)"
  )
  parser.add_argument(
    "--docker", action="store_true", help="in the image of launch/Dockerfile"
  )
  parser.add_argument(
    "--volume",
    metavar="SOURCE:TARGET",
    action="append",
    default=[],
    help="given to `docker run`; runs/ of the checkout is there already "
    "(repeatable)",
  )
  options, command = flags.parse(parser, argv)
  _check(options)
  shell = Shell(dry_run=options.dry_run)
  reach = Box(options.host) if options.host else ThisMachine()
  hosts = Hosts(shell, reach, options.name, docker=options.docker)
  if options.stop:
    hosts.stop()
    return 0
  wishes = Wishes(
    command=command,
    max_preemptions=options.max_preemptions,
    max_retries=options.max_retries,
    poll_seconds=options.poll_seconds,
    fetch=options.fetch,
  )

  def attempt() -> Outcome:
    if not hosts.running():
      hosts.install(options.lock)
    hosts.start(command, options.volume)
    return follow(hosts, wishes, lambda: False)

  outcome = again(attempt, wishes, shell, lambda _: None)
  if outcome.end is not End.FINISHED:
    raise LaunchError(outcome.why, outcome.status or 1)
  hosts.fetch(options.fetch)
  return 0


def _check(options) -> None:
  if options.volume and not options.docker:
    raise LaunchError("--volume belongs to --docker.", 2)
  if any("," in volume for volume in options.volume):
    raise LaunchError("--volume cannot hold a comma.", 2)
  if options.fetch and not options.host:
    raise LaunchError("--fetch brings results from --host; here they are.", 2)


if __name__ == "__main__":
  script.end(main)
