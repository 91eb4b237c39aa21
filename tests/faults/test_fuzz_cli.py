"""Bad input for the whole command line: a short, seeded part of what `python -m benchmarks.fuzz_cli` tries."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from sightline import cli
from sightline.directories import program_folder
from sightline.errors import ConfigError

CASES = 60


@pytest.mark.slow
def test_no_bad_input_ends_in_a_fault(bundle: Path, run_folder: Path, pictures: Path) -> None:
    """Of the commands that need no PyTorch; each case is a forked process, some 50 ms."""
    given = ["--bundle", str(bundle), "--run", str(run_folder), "--images", str(pictures)]
    command = [sys.executable, "-m", "benchmarks.fuzz_cli", "--seed", "8", "--cases", str(CASES), "--light", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["faults"] == 0 and done.returncode == 0, done.stdout
    assert figures["cases"] == CASES and figures["exit_codes"]["2"] > CASES / 2


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/closed/x"), 2, "error: /closed/x: Permission denied"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), 2, "File name too long"),
        (OSError(errno.ENOSPC, "No space left on device", "/full/x"), 3, "error: /full/x: No space left on device"),
        (OSError(errno.EIO, "Input/output error"), 3, "error: Input/output error"),
        (MemoryError(), 3, "too little memory"),
        (OSError("of a library"), 1, "internal error: OSError: of a library"),
        (ValueError("a fault of ours"), 1, "internal error: ValueError: a fault of ours"),
        (UnicodeEncodeError("utf-8", "x", 0, 1, "a fault of ours"), 1, "internal error: UnicodeEncodeError"),
        (RecursionError("a fault of ours"), 1, "internal error: RecursionError"),
    ],
)
def test_what_nobody_caught_says_whose_fault_it_is(
    error: Exception, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise error

    monkeypatch.setattr(cli.Group, "get_command", lambda *_: click.Command("devices", callback=fails))
    monkeypatch.setattr("sys.argv", ["sightline", "devices"])
    with pytest.raises(SystemExit) as e:
        cli.main()
    assert e.value.code == code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("run x --threshold nan", "nan is not a finite number"),
        ("run x --max-fps nan", "nan is not a finite number"),
        ("run x --max-fps 1e-320", "neither 0 nor at least 0.001"),
        ("run x --motion nan", "nan is not a finite number"),
        ("run x --mqtt-images nan", "nan is not a finite number"),
        ("run x --mqtt-images inf", "is not in the range"),
        ("run x --outbox /", "--outbox /: is a folder; a file is needed"),
        ("run x --frames 99999999999999999999", "is not in the range"),
        ("bench x --noise nan", "nan is not a finite number"),
        ("bench x --sustained inf", "is not in the range"),
        ("convert x --device desktop --out y.bundle --max-drop nan", "nan is not a finite number"),
        ("train x --out y --learning-rate nan", "nan is not a finite number"),
        ("train x --out y --seed -1", "is not in the range"),
        ("deploy x --to a@b --trial nan", "nan is not a finite number"),
    ],
)
def test_a_number_that_no_comparison_finds_is_refused(
    arguments: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["sightline", *arguments.split()])
    with pytest.raises(SystemExit) as e:
        cli.main()
    assert e.value.code == 2 and words in capsys.readouterr().err


def test_a_user_without_a_home_is_told_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    def without() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", without)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    for kind, option in (("state", "--outbox"), ("config", "--page-token-file"), ("cache", "--runtime-dir")):
        monkeypatch.delenv(f"XDG_{kind.upper()}_HOME", raising=False)
        with pytest.raises(ConfigError, match=f"no home folder.* {option}"):
            program_folder(kind, option)  # type: ignore[arg-type]


def test_a_service_keeps_its_files_in_its_own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}:/var/lib/other")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert (
        program_folder("state", "--outbox", subfolder="pi") == program_folder("config", "--page-token-file") == tmp_path
    )
    assert program_folder("cache", "--runtime-dir") == tmp_path / "cache" / "sightline"
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert program_folder("state", "--outbox", subfolder="pi") == tmp_path / "state" / "sightline" / "pi"


def test_an_argument_that_is_no_utf8_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["sightline", "inspect", "caf\udce9"])
    with pytest.raises(SystemExit) as e:
        cli.main()
    assert e.value.code == 2 and "is not UTF-8 text" in capsys.readouterr().err
