"""Golden files: written with --update-goldens, compared without it."""

import pathlib

import pytest

FOLDER = pathlib.Path(__file__).parent


@pytest.fixture
def golden(request):
  """Compares a text with the golden file of a name."""

  def compare(name, text):
    path = FOLDER / name
    if request.config.getoption("--update-goldens"):
      path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8"), (
      f"{path.name} differs; if that is meant, write it anew with "
      "`pytest tests/golden --update-goldens` and read the change."
    )

  return compare
