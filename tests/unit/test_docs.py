"""What the pages say exists, and the commands they show are understood."""

import contextlib
import io
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sysconfig

import gin
import pytest

from calrec_jax import __main__ as calrec

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted(
  [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("gin/*.md")]
)
PAGE_IDS = [str(page.relative_to(ROOT)) for page in PAGES]
README = ROOT / "README.md"
# They look at folders of a run that has been made.
NEED_A_RUN = ("checkpoint",)


@pytest.fixture(autouse=True)
def _clean_gin():
  yield
  gin.clear_config()


def _prose(page: pathlib.Path) -> str:
  """A page without its fenced blocks."""
  text = page.read_text("utf-8")
  return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def _anchors(page: pathlib.Path) -> set[str]:
  """How GitHub calls the headings."""
  headings = re.findall(r"^#+ (.+)$", _prose(page), flags=re.MULTILINE)
  plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
  return {heading.replace(" ", "-") for heading in plain}


def _commands(page: pathlib.Path) -> list[str]:
  """Lines of code that call `calrec`; continued lines are joined."""
  text = page.read_text("utf-8").replace("\\\n", " ")
  lines = re.findall(r"^(?: {4}.*|```sh\n.*?```)$", text, flags=re.MULTILINE)
  found = []
  for line in lines:
    match = re.search(r"(?:^|\s)calrec (?!VERB)(.+)$", line.strip())
    if match:
      found.append(match[1])
  return found


COMMANDS = sorted({c for page in PAGES for c in _commands(page)})


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_links_lead_somewhere(page):
  for target in re.findall(r"\]\(([^)]+)\)", _prose(page)):
    if target.startswith("https://"):
      continue
    name, _, anchor = target.partition("#")
    aim = (page.parent / name).resolve() if name else page
    assert aim.exists(), f"{page.name} links to {target}"
    if anchor:
      assert anchor in _anchors(aim), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_named_files_exist(page):
  folders = "calrec_jax|gin|tasks|launch|tests|benchmarks|docs"
  named = re.findall(rf"`((?:{folders})/[\w./-]*)`", _prose(page))
  for name in named:
    assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_readme_is_short_and_maps_every_room():
  text = README.read_text("utf-8")
  assert len(text.splitlines()) <= 130
  rooms = [
    path
    for path in (ROOT / "calrec_jax").iterdir()
    if path.is_dir() and (path / "__init__.py").exists()
  ]
  for path in rooms:
    assert f"`calrec_jax/{path.name}/`" in text
  for folder in ("gin", "tasks", "launch", "tests", "benchmarks", "docs"):
    assert f"`{folder}/`" in text


def test_every_verb_is_shown_and_listed():
  shown = {command.split()[0] for command in _commands(README)}
  listed = (ROOT / "docs" / "commands.md").read_text("utf-8")
  assert shown == set(calrec.VERBS)
  for verb in calrec.VERBS:
    assert f"| `calrec {verb}" in listed


def test_commands_are_found():
  assert any("--gin_file=recipes/quickstart.gin" in c for c in COMMANDS)
  assert any("--gin_file=mine.gin" in command for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command, tmp_path, monkeypatch):
  words = shlex.split(command, comments=True)
  if words[0] in NEED_A_RUN or any(w.startswith("--run=") for w in words):
    pytest.skip("needs the folder of a run")
  # The README's gin file is the one that its commands name.
  [mine] = re.findall(
    r"^```gin\n(.*?)^```$",
    README.read_text("utf-8"),
    flags=re.DOTALL | re.MULTILINE,
  )
  (tmp_path / "mine.gin").write_text(mine)
  monkeypatch.chdir(tmp_path)
  if words == ["data", "build"] or "--gin_file" not in command:
    words.append("--gin_file=recipes/quickstart.gin")
  for word in words[2:] if words[:2] == ["data", "guess"] else ():
    if word.endswith(".csv"):
      rows = "".join(f"u{n % 7},i{n % 5},{10**9 + n}\n" for n in range(40))
      (tmp_path / word).write_text("user_id,item_id,timestamp\n" + rows)
  printed = io.StringIO()
  with contextlib.redirect_stdout(printed):
    assert calrec.main([*words, "--dry_run"]) == 0
  assert printed.getvalue().strip()


@pytest.mark.parametrize(
  "recipe",
  sorted(path.name for path in (ROOT / "gin" / "recipes").glob("*.gin")),
)
def test_recipes_resolve(recipe, capsys):
  words = ["train", f"--gin_file=recipes/{recipe}", "--dry_run"]
  required = {
    "own_log.gin": ["--gin.INTERACTIONS='log.csv'"],
    "sasrec_own_log.gin": ["--gin.INTERACTIONS='log.csv'"],
    "own_folders.gin": [
      "--gin.ROOT='logs'",
      "--gin.DOMAINS=('books', 'music')",
      "--gin.target/MIXTURE_OR_TASK_NAME='music'",
    ],
  }
  assert calrec.main([*words, *required.get(recipe, [])]) == 0
  assert "Stage." in capsys.readouterr().out


def test_the_table_of_macros_is_complete():
  bound, read = set(), set()
  for path in (ROOT / "gin").rglob("*.gin"):
    for line in path.read_text("utf-8").splitlines():
      code = line.partition("#")[0]
      if match := re.match(r"(?:\w+/)?([A-Z][A-Z0-9_]*)\s*=", code):
        bound.add(match[1])
      read.update(re.findall(r"%([A-Z][A-Z0-9_]*)", code))
  page = (ROOT / "gin" / "README.md").read_text("utf-8")
  table = re.findall(r"^\| `([A-Z][A-Z0-9_]*)` \|", page, flags=re.MULTILINE)
  assert len(table) == len(set(table))
  assert set(table) == bound | read


def test_spelling():
  found = shutil.which(
    "codespell", path=f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
  )
  if found is None:
    pytest.skip("codespell is missing: pip install codespell")
  # Its settings are in pyproject.toml, which it reads from where it runs.
  done = subprocess.run(
    [found], cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stdout + done.stderr


def test_hooks_are_programs_of_the_environment():
  text = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
  hooks = re.findall(r"^ +- id: (.+)$", text, flags=re.MULTILINE)
  assert set(re.findall(r"^ +- repo: (.+)$", text, re.MULTILINE)) == {"local"}
  assert text.count("language: system") == len(hooks)
