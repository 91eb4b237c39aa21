"""Who may use the page from elsewhere: a token, names that are ours, and nobody who speaks in another site's name.

On this machine's own address no token is asked for; any other address demands one. It has 256 bits, is shown once, and
is kept as a salted hash alone.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from sightline.documents import home
from sightline.errors import ConfigError
from sightline.files import write_secret


@dataclass(frozen=True)
class Access:
    """names: that this page may be called by, beside addresses. local: it answers on this machine alone. salt, digest:
    of the token; empty = none is needed. tls: whether it is spoken."""

    names: frozenset[str] = frozenset({"localhost"})
    local: bool = True
    salt: str = ""
    digest: str = ""
    tls: bool = False

    def host_is_ours(self, host: str) -> bool:
        """Of the Host header. A site that points a name of its own at this address must not read the camera; it cannot
        do so with an address, which is nobody's."""
        name = host_of(host)
        if name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self.local

    def origin_is_ours(self, origin: str | None, host: str) -> bool:
        """Whether a request that changes something comes from this page itself, or from no page at all."""
        return origin is None or origin == f"http{'s' if self.tls else ''}://{host}"

    def allows(self, token: str | None) -> bool:
        if not self.digest:
            return True
        return token is not None and hmac.compare_digest(_digest(token, self.salt), self.digest)


def host_of(header: str) -> str:
    """The name or address in `name:port`, `1.2.3.4` or `[::1]:port`; lower case."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.rpartition(":")[0].lower() if header.count(":") == 1 else header.lower()


def access_for(
    address: str, names: tuple[str, ...], *, tls: bool, token_file: Path | None, new: bool
) -> tuple[Access, str]:
    """How a page on this address is to be used, and the token when it was made just now; '' otherwise."""
    try:
        is_local = ipaddress.ip_address(address).is_loopback
    except ValueError:
        if address != "localhost":
            raise ConfigError(f"--page-address {address!r}: an address of this machine, such as 0.0.0.0") from None
        is_local = True
    ours = frozenset(name.lower() for name in (*names, "localhost"))
    if is_local:
        return Access(ours, tls=tls), ""
    host = socket.gethostname().lower()
    ours |= {host, f"{host.partition('.')[0]}.local"}
    path = token_file or _default_file()
    token = ""
    if new or not path.exists():
        token, document = make_token()
        write_secret(path, document.encode())
    try:
        kept = json.loads(path.read_text())
        salt, digest = str(kept["salt"]), str(kept["sha256"])
        if len(digest) != 64:
            raise ValueError
    except OSError as e:
        raise ConfigError(f"--page-token-file {path}: cannot be read: {e.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"--page-token-file {path}: holds no token; --new-page-token makes one") from None
    return Access(ours, local=False, salt=salt, digest=digest, tls=tls), token


def make_token() -> tuple[str, str]:
    """A new token, and the text of the file that it is checked with."""
    token, salt = secrets.token_urlsafe(32), secrets.token_hex(16)
    return token, json.dumps({"schema": 1, "salt": salt, "sha256": _digest(token, salt)}) + "\n"


def _digest(token: str, salt: str) -> str:
    # one round is enough: nobody can guess 256 random bits, however fast
    return hashlib.sha256(f"{salt}:{token}".encode("utf-8", "replace")).hexdigest()


def _default_file() -> Path:
    state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return (Path(state) if state else home("--page-token-file") / ".config" / "sightline") / "page-token"
