"""Three kinds of charts as inline SVG, which needs no script and no library in the page."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WIDTH = 960  # of a chart, in SVG units
MAX_BAR = 60.0  # highest value of a bar: an op without any noise would dwarf the others


def bars(values: Sequence[float], titles: Sequence[str], unit: str, low_is_bad: float) -> str:
    """A bar for each value, from 0. Values under `low_is_bad` are highlighted. A bar shows its title on hover."""
    height, left = 220, 40
    top = min(max(*values, low_is_bad, 1.0), MAX_BAR)
    step = (WIDTH - left) / max(len(values), 1)
    parts = []
    for tick in range(0, int(top) + 1, 10):
        y = height - height * tick / top
        parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>')
    for i, (value, title) in enumerate(zip(values, titles, strict=True)):
        bar = height * max(min(value, top), 0) / top
        style = "bad" if value < low_is_bad else "bar"
        parts.append(
            f'<rect class="{style}" x="{left + i * step:.1f}" y="{height - bar:.1f}" width="{max(step - 1, 1):.1f}" '
            f'height="{bar:.1f}"><title>{html.escape(title)}: {value:.1f} {unit}</title></rect>'
        )
    return _svg("".join(parts), height + 4)


def histogram(samples: NDArray[np.float32], low: float, high: float) -> str:
    """How often each value occurs, on a logarithmic scale. The range from `low` to `high` is marked."""
    height, width = 120, 300
    first, last = min(float(samples.min()), low), max(float(samples.max()), high)
    span = (last - first) or 1.0
    counts, _ = np.histogram(samples, 75, (first, first + span))
    heights = np.log1p(counts) / np.log1p(counts.max())
    step = width / len(counts)
    x0, x1 = (width * (edge - first) / span for edge in (low, high))
    shape = "".join(
        f'<rect class="bar" x="{i * step:.1f}" y="{height - height * t:.1f}" width="{step:.1f}" '
        f'height="{height * t:.1f}"/>'
        for i, t in enumerate(heights)
    )
    marks = "".join(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"/>' for x in (x0, x1))
    return _svg(shape + marks, height, width)


def curves(x: NDArray[np.float64], lines: Sequence[tuple[str, NDArray[np.float64]]]) -> str:
    """Lines over `x`, both from 0 to 1. Of several lines the first is dashed. A line shows its title on hover."""
    height, width = 200, 300
    parts = [
        f'<line class="grid" x1="0" x2="{width}" y1="{height * k / 4:.0f}" y2="{height * k / 4:.0f}"/>'
        f'<line class="grid" y1="0" y2="{height}" x1="{width * k / 4:.0f}" x2="{width * k / 4:.0f}"/>'
        for k in range(5)
    ]
    for i, (title, y) in enumerate(lines):
        points = " ".join(f"{width * a:.1f},{height * (1 - b):.1f}" for a, b in zip(x, y, strict=True))
        dash = ' stroke-dasharray="6 4"' if i == 0 and len(lines) > 1 else ""
        parts.append(
            f'<polyline class="line l{i % 4}"{dash} points="{points}"><title>{html.escape(title)}</title></polyline>'
        )
    return _svg("".join(parts), height, width)


def _svg(content: str, height: int, width: int = WIDTH) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img">{content}</svg>'
