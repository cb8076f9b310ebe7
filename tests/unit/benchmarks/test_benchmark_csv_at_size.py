"""The log of the benchmark beside Polars is what it says."""

import csv

import pytest

from benchmarks import csv_at_size
from calrec_jax.data.logs.log_files import LogFiles
from calrec_jax.data.logs.problems import Problems


@pytest.mark.parametrize("text_ids", [False, True])
@pytest.mark.parametrize("iso", [False, True])
def test_every_row_of_the_log_is_an_event(tmp_path, iso, text_ids):
  path = tmp_path / "log.csv"
  csv_at_size.write_log(path, 300, titles=True, iso=iso, text_ids=text_ids)
  with path.open() as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 300
  assert len({row["item_id"] for row in rows}) <= 10
  problems = Problems()
  events, items = LogFiles(interactions=str(path)).read(problems, ["title"])
  assert len(events) == 300
  assert not problems.as_list()
  assert any('"No. ' in title for title in items.columns["title"])
