"""Certificates and keys for TLS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from sightline.errors import ConfigError

if TYPE_CHECKING:
    import ssl


def load_key_pair(context: ssl.SSLContext, certificate: Path, key: Path | None, options: str) -> None:
    """Load a certificate and its private key into a TLS context.

    key: None = it is in the file of the certificate.
    options: names of the two options, for an error message.
    Raises ConfigError, also for an encrypted key: OpenSSL would ask for its password on the terminal.
    """
    import ssl  # 6 ms, which an agent without certificates need not pay

    def refuse() -> NoReturn:
        raise ConfigError(
            f"{options}: the key is encrypted, and nobody can type its password here. "
            f"`openssl pkey -in {key or certificate} -out plain.key` decrypts it."
        )

    try:
        context.load_cert_chain(certificate, key, password=refuse)
    except ssl.SSLError as e:
        text = "not a certificate and a key in PEM format"
        if e.reason == "KEY_VALUES_MISMATCH":
            text = "the key does not belong to the certificate"
        raise ConfigError(f"{options}: {text} ({e.reason or e})") from None
    except OSError as e:
        raise ConfigError(f"{options}: cannot be read: {e.strerror}") from None
