"""A guess is valid gin, whatever files and columns are called."""

import gin
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from calrec_jax.data.logs.guessing import guess, log_checks
from calrec_jax.data.logs.rows import where

_NAMES = st.text(min_size=1, max_size=12).filter(lambda name: name.strip())
_VALUES = st.recursive(
  st.text(max_size=12) | st.none() | st.integers(),
  lambda part: (
    st.lists(part, max_size=3)
    | st.lists(part, max_size=3).map(tuple)
    | st.dictionaries(st.text(max_size=6), part, max_size=3)
  ),
  max_leaves=6,
)


@given(_VALUES)
def test_gin_reads_back_what_is_written(value):
  gin.clear_config()
  gin.parse_config(f"VALUE = {guess.literal(value)}")
  assert gin.query_parameter("VALUE/gin.macro.value") == value


@example(name="0\n0", value="0")
@given(_NAMES.filter(lambda name: "`" not in name), _NAMES)
def test_conditions_name_any_column_and_text(name, value):
  condition = f"{log_checks.quoted(name)} == {log_checks.text(value)}"
  [clause] = where.parse(condition, "LogFiles.where").clauses
  [comparison] = clause.comparisons()
  assert comparison == where.Comparison(name, "==", value)


def test_files_of_any_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  name = 'my "log"\\ #1 ü.csv'
  rows = "".join(f"u{n % 4},i{n % 3},{1_600_000_000 + n}\n" for n in range(12))
  (tmp_path / name).write_text("Kunde,Artikel,Datum\n" + rows, "utf-8")
  text = guess.guess([name])
  bindings = [line for line in text.splitlines() if not line.startswith("inc")]
  gin.clear_config()
  gin.parse_config("\n".join(line for line in bindings if "." not in line[:9]))
  assert gin.query_parameter("INTERACTIONS/gin.macro.value") == name
  assert gin.query_parameter("MIXTURE_OR_TASK_NAME/gin.macro.value") == (
    "my_log_1_u"
  )


@pytest.mark.parametrize(
  ("path", "slug"),
  [
    ("ml-100k", "ml_100k"),
    ("2019-Oct.csv", "log_2019_oct"),
    ("all.csv", "log_all"),
    ("events/*.csv", "log"),
    ("データ.csv", "log"),
    ("Überblick.csv", "uberblick"),
  ],
)
def test_names_of_domains(path, slug):
  assert guess.slug(path) == slug
