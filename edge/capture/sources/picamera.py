"""The Raspberry Pi's own cameras, on the ribbon cable: picamera2, which comes from Debian only."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np

from edge.capture.sources.base import Kind, checked
from sightline.device import DeviceConfig
from sightline.errors import InputError, SourceError, reason
from sightline.preprocess import Frame

READ_TIMEOUT_S = 3.0
BUFFERS = 4
# libcamera tells its whole life to stderr
os.environ.setdefault("LIBCAMERA_LOG_LEVELS", "*:ERROR")

_INSTALL = (
    "`sudo apt install python3-picamera2`, and Sightline in an environment that sees it: "
    "`/usr/bin/python3 -m venv --system-site-packages .venv`"
)


class PiCamera:
    """`picamera` or `picamera:NUMBER`. The image processor scales to the size asked for and gives BGR as it is."""

    live = True
    kind: Kind = "camera"
    format = ""
    _camera: Any = None

    def __init__(self, what: str, config: DeviceConfig) -> None:
        match = re.fullmatch(r"picamera(?::(\d+))?", what, re.ASCII)
        if not match:
            raise InputError(f"{what}: write picamera, or picamera:1 for the second one")
        self.number, self.config = int(match[1] or 0), config
        self.where = self.name = f"picamera:{self.number}"

    def open(self) -> None:
        picamera2 = _library(self.where)
        found = picamera2.Picamera2.global_camera_info()
        if self.number >= len(found):
            known = ", ".join(f"picamera:{i} ({c.get('Model', '?')})" for i, c in enumerate(found)) or "none"
            raise SourceError(f"{self.where}: no such camera; those that libcamera finds: {known}")
        c = self.config
        try:
            self._camera = picamera2.Picamera2(self.number)
            self._camera.configure(
                self._camera.create_video_configuration(
                    # picamera2 names the bytes of a pixel from the last to the first: this is B, G, R in memory
                    main={"size": (c.camera_width, c.camera_height), "format": "RGB888"},
                    controls={"FrameRate": c.camera_fps},
                    buffer_count=BUFFERS,
                    queue=False,  # no frame from before it was asked for
                )
            )
            self._camera.start()
            main = self._camera.camera_configuration()["main"]
        except (RuntimeError, OSError, IndexError, ValueError) as e:
            raise SourceError(f"{self.where}: cannot be opened: {reason(e)}; in use by another program?") from None
        width, height = main["size"]
        self.format = f"{main['format']} {width}x{height}@{c.camera_fps}"
        if main["format"] != "RGB888":
            raise SourceError(f"{self.where}: gives {main['format']} instead of RGB888")

    def read(self, buffer: Frame | None) -> Frame | None:
        # the builtin one only from Python 3.11 on; here, since it costs 3 ms that other sources need not pay
        from concurrent.futures import TimeoutError as FutureTimeoutError

        assert self._camera is not None, "read before open"
        job = self._camera.capture_array("main", wait=False)
        try:
            frame = job.get_result(timeout=READ_TIMEOUT_S)
        except FutureTimeoutError:
            text = f"no frame for {READ_TIMEOUT_S:.0f} s; is the ribbon cable loose?"
            raise SourceError(f"{self.where}: {text}") from None
        except (RuntimeError, OSError) as e:
            raise SourceError(f"{self.where}: {reason(e)}") from None
        return checked(np.asarray(frame), self.where)

    def close(self) -> None:
        """The job that never ended is taken back first: `close` would wait behind it, for ever."""
        camera, self._camera = self._camera, None
        if camera is not None:
            camera.cancel_all_and_flush()
            camera.close()


def _library(name: str) -> Any:
    try:
        import picamera2
    except ImportError as e:
        raise SourceError(f"{name}: picamera2 cannot be imported ({reason(e)}): {_INSTALL}") from None
    except ValueError as e:  # `numpy.dtype size changed`: Debian's modules with pip's numpy
        raise SourceError(
            f"{name}: picamera2 does not fit this environment's numpy ({reason(e)}): "
            "`pip uninstall numpy`, so that Debian's is seen"
        ) from None
    return picamera2
