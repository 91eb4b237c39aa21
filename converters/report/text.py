"""Numbers as reports write them, and tables of text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    heads: list[str]
    rows: list[list[str]]


def percent(fraction: float | None) -> str:
    return "unknown" if fraction is None else f"{fraction:.2%}"


def points(drop: float | None) -> str:
    """The gain in points: a drop of 1 is -1.00."""
    return "" if drop is None else f"{0 - drop:+.2f}"


def kib(size: int) -> str:
    return f"{size / 1024:,.0f} KiB"
