"""The progress of reading images, for a terminal."""

from __future__ import annotations

import sys

import click

_STEP = 20  # images between two updates


class ProgressBar:
    """A line that is written over and over on a terminal. Elsewhere it writes nothing."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        if self.terminal and (done == total or done % _STEP == 0):
            end = "\r\x1b[2K" if done == total else "\r"
            click.echo(f"reading {done}/{total}{end}", nl=False, err=True)
