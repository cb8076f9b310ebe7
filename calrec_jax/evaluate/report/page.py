"""One page that shows a run: what was trained, on what, and how good it is.

The page is a single HTML file without scripts and without a reference to
anything outside it. It follows the reader's light or dark scheme, prints on
A4, and reads on a phone. Parts that a run does not have are left out.
"""

import os
import pathlib
import string
from collections.abc import Mapping, Sequence
from typing import Any

from calrec_jax.evaluate.report.cases import cases_section
from calrec_jax.evaluate.report.data import card_section, training_section
from calrec_jax.evaluate.report.markup import (
  Html,
  escape,
  facts,
  phrase,
  section,
  tag,
)
from calrec_jax.evaluate.report.markup import table as html_table
from calrec_jax.evaluate.report.numbers import (
  metrics_section,
  validity_section,
  verdict_sentence,
)
from calrec_jax.evaluate.report.slices import curves_section, slices_section
from calrec_jax.evaluate.results import Results
from calrec_jax.storage import atomic

_FOLDER = pathlib.Path(__file__).parent
_OWN_PLACE = ("title", "stages", "versions", "recipe", "command")


def write_report(
  path: str | os.PathLike[str],
  results: Results,
  *,
  run: Mapping[str, Any] | None = None,
  card: Mapping[str, Any] | None = None,
  curves: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
  cases: Sequence[Mapping[str, Any]] | None = None,
) -> pathlib.Path:
  """Writes the report of an evaluation, atomically.

  Args:
    path: the HTML file; its folder is created if missing.
    results: an evaluation, fresh or read back.
    run: what was run. `title`, `recipe` and `command` are texts, `stages` is a
      list of mappings (`name`, `steps` and whatever else is known of each),
      `versions` a mapping; everything else is shown as name and value.
    card: the dataset's card; by default the one of the results.
    curves: rows of each stage's `metrics.jsonl`, by stage.
    cases: users in full; by default those of the results.

  Returns:
    The path of the report.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  run = run or {}
  page = render(
    results,
    run=run,
    card=results.data if card is None else card,
    curves=curves or {},
    cases=results.cases if cases is None else cases,
  )
  atomic.write_text(path, page)
  return path


def render(
  results: Results,
  *,
  run: Mapping[str, Any],
  card: Mapping[str, Any],
  curves: Mapping[str, Sequence[Mapping[str, Any]]],
  cases: Sequence[Mapping[str, Any]],
) -> str:
  """The page of `write_report` as text."""
  title = str(run.get("title") or card.get("domain") or "Evaluation")
  main = [
    metrics_section(results),
    slices_section(results),
    curves_section(results),
    validity_section(results),
    cases_section(cases),
    training_section(curves),
    card_section(card),
    _run_section(run, results.checkpoint),
    _protocol_section(results.protocol),
  ]
  template = string.Template((_FOLDER / "report.html").read_text("utf-8"))
  return template.substitute(
    title=escape(f"{title} · calrec_jax"),
    style=(_FOLDER / "report.css").read_text("utf-8").strip(),
    header=_header(title, run, results),
    main="\n".join(part for part in main if part),
    footer=tag(
      "p",
      "Written by calrec_jax. The numbers are in metrics.json, every user's "
      "rank in per_user.parquet.",
    ),
  )


def _header(title: str, run: Mapping[str, Any], results: Results) -> Html:
  stages = " → ".join(
    f"{stage.get('name', '')}"
    + (f" ({stage['steps']:,} steps)" if stage.get("steps") else "")
    for stage in run.get("stages") or ()
  )
  fingerprint = run.get("data_hash") or results.data.get("fingerprint")
  pairs = [
    ("Recipe", run.get("recipe")),
    ("Stages", stages),
    ("Users", f"{results.protocol['users']:,}"),
    ("Items", f"{results.protocol['items']:,}"),
    ("Data", tag("code", str(fingerprint)[:16]) if fingerprint else None),
  ]
  command = run.get("command")
  return Html(
    tag("p", "Next-item recommendation, measured", class_="kicker")
    + tag("h1", title)
    + verdict_sentence(results)
    + facts(pairs)
    + (tag("p", tag("code", command), class_="command") if command else "")
  )


def _run_section(run: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> Html:
  """Stages, versions, and whatever else is known of the run."""
  stages: list[Mapping[str, Any]] = list(run.get("stages") or ())
  keys = list(dict.fromkeys(key for stage in stages for key in stage))
  table = (
    html_table(
      [phrase(key) for key in keys],
      [[_text(stage.get(key)) for key in keys] for stage in stages],
      class_="plain",
    )
    if keys
    else ""
  )
  known = {
    key: value
    for key, value in run.items()
    if key not in _OWN_PLACE and isinstance(value, str | int | float)
  }
  versions = run.get("versions") or checkpoint.get("versions") or {}
  parts = [
    table,
    facts((phrase(key), _text(value)) for key, value in known.items()),
  ]
  if versions:
    parts += [tag("h3", "Versions"), facts(versions.items())]
  return section("Run", *parts, id="run")


def _protocol_section(protocol: Mapping[str, Any]) -> Html:
  """How the numbers came about, for who wants to compare them."""
  intervals = protocol["intervals"]
  rule = protocol["candidates"]
  excluded = protocol["excluded_targets"][rule]
  sentences = [
    "Every item of the catalogue is ranked; none are sampled. A hit is the "
    "very item that was bought, by its id. Values are fractions, not percent.",
    "Items with equal scores share the middle of their places (expected rank), "
    "so nothing is gained from the order in which they are stored. Ranks "
    f"beyond {protocol['depth'] // 2} are misses and count 0, in MRR too.",
    f"Brackets and bars are {intervals['confidence']:.0%} intervals of the "
    f"bootstrap over users with {intervals['resamples']:,} resamples. "
    "Differences are taken user by user. An interval says how much the number "
    "would move with other users of the same kind; it knows nothing of another "
    "training seed. Where none of n users had a hit the bootstrap shows "
    "[0, 0], though the truth may be as high as about 3/n.",
    f"Candidates follow the rule {rule}. It excludes the targets of "
    f"{excluded:,} users, which count as misses.",
    "“Text” metrics count any item with the target's text. "
    f"{protocol['items_with_text_twins']:,} items share their text with "
    "another.",
    "Coverage is the share of the catalogue that stood among somebody's first "
    "ten. Head, mid and tail items each hold about a third of the training "
    "events.",
  ]
  return section(
    "How to read this", *(tag("p", text) for text in sentences), id="protocol"
  )


def _text(value: Any) -> str:
  if value is None:
    return ""
  if isinstance(value, bool):
    return "yes" if value else "no"
  if isinstance(value, int):
    return f"{value:,}"
  return f"{value:,.4g}" if isinstance(value, float) else str(value)
