"""One page that shows a run: what was trained, on what, and how good it is.

The page is a single HTML file without scripts and without a reference to
anything outside it. It follows the reader's light or dark scheme, prints on
A4, and reads on a phone. Parts that a run does not have are left out.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from calrec_jax.evaluate import members
from calrec_jax.evaluate.report import figures, formats, views
from calrec_jax.evaluate.results import Results
from calrec_jax.evaluate.summary import compare
from calrec_jax.evaluate.table import by_quality, tie_notes
from calrec_jax.storage import atomic

# Texts of users and of catalogues are escaped wherever they enter the page, and
# a name that no one set is an error.
TEMPLATES = jinja2.Environment(
  loader=jinja2.PackageLoader("calrec_jax.evaluate.report"),
  autoescape=True,
  undefined=jinja2.StrictUndefined,
  trim_blocks=True,
  lstrip_blocks=True,
)
TEMPLATES.filters.update(formats.FILTERS)
TEMPLATES.globals["geometry"] = figures


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
    path: HTML file to write; its folder is created if missing.
    results: Evaluation, fresh or read back.
    run: Description of the run. `title`, `recipe` and `command` are texts,
      `stages` is a list of mappings (`name`, `steps` and whatever else is known
      of each), `versions` a mapping; everything else is shown as name and
      value.
    card: Card of the dataset; by default the one of the results.
    curves: Rows of each stage's `metrics.jsonl`, by stage, in the order of the
      stages. A row has `step`, `split` (`train` or `validation`) and values.
    cases: Users in full, as `cases.choose` made them; by default those of the
      results.

  Returns:
    The path of the report.
  """
  path = pathlib.Path(path)
  run, card = run or {}, results.data if card is None else card
  protocol = results.protocol
  recommenders = by_quality(results)
  best, *others = recommenders
  page = TEMPLATES.get_template("report.html.j2").render(
    title=str(run.get("title") or card.get("domain") or "Evaluation"),
    results=results,
    protocol=protocol,
    recommenders=recommenders,
    best=best,
    trailing={
      name: compare(results, best, name)
      for name in [*others[:1], protocol["reference"]]
      if name != best
    },
    notes=tie_notes(recommenders),
    headline=views.headline(recommenders, protocol),
    tables=views.tables(recommenders, protocol),
    fusions={
      name: {**entry, "said": members.sentences(results, name)}
      for name, entry in members.fusions(results).items()
    },
    slices=views.slices(recommenders, protocol),
    training=views.training(curves or {}),
    card=card,
    run=run,
    cases=results.cases if cases is None else cases,
  )
  atomic.write_text(path, page)
  return path
