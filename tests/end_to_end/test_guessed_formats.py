"""From files of public formats to a right card, in two commands."""

import gin
import pytest

from calrec_jax import config
from calrec_jax.data import dataset as dataset_lib
from calrec_jax.data.domain import splits
from calrec_jax.data.logs.guessing import guess
from calrec_jax.errors import InputError
from tests.fixtures import public_formats

FORMATS = {each.name: each for each in public_formats.formats()}


def write(folder, files):
  """Writes files, texts as UTF-8."""
  for name, content in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def configure(path):
  """Applies a guessed gin file; returns its domain, with all that are left."""
  config.Configuration(
    files=(str(path),),
    bindings=("Domain.min_count=1",),
    macros=("MIXTURE_OR_TASK_NAME", "STAGES", "MEMBERS"),
  ).apply()
  [domain] = dataset_lib.Dataset().domains
  return domain


def bound(name):
  """The value of a binding or macro; KeyError without one."""
  if name.isupper():
    return config.macro(name)
  return config.plain_value(gin.query_parameter(name))


@pytest.mark.parametrize("name", FORMATS)
def test_a_guess_makes_a_right_card(name, tmp_path, monkeypatch):
  case = FORMATS[name]
  write(tmp_path, case.files)
  monkeypatch.chdir(tmp_path)
  text = guess.guess(case.paths)
  path = tmp_path / "guessed.gin"
  path.write_text(text, "utf-8")
  domain = configure(path)
  found = {each: bound(each) for each in case.bindings}
  assert found == case.bindings
  for each in case.unbound:
    assert f"\n{each} = " not in text
  for part in case.said:
    assert part in text
  prepared = domain.prepare()
  steps = {step["step"]: step for step in prepared.steps}
  counts = {key: steps["validate"][key] for key in ("events", "users", "items")}
  assert counts == {
    "events": case.events,
    "users": case.users,
    "items": case.items,
  }
  assert any(case.text in item for item in prepared.texts)
  if case.first is None:
    assert not prepared.events.by_time
  else:
    first = int(prepared.events.timestamps.min())
    assert splits.day(first) == case.first.removesuffix("Z")


def test_lists_of_ids_in_a_text_are_told(tmp_path, monkeypatch):
  write(tmp_path, public_formats.MIND)
  monkeypatch.chdir(tmp_path)
  with pytest.raises(InputError, match="several ids in a text, such as 'N55"):
    guess.guess([*public_formats.MIND])
