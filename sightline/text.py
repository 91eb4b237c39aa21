"""Text of others for a terminal: labels of a model, names of cameras, what another machine says."""

from __future__ import annotations

import re
from collections.abc import Sequence


def printable(text: str) -> str:
    """The text with all that a terminal would obey or not show escaped, such as ESC as `\\x1b`; line breaks stay."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """The same, with line breaks escaped as well: nobody can write a line of their own into what others read."""
    return printable(text).replace("\n", "\\n")


def slug(text: str) -> str:
    """Letters, digits, `_` and `-` alone, at most 40: for file names and topics, whatever a name has in it."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:40].strip("_") or "_"


def slugs(names: Sequence[str]) -> dict[str, str]:
    """One for each name, and no two the same."""
    taken: dict[str, str] = {}
    for name in names:
        base = text = slug(name)
        number = 1
        while text in taken.values():
            number += 1
            text = f"{base}_{number}"
        taken[name] = text
    return taken
