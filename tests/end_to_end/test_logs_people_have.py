"""Logs as people have them are read right, or say how they would be.

Each case is read with its configuration. Where a note or an error names a
setting, that very binding is applied, and has to mend the log.
"""

import dataclasses

import gin
import pytest

from calrec_jax.__main__ import main
from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.domain import splits
from calrec_jax.data.logs import log_files  # noqa: F401 (gin names it)
from calrec_jax.errors import CalrecError
from tests.fixtures import logs_people_have

CASES = {case.name: case for case in logs_people_have.cases()}
_BASE = """
Domain.name = "shop"
Domain.source = @LogFiles()
Domain.min_count = 1
Domain.dedup = "none"
"""


@pytest.fixture(autouse=True)
def _no_bindings():
  gin.clear_config()
  yield
  gin.clear_config()


def write(folder, files):
  for name, content in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def prepare(case, *more):
  gin.clear_config()
  lines = [_BASE, f"LogFiles.interactions = {case.log!r}", case.gin, *more]
  gin.parse_config("\n".join(lines))
  return domain_lib.Domain().prepare()


def check(case, prepared):
  problems = prepared.problems
  counts = {row["kind"]: row["count"] for row in problems.as_list()}
  assert counts == case.problems
  for part, remedy in case.notes:
    [note] = [note for note in problems.notes() if part in note.message]
    assert note.remedy.startswith(remedy)
    assert bool(note.remedy) >= bool(remedy)
  unexpected = [
    note
    for note in problems.notes()
    if note.severity != "info"
    and not any(part in note.message for part, _ in case.notes)
  ]
  assert not unexpected
  steps = {step["step"]: step for step in prepared.steps}
  assert steps["validate"]["events"] == case.events
  if case.texts is not None:
    plain = [
      text.removeprefix("Title: ").removeprefix("Item: ").removesuffix(".")
      if text.count(": ") == 1
      else text
      for text in prepared.texts
    ]
    assert sorted(plain) == sorted(case.texts)
  times = prepared.events.timestamps
  for expected, found in ((case.first, times.min()), (case.last, times.max())):
    if expected is not None:
      assert splits.day(int(found)) == expected
  for key, value in case.reading.items():
    assert problems.reading[0].get(key) == value
  assert problems.excluded == case.excluded
  # Each physical line is a row, part of one, the header, blank or bad.
  for file in problems.reading:
    if file.get("format") == "csv":
      kinds = (
        "header_lines",
        "blank_lines",
        "rows",
        "quoted_lines",
        "bad_lines",
      )
      assert sum(file.get(kind, 0) for kind in kinds) == file["lines"]


@pytest.mark.parametrize("name", CASES)
def test_a_log_is_read_right_or_says_how(name, tmp_path, monkeypatch):
  case = CASES[name]
  write(tmp_path, case.files)
  monkeypatch.chdir(tmp_path)
  remedy = case.remedy
  if case.error is None:
    prepared = prepare(case)
    check(case, prepared)
    if remedy == "notes":  # As the notes themselves write them.
      notes = prepared.problems.notes()
      remedy = "\n".join(n.remedy for n in notes if n.severity != "info")
  else:
    with pytest.raises(
      (CalrecError, OSError), match=f"(?s){case.error}"
    ) as caught:
      prepare(case)
    assert "\n  File" not in str(caught.value)
  if remedy:
    mended = dataclasses.replace(case, **case.mended)
    check(mended, prepare(mended, remedy))


def test_two_commands_from_files_to_a_card(tmp_path, monkeypatch, capsys):
  files = {
    "orders.csv": logs_people_have.csv(
      [
        (f"c{n % 12}", f"00{n % 7}", f"{1 + n % 28}.09.2020 10:{n % 60:02}", p)
        for n in range(120)
        for p in ["purchase" if n % 4 else "view"]
      ],
      ("Kunde", "Artikelnr", "Datum", "event"),
      ";",
    ),
    "products.csv": logs_people_have.csv(
      [(n, f"Tea of kind {n}", f"{n},95 €") for n in range(7)],
      ("Artikelnr", "Bezeichnung", "Preis"),
      ";",
    ),
  }
  write(tmp_path, files)
  monkeypatch.chdir(tmp_path)
  guess = ["data", "guess", "products.csv", "orders.csv"]
  assert main([*guess, "--output=mine.gin"]) == 0
  assert "Read it, then" in capsys.readouterr().out
  assert main([*guess, "--output=mine.gin"]) != 0  # It is not written over.
  capsys.readouterr()
  flags = ["--gin.VOCABULARY_SIZE=320", "--gin.Domain.min_count=1"]
  folder = f"--gin.Dataset.data_dir='{tmp_path}/data'"
  card = ["data", "card", "--quiet", "--gin_file=mine.gin", folder, *flags]
  assert main(card) == 0
  out = capsys.readouterr().out
  assert "an item: Title: Tea of kind" in out
  assert "Price: 0.95." in out
  assert 'event == "purchase"' in out
  assert "times from Datum: dates with the day first" in out
  assert "read orders.csv: csv, utf-8, delimiter ';'" in out
