"""Types of bound values, checked before anything runs.

gin takes any value for any parameter, and the fault shows up later in a
calculation. The annotation of the parameter says what is meant; a value that
does not fit it is refused by the name of its binding, or of the macro it is
from.
"""

from __future__ import annotations

import ast
import collections.abc
import contextlib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union

from gin import config as gin_config

from calrec_jax.errors import ConfigurationError

_MACRO = "gin.macro"
_OURS = ("calrec_jax.", "calrec_tasks.")
_PLAIN = (int, float, str, bool, bytes, type(None), list, tuple, dict)
_WANTED = {
  int: "a whole number",
  float: "a number",
  str: "a text",
  bool: "True or False",
  type(None): "None",
}
# Of a value that names a macro: the last macro, and what is bound to it.
Resolve = Callable[[Any], tuple[str | None, Any]]


def is_macro(value: Any) -> bool:
  """Whether a bound value is `%NAME`."""
  return (
    isinstance(value, gin_config.ConfigurableReference)
    and value.selector == _MACRO
  )


def check(resolve: Resolve) -> None:
  """Checks every value that is bound for a configurable of this library.

  Args:
    resolve: Function that follows macros; a LookupError says that a macro is
      unbound, so that the value is not known.

  Raises:
    ConfigurationError: For the first value of a wrong type.
  """
  for (scope, selector), bound in list(gin_config._CONFIG.items()):
    entry = gin_config._REGISTRY.get_match(selector)
    if entry is None or not entry.wrapped.__module__.startswith(_OURS):
      continue
    hints = _hints(entry.wrapped)
    for parameter, value in bound.items():
      if parameter not in hints:
        continue
      plain = selector.rpartition(".")[2]
      name = f"{scope}/{plain}" if scope else plain
      try:
        macro, value = resolve(value)
        value = _without_macros(value, resolve)
      except LookupError:
        continue
      if not _fits(value, hints[parameter]):
        _refuse(f"{name}.{parameter}", macro, value, hints[parameter])


def _refuse(binding: str, macro: str | None, value: Any, hint: Any) -> None:
  shown = f"{macro or binding} = {value!r}"
  through = f" ({binding})" if macro else ""
  message = f"{shown}: must be {wanted(hint)}{through}."
  right = _mended(value, hint)
  if right is not None:
    message += f" Write {macro or binding} = {right}"
  raise ConfigurationError(message)


def wanted(hint: Any) -> str:
  """What a value must be, after "must be"."""
  if hint is Any:
    return "a value"
  if hint in _WANTED:
    return _WANTED[hint]
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin in (Union, types.UnionType):
    return " or ".join(dict.fromkeys(wanted(part) for part in arguments))
  if origin is Literal:
    return "one of " + ", ".join(map(repr, arguments))
  if _is_mapping(origin or hint):
    return f"a dict, {{{': '.join(map(wanted, arguments)) or '...'}}}"
  if _is_sequence(origin or hint):
    return "a list or tuple" + (" of texts" if str in arguments else "")
  if inspect.isclass(hint) and gin_config._REGISTRY.get_all_matches(
    hint.__name__
  ):
    return f"@{hint.__name__}()"
  return "a reference, @NAME()"


def _mended(value: Any, hint: Any) -> str | None:
  """The gin text of what was probably meant."""
  candidates: list[Any] = []
  if isinstance(value, str):
    with contextlib.suppress(ValueError, SyntaxError, RecursionError):
      candidates.append(ast.literal_eval(value))
    candidates.append((value,))
  elif isinstance(value, float) and value.is_integer():
    candidates.append(int(value))
  elif isinstance(value, int) and not isinstance(value, bool):
    candidates.append(str(value))
  return next((repr(c) for c in candidates if _fits(c, hint)), None)


def _fits(value: Any, hint: Any) -> bool:
  """Whether a bound value may be what an annotation says."""
  if not isinstance(value, _PLAIN):
    return True  # A reference; what it gives is known when it is called.
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if hint is Any or hint is object:
    return True
  if hint is None or hint is type(None):
    return value is None
  if origin in (Union, types.UnionType):
    return any(_fits(value, part) for part in arguments)
  if origin is Literal:
    return value in arguments
  return _is_of(value, origin or hint, arguments)


def _is_of(value: Any, kind: Any, arguments: tuple[Any, ...]) -> bool:
  """Whether a value is of a class, and its elements are of the arguments."""
  if kind is bool:
    return isinstance(value, bool) or value in (0, 1)
  if kind in (int, float):
    number = (int, float) if kind is float else int
    return isinstance(value, number) and not isinstance(value, bool)
  if kind in (str, bytes):
    return isinstance(value, kind)
  if _is_mapping(kind):
    return isinstance(value, dict) and _all_fit(value, arguments)
  if _is_sequence(kind):
    return isinstance(value, list | tuple) and _elements_fit(value, arguments)
  # A class of this library or a function: only a reference can give one.
  return False


def _all_fit(value: Mapping[Any, Any], arguments: tuple[Any, ...]) -> bool:
  if len(arguments) != 2:
    return True
  key, element = arguments
  return all(_fits(k, key) and _fits(v, element) for k, v in value.items())


def _elements_fit(value: Any, arguments: tuple[Any, ...]) -> bool:
  arguments = tuple(part for part in arguments if part is not Ellipsis)
  if len(arguments) == 1:
    return all(_fits(element, arguments[0]) for element in value)
  return not arguments or (
    len(arguments) == len(value) and all(map(_fits, value, arguments))
  )


def _is_mapping(kind: Any) -> bool:
  return inspect.isclass(kind) and issubclass(kind, collections.abc.Mapping)


def _is_sequence(kind: Any) -> bool:
  return (
    inspect.isclass(kind)
    and issubclass(kind, collections.abc.Iterable)
    and not issubclass(kind, str | bytes | collections.abc.Mapping)
    and not hasattr(kind, "_fields")  # A NamedTuple is made by a reference.
    and kind.__module__ in ("builtins", "collections.abc", "typing")
  )


def _without_macros(value: Any, resolve: Resolve) -> Any:
  """The value with the macros inside its containers resolved."""
  value = resolve(value)[1]
  if isinstance(value, list | tuple):
    return type(value)(_without_macros(part, resolve) for part in value)
  if isinstance(value, dict):
    return {key: _without_macros(part, resolve) for key, part in value.items()}
  return value


@functools.cache
def _hints(configurable: Callable[..., Any]) -> dict[str, Any]:
  """Annotations by parameter, as far as they can be resolved."""
  function = configurable
  if inspect.isclass(configurable):
    function = configurable.__init__
  names = inspect.signature(configurable).parameters
  scope = vars(inspect.getmodule(configurable) or types)
  hints = {}
  for name, text in getattr(function, "__annotations__", {}).items():
    if name not in names:
      continue
    try:
      # gin's marker of a required value stands in no annotation.
      hints[name] = (
        typing.get_type_hints(
          types.SimpleNamespace(__annotations__={name: text}), scope
        )[name]
        if isinstance(text, str)
        else text
      )
    except (NameError, TypeError, AttributeError):
      continue
  return hints
