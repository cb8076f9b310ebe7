"""The docs site builds without a warning, and shows every page and room."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
LOCKS = ROOT / "launch" / "locks"


def _versions(lock: pathlib.Path) -> dict[str, str]:
  pins = re.findall(r"^([\w.-]+)==([^\s;]+)", lock.read_text(), re.MULTILINE)
  return {re.sub(r"[-_.]+", "-", name).lower(): pin for name, pin in pins}


def _python_with_mkdocs() -> str:
  """This Python, or that of the environment which `launch/docs.sh` makes."""
  made = sorted(ROOT.glob(".venv-docs-py*/.complete"))
  for python in (sys.executable, *(str(p.parent / "bin/python") for p in made)):
    tried = subprocess.run(
      [python, "-c", "import mkdocs, material, mkdocstrings"],
      capture_output=True,
      check=False,
    )
    if tried.returncode == 0:
      return python
  pytest.skip("mkdocs is not installed; launch/docs.sh builds the site with it")


def test_the_site_builds_strictly(tmp_path):
  site = tmp_path / "site"
  built = subprocess.run(
    [
      *(_python_with_mkdocs(), "-m", "mkdocs", "build", "--strict"),
      *("--site-dir", str(site)),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert built.returncode == 0, built.stdout + built.stderr
  for package in (ROOT / "calrec_jax").rglob("__init__.py"):
    name = ".".join(package.parent.relative_to(ROOT).parts)
    assert (site / "reference" / name / "index.html").exists()
  page = (site / "reference" / "calrec_jax.models" / "index.html").read_text()
  assert 'id="calrec_jax.models.objective.Objective"' in page


def test_the_navigation_lists_every_page():
  config = (ROOT / "mkdocs.yml").read_text("utf-8")
  for page in (ROOT / "docs").rglob("*.md"):
    assert str(page.relative_to(ROOT / "docs")) in config


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_site_may_be_built_in_the_environment_of_the_tests(python):
  library = _versions(LOCKS / f"py{python}.txt")
  for name, pin in _versions(LOCKS / "docs.txt").items():
    assert library.get(name, pin) == pin
