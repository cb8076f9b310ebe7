"""Flags that the launch scripts share, and what they are checked for."""

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
  """What is run on every host.

  Attributes:
    verbs: of calrec, in order, such as `("train", "eval")`.
    flags: given to each of them.
  """

  verbs: tuple[str, ...]
  flags: tuple[str, ...]

  def words(self) -> list[str]:
    """The arguments of `on_host.sh work`."""
    return [",".join(self.verbs), "--", *self.flags]


def parser(name: str, described: str, example: str) -> argparse.ArgumentParser:
  """A parser with the flags that every launch script has.

  Args:
    name: of the script.
    described: what it does.
    example: shown by `--help`.
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
    "--name", metavar="NAME", help="of the run, and of its hosts"
  )
  made.add_argument(
    "--verbs",
    metavar="VERB,…",
    default="train,eval",
    help="of calrec, run one after the other with the same flags; those of one "
    "verb stand behind it: 'train,eval --gin_file=mesh/gpu.gin' (default: "
    "%(default)s)",
  )
  made.add_argument(
    "--stop", action="store_true", help="stop what this script started"
  )
  made.add_argument(
    "--dry_run",
    action="store_true",
    help="print the commands and run nothing; no cloud tool is needed",
  )
  made.add_argument(
    "--state_dir",
    metavar="FOLDER",
    type=pathlib.Path,
    default=ROOT / "runs" / "launch",
    help="where it is noted what was made here (default: %(default)s)",
  )
  made.add_argument(
    "--poll_seconds",
    metavar="SECONDS",
    type=float,
    default=float(os.environ.get("CALREC_POLL_SECONDS", "30")),
    help="between two looks at the state (default: %(default)s, or "
    "CALREC_POLL_SECONDS)",
  )
  return made


def add_retries(made: argparse.ArgumentParser) -> None:
  """Adds how often a run is started again."""
  made.add_argument(
    "--max_preemptions",
    metavar="N",
    type=int,
    default=50,
    help="preemptions after which a run is given up (default: %(default)s)",
  )
  made.add_argument(
    "--max_retries",
    metavar="N",
    type=int,
    default=0,
    help="other failures after which it is started again; what fails once "
    "mostly fails again (default: %(default)s)",
  )


def add_locks(made: argparse.ArgumentParser) -> None:
  """Adds what an environment made by the script holds more."""
  made.add_argument(
    "--lock",
    metavar="NAME",
    action="append",
    default=[],
    choices=sorted(path.stem for path in (ROOT / "launch/locks").glob("*.txt")),
    help="packages that the run needs besides, as of launch/locks/NAME.txt: "
    "gemma brings Gemma 3 270M (repeatable)",
  )


def add_hosts(made: argparse.ArgumentParser) -> None:
  """Adds what machines are asked for that are reached by ssh."""
  add_retries(made)
  add_locks(made)
  made.add_argument(
    "--fetch",
    metavar="PATH",
    action="append",
    default=[],
    help="results to bring here, as named in the checkout on the first host, "
    "such as runs/quickstart (repeatable)",
  )


def add_cloud(made: argparse.ArgumentParser) -> None:
  """Adds what a TPU VM or a queued resource is created with."""
  made.add_argument("--zone", default=os.environ.get("CLOUDSDK_COMPUTE_ZONE"))
  made.add_argument(
    "--project", default=os.environ.get("CLOUDSDK_CORE_PROJECT")
  )
  made.add_argument(
    "--accelerator", metavar="TYPE", help="such as v5litepod-8 or v6e-16"
  )
  made.add_argument(
    "--runtime", metavar="VERSION", help="default: the one for the type"
  )
  made.add_argument(
    "--spot", action="store_true", help="cheaper, and may be taken away"
  )
  made.add_argument(
    "--service_account",
    metavar="EMAIL",
    help="as which the hosts reach the bucket (default: Compute Engine's own)",
  )
  made.add_argument(
    "--bucket",
    metavar="NAME",
    help="mounted on every host at /mnt/NAME; MODEL_DIR belongs there",
  )
  made.add_argument(
    "--create_flag",
    metavar="--FLAG=VALUE",
    action="append",
    default=[],
    help="given to gcloud's create as it is, such as --create_flag="
    "--network=mine (repeatable)",
  )
  made.add_argument(
    "--internal_ip",
    action="store_true",
    help="reach the hosts by their internal addresses",
  )
  made.add_argument(
    "--keep",
    action="store_true",
    help="do not delete what was made when the run ends; it goes on costing",
  )


def parse(
  made: argparse.ArgumentParser,
  argv: Sequence[str],
  required: Sequence[str] = (),
) -> tuple[argparse.Namespace, Command]:
  """The flags of the script, and calrec's, which stand behind `--`.

  Args:
    made: the parser.
    argv: without the program's name.
    required: flags besides `--name` that must be given.

  Raises:
    LaunchError: if one is missing or wrong.
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
      f"--name={options.name!r}: use lower-case letters, digits and -, a "
      "letter first, at most 48.",
      2,
    )
  verbs = tuple(verb.strip() for verb in options.verbs.split(","))
  if not all(verbs):
    raise LaunchError(f"--verbs={options.verbs!r} holds an empty verb.", 2)
  if options.stop:
    return options, Command(verbs, flags)
  if not flags:
    raise LaunchError(
      "What calrec is to run stands behind `--`, such as "
      "`-- --gin_file=recipes/quickstart.gin`.",
      2,
    )
  _check_gin_files(flags)
  return options, Command(verbs, flags)


def _check_gin_files(flags: Sequence[str]) -> None:
  """Gin files are copied with the checkout, or are nowhere on the hosts."""
  for flag in flags:
    name, _, value = flag.partition("=")
    path = pathlib.Path(value)
    outside = not path.resolve().is_relative_to(ROOT)
    if name == "--gin_file" and path.is_file() and outside:
      raise LaunchError(
        f"{flag} lies outside the checkout {ROOT}, which is what the hosts "
        "get. Copy it into the checkout and name it from there.",
        2,
      )


REMEDIES = {
  "name": "It names the run, such as --name=beauty-1.",
  "zone": "Say --zone=us-west4-a or set CLOUDSDK_COMPUTE_ZONE; zones: "
  "https://cloud.google.com/tpu/docs/regions-zones.",
  "project": "Say --project=ID or set CLOUDSDK_CORE_PROJECT; yours: "
  "`gcloud config get-value project`. What is made there is billed to it.",
  "accelerator": "Say --accelerator=v5litepod-8; docs/launch.md has the types.",
  "topology": "Say --topology=v5e:4x4, as for `calrec compile`.",
  "image": "Say --image=us-docker.pkg.dev/PROJECT/REPOSITORY/calrec_jax:tpu; "
  "docs/launch.md has the commands that make it.",
}
