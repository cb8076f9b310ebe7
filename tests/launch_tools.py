"""The program behind every stand-in of `launch_stand_ins.World`.

    launch_tools.py TOOL ARGUMENTS

Run without site-packages, so that it starts fast.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

WITHOUT_NODES = ("ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING")
FOLDER = pathlib.Path(os.environ["STAND_INS"])


@contextlib.contextmanager
def world():
  """What exists, for one program at a time."""
  with open(FOLDER / "lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    path = FOLDER / "world.json"
    state = json.loads(path.read_text())
    yield state
    path.write_text(json.dumps(state))


def note(name, **line):
  with world(), open(FOLDER / name, "a") as file:
    file.write(json.dumps(line) + "\n")


def planned(state, name, otherwise=None):
  """What the plan has next under a name."""
  coming = state["plan"].get(name, [])
  return coming.pop(0) if coming else otherwise


def fail(text, status=1):
  print(text, file=sys.stderr)
  sys.exit(status)


def flag(argv, name, otherwise=""):
  found = [
    word.partition("=")[2] for word in argv if word.startswith(name + "=")
  ]
  return found[-1] if found else otherwise


def gcloud(argv):
  """`gcloud compute tpus KIND VERB …`."""
  assert argv[:2] == ["compute", "tpus"], argv
  kind, verb, *rest = argv[2:]
  assert flag(argv, "--zone"), argv
  assert flag(argv, "--project"), argv
  if verb == "scp":
    copy(rest)
  elif verb == "ssh":
    on_hosts(flag(argv, "--command"), first="--worker=0" in argv)
  elif verb == "create":
    create(kind, rest[0], argv)
  else:
    manage(kind, verb, rest[0])


def create(kind, name, argv):
  with world() as state:
    if error := planned(state, "create_errors"):
      fail(f"ERROR: (gcloud) {error}")
    if f"{kind}/{name}" in state["things"]:
      fail("ERROR: (gcloud) ALREADY_EXISTS")
    ready = "ACTIVE" if kind == "queued-resources" else "READY"
    labels = flag(argv, "--labels").split(",")
    state["things"][f"{kind}/{name}"] = {
      "states": planned(state, "states", [ready]),
      "labels": dict(label.split("=") for label in labels),
    }


def manage(kind, verb, name):
  key = f"{kind}/{name}"
  with world() as state:
    things = state["things"]
    if kind == "tpu-vm" and key not in things:
      key = owner(things, name)
    if key not in things:
      fail(f"ERROR: (gcloud) NOT_FOUND: Resource {name} was not found")
    thing = things[key]
    if verb == "delete":
      del things[key]
      shutil.rmtree(FOLDER / "hosts", ignore_errors=True)
    elif verb == "describe":
      now = thing["states"][0]
      if kind_of_node(kind, key) and now in WITHOUT_NODES:
        fail(f"ERROR: (gcloud) NOT_FOUND: Resource {name} was not found")
      if len(thing["states"]) > 1 and not kind_of_node(kind, key):
        thing["states"].pop(0)
      print(json.dumps(described(kind, key, now, thing)))
    else:
      fail(f"unknown verb {verb}")


def kind_of_node(kind, key):
  return kind == "tpu-vm" and not key.startswith("tpu-vm/")


def owner(things, node):
  """The queued resource whose node it is."""
  for key in things:
    name = key.partition("/")[2]
    if node == name or node.rpartition("-")[0] == name:
      return key
  return None


def described(kind, key, now, thing):
  if kind_of_node(kind, key):
    return {"state": thing.get("node", "READY")}
  if kind == "tpu-vm":
    return {"name": key, "state": now, "labels": thing["labels"]}
  node = {"labels": thing["labels"]}
  return {"state": {"state": now}, "tpu": {"nodeSpec": [{"node": node}]}}


def host(index):
  """The home of a host, with an environment that is complete."""
  home = FOLDER / "hosts" / str(index)
  checkout = home / "calrec_jax"
  venv = checkout / os.environ["STAND_IN_VENV"]
  if not venv.exists():
    (venv / "bin").mkdir(parents=True)
    me = f'"{sys.executable}" -IS "{__file__}"'
    for name in ("calrec", "python"):
      script = venv / "bin" / name
      script.write_text(f'#!/bin/sh\nexec {me} {name} "$@"\n')
      script.chmod(0o755)
    lock = os.environ["STAND_IN_LOCK"]
    (venv / ".complete").write_text(f"{lock} {checkout}\n")
    for name in ("tpu", "cuda", "gemma"):
      stamp = os.environ[f"STAND_IN_{name.upper()}"]
      (venv / f".complete-{name}.txt").write_text(f"{stamp}\n")
  return home


def on_hosts(command, first=False):
  """What ssh does: a shell of the host takes the string apart."""
  with world() as state:
    count = 1 if first else state["plan"].get("hosts", 1)
    # Once a run has started, if the plan says so, no host is reached any more.
    away = state["plan"].get("unreached") and (FOLDER / "calrec.jsonl").exists()
    broken = away or ("follow" in command and planned(state, "broken"))
  if broken:
    fail("Connection closed by remote host", 255)
  statuses = []
  for index in range(count):
    home = host(index)
    environment = {**os.environ, "HOME": str(home), "STAND_IN_HOST": str(index)}
    done = subprocess.run(
      ["bash", "-c", command], cwd=home, env=environment, check=False
    )
    statuses.append(done.returncode)
  sys.exit(next((status for status in statuses if status), 0))


def copy(paths):
  paths = [path for path in paths if not path.startswith("-")]
  *sources, target = paths
  if target.endswith(":"):
    with world() as state:
      count = state["plan"].get("hosts", 1)
    for index in range(count):
      for source in sources:
        shutil.copy(source, host(index))
  else:
    [source] = sources
    shutil.copy(host(0) / source.partition(":")[2], target)


def ssh(argv):
  words = [word for word in argv if not word.startswith("-o")]
  assert len(words) == 2, argv
  on_hosts(words[1])


def scp(argv):
  copy(argv)


def curl(argv):
  """The metadata of a TPU VM, where the plan has several hosts."""
  with world() as state:
    plan = state["plan"]
  if plan.get("hosts", 1) == 1 or "STAND_IN_HOST" not in os.environ:
    sys.exit(22)
  slices = plan.get("slices", 1)
  hosts = plan["hosts"] // slices
  index = int(os.environ["STAND_IN_HOST"])
  key = argv[-1].rpartition("/")[2]
  if key == "agent-worker-number":
    print(index % hosts, end="")
  elif key == "worker-network-endpoints":
    print(",".join(f"n:{each}:10.0.0.{each}" for each in range(hosts)), end="")
  elif key == "tpu-env":
    print("ACCELERATOR_TYPE: 'v5litepod-16'")
    if slices > 1:
      print(f"MEGASCALE_NUM_SLICES: '{slices}'")
      print(f"MEGASCALE_SLICE_ID: '{index // hosts}'")
  else:
    sys.exit(22)


def calrec(argv):
  note("calrec.jsonl", argv=argv, host=os.environ.get("STAND_IN_HOST"))
  print("calrec says", argv[0])
  with world() as state:
    status = planned(state, "calrec", 0)
  if status == "wait":
    (FOLDER / "waiting").touch()
    began = time.monotonic()
    while not (FOLDER / "go").exists() and time.monotonic() - began < 60:
      time.sleep(0.05)
    status = 0
  with world() as state:
    if status == "vanish":
      for thing in state["things"].values():
        thing["states"], thing["node"] = ["SUSPENDED"], "PREEMPTED"
      status = 137
    elif status == "node":
      for thing in state["things"].values():
        thing["node"] = "PREEMPTED"
      status = 1
  if argv[0] == "train":
    results = pathlib.Path("calrec_jax/runs/launch-test")
    results.mkdir(parents=True, exist_ok=True)
    (results / "metrics.json").write_text("{}")
  sys.exit(status)


def kubectl(argv):
  words = [word for word in argv if not word.startswith("--")]
  with world() as state:
    things = state["things"]
    if words[0] == "get":
      thing = things.get(f"jobset/{words[2]}")
      if thing is None:
        fail(f'Error from server (NotFound): jobsets "{words[2]}" not found')
      now = thing["states"][0]
      if len(thing["states"]) > 1:
        thing["states"].pop(0)
      conditions = [{"type": now, "status": "True"}] if now != "Running" else []
      print(
        json.dumps(
          {
            "metadata": {"labels": thing["labels"]},
            "status": {"conditions": conditions, "restarts": 0},
          }
        )
      )
    elif words[0] == "create":
      manifest = json.loads(pathlib.Path(flag(argv, "--filename")).read_text())
      name = manifest["metadata"]["name"]
      things[f"jobset/{name}"] = {
        "states": planned(state, "states", ["Completed"]),
        "labels": manifest["metadata"]["labels"],
      }
    elif words[0] == "delete":
      del things[f"jobset/{words[2]}"]


def sbatch(argv):
  with world() as state:
    if error := planned(state, "create_errors"):
      fail(f"sbatch: error: {error}")
    state["things"]["job/77"] = {"comment": flag(argv, "--comment")}
  print("77")


def squeue(argv):
  with world() as state:
    job = state["things"].get(f"job/{flag(argv, '--jobs')}")
  if job is None:
    fail("slurm_load_jobs error: Invalid job id specified")
  print(job["comment"])


def scancel(argv):
  with world() as state:
    del state["things"][f"job/{argv[0]}"]


def srun(argv):
  begin = [word.startswith("--") for word in argv].index(False)
  words = argv[begin:]
  environment = {**os.environ, "SLURM_PROCID": "1", "SLURM_NTASKS": "4"}
  sys.exit(subprocess.run(words, env=environment, check=False).returncode)


def mountpoint(argv):
  sys.exit(1)


def main():
  tool, *argv = sys.argv[1:]
  if tool not in ("curl", "calrec", "python"):
    note("calls.jsonl", argv=[tool, *argv])
  play = globals().get(tool)
  if play is not None:
    play(argv)


if __name__ == "__main__":
  main()
