"""The tokens of the SeqIO tasks are those of the token cache.

The two roads part at the prepared domain: the cache is written from it
directly, the tasks read a TFDS dataset and tokenise with TensorFlow.
"""

import numpy as np
import pytest

from calrec_jax.data import building
from calrec_jax.data import dataset as dataset_lib
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.domain import splits
from calrec_jax.data.domain.domain import Domain
from calrec_jax.data.feed import tokenization
from calrec_jax.data.vocabulary.trained import TrainedSentencePiece
from calrec_tasks.amazon import AmazonReviews
from calrec_tasks.completejourney import CompleteJourney
from tests.fixtures import amazon_toys, completejourney_toys, kinds_toys


def retailer(folder):
  bought = [(9, 1, 7, 1), (1, 9, 5, 1, 9), (7, 1, 7, 404, 1, 9)]
  completejourney_toys.write(
    folder,
    [
      (household, product, 3.0, 1, 100 * turn)
      for household, products in enumerate(bought)
      for turn, product in enumerate(products)
    ],
  )
  source = CompleteJourney(department="meat_pckgd", folder=str(folder))
  return Domain(name="retailer", source=source, min_count=1)


def amazon(release, **options):
  def domain(folder):
    amazon_toys.write_release(folder, release, "Toys_and_Games")
    source = AmazonReviews(
      release=release, category="Toys_and_Games", manual_dir=str(folder)
    )
    return Domain(name="goods", source=source, min_count=1, **options)

  return domain


def kinds(**options):
  """Views, carts and purchases; texts of different lengths before each."""
  rows = kinds_toys.rows(users=8)
  rows += (("lonely", 1, 2), ("lonely", 3, 0), ("viewer", 2, 0))
  rows += (("viewer", 3, 0), ("viewer", 4, 1), ("viewer", 4, 2))
  return lambda folder: kinds_toys.domain(kinds_toys.Log(rows), **options)


@pytest.mark.parametrize(
  "domain",
  [
    retailer,
    amazon("amazon2014"),
    amazon("amazon2018", max_history=3),
    amazon("amazon2018", fields=(("Title", "title", None, 3),)),
    amazon("amazon2023", split="global_temporal"),
    kinds(),
    kinds(split="global_temporal", max_history=4),
  ],
  ids=[
    *("retailer", "2014", "2018 short", "2018 cut", "2023 temporal"),
    *("kinds", "kinds temporal"),
  ],
)
def test_all_splits(domain, tmp_path):
  (tmp_path / "raw").mkdir()
  dataset = dataset_lib.Dataset(
    domains=[domain(tmp_path / "raw")],
    vocabulary=TrainedSentencePiece(size=400),
    data_dir=str(tmp_path / "data"),
  )
  [name] = dataset.names()
  opened = TokenCache.open(building.build(dataset, name, progress=False)[name])
  # TensorFlow comes with this import.
  from calrec_jax.data.seqio import building as seqio_building
  from calrec_jax.data.seqio.quiet_tensorflow import seqio

  seqio_building.build_tfds(dataset, name, progress=False)
  task = seqio.get_mixture_or_task(name)

  def read(split):
    examples = task.get_dataset(None, split=split, shuffle=False)
    return list(examples.as_numpy_iterator())

  items = {example["items"].item(): example for example in read("catalogue")}
  assert sorted(items) == list(range(opened.num_items))
  for row, example in items.items():
    item_id, text = opened.item(row)
    assert example["tokens"].tolist() == opened.catalogue.tokens(row).tolist()
    assert example["item_ids"].tolist() == [item_id.encode()]
    assert example["texts"].tolist() == [text.encode()]
  for split in splits.SPLITS:
    documents = opened.documents(split, range(opened.num_documents(split)))
    assert documents
    examples = {example["user_id"].decode(): example for example in read(split)}
    # Documents without a target are no examples.
    documents = [
      user for user in documents if user.targets is None or user.targets.any()
    ]
    assert len(examples) == len(documents)
    for document in documents:
      example = examples[document.user_id]
      items, kinds = document.items, None
      if document.targets is not None:
        items = items[: np.flatnonzero(document.targets)[-1] + 1]
        kinds = document.kinds[: len(items) - 1]
      tokens = [opened.catalogue.tokens(row) for row in items]
      prompt = tokenization.prompt_tokens(
        opened.prompt, tokens[:-1], kinds=kinds
      )
      assert example["inputs"].tolist() == prompt.tolist()
      assert example["targets"].tolist() == tokens[-1].tolist()
      assert example["items"].tolist() == items.tolist()
      assert example["lengths"].tolist() == list(map(len, tokens))


def test_a_long_history_of_kinds_loses_its_oldest_events_whole(tmp_path):
  dataset = dataset_lib.Dataset(
    domains=[kinds()(tmp_path)],
    vocabulary=TrainedSentencePiece(size=400),
    data_dir=str(tmp_path / "data"),
  )
  folders = building.build(dataset, "toys", progress=False)
  opened = TokenCache.open(folders["toys"])
  from calrec_jax.data.seqio import building as seqio_building
  from calrec_jax.data.seqio.quiet_tensorflow import seqio

  seqio_building.build_tfds(dataset, "toys", progress=False)
  limit, shortened = 40, 0
  examples = seqio.get_mixture_or_task("toys").get_dataset(
    {"inputs": limit, "targets": 32}, split="test", shuffle=False
  )
  for example in examples.as_numpy_iterator():
    [user] = (
      user
      for user in opened.histories("test")
      if user.user_id == example["user_id"].decode()
    )
    tokens = [opened.catalogue.tokens(row) for row in user.items.tolist()]
    wanted = tokenization.prompt_tokens(
      opened.prompt, tokens, limit, kinds=user.items.kinds
    )
    whole = tokenization.prompt_tokens(
      opened.prompt, tokens, kinds=user.items.kinds
    )
    assert example["inputs"].tolist() == wanted.tolist()
    shortened += len(whole) > limit
  assert shortened
