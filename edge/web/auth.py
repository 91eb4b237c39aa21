"""Access to the page: its token, its host names, and protection from other sites' pages.

On a loopback address the page needs no token. On any other address it does, and also with --page-host: requests that a
proxy forwards come from this machine too. The token has 256 bits, is shown once, and is stored as a salted hash only.
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
    """How the page may be used.

    names: host names of the page, beside addresses.
    origins: public addresses of the page behind a proxy, such as https://cam.example.org.
    local: whether it listens on a loopback address only.
    salt, digest: of the token; '' = no token is needed.
    tls: whether the page's own server uses TLS.
    """

    names: frozenset[str] = frozenset({"localhost"})
    origins: frozenset[str] = frozenset()
    local: bool = True
    salt: str = ""
    digest: str = ""
    tls: bool = False

    @property
    def cookie(self) -> str:
        """Name of the cookie that holds the token. It differs between agents: the ports of a host share its cookies."""
        return f"sightline-{self.salt[:8]}"

    @property
    def encrypted(self) -> bool:
        """Whether the way to the user is encrypted: by this server, or by a proxy on this machine."""
        names_alone = self.names - {"localhost"} - {urlsplit(origin).hostname for origin in self.origins}
        at_proxy = self.local and not names_alone and all(origin.startswith("https:") for origin in self.origins)
        return self.tls or at_proxy

    def is_own_host(self, host: str) -> bool:
        """Whether the Host header names this page.

        A site that points its own name at this address must not read the camera. With an address it cannot do so.
        """
        name = host_of(host)
        if name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self.local

    def is_own_origin(self, origin: str | None, host: str) -> bool:
        """Whether a request that changes something comes from this page, or from no page at all."""
        if origin is None or origin in self.origins:
            return True
        if any(host_of(host) == urlsplit(own).hostname for own in self.origins):
            return False  # of that name only the known scheme and port are this page
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
    """Access to a page on this address, and its token if that is new; '' otherwise. Raises ConfigError.

    hosts: other host names, or origins, of the page.
    tls: whether its own server uses TLS.
    token_file: None = the default path.
    new: whether to make a new token in any case.
    """
    try:
        is_local = ipaddress.ip_address(address).is_loopback
    except ValueError:
        if address != "localhost":
            raise ConfigError(
                f"--page-address {address!r}: not an address. Give an address of this machine, such as 0.0.0.0."
            ) from None
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
        stored = json.loads(path.read_text())
        salt, digest = str(stored["salt"]), str(stored["sha256"])
        if len(digest) != 64:
            raise ValueError
    except OSError as e:
        raise ConfigError(f"--page-token-file {path}: cannot be read: {e.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"--page-token-file {path}: holds no token. Make one with --new-page-token.") from None
    return Access(frozenset(names), origins, is_local, salt, digest, tls), token


def _name(host: str) -> str:
    """The name in --page-host without a scheme. Raises ConfigError."""
    name = host_of(host)
    if not re.fullmatch(r"[A-Za-z0-9_.:-]+", name):
        raise ConfigError(f"--page-host {host!r}: not a host name. Write cam.example.org or https://cam.example.org.")
    return name


def _origin(address: str) -> str:
    """The address as browsers write it in the Origin header: lower case, without default port and path.

    Raises ConfigError.
    """
    wrong = ConfigError(f"--page-host {address!r}: not an address. Write https://NAME or https://NAME:PORT, no path.")
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
    default = port in (None, 443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{host}" + ("" if default else f":{port}")


def make_token() -> tuple[str, str]:
    """A new token, and the text of the file with its hash."""
    token, salt = secrets.token_urlsafe(32), secrets.token_hex(16)
    return token, json.dumps({"schema": 1, "salt": salt, "sha256": _digest(token, salt)}) + "\n"


def _digest(token: str, salt: str) -> str:
    # one round is enough: 256 random bits cannot be guessed
    return hashlib.sha256(f"{salt}:{token}".encode("utf-8", "replace")).hexdigest()
