"""Who may use the page from elsewhere: a token, names that are ours, and nobody who speaks in another site's name.

On this machine's own address no token is asked for. Any other address demands one, and so does --page-host: what a
proxy passes on comes from this machine too. The token has 256 bits, is shown once, and is kept as a salted hash alone.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import re
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sightline.directories import program_folder
from sightline.errors import ConfigError
from sightline.files import write_secret


@dataclass(frozen=True)
class Access:
    """names: that this page may be called by, beside addresses. origins: where it stands for people elsewhere, such as
    https://cam.example.org, whatever a proxy makes of it on the way. local: it answers on this machine alone. salt,
    digest: of the token; empty = none is needed. tls: whether it is spoken."""

    names: frozenset[str] = frozenset({"localhost"})
    origins: frozenset[str] = frozenset()
    local: bool = True
    salt: str = ""
    digest: str = ""
    tls: bool = False

    @property
    def cookie(self) -> str:
        """The name of the one that holds the token. A cookie is the host's, whatever the port: agents with tokens of
        their own must not overwrite each other's."""
        return f"sightline-{self.salt[:8]}"

    @property
    def encrypted(self) -> bool:
        """Whether nobody on the way can read along: a proxy on this machine speaks TLS where all its origins do."""
        names_alone = self.names - {"localhost"} - {urlsplit(origin).hostname for origin in self.origins}
        at_proxy = self.local and not names_alone and all(origin.startswith("https:") for origin in self.origins)
        return self.tls or at_proxy

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
        if origin is None or origin in self.origins:
            return True
        if any(host_of(host) == urlsplit(ours).hostname for ours in self.origins):
            return False  # its scheme and port are known: another of that name is another site
        return origin == f"http{'s' if self.tls else ''}://{host}"

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
    address: str, hosts: tuple[str, ...], *, tls: bool, token_file: Path | None, new: bool
) -> tuple[Access, str]:
    """How a page on this address is to be used, and the token when it was made just now; '' otherwise. hosts: names, or
    origins, that it has elsewhere. Raises ConfigError."""
    try:
        is_local = ipaddress.ip_address(address).is_loopback
    except ValueError:
        if address != "localhost":
            raise ConfigError(f"--page-address {address!r}: an address of this machine, such as 0.0.0.0") from None
        is_local = True
    origins = frozenset(_origin(host) for host in hosts if "://" in host)
    names = {str(urlsplit(origin).hostname) for origin in origins} | {
        _name(host) for host in hosts if "://" not in host
    }
    names.add("localhost")
    if is_local and not hosts:
        return Access(frozenset(names), tls=tls), ""
    if not is_local:
        host = socket.gethostname().lower()
        names |= {host, f"{host.partition('.')[0]}.local"}
    path = token_file or program_folder("config", "--page-token-file") / "page-token"
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
    return Access(frozenset(names), origins, is_local, salt, digest, tls), token


def _name(host: str) -> str:
    """Of --page-host without a scheme. Raises ConfigError."""
    name = host_of(host)
    if not re.fullmatch(r"[A-Za-z0-9_.:-]+", name):
        raise ConfigError(f"--page-host {host!r}: a name such as cam.example.org, or https://cam.example.org")
    return name


def _origin(address: str) -> str:
    """An address as browsers write it in the Origin header: lower case, without the scheme's own port, without a path.
    Raises ConfigError."""
    wrong = ConfigError(f"--page-host {address!r}: https://NAME or https://NAME:PORT is needed, without a path")
    try:
        parts = urlsplit(address.lower())
        port = parts.port
    except ValueError:
        raise wrong from None
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[A-Za-z0-9_.:-]+", host):
        raise wrong
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise wrong
    host = f"[{host}]" if ":" in host else host
    own = port in (None, 443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{host}" + ("" if own else f":{port}")


def make_token() -> tuple[str, str]:
    """A new token, and the text of the file that it is checked with."""
    token, salt = secrets.token_urlsafe(32), secrets.token_hex(16)
    return token, json.dumps({"schema": 1, "salt": salt, "sha256": _digest(token, salt)}) + "\n"


def _digest(token: str, salt: str) -> str:
    # one round is enough: nobody can guess 256 random bits, however fast
    return hashlib.sha256(f"{salt}:{token}".encode("utf-8", "replace")).hexdigest()
