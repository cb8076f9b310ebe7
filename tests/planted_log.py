"""Made-up purchase logs with a rule in them, and recipes that train on them.

The items of a group form a ring; who bought one buys its successor next. A
model that has read the histories can know the next item, popularity cannot:
every item is bought about equally often.
"""

import gzip
import json
import pathlib
import random

GROUPS = ("tea", "soap", "rice", "milk", "bread", "salt")
RING = 8  # Items of a group.

# Small enough for seconds on one core; all else is as in a real recipe.
_RECIPE = """
include "models/tiny.gin"
include "mesh/cpu.gin"
include "{data}"
include "runs/train.gin"
include "runs/eval.gin"
include "stages/two_stage.gin"

DecoderConfig.width = 32
DecoderConfig.layers = 2
DecoderConfig.heads = 2
DecoderConfig.kv_heads = 2
DecoderConfig.head_dim = 16
DecoderConfig.mlp_width = 64
DecoderConfig.scan_unroll = 1
DecoderConfig.attention_blocks = 1
VOCABULARY_SIZE = 320
BATCH_SIZE = 8
TASK_FEATURE_LENGTHS = {{"tokens": 128, "slots": 12}}
Dataset.data_dir = "{folder}/data"
Domain.min_count = 1
Domain.fields = (("Title", "title"),)
"""


def purchases(users: int, groups: int, seed: int) -> list[tuple[str, str, int]]:
  """(user, item, unix second) rows that obey the rule, in order of time."""
  numbers = random.Random(seed)
  rows = []
  for user in range(users):
    group = GROUPS[user % groups]
    first, count = numbers.randrange(RING), numbers.randrange(6, 10)
    start = 1_600_000_000 + numbers.randrange(10**6)
    rows += [
      (f"u{user}", f"{group}-{(first + n) % RING}", start + 86_400 * n)
      for n in range(count)
    ]
  return sorted(rows, key=lambda row: row[2])


def items(groups: int) -> list[dict[str, str]]:
  """The catalogue: an id and a title for every item."""
  return [
    {"item_id": f"{group}-{n}", "title": f"{group} {n}"}
    for group in GROUPS[:groups]
    for n in range(RING)
  ]


def write_folders(folder: pathlib.Path) -> pathlib.Path:
  """Two domains as `data/folders.gin` wants them; returns a recipe."""
  for seed, (name, users) in enumerate({"shop": 24, "mart": 16}.items()):
    place = folder / "domains" / name
    place.mkdir(parents=True)
    with gzip.open(place / "interactions.csv.gz", "wt") as file:
      file.write("user_id,item_id,timestamp\n")
      for row in purchases(users, groups=2, seed=seed):
        file.write(",".join(map(str, row)) + "\n")
    with gzip.open(place / "items.jsonl.gz", "wt") as file:
      file.writelines(json.dumps(item) + "\n" for item in items(groups=2))
  recipe = folder / "two_domains.gin"
  recipe.write_text(
    _RECIPE.format(data="data/folders.gin", folder=folder)
    + f"""
ROOT = "{folder}/domains"
DOMAINS = ("shop", "mart")
target/MIXTURE_OR_TASK_NAME = "mart"
target/Feed.targets = "last"
joint/TRAIN_STEPS = 10
target/TRAIN_STEPS = 12

# Out of step, so that a checkpoint falls between the rows of the log.
Stage.log_period = 3
CheckpointPolicy.period = 2
CheckpointPolicy.keep = 1
Validation.period = 4
Validation.users = 8
"""
  )
  return recipe


def write_own_log(folder: pathlib.Path) -> pathlib.Path:
  """A CSV and a catalogue with columns of their own names; returns a recipe."""
  folder.mkdir(exist_ok=True)
  lines = ["customer,sku,bought_at"]
  lines += [",".join(map(str, row)) for row in purchases(60, 6, seed=5)]
  lines.insert(8, "u1,tea-1,yesterday")  # A bad row, to be counted.
  (folder / "purchases.csv").write_text("\n".join(lines) + "\n")
  products = [
    {"sku": item["item_id"], "name": item["title"]} for item in items(6)
  ]
  (folder / "products.jsonl").write_text(
    "".join(json.dumps(product) + "\n" for product in products)
  )
  recipe = folder / "own_log.gin"
  recipe.write_text(
    _RECIPE.format(data="data/log.gin", folder=folder)
    + f"""
INTERACTIONS = "{folder}/purchases.csv"
ITEMS = "{folder}/products.jsonl"
LogFiles.user_column = "customer"
LogFiles.item_column = "sku"
LogFiles.time_column = "bought_at"
LogFiles.text_columns = {{"title": "name"}}

MODEL_DIR = "{folder}/model"
MIXTURE_OR_TASK_NAME = "own_log"
joint/MIXTURE_OR_TASK_NAME = "own_log"
target/Feed.targets = "last"
joint/TRAIN_STEPS = 120
target/TRAIN_STEPS = 40
LEARNING_RATE = 5e-3
Objective.alpha = 0.2
Objective.beta = 0.3
Objective.temperature = 0.1
Validation.period = 1000
CheckpointPolicy.period = 1000
Sampler.samples = 4
"""
  )
  return recipe
