"""A site on this network, for trying it out: HTTPS with a certificate of its own, the right headers, a QR code."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import re
import socket
import ssl
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from sightline.errors import ConfigError, DeviceError
from sightline.files import write_secret

DAYS = 825  # what phones accept at most


def addresses() -> list[str]:
    """This machine's own on its networks, the one that leads out first."""
    found = []
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # nothing is sent: it only asks which address would be used
        found.append(str(probe.getsockname()[0]))
    with contextlib.suppress(OSError):
        found += [str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    return [a for a in dict.fromkeys(found) if not a.startswith("127.")] or ["127.0.0.1"]


def certificate(folder: Path, hosts: list[str]) -> tuple[Path, Path]:
    """(certificate, key) for these names and addresses, kept in `folder`: who has allowed it once need not again.
    Raises ConfigError where `cryptography` is not installed."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ModuleNotFoundError:
        raise ConfigError(
            "a certificate is made by cryptography, which is not installed: pip install 'sightline[phone]', or give "
            "--cert and --key"
        ) from None
    cert_file, key_file = folder / "phone.pem", folder / "phone.key"
    now = datetime.datetime.now(datetime.timezone.utc)
    if cert_file.is_file() and key_file.is_file():
        with contextlib.suppress(ValueError):
            kept = x509.load_pem_x509_certificate(cert_file.read_bytes())
            names = kept.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            known = {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}
            if set(hosts) <= known and kept.not_valid_after_utc > now + datetime.timedelta(days=7):
                return cert_file, key_file
    key = ec.generate_private_key(ec.SECP256R1())
    names_of = [_general(x509, host) for host in hosts]
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Sightline on this network")])
    made = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName(names_of), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    plain, pem = serialization.NoEncryption(), serialization.Encoding.PEM
    write_secret(key_file, key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    write_secret(cert_file, made.public_bytes(pem))
    return cert_file, key_file


def _general(x509: object, host: str) -> object:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))  # type: ignore[attr-defined]
    except ValueError:
        return x509.DNSName(host)  # type: ignore[attr-defined]


class Handler(SimpleHTTPRequestHandler):
    """Static files with the headers that a page with a model in it wants; see docs/phone.md for other servers."""

    protocol_version = "HTTP/1.1"
    extensions_map = {  # noqa: RUF012
        **SimpleHTTPRequestHandler.extensions_map,
        ".wasm": "application/wasm", ".js": "text/javascript", ".webmanifest": "application/manifest+json",
        ".tflite": "application/octet-stream", ".txt": "text/plain; charset=utf-8",
    }  # fmt: skip
    policy = ""

    def end_headers(self) -> None:
        versioned = re.match(r"/[0-9a-f]{16}/", self.path)
        self.send_header("Cache-Control", "public, max-age=31536000, immutable" if versioned else "no-cache")
        self.send_header("Content-Security-Policy", self.policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Permissions-Policy", "camera=(self), microphone=(), geolocation=()")
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        super().end_headers()

    def list_directory(self, path: object) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


def make_server(site: Path, address: str, port: int, policy: str, tls: tuple[Path, Path] | None) -> ThreadingHTTPServer:
    """Not started yet. tls: certificate and key; None = plain http. Raises DeviceError, ConfigError."""
    handler = type("SiteHandler", (Handler,), {"policy": policy})
    try:
        server = ThreadingHTTPServer((address, port), partial(handler, directory=str(site)))
    except OSError as e:
        raise DeviceError(f"--port {port}: {e.strerror}; give another one") from None
    server.daemon_threads = True
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(*tls)
        except (OSError, ssl.SSLError) as e:
            raise ConfigError(f"{tls[0]}, {tls[1]}: {e.strerror or e}") from None
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server
