"""Cost of many clients of the live page: `python -m benchmarks.web_clients [CLIENTS] [SECONDS]`.

The camera has 720p at 30 frames a second. 200 clients connect at once and reconnect at once: to images, events, the
WebSocket and snapshots. Half of the streams' clients read nothing. It prints one JSON line for http and one for TLS:
resident memory before and at its peak, and frames a second before and meanwhile.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.agent import SIGHTLINE, make_bundle, show
from edge.web_export.serve import certificate

KINDS = ("/stream.mjpg", "/events", "/ws", "/snapshot.jpg")
SETTLE_S = 5.0
_UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Ng==\r\n"
)


def main() -> None:
    clients = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 20.0
    with tempfile.TemporaryDirectory(prefix="sightline-clients-") as name:
        folder = Path(name)
        bundle, pem = make_bundle(folder), certificate(folder, ["127.0.0.1"])
        for tls in ((), ("--page-cert", str(pem))):
            command = [*SIGHTLINE, "run", str(bundle), "--source", "test:1280x720@30", "--page-port", "0", "--json"]
            with subprocess.Popen([*command, *tls], stdout=-1, stderr=-1, text=True) as agent:
                try:
                    assert agent.stderr is not None and agent.stdout is not None
                    address = next(line for line in agent.stderr if "live page: " in line).split()[-1]
                    frames: list[str] = []
                    for pipe, lines in ((agent.stderr, []), (agent.stdout, frames)):
                        threading.Thread(target=lines.extend, args=(pipe,), daemon=True).start()
                    time.sleep(SETTLE_S)
                    crowd(agent.pid, address, clients, seconds, frames)
                finally:
                    agent.kill()


def crowd(pid: int, address: str, clients: int, seconds: float, frames: list[str]) -> None:
    """Start the clients and print the figures.

    frames: grows by one line for each frame with inference.
    """
    before, count = rss_mb(pid), len(frames)
    time.sleep(SETTLE_S)
    fps = (len(frames) - count) / SETTLE_S
    over, served = threading.Event(), [0] * clients
    threads = [threading.Thread(target=client, args=(address, i, over, served), daemon=True) for i in range(clients)]
    for thread in threads:
        thread.start()
    peak, count, began = before, len(frames), time.monotonic()
    while time.monotonic() - began < seconds:
        peak = max(peak, rss_mb(pid))
        time.sleep(0.1)
    meanwhile = (len(frames) - count) / (time.monotonic() - began)
    over.set()
    for thread in threads:
        thread.join(5)
    show(
        "web_clients", ratio=peak / before, clients=clients, served=sum(map(bool, served)), tls=address[4] == "s",
        rss_mb=before, peak_mb=peak, fps=fps, fps_meanwhile=meanwhile,
    )  # fmt: skip


def client(address: str, number: int, over: threading.Event, served: list[int]) -> None:
    """One client, which reads its stream or nothing, and reconnects when the server closes the connection."""
    host, path = urlsplit(address).netloc, KINDS[number % len(KINDS)]
    takes = path == "/snapshot.jpg" or number // len(KINDS) % 2 == 0
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{_UPGRADE if path == '/ws' else ''}\r\n".encode()
    while not over.is_set():
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            place = urlsplit(address)
            connection = stack.enter_context(socket.create_connection((place.hostname, place.port), timeout=3))
            if place.scheme == "https":
                connection = stack.enter_context(context.wrap_socket(connection))
            connection.sendall(request)
            while not over.is_set():
                if takes or not served[number]:
                    data = connection.recv(65536)
                    if not data:
                        break
                    served[number] += data.startswith((b"HTTP/1.1 200", b"HTTP/1.1 101"))
                else:
                    over.wait(1)
        over.wait(0.1)


def rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main()
