"""The rooms of the library: who may import whom."""

import ast
import pathlib

import calrec_jax

PACKAGE = pathlib.Path(calrec_jax.__file__).parent
# From top to bottom: a module imports from its own room and those below.
ROOMS = (
  *("cli", "aot", "evaluate", "train", "recommend", "checkpoint", "models"),
  *("data", "weights", "metrics", "storage", "runtime", "config", "errors"),
)
# The same within the room of logs; its loose files may import all of them.
ROOMS_OF_LOGS = (
  *("rows", "guessing", "reading", "csv", "columns", "json", "files"),
)
LOGS = "calrec_jax.data.logs."
LOOSE_FILES = {"__init__", "__main__", "config", "errors"}
TENSORFLOW = {"tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio"}


def _name(path):
  parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def _imports(path):
  """Full names of all imports in a file, also of those inside functions."""
  for node in ast.walk(ast.parse(path.read_text("utf-8"))):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _modules_imported(path):
  for name in _imports(path):
    if name in MODULES:
      yield name
    elif (parent := name.rpartition(".")[0]) in MODULES:
      yield parent


def _room(name):
  return name.split(".")[1]


ARROWS = {
  name: set(_modules_imported(path)) - {"calrec_jax"}
  for name, path in MODULES.items()
}


def test_only_four_files_lie_outside_the_rooms():
  assert {path.stem for path in PACKAGE.glob("*.py")} <= LOOSE_FILES
  assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} <= {
    *ROOMS
  }


def test_imports_run_downwards():
  upwards = [
    f"{name} imports {target}"
    for name, targets in ARROWS.items()
    if name not in ("calrec_jax", "calrec_jax.__main__")
    for target in targets
    if ROOMS.index(_room(target)) < ROOMS.index(_room(name))
  ]
  assert not upwards


def test_rooms_of_logs_import_downwards():
  upwards = []
  for name, targets in ARROWS.items():
    own, *rest = name.removeprefix(LOGS).split(".")
    for target in targets if name.startswith(LOGS) and rest else ():
      room, *rest = target.removeprefix(LOGS).split(".")
      if target.startswith(LOGS) and rest:
        order = ROOMS_OF_LOGS.index(own), ROOMS_OF_LOGS.index(room)
        upwards += [f"{name} imports {target}"] if order[1] < order[0] else []
  assert not upwards


def test_no_circles():
  done, path = set(), []

  def visit(name):
    if name in path:
      circle = [*path[path.index(name) :], name]
      raise AssertionError(" -> ".join(circle))
    if name in done:
      return
    path.append(name)
    for target in sorted(ARROWS[name]):
      visit(target)
    path.pop()
    done.add(name)

  for name in MODULES:
    visit(name)


def test_the_library_does_not_know_single_datasets():
  for name, path in MODULES.items():
    assert not any(
      target.startswith(("calrec_tasks", "tasks")) for target in _imports(path)
    ), name


def test_tensorflow_stays_in_one_room():
  for name, path in MODULES.items():
    if not name.startswith("calrec_jax.data.seqio"):
      found = {target.split(".")[0] for target in _imports(path)}
      assert not found & TENSORFLOW, name
