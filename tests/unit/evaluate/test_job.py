"""What `calrec eval` refuses to measure."""

import pytest

from calrec_jax.data.feed.feed import Feed
from calrec_jax.evaluate import job
from calrec_jax.evaluate.evaluation import Evaluation
from calrec_jax.recommend.trained_model import TrainedModel
from calrec_jax.train.stages import Stage
from tests.fixtures.recommend_toys import stand_in


def requested(split, trained_on, lineage=None):
  stage = stand_in(Stage, feed=stand_in(Feed, split=trained_on))
  model = None if lineage is None else stand_in(TrainedModel, lineage=lineage)
  return Evaluation(split=split), stage, model


LEARNED = {"training": {"feed": {"Feed.split": "validation"}}}


@pytest.mark.parametrize(
  ("trained_on", "lineage"),
  [("validation", None), ("validation", {}), ("train", LEARNED)],
)
def test_targets_that_were_trained_on_measure_nothing(trained_on, lineage):
  with pytest.raises(ValueError, match=r"Feed\.split = 'validation'"):
    job._refuse_known_targets(*requested("validation", trained_on, lineage))
  job._refuse_known_targets(*requested("test", trained_on, lineage))


@pytest.mark.parametrize("lineage", [None, {}])
def test_what_was_held_out_measures(lineage):
  job._refuse_known_targets(*requested("validation", "train", lineage))
