"""Reads YAML from untrusted sources: its size, its depth and the expansion of its aliases are limited."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from sightline.documents import read_text, utf8
from sightline.errors import InputError

_MAX_BYTES = 1 << 20  # of a file: 20,000 class names, or a second or two of PyYAML's work
_MAX_VALUES = 200_000  # of a file, with aliases expanded
_MAX_LEVELS = 40  # of nesting
_MAX_DIGITS = 100  # of a number
_TYPES = ("null", "bool", "int", "float", "str", "seq", "map", "merge")  # of YAML that JSON has too; it has no dates


def read_yaml(path: Path, error: type[InputError]) -> Any:
    """The content of the file: mappings, lists, strings, numbers, true, false and null.

    Raises `error` with the line if it is not YAML, has a duplicate key or another type, or exceeds a limit.
    """
    text = read_text(path, error, _MAX_BYTES)
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        problem = " ".join((e.problem or e.context or "not YAML").split())
        raise error(f"{path}: {'' if isinstance(e, _Refused) else 'not valid YAML: '}{line}{problem}") from None
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
    """PyYAML's loader with limits. It checks the nodes first, in which an alias costs nothing yet."""

    _depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self._depth += 1
        try:
            if self._depth > _MAX_LEVELS:
                event = self.peek_event()  # type: ignore[no-untyped-call]
                raise _Refused(problem=f"is nested deeper than {_MAX_LEVELS} levels", problem_mark=event.start_mark)
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def get_single_data(self) -> Any:
        node = self.get_single_node()
        if node is None:
            return None
        _check_size(node, {}, ())
        return self.construct_document(node)

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: dict[str, Node] = {}
        for key, _ in node.value:
            if isinstance(key, ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                before = keys.setdefault(str(self.construct_object(key)), key)
                if before is not key:
                    _refuse(key, f"{key.value!r} is there twice; the first is in line {before.start_mark.line + 1}")
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if kind == "timestamp":
            _refuse(node, f"{node.value} is read as a date; put it in quotes, as a text")
        if kind not in _TYPES:
            _refuse(node, f"{node.tag} is not supported. Use a string, a number, a list or a mapping.")
        if isinstance(node, ScalarNode):
            if kind in ("int", "float") and len(node.value) > _MAX_DIGITS:
                _refuse(node, f"a number of {len(node.value)} digits is too long")
            if "\0" in node.value or not utf8(node.value):
                _refuse(node, f"{node.value!r} is not text: it has a zero byte, or half of a surrogate pair")
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError, IndexError):  # `!!int x`, `0b`
            _refuse(node, f"{str(getattr(node, 'value', ''))!r} is not of type {kind}")


def _check_size(node: Node, sizes: dict[int, tuple[int, int]], parents: tuple[int, ...]) -> tuple[int, int]:
    """(values, levels) of the node with aliases expanded. Refuses recursion, and what would fill the memory.

    sizes: results for nodes that are done.
    parents: ids of the nodes around it.
    """
    key = id(node)
    if key in parents:
        _refuse(node, "contains itself")
    if key not in sizes:
        values, levels = 1, 0
        if not isinstance(node, ScalarNode):
            for child in node.value:
                for part in child if isinstance(child, tuple) else (child,):
                    more, deeper = _check_size(part, sizes, (*parents, key))
                    values, levels = values + more, max(levels, deeper)
        if values > _MAX_VALUES:
            _refuse(node, f"has more than {_MAX_VALUES:,} values with its aliases expanded")
        if levels >= _MAX_LEVELS:
            _refuse(node, f"is nested deeper than {_MAX_LEVELS} levels")
        sizes[key] = values, levels + 1
    return sizes[key]
