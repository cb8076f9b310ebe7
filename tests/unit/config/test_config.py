"""Every way to misspell a configuration, and that a written one reads back."""

import argparse
import pathlib

import gin
import pytest

import calrec_jax
from calrec_jax import config
from calrec_jax.__main__ import main
from calrec_jax.checkpoint import stage_folder
from calrec_jax.data.feed.feed import Feed
from calrec_jax.train import stages

ROOT = pathlib.Path(calrec_jax.__file__).parents[1]
RECIPES = sorted(path.name for path in (ROOT / "gin" / "recipes").glob("*.gin"))
QUICKSTART = ("recipes/quickstart.gin",)
# What recipes leave to their users.
LEFT_OPEN = {
  "own_log.gin": ["INTERACTIONS='purchases.csv'"],
  "own_folders.gin": [
    "ROOT='logs'",
    "DOMAINS=('books', 'music')",
    "target/MIXTURE_OR_TASK_NAME='music'",
  ],
  "sasrec_own_log.gin": ["INTERACTIONS='purchases.csv'"],
}


@pytest.fixture(autouse=True)
def clean_gin():
  yield
  gin.clear_config()


def apply(*bindings, files=QUICKSTART, stage=None, **more):
  config.Configuration(files=files, bindings=bindings, **more).apply(stage)


def refused(*bindings, **more):
  with pytest.raises(config.ConfigurationError) as caught:
    apply(*bindings, **more)
  return str(caught.value)


def write(folder, text, name="mine.gin"):
  (folder / name).write_text(text)
  return (str(folder / name),)


@pytest.mark.parametrize(
  ("binding", "said"),
  [
    ("BATCH_SIZEE=16", ["BATCH_SIZEE", "nothing reads it", "'BATCH_SIZE'"]),
    ("batch_size=16", ["batch_size", "'BATCH_SIZE'"]),
    ("targett/TRAIN_STEPS=5", ["targett", "'target/TRAIN_STEPS'"]),
    ("target/TRAIN_STEP=5", ["target/TRAIN_STEP ", "'target/TRAIN_STEPS'"]),
    ("Objective.alfa=0.2", ["alfa", "'alpha'"]),
    ("Objectiv.alpha=0.2", ["Objectiv", "'Objective'"]),
    ("Stage.objective=@Objectives()", ["Objectives", "'Objective'"]),
    ("joind/Objective.alpha=0.2", ["joind", "nothing enters", "'joint'"]),
  ],
)
def test_a_misspelt_name_is_refused_with_the_nearest_one(binding, said):
  message = refused(binding)
  assert all(part in message for part in said), message


def test_a_flag_may_bind_what_reads_a_macro_of_a_file(tmp_path):
  apply("Evaluation.checkpoint='runs/mine/joint'")
  assert gin.query_parameter("Evaluation.checkpoint") == "runs/mine/joint"
  written = config.text()
  assert "\nCHECKPOINT_PATH" not in written
  apply(files=write(tmp_path, written))


def test_a_macro_that_a_flag_sets_is_not_passed_over_for_another_flag():
  for name in ("BATCH_SIZE", "target/BATCH_SIZE"):
    message = refused("Feed.rows=8", f"{name}=16")
    assert f"{name} is bound, but nothing reads it" in message


def test_a_macro_that_nothing_sets_names_the_flag_that_would(tmp_path):
  files = write(
    tmp_path, "import calrec_jax.data.feed.feed\nFeed.rows = %BATCH_SIZE\n"
  )
  message = refused(files=files)
  assert "%BATCH_SIZE is read" in message
  assert "--gin.BATCH_SIZE=VALUE" in message
  apply("BATCH_SIZE=8", files=files)


def test_a_macro_missing_in_one_stage_is_refused_before_the_first(tmp_path):
  files = write(
    tmp_path,
    "import calrec_jax.data.feed.feed\nSTAGES = ('joint', 'target')\n"
    "Feed.rows = %BATCH_SIZE\njoint/BATCH_SIZE = 8\n",
  )
  assert "--gin.target/BATCH_SIZE=VALUE" in refused(files=files)
  apply("target/BATCH_SIZE=4", files=files)


def test_a_missing_file_offers_the_nearest_of_the_project():
  message = refused(files=("recipes/quickstrat.gin",))
  assert "Did you mean 'recipes/quickstart.gin'?" in message


def test_a_file_that_includes_itself_is_named(tmp_path):
  one, two = tmp_path / "one.gin", tmp_path / "two.gin"
  one.write_text('include "two.gin"\n')
  two.write_text('include "one.gin"\n')
  for _ in range(2):  # The first error leaves nothing behind.
    message = refused(files=(str(one),))
    assert f"includes itself: {one} includes {two} includes {one}." in message
  two.write_text("")
  apply(files=(str(one),))


def test_without_a_recipe_one_is_asked_for():
  config.Configuration().apply()
  with pytest.raises(config.ConfigurationError) as caught, config.explained():
    stages.Stage()
  assert str(caught.value).startswith("There is no recipe. Give one by --gin_")


def test_a_required_value_that_is_missing_names_the_remedy(tmp_path):
  files = write(
    tmp_path, "import calrec_jax.data.feed.feed\nFeed.row_tokens = 64\n"
  )
  apply(files=files)
  with pytest.raises(config.ConfigurationError) as caught, config.explained():
    Feed()
  message = str(caught.value)
  assert "Feed" in message
  assert "row_slots" in message
  assert "--gin.NAME=VALUE" in message


def test_other_runtime_errors_are_not_explained_away():
  with pytest.raises(RuntimeError, match="by itself"), config.explained():
    raise RuntimeError("fails by itself")


def test_a_macro_read_by_name_names_the_flag():
  apply()
  with pytest.raises(config.ConfigurationError, match=r"--gin\.SPEED=VALUE"):
    config.macro("SPEED")
  assert config.macro("SPEED", 3) == 3


def test_search_paths_come_before_the_project_and_do_not_last(tmp_path):
  for name, width in (("a", 16), ("b", 24)):
    (tmp_path / name / "models").mkdir(parents=True)
    (tmp_path / name / "models" / "tiny.gin").write_text(
      f"import calrec_jax.models.decoder\nDecoderConfig.width = {width}\n"
    )
    apply(files=("models/tiny.gin",), search_paths=(str(tmp_path / name),))
    assert gin.query_parameter("DecoderConfig.width") == width
  apply(files=("models/tiny.gin",))
  assert gin.query_parameter("DecoderConfig.width") == 128


def test_a_stage_sees_its_own_macros_and_parameters():
  bindings = ("target/TRAIN_STEPS=7", "target/Objective.alpha=0.5")
  seen = {}
  for stage in ("joint", "target"):
    configuration = config.Configuration(files=QUICKSTART, bindings=bindings)
    with configuration.stage(stage):
      seen[stage] = (
        config.macro("TRAIN_STEPS"),
        gin.get_bindings("Objective").get("alpha"),
        gin.get_bindings("warmup_cosine")["steps"],
      )
  assert seen["target"] == (7, 0.5, 7)
  assert seen["joint"][1] != 0.5
  assert seen["joint"][0] == seen["joint"][2] != 7


def test_bindings_of_a_module_are_plain_and_of_the_entered_stage():
  configuration = config.Configuration(
    files=QUICKSTART,
    bindings=(
      "Sampler.samples=4",
      "Sampler.seed=%RANDOM_SEED",
      "target/Sampler.temperature=0.7",
      "Objective.alpha=0.2",
    ),
  )
  with configuration.stage("target"):
    found = config.bindings_of("calrec_jax.recommend")
  assert found["Sampler.samples"] == 4
  assert found["Sampler.seed"] == config.macro("RANDOM_SEED")
  assert found["Sampler.temperature"] == 0.7
  assert "Objective.alpha" not in found
  assert not config.bindings_of("calrec_jax.recom")


def test_later_files_and_then_flags_win(tmp_path):
  files = write(tmp_path, "BATCH_SIZE = 24\n")
  apply(files=(*QUICKSTART, *files))
  assert config.macro("BATCH_SIZE") == 24
  apply("BATCH_SIZE=32", files=(*QUICKSTART, *files))
  assert config.macro("BATCH_SIZE") == 32


def parse(*argv):
  return config.parse_arguments(argparse.ArgumentParser(), argv)


def test_flags_rebuild_the_configuration():
  first = parse(
    "--gin_file=recipes/quickstart.gin",
    "--gin_search_paths=one,two",
    "--gin.Objective.alpha=0.2",
    "--gin.target/TRAIN_STEPS=5",
    "--gin.MODEL_DIR='a = b'",
  ).configuration
  assert first.search_paths == ("one", "two")
  assert parse(*first.arguments()).configuration == first
  first.apply("target")
  assert config.macro("MODEL_DIR") == "a = b"
  assert config.macro("TRAIN_STEPS") == 5


def test_a_binding_without_a_value_is_wrong_usage(capsys):
  with pytest.raises(SystemExit):
    parse("--gin.BATCH_SIZE")
  assert "--gin.BATCH_SIZE=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["joint", "target"])
def test_the_written_text_reads_back_as_the_same(tmp_path, stage):
  configuration = config.Configuration(
    files=QUICKSTART, bindings=("target/Objective.alpha=0.5",)
  )
  configuration.apply(stage)
  written = config.text()
  apply(files=write(tmp_path, written, "config.gin"), stage=stage)
  assert config.text() == written
  with gin.config_scope(stage):
    assert config.macro("STAGES") == ("joint", "target")
    bound = gin.get_bindings("Objective")
  assert (bound.get("alpha") == 0.5) == (stage == "target")


def test_the_folder_of_gin_files_cannot_hide_the_library():
  assert not list((ROOT / "gin").rglob("__init__.py"))
  assert "site-packages" in pathlib.Path(gin.__file__).parts
  assert [folder.resolve() for folder in config.gin_folders()] == [ROOT / "gin"]


def test_there_are_recipes():
  assert "quickstart.gin" in RECIPES


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
  "verb", [["train"], ["eval"], ["infer"], ["data", "cache"]], ids=" ".join
)
def test_every_verb_resolves_every_recipe(verb, recipe, capsys):
  flags = [f"--gin.{binding}" for binding in LEFT_OPEN.get(recipe, ())]
  status = main([*verb, f"--gin_file=recipes/{recipe}", "--dry_run", *flags])
  captured = capsys.readouterr()
  assert status == 0, captured.err
  assert "Dataset.domains = " in captured.out
  assert "MODEL_DIR = " in captured.out


@pytest.mark.parametrize("recipe", sorted(LEFT_OPEN))
def test_what_a_recipe_leaves_open_is_required(recipe):
  for binding in LEFT_OPEN[recipe]:
    given = [other for other in LEFT_OPEN[recipe] if other != binding]
    message = refused(*given, files=(f"recipes/{recipe}",))
    assert f"--gin.{binding.split('=')[0]}=VALUE" in message


def test_a_stage_of_another_name_is_refused(capsys):
  compiling = ("compile", "--topology=v5e:2x2")
  for verb in (("train",), ("eval",), ("infer",), compiling):
    assert main([*verb, *_flags(), "--stage=tarket"]) == 1
    said = capsys.readouterr().err
    assert "joint, target" in said
    assert "Did you mean 'target'?" in said


def test_a_verb_of_another_name_is_refused(capsys):
  assert main(["trian"]) == 2
  assert "Did you mean 'train'?" in capsys.readouterr().err
  assert main([]) == 2
  assert main(["--help"]) == 0


def test_an_error_is_one_message(capsys):
  assert main(["train", *_flags(), "--gin.BATCH_SIZEE=16"]) == 1
  error = capsys.readouterr().err
  assert error.startswith("calrec train: The macro BATCH_SIZEE")
  assert "Traceback" not in error


def test_a_recipe_without_stages_has_one():
  apply(files=("models/tiny.gin",))
  assert stages.names() == (stage_folder.SINGLE_STAGE,)


def _flags():
  return ["--gin_file=recipes/quickstart.gin"]


@pytest.mark.parametrize("folder", ["runs", "data", "models"])
def test_folders_beside_the_program_do_not_matter(
  tmp_path, monkeypatch, folder
):
  (tmp_path / folder).mkdir()  # As MODEL_DIR = "runs/quickstart" makes one.
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)  # As `python -m calrec_jax` does.
  apply()
