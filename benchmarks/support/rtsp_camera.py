"""An RTSP camera on 127.0.0.1: a moving test image from GStreamer's RTSP server.

    /usr/bin/python3 benchmarks/support/rtsp_camera.py [--port 0] [--codec jpeg|h264] [--size 320x240] [--fps 15]
        [--seconds 120] [--user U --password P]

Run it with Debian's own Python, which has `gi`: apt-get install python3-gi gir1.2-gst-rtsp-server-1.0
gstreamer1.0-plugins-good gstreamer1.0-plugins-bad. The first line of stdout is its address, without user and password.
From then on it serves. It exits after `--seconds`, so that a test that dies leaves no process behind.
"""

from __future__ import annotations

import argparse
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

PIPELINE = "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width={},height={},framerate={}/1"
ENCODERS = {
    "jpeg": "jpegenc ! rtpjpegpay name=pay0 pt=26",
    "h264": "openh264enc gop-size=15 ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=1",
}
ROLE, REALM, PATH = "viewer", "camera", "/live"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0, help="Port. 0 = any free port.")
    parser.add_argument("--codec", choices=ENCODERS, default="jpeg")
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--fps", type=int, default=15)
    parser.add_argument("--user")
    parser.add_argument("--password", default="")
    parser.add_argument("--seconds", type=int, default=120, help="Seconds until the camera exits.")
    parser.add_argument("--check", action="store_true", help="Only check that all parts are installed.")
    options = parser.parse_args()

    Gst.init(None)
    elements = ["videotestsrc", *(part.split()[0] for part in ENCODERS[options.codec].split(" ! "))]
    missing = [name for name in elements if Gst.ElementFactory.find(name) is None]
    if missing:
        print(f"GStreamer has no {', '.join(missing)}", file=sys.stderr)
        return 1
    if options.check:
        return 0

    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=str(options.port))
    pipeline = PIPELINE.format(*options.size.split("x"), options.fps)
    factory = GstRtspServer.RTSPMediaFactory(launch=f"( {pipeline} ! {ENCODERS[options.codec]} )", shared=True)
    if options.user:
        protect(server, factory, options.user, options.password)
    server.get_mount_points().add_factory(PATH, factory)
    if server.attach(None) == 0:
        print(f"port {options.port} is not free", file=sys.stderr)
        return 1
    print(f"rtsp://127.0.0.1:{server.get_bound_port()}{PATH}", flush=True)
    loop = GLib.MainLoop()
    GLib.timeout_add_seconds(options.seconds, loop.quit)
    loop.run()
    return 0


def protect(
    server: GstRtspServer.RTSPServer, factory: GstRtspServer.RTSPMediaFactory, user: str, password: str
) -> None:
    """Let only `user` see and read the stream."""
    viewer = GstRtspServer.RTSPToken()
    viewer.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, ROLE)
    auth = GstRtspServer.RTSPAuth()
    auth.set_realm(REALM)
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    auth.add_digest(user, password, viewer)
    server.set_auth(auth)
    rights = Gst.Structure.new_empty(ROLE)
    for permission in (
        GstRtspServer.RTSP_PERM_MEDIA_FACTORY_ACCESS,
        GstRtspServer.RTSP_PERM_MEDIA_FACTORY_CONSTRUCT,
    ):
        rights.set_value(permission, True)
    factory.add_role_from_structure(rights)


if __name__ == "__main__":
    sys.exit(main())
