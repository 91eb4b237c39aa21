"""The Raspberry Pi's own cameras on the ribbon cable: picamera2, which only Debian distributes."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np

from edge.capture.sources.base import Kind, check_frame
from sightline.device_config import DeviceConfig
from sightline.errors import InputError, SourceError, reason
from sightline.preprocess import Frame

READ_TIMEOUT_S = 3.0
BUFFERS = 4
# libcamera logs much to stderr
os.environ.setdefault("LIBCAMERA_LOG_LEVELS", "*:ERROR")

_INSTALL = (
    "Run `sudo apt install python3-picamera2`, and install Sightline in an environment with the system's packages: "
    "`/usr/bin/python3 -m venv --system-site-packages .venv`"
)


class PiCamera:
    """`picamera` or `picamera:NUMBER`. Its image processor scales to the requested size and converts to BGR."""

    live = True
    kind: Kind = "camera"
    format = ""
    _camera: Any = None

    def __init__(self, text: str, config: DeviceConfig, *, read_timeout_s: float = READ_TIMEOUT_S) -> None:
        match = re.fullmatch(r"picamera(?::(\d+))?", text, re.ASCII)
        if not match:
            raise InputError(f"{text}: write picamera, or picamera:1 for the second camera")
        self.number, self.config, self._read_timeout_s = int(match[1] or 0), config, read_timeout_s
        self.where = self.name = f"picamera:{self.number}"

    def open(self) -> None:
        picamera2 = _library(self.where)
        cameras = picamera2.Picamera2.global_camera_info()
        if self.number >= len(cameras):
            known = ", ".join(f"picamera:{i} ({c.get('Model', '?')})" for i, c in enumerate(cameras)) or "none"
            raise SourceError(f"{self.where}: no such camera. Cameras that libcamera finds: {known}")
        c = self.config
        try:
            self._camera = picamera2.Picamera2(self.number)
            self._camera.configure(
                self._camera.create_video_configuration(
                    # picamera2 names the bytes of a pixel from the last to the first: this is B, G, R in memory
                    main={"size": (c.camera_width, c.camera_height), "format": "RGB888"},
                    controls={"FrameRate": c.camera_fps},
                    buffer_count=BUFFERS,
                    queue=False,  # no frame from before the request
                )
            )
            self._camera.start()
            main = self._camera.camera_configuration()["main"]
        except (RuntimeError, OSError, IndexError, ValueError) as e:
            raise SourceError(f"{self.where}: cannot be opened: {reason(e)}. Another program may use it.") from None
        width, height = main["size"]
        self.format = f"{main['format']} {width}x{height}@{c.camera_fps}"
        if main["format"] != "RGB888":
            raise SourceError(f"{self.where}: delivers {main['format']} instead of RGB888")

    def read(self, buffer: Frame | None) -> Frame | None:
        # the builtin TimeoutError only from Python 3.11 on; imported here, since it costs other sources 3 ms
        from concurrent.futures import TimeoutError as FutureTimeoutError

        assert self._camera is not None, "read before open"
        request = self._camera.capture_array("main", wait=False)
        try:
            frame = request.get_result(timeout=self._read_timeout_s)
        except FutureTimeoutError:
            text = f"no frame for {self._read_timeout_s:.0f} s. Check the ribbon cable."
            raise SourceError(f"{self.where}: {text}") from None
        except (RuntimeError, OSError) as e:
            raise SourceError(f"{self.where}: {reason(e)}") from None
        return check_frame(np.asarray(frame), self.where)

    def close(self) -> None:
        """Cancels a request that never ended first: picamera2's `close` would wait behind it for ever."""
        camera, self._camera = self._camera, None
        if camera is not None:
            camera.cancel_all_and_flush()
            camera.close()


def _library(name: str) -> Any:
    try:
        import picamera2
    except ImportError as e:
        raise SourceError(f"{name}: picamera2 cannot be imported ({reason(e)}). {_INSTALL}") from None
    except ValueError as e:  # `numpy.dtype size changed`: Debian's modules with pip's numpy
        raise SourceError(
            f"{name}: picamera2 does not fit this environment's numpy ({reason(e)}). "
            "Run `pip uninstall numpy`, so that Debian's numpy is used."
        ) from None
    return picamera2
