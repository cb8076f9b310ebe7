"""Pages of the docs site that are made when it is built; see `mkdocs.yml`.

The project's own pages outside `docs/` become pages of the site, and every
package of the library one page of the reference, so that no module is named by
hand and none can be forgotten.
"""

from __future__ import annotations

import pathlib
import posixpath
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "calrec_jax"
# Page of the site by file of the checkout.
PROJECT_PAGES = {
  "README.md": "index.md",
  "CONTRIBUTING.md": "contributing.md",
  "CHANGELOG.md": "changelog.md",
  "gin/README.md": "gin.md",
  "LICENSE": "LICENSE",
}
_LINK = re.compile(r'(?<=\]\()[^)#\s]+|(?<=src=")[^"]+')


def on_config(config: MkDocsConfig) -> MkDocsConfig:
  """Lists the pages of the reference in the navigation."""
  for section in config.nav or ():
    if "Reference" in section:
      section["Reference"] = [{title: uri} for title, uri, _ in _reference()]
  return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
  """Adds the generated pages to those of `docs/`."""
  for name, uri in PROJECT_PAGES.items():
    text = (ROOT / name).read_text("utf-8")
    files.append(File.generated(config, uri, content=_moved(text, name, uri)))
  for _, uri, content in _reference():
    files.append(File.generated(config, uri, content=content))
  return files


def on_page_markdown(markdown: str, *, page, **_) -> str:
  """Points the links of `docs/` that leave it to the pages of the site."""
  uri = page.file.src_uri
  if uri in PROJECT_PAGES.values() or uri.startswith("reference/"):
    return markdown
  return _moved(markdown, f"docs/{uri}", uri)


def _reference() -> list[tuple[str, str, str]]:
  """(title, page, Markdown) of every package of the library, by name."""
  pages = []
  for init in sorted(LIBRARY.rglob("__init__.py")):
    package = init.parent
    name = ".".join(package.relative_to(ROOT).parts)
    modules = [
      f"{name}.{path.stem}"
      for path in sorted(package.glob("*.py"))
      if path.stem not in ("__init__", "__main__")
    ]
    alone = "options: {show_root_heading: false, members: false}"
    content = "\n\n".join(
      [
        f"# {name}",
        f"::: {name}\n    {alone}",
        *(f"::: {module}" for module in modules),
      ]
    )
    pages.append((name, f"reference/{name}.md", content + "\n"))
  return pages


def _moved(text: str, name: str, uri: str) -> str:
  """A page's text with the relative links of `name` as they are from `uri`."""

  def aim(match: re.Match[str]) -> str:
    link = match[0]
    if "://" in link:
      return link
    target = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
    page = PROJECT_PAGES.get(target, target.removeprefix("docs/"))
    return posixpath.relpath(page, posixpath.dirname(uri) or ".")

  return _LINK.sub(aim, text)
