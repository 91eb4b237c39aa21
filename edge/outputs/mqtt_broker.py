"""The address of an MQTT broker, its TLS files, and what its failures mean."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from edge.addresses import AddressError, parse_address
from edge.tls import load_key_pair
from sightline.errors import ConfigError


@dataclass(frozen=True)
class Broker:
    """Where a broker is, and how to sign in.

    tls: whether the connection is encrypted.
    user, password: '' = no sign-in.
    ca: certificates to trust (PEM); None = the system's.
    certificate, key: the client's certificate and private key (PEM).
    """

    host: str
    port: int
    tls: bool = False
    user: str = ""
    password: str = ""
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @property
    def where(self) -> str:
        """The address for people, without the password."""
        return f"mqtt{'s' if self.tls else ''}://{self.host}:{self.port}"

    @property
    def context(self) -> ssl.SSLContext:
        """Raises ConfigError for files that cannot be used."""
        try:
            context = ssl.create_default_context(cafile=str(self.ca) if self.ca else None)
        except (OSError, ssl.SSLError) as e:
            raise ConfigError(f"--mqtt-ca: {e.strerror or e}") from None
        if self.certificate:
            load_key_pair(context, self.certificate, self.key, "--mqtt-cert, --mqtt-key")
        return context


def parse_broker(address: str, **files: Path | None) -> Broker:
    """Read `mqtt://user:password@host:1883` or `mqtts://host`. Raises ConfigError, without the password.

    files: ca, certificate and key, see `Broker`.
    """
    form = "Write mqtt://host, mqtts://host:8883 or mqtt://${USER}:${PASSWORD}@host."
    text = address if "://" in address else f"mqtt://{address}"
    try:
        parsed = parse_address(text, {"mqtt": 1883, "mqtts": 8883})
    except AddressError as e:
        raise ConfigError(f"--mqtt: not a broker's address: {e}. {form}") from None
    if parsed.path.strip("/") or parsed.query:
        raise ConfigError(f"--mqtt: not a broker's address: text follows the host. {form}")
    if any(files.values()) and not parsed.tls:
        raise ConfigError("--mqtt-ca, --mqtt-cert, --mqtt-key: need TLS. Write --mqtt mqtts://HOST.")
    broker = Broker(parsed.host, parsed.port, parsed.tls, parsed.user, parsed.password, **files)
    if parsed.tls:
        _ = broker.context
    return broker


def failure_text(error: Exception, timeout_s: float) -> str:
    """Why a connection could not be made."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the broker's certificate is not trusted ({error.verify_message}); "
            "name the certificate to trust with --mqtt-ca"
        )
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or error}); does this port use TLS?"
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout_s:g} s"
    return getattr(error, "strerror", None) or str(error)
