r"""Generation of next items: texts per second, compared with Transformers.

    python -m benchmarks.decoding --root=FOLDER \
      --source=smollm2-135m-instruct --output=decoding.jsonl

The same model, prompts, number of samples and precision in every form:

- shared: `sampling.sample`, where all samples of a prompt share its prefix;
- unshared: the same program with one row per sample;
- transformers: `generate(num_return_sequences=...)` of Transformers;
- samples, beams: along the trie of the catalogue, see `recommend/walk.py`.

The first three generate exactly --tokens tokens (no text ends early), so they
do the same work; the samples of the first two must be equal. The last two stop
where an item is determined. FOLDER has the domain's logs as for `train_step`.
Needs PyTorch and Transformers: pip install 'calrec_jax[reference]'.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import against_transformers, library_job, train_step
from benchmarks.library_process import LibraryProcess
from benchmarks.two_libraries import MODULES
from calrec_jax import config
from calrec_jax.models.pretrained import sources
from calrec_jax.recommend import prompts
from calrec_jax.recommend.constrain import trie
from calrec_jax.recommend.dense.unique_texts import UniqueTexts
from calrec_jax.train import stages

FORMS = ("shared", "unshared", "transformers", "samples", "beams")


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the benchmark from the command line."""
  arguments = _parse(argv)
  bindings = {
    "VOCABULARY_SOURCE": arguments.source,
    "PRUNE_VOCABULARY": not arguments.full_vocabulary,
  }
  # Rows are not used here, but the configuration requires them.
  arguments.rows, arguments.row_tokens, arguments.row_slots = 1, 1024, 24
  configuration = train_step.configure(
    arguments, against_transformers.FILES, bindings
  )
  with (
    configuration.stage(None),
    config.explained(),
    tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch,
  ):
    if arguments.dry_run:
      print(config.text())
      return 0
    folder = pathlib.Path(scratch)
    row = _prepare(folder, arguments)
    row["forms"] = {
      form: _measure(folder, form, arguments) for form in arguments.forms
    }
    row["shared_equals_unshared"] = _equal(folder, "shared", "unshared")
  if arguments.output:
    path = pathlib.Path(arguments.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
      file.write(json.dumps(row) + "\n")
    print(f"appended to {path}\n")
  print(describe(row))
  return 0


def describe(row: Mapping[str, Any]) -> str:
  """Human-readable text of a row."""
  lines = [
    f"{row['source']}, float32, {row['threads']} threads: {row['users']} "
    f"users, prompts of {min(row['prompt_tokens'])} to "
    f"{max(row['prompt_tokens'])} tokens, {row['samples']} samples of "
    f"{row['tokens']} tokens",
    "",
    f"{'':<14}{'users/CPU s':>12}{'users/s':>10}{'prompts':>9}{'peak GB':>9}"
    f"{'items':>7}{'distinct':>10}",
  ]
  for form, found in row["forms"].items():
    fraction = found.get("prompt_share")
    lines.append(
      f"{form:<14}{found['users_per_cpu_second']:>12.4f}"
      f"{found['users_per_second']:>10.4f}"
      f"{'' if fraction is None else format(fraction, '.0%'):>9}"
      f"{found['peak_bytes'] / 1e9:>9.1f}{found['valid_share']:>7.0%}"
      f"{found['distinct']:>10.1f}"
    )
  if row["shared_equals_unshared"] is not None:
    equal = "equal" if row["shared_equals_unshared"] else "NOT EQUAL"
    lines += ["", f"shared and unshared samples are {equal}"]
  return "\n".join(lines)


def _prepare(
  folder: pathlib.Path, arguments: argparse.Namespace
) -> dict[str, Any]:
  """Writes the input of all forms; returns the settings recorded in the row."""
  stage = stages.Stage()
  [cache] = stages.open_caches(stage)
  source = sources.open_source(arguments.source)
  vocabulary = cache.vocabulary()
  decoder = dataclasses.replace(
    stage.decoder,
    **source.decoder_fields(),
    vocab_size=vocabulary.size,
    dtype="float32",
  )
  limits = prompts.PromptLimits(max_tokens=arguments.prompt_tokens)
  writer = prompts.PromptWriter(cache.catalogue, cache.prompt, limits)
  written = [
    writer.user(history.items)
    for history in cache.histories("test", arguments.users, arguments.seed)
  ]
  unique = UniqueTexts(cache.catalogue.text_rows)
  texts = trie.Texts(cache.catalogue.values, cache.catalogue.offsets).take(
    unique.first_rows
  )
  np.savez(
    folder / "prompts-0.npz",
    values=np.concatenate(written),
    offsets=np.cumsum([0, *map(len, written)]),
  )
  np.savez(folder / "items-0.npz", values=texts.values, offsets=texts.offsets)
  row_map = against_transformers.row_map(vocabulary, source)
  if row_map is not None:
    np.save(folder / "row_map.npy", row_map)
  job = library_job.Job(
    source=str(source.path),
    decoder=dataclasses.asdict(decoder),
    objective={},
    learning_rate=0.0,
    precision="float32",
    device=arguments.device,
    batches=0,
    examples=[],
    lm_tokens=[],
  )
  (folder / "job.json").write_text(json.dumps(dataclasses.asdict(job)))
  return {
    "benchmark": "decoding",
    "schema": 1,
    "machine": train_step.machine(),
    "versions": against_transformers.versions(),
    "data": {cache.name: cache.fingerprint},
    "source": arguments.source,
    "threads": arguments.threads,
    "users": len(written),
    "prompt_tokens": [len(prompt) for prompt in written],
    "samples": arguments.samples,
    "tokens": arguments.tokens,
    "items": len(texts),
    "vocabulary": vocabulary.size,
  }


def _measure(
  folder: pathlib.Path, form: str, arguments: argparse.Namespace
) -> dict[str, float]:
  """Measures one form in a separate process; the first call is not timed."""
  module = MODULES["transformers" if form == "transformers" else "calrec_jax"]
  job = library_job.read(folder)
  settings = {
    "form": form,
    "samples": arguments.samples,
    "tokens": arguments.tokens,
    "temperature": arguments.temperature,
  }
  with LibraryProcess(module, folder, arguments.threads, job.device) as process:
    process.call("load", source=job.source)
    if form != "transformers":  # Compiles.
      process.call("decode", **settings)
    answers = [
      process.call("decode", **settings) for _ in range(arguments.repetitions)
    ]
    prompts_alone = None
    if form not in ("transformers", "unshared"):
      process.call("read_prompts")
      prompts_alone = process.call("read_prompts")["cpu_seconds"]
  users = answers[0]["users"]
  cpu = statistics.median(x["cpu_seconds"] for x in answers)
  wall = statistics.median(x["wall_seconds"] for x in answers)
  found = {
    "users_per_cpu_second": users / cpu,
    "users_per_second": users / wall,
    "peak_bytes": answers[-1]["peak_bytes"],
    "valid_share": answers[-1]["valid_share"],
    "distinct": answers[-1]["distinct"],
  }
  if prompts_alone is not None:
    found["prompt_share"] = prompts_alone / cpu
  return found


def _equal(folder: pathlib.Path, *forms: str) -> bool | None:
  """Whether two forms sampled the same tokens; None if one did not run."""
  paths = [folder / f"decoded-{form}.npy" for form in forms]
  if not all(path.exists() for path in paths):
    return None
  one, other = map(np.load, paths)
  return bool(np.array_equal(one, other))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.decoding",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "--root", required=True, help="parent of the domain's folder"
  )
  parser.add_argument("--domain", default="amazon2014_beauty")
  parser.add_argument(
    "--source",
    default="smollm2-135m-instruct",
    help="packaged model, GGUF file or Hugging Face folder",
  )
  parser.add_argument("--full_vocabulary", action="store_true")
  parser.add_argument(
    "--forms",
    type=lambda text: text.split(","),
    default=list(FORMS),
    help=f"comma-separated forms of {','.join(FORMS)}",
  )
  parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--users", type=int, default=4)
  parser.add_argument("--seed", type=int, default=0, help="seed of the users")
  parser.add_argument(
    "--prompt_tokens", type=int, default=512, help="maximum tokens of a prompt"
  )
  parser.add_argument("--samples", type=int, default=32)
  parser.add_argument(
    "--tokens", type=int, default=32, help="tokens per sample"
  )
  parser.add_argument("--temperature", type=float, default=0.5)
  parser.add_argument("--repetitions", type=int, default=1)
  parser.add_argument("--scratch", help="folder of exchanged files")
  parser.add_argument("--output", help="file to append a line of JSON to")
  arguments = config.parse_arguments(parser, argv)
  unknown = set(arguments.forms) - set(FORMS)
  if unknown:
    parser.error(f"--forms: unknown {', '.join(sorted(unknown))}")
  return arguments


if __name__ == "__main__":
  sys.exit(main())
