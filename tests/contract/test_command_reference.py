"""docs/commands.md is the help of the commands as they are."""

from __future__ import annotations

from tools.command_reference import PAGE, reference


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: python -m tools.command_reference"
