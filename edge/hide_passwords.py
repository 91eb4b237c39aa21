"""Finds and hides users and passwords in addresses and headers, and warns about exposed ones.

Every user of a machine can read its command lines (`ps`), and results and logs are sent to others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from edge.addresses import REFERENCE

if TYPE_CHECKING:
    pass

# names in an address's query that select the image and its transport; cameras use many names for a password
_HARMLESS = re.compile(
    "action|audio|bitrate|cam|camera|ch|channel|codec|compression|fps|framerate|height|profile|proto|protocol|quality|"
    "res|resolution|rotation|sessiontimeout|size|source|stream|streamtype|subtype|transport|transportmode|"
    "transportprotocol|unicast|videocodec|width",
    re.IGNORECASE,
)
# values that are no secret, unless their name is one of a secret
_PLAIN = re.compile(
    r"\d{1,3}|true|false|yes|no|on|off|tcp|udp|http|rtsp|unicast|multicast|onvif|main|sub|live|stream|snapshot|"
    r"h26[45]|mjpe?g|jpe?g",
    re.IGNORECASE,
)
# names of a user in a query: not shown, but no secret either
_USERS = ("user", "username", "usr", "login", "account")
_UUID = re.compile(r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-")
# parts of a path that a key follows: Slack, Home Assistant, Discord, Zapier, IFTTT
_HOOKS = ("webhook", "webhooks", "hook", "hooks", "services", "key", "token", "secret", "bot")
_SECRET_NAME = re.compile("auth|token|key|secret|pass|pwd|psw|pin|cookie|sign|credential|session|api$", re.IGNORECASE)
_HIDDEN = "..."
# the options of `sightline run` whose values may contain a password
SECRET_OPTIONS = ("source", "mqtt", "webhook", "webhook_header")


class _Parts(NamedTuple):
    """An address as text, well formed or not. `edge.addresses` parses the well-formed ones.

    userinfo: text before the @, not decoded.
    place: host, port and path.
    """

    scheme: str
    userinfo: str
    place: str
    query: str


def _split_loosely(address: str) -> _Parts:
    """Split any text with a `://`, so that no part of a password lands outside `userinfo`.

    In a password, an unescaped `/`, `?` or `#` ends the host for a parser. So everything before the last `@` is the
    userinfo, unless that `@` stands in the query of a well-formed address.
    """
    scheme, _, rest = address.partition("://")
    userinfo = ""
    if not re.match(r"(\[[^]/?#@]*]|[^:/?#@]*)(:\d*)?/[^?#@]*\?", rest):
        before, _, after = rest.rpartition("@")
        if re.search(r"/.*=", before):  # the @ is in a path with a password, or a / is in a password: ambiguous
            return _Parts(scheme, before, _HIDDEN, "")
        userinfo, rest = before, after
    place, _, query = rest.partition("#")[0].partition("?")
    return _Parts(scheme, userinfo, place, query)


def _pairs(text: str) -> list[tuple[str, str]]:
    """Names and values of a query, or of a part of a path like one: `/user=admin_password=x_channel=1.sdp`."""
    pieces = (piece.partition("=") for piece in re.split(r"[&;]|_(?=[A-Za-z]+=)", text) if piece)
    return [(key, value) for key, _, value in pieces]


def _is_random(text: str) -> bool:
    """Whether it is a generated key and no name that a person chose.

    That is a UUID, or 16 letters and digits in a row with more than one change between letters and digits.
    `livestreammainchannel2` is a name.
    """
    runs = re.findall("[A-Za-z0-9]{16,}", text)
    return any(len(re.findall(r"\d+|[A-Za-z]+", run)) > 2 for run in runs) or _UUID.search(text) is not None


def _is_secret(key: str, value: str) -> bool:
    """Whether a pair of a query may be a secret. A word without a value is a switch."""
    if not value:
        return _is_random(key)
    if key.lower() in _USERS:
        return re.search("(:|%3a).", value, re.IGNORECASE) is not None  # USER:PASSWORD
    if _HARMLESS.fullmatch(key):
        return _is_random(value)
    return bool(_SECRET_NAME.search(key)) or not _PLAIN.fullmatch(value)


def _harmless(text: str) -> str:
    """The part of a query that may be shown."""
    return "&".join(
        f"{key}={value}" for key, value in _pairs(text) if value and _HARMLESS.fullmatch(key) and not _is_random(value)
    )


def _has_secret(query: str) -> bool:
    return any(_is_secret(key, value) for key, value in _pairs(query))


def _is_path_secret(part: str, *, after_hook: bool) -> bool:
    """Whether a part of a path may be a secret.

    after_hook: it follows one of `_HOOKS`, where a shorter text is one too; `v1` and `ingest` never are.
    """
    _, colon, password = part.partition(":")
    if colon and password and not _PLAIN.fullmatch(password):
        return True  # user:password, or Telegram's bot123:key
    is_key = len(part) >= 16 or (len(part) >= 6 and re.search(r"\d", part) is not None)
    return _is_random(part) or (after_hook and is_key)


def _split_path(place: str) -> tuple[str, list[tuple[str, bool]]]:
    """The host, and each part of the path with whether it may be a secret."""
    host, *parts = place.split("/")
    path, after_hook = [], False
    in_password = False  # after a password with a / in it, whose end is unknown
    for part in parts:
        is_one = _has_secret(part) if "=" in part else _is_path_secret(part, after_hook=after_hook)
        secret = bool(part) and (in_password or is_one)
        after_hook = after_hook or part.lower() in _HOOKS
        in_password = in_password or ("=" in part and secret)
        path.append((part, secret))
    return host, path


def without_credentials(url: str) -> str:
    """The address without user and password.

    Only the harmless names stay in its query, and in a part of the path like one. `...` replaces a part of the path
    that may be a key.
    """
    scheme, _, place, query = _split_loosely(url)
    host, path = _split_path(place)
    shown = [(_harmless(part) or _HIDDEN) if "=" in part else _HIDDEN if secret else part for part, secret in path]
    rest = _harmless(query)
    return f"{scheme}://{'/'.join([host, *shown])}" + (f"?{rest}" if rest else "")


def without_path(url: str) -> str:
    """The part of a webhook's address that may be shown: with most services the path is the password."""
    scheme, _, place, query = _split_loosely(url)
    host, _, path = place.partition("/")
    return f"{scheme}://{host}/" + (_HIDDEN if path or query else "")


def shows_credentials(address: str) -> bool:
    """Whether it contains a password, or what may be one. `${NAME}` is none."""
    if "://" not in address:
        return False
    _, userinfo, place, query = _split_loosely(REFERENCE.sub("", address))
    user, colon, password = userinfo.partition(":")
    return bool(password if colon else user) or any(secret for _, secret in _split_path(place)[1]) or _has_secret(query)


def hidden(option: str, value: str) -> str:
    """The value of one of SECRET_OPTIONS as every user may see it; unchanged if it contains no secret."""
    if option == "webhook_header":
        name, _, content = value.partition(":")
        words = REFERENCE.sub("", content).split()
        secret = [word for word in words if word.lower() not in ("bearer", "basic", "token")]
        shows = bool(secret) and (len(secret) < len(words) or _SECRET_NAME.search(name) or any(map(_is_random, words)))
        return f"{name}: {_HIDDEN}" if shows else value
    address = f"mqtt://{value}" if option == "mqtt" and value and "://" not in value else value
    if not shows_credentials(address):
        return value
    return without_path(address) if option == "webhook" else without_credentials(address)


def command_line_warnings(values: Mapping[str, Iterable[str]]) -> list[str]:
    """One warning for each option with a password on the command line.

    values: values of SECRET_OPTIONS, by the option's name there.
    """
    return [
        f"--{option.replace('_', '-')}: the password is visible to other users of this machine in the process list. "
        "Put it into a file and use --env-file."
        for option, texts in values.items()
        if any(hidden(option, text) != text for text in texts)
    ]


def sends_in_clear(address: str) -> bool:
    """Whether a user, a password or a key crosses the network unencrypted on the way to this address."""
    scheme, userinfo, place, query = _split_loosely(address if "://" in address else f"mqtt://{address}")
    host, path = _split_path(place)
    if scheme not in ("mqtt", "http") or re.match(r"(localhost|127\.|\[::1])", host):
        return False
    return bool(userinfo) or "${" in place or any(secret for _, secret in path) or bool(_pairs(query))


def clear_text_warnings(addresses: Mapping[str, str | None]) -> list[str]:
    """One warning for each of `mqtt` and `webhook` whose password crosses the network unencrypted."""
    return [
        f"--{name}: others on the network can read the password. Use {scheme} to encrypt it."
        for name, scheme in (("mqtt", "mqtts://"), ("webhook", "https://"))
        if (address := addresses.get(name)) and sends_in_clear(address)
    ]
