"""A run on machines that may be taken away: the loop around it.

    create (or use) → wait → install → start → follow → fetch → delete

A preempted machine is deleted, asked for again, and given the same command,
which goes on from its checkpoints. What existed before is used and never
deleted. The run itself is detached from this process: it may be stopped with
Ctrl-C and started again with the same flags, and finds the run where it is.
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

_TRIES_TO_REACH = 5  # Looks at a machine that is there but does not answer.


class End(enum.Enum):
  """How an attempt ended."""

  FINISHED = "finished"
  PREEMPTED = "was preempted"
  FAILED = "failed"


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How an attempt ended.

  Attributes:
    end: in a word.
    status: to exit with.
    why: in a sentence.
    ran: whether there are hosts on which calrec ran to an end of its own.
  """

  end: End
  status: int = 0
  why: str = ""
  ran: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wishes:
  """What was asked for.

  Attributes:
    command: what is run.
    max_preemptions: after which it is given up.
    max_retries: other failures after which it is started again.
    poll_seconds: between two looks at a state.
    locks: of launch/locks that the hosts' environment adds.
    bucket: mounted on the hosts.
    fetch: paths that are brought back.
    keep: whether what was made is left there.
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
  """A machine was asked for and not created."""


class CloudRun:
  """A run on a TPU VM or a queued resource."""

  def __init__(
    self,
    shell: Shell,
    machine: TpuVm | QueuedResource,
    marks: Marks,
    wishes: Wishes,
  ):
    """Takes the machine, which may exist or not, and what is wished."""
    self._shell, self._machine, self._marks = shell, machine, marks
    self._wishes = wishes
    self._hosts = Hosts(shell, machine, machine.name)
    self._created = False

  def run(self) -> int:
    """Runs to the end.

    Returns:
      The exit status: 0, or that of the command.

    Raises:
      LaunchError: if there is no way to go on.
    """
    outcome = again(self._attempt, self._wishes, self._shell, self._give_back)
    if outcome.ran:
      self._fetch()
    if self._wishes.keep:
      self._shell.say(f"{self._called()} is kept, and goes on costing.")
    else:
      self._give_back(outcome)
    if outcome.end is not End.FINISHED:
      raise LaunchError(outcome.why, outcome.status or 1)
    return 0

  def _fetch(self) -> None:
    """Brings results back, those of a failed run too; or keeps the machine."""
    try:
      self._hosts.fetch(self._wishes.fetch)
    except LaunchError as error:
      raise LaunchError(
        f"{error} {self._called()} is kept for the sake of the results, and "
        "goes on costing: launch again with the right --fetch, or with --stop."
      ) from None

  def stop(self) -> None:
    """Deletes what was made here.

    Raises:
      LaunchError: if it exists and was not made here.
    """
    machine = self._machine
    found = machine.describe(assumed=machine.ready)
    if found is None:
      self._marks.forget(machine.kind, machine.key)
      self._shell.say(f"There is no {self._called()}.")
    elif not self._release():
      raise LaunchError(
        f"{self._called()} was not made by this checkout's launcher and is "
        f"left alone. To delete it yourself: {' '.join(machine.delete())}"
      )

  def _give_back(self, outcome: Outcome) -> None:
    """Deletes the machine unless another launch's run may be going on there.

    That is so where the machine was there, made by an earlier launch, and could
    not be used: perhaps it was only not reached.
    """
    if outcome.end is End.FAILED and not (outcome.ran or self._created):
      self._shell.warn(
        f"{self._called()} was there before and is left; --stop deletes it, if "
        "it was made here."
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
          f"{self._called()} is {machine.state(found)}, and was not made here, "
          "so it is not deleted. Choose another --name."
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
        self._hosts.install(self._wishes.locks, self._wishes.bucket)
      self._hosts.start(self._wishes.command)
    except Refused as error:
      return Outcome(End.FAILED, error.status, str(error))
    except LaunchError as error:
      if self._gone():
        return Outcome(End.PREEMPTED, why=str(error))
      return Outcome(End.FAILED, error.status, str(error))
    return follow(self._hosts, self._wishes, self._gone)

  def _create(self) -> None:
    machine = self._machine
    token = "TOKEN"
    if not self._shell.dry_run:
      token = self._marks.draw(machine.kind, machine.key)
    self._created = True
    if self._shell.run(machine.create(token)):
      raise Refused(
        f"gcloud did not create the {self._called()}; what it printed above "
        "says why. For quota: https://cloud.google.com/tpu/docs/quota; for "
        "lack of capacity: another --zone or --accelerator, or "
        "launch/tpu_pod.sh, which waits in a queue."
      )

  def _wait(self) -> Outcome | None:
    """Returns None when the machine is ready."""
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
          f"{self._called()} was not granted: {found.get('state')}. The time "
          "of --valid_until_duration may be over; ask again, with --spot, or "
          "elsewhere.",
        )
      if state in machine.gone:
        return Outcome(End.PREEMPTED, why=f"{self._called()} is {state}.")
      time.sleep(self._wishes.poll_seconds)

  def _gone(self) -> bool:
    return self._machine.preempted(
      self._machine.describe(assumed=self._machine.ready)
    )

  def _release(self) -> bool:
    """Deletes the machine if it was made here; whether it was."""
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
      machine.delete(), f"Delete {self._called()} yourself: it goes on costing."
    )
    self._marks.forget(machine.kind, machine.key)
    return True

  def _called(self) -> str:
    return f"{self._machine.label} {self._machine.name}"


def again(
  attempt: Callable[[], Outcome],
  wishes: Wishes,
  shell: Shell,
  give_back: Callable[[Outcome], object],
) -> Outcome:
  """Attempts until one finishes or there were too many.

  Args:
    attempt: makes an `Outcome`.
    wishes: how often.
    shell: says what happens.
    give_back: gives the machine back before it is asked for again.
  """
  preemptions = failures = 0
  while True:
    outcome = attempt()
    if outcome.end is End.FINISHED:
      return outcome
    if outcome.end is End.PREEMPTED:
      preemptions += 1
      tried, most, name = preemptions, wishes.max_preemptions, "max_preemptions"
    else:
      failures += 1
      tried, most, name = failures, wishes.max_retries, "max_retries"
    if tried > most:
      given_up = f" Given up: --{name}={most}." if most else ""
      return dataclasses.replace(outcome, why=outcome.why + given_up)
    shell.say(
      f"The run {outcome.end.value}. {outcome.why} Starting again, {tried} of "
      f"at most {most} times; it goes on from its last checkpoint."
    )
    give_back(outcome)
    time.sleep(wishes.poll_seconds)


def follow(hosts: Hosts, wishes: Wishes, gone: Callable[[], bool]) -> Outcome:
  """Shows a run that was started, until it ends.

  Args:
    hosts: where it runs.
    wishes: how long to wait between looks.
    gone: whether the machine was taken away.

  Raises:
    LaunchError: if the hosts do not answer. The run may be going on, so this is
      no end of it.
  """
  which, unreached = "all", 0
  while True:
    hosts.follow(which)
    which = "new"  # The rest was shown.
    reports = hosts.reports()
    if reports is None:
      if gone():
        return Outcome(End.PREEMPTED, why="The machine was taken away.")
      unreached += 1
      if unreached >= _TRIES_TO_REACH:
        raise LaunchError(
          "The hosts do not answer. The run may be going on, and costs: the "
          "same command looks again, --stop ends it."
        )
    else:
      unreached = 0
      states = {state for state, _ in reports}
      if "running" not in states:
        return _ended(reports, gone)
    time.sleep(wishes.poll_seconds)


def _ended(
  reports: Sequence[tuple[str, int]], gone: Callable[[], bool]
) -> Outcome:
  statuses = [status for state, status in reports if state == "ended"]
  if len(statuses) == len(reports) and not any(statuses):
    return Outcome(End.FINISHED, ran=True)
  if preempted_status() in statuses:
    return Outcome(End.PREEMPTED, preempted_status(), "It saved and left.")
  if len(statuses) < len(reports):
    return Outcome(End.PREEMPTED, why="A host was restarted under it.")
  # Its peers may die of the one that was taken away.
  if gone():
    return Outcome(End.PREEMPTED, why="The machine was taken away.")
  status = next(status for status in statuses if status)
  why = f"calrec failed with status {status}; its log is above."
  return Outcome(End.FAILED, status, why, ran=True)
