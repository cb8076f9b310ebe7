"""Datasets that are known by name, without a gin file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from calrec_jax import config
from calrec_jax.errors import nearest

# Each family: its gin file, the macro of the requested datasets, and the
# parameter that names the folder of their files.
_AMAZON = ("data/amazon.gin", "CATEGORIES", "MANUAL_DIR")
_FAMILIES = {
  "amazon2014": _AMAZON,
  "amazon2018": _AMAZON,
  "amazon2023": _AMAZON,
  "completejourney": (
    "data/completejourney.gin",
    "DEPARTMENTS",
    "CompleteJourney.folder",
  ),
}
EXAMPLES = "amazon2018/Video_Games, completejourney/nutrition"


def configure(
  configuration: config.Configuration,
  names: Sequence[str],
  manual_dir: str | None,
) -> config.Configuration:
  """The configuration with datasets that the command line names.

  Args:
    configuration: Gin files and bindings of the command line. They take
      precedence over those of the datasets.
    names: Names such as `amazon2018/Video_Games`, all of one family.
    manual_dir: Folder of the datasets' files.

  Raises:
    ConfigurationError: for an unknown family, with the nearest one.
  """
  if not names:
    if manual_dir is not None:
      raise config.ConfigurationError(
        f"--manual_dir needs the name of a dataset, such as {EXAMPLES}; in a "
        "gin file it is the macro MANUAL_DIR."
      )
    return configuration
  if len({_family(name) for name in names}) > 1:
    raise config.ConfigurationError(
      f"{', '.join(names)} are of several families; name those of one family."
    )
  file, macro, folder_parameter = _family(names[0])
  # Categories of Amazon's releases are named with their release.
  parts = tuple(
    name if macro == "CATEGORIES" else name.partition("/")[2] for name in names
  )
  bindings = [f"{macro}={parts!r}"]
  if manual_dir is not None:
    folder = os.path.abspath(os.path.expanduser(manual_dir))
    bindings.append(f"{folder_parameter}={folder!r}")
  return dataclasses.replace(
    configuration,
    files=(file, *configuration.files),
    bindings=(*bindings, *configuration.bindings),
  )


def _family(name: str) -> tuple[str, str, str]:
  family, slash, part = name.partition("/")
  if not slash or not part:
    raise config.ConfigurationError(
      f"{name!r} is no dataset's name; write one as in {EXAMPLES}."
    )
  if family not in _FAMILIES:
    raise config.ConfigurationError(
      f"No dataset is called {name!r}: {family!r} is none of "
      f"{', '.join(_FAMILIES)}.{nearest(family, _FAMILIES)}"
    )
  return _FAMILIES[family]
