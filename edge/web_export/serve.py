"""Serves an exported site on this network for a trial: HTTPS with a self-signed certificate, and the right headers."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import re
import socket
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

from edge.web import http_server as server
from sightline.errors import ConfigError, DeviceError
from sightline.files import write_secret

MAX_DAYS = 825  # longest life of a certificate that phones accept
MIN_DAYS_LEFT = 7  # of a certificate that is used again


def addresses() -> list[str]:
    """This machine's own addresses on its networks, first the one of the default route."""
    own = []
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # UDP sends nothing here: the kernel only selects the address
        own.append(str(probe.getsockname()[0]))
    with contextlib.suppress(OSError):
        own += [str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    return [a for a in dict.fromkeys(own) if not a.startswith("127.")] or ["127.0.0.1"]


def certificate(folder: Path, hosts: list[str]) -> Path:
    """A file with a certificate for these names and addresses, and its key.

    It is kept in `folder`, so that a phone that accepted it once accepts it again. It signs only itself: its key can
    impersonate this machine and no other. Raises ConfigError if `cryptography` is not installed.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ModuleNotFoundError:
        raise ConfigError(
            "cryptography is not installed, which makes the certificate. Run `pip install 'sightline[phone]'`, or "
            "pass --cert and --key."
        ) from None
    file = folder / "phone.pem"  # one file, so that certificate and key always belong together
    now = datetime.datetime.now(datetime.timezone.utc)
    with contextlib.suppress(OSError, ValueError, x509.ExtensionNotFound, ConfigError):
        old = x509.load_pem_x509_certificate(file.read_bytes())
        server.server_tls(file, None, str(file))
        names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        known = {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}
        signs = old.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        if set(hosts) <= known and not signs and old.not_valid_after_utc > now + datetime.timedelta(days=MIN_DAYS_LEFT):
            return file
    key = ec.generate_private_key(ec.SECP256R1())
    names_of = [_general(x509, host) for host in hosts]
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Sightline on this network")])
    new = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=MAX_DAYS))
        .add_extension(x509.SubjectAlternativeName(names_of), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    plain, pem = serialization.NoEncryption(), serialization.Encoding.PEM
    write_secret(file, key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + new.public_bytes(pem))
    (folder / "phone.key").unlink(missing_ok=True)  # of an earlier version
    return file


def _general(x509: object, host: str) -> object:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))  # type: ignore[attr-defined]
    except ValueError:
        return x509.DNSName(host)  # type: ignore[attr-defined]


class Handler(server.Handler, SimpleHTTPRequestHandler):
    """Static files with the headers that a page with a model needs; docs/phone.md has them for other servers."""

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


def make_server(
    site: Path, address: str, port: int, policy: str, tls: tuple[Path, Path | None] | None
) -> server.Server:
    """The server, not started.

    policy: Content-Security-Policy.
    tls: certificate, and key or None for a key in the same file; None = plain HTTP.
    Raises DeviceError and ConfigError.
    """
    handler = type("SiteHandler", (Handler,), {"policy": policy})
    context = server.server_tls(*tls, ", ".join(str(file) for file in tls if file)) if tls else None
    try:
        return server.Server(address, port, partial(handler, directory=str(site)), context)
    except OSError as e:
        raise DeviceError(f"--address {address}, --port {port}: {e.strerror}. Choose another one.") from None
