"""Strict reading: no key is guessed, none is ignored, and every refusal says what would fit."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from sightline.errors import ConfigError, InputError, ModelError
from sightline.strict_config import near, read_record


@dataclass(frozen=True)
class Bulb:
    lumen: int


@dataclass(frozen=True)
class Lamp:
    name: str
    watts: float
    count: int
    lit: bool
    colour: Literal["red", "blue"]
    bulb: Bulb
    tags: tuple[str, ...] = ()
    sizes: tuple[float, ...] = ()
    note: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count must be at least 0, not {self.count}")


BULB = Bulb(800)
FITS: dict[str, Any] = {"name": "desk", "watts": 7.5, "count": 2, "lit": True, "colour": "red", "bulb": BULB}


def test_a_record_that_fits_is_read() -> None:
    everything = {**FITS, "tags": ["a", "b"], "note": "new", "files": {"a": "b"}, "metrics": {"x": [1, {"y": None}]}}
    lamp = read_record(Lamp, everything, "lamp.yaml", ConfigError)
    assert lamp == Lamp("desk", 7.5, 2, True, "red", BULB, ("a", "b"), (), "new", {"a": "b"}, {"x": [1, {"y": None}]})


def test_fields_with_a_default_may_be_absent_or_null_where_none_is_one() -> None:
    assert read_record(Lamp, FITS, "lamp.yaml", ConfigError) == Lamp("desk", 7.5, 2, True, "red", BULB)
    assert read_record(Lamp, {**FITS, "note": None}, "lamp.yaml", ConfigError).note is None


def test_a_whole_number_is_a_number() -> None:
    watts = read_record(Lamp, {**FITS, "watts": 8}, "lamp.yaml", ConfigError).watts
    assert (watts, type(watts)) == (8.0, float)


@pytest.mark.parametrize(
    ("key", "value", "needed"),
    [
        ("name", 3, "a text"),
        ("name", None, "a text"),
        ("watts", "7", "a number"),
        ("watts", True, "a number"),
        ("watts", float("nan"), "not a finite number"),
        ("watts", float("inf"), "not a finite number"),
        ("watts", 10**400, "not a finite number"),
        ("sizes", [1.0, float("nan")], "not a finite number"),
        ("sizes", [True], "a list of numbers"),
        ("count", 2.0, "a whole number"),
        ("count", True, "a whole number"),  # `threads: yes` must not become 1
        ("count", "2", "a whole number"),
        ("lit", 1, "true or false"),
        ("lit", "yes", "true or false"),
        ("colour", "reed", "not one of red, blue (did you mean red?)"),
        ("colour", ["red"], "not one of red, blue"),
        ("bulb", {"lumen": 800}, "a mapping of keys to values"),
        ("tags", "ab", "a list of texts"),
        ("tags", ["a", 1], "a list of texts"),
        ("note", 5, "a text"),
        ("files", {"a": 1}, "a mapping of texts to texts"),
        ("files", {1: "a"}, "a mapping of texts"),
        ("metrics", [1], "a mapping of texts"),
        ("metrics", None, "a mapping of texts"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_what_would(key: str, value: object, needed: str) -> None:
    with pytest.raises(ConfigError, match=rf"^lamp\.yaml: {key}: .*{re.escape(needed)}"):
        read_record(Lamp, {**FITS, key: value}, "lamp.yaml", ConfigError)


def test_an_unknown_key_is_named_with_its_neighbour_and_all_that_are_valid() -> None:
    with pytest.raises(ConfigError) as e:
        read_record(Lamp, {**FITS, "wats": 3}, "lamp.yaml", ConfigError)
    assert "lamp.yaml: unknown key 'wats' (did you mean watts?)" in str(e.value)
    for key in FITS:
        assert key in str(e.value)


@pytest.mark.parametrize("key", [1, None, True, (1, 2)])
def test_a_key_that_is_no_text_is_unknown_too(key: object) -> None:
    with pytest.raises(ConfigError, match="unknown key"):
        read_record(Lamp, {**FITS, key: 3}, "lamp.yaml", ConfigError)


def test_every_missing_key_is_named() -> None:
    some = {k: v for k, v in FITS.items() if k not in ("watts", "lit")}
    with pytest.raises(ConfigError, match="missing key 'watts', 'lit'"):
        read_record(Lamp, some, "lamp.yaml", ConfigError)


@pytest.mark.parametrize("data", [None, [], "name: desk", 3, [("name", "desk")]])
def test_only_a_mapping_is_a_record(data: object) -> None:
    with pytest.raises(ConfigError, match=r"lamp\.yaml: a mapping of keys to values is needed, found"):
        read_record(Lamp, data, "lamp.yaml", ConfigError)


def test_what_the_record_itself_refuses_is_told_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"^lamp\.yaml: count must be at least 0, not -1$"):
        read_record(Lamp, {**FITS, "count": -1}, "lamp.yaml", ConfigError)


@pytest.mark.parametrize("error", [ConfigError, ModelError])
def test_the_error_is_the_callers(error: type[InputError]) -> None:
    with pytest.raises(error):
        read_record(Lamp, {}, "lamp.yaml", error)


def test_near_names_at_most_three_and_nothing_when_nothing_resembles() -> None:
    assert near("kat", ["cat", "dog"]) == " (did you mean cat?)"
    assert near("zebra", ["cat", "dog"]) == ""
    assert near("aaaa", ["aaab", "aaac", "aaad", "aaae"]).count(",") == 2
