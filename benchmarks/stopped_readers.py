"""Memory cost of a reader that has stopped: `python -m benchmarks.stopped_readers [SECONDS]`.

The agent runs on a test pattern of 640x480 at 60 frames a second. Its stdout, its stderr, or a FIFO of --output is open
and never read. It prints one JSON line for each: resident memory in MB after SECONDS (20), and its ratio to that of an
agent whose readers read. The ratio must stay below 1.5.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.agent import SIGHTLINE, make_bundle, show

READERS = ("stdout", "stderr", "output")


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    with tempfile.TemporaryDirectory(prefix="sightline-stopped-") as name:
        bundle, fifo = make_bundle(Path(name)), Path(name) / "fifo"
        os.mkfifo(fifo)
        normal = resident(bundle, Path("/dev/null"), "", seconds)
        show("stopped readers/none", rss_mb=normal)
        for stopped in READERS:
            rss = resident(bundle, fifo if stopped == "output" else Path("/dev/null"), stopped, seconds)
            show(f"stopped readers/{stopped}", ratio=rss / normal, rss_mb=rss)


def resident(bundle: Path, output: Path, stopped: str, seconds: float) -> float:
    """Resident memory of the agent in MB after `seconds`.

    stopped: one of READERS; '' = none.
    """
    read, write = full_pipe()
    held = os.open(output, os.O_RDWR) if output.is_fifo() else None
    command = [*SIGHTLINE, "run", str(bundle), "--source", "test:640x480@60", "--json", "--no-page"]
    streams = {s: write if stopped == s else subprocess.DEVNULL for s in ("stdout", "stderr")}
    with subprocess.Popen([*command, f"--output={output}"], **streams) as process:
        try:
            time.sleep(seconds)
            assert process.poll() is None, f"the agent exited with {process.returncode}"
            status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
        finally:
            process.kill()
    for fd in (read, write, held):
        if fd is not None:
            os.close(fd)
    return int(status["VmRSS"].split()[0]) / 1024


def full_pipe() -> tuple[int, int]:
    """(read end, write end) of a pipe that is full."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, bytes(4096))
    except BlockingIOError:
        os.set_blocking(write, True)
    return read, write


if __name__ == "__main__":
    main()
