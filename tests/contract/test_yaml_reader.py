"""YAML is data of a bounded size: what is not is refused with the file and the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.errors import ConfigError
from sightline.yaml_reader import read_yaml

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 3000))


def read(tmp_path: Path, text: str | bytes) -> object:
    path = tmp_path / "a.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(path, ConfigError)


def test_what_is_data_is_read(tmp_path: Path) -> None:
    text = "\ufeffnames: {0: cap, 1: '2026-11-25'}\nlist: [1, 2.5, true, null, 0x1f]\nx: &x {a: 1}\ny: {<<: *x, a: 2}\n"
    assert read(tmp_path, text) == {
        "names": {0: "cap", 1: "2026-11-25"},
        "list": [1, 2.5, True, None, 31],
        "x": {"a": 1},
        "y": {"a": 2},
    }
    assert read(tmp_path, "") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, r"line \d+: has more than 200,000 values with its aliases expanded"),
        (CHAIN, "is nested deeper than 40 levels"),
        ("a: &a [*a]", "line 1: contains itself"),
        ("[" * 5000, "line 1: is nested deeper than 40 levels"),
        ("a: " + "{b: " * 100 + "}" * 100, "is nested deeper than 40 levels"),
        ("ok: 1\na: 2026-13-45", "line 2: 2026-13-45 is read as a date; put it in quotes"),
        ("a: 2026-11-25 10:00:00", "is read as a date"),
        ("a: 1\nb: 2\na: 3", "line 3: 'a' is there twice; the first is in line 1"),
        ("1: a\n'1': b", "line 2: '1' is there twice"),
        ("a: !!binary aGk=", "line 1: tag:yaml.org,2002:binary is not supported"),
        ("a: !!set {x}", "is not supported"),
        ("a: !!python/object/apply:os.system [ls]", "is not supported"),
        ('a: "\\ud800"', "half of a surrogate pair"),
        ('a: "\\0"', "zero byte"),
        ("a: !!int x", "'x' is not of type int"),
        ("a: !!float x", "'x' is not of type float"),
        ("a: " + "9" * 5000, "a number of 5000 digits"),
        ("a: [1", "not valid YAML: line"),
        ("a: 1\n--- \nb: 2", "not valid YAML: line 2"),
        ("{[1]: 2}", "not valid YAML"),
        ("a: b\x07", "not valid YAML"),
        (b"a: 1\nb: caf\xe9\n", r"line 2: not UTF-8 \(byte 0xe9\)\. Save it as UTF-8"),
        ("# " + "x" * (1 << 20), "is larger than 1,048,576 bytes"),
    ],
)
def test_what_is_not_is_refused_with_its_line(text: str | bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words) as e:
        read(tmp_path, text)
    assert str(e.value).startswith(str(tmp_path / "a.yaml"))
