"""What others have written, on a terminal."""

from __future__ import annotations

import pytest

from sightline.text import printable
from tests.conftest import Sightline


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Dübendorf 鳥 🦊", "Dübendorf 鳥 🦊"),
        ("two\nlines", "two\nlines"),
        ("\x1b]0;title\x07red\x1b[31m", "\\x1b]0;title\\x07red\\x1b[31m"),
        ("a\rb\tc\x9b", "a\\rb\\tc\\x9b"),
        ("abc\u202egpj.exe", "abc\\u202egpj.exe"),
        ("\udcff", "\\udcff"),
    ],
)
def test_a_terminal_has_nothing_to_obey(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_an_error_quotes_no_control_character(sightline: Sightline) -> None:
    done = sightline("run", "\x1b[31mred.bundle", "--source", "0")
    assert done.returncode == 2 and "\\x1b[31mred.bundle" in done.stderr and "\x1b" not in done.stderr
