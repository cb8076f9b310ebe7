"""`launch/gke.sh`: a run on TPU slices of a GKE cluster, as a JobSet."""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from . import flags, script
from .accelerators import gke_slice
from .flags import Command
from .jobset import jobset
from .marks import Marks
from .shell import LaunchError, Shell

_KIND = "jobset"
_DESCRIBED = """\
Runs calrec on TPU slices of a GKE cluster: writes a JobSet, creates it, and
shows its state until it ends. Preempted or terminated pods restart the whole
set, and the run resumes from MODEL_DIR in the bucket. The cluster, its TPU node
pools and the JobSet API must exist: docs/launch.md."""
_EXAMPLE = """\
Both stages and the evaluation on two slices of 16 chips:

  launch/gke.sh --name=mine --topology=v5e:4x4 --slices=2 \\
    --image=us-docker.pkg.dev/my-project/calrec/calrec_jax:tpu \\
    --bucket=my-bucket --service_account=calrec-runs \\
    -- --gin_file=/mnt/my-bucket/mine.gin \\
    --gin_file=mesh/tpu_multislice.gin --gin.SLICES=2 \\
    --gin.MODEL_DIR="'/mnt/my-bucket/mine'"

The same with --dry_run before `--` shows the JobSet and every command. The run
survives Ctrl-C; the same command reattaches to it, and this ends it:

  launch/gke.sh --name=mine --stop

More: docs/launch.md."""


def main(argv: Sequence[str]) -> int:
  """Runs the script.

  Args:
    argv: Command line without the program's name.

  Returns:
    The exit status.

  Raises:
    LaunchError: If the run fails or cannot start.
  """
  options, command = flags.parse(_parser(), argv)
  run = _GkeRun(options, command)
  if options.stop:
    run.stop()
    return 0
  return run.run()


def _parser() -> argparse.ArgumentParser:
  parser = flags.parser("gke", _DESCRIBED, _EXAMPLE)
  parser.add_argument(
    "--topology", metavar="TYPE:AxB", help="TPU slice, such as v5e:4x4"
  )
  parser.add_argument(
    "--slices",
    metavar="N",
    type=int,
    default=1,
    help="number of TPU slices (default: %(default)s)",
  )
  parser.add_argument(
    "--image", metavar="NAME:TAG", help="image of launch/Dockerfile for TPUs"
  )
  parser.add_argument("--spot", action="store_true", help="use spot nodes")
  parser.add_argument(
    "--bucket", metavar="NAME", help="bucket to mount in every pod at /mnt/NAME"
  )
  parser.add_argument(
    "--service_account",
    metavar="NAME",
    help="Kubernetes account with access to the bucket (default: the "
    "namespace's)",
  )
  parser.add_argument(
    "--namespace",
    metavar="NAME",
    default="default",
    help="Kubernetes namespace (default: %(default)s)",
  )
  parser.add_argument(
    "--context", metavar="NAME", help="kubectl context (default: the current)"
  )
  parser.add_argument(
    "--max_retries",
    metavar="N",
    type=int,
    default=10,
    help="maximum number of restarts after failures other than preemption; "
    "peers of a lost host count here (default: %(default)s)",
  )
  return parser


class _GkeRun:
  """A JobSet of this name, which this launcher created or will create."""

  def __init__(self, options: argparse.Namespace, command: Command):
    self._options, self._command = options, command
    self._shell = Shell(dry_run=options.dry_run)
    self._marks = Marks(options.state_dir)
    context = options.context or "current"
    self._key = f"{context}/{options.namespace}/{options.name}"

  def run(self) -> int:
    o = self._options
    for name in ("topology", "image"):
      if not getattr(o, name):
        raise LaunchError(f"--{name} is missing. {flags.REMEDIES[name]}", 2)
    tpu = gke_slice(o.topology)
    if o.slices < 1:
      raise LaunchError(f"--slices={o.slices}: use 1 or more.", 2)
    found = self._find()
    if found is not None:
      if not self._is_own(found):
        raise LaunchError(
          f"JobSet {o.name} exists and was not created here. Choose another "
          "--name."
        )
      if not _ended(found):
        self._shell.say(f"JobSet {o.name} exists; reattaching.")
        return self._follow()
      self._shell.check(self._kubectl("delete", "jobset", o.name), _DENIED)
    token = "TOKEN" if o.dry_run else self._marks.new_token(_KIND, self._key)
    manifest = json.dumps(
      jobset(
        o.name,
        token,
        tpu,
        self._command,
        image=o.image,
        slices=o.slices,
        spot=o.spot,
        bucket=o.bucket,
        service_account=o.service_account,
        max_retries=o.max_retries,
      ),
      indent=2,
    )
    path = o.state_dir / f"{o.name}.jobset.json"
    if o.dry_run:
      print(manifest)
    else:
      path.write_text(manifest + "\n", "utf-8")
    self._shell.check(self._kubectl("create", f"--filename={path}"), _DENIED)
    return self._follow()

  def stop(self) -> None:
    found = self._find()
    name = self._options.name
    if found is None:
      self._shell.say(f"There is no JobSet {name}.")
    elif self._shell.dry_run or self._is_own(found):
      self._shell.check(self._kubectl("delete", "jobset", name), _DENIED)
    else:
      raise LaunchError(
        f"JobSet {name} was not created by this checkout's launcher and is not "
        "deleted. To delete it yourself: "
        f"{' '.join(self._kubectl('delete', 'jobset', name))}"
      )
    self._marks.forget(_KIND, self._key)

  def _follow(self) -> int:
    o, last = self._options, ""
    selector = f"--selector=jobset.sigs.k8s.io/jobset-name={o.name}"
    logs = self._kubectl("logs", selector, "--prefix", "--tail=50")
    self._shell.say(f"Its logs: {' '.join([*logs, '--follow'])}")
    while True:
      found = self._find(assumed=_COMPLETED)
      if found is None:
        raise LaunchError(f"The JobSet {o.name} was deleted.")
      state = _ended(found) or "running or waiting for nodes"
      shown = f"{state}, restarts {found.get('status', {}).get('restarts', 0)}"
      if shown != last:
        self._shell.say(f"JobSet {o.name}: {shown}")
        last = shown
      if state == "Completed":
        return 0
      if state == "Failed":
        self._shell.run(logs)
        raise LaunchError(
          f"The JobSet {o.name} failed; the end of its logs is above, its "
          f"events: {' '.join(self._kubectl('describe', 'jobset', o.name))}"
        )
      time.sleep(o.poll_seconds)

  def _find(
    self, assumed: Mapping[str, Any] | None = None
  ) -> Mapping[str, Any] | None:
    """The JobSet in the cluster, or None.

    Raises:
      LaunchError: If the cluster does not respond.
    """
    answer = self._shell.query(
      self._kubectl("get", "jobset", self._options.name, "--output=json"),
      assumed=json.dumps(assumed),
    )
    if answer.status == 0:
      return json.loads(answer.stdout)
    if "NotFound" in answer.stderr:
      return None
    raise LaunchError(f"{answer.stderr.strip()}\n{_DENIED}")

  def _is_own(self, found: Mapping[str, Any]) -> bool:
    labels = found.get("metadata", {}).get("labels", {})
    return self._marks.owns(_KIND, self._key, labels)

  def _kubectl(self, *words: str) -> list[str]:
    o = self._options
    context = [f"--context={o.context}"] if o.context else []
    return ["kubectl", *context, f"--namespace={o.namespace}", *words]


def _ended(found: Mapping[str, Any]) -> str:
  """`Completed` or `Failed`; empty while it runs."""
  for condition in found.get("status", {}).get("conditions", []):
    if condition["type"] in ("Completed", "Failed") and (
      condition["status"] == "True"
    ):
      return condition["type"]
  return ""


_COMPLETED = {
  "status": {"conditions": [{"type": "Completed", "status": "True"}]}
}
_DENIED = (
  "Does kubectl use the right cluster (`gcloud container clusters "
  "get-credentials CLUSTER --location=ZONE`), and is JobSet installed there "
  "(https://jobset.sigs.k8s.io/docs/installation/)?"
)

if __name__ == "__main__":
  script.end(main)
