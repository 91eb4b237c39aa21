"""The check of `make check` for old words: it reports them in each kind of text, and leaves good text alone."""

import click
import pytest

from tools.plain_words import (
    NOT_CLEAN_YET,
    document_faults,
    help_faults,
    is_below,
    message_faults,
    repository_faults,
)

GOOD = "Maximum size of the snapshot folder in MB. The oldest snapshots are deleted first."


def command_with(help_text: str | None) -> click.Command:
    return click.Command("go", params=[click.Option(["--size"], help=help_text)], help="Go somewhere.")


def reasons(help_text: str | None) -> list[str]:
    command = command_with(help_text)
    return [fault.reason for fault in help_faults(command, click.Context(command), "tool go")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Of it; the oldest go.", "start with"),
        ("Such as 'Authorization: Bearer'.", "start with"),
        ("The same by age; 0 = never.", "start with"),
        ("Key of it.", "name the thing"),
        ("Maximum size of the folder", "full stop"),
        ("maximum size of the folder.", "capital"),
        ("Labelled pictures for a run.", "image"),
        ("Stop after so many frames.", "number"),
        ("Start it anew when it is stuck.", "again"),
        ("Who comes and goes in a zone.", "thing that acts"),
        ("Nothing.", "whole sentence"),
        (None, "no help text"),
    ],
)
def test_a_bad_help_text_is_reported(text: str | None, reason: str) -> None:
    assert any(reason in one for one in reasons(text)), reasons(text)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"{GOOD}  [default: 500]",
        "Quantization scheme. You can pass this option more than once (the first one is the default).",
        "Raspberry Pi camera, read with picamera2. Raspberry Pi Imager installs its system.",
        "Number of predictions. 0 means as many as there are.",
        "classify: one label per image. detect: bounding boxes.",
    ],
)
def test_a_good_help_text_is_not(text: str) -> None:
    assert not reasons(text)


def test_subcommands_and_their_own_texts_are_walked() -> None:
    group = click.Group("tool", help="Tools.", commands={"go": click.Command("go", help="Look at pictures.")})
    places = {fault.place for fault in help_faults(group, click.Context(group), "tool")}
    assert places == {"tool go --help"}


@pytest.mark.parametrize(
    "line",
    [
        "raise DataError(f'{path}: holds no pictures')",
        "raise self.error(path, 'holds no pictures')",
        "click.echo(f'{number} pictures')",
        "state = Cause('no_frame', 'the camera gives no picture')",
        "log.warning('the picture of %s', name)",
        "raise DataError('a' if one else f'{x or \"picture\"}')",
    ],
)
def test_an_old_word_in_a_message_is_reported_with_its_line(line: str) -> None:
    (fault,) = message_faults("a.py", f"path = 1\n{line}\n")
    assert fault.place == "a.py:2"
    assert "picture" in fault.text


def test_names_comments_and_other_strings_are_not_messages() -> None:
    assert not list(message_faults("a.py", '"""A picture."""\npictures = read("picture")  # of a picture\n'))


def test_an_old_word_in_a_page_is_reported_with_its_line() -> None:
    page = "# Title\n\nThe agent looks at a picture.\n"
    assert {fault.place for fault in document_faults("a.md", page)} == {"a.md:3"}


def test_two_sentences_on_a_line_are_reported_but_not_in_tables() -> None:
    assert [fault.place for fault in document_faults("a.md", "One idea. Another idea.\n")] == ["a.md:1"]
    assert not list(document_faults("a.md", "1. One idea.\n   Another idea.\n\n| One idea. Another idea. |\n"))


def test_code_in_a_page_is_not_prose() -> None:
    page = "Use `--mqtt-pictures` ([here](pictures.md)).\n\n```\nls pictures. Then go.\n```\n"
    assert not list(document_faults("a.md", page))


def test_an_entry_covers_its_place_and_what_is_below() -> None:
    assert is_below("sightline run --top", "sightline run")
    assert is_below("edge/app.py:3", "edge/app.py")
    assert is_below("edge/app.py:3", "edge/")
    assert not is_below("sightline running", "sightline run")
    assert not is_below("edges/app.py:3", "edge")


@pytest.mark.parametrize("name", ["Picamera2", "Raspberry Pi Imager", "MediaPipe Image Classifier", "libcamera-still"])
def test_names_of_other_products_are_left_alone(name: str) -> None:
    assert not list(document_faults("a.md", f"Install {name} first.\n"))


def test_this_repository_is_clean() -> None:
    """What is not clean yet is in the list."""
    assert not [f for f in repository_faults() if not any(is_below(f.place, entry) for entry in NOT_CLEAN_YET)]
