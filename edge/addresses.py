"""Addresses with a user and a password, and the `${NAME}` references in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from sightline.errors import InputError

NAME = "[A-Za-z_][A-Za-z0-9_]*"  # regular expression of a variable's name
REFERENCE = re.compile(r"\$\{(" + NAME + r")\}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TLS_SCHEMES = ("https", "rtsps", "mqtts")


class AddressError(ValueError):
    """Text is no address. The message never contains a part of it: each may be a piece of a password."""


@dataclass(frozen=True)
class Address:
    """A parsed address.

    scheme: such as `rtsp`.
    host: name or IP address, without brackets.
    port: the address's own, or the scheme's default.
    path, query: percent-encoded as in the text, without the `?`.
    user, password: decoded; '' = none.
    """

    scheme: str
    host: str
    port: int
    path: str = ""
    query: str = ""
    user: str = ""
    password: str = ""

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme in _TLS_SCHEMES

    @property
    def netloc(self) -> str:
        """`host:port`, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def target(self) -> str:
        """Path and query, as in the first line of an HTTP request."""
        return (self.path or "/") + (f"?{self.query}" if self.query else "")

    @property
    def login(self) -> str:
        """`user:password`; '' without a user."""
        return f"{self.user}:{self.password}" if self.user else ""


def parse_address(text: str, default_ports: Mapping[str, int]) -> Address:
    """Parse `SCHEME://USER:PASSWORD@HOST:PORT/PATH?QUERY`. Raises AddressError.

    default_ports: the allowed schemes, each with its default port.
    """
    try:
        parts = urlsplit(text)
    except ValueError:  # its message has the address in it
        raise AddressError("the host cannot be read") from None
    try:
        port = parts.port
    except ValueError:
        raise AddressError("the port is not a number from 0 to 65535") from None
    if parts.scheme not in default_ports:
        raise AddressError(f"it must begin with {' or '.join(f'{scheme}://' for scheme in default_ports)}")
    host = parts.hostname or ""
    try:
        host.encode("idna")  # without this, `camera..local` fails only in the name lookup
    except UnicodeError:
        host = ""
    if not host:
        raise AddressError("it has no valid host")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return Address(parts.scheme, host, port or default_ports[parts.scheme], parts.path, parts.query, user, password)


def expand(address: str, environment: Mapping[str, str], option: str = "--source") -> str:
    """The address with each `${NAME}` replaced from the environment. Text without `://` is returned unchanged.

    A value in the user, the password or the query is percent-encoded: a password with @, / or : works as it is. When
    one name stands for both user and password (`rtsp://${LOGIN}@host`), the first : separates them.
    Raises InputError, which names the variable and never shows a value.
    """
    if "://" not in address:
        return address
    begin = address.index("://") + 3
    authority = re.split("[/?#]", address[begin:], maxsplit=1)[0]
    end = begin + max(authority.rfind("@"), 0)
    query = address.find("?", end)
    is_whole_login = REFERENCE.fullmatch(address, begin, end)

    def value(match: re.Match[str]) -> str:
        text = _value(match[1], environment, option)
        if match.start() < end:
            return ":".join(quote(part, safe="") for part in (text.split(":", 1) if is_whole_login else [text]))
        if 0 <= query < match.start() and address[match.start() - 1] == "=":
            return quote(text, safe="")
        return text

    _check_references(address, option)
    return REFERENCE.sub(value, address)


def expand_text(text: str, environment: Mapping[str, str], option: str) -> str:
    """The text with each `${NAME}` replaced from the environment, unencoded. Raises InputError as `expand`."""
    _check_references(text, option)
    return REFERENCE.sub(lambda match: _value(match[1], environment, option), text)


def _check_references(text: str, option: str) -> None:
    if "${" in REFERENCE.sub("", text):
        raise InputError(
            f"{option}: not a valid reference. Write ${{NAME}} with letters, digits and _, and put ' around the "
            "whole value for the shell."
        )


def _value(name: str, environment: Mapping[str, str], option: str) -> str:
    if name not in environment:
        raise InputError(f"{option}: ${{{name}}} is not set. Run `export {name}=...`, or add {name}=... to --env-file.")
    if _CONTROL.search(environment[name]):
        raise InputError(f"{option}: the value of ${{{name}}} has a line break or another control character.")
    return environment[name]
