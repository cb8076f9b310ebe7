"""Gin configurations: flags, stages, and errors that suggest the nearest name.

gin rejects an unknown parameter of a known configurable, but silently accepts a
macro that nothing reads and a scope that nothing enters, so that
`--gin.BATCH_SIZEE=16` trains with the old batch size. `Configuration.apply`
parses the files and then refuses such bindings.

A recipe may bind a macro or a parameter for one stage of a chain by its name
as scope, `target/TRAIN_STEPS = 200` or `target/Feed.targets = "last"`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import inspect
import os
import pathlib
import re
import shlex
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import gin
from gin import config as gin_config

from calrec_jax.config import binding_types, files
from calrec_jax.config.binding_types import is_macro
from calrec_jax.errors import ConfigurationError, nearest

_MACRO = "gin.macro"
_RENAMED = {"MAX_ITEMS": "MAX_HISTORY"}  # Macros by their earlier names.
_GIN_ERRORS = (
  *(ValueError, OSError, SyntaxError, ImportError, TypeError, KeyError),
  tokenize.TokenError,
)
# Words of other languages.
_WORDS = {"true": "True", "false": "False", "none": "None", "null": "None"}
_GIN_FLAG = re.compile(r"--gin\.([^=]+)=(.*)", flags=re.DOTALL)
_UNKNOWN = re.compile(r"No configurable matching (?:reference )?'@?([\w./]+)")
_NO_PARAMETER = re.compile(
  r"Configurable '([^']+)' doesn't have a parameter named '([^']+)'"
)


@dataclasses.dataclass(frozen=True)
class Configuration:
  """Gin files and bindings, to be applied for each stage of a chain.

  Attributes:
    files: Gin files, in order; later bindings take precedence.
    bindings: `NAME=VALUE` texts of the command line, which take precedence over
      files.
    search_paths: Folders in which gin files and their includes are searched
      before the project's own.
    macros: Macros that the running program reads by name with `macro`.
    stages: Names that may be used as a scope although no reference enters it.
  """

  files: tuple[str, ...] = ()
  bindings: tuple[str, ...] = ()
  search_paths: tuple[str, ...] = ()
  macros: tuple[str, ...] = ("STAGES", "MEMBERS")
  stages: tuple[str, ...] = ()

  def apply(self, stage: str | None = None) -> None:
    """Makes this the process's gin configuration.

    Args:
      stage: Name of the stage whose `stage/NAME` macros replace `NAME`.

    Raises:
      ConfigurationError: for an unknown file, name, parameter, macro or
        scope, with the nearest valid one.
    """
    gin.clear_config()
    files.look_in((*self.search_paths, *gin_folders()))
    try:
      gin.parse_config_files_and_bindings(
        list(self.files), [], finalize_config=False
      )
      read_by_files = _read_macros()
      for binding in self.bindings:
        _parse_flag(binding)
    except ConfigurationError:
      raise
    except _GIN_ERRORS as error:
      raise ConfigurationError(_explain(error, self)) from error
    stages = (*self.stages, *_names_of_stages())
    flags = {binding.partition("=")[0].strip() for binding in self.bindings}
    _refuse_unread_macros(self.macros, stages, read_by_files, flags)
    _refuse_unentered_scopes(stages)
    if stage is not None:
      for (scope, selector), values in list(gin_config._CONFIG.items()):
        prefix, _, name = scope.rpartition("/")
        if selector == _MACRO and prefix == stage:
          gin.bind_parameter((name, _MACRO, "value"), values["value"])
    if stage is not None or not stages:
      # Before a stage is chosen, macros that only stages bind are unbound.
      gin.finalize()
    binding_types.check(_bound_by)

  @contextlib.contextmanager
  def stage(self, stage: str | None) -> Iterator[None]:
    """Applies the configuration and enters the scope of a stage."""
    self.apply(stage)
    with gin.config_scope(stage):
      yield

  def arguments(self) -> list[str]:
    """The command-line flags that rebuild this configuration."""
    return [
      *(f"--gin_file={file}" for file in self.files),
      *(f"--gin_search_paths={path}" for path in self.search_paths),
      *(f"--gin.{binding}" for binding in self.bindings),
    ]


def gin_folders() -> list[pathlib.Path]:
  """Folders of the project's own gin files."""
  paths = importlib.import_module("calrec_gin").__path__
  return [folder for folder in map(pathlib.Path, paths) if folder.is_dir()]


def _add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of every verb; they follow t5x."""
  group = parser.add_argument_group("configuration")
  group.add_argument(
    "--gin_file",
    action="append",
    default=[],
    metavar="FILE",
    help="gin file, e.g. recipes/quickstart.gin (repeatable; later files take "
    "precedence)",
  )
  group.add_argument(
    "--gin.NAME",
    dest="_gin_binding",
    metavar="VALUE",
    help="one binding, e.g. --gin.BATCH_SIZE=16 or --gin.Objective.alpha=0.2",
  )
  group.add_argument(
    "--gin_search_paths",
    action="append",
    default=[],
    metavar="FOLDER",
    help="folder searched for gin files before the project's own (repeatable)",
  )
  group.add_argument(
    "--dry_run",
    action="store_true",
    help="resolve the configuration, print it, and stop",
  )


def parse_arguments(
  parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
  """Parses a verb's command line, by default the process's.

  Returns:
    The arguments, with the unapplied `Configuration` as `configuration`.
  """
  argv = list(sys.argv[1:] if argv is None else argv)
  bindings, rest = [], []
  for argument in argv:
    match = _GIN_FLAG.fullmatch(argument)
    if match:
      bindings.append(f"{match[1]}={match[2]}")
    elif argument.startswith("--gin."):
      parser.error(f"{argument} has no value; write {argument}=VALUE")
    else:
      rest.append(argument)
  _add_flags(parser)
  arguments = parser.parse_args(rest)
  arguments.configuration = Configuration(
    files=tuple(arguments.gin_file),
    bindings=tuple(bindings),
    search_paths=tuple(
      path for text in arguments.gin_search_paths for path in text.split(",")
    ),
  )
  return arguments


def macro(name: str, default: Any = gin.REQUIRED) -> Any:
  """The value of a macro of the applied configuration."""
  try:
    value = gin.query_parameter(f"{name}/{_MACRO}.value")
    while is_macro(value):  # One macro may be bound to another.
      value = gin.query_parameter(f"{'/'.join(value.scopes)}/{_MACRO}.value")
  except ValueError:
    value = default
  if value is gin.REQUIRED:
    raise ConfigurationError(
      f"{name} is not set. Set it in a gin file or with --gin.{name}=VALUE."
    )
  return value


def plain_value(value: Any) -> Any:
  """Resolves a value of `gin.get_bindings(..., resolve_references=False)`.

  Returns:
    The value of a macro; the text of a reference, such as "@adamw()".
  """
  if is_macro(value):
    value = macro("/".join(value.scopes))
  if isinstance(value, gin_config.ConfigurableReference):
    return repr(value)
  return value


def bindings_of(module: str) -> dict[str, Any]:
  """Every value bound for the configurables of a module and its submodules.

  Args:
    module: Full name of a module, such as `calrec_jax.recommend`.

  Returns:
    Plain values by `Name.parameter`; the entered scope takes precedence.
  """
  bound = {}
  for selector in sorted({selector for _, selector in _keys()}):
    if selector.startswith(f"{module}."):
      values = gin.get_bindings(selector, resolve_references=False)
      for parameter, value in values.items():
        name = f"{selector.rpartition('.')[2]}.{parameter}"
        bound[name] = plain_value(value)
  return bound


def bound_values(parameters: Mapping[str, Sequence[str]]) -> dict[str, Any]:
  """What is bound for some parameters in any scope, by the name to bind.

  Args:
    parameters: Names of parameters, by configurable.

  Returns:
    The values, by `SCOPE/Name.parameter`, or by the macro that holds one.
  """
  macros: set[str] = set()
  bound: dict[str, Any] = {}
  for (scope, selector), values in gin_config._CONFIG.items():
    owner = selector.rpartition(".")[2]
    for parameter in parameters.get(owner, ()):
      value = values.get(parameter)
      if _is_macro(value):
        macros.add(_last_macro(value))
      elif value is not None:
        bound[f"{scope}/{owner}.{parameter}".lstrip("/")] = value
  for scope, selector in _keys():
    if selector == _MACRO and scope.rpartition("/")[2] in macros:
      bound[scope] = gin_config._CONFIG[scope, selector]["value"]
  return bound


def text() -> str:
  """The applied configuration as gin text, which gin can read back."""
  return gin.config_str(max_line_length=100)


@contextlib.contextmanager
def explained() -> Iterator[None]:
  """Turns gin's error on a missing required value into one with a remedy."""
  try:
    yield
  except RuntimeError as error:
    if "Required bindings" not in str(error):
      raise
    if "'dataset'" in str(error) and "'decoder'" in str(error):
      raise ConfigurationError(
        "There is no recipe. Give one by --gin_file=mine.gin, "
        "or to `calrec eval` and `calrec infer` a trained run by "
        "--run=MODEL_DIR."
      ) from error
    raise ConfigurationError(
      f"{str(error).splitlines()[0]} Set the value in a gin file or on the "
      "command line with --gin.NAME=VALUE."
    ) from error


def _last_macro(value: Any) -> str:
  """The name of the macro that holds the value of a reference to one."""
  name = "/".join(value.scopes)
  with contextlib.suppress(ValueError):
    while _is_macro(value := gin.query_parameter(f"{name}/{_MACRO}.value")):
      name = "/".join(value.scopes)
  return name


def _is_macro(value: Any) -> bool:
  return (
    isinstance(value, gin_config.ConfigurableReference)
    and value.selector == _MACRO
  )


def beside(path: str) -> str | None:
  """Where a relative path exists beside a gin file that was read.

  Paths are relative to the working directory, so this is only for the message
  about a file that is not there.

  Args:
    path: Path that a setting gives.

  Returns:
    The absolute path; None if there is none, or if the working directory is
    that folder.
  """
  if os.path.isabs(path):
    return None
  for folder in files.folders_read():
    if folder != pathlib.Path.cwd() and (folder / path).exists():
      return str(folder / path)
  return None


def looked_for(path: str) -> str:
  """Where a path that does not exist was looked for, for a message.

  Returns:
    " (looked for FOLDER/path)", and where a gin file has it beside it.
  """
  absolute = os.path.abspath(os.path.expanduser(path))
  hint = f" (looked for {absolute})" if absolute != path else ""
  found = beside(path)
  if found is not None:
    hint += (
      f". Paths are relative to the working directory, and {found} exists "
      "beside the gin file: give that, or change to its folder"
    )
  return hint


def _parse_flag(binding: str) -> None:
  """Adds a binding of the command line."""
  try:
    gin.parse_config([binding])
  except (SyntaxError, tokenize.TokenError) as error:
    name, _, value = map(str.strip, binding.partition("="))
    fault = f"--gin.{name}={value}: the value is no gin value"
    raise ConfigurationError(_unquoted(fault, value, f"--gin.{name}=")) from (
      error
    )


def _unquoted(fault: str, value: str, before: str) -> str:
  """What to write for a value that gin cannot read, such as bare text."""
  if not value:
    return f"{fault}. Give one after the equals sign."
  if value.lower() in _WORDS:
    return f"{fault}. Write {before}{_WORDS[value.lower()]}"
  if value[0] in "([{":
    return (
      f"{fault}. Check its brackets; texts need quotes inside, as in "
      f"{before}\"('a', 'b')\""
    )
  text = value.strip("\"'")
  right = f'{before}"{text!r}"'
  if set(text) & set("'\"$`\\!"):
    right = shlex.quote(f"{before}{text!r}")
  return f"{fault}. A text needs quotes inside; write {right}"


def _names_of_stages() -> tuple[str, ...]:
  found: list[str] = []
  for listed in ("STAGES", "MEMBERS"):
    names = macro(listed, ())
    if not isinstance(names, list | tuple) or not all(
      isinstance(name, str) for name in names
    ):
      raise ConfigurationError(
        f"{listed} = {names!r}: must be names of stages, such as "
        '("joint", "target"); of one stage ("train",).'
      )
    found += names
  return tuple(found)


def _bound_by(value: Any) -> tuple[str | None, Any]:
  """The last macro that a value is read from, and what is bound to it.

  Raises:
    LookupError: If that macro is unbound as yet.
  """
  name = None
  while is_macro(value):
    name = "/".join(value.scopes)
    bound = gin_config._CONFIG.get((name, _MACRO))
    if bound is None:
      raise LookupError(name)
    value = bound["value"]
  return name, value


def _keys() -> list[tuple[str, str]]:
  """(scope, selector) of everything that is bound."""
  return list(gin_config._CONFIG)


def _references() -> Iterator[gin_config.ConfigurableReference]:
  return gin_config.iterate_references(gin_config._CONFIG)


def _read_macros() -> set[str]:
  return {"/".join(found.scopes) for found in _references() if is_macro(found)}


def _refuse_unread_macros(
  known: Iterable[str],
  stages: Sequence[str],
  read_by_files: set[str],
  flags: set[str],
) -> None:
  """Refuses macros without a reader, and readers without a macro.

  A flag may rebind the parameter that reads a file's macro, such as
  `Evaluation.checkpoint`. Such a macro is removed, so that gin can read `text`.

  Args:
    known: Macros that the program reads by name.
    stages: Names of the stages of the chain.
    read_by_files: Macros that the files read, without the flags.
    flags: Names that the command line binds, all of which must be read.
  """
  bound = {scope for scope, selector in _keys() if selector == _MACRO}
  read = _read_macros()
  usable = read | set(known)
  for name in sorted(bound):
    stage, _, base = name.rpartition("/")
    plain = base if stage in stages else name
    if plain in usable:
      continue
    if plain in read_by_files and name not in flags:
      del gin_config._CONFIG[name, _MACRO]
    else:
      scoped = [f"{stage}/{macro}" for stage in stages for macro in usable]
      hint = nearest(name, [*usable, *scoped])
      if plain in _RENAMED:
        hint = f" It is called {_RENAMED[plain]} now."
      raise ConfigurationError(
        f"The macro {name} is bound, but nothing reads it.{hint}"
      )
  for name in sorted(read - bound):
    missing = [stage for stage in stages if f"{stage}/{name}" not in bound]
    if missing and len(missing) < len(stages):
      raise ConfigurationError(
        f"%{name} is read, but the stage {missing[0]!r} does not set it. Set "
        f"it in a gin file or with --gin.{missing[0]}/{name}=VALUE."
      )
    if missing or not stages:
      raise ConfigurationError(
        f"%{name} is read, but no file and no flag sets it."
        f"{nearest(name, bound)} Set it in a gin file or with "
        f"--gin.{name}=VALUE."
      )


def _refuse_unentered_scopes(stages: Sequence[str]) -> None:
  entered = set(stages)
  for reference in _references():
    entered.update(reference.scopes)
  for scope, selector in _keys():
    for part in filter(None, scope.split("/")):
      if selector != _MACRO and part not in entered:
        raise ConfigurationError(
          f"The binding {scope}/{selector} belongs to the scope {part!r}, "
          f"which nothing enters.{nearest(part, entered)}"
        )


def _instead(configurable: Any, name: str) -> str:
  """What to bind instead of a parameter that a configurable does not have.

  A configurable class may declare `elsewhere`: by names that other programs
  give to a parameter, the binding that does the same here.
  """
  elsewhere: Mapping[str, str] = getattr(configurable, "elsewhere", {})
  plain = {_plain(other): binding for other, binding in elsewhere.items()}
  if binding := plain.get(_plain(name)):
    return f"\n  Bind instead {binding}."
  return nearest(name, inspect.signature(configurable).parameters)


def _plain(name: str) -> str:
  return name.lower().replace("_", "")


def _explain(error: Exception, configuration: Configuration) -> str:
  message = str(error.args[0] if isinstance(error, KeyError) else error)
  if isinstance(error, SyntaxError) and error.filename:
    where = f"{error.filename}:{error.lineno}"
    line = (error.text or "").strip()
    _, equals, value = map(str.strip, line.partition("="))
    if set(line) & set("“”‘’„"):
      return f"{where}: {line}: write straight quotes, \" or '."
    if equals and re.fullmatch(r"[\w./~:-]+", value):
      name = line.partition("=")[0].strip()
      right = _WORDS.get(value.lower(), f'"{value}"')
      return f"{where}: {line}: a text needs quotes; write {name} = {right}"
    fault = error.msg.splitlines()[-1].strip()
    return f"{where}: {line}: gin cannot read this line: {fault}"
  if match := _UNKNOWN.search(message):
    names = [name.split(".")[-1] for name, _ in gin_config._REGISTRY.items()]
    return message + nearest(match[1].split(".")[-1], names)
  if match := _NO_PARAMETER.search(message):
    entry = gin_config._REGISTRY.get_match(match[1])
    return message + (_instead(entry.wrapped, match[2]) if entry else "")
  if isinstance(error, OSError):
    offered = [
      str(path.relative_to(folder))
      for folder in gin_folders()
      for path in sorted(folder.rglob("*.gin"))
    ]
    missing = [file for file in configuration.files if file in message]
    return message + (nearest(missing[0], offered) if missing else "")
  return message
