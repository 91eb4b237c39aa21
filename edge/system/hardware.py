"""What this machine is: board, memory, system, cameras with their formats, accelerators, as the kernel says it."""

from __future__ import annotations

import contextlib
import ctypes.util
import fcntl
import os
import platform
import re
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge.capture.sources.v4l2 import RASPBERRY_PI_PORT, Node, ask
from edge.system.machine import read_machine

Ioctl = Callable[[int, int, bytes], bytes]

# <linux/videodev2.h>
_ENUM_FMT, _ENUM_FRAMESIZES, _ENUM_FRAMEINTERVALS = 0xC0405602, 0xC02C564A, 0xC034564B
_FORMAT = struct.Struct("3I32s5I")  # index, type, flags, description, pixelformat, mbus_code, reserved
_SIZE = struct.Struct("9I8x")  # index, pixelformat, type, then width and height, or a range of them
_INTERVAL = struct.Struct("11I8x")  # index, pixelformat, width, height, type, then a fraction, or a range of them
_CAPTURE, _DISCRETE = 1, 1
_MOST = 64  # of formats, sizes and rates: a driver that never ends is not listened to

_CORAL_USB = {"1a6e:089a": "plugged in, not used yet", "18d1:9302": "in use or used before"}
_BOARDS = (  # of /proc/device-tree/model, and the config that fits
    (r"Raspberry Pi 5|Raspberry Pi 500|Compute Module 5", "raspberry_pi_5"),
    (r"Raspberry Pi 4|Raspberry Pi 400|Compute Module 4", "raspberry_pi_4"),
    (r"Raspberry Pi Zero 2|Raspberry Pi 3|Compute Module 3", "raspberry_pi_zero_2w"),
    (r"Coral|Phanbell", "coral_dev_board"),
)


@dataclass(frozen=True)
class Camera:
    """source: as `--source` takes it. formats: such as 'MJPG 1920x1080 30', the largest first."""

    source: str
    name: str
    formats: tuple[str, ...]
    problem: str = ""


@dataclass(frozen=True)
class Accelerator:
    """device: the config that uses it; '' where none does. problem: why it cannot be used now."""

    name: str
    device: str
    problem: str = ""


@dataclass(frozen=True)
class Hardware:
    """board: as it calls itself. memory_mb: in all. fits: the config for it without an accelerator. problems: what is
    wrong with the machine itself."""

    board: str
    cores: int
    memory_mb: int
    system: str
    architecture: str
    python: str
    fits: str
    cameras: tuple[Camera, ...]
    accelerators: tuple[Accelerator, ...]
    problems: tuple[str, ...]


def read_hardware(root: Path = Path("/"), ioctl: Ioctl = fcntl.ioctl) -> Hardware:
    """root, ioctl: others for tests."""
    board = _text(root / "proc/device-tree/model") or _text(root / "sys/class/dmi/id/product_name")
    machine = read_machine(root)
    problems = [
        f"{what.replace('_', ' ')} {'now' if now else 'since it was started'}"
        for what, (now, once) in machine.power.items()
        if now or once
    ]
    if machine.celsius is not None and machine.celsius >= 80:
        problems.append(f"{machine.celsius:.0f} °C: it will slow down")
    architecture = platform.machine()
    if architecture in ("armv7l", "armv6l") or sys.maxsize < 2**32:
        problems.append("a 32-bit system: LiteRT's wheels are for 64-bit ones alone; install Raspberry Pi OS (64-bit)")
    memory = re.search(r"MemTotal:\s+(\d+) kB", _text(root / "proc/meminfo"))
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', _text(root / "etc/os-release"), re.MULTILINE))
    return Hardware(
        board=board or f"a computer of kind {architecture}",
        cores=os.cpu_count() or 1,
        memory_mb=int(memory[1]) // 1024 if memory else 0,
        system=release.get("PRETTY_NAME", platform.system()),
        architecture=architecture,
        python=platform.python_version(),
        fits=next((device for pattern, device in _BOARDS if re.search(pattern, board)), "desktop"),
        cameras=(*_usb_cameras(root, ioctl), *_ribbon_cameras(root)),
        accelerators=tuple(_accelerators(root)),
        problems=tuple(problems),
    )


def _usb_cameras(root: Path, ioctl: Ioctl) -> list[Camera]:
    found = []
    for path in sorted((root / "dev").glob("video*"), key=lambda p: (len(p.name), p.name)):
        try:
            node = ask(path)
            formats = _formats(path, ioctl) if node.captures else ()
        except PermissionError:
            found.append(Camera(str(path), "?", (), "this user may not open it: sudo usermod -aG video $USER"))
            continue
        except OSError:
            continue
        if node.captures and formats and node.driver not in RASPBERRY_PI_PORT:
            found.append(Camera(_source_of(path, root, node), node.card, formats))
    return found


def _source_of(path: Path, root: Path, node: Node) -> str:
    """By its id where it has one: numbers change with the order of plugging in."""
    for link in sorted((root / "dev/v4l/by-id").glob("*-video-index0")):
        with contextlib.suppress(OSError):
            if link.resolve() == path.resolve():
                return str(link)
    return path.name.removeprefix("video") if path.parent == Path("/dev") else str(path)


def _formats(path: Path, ioctl: Ioctl) -> tuple[str, ...]:
    """What V4L2 offers: of each pixel format the largest size, with its highest rate."""
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        offered = []
        for i in range(_MOST):
            answer = _asked(ioctl, fd, _ENUM_FMT, _FORMAT.pack(i, _CAPTURE, 0, b"", 0, 0, 0, 0, 0))
            if answer is None:
                break
            code = _FORMAT.unpack(answer)[4]
            sizes = []
            for k in range(_MOST):
                size = _asked(ioctl, fd, _ENUM_FRAMESIZES, _SIZE.pack(k, code, 0, 0, 0, 0, 0, 0, 0))
                if size is None:
                    break
                _, _, kind, a, b, _, _, d, _ = _SIZE.unpack(size)
                # discrete: width, height; else smallest and largest width with a step, and the same of the height
                sizes.append((a, b) if kind == _DISCRETE else (b, d))
                if kind != _DISCRETE:
                    break
            if sizes:
                width, height = max(sizes, key=lambda s: s[0] * s[1])
                rate = _rate(ioctl, fd, code, width, height)
                offered.append((width * height, f"{_fourcc(code)} {width}x{height}{f' {rate:g}' if rate else ''}"))
        return tuple(text for _, text in sorted(offered, key=lambda o: -o[0]))
    finally:
        os.close(fd)


def _rate(ioctl: Ioctl, fd: int, code: int, width: int, height: int) -> float:
    """Frames a second, the most; 0 where it does not say."""
    best = 0.0
    for i in range(_MOST):
        answer = _asked(ioctl, fd, _ENUM_FRAMEINTERVALS, _INTERVAL.pack(i, code, width, height, *[0] * 7))
        if answer is None:
            break
        _, _, _, _, _, numerator, denominator, *_ = _INTERVAL.unpack(answer)
        best = max(best, denominator / numerator if numerator else 0.0)
    return round(best, 2)


def _asked(ioctl: Ioctl, fd: int, request: int, question: bytes) -> bytes | None:
    """None at the end of an enumeration, and where a driver has none."""
    try:
        return ioctl(fd, request, question)
    except OSError:
        return None


def _fourcc(code: int) -> str:
    return struct.pack("<I", code & 0x7FFFFFFF).decode("ascii", "replace").strip()


def _ribbon_cameras(root: Path) -> list[Camera]:
    """Sensors that the kernel has bound, on a Raspberry Pi's ribbon cables: the media graph names each."""
    sensors = {
        match[1]
        for entity in root.glob("sys/class/video4linux/v4l-subdev*/name")
        if (match := re.match(r"((?:imx|ov|arducam|pivariety)\w*)", _text(entity)))
    }
    there = bool(list((root / "usr/lib/python3/dist-packages").glob("picamera2")))
    missing = "" if there else "picamera2 is not installed: sudo apt install python3-picamera2"
    return [Camera("picamera", sensor, (), missing) for sensor in sorted(sensors)]


def _accelerators(root: Path) -> list[Accelerator]:
    found = []
    for device in sorted(root.glob("sys/bus/usb/devices/*/idVendor")):
        usb = f"{_text(device)}:{_text(device.with_name('idProduct'))}"
        if usb in _CORAL_USB:
            found.append(Accelerator(f"Coral USB Accelerator ({_CORAL_USB[usb]})", "coral_usb", _no_library()))
    if list((root / "dev").glob("apex_*")):
        found.append(Accelerator("Coral on PCIe", "coral_dev_board", _no_library()))
    if list((root / "dev").glob("hailo*")):
        found.append(Accelerator("Hailo", "", "no backend of Sightline's uses it"))
    return found


def _no_library() -> str:
    """Asked only where there is a Coral: looking for a library runs ldconfig."""
    found = ctypes.util.find_library("edgetpu")
    return "" if found else "libedgetpu.so.1 is not installed; it comes from Coral's Debian repository"


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_bytes().decode("utf-8", "replace").strip("\0 \n")
    return ""
