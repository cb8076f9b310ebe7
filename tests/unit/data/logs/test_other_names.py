"""What parameters of other programs are called here, and that they are."""

import inspect
import re

import gin
import pytest

from calrec_jax import config
from calrec_jax.data.domain.domain import Domain
from calrec_jax.data.logs import other_names
from calrec_jax.data.logs.log_files import LogFiles
from calrec_jax.data.logs.rows import where


@pytest.fixture(autouse=True)
def clean_gin():
  yield
  gin.clear_config()


def refused(binding):
  with pytest.raises(config.ConfigurationError) as caught:
    config.Configuration(bindings=(binding,)).apply()
  return str(caught.value)


@pytest.mark.parametrize(
  ("name", "instead"),
  [
    ("min_rating", 'Bind instead LogFiles.where = "rating >= 4".'),
    ("minRating", 'LogFiles.where = "rating >= 4"'),
    ("min_quantity", 'LogFiles.where = "quantity > 0"'),
    ("start_date", "LogFiles.where = \"timestamp >= '2024-01-01'\""),
    ("event_type", "LogFiles.event_column"),
    ("sep", "LogFiles.delimiter"),
    ("header", "LogFiles.columns"),
    ("usecols", "LogFiles.columns"),
    ("dtype", "types of columns, which are detected"),
  ],
)
def test_a_parameter_of_another_program_names_the_binding(name, instead):
  message = refused(f"LogFiles.{name} = 4")
  assert instead in message
  assert "Did you mean" not in message


def test_a_misspelt_parameter_still_names_the_nearest():
  assert "Did you mean 'delimiter'?" in refused("LogFiles.delimitr = ';'")


def test_every_named_binding_exists():
  owners = {"LogFiles": LogFiles, "Domain": Domain}
  for name, binding in other_names.BINDINGS.items():
    assert name not in inspect.signature(LogFiles).parameters
    bound = re.findall(r"(LogFiles|Domain)\.(\w+)", binding)
    assert bound
    for owner, parameter in bound:
      assert parameter in inspect.signature(owners[owner]).parameters
    for condition in re.findall(r'LogFiles\.where = "([^"]+)"', binding):
      where.parse(condition, "LogFiles.where")
