"""A small log all the way: leakage check, token cache, TFDS, SeqIO tasks."""

import json
import random

import numpy as np
import pytest

from calrec_jax.data import building
from calrec_jax.data import dataset as dataset_lib
from calrec_jax.data.cache import token_cache
from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.domain import leakage
from calrec_jax.data.domain import prompt as prompt_lib
from calrec_jax.data.feed import tokenization
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.log_files import LogFiles
from calrec_jax.data.vocabulary import files as vocabulary_files
from calrec_jax.data.vocabulary import trained as vocabulary_lib

pytestmark = pytest.mark.heavy

WORDS = ["red", "blue", "green", "tea", "soap", "rice", "milk", "salt"]
USERS = {"small": 6, "large": 64}


def write_log(folder, num_users, num_items=12):
  random.seed(num_users)
  folder.mkdir()
  rows = ["user_id,item_id,timestamp"]
  rows += [
    f"u{user:02},i{random.randrange(num_items)},{random.randrange(10**6)}"
    for user in range(num_users)
    for _ in range(random.randrange(4, 20))
  ]
  rows.append("u00,nothing,5")
  (folder / "interactions.csv").write_text("\n".join(rows) + "\n")
  items = [
    {"item_id": f"i{i}", "title": f"{WORDS[i % 8]} {WORDS[i // 8]}, {i} kg"}
    for i in range(num_items)
  ]
  (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
  return LogFiles(
    folder=str(folder), interactions="interactions.csv", items="items.jsonl"
  )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
  root = tmp_path_factory.mktemp("logs")
  return dataset_lib.Dataset(
    domains=[
      domain_lib.Domain(
        name=name,
        source=write_log(root / name, users),
        fields=(("Title", "title"),),
        min_count=2,
      )
      for name, users in USERS.items()
    ],
    mixtures={"both": ("small", "large")},
    vocabulary=vocabulary_lib.TrainedSentencePiece(size=320),
    data_dir=str(tmp_path_factory.mktemp("data")),
  )


@pytest.fixture(scope="module")
def caches(dataset):
  folders = building.build(dataset, "both", progress=False)
  return {
    name: token_cache.TokenCache.open(path) for name, path in folders.items()
  }


@pytest.fixture(scope="module")
def tasks(dataset):
  build_tfds(dataset, "both", progress=False)
  from calrec_jax.data.seqio import tasks

  return tasks


def build_tfds(*arguments, **options):
  # TensorFlow comes with this import.
  from calrec_jax.data.seqio import building

  return building.build_tfds(*arguments, **options)


def task_examples(tasks, name, split, sequence_length=None):
  """The examples of a task by user."""
  task = tasks.seqio.get_mixture_or_task(name)
  examples = task.get_dataset(sequence_length, split=split, shuffle=False)
  return {
    example["user_id"].decode(): example
    for example in examples.as_numpy_iterator()
  }


def item_tokens(opened, split):
  """The tokens of every item of a document, by user."""
  return {
    document.user_id: [opened.catalogue.tokens(row) for row in document.items]
    for document in opened.documents(split, range(opened.num_documents(split)))
  }


def test_the_cache_holds_the_domain(dataset, caches):
  for domain in dataset.domains:
    prepared = domain.prepare()
    opened = caches[domain.name]
    assert opened.name == domain.name
    assert list(opened.catalogue.item_ids) == prepared.item_ids
    assert list(opened.catalogue.texts) == prepared.texts
    train = prepared.documents["train"]
    assert (
      opened.catalogue.train_counts.tolist()
      == np.bincount(
        prepared.events.items[train.events()], minlength=len(prepared.texts)
      ).tolist()
    )
    for split, part in prepared.documents.items():
      assert opened.num_documents(split) == len(part)
      for index in (0, len(part) - 1):
        document = opened.document(split, index)
        rows = slice(part.starts[index], part.stops[index])
        assert document.items.tolist() == prepared.events.items[rows].tolist()
        assert (
          document.timestamps.tolist()
          == prepared.events.timestamps[rows].tolist()
        )
        assert document.user_id == prepared.events.user_ids[part.users[index]]


def test_tokens_are_those_of_the_vocabulary_without_tensorflow(dataset, caches):
  vocabulary = vocabulary_files.load(dataset.vocabulary_dir())
  end = dataset.prompt.tokenise(vocabulary).end
  for opened in caches.values():
    assert opened.prompt == dataset.prompt.tokenise(vocabulary)
    for row, text in enumerate(opened.catalogue.texts):
      expected = [*vocabulary.encode(text), end]
      assert opened.catalogue.tokens(row).tolist() == expected


def test_the_task_gives_the_prompt_of_inference(caches, tasks):
  opened = caches["small"]
  found = task_examples(tasks, "small", "test")
  for user, tokens in item_tokens(opened, "test").items():
    expected = tokenization.prompt_tokens(opened.prompt, tokens[:-1])
    assert found[user]["inputs"].tolist() == expected.tolist()
    assert found[user]["targets"].tolist() == tokens[-1].tolist()


def test_a_long_prompt_loses_its_oldest_items_whole(caches, tasks):
  opened, limit, shortened = caches["large"], 50, 0
  found = task_examples(
    tasks, "large", "test", {"inputs": limit, "targets": 32}
  )
  for user, tokens in item_tokens(opened, "test").items():
    expected = tokenization.prompt_tokens(opened.prompt, tokens[:-1], limit)
    whole = tokenization.prompt_tokens(opened.prompt, tokens[:-1])
    shortened += len(whole) > limit
    assert found[user]["inputs"].tolist() == expected.tolist()
  assert 0 < shortened < len(found)


def test_the_mixture_draws_by_users_to_a_power(tasks):
  mixture = tasks.seqio.get_mixture_or_task("both")
  rates = {task.name: mixture.get_rate(task) for task in mixture.tasks}
  assert rates == pytest.approx(
    {name: users**0.3 for name, users in USERS.items()}
  )


def test_any_seqio_trainer_can_take_the_task(tasks):
  batches = tasks.seqio.get_dataset(
    "both",
    {"inputs": 64, "targets": 24},
    tasks.seqio.PrefixLMFeatureConverter(pack=False),
    dataset_split="train",
    shuffle=True,
    seed=0,
    batch_size=4,
  )
  batch = next(batches.as_numpy_iterator())
  assert batch["decoder_target_tokens"].shape == (4, 88)


def test_registering_again_is_no_error_and_another_dataset_takes_over(
  dataset, tasks, tmp_path
):
  build_tfds(dataset, "both", progress=False)
  before = len(task_examples(tasks, "small", "train"))
  other = dataset_lib.Dataset(
    domains=[
      domain_lib.Domain(
        name="small",
        source=write_log(tmp_path / "log", 9),
        min_count=1,
      )
    ],
    vocabulary=vocabulary_lib.SentencePieceFile(
      path=vocabulary_files.load(dataset.vocabulary_dir()).model_file
    ),
    data_dir=str(tmp_path / "data"),
  )
  build_tfds(other, "small", progress=False)
  assert (before, len(task_examples(tasks, "small", "train"))) == (6, 9)
  build_tfds(dataset, "both", progress=False)
  assert len(task_examples(tasks, "small", "train")) == before


def test_exact_text(tasks):
  assert tasks.exact_text(["a\n", "b"], ["a", "c"]) == {"exact_text": 0.5}


def test_nothing_is_built_twice(dataset, caches, monkeypatch):
  def refuse(*args, **kwargs):
    raise AssertionError("the log was read again")

  monkeypatch.setattr(domain_lib.Domain, "prepare", refuse)
  assert dataset.missing("both") == ()
  assert set(building.build(dataset, "both")) == set(caches)


def test_a_changed_option_gives_another_cache(dataset):
  domain = dataset.domains[0]
  changed = domain_lib.Domain(
    name=domain.name, source=domain.source, min_count=3
  )
  assert dataset.cache_dir(changed) != dataset.cache_dir(domain)
  prompted = dataset_lib.Dataset(
    domains=dataset.domains,
    vocabulary=dataset.vocabulary,
    prompt=prompt_lib.Prompt(next="And then: "),
    data_dir=dataset.data_dir,
  )
  assert prompted.cache_dir(domain) != dataset.cache_dir(domain)
  assert prompted.missing("small") == (domain,)


def test_strict_refuses_what_a_cache_already_counted(dataset, caches):
  domain = dataset.domains[0]
  strict = dataset_lib.Dataset(
    domains=[
      domain_lib.Domain(
        name=domain.name,
        source=domain.source,
        fields=domain.fields,
        min_count=2,
        strict=True,
      )
    ],
    vocabulary=vocabulary_lib.SentencePieceFile(
      path=vocabulary_files.load(dataset.vocabulary_dir()).model_file
    ),
    data_dir=dataset.data_dir,
  )
  assert caches["small"].card["problems"][0]["kind"] == "unknown_item"
  with pytest.raises(problems_lib.BadRowsError, match="unknown_item"):
    building.build(strict, "small", progress=False)


def test_a_leak_on_the_way_stops_the_build(dataset, tmp_path, monkeypatch):
  other = dataset_lib.Dataset(
    domains=dataset.domains,
    vocabulary=dataset.vocabulary,
    prompt=prompt_lib.Prompt(prefix="Other. "),
    data_dir=str(tmp_path),
  )
  honest = domain_lib.Prepared.columns

  def leaking(prepared, split):
    return honest(prepared, "test" if split == "train" else split)

  monkeypatch.setattr(domain_lib.Prepared, "columns", leaking)
  for build in (building.build, build_tfds):
    with pytest.raises(leakage.LeakageError, match="target"):
      build(other, "small", progress=False)
  assert other.missing("small")
  assert list((tmp_path / "caches").iterdir()) == []
  assert list(tmp_path.glob("tfds/**/*.tfrecord*")) == []


def test_a_domain_without_evaluated_users(dataset, tmp_path):
  rows = [f"u{user},i{user % 3},{time}" for user in range(8) for time in (1, 2)]
  source = write_log(tmp_path / "log", 1)
  (tmp_path / "log" / "interactions.csv").write_text(
    "\n".join(["user_id,item_id,timestamp", *rows]) + "\n"
  )
  short = dataset_lib.Dataset(
    domains=[
      domain_lib.Domain(name="short", source=source, min_count=1, dedup="none")
    ],
    vocabulary=vocabulary_lib.SentencePieceFile(
      path=vocabulary_files.load(dataset.vocabulary_dir()).model_file
    ),
    data_dir=str(tmp_path / "data"),
  )
  opened = token_cache.TokenCache.open(
    building.build(short, "short", progress=False)["short"]
  )
  assert [opened.num_documents(s) for s in opened.splits] == [0, 8, 0]
  build_tfds(short, "short", progress=False)
  from calrec_jax.data.seqio import tasks

  assert set(tasks.seqio.get_mixture_or_task("short").splits) == {
    "train",
    "catalogue",
  }


def test_cutting_by_tokens(dataset, tmp_path):
  domain = dataset.domains[0]
  cut = dataset_lib.Dataset(
    domains=[
      domain_lib.Domain(
        name="cut",
        source=domain.source,
        fields=(("Title", "title", None, 3),),
        min_count=2,
      )
    ],
    vocabulary=vocabulary_lib.TrainedSentencePiece(size=320),
    data_dir=str(tmp_path),
  )
  opened = token_cache.TokenCache.open(
    building.build(cut, "cut", progress=False)["cut"]
  )
  # Label, at most three tokens of the title, full stop, end marker.
  assert opened.catalogue.lengths.max() <= 6
  assert opened.card["shares"]["twin_texts"] >= 0


def test_unknown_names_and_wrong_mixtures(dataset):
  with pytest.raises(ValueError, match="mean 'small'"):
    dataset.select("smal")
  assert [d.name for d in dataset.select("both")] == ["small", "large"]
  for mixtures, match in (
    ({"small": ("large",)}, "domain's name already"),
    ({"m": ("smal",)}, "mean 'small'"),
    ({"m": ()}, "distinct"),
  ):
    with pytest.raises(ValueError, match=match):
      dataset_lib.Dataset(domains=dataset.domains, mixtures=mixtures)
  with pytest.raises(ValueError, match=r"Dataset\.domains"):
    dataset_lib.Dataset(domains=[*dataset.domains, dataset.domains[0]])


def test_the_data_folder(monkeypatch, dataset, tmp_path):
  monkeypatch.setenv("CALREC_DATA_DIR", str(tmp_path))
  other = dataset_lib.Dataset(domains=dataset.domains)
  assert other.folder == str(tmp_path)
  assert dataset.folder == dataset.data_dir


def test_folders_as_domains(tmp_path):
  domains = dataset_lib.folder_domains(
    root=str(tmp_path), names=("beauty", "Office-1"), positions=("beauty",)
  )
  assert [d.name for d in domains] == ["beauty", "office_1"]
  assert [d.source.time_unit for d in domains] == ["order", None]
  files = [
    tmp_path / "Office-1" / "interactions.csv.gz",
    tmp_path / "Office-1" / "items.jsonl.gz",
  ]
  with pytest.raises(FileNotFoundError, match=r"interactions\.csv\.gz"):
    domains[1].source.files()
  files[0].parent.mkdir()
  for file in files:
    file.touch()
  found = [file.path for file in domains[1].source.files()]
  assert found == list(map(str, files))
  with pytest.raises(ValueError, match=r"folder_domains\.positions"):
    dataset_lib.folder_domains(
      root=str(tmp_path), names=("a",), positions=("b",)
    )


def test_a_domain_is_called_as_its_folder_is(tmp_path):
  folders = ("ml-100k", "ML 1M")
  dataset = dataset_lib.Dataset(
    domains=dataset_lib.folder_domains(root=str(tmp_path), names=folders),
    mixtures={"stage_one": folders},
    data_dir=str(tmp_path),
  )
  assert dataset.mixtures == {"stage_one": ("ml_100k", "ml_1m")}
  for name in ("ml-100k", "ml_100k"):
    assert [d.name for d in dataset.select(name)] == ["ml_100k"]
  assert [d.name for d in dataset.select("stage_one")] == ["ml_100k", "ml_1m"]


@pytest.mark.parametrize(
  ("folders", "said"),
  [
    (("ml-100k", "ml_100k"), "'ml-100k' and 'ml_100k' would both be the"),
    (("2018",), "the folder '2018' makes no domain's name"),
    (("книги",), "the folder 'книги' makes no domain's name"),
  ],
)
def test_folders_that_make_no_domains_are_refused(tmp_path, folders, said):
  with pytest.raises(ValueError, match=said):
    dataset_lib.folder_domains(root=str(tmp_path), names=folders)


def test_what_is_no_name_or_no_vocabulary_is_refused(dataset):
  with pytest.raises(ValueError, match="MIXTURE_OR_TASK_NAME = 5: must be a"):
    dataset.select(5)
  with pytest.raises(ValueError, match=r"Dataset\.vocabulary = 'x': must be a"):
    dataset_lib.Dataset(domains=dataset.domains, vocabulary="x")


def test_a_misspelt_kind_of_the_prompt_is_on_the_card(tmp_path):
  rows = [
    f"u{user},i{item},{1_600_000_000 + user * 9 + item},{kind}"
    for user in range(6)
    for item, kind in enumerate(("view", "purchase") * 3)
  ]
  header = "user_id,item_id,timestamp,event"
  (tmp_path / "log.csv").write_text("\n".join([header, *rows]) + "\n")

  def card(**kinds):
    domain = domain_lib.Domain(
      name="mixed",
      source=LogFiles(
        interactions=str(tmp_path / "log.csv"), event_column="event"
      ),
      fields=(("Item", "item_id"),),
      min_count=2,
    )
    dataset = dataset_lib.Dataset(
      domains=[domain],
      vocabulary=vocabulary_lib.TrainedSentencePiece(size=320),
      prompt=prompt_lib.Prompt(kinds=kinds),
      data_dir=str(tmp_path / "data"),
    )
    return building.Building(dataset, progress=False).card(domain)

  notes = json.dumps(card(view="saw", purchse="took"))
  assert "Did you mean 'purchase'?" in notes
  with pytest.raises(ValueError, match="Did you mean 'purchase'"):
    card(purchse="took")
