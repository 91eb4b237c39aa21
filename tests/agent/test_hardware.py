"""The description of machines that are not here, from copies of their files and their kernels' replies."""

from __future__ import annotations

import errno
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from edge.capture.sources.v4l2 import Node
from edge.cli.devices import describe
from edge.system.hardware import Hardware, Ioctl, read_hardware
from tests.conftest import Sightline

# v4l2-ctl --list-formats-ext of a Logitech C920, shortened: {format: {size: rates}}
C920 = {"YUYV": {(640, 480): (30, 15), (1920, 1080): (5,)}, "MJPG": {(640, 480): (30,), (1920, 1080): (30, 24, 15)}}
TRIXIE = 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nNAME="Debian GNU/Linux"\nVERSION_ID="13"\n'


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def kernel(offers: dict[str, dict[tuple[int, int], tuple[int, ...]]]) -> Any:
    """Answer V4L2's enumerations as a driver does: EINVAL ends each."""

    def ioctl(fd: int, request: int, question: bytes) -> bytes:
        assert len(question) == request >> 16 & 0x3FFF, "the size that the request encodes"
        names = list(offers)
        code = lambda name: struct.unpack("<I", name.encode())[0]  # noqa: E731
        numbers = struct.unpack(f"<{len(question) // 4}I", question)
        try:
            if request & 0xFF == 2:
                name = names[numbers[0]]
                return struct.pack("<3I32s5I", numbers[0], 1, 0, b"words", code(name), 0, 0, 0, 0)
            sizes = offers[next(n for n in names if code(n) == numbers[1])]
            if request & 0xFF == 0x4A:
                size = list(sizes)[numbers[0]]
                return struct.pack("<11I", *numbers[:2], 1, *size, 0, 0, 0, 0, 0, 0)
            rate = sizes[numbers[2], numbers[3]][numbers[0]]
            return struct.pack("<13I", *numbers[:4], 1, 1, rate, 0, 0, 0, 0, 0, 0)
        except IndexError:
            raise OSError(errno.EINVAL, "Invalid argument") from None

    return ioctl


@pytest.fixture
def pi5(tmp_path: Path) -> Path:
    root = write(
        tmp_path,
        {
            "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            "proc/meminfo": "MemTotal:        8256192 kB\nMemFree:  1 kB\n",
            "etc/os-release": TRIXIE,
            "sys/class/thermal/thermal_zone0/temp": "48000\n",
            "sys/class/video4linux/v4l-subdev0/name": "imx708_wide\n",
            "sys/class/video4linux/v4l-subdev1/name": "pisp-fe\n",
            "usr/lib/python3/dist-packages/picamera2/__init__.py": "",
            "sys/bus/usb/devices/1-1/idVendor": "1a6e\n",
            "sys/bus/usb/devices/1-1/idProduct": "089a\n",
            "sys/bus/usb/devices/2-1/idVendor": "046d\n",
            "sys/bus/usb/devices/2-1/idProduct": "082d\n",
            "dev/video0": "",
            "dev/video1": "",
        },
    )
    by_id = root / "dev/v4l/by-id"
    by_id.mkdir(parents=True)
    (by_id / "usb-046d_HD_Pro_Webcam_C920-video-index0").symlink_to("../../video0")
    return root


def webcam(path: Path) -> Node:
    """A C920 has two nodes, and delivers images from the first."""
    return Node("uvcvideo", "HD Pro Webcam C920", path.name == "video0")


def read_with_webcam(root: Path, ioctl: Ioctl) -> Hardware:
    return read_hardware(root, ioctl, webcam)


def test_a_raspberry_pi_5_with_everything(pi5: Path) -> None:
    here = read_with_webcam(pi5, kernel(C920))
    assert here.board == "Raspberry Pi 5 Model B Rev 1.0" and here.device == "raspberry_pi_5"
    assert here.memory_mb == 8062 and here.system == "Debian GNU/Linux 13 (trixie)" and not here.problems
    usb, ribbon = here.cameras
    assert usb.source.endswith("by-id/usb-046d_HD_Pro_Webcam_C920-video-index0")
    assert set(usb.formats) == {"MJPG 1920x1080 30", "YUYV 1920x1080 5"}
    assert (ribbon.source, ribbon.name, ribbon.problem) == ("picamera", "imx708_wide", "")
    (coral,) = here.accelerators
    assert coral.device == "coral_usb" and "libedgetpu" in coral.problem, "it is not installed here"
    text = "\n".join(describe(here))
    for words in ("Raspberry Pi 5", "7.9 GiB", "--device raspberry_pi_5", "MJPG 1920x1080 30", "--source picamera"):
        assert words in text


def test_problems_are_reported(pi5: Path) -> None:
    write(
        pi5,
        {
            "sys/class/thermal/thermal_zone0/temp": "82500\n",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
        },
    )

    def refuse(path: Path) -> Node:
        raise PermissionError(errno.EACCES, "Permission denied")

    here = read_hardware(pi5, kernel(C920), refuse, architecture="armv7l")
    text = "\n".join(here.problems)
    assert "undervoltage now" in text and "throttled now" in text and "82 °C" in text and "32-bit" in text
    assert "usermod -aG video" in here.cameras[0].problem


@pytest.mark.parametrize(
    ("model", "device"),
    [
        ("Raspberry Pi 4 Model B Rev 1.5", "raspberry_pi_4"),
        ("Raspberry Pi Compute Module 4 Rev 1.1", "raspberry_pi_4"),
        ("Raspberry Pi Zero 2 W Rev 1.0", "raspberry_pi_zero_2w"),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", "raspberry_pi_zero_2w"),
        ("Freescale i.MX8MQ Phanbell", "coral_dev_board"),
        ("Radxa ROCK 5B", "desktop"),
    ],
)
def test_the_board_selects_the_device_config(model: str, device: str, tmp_path: Path) -> None:
    assert read_hardware(write(tmp_path, {"proc/device-tree/model": model + "\0"})).device == device


def test_a_machine_without_any_information_is_no_error(tmp_path: Path) -> None:
    here = read_hardware(tmp_path)
    assert here.cameras == () and here.accelerators == () and here.memory_mb == 0 and here.board
    assert "cameras        none" in describe(here)


def test_a_driver_whose_list_never_ends_is_cut_off(pi5: Path) -> None:
    def ioctl(fd: int, request: int, question: bytes) -> bytes:
        return struct.pack("<I", 0) * (len(question) // 4)

    assert read_with_webcam(pi5, ioctl).cameras[0].source


def test_the_command(sightline: Sightline) -> None:
    done = sightline("devices", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["machine"]["device"] in report["devices"]
    assert "* fits this machine" in sightline("devices").stdout
