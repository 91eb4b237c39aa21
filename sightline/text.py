"""Text of others for a terminal: labels of a model, names of cameras, what another machine says."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with all that a terminal would obey or not show escaped, such as ESC as `\\x1b`; line breaks stay."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """The same, with line breaks escaped as well: nobody can write a line of their own into what others read."""
    return printable(text).replace("\n", "\\n")
