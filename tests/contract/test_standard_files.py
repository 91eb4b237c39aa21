"""stdout and stderr that are closed, full, stopped or gone, and Ctrl-C at any moment: a defined end, no traceback."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sightline.child import python
from sightline.stderr import Stderr


def shell(line: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`line` of a shell, in which "$@" is sightline with these arguments."""
    command = ["bash", "-c", line, "bash", *python("sightline", *map(str, arguments))]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_closed_stdout_costs_the_output() -> None:
    done = shell('"$@" >&-', "--help")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_stdout_is_a_fault_of_the_machine() -> None:
    done = shell('"$@" >/dev/full', "devices")
    assert (done.returncode, done.stderr) == (3, "error: standard output: No space left on device\n")


def test_a_reader_of_stdout_that_leaves_has_what_it_wanted() -> None:
    done = shell('"$@" | true; echo ${PIPESTATUS[0]}', "devices")
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize("line", ['"$@" 2>&-', '"$@" 2>/dev/full', '"$@" 2> >(true)'])
def test_a_stderr_that_takes_nothing_does_not_change_the_exit_code(line: str) -> None:
    done = shell(f"sleep 0.1; {line}", "run", "absent.bundle", "--source", "test:")
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("line", ['"$@" 2>&-', '"$@" 2>/dev/full', '"$@" 2> >(true)'])
def test_a_stderr_that_takes_nothing_costs_the_agent_nothing(line: str, bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    done = shell(line, "run", bundle, "--source", "test:64x48@50", "--frames", 20, "--no-page", "--output", output)
    assert done.returncode == 0
    assert output.read_text().count('"ok"') >= 20


def test_a_stderr_that_is_full_costs_the_agent_nothing(bundle: Path, tmp_path: Path, pipe: tuple[int, int]) -> None:
    """As of a terminal that somebody stopped with Ctrl-S."""
    _, writer = pipe
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    output = tmp_path / "out.jsonl"
    command = python("sightline", "run", str(bundle), "--source", "test:64x48@50", "--frames", "20", "--no-page")
    done = subprocess.run([*command, "--output", str(output)], stdout=-3, stderr=writer, timeout=30)
    assert done.returncode == 0
    assert output.read_text().count('"ok"') >= 20


def test_what_is_opened_while_stderr_is_closed_is_not_written_to(bundle: Path, tmp_path: Path) -> None:
    """Libraries in C write to descriptor 2, whatever that is."""
    output = tmp_path / "out.jsonl"
    shell('"$@" 2>&- <&-', "run", bundle, "--source", "test:", "--frames", 5, "--no-page", "--output", output)
    assert all(line.startswith("{") for line in output.read_text().splitlines())


@pytest.mark.slow
def test_ctrl_c_at_any_moment_is_no_traceback(bundle: Path) -> None:
    # pytest-xdist's processes ignore Ctrl-C, and what they start would as well
    command = [
        "env",
        "--default-signal=INT",
        *python("sightline", "run", str(bundle), "--source", "test:", "--no-page"),
    ]
    for wait in range(40, 400, 40):  # ms; the interpreter itself needs some 30
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            time.sleep(wait / 1000)
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=20)
        if "init_import_site" in told:  # a loaded machine: Python had not come to our first line yet
            continue
        assert "Traceback" not in told, f"after {wait} ms: {told}"
        # while it imports, the signal itself ends it, which a shell calls 130
        assert process.returncode in (0, 130, -signal.SIGINT), f"after {wait} ms: {told}"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        os.close(fd)


def test_a_reader_that_stops_costs_lines_and_is_told_how_many(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    out = Stderr(writer, patience_s=0.05)
    out.never_wait()
    line = "x" * 999 + "\n"
    for _ in range(1000):
        out.write(line)  # would never come back
    assert not out.drain(), "the reader takes nothing"
    first = os.read(reader, 1 << 16)
    while not first.endswith(b"\n"):
        first += os.read(reader, 1000)
    found = first + read_all_of(out, reader)
    whole = found.count(line.encode())
    assert 60 < whole < 200, "a pipe, and as much again"
    assert f"warning: {1000 - whole} lines of stderr are lost: nobody reads it\n".encode() in found


def read_all_of(out: Stderr, reader: int) -> bytes:
    """What waits, and a last line."""
    os.set_blocking(reader, False)
    found = b""
    until = time.monotonic() + 5
    written = False
    while not found.endswith(b"last\n"):
        assert time.monotonic() < until, found[-300:]
        try:
            found += os.read(reader, 1 << 16)
        except BlockingIOError:
            if not written and out.drain():
                out.write("last\n")
                written = True
            time.sleep(0.005)
    return found


def test_a_reader_that_leaves_raises_nothing_and_ends_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    out = Stderr(writer)
    print("nobody hears this", file=out, flush=True)
    out.never_wait()
    print("nor this", file=out, flush=True)
    out.drain()
    os.close(out.fileno())
    os.close(writer)
