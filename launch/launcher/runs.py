"""The control loop of a run on machines that may be preempted.

    create (or use) → wait → install → start → follow → fetch → delete

A preempted machine is deleted, requested again, and given the same command,
which resumes from its checkpoints. Machines that already existed are used and
never deleted. The run is detached from this process, which may be stopped with
Ctrl-C and restarted with the same flags to reattach to the run.
"""

import dataclasses
import enum
import time
from collections.abc import Callable, Sequence

from .flags import Command
from .hosts import Hosts
from .marks import Marks
from .preemption import preempted_status
from .shell import LaunchError, Shell
from .tpu import QueuedResource, TpuVm

_TRIES_TO_REACH = 5  # Polls of a machine that exists but does not respond.


class End(enum.Enum):
  """How an attempt ended."""

  FINISHED = "finished"
  PREEMPTED = "was preempted"
  FAILED = "failed"


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The outcome of an attempt.

  Attributes:
    end: How it ended.
    status: Exit status.
    why: Reason, as a sentence.
    ran: Whether calrec ended by itself on hosts that still exist.
  """

  end: End
  status: int = 0
  why: str = ""
  ran: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
  """Settings of a run.

  Attributes:
    command: Command of the run.
    max_preemptions: Maximum number of preemptions.
    max_retries: Maximum number of restarts after other failures.
    poll_seconds: Interval between polls of a state.
    locks: Extra files of launch/locks for the hosts' environment.
    bucket: Bucket to mount on the hosts.
    fetch: Paths to copy back.
    keep: Whether the machine is not deleted at the end.
  """

  command: Command
  max_preemptions: int
  max_retries: int
  poll_seconds: float
  locks: Sequence[str] = ()
  bucket: str | None = None
  fetch: Sequence[str] = ()
  keep: bool = False


class Refused(LaunchError):
  """A requested machine was not created."""


class CloudRun:
  """A run on a TPU VM or a queued resource."""

  def __init__(
    self,
    shell: Shell,
    machine: TpuVm | QueuedResource,
    marks: Marks,
    settings: RunSettings,
  ):
    """Takes the machine, which may exist already, and the settings."""
    self._shell, self._machine, self._marks = shell, machine, marks
    self._settings = settings
    self._hosts = Hosts(shell, machine, machine.name)
    self._created = False

  def run(self) -> int:
    """Runs to the end.

    Returns:
      The exit status: 0, or that of the command.

    Raises:
      LaunchError: If the run fails.
    """
    outcome = retry(self._attempt, self._settings, self._shell, self._clean_up)
    if outcome.ran:
      self._fetch()
    if self._settings.keep:
      self._shell.say(
        f"{self._called()} is not deleted, and still costs money."
      )
    else:
      self._clean_up(outcome)
    if outcome.end is not End.FINISHED:
      raise LaunchError(outcome.why, outcome.status or 1)
    return 0

  def _fetch(self) -> None:
    """Copies results back, also of a failed run; else keeps the machine."""
    try:
      self._hosts.fetch(self._settings.fetch)
    except LaunchError as error:
      raise LaunchError(
        f"{error} {self._called()} is not deleted, so that the results are not "
        "lost, and costs money: launch again with the right --fetch, or with "
        "--stop."
      ) from None

  def stop(self) -> None:
    """Deletes the machine if it was created here.

    Raises:
      LaunchError: If it exists and was not created here.
    """
    machine = self._machine
    found = machine.describe(assumed=machine.ready)
    if found is None:
      self._marks.forget(machine.kind, machine.key)
      self._shell.say(f"There is no {self._called()}.")
    elif not self._release():
      raise LaunchError(
        f"{self._called()} was not created by this checkout's launcher and is "
        f"not deleted. To delete it yourself: {' '.join(machine.delete())}"
      )

  def _clean_up(self, outcome: Outcome) -> None:
    """Deletes the machine unless an earlier launch's run may use it.

    That is so if the machine existed already and could not be used: it may only
    have been unreachable.
    """
    if outcome.end is End.FAILED and not (outcome.ran or self._created):
      self._shell.warn(
        f"{self._called()} existed already and is not deleted; --stop deletes "
        "it if it was created here."
      )
    else:
      self._release()

  def _attempt(self) -> Outcome:
    machine, shell = self._machine, self._shell
    found = machine.describe(assumed=None)
    if found is not None and machine.preempted(found):
      shell.say(f"{self._called()} is {machine.state(found)}.")
      if not self._release():
        raise LaunchError(
          f"{self._called()} is {machine.state(found)}, and was not created "
          "here, so it is not deleted. Choose another --name."
        )
      found = None
    if found is None:
      machine.check()
    try:
      if found is None:
        self._create()
      else:
        shell.say(f"{self._called()} exists; using it.")
      outcome = self._wait()
      if outcome is not None:
        return outcome
      busy = found is not None and self._hosts.running()
      if not busy:
        self._hosts.install(self._settings.locks, self._settings.bucket)
      self._hosts.start(self._settings.command)
    except Refused as error:
      return Outcome(End.FAILED, error.status, str(error))
    except LaunchError as error:
      if self._gone():
        return Outcome(End.PREEMPTED, why=str(error))
      return Outcome(End.FAILED, error.status, str(error))
    return follow(self._hosts, self._settings, self._gone)

  def _create(self) -> None:
    machine = self._machine
    token = "TOKEN"
    if not self._shell.dry_run:
      token = self._marks.new_token(machine.kind, machine.key)
    self._created = True
    if self._shell.run(machine.create(token)):
      raise Refused(
        f"gcloud did not create the {self._called()}; its output above has the "
        "reason. Quota: https://cloud.google.com/tpu/docs/quota. Capacity: try "
        "another --zone or --accelerator, or launch/tpu_pod.sh, which waits in "
        "a queue."
      )

  def _wait(self) -> Outcome | None:
    """Waits until the machine is ready; then returns None."""
    machine, began, last = self._machine, time.monotonic(), ""
    while True:
      found = machine.describe(assumed=machine.ready)
      if found is None:
        return Outcome(End.PREEMPTED, why=f"{self._called()} is gone.")
      state = machine.state(found)
      if state != last:
        minutes = (time.monotonic() - began) / 60
        self._shell.say(f"{self._called()}: {state} ({minutes:.0f} min)")
        last = state
      if state == machine.ready:
        return None
      if state == "FAILED":
        return Outcome(
          End.FAILED,
          1,
          f"{self._called()} was not granted: {found.get('state')}. "
          "--valid_until_duration may have expired; try again, with --spot, or "
          "in another zone.",
        )
      if state in machine.gone:
        return Outcome(End.PREEMPTED, why=f"{self._called()} is {state}.")
      time.sleep(self._settings.poll_seconds)

  def _gone(self) -> bool:
    return self._machine.preempted(
      self._machine.describe(assumed=self._machine.ready)
    )

  def _release(self) -> bool:
    """Deletes the machine if it was created here; returns whether it was."""
    machine = self._machine
    if self._shell.dry_run:
      return self._shell.run(machine.delete()) == 0
    found = machine.describe(assumed=None)
    if found is None:
      self._marks.forget(machine.kind, machine.key)
      return True
    if not self._marks.owns(machine.kind, machine.key, machine.labels(found)):
      return False
    self._shell.check(
      machine.delete(), f"Delete {self._called()} yourself: it costs money."
    )
    self._marks.forget(machine.kind, machine.key)
    return True

  def _called(self) -> str:
    return f"{self._machine.label} {self._machine.name}"


def retry(
  attempt: Callable[[], Outcome],
  settings: RunSettings,
  shell: Shell,
  clean_up: Callable[[Outcome], object],
) -> Outcome:
  """Retries until an attempt finishes or the limits are reached.

  Args:
    attempt: Function that runs an attempt.
    settings: Settings with the limits.
    shell: Shell for messages.
    clean_up: Function that releases the machine before the next attempt.
  """
  preemptions = failures = 0
  while True:
    outcome = attempt()
    if outcome.end is End.FINISHED:
      return outcome
    if outcome.end is End.PREEMPTED:
      preemptions += 1
      tried, most, name = (
        preemptions,
        settings.max_preemptions,
        "max_preemptions",
      )
    else:
      failures += 1
      tried, most, name = failures, settings.max_retries, "max_retries"
    if tried > most:
      given_up = f" Giving up: --{name}={most}." if most else ""
      return dataclasses.replace(outcome, why=outcome.why + given_up)
    shell.say(
      f"The run {outcome.end.value}. {outcome.why} Restart {tried} of at most "
      f"{most}; it resumes from its last checkpoint."
    )
    clean_up(outcome)
    time.sleep(settings.poll_seconds)


def follow(
  hosts: Hosts, settings: RunSettings, gone: Callable[[], bool]
) -> Outcome:
  """Shows a started run until it ends.

  Args:
    hosts: Hosts of the run.
    settings: Settings with the polling interval.
    gone: Function that tells whether the machine was preempted.

  Raises:
    LaunchError: If the hosts do not respond, although the run may continue.
  """
  which, unreached = "all", 0
  while True:
    hosts.follow(which)
    which = "new"  # The rest has been shown.
    reports = hosts.reports()
    if reports is None:
      if gone():
        return Outcome(End.PREEMPTED, why="The machine was preempted.")
      unreached += 1
      if unreached >= _TRIES_TO_REACH:
        raise LaunchError(
          "The hosts do not respond. The run may continue, and costs money: "
          "the same command reattaches to it, --stop ends it."
        )
    else:
      unreached = 0
      states = {state for state, _ in reports}
      if "running" not in states:
        return _ended(reports, gone)
    time.sleep(settings.poll_seconds)


def _ended(
  reports: Sequence[tuple[str, int]], gone: Callable[[], bool]
) -> Outcome:
  statuses = [status for state, status in reports if state == "ended"]
  if len(statuses) == len(reports) and not any(statuses):
    return Outcome(End.FINISHED, ran=True)
  if preempted_status() in statuses:
    return Outcome(End.PREEMPTED, preempted_status(), "It saved its state.")
  if len(statuses) < len(reports):
    return Outcome(End.PREEMPTED, why="A host was restarted.")
  # Peers may fail when a host is preempted.
  if gone():
    return Outcome(End.PREEMPTED, why="The machine was preempted.")
  status = next(status for status in statuses if status)
  why = f"calrec failed with status {status}; its log is above."
  return Outcome(End.FAILED, status, why, ran=True)
