"""YAML that people write and anybody may send: bounded in size, in depth, and in what its aliases stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from sightline.documents import read_text, utf8
from sightline.errors import InputError

_MOST_YAML = 1 << 20  # bytes: a million are 20,000 class names, and a second or two of PyYAML's work
_MOST_VALUES = 200_000  # values, with each alias written out
_MOST_LEVELS = 40
_MOST_DIGITS = 100  # of a number
_TYPES = ("null", "bool", "int", "float", "str", "seq", "map", "merge")  # of YAML; a date is none of JSON's


def read_yaml(path: Path, error: type[InputError]) -> Any:
    """What the file holds: mappings, lists, texts, numbers, true, false and null, no key twice.

    Raises `error` with the line: what is no YAML, is nested or repeated without bound, or is of another type.
    """
    text = read_text(path, error, _MOST_YAML)
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        said = " ".join((e.problem or e.context or "not YAML").split())
        raise error(f"{path}: {'' if isinstance(e, _Refused) else 'not valid YAML: '}{line}{said}") from None
    except yaml.YAMLError as e:
        raise error(f"{path}: not valid YAML: {' '.join(str(e).split())}") from None
    finally:
        if loader:
            loader.dispose()


class _Refused(yaml.MarkedYAMLError):
    pass


def _refuse(node: Node, why: str) -> NoReturn:
    raise _Refused(problem=why, problem_mark=node.start_mark)


class _Loader(yaml.SafeLoader):
    """PyYAML's, with bounds. What is read of it is first looked at as nodes, in which an alias costs nothing yet."""

    _depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self._depth += 1
        try:
            if self._depth > _MOST_LEVELS:
                event = self.peek_event()  # type: ignore[no-untyped-call]
                raise _Refused(problem=f"is nested deeper than {_MOST_LEVELS} levels", problem_mark=event.start_mark)
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def get_single_data(self) -> Any:
        node = self.get_single_node()
        if node is None:
            return None
        _measure(node, {}, ())
        return self.construct_document(node)

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, Node] = {}
        for key, _ in node.value:
            if isinstance(key, ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                before = seen.setdefault(str(self.construct_object(key)), key)
                if before is not key:
                    _refuse(key, f"{key.value!r} is there twice; the first is in line {before.start_mark.line + 1}")
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if kind == "timestamp":
            _refuse(node, f"{node.value} is read as a date; put it in quotes, as a text")
        if kind not in _TYPES:
            _refuse(node, f"not valid YAML here: {node.tag}; a text, a number, a list or a mapping is needed")
        if isinstance(node, ScalarNode):
            if kind in ("int", "float") and len(node.value) > _MOST_DIGITS:
                _refuse(node, f"a number of {len(node.value)} digits")
            if "\0" in node.value or not utf8(node.value):
                _refuse(node, f"{node.value!r} is no text: it has a zero byte, or half of a surrogate pair")
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError, IndexError):  # `!!int x`, `0b`
            _refuse(node, f"{str(getattr(node, 'value', ''))!r} is no {kind}")


def _measure(node: Node, measured: dict[int, tuple[int, int]], above: tuple[int, ...]) -> tuple[int, int]:
    """(values in it, levels of it), each alias written out. Refuses what would never end or would fill the memory."""
    key = id(node)
    if key in above:
        _refuse(node, "holds itself")
    if key not in measured:
        values, levels = 1, 0
        if not isinstance(node, ScalarNode):
            for child in node.value:
                for part in child if isinstance(child, tuple) else (child,):
                    more, deeper = _measure(part, measured, (*above, key))
                    values, levels = values + more, max(levels, deeper)
        if values > _MOST_VALUES:
            _refuse(node, f"has more than {_MOST_VALUES:,} values, with its aliases written out")
        if levels >= _MOST_LEVELS:
            _refuse(node, f"is nested deeper than {_MOST_LEVELS} levels")
        measured[key] = values, levels + 1
    return measured[key]
