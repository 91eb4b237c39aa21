"""What a reader that has stopped costs: `python -m benchmarks.stopped_readers [SECONDS]`.

The agent looks at a test pattern of 640x480, 60 frames a second, and results go to stdout, stderr's log or a FIFO of
--output that is open and never read. Resident memory in MB after SECONDS (20), and how many times that of the same
agent whose readers read. One JSON line each; the ratio must stay below 1.5.
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
    """MB of the agent after so long. stopped: which of READERS."""
    read, write = full_pipe()
    held = os.open(output, os.O_RDWR) if output.is_fifo() else None
    command = [*SIGHTLINE, "run", str(bundle), "--source", "test:640x480@60", "--json", "--no-page"]
    streams = {s: write if stopped == s else subprocess.DEVNULL for s in ("stdout", "stderr")}
    with subprocess.Popen([*command, f"--output={output}"], **streams) as process:
        try:
            time.sleep(seconds)
            assert process.poll() is None, f"the agent ended with {process.returncode}"
            status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
        finally:
            process.kill()
    for fd in (read, write, held):
        if fd is not None:
            os.close(fd)
    return int(status["VmRSS"].split()[0]) / 1024


def full_pipe() -> tuple[int, int]:
    """(reading end, writing end) of a pipe that takes nothing any more."""
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
