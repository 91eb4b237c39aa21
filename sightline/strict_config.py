"""Reads flat YAML or JSON mappings into frozen dataclasses. No key is guessed or ignored."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sightline.errors import InputError

T = TypeVar("T")


def near(word: str, known: Iterable[str]) -> str:
    """' (did you mean a, b?)', or '' if nothing in `known` resembles `word`."""
    import difflib  # only mistakes need it

    matches = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f" (did you mean {', '.join(matches)}?)" if matches else ""


def read_record(cls: type[T], data: object, where: str, error: type[InputError]) -> T:
    """Build the dataclass `cls` from a mapping with exactly its fields. Fields with a default may be absent.

    Fields may be str, int, float, bool, tuples of strings or of numbers, dict[str, ...], Literal[...], `X | None`, or
    another record that has been read already. Raises `error`, which names `where`, the key, and a valid value.

    where: the file, or a place in it.
    """
    if not isinstance(data, Mapping):
        raise error(f"{where}: a mapping of keys to values is needed, found {type(data).__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise error(
                f"{where}: unknown key {_shown(key)}{near(str(key)[:100], fields)}; the keys are: {', '.join(fields)}"
            )
    missing = [
        name
        for name, f in fields.items()
        if name not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise error(f"{where}: missing key {', '.join(map(repr, missing))}")
    hints = get_type_hints(cls)
    values = {key: _checked(hints[key], value, f"{where}: {key}", error) for key, value in data.items()}
    try:
        return cls(**values)
    except ValueError as e:
        raise error(f"{where}: {e}") from None


def _checked(hint: Any, value: object, where: str, error: type[InputError]) -> object:
    origin = get_origin(hint)
    if origin is Literal:
        choices = get_args(hint)
        if value not in choices:
            hint_text = near(_shown(value)[:100].strip("'"), map(str, choices))
            raise error(f"{where}: {_shown(value)} is not one of {', '.join(map(str, choices))}{hint_text}")
        return value
    if origin in (Union, types.UnionType):  # only `X | None` is used
        if value is None:
            return None
        return _checked(next(a for a in get_args(hint) if a is not types.NoneType), value, where, error)
    if origin is tuple:
        kind = get_args(hint)[0]
        if not isinstance(value, list | tuple) or not all(
            isinstance(v, _MEMBERS[kind]) and not isinstance(v, bool) for v in value
        ):
            raise error(f"{where}: a list of {'texts' if kind is str else 'numbers'} is needed, found {_shown(value)}")
        return tuple(_finite(v, where, error) if kind is float else v for v in value)
    if dataclasses.is_dataclass(hint):  # a nested record, read before its parent
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        raise error(f"{where}: a mapping of keys to values is needed, found {_shown(value)}")
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
            raise error(f"{where}: a mapping of texts is needed, found {_shown(value)}")
        if get_args(hint)[1] is str and not all(isinstance(v, str) for v in value.values()):
            raise error(f"{where}: a mapping of texts to texts is needed, found {_shown(value)}")
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(value, where, error)
    # bool is a subclass of int: `threads: yes` must not become 1
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise error(f"{where}: {_NAMES.get(hint, hint.__name__)} is needed, found {_shown(value)}")
    return value


def _finite(value: float, where: str, error: type[InputError]) -> float:
    """JSON's 1e400 is infinite, and YAML has .nan: comparisons with limits miss both."""
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise error(f"{where}: {_shown(value)} is not a finite number")
    return number


def _shown(value: object) -> str:
    """The value for a message, which stays one readable line."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


_MEMBERS = {str: str, float: int | float, int: int}
_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
