"""One macro says which items may be recommended, wherever that counts."""

import pytest

from calrec_jax import config
from calrec_jax.evaluate.evaluator import Protocol
from calrec_jax.recommend.fuse.fuse import Fusion
from calrec_jax.train.validation import Validation

FILES = ("recipes/own_log.gin",)
SETTINGS = (Protocol, Fusion, Validation)


def rules(*bindings):
  bindings = (*bindings, "INTERACTIONS='log.csv'", "MODEL_DIR='model'")
  configuration = config.Configuration(files=FILES, bindings=bindings)
  with configuration.stage(None):
    return [kind().rule for kind in SETTINGS]


def test_one_macro_is_read_by_all():
  assert rules() == ["not_last"] * 3
  assert rules("CANDIDATES='not_seen'") == ["not_seen"] * 3


def test_a_binding_of_one_of_them_wins():
  found = rules("CANDIDATES='all'", "Validation.rule='not_seen'")
  assert found == ["all", "all", "not_seen"]


@pytest.mark.parametrize("kind", SETTINGS)
def test_an_unknown_rule_is_refused_at_the_start(kind):
  with pytest.raises(ValueError, match=rf"{kind.__name__}\.rule.*no_last"):
    kind(rule="no_last")


@pytest.mark.parametrize("kind", [Protocol, Validation])
def test_an_unknown_metric_is_refused_at_the_start(kind):
  with pytest.raises(ValueError, match=rf"{kind.__name__}\.metrics.*recal"):
    kind(metrics=("recal@10",))


def test_an_earlier_macro_is_named_by_its_new_name():
  configuration = config.Configuration(
    files=("models/sasrec.gin",), bindings=("MAX_ITEMS=20",)
  )
  with pytest.raises(config.ConfigurationError, match="MAX_HISTORY now"):
    configuration.apply()
