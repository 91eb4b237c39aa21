"""Describe this machine from the kernel's files: board, memory, system, cameras with their formats, accelerators."""

from __future__ import annotations

import contextlib
import ctypes.util
import fcntl
import os
import platform
import re
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge.capture.sources.v4l2 import RASPBERRY_PI_PORT, Node, ask
from edge.system.machine_state import Machine, read_machine

Ioctl = Callable[[int, int, bytes], bytes]  # as fcntl.ioctl: file descriptor, request, structure -> structure

# <linux/videodev2.h>
_ENUM_FMT, _ENUM_FRAMESIZES, _ENUM_FRAMEINTERVALS = 0xC0405602, 0xC02C564A, 0xC034564B
_FORMAT = struct.Struct("3I32s5I")  # index, type, flags, description, pixelformat, mbus_code, reserved
_SIZE = struct.Struct("9I8x")  # index, pixelformat, type, then width and height, or a range of them
_INTERVAL = struct.Struct("11I8x")  # index, pixelformat, width, height, type, then a fraction, or a range of them
_CAPTURE, _DISCRETE = 1, 1
_MAX_ENTRIES = 64  # formats, sizes or rates that are read of one driver: a faulty one may never end its list

HOT_CELSIUS = 80  # from here on a Raspberry Pi lowers its clock

# the USB identity changes when the driver loads the firmware
_CORAL_USB = {"1a6e:089a": "plugged in, not used yet", "18d1:9302": "in use or used before"}
_BOARDS = (  # pattern of /proc/device-tree/model, and the device config for it
    (r"Raspberry Pi 5|Raspberry Pi 500|Compute Module 5", "raspberry_pi_5"),
    (r"Raspberry Pi 4|Raspberry Pi 400|Compute Module 4", "raspberry_pi_4"),
    (r"Raspberry Pi Zero 2|Raspberry Pi 3|Compute Module 3", "raspberry_pi_zero_2w"),
    (r"Coral|Phanbell", "coral_dev_board"),
)


@dataclass(frozen=True)
class Camera:
    """A camera.

    source: value for `--source`.
    name: name of the camera or of its sensor.
    formats: pixel format, largest size and frame rate, such as 'MJPG 1920x1080 30'. The largest comes first.
    problem: why it cannot be used now; '' = it can.
    """

    source: str
    name: str
    formats: tuple[str, ...]
    problem: str = ""


@dataclass(frozen=True)
class Accelerator:
    """An accelerator.

    device: device config that uses it. '' = none does.
    problem: why it cannot be used now; '' = it can.
    """

    name: str
    device: str
    problem: str = ""


@dataclass(frozen=True)
class Hardware:
    """A machine.

    board: the name that the firmware reports.
    cores: number of CPU cores.
    memory_mb: total memory in MiB; 0 = unknown.
    system: name and version of the operating system.
    architecture: as `uname -m` prints it.
    python: version of the running Python.
    device: device config for the machine without an accelerator.
    problems: faults of the machine itself, such as undervoltage.
    """

    board: str
    cores: int
    memory_mb: int
    system: str
    architecture: str
    python: str
    device: str
    cameras: tuple[Camera, ...]
    accelerators: tuple[Accelerator, ...]
    problems: tuple[str, ...]


def read_hardware(
    root: Path = Path("/"),
    ioctl: Ioctl = fcntl.ioctl,
    query: Callable[[Path], Node] = ask,
    architecture: str = platform.machine(),
) -> Hardware:
    """Describe the machine. What the kernel does not report is left empty and is no error.

    Tests pass their own arguments:
    root: folder that stands for `/`.
    ioctl: answers V4L2's enumerations.
    query: describes one /dev/video node. Raises OSError.
    architecture: as `uname -m` prints it.
    """
    board = _text(root / "proc/device-tree/model") or _text(root / "sys/class/dmi/id/product_name")
    memory = re.search(r"MemTotal:\s+(\d+) kB", _text(root / "proc/meminfo"))
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', _text(root / "etc/os-release"), re.MULTILINE))
    return Hardware(
        board=board or f"an unnamed {architecture} computer",
        cores=os.cpu_count() or 1,
        memory_mb=int(memory[1]) // 1024 if memory else 0,
        system=release.get("PRETTY_NAME", platform.system()),
        architecture=architecture,
        python=platform.python_version(),
        device=next((device for pattern, device in _BOARDS if re.search(pattern, board)), "desktop"),
        cameras=(*_usb_cameras(root, ioctl, query), *_ribbon_cameras(root)),
        accelerators=tuple(_accelerators(root)),
        problems=tuple(_problems(read_machine(root), architecture)),
    )


def _problems(machine: Machine, architecture: str) -> Iterator[str]:
    for name, (now, since_boot) in machine.power.items():
        if now or since_boot:
            yield f"{name.replace('_', ' ')} {'now' if now else 'since it was started'}"
    if machine.celsius is not None and machine.celsius >= HOT_CELSIUS:
        yield f"{machine.celsius:.0f} °C: the machine lowers its clock. Cool it"
    if architecture in ("armv7l", "armv6l") or sys.maxsize < 2**32:
        yield "a 32-bit system: LiteRT has wheels for 64-bit systems only. Install Raspberry Pi OS (64-bit)"


def _usb_cameras(root: Path, ioctl: Ioctl, query: Callable[[Path], Node]) -> list[Camera]:
    cameras = []
    for path in sorted((root / "dev").glob("video*"), key=lambda p: (len(p.name), p.name)):
        try:
            node = query(path)
            formats = _formats(path, ioctl) if node.captures else ()
        except PermissionError:
            cameras.append(Camera(str(path), "?", (), "this user may not open it: sudo usermod -aG video $USER"))
            continue
        except OSError:
            continue
        if node.captures and formats and node.driver not in RASPBERRY_PI_PORT:
            cameras.append(Camera(_source_of(path, root), node.card, formats))
    return cameras


def _source_of(path: Path, root: Path) -> str:
    """The camera's path by id, else its number. Numbers change with the order in which cameras are plugged in."""
    for link in sorted((root / "dev/v4l/by-id").glob("*-video-index0")):
        with contextlib.suppress(OSError):
            if link.resolve() == path.resolve():
                return str(link)
    return path.name.removeprefix("video") if path.parent == Path("/dev") else str(path)


def _formats(path: Path, ioctl: Ioctl) -> tuple[str, ...]:
    """The largest size of each pixel format, with its highest frame rate. Raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        formats = []
        for i in range(_MAX_ENTRIES):
            reply = _enumerate(ioctl, fd, _ENUM_FMT, _FORMAT.pack(i, _CAPTURE, 0, b"", 0, 0, 0, 0, 0))
            if reply is None:
                break
            code = _FORMAT.unpack(reply)[4]
            if sizes := _sizes(ioctl, fd, code):
                width, height = max(sizes, key=lambda size: size[0] * size[1])
                rate = _rate(ioctl, fd, code, width, height)
                formats.append((width * height, f"{_fourcc(code)} {width}x{height}{f' {rate:g}' if rate else ''}"))
        return tuple(text for _, text in sorted(formats, key=lambda entry: -entry[0]))
    finally:
        os.close(fd)


def _sizes(ioctl: Ioctl, fd: int, code: int) -> list[tuple[int, int]]:
    """Sizes (width, height) of a pixel format in pixels; of a range only the largest."""
    sizes = []
    for i in range(_MAX_ENTRIES):
        reply = _enumerate(ioctl, fd, _ENUM_FRAMESIZES, _SIZE.pack(i, code, 0, 0, 0, 0, 0, 0, 0))
        if reply is None:
            break
        # discrete: a, b are width and height. A range: a, b are the smallest and largest width, c, d the same heights.
        _, _, kind, a, b, _, _, d, _ = _SIZE.unpack(reply)
        sizes.append((a, b) if kind == _DISCRETE else (b, d))
        if kind != _DISCRETE:
            break
    return sizes


def _rate(ioctl: Ioctl, fd: int, code: int, width: int, height: int) -> float:
    """Highest frame rate in frames per second; 0 = the driver reports none."""
    best = 0.0
    for i in range(_MAX_ENTRIES):
        reply = _enumerate(ioctl, fd, _ENUM_FRAMEINTERVALS, _INTERVAL.pack(i, code, width, height, *[0] * 7))
        if reply is None:
            break
        _, _, _, _, _, numerator, denominator, *_ = _INTERVAL.unpack(reply)
        best = max(best, denominator / numerator if numerator else 0.0)
    return round(best, 2)


def _enumerate(ioctl: Ioctl, fd: int, request: int, query: bytes) -> bytes | None:
    """One entry of a list; None at its end, and for a driver without that list."""
    try:
        return ioctl(fd, request, query)
    except OSError:
        return None


def _fourcc(code: int) -> str:
    return struct.pack("<I", code & 0x7FFFFFFF).decode("ascii", "replace").strip()


def _ribbon_cameras(root: Path) -> list[Camera]:
    """Cameras on a Raspberry Pi's ribbon cables: the sensors that the kernel has bound, by their names in the media
    graph."""
    sensors = {
        match[1]
        for entity in root.glob("sys/class/video4linux/v4l-subdev*/name")
        if (match := re.match(r"((?:imx|ov|arducam|pivariety)\w*)", _text(entity)))
    }
    installed = (root / "usr/lib/python3/dist-packages/picamera2").exists()
    problem = "" if installed else "picamera2 is not installed: sudo apt install python3-picamera2"
    return [Camera("picamera", sensor, (), problem) for sensor in sorted(sensors)]


def _accelerators(root: Path) -> list[Accelerator]:
    accelerators = []
    for vendor in sorted(root.glob("sys/bus/usb/devices/*/idVendor")):
        usb_id = f"{_text(vendor)}:{_text(vendor.with_name('idProduct'))}"
        if usb_id in _CORAL_USB:
            name = f"Coral USB Accelerator ({_CORAL_USB[usb_id]})"
            accelerators.append(Accelerator(name, "coral_usb", _coral_problem()))
    if list((root / "dev").glob("apex_*")):
        accelerators.append(Accelerator("Coral on PCIe", "coral_dev_board", _coral_problem()))
    if list((root / "dev").glob("hailo*")):
        accelerators.append(Accelerator("Hailo", "", "Sightline has no backend for it"))
    return accelerators


def _coral_problem() -> str:
    """Why a Coral cannot be used. Called only if there is one, because the search for a library runs ldconfig."""
    if ctypes.util.find_library("edgetpu"):
        return ""
    return "libedgetpu.so.1 is not installed. Install it from Coral's Debian repository"


def _text(path: Path) -> str:
    """Content of a kernel file without NUL bytes and line breaks at its ends; '' if it cannot be read."""
    with contextlib.suppress(OSError):
        return path.read_bytes().decode("utf-8", "replace").strip("\0 \n")
    return ""
