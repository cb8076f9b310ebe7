"""Stand-ins for gcloud, kubectl, ssh and the like, and for calrec itself.

`World` puts one program on PATH under all those names. It notes every call,
keeps what exists in a file, and really runs what is sent to a host: in a folder
that plays its home, with a `calrec` that notes its arguments.
"""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
TOOLS = (
  *("gcloud", "kubectl", "ssh", "scp", "docker", "sbatch", "squeue", "scancel"),
  *("srun", "scontrol", "curl", "mountpoint", "sudo", "gcsfuse"),
)
LONGEST_SECONDS = 60  # Of waiting for another process, on a busy machine.
LOCKS = ROOT / "launch" / "locks"


class World:
  """The clouds, as far as the launch scripts see them.

  Attributes:
    folder: where all of it lies.
    environment: in which scripts see it.
  """

  def __init__(self, folder: pathlib.Path, **plan):
    """Makes it.

    Args:
      folder: empty.
      **plan: what happens, in order: `create_errors`, texts of refusals;
        `states`, one list of states for each thing that is created, the last of
        which stays; `calrec`, exit statuses, or `vanish`: the machine is taken
        away meanwhile, or `wait` until it is let go; `broken`, connections that
        break; `unreached`, that no host is reached once a run has started;
        `hosts`, how many, of all `slices`.
    """
    self.folder = folder
    self.bin = folder / "bin"
    self.bin.mkdir(parents=True)
    program = pathlib.Path(__file__).with_name("launch_tools.py")
    for tool in TOOLS:
      script = self.bin / tool
      script.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -IS "{program}" {tool} "$@"\n'
      )
      script.chmod(0o755)
    self.write({"things": {}, "plan": plan})
    version = "{}.{}".format(*sys.version_info[:2])
    self.environment = {
      "PATH": f"{self.bin}:{os.environ['PATH']}",
      "HOME": str(folder),
      "STAND_INS": str(folder),
      "CALREC_PYTHON": sys.executable,
      "CALREC_POLL_SECONDS": "0.01",
      # What an environment of the checkout would be complete by.
      "STAND_IN_VENV": f".venv-py{version}",
      "STAND_IN_LOCK": _sha256(LOCKS / f"py{version}.txt", ROOT / "setup.py"),
      **{
        f"STAND_IN_{name.upper()}": _sha256(LOCKS / f"{name}.txt")
        for name in ("tpu", "cuda", "gemma")
      },
    }

  def read(self) -> dict:
    """What exists now, and what of the plan is still to come."""
    return json.loads((self.folder / "world.json").read_text())

  def write(self, world: dict) -> None:
    (self.folder / "world.json").write_text(json.dumps(world))

  def add(self, kind: str, name: str, states: list[str], **labels: str) -> None:
    """Something that existed before."""
    world = self.read()
    world["things"][f"{kind}/{name}"] = {"states": states, "labels": labels}
    self.write(world)

  def things(self) -> set[str]:
    return set(self.read()["things"])

  def calls(self, *begin: str) -> list[list[str]]:
    """The calls that began so, in order: the tool and its arguments."""
    calls = [call["argv"] for call in self._lines("calls.jsonl")]
    return [call for call in calls if call[: len(begin)] == list(begin)]

  def calrec(self) -> list[list[str]]:
    """The arguments of each call of calrec on a host."""
    return [call["argv"] for call in self._lines("calrec.jsonl")]

  def script(self, name: str) -> list[str]:
    """The command of a launch script."""
    state = str(self.folder / "state")
    return [str(ROOT / "launch" / f"{name}.sh"), "--state_dir", state]

  def await_call_of_calrec(self) -> None:
    """Returns when a calrec that is planned to `wait` does so."""
    began = time.monotonic()
    while not (self.folder / "waiting").exists():
      assert time.monotonic() - began < LONGEST_SECONDS
      time.sleep(0.05)

  def let_calrec_go(self) -> None:
    """Ends its waiting."""
    (self.folder / "go").touch()

  def launch(self, script: str, *words: str) -> subprocess.CompletedProcess:
    """Runs a launch script."""
    return subprocess.run(
      [*self.script(script), *words],
      env=self.environment,
      capture_output=True,
      text=True,
      timeout=300,
      check=False,
    )

  def _lines(self, name: str) -> list[dict]:
    path = self.folder / name
    if not path.exists():
      return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def _sha256(*paths: pathlib.Path) -> str:
  """As `sha256sum` prints it of what it reads."""
  text = b"".join(path.read_bytes() for path in paths)
  return f"{hashlib.sha256(text).hexdigest()}  -"
