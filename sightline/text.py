"""Makes foreign text safe for a terminal or a file name: labels, camera names, output of other machines."""

from __future__ import annotations

import re
from collections.abc import Sequence


def printable(text: str) -> str:
    """The text with control characters escaped, such as ESC as `\\x1b`. Line breaks stay."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """Like `printable`, with line breaks escaped too: the text cannot add a line of its own to a log."""
    return printable(text).replace("\n", "\\n")


def slug(text: str) -> str:
    """At most 40 letters, digits, `_` and `-`, for file names and topics."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:40].strip("_") or "_"


def slugs(names: Sequence[str]) -> dict[str, str]:
    """A unique slug for each name."""
    taken: dict[str, str] = {}
    for name in names:
        base = text = slug(name)
        number = 1
        while text in taken.values():
            number += 1
            text = f"{base}_{number}"
        taken[name] = text
    return taken
