"""Flags shared by the launch scripts, and their validation."""

import argparse
import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence

from .shell import LaunchError

ROOT = pathlib.Path(__file__).parents[2]
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,46}[a-z0-9])?")


@dataclasses.dataclass(frozen=True)
class Command:
  """The command that every host runs.

  Attributes:
    verbs: Verbs of calrec, in order, such as `("train", "eval")`.
    flags: Flags of all verbs.
  """

  verbs: tuple[str, ...]
  flags: tuple[str, ...]

  def words(self) -> list[str]:
    """The arguments of `on_host.sh work`."""
    return [",".join(self.verbs), "--", *self.flags]


def parser(name: str, described: str, example: str) -> argparse.ArgumentParser:
  """A parser with the flags of all launch scripts.

  Args:
    name: Name of the script.
    described: Description of the script.
    example: Example for `--help`.
  """
  made = argparse.ArgumentParser(
    prog=f"launch/{name}.sh",
    usage=f"launch/{name}.sh --name=NAME [options] -- FLAGS OF CALREC",
    description=described,
    epilog=example,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  made.add_argument(
    "--name", metavar="NAME", help="name of the run and of its hosts"
  )
  made.add_argument(
    "--verbs",
    metavar="VERB,…",
    default="train,eval",
    help="verbs of calrec, run in order with the same flags; flags of a single "
    "verb follow it: 'train,eval --gin_file=mesh/gpu.gin' (default: "
    "%(default)s)",
  )
  made.add_argument(
    "--stop", action="store_true", help="stop the run of this name"
  )
  made.add_argument(
    "--dry_run",
    action="store_true",
    help="print the commands without running them; needs no cloud tools",
  )
  made.add_argument(
    "--state_dir",
    metavar="FOLDER",
    type=pathlib.Path,
    default=ROOT / "runs" / "launch",
    help="folder that records created resources (default: %(default)s)",
  )
  made.add_argument(
    "--poll_seconds",
    metavar="SECONDS",
    type=float,
    default=float(os.environ.get("CALREC_POLL_SECONDS", "30")),
    help="interval between polls of the state (default: %(default)s, or "
    "CALREC_POLL_SECONDS)",
  )
  return made


def add_retries(made: argparse.ArgumentParser) -> None:
  """Adds flags for retries."""
  made.add_argument(
    "--max_preemptions",
    metavar="N",
    type=int,
    default=50,
    help="maximum number of preemptions (default: %(default)s)",
  )
  made.add_argument(
    "--max_retries",
    metavar="N",
    type=int,
    default=0,
    help="maximum number of restarts after other failures, which are mostly "
    "permanent (default: %(default)s)",
  )


def add_locks(made: argparse.ArgumentParser) -> None:
  """Adds the flag for extra packages of the environment."""
  made.add_argument(
    "--lock",
    metavar="NAME",
    action="append",
    default=[],
    choices=sorted(path.stem for path in (ROOT / "launch/locks").glob("*.txt")),
    help="extra packages for the run, from launch/locks/NAME.txt: gemma has "
    "Gemma 3 270M (repeatable)",
  )


def add_hosts(made: argparse.ArgumentParser) -> None:
  """Adds flags for machines reached by ssh."""
  add_retries(made)
  add_locks(made)
  made.add_argument(
    "--fetch",
    metavar="PATH",
    action="append",
    default=[],
    help="results to copy back from the checkout on the first host, "
    "such as runs/quickstart (repeatable)",
  )


def add_cloud(made: argparse.ArgumentParser) -> None:
  """Adds flags for creating a TPU VM or a queued resource."""
  made.add_argument("--zone", default=os.environ.get("CLOUDSDK_COMPUTE_ZONE"))
  made.add_argument(
    "--project", default=os.environ.get("CLOUDSDK_CORE_PROJECT")
  )
  made.add_argument(
    "--accelerator", metavar="TYPE", help="TPU type, such as v5litepod-8"
  )
  made.add_argument(
    "--runtime", metavar="VERSION", help="software version (default: by type)"
  )
  made.add_argument(
    "--spot", action="store_true", help="use cheaper, preemptible capacity"
  )
  made.add_argument(
    "--service_account",
    metavar="EMAIL",
    help="account with access to the bucket (default: Compute Engine's)",
  )
  made.add_argument(
    "--bucket",
    metavar="NAME",
    help="bucket to mount on every host at /mnt/NAME, for MODEL_DIR",
  )
  made.add_argument(
    "--create_flag",
    metavar="--FLAG=VALUE",
    action="append",
    default=[],
    help="extra flag of gcloud's create, such as "
    "--create_flag=--network=mine (repeatable)",
  )
  made.add_argument(
    "--internal_ip",
    action="store_true",
    help="reach the hosts by their internal addresses",
  )
  made.add_argument(
    "--keep",
    action="store_true",
    help="do not delete the machine when the run ends; it still costs money",
  )


def parse(
  made: argparse.ArgumentParser,
  argv: Sequence[str],
  required: Sequence[str] = (),
) -> tuple[argparse.Namespace, Command]:
  """Parses the flags of the script, and calrec's after `--`.

  Args:
    made: Parser.
    argv: Command line without the program's name.
    required: Required flags in addition to `--name`.

  Raises:
    LaunchError: If a flag is missing or invalid.
  """
  argv = list(argv)
  cut = argv.index("--") if "--" in argv else len(argv)
  options = made.parse_args(argv[:cut])
  flags = tuple(argv[cut + 1 :])
  for name in ("name", *required):
    if not getattr(options, name):
      raise LaunchError(f"--{name} is missing. {REMEDIES[name]}", 2)
  if not _NAME.fullmatch(options.name):
    raise LaunchError(
      f"--name={options.name!r}: use at most 48 lower-case letters, digits "
      "and -, starting with a letter.",
      2,
    )
  verbs = tuple(verb.strip() for verb in options.verbs.split(","))
  if not all(verbs):
    raise LaunchError(f"--verbs={options.verbs!r} has an empty verb.", 2)
  if options.stop:
    return options, Command(verbs, flags)
  if not flags:
    raise LaunchError(
      "There are no flags for calrec; give them after `--`, such as "
      "`-- --gin_file=recipes/quickstart.gin`.",
      2,
    )
  _check_gin_files(flags)
  return options, Command(verbs, flags)


def _check_gin_files(flags: Sequence[str]) -> None:
  """Refuses gin files outside the checkout, which the hosts would not have."""
  for flag in flags:
    name, _, value = flag.partition("=")
    path = pathlib.Path(value)
    outside = not path.resolve().is_relative_to(ROOT)
    if name == "--gin_file" and path.is_file() and outside:
      raise LaunchError(
        f"{flag} is outside the checkout {ROOT}, and only that is copied to "
        "the hosts. Copy the file into the checkout and use that path.",
        2,
      )


REMEDIES = {
  "name": "It names the run, such as --name=beauty-1.",
  "zone": "Set --zone=us-west4-a or CLOUDSDK_COMPUTE_ZONE; zones: "
  "https://cloud.google.com/tpu/docs/regions-zones.",
  "project": "Set --project=ID or CLOUDSDK_CORE_PROJECT; yours: "
  "`gcloud config get-value project`. The run is billed to it.",
  "accelerator": "Set --accelerator=v5litepod-8; docs/launch.md has the types.",
  "topology": "Set --topology=v5e:4x4, as for `calrec compile`.",
  "image": "Set --image=us-docker.pkg.dev/PROJECT/REPOSITORY/calrec_jax:tpu; "
  "docs/launch.md has the commands that build it.",
}
