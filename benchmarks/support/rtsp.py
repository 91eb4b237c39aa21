"""Starts the RTSP camera of rtsp_camera.py."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PYTHON = Path("/usr/bin/python3")  # Debian's own, which has `gi`
SCRIPT = Path(__file__).with_name("rtsp_camera.py")


def is_rtsp_installed() -> bool:
    """Whether the camera can run with all its codecs."""
    return PYTHON.exists() and all(
        subprocess.run([PYTHON, SCRIPT, "--check", "--codec", codec], capture_output=True).returncode == 0
        for codec in ("jpeg", "h264")
    )


@contextmanager
def rtsp_camera(port: int = 0, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a camera. Yields its process and its address.

    port: 0 = any free port.
    options: further ones of rtsp_camera.py.
    """
    command = [str(PYTHON), str(SCRIPT), "--port", str(port), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address.startswith("rtsp://127.0.0.1:"), "the camera did not start"
            yield process, address
        finally:
            process.kill()
