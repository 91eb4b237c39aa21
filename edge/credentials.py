"""Users and passwords in addresses: where they come from, and where they must not be seen.

A device's command lines are read by everybody (`ps`), its results and logs by whoever is sent them.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn
from urllib.parse import quote

from sightline.errors import ConfigError, InputError

if TYPE_CHECKING:
    import ssl

_NAME = "[A-Za-z_][A-Za-z0-9_]*"
_REFERENCE = re.compile(r"\$\{(" + _NAME + r")\}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# of an address's query, what says which image is meant and how it comes; cameras put passwords there too, under many
# names
_HARMLESS = re.compile(
    "action|audio|bitrate|cam|camera|ch|channel|codec|compression|fps|framerate|height|profile|proto|protocol|quality|"
    "res|resolution|rotation|sessiontimeout|size|source|stream|streamtype|subtype|transport|transportmode|"
    "transportprotocol|unicast|videocodec|width",
    re.IGNORECASE,
)
# values that say nothing, unless their name says that they are a secret
_PLAIN = re.compile(
    r"\d{1,3}|true|false|yes|no|on|off|tcp|udp|http|rtsp|unicast|multicast|onvif|main|sub|live|stream|snapshot|"
    r"h26[45]|mjpe?g|jpe?g",
    re.IGNORECASE,
)
# not shown, but no secret either
_USERS = ("user", "username", "usr", "login", "account")
_UUID = re.compile(r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-")
# what a part of a path behind one of these may be: Slack, Home Assistant, Discord, Zapier, IFTTT
_HOOKS = ("webhook", "webhooks", "hook", "hooks", "services", "key", "token", "secret", "bot")
_SECRET_NAME = re.compile("auth|token|key|secret|pass|pwd|psw|pin|cookie|sign|credential|session|api$", re.IGNORECASE)
_HIDDEN = "..."
_FD = "SIGHTLINE_ADDRESSES_FD"


class _Parts(NamedTuple):
    scheme: str
    userinfo: str
    place: str
    query: str


def _parts(address: str) -> _Parts:
    """Of any text with a `://`. A password with an unescaped `/`, `?` or `#` ends the host for a parser: whatever
    stands before the last `@` is the userinfo, unless that `@` stands in the query of an address that is well formed.
    """
    scheme, _, rest = address.partition("://")
    userinfo = ""
    if not re.match(r"(\[[^]/?#@]*]|[^:/?#@]*)(:\d*)?/[^?#@]*\?", rest):
        before, _, after = rest.rpartition("@")
        if re.search(r"/.*=", before):  # the `@` stands in a path with a password, or a `/` in a password: nobody knows
            return _Parts(scheme, before, _HIDDEN, "")
        userinfo, rest = before, after
    place, _, query = rest.partition("#")[0].partition("?")
    return _Parts(scheme, userinfo, place, query)


def _pairs(text: str) -> list[tuple[str, str]]:
    """Of a query, or of a part of a path that is like one: some cameras have `/user=admin_password=x_channel=1.sdp`."""
    pieces = (piece.partition("=") for piece in re.split(r"[&;]|_(?=[A-Za-z]+=)", text) if piece)
    return [(key, value) for key, _, value in pieces]


def _is_random(text: str) -> bool:
    """Whether nobody chose it as a name: 16 letters and digits in a row, which change more than once from one kind to
    the other, or a UUID. `livestreammainchannel2` is a name."""
    runs = re.findall("[A-Za-z0-9]{16,}", text)
    return any(len(re.findall(r"\d+|[A-Za-z]+", run)) > 2 for run in runs) or _UUID.search(text) is not None


def _is_secret(key: str, value: str) -> bool:
    """Of a query. A word without a value is a switch."""
    if not value:
        return _is_random(key)
    if key.lower() in _USERS:
        return re.search("(:|%3a).", value, re.IGNORECASE) is not None  # USER:PASSWORD
    if _HARMLESS.fullmatch(key):
        return _is_random(value)
    return bool(_SECRET_NAME.search(key)) or not _PLAIN.fullmatch(value)


def _harmless(text: str) -> str:
    """What of a query may be shown."""
    return "&".join(
        f"{key}={value}" for key, value in _pairs(text) if value and _HARMLESS.fullmatch(key) and not _is_random(value)
    )


def _has_secret(text: str) -> bool:
    """Whether a query has a value in it that may be a password."""
    return any(_is_secret(key, value) for key, value in _pairs(text))


def _is_path_secret(part: str, *, hook: bool) -> bool:
    """hook: it stands behind one of _HOOKS, where a shorter one counts too; `v1` and `ingest` never do."""
    _, colon, password = part.partition(":")
    if colon and password and not _PLAIN.fullmatch(password):
        return True  # user:password, or Telegram's bot123:key
    return _is_random(part) or (hook and (len(part) >= 16 or (len(part) >= 6 and re.search(r"\d", part) is not None)))


def _split(place: str) -> tuple[str, list[tuple[str, bool]]]:
    """The host, and each part of the path with whether it may be a password as it stands."""
    host, *parts = place.split("/")
    path, hook, broken = [], False, False  # broken: a password with a / in it, of which nobody knows where it ends
    for part in parts:
        secret = bool(part) and (broken or (_has_secret(part) if "=" in part else _is_path_secret(part, hook=hook)))
        hook = hook or part.lower() in _HOOKS
        broken = broken or ("=" in part and secret)
        path.append((part, secret))
    return host, path


def without_credentials(url: str) -> str:
    """The address without user and password; of its query, and of a path that is like one, only what is known to be
    harmless; `...` for a part of the path that may be a key."""
    scheme, _, place, query = _parts(url)
    host, path = _split(place)
    shown = [(_harmless(part) or _HIDDEN) if "=" in part else _HIDDEN if secret else part for part, secret in path]
    kept = _harmless(query)
    return f"{scheme}://{'/'.join([host, *shown])}" + (f"?{kept}" if kept else "")


def without_path(url: str) -> str:
    """Of a receiver's address what may be shown: with most of them the path is the password."""
    scheme, _, place, query = _parts(url)
    host, _, path = place.partition("/")
    return f"{scheme}://{host}/" + (_HIDDEN if path or query else "")


def shows_credentials(address: str) -> bool:
    """Whether a password, or what may be one, stands in it as it is: `${NAME}` is nothing to hide."""
    if "://" not in address:
        return False
    _, userinfo, place, query = _parts(_REFERENCE.sub("", address))
    user, colon, password = userinfo.partition(":")
    return bool(password if colon else user) or any(secret for _, secret in _split(place)[1]) or _has_secret(query)


# the options of `sightline run` whose values may have a password in them
SECRET = ("source", "mqtt", "webhook", "webhook_header")


def hidden(option: str, value: str) -> str:
    """The value of one of SECRET as everybody may see it; the value itself where there is nothing to hide."""
    if option == "webhook_header":
        name, _, content = value.partition(":")
        words = _REFERENCE.sub("", content).split()
        secret = [word for word in words if word.lower() not in ("bearer", "basic", "token")]
        shows = bool(secret) and (len(secret) < len(words) or _SECRET_NAME.search(name) or any(map(_is_random, words)))
        return f"{name}: {_HIDDEN}" if shows else value
    address = f"mqtt://{value}" if option == "mqtt" and value and "://" not in value else value
    if not shows_credentials(address):
        return value
    return without_path(address) if option == "webhook" else without_credentials(address)


def sends_in_clear(address: str) -> bool:
    """Whether a user, a password or a key goes over the network to it unencrypted."""
    scheme, userinfo, place, query = _parts(address if "://" in address else f"mqtt://{address}")
    host, path = _split(place)
    if scheme not in ("mqtt", "http") or re.match(r"(localhost|127\.|\[::1])", host):
        return False
    return bool(userinfo) or "${" in place or any(secret for _, secret in path) or bool(_pairs(query))


def load_key_pair(context: ssl.SSLContext, certificate: Path, key: Path | None, options: str) -> None:
    """Into a context of TLS. key: None = it stands in the same file. options: how the two are called in an error.
    Raises ConfigError, also for an encrypted key: OpenSSL would ask for its password on the terminal."""
    import ssl  # 6 ms, which an agent without certificates need not pay

    def refuse() -> NoReturn:
        raise ConfigError(
            f"{options}: the key is encrypted, and nobody is there to type its password; "
            f"`openssl pkey -in {key or certificate} -out plain.key` writes one without"
        )

    try:
        context.load_cert_chain(certificate, key, password=refuse)
    except ssl.SSLError as e:
        what = "no certificate and key in PEM"
        if e.reason == "KEY_VALUES_MISMATCH":
            what = "the key is not the certificate's"
        raise ConfigError(f"{options}: {what} ({e.reason or e})") from None
    except OSError as e:
        raise ConfigError(f"{options}: cannot be read: {e.strerror}") from None


def clear_text_warnings(addresses: Mapping[str, str | None]) -> list[str]:
    """One for each of --mqtt and --webhook (without the dashes) whose password goes over the network unencrypted."""
    return [
        f"others on the network can read the password of --{name}: {instead} encrypts it"
        for name, instead in (("mqtt", "mqtts://"), ("webhook", "https://"))
        if (address := addresses.get(name)) and sends_in_clear(address)
    ]


def expand(address: str, environment: Mapping[str, str], option: str = "--source") -> str:
    """The address with each `${NAME}` replaced from the environment; what is no address (`://`) stays as it is.

    In the user and the password, and as a value in the query, what is put in is percent-encoded: a password with @, /
    or : works as it is. When one name stands for both (`rtsp://${LOGIN}@host`), its first : parts them.
    Raises InputError, which names the variable and never shows a value.
    """
    if "://" not in address:
        return address
    begin = address.index("://") + 3
    authority = re.split("[/?#]", address[begin:], maxsplit=1)[0]
    end = begin + max(authority.rfind("@"), 0)
    query = address.find("?", end)
    both = _REFERENCE.fullmatch(address, begin, end)

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in environment:
            raise InputError(
                f"{option}: ${{{name}}} is not set; `export {name}=...`, or a line {name}=... in --env-file"
            )
        text = environment[name]
        if _CONTROL.search(text):
            raise InputError(f"{option}: ${{{name}}} has a line break or another control character in it")
        if match.start() < end:
            return ":".join(quote(part, safe="") for part in (text.split(":", 1) if both else [text]))
        if 0 <= query < match.start() and address[match.start() - 1] == "=":
            return quote(text, safe="")
        return text

    if "${" in _REFERENCE.sub("", address):
        raise InputError(f"{option}: write ${{NAME}}, with letters, digits and _, and ' around it for the shell")
    return _REFERENCE.sub(value, address)


def read_env_file(path: Path) -> dict[str, str]:
    """NAME=value lines, as systemd's EnvironmentFile and Docker's --env-file have them; the last of a name counts.

    Lines that are empty or begin with # or ; are left out; a value may stand in ' or ". Raises InputError with the
    number of the line and never its value, for what the two would read differently too.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as e:
        raise InputError(f"--env-file {path}: cannot be read: {e.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"--env-file {path}: not UTF-8 text") from None
    values = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line[0] in "#;":
            continue
        match = re.fullmatch(rf"({_NAME})=(?:'([^']*)'|\"([^\"\\]*)\"|([^'\"\\\s].*)?)", line)
        if not match or (match[4] and "\\" in match[4]):
            raise InputError(f"--env-file {path}, line {number}: {_wrong_with(line)}")
        values[match[1]] = match[2] or match[3] or match[4] or ""
    return values


def _wrong_with(line: str) -> str:
    """Without quoting it."""
    name, equals, value = line.partition("=")
    if not equals:
        return "NAME=value is needed"
    if not re.fullmatch(_NAME, name):
        return "a name of letters, digits and _ is needed right before the =, without `export`"
    if "\\" in value:
        return f"{name}: a \\ is read differently by systemd and by Docker; put the value in '"
    if value[0].isspace():
        return f"{name}: no space right behind the =; where it belongs to the value, put the value in '"
    return f"{name}: a quotation mark without its other half, or something behind it"


def world_readable_warning(path: Path) -> str | None:
    """A warning when everybody on the machine may read the file."""
    if path.stat().st_mode & stat.S_IROTH:
        return f"everybody on this machine can read {path}: `chmod 600 {path}`"
    return None


def hide_arguments(values: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The values as they were given, in a process whose command line shows none of their credentials.

    values: of options in SECRET. Call it before any thread starts. When one has a password in it, the process starts
    itself again (0.1 s, the same PID) with what may be seen; the real ones wait in a pipe, which nobody else can read,
    and of which nothing is left once they are taken out.
    """
    fd = os.environ.pop(_FD, "")
    if fd:
        with os.fdopen(int(fd), "rb") as pipe:
            real: dict[str, list[str]] = json.load(pipe)
        return real
    arguments = sys.orig_argv[1:]
    for option, texts in values.items():
        for text in texts:
            arguments = [argument.replace(text, hidden(option, text)) if text else argument for argument in arguments]
    if arguments != sys.orig_argv[1:]:
        _start_again(arguments, values)
    return {option: list(texts) for option, texts in values.items()}


def _start_again(arguments: Sequence[str], values: Mapping[str, Sequence[str]]) -> NoReturn:
    print(
        "warning: a password stood on the command line, where `ps` shows it and the shell's history keeps it; write "
        "'rtsp://${CAMERA_USER}:${CAMERA_PASSWORD}@host/..' and put both into a file for --env-file",
        file=sys.stderr,
        flush=True,
    )
    read, write = os.pipe()
    with os.fdopen(write, "wb") as pipe:
        pipe.write(json.dumps(values).encode())
    os.set_inheritable(read, True)
    os.environ[_FD] = str(read)
    sys.stdout.flush()
    # not argv[0], by which Python would look for itself on PATH and perhaps find another one
    os.execv(sys.executable, [sys.executable, *arguments])
