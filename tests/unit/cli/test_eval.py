"""What `calrec eval` refuses to measure."""

import types

import pytest

from calrec_jax.cli import eval as eval_verb
from calrec_jax.evaluate.evaluation import Evaluation


def asked(split, trained_on, lineage=None):
  stage = types.SimpleNamespace(feed=types.SimpleNamespace(split=trained_on))
  model = None if lineage is None else types.SimpleNamespace(lineage=lineage)
  return Evaluation(split=split), stage, model


LEARNED = {"training": {"feed": {"Feed.split": "validation"}}}


@pytest.mark.parametrize(
  ("trained_on", "lineage"),
  [("validation", None), ("validation", {}), ("train", LEARNED)],
)
def test_targets_that_were_trained_on_measure_nothing(trained_on, lineage):
  with pytest.raises(ValueError, match=r"Feed\.split = 'validation'"):
    eval_verb._refuse_known_targets(*asked("validation", trained_on, lineage))
  eval_verb._refuse_known_targets(*asked("test", trained_on, lineage))


@pytest.mark.parametrize("lineage", [None, {}])
def test_what_was_kept_back_measures(lineage):
  eval_verb._refuse_known_targets(*asked("validation", "train", lineage))
