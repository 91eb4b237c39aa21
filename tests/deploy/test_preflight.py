"""The check of a device before a deployment: what is missing, and how to install it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge.deploy.preflight import DeviceFacts, check
from sightline.errors import DeviceError


def test_an_unfit_device_is_refused_with_the_reason() -> None:
    fit = DeviceFacts(
        python="/usr/bin/python3", version="3.11", bits=64, venv=True, numpy="", machine="aarch64", system="", board="",
        memory_mb=900, free_mb=9000, user="pi", home="/home/pi", groups=("video",), systemd=True, picamera2=False,
        ribbon=(), environments=(), ports=(), sudo="", refused=False, as_root=(),
    )  # fmt: skip
    check(fit, "pi@here", "caps")
    for change, message in (
        ({"bits": 32}, "32-bit"),
        ({"machine": "riscv64"}, "riscv64"),
        ({"version": "3.9"}, "has Python 3.9"),
        ({"version": ""}, "has no Python"),
        ({"venv": False}, "python3-venv"),
        ({"systemd": False}, "systemd"),
        ({"user": "root"}, "ordinary user"),
        ({"groups": ()}, "video"),
        ({"sudo": "missing"}, "sudo is not installed"),
        ({"sudo": "password"}, "password"),
    ):
        with pytest.raises(DeviceError, match=message):
            check(replace(fit, **change), "pi@here", "caps")  # type: ignore[arg-type]
