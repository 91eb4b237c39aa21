"""The command line's kinds of values: what could only fail later is refused at once, and says which option it is."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path

import click
import pytest

from sightline.errors import ConfigError
from sightline.option_types import NEW_FILE, NEW_FOLDER, READ, READ_FILE, SEED, Number, PathName, Whole


def given(kind: click.ParamType, value: object) -> object:  # type: ignore[type-arg]
    return kind.convert(value, click.Option(["--here"]), None)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("nan", "not a finite number"),
        ("inf", "not in the range|not a finite number"),
        ("1e400", "not in the range|not a finite number"),
        (10**400, "not in the range|not a finite number"),
        ("1e-320", "neither 0 nor at least 0.001"),
        ("-1", "not in the range"),
        ("x", "not a valid"),
    ],
)
def test_a_number_that_is_none(value: object, why: str) -> None:
    with pytest.raises(click.BadParameter, match=why):
        given(Number(0, 1000, least=0.001), value)


def test_numbers_that_are() -> None:
    kind = Number(0, 1000, least=0.001)
    assert [given(kind, v) for v in ("0", "0.5", 7, "1e3")] == [0, 0.5, 7, 1000]
    assert given(Whole(1), "3") == 3


@pytest.mark.parametrize("value", ["9" * 5000, str(2**31), 2.7, float("nan"), float("inf"), "-1", "x"])
def test_a_whole_number_that_is_none(value: object) -> None:
    with pytest.raises(click.BadParameter):
        given(Whole(0), value)


def test_a_seed_that_no_library_takes() -> None:
    with pytest.raises(click.BadParameter):
        given(SEED, "-1")
    assert given(SEED, "4294967295") == 4294967295


def special(folder: Path) -> dict[str, Path]:
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(folder / "socket"))
    (folder / "file").write_text("x")
    (folder / "loop").symlink_to(folder / "loop")
    return {name: folder / name for name in ("pipe", "socket", "file", "loop")} | {"folder": folder}


@pytest.mark.parametrize(
    ("kind", "value", "why"),
    [
        (READ, "", "the path is empty"),
        (READ, 5, "--here 5: a path is needed"),
        (READ, "x\0y", "cannot be a path"),
        (READ, "x" * 300, "File name too long"),
        (READ, "x/" * 5000, "File name too long"),
        (NEW_FILE, "x" * 300, "File name too long"),
        (NEW_FILE, "x" * 240, "File name too long"),  # what is written beside it first has a longer name
        (READ, "loop", "Too many levels of symbolic links"),
        (READ, "pipe", "is neither a file nor a folder"),
        (READ, "socket", "is neither a file nor a folder"),
        (READ_FILE, "folder", "is a folder; a file is needed"),
        (READ_FILE, "absent", "No such file"),
        (READ_FILE, "file/absent", "Not a directory"),
        (NEW_FILE, "folder", "is a folder; a file is needed"),
        (NEW_FOLDER, "file", "is a file; a folder is needed"),
    ],
)
def test_a_path_that_nothing_can_be_done_with(
    kind: PathName, value: object, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    special(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=why) as e:
        given(kind, "." if value == "folder" else value)
    assert "--here" in str(e.value) and len(str(e.value)) < 400


@pytest.mark.parametrize(("kind", "names"), [(READ, ["file", "folder", "absent"]), (NEW_FILE, ["pipe", "absent"])])
def test_paths_that_are_possible(kind: PathName, names: Sequence[str], tmp_path: Path) -> None:
    paths = special(tmp_path)
    for name in names:
        path = paths.get(name, tmp_path / name)
        assert given(kind, str(path)) == path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take its own rights away and get them back")
def test_what_this_user_may_not_read(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "file").write_text("x")
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(0o600)
    here = Path.cwd()
    os.chdir(tmp_path)  # the folders above are closed to others, too
    os.setegid(65534)
    os.seteuid(65534)
    try:
        with pytest.raises(ConfigError, match="Permission denied"):
            given(READ, "closed/file")
        with pytest.raises(ConfigError, match="Permission denied"):
            given(NEW_FILE, "closed/absent")
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.chdir(here)
