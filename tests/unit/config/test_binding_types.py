"""Values of a wrong type are refused in one line, whatever they are for."""

import inspect

import gin
import pytest
from gin import config as gin_config

from calrec_jax import config
from calrec_jax.config import binding_types
from calrec_jax.errors import CalrecError
from calrec_jax.evaluate.evaluation import Evaluation
from calrec_jax.evaluate.evaluator import Protocol
from calrec_jax.train import stages

_WRONG = ("'7'", "7", "None", "[7]", "{'a': 7}")
_OWN_LOG = ("recipes/own_log.gin",)
_FIXED = ("INTERACTIONS='purchases.csv'",)
_MACROS = (
  *("INTERACTIONS", "ITEMS", "MODEL_DIR", "TRAIN_STEPS", "BATCH_SIZE"),
  *("LEARNING_RATE", "MICROBATCHES", "TASK_FEATURE_LENGTHS", "RANDOM_SEED"),
  *("VOCABULARY_SIZE", "INITIAL_CHECKPOINT_PATH", "USE_CACHED_TASKS"),
  *("CANDIDATES", "MIXTURE_OR_TASK_NAME", "EVAL_OUTPUT_DIR", "STAGES"),
)
# Those that users bind, and what they are made of.
_CLASSES = (
  *("Stage", "Feed", "Validation", "CheckpointPolicy", "Dataset", "Domain"),
  *("LogFiles", "TrainedSentencePiece", "Prompt", "DecoderConfig", "Tuning"),
  *("Objective", "MeshShape", "ProfileWindow", "Protocol", "Evaluation"),
)


@pytest.fixture(autouse=True)
def clean_gin():
  yield
  gin.clear_config()


def apply(*bindings, files=_OWN_LOG):
  configuration = config.Configuration(files=files, bindings=bindings)
  return configuration.stage("train")


def settings():
  """Every setting of the classes, once they are imported."""
  return [
    f"{name}.{parameter}"
    for name in _CLASSES
    for parameter in inspect.signature(
      gin_config._REGISTRY.get_match(name).wrapped
    ).parameters
  ]


@pytest.mark.parametrize("names", [_MACROS, _CLASSES])
def test_a_value_of_a_wrong_type_is_refused_or_means_something(names):
  """No other error than those that `calrec` shows as one line."""
  apply(*_FIXED).__enter__()  # Imports what the recipe names.
  refused = 0
  for name in names if names is _MACROS else settings():
    for value in _WRONG:
      try:
        with apply(*_FIXED, f"{name}={value}"), config.explained():
          stages.Stage(), Evaluation(), Protocol()
      except CalrecError:
        refused += 1
  assert refused > 2 * len(names)


@pytest.mark.parametrize(
  ("binding", "said"),
  [
    ("TRAIN_STEPS='10'", "TRAIN_STEPS = '10': must be a whole number or None"),
    ("TRAIN_STEPS='10'", "Write TRAIN_STEPS = 10"),
    ("TRAIN_STEPS=10.0", "Write TRAIN_STEPS = 10"),
    ("Domain.min_count='5'", "Domain.min_count = '5': must be a whole number"),
    ("Domain.min_count=None", "Domain.min_count = None: must be a whole"),
    ("Domain.fields='title'", "Write Domain.fields = ('title',)"),
    (
      "LogFiles.text_columns=['title']",
      "LogFiles.text_columns = ['title']: must be a dict, {a text: a text}",
    ),
    (
      "Dataset.mixtures={'all': 'my_shop'}",
      "Dataset.mixtures = {'all': 'my_shop'}: must be a dict",
    ),
    ("Dataset.mixtures='all'", "Dataset.mixtures = 'all': must be a dict"),
    ("Stage.dataset='x'", "Stage.dataset = 'x': must be @Dataset()"),
    ("Feed.item_segments='no'", "must be True or False"),
    ("MODEL_DIR=5", "MODEL_DIR = 5: must be a text (Stage.model_dir). Write"),
    ("STAGES='joint'", "STAGES = 'joint': must be names of stages"),
    ("TASK_FEATURE_LENGTHS={'tokens': '9'}", "{a text: a whole number}"),
  ],
)
def test_what_is_wrong_and_what_to_write(binding, said):
  with pytest.raises(config.ConfigurationError) as raised:
    apply(*_FIXED, binding).__enter__()
  assert said in str(raised.value)
  assert "\n" not in str(raised.value)


def test_the_macro_of_a_macro_is_named(tmp_path):
  file = tmp_path / "mine.gin"
  file.write_text('include "recipes/own_log.gin"\nTRAIN_STEPS = %N\nN = "4"\n')
  with pytest.raises(config.ConfigurationError, match=r"^N = '4': must be"):
    apply(*_FIXED, files=(str(file),)).__enter__()


def test_defaults_are_what_their_annotations_say():
  """So that no one is refused for writing down a default."""
  apply(*_FIXED).__enter__()
  for selector, entry in gin_config._REGISTRY.items():
    if not selector.startswith("calrec_jax."):
      continue
    hints = binding_types._hints(entry.wrapped)
    for name, parameter in inspect.signature(entry.wrapped).parameters.items():
      assert name in hints, f"{selector}.{name} has no annotation"
      if parameter.default not in (inspect.Parameter.empty, gin.REQUIRED):
        assert binding_types._fits(parameter.default, hints[name]), (
          f"{selector}.{name}"
        )
