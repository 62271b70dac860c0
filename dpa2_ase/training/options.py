"""Fill frozen dataclasses from tables of a settings file, strictly: every mistake is told by its path."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ..option_values import short

T = TypeVar("T")


def fill(cls: type[T], data: Any, path: str) -> T:
    """Make the dataclass `cls` from a table.

    Raises
    ------
    ValueError
        For unknown keys, wrong types and missing entries.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{path or 'the file'} should be a table, found {short(data)}")
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]  # always a dataclass here
    found = {}
    for key, value in data.items():
        if key not in fields:
            raise ValueError(unknown_key(path, str(key), fields))
        found[key] = _value(hints[key], value, joined(path, str(key)))
    for name, field in fields.items():
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if no_default and name not in found:
            raise ValueError(f"{joined(path, name)} is missing")
    return cls(**found)


def joined(path: str, key: str) -> str:
    """The path of an entry."""
    return f"{path}.{key}" if path else key


def unknown_key(path: str, key: str, known: Any) -> str:
    """What to say of a key that is not known."""
    near = difflib.get_close_matches(key[:100], list(known), n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
    return f"{joined(path, key[:100])} is not a known key; {hint}"


def _value(hint: Any, value: Any, path: str) -> Any:  # noqa: PLR0911  # one line for each kind of type
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _one_of(args, value, path)
    if origin is Literal:
        if value not in args:
            raise ValueError(f"{path} should be one of {', '.join(map(str, args))}, found {short(value)}")
        return value
    if origin is tuple:
        items = [value] if isinstance(value, str | int | float) else value
        if not isinstance(items, list | tuple):
            raise ValueError(f"{path} should be a list, found {short(value)}")
        return tuple(_value(args[0], item, f"{path}[{number}]") for number, item in enumerate(items))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{path} should be a table, found {short(value)}")
        return {str(key): _value(args[1], item, joined(path, str(key))) for key, item in value.items()}
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        make = getattr(hint, "of_value", None)
        return make(value, path) if make else fill(hint, value, path)  # type: ignore[arg-type]  # a class, not an instance
    return _plain(hint, value, path)


def _one_of(args: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in args:
        return None
    errors = []
    for hint in args:
        if hint is not type(None):
            try:
                return _value(hint, value, path)
            except ValueError as error:
                errors.append(error)
    raise errors[0]


def _plain(hint: Any, value: Any, path: str) -> Any:
    names = {int: "an integer", float: "a number", str: "text", bool: "true or false"}
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-3 as text
        except ValueError:
            pass
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise ValueError(f"{path} should be {names[hint]}, found {short(value)}")
