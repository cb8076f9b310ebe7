"""`launch/gpu_box.sh`: a run on one machine with GPUs."""

from collections.abc import Sequence

from . import flags, script
from .box import Box, ThisMachine
from .hosts import Hosts
from .runs import End, Outcome, RunSettings, follow, retry
from .shell import LaunchError, Shell

_DESCRIBED = """\
Runs calrec on a machine with NVIDIA GPUs: this one, or one reached by ssh. The
environment of the checkout, with JAX for CUDA, is created there; with --docker
the image of launch/Dockerfile is built instead. A preempted run saves its state
and is restarted."""
_EXAMPLE = """\
On this machine, and on another one, in a container, with a folder of logs:

  launch/gpu_box.sh --name=quick -- --gin_file=recipes/quickstart.gin \\
    --gin_file=mesh/gpu.gin

  launch/gpu_box.sh --name=quick --host=me@box --docker --volume=/data:/data \\
    --fetch=runs/quickstart -- --gin_file=recipes/quickstart.gin \\
    --gin_file=mesh/gpu.gin

The same with --dry_run before `--` shows every command. The run survives
Ctrl-C; the same command reattaches to it, and this makes it save and exit:

  launch/gpu_box.sh --name=quick --stop

More: docs/launch.md."""


def main(argv: Sequence[str]) -> int:
  """Runs the script.

  Args:
    argv: Command line without the program's name.

  Returns:
    The exit status.

  Raises:
    LaunchError: If the run fails.
  """
  parser = flags.parser("gpu_box", _DESCRIBED, _EXAMPLE)
  flags.add_hosts(parser)
  parser.add_argument(
    "--host", metavar="USER@HOST", help="host for ssh (default: this machine)"
  )
  parser.add_argument(
    "--docker", action="store_true", help="use the image of launch/Dockerfile"
  )
  parser.add_argument(
    "--volume",
    metavar="SOURCE:TARGET",
    action="append",
    default=[],
    help="volume for `docker run`; runs/ of the checkout is always mounted "
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
  settings = RunSettings(
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
    return follow(hosts, settings, lambda: False)

  outcome = retry(attempt, settings, shell, lambda _: None)
  if outcome.end is not End.FINISHED:
    raise LaunchError(outcome.why, outcome.status or 1)
  hosts.fetch(options.fetch)
  return 0


def _check(options) -> None:
  if options.volume and not options.docker:
    raise LaunchError("--volume needs --docker.", 2)
  if any("," in volume for volume in options.volume):
    raise LaunchError("--volume must not contain a comma.", 2)
  if options.fetch and not options.host:
    raise LaunchError("--fetch needs --host; results are already here.", 2)


if __name__ == "__main__":
  script.end(main)
