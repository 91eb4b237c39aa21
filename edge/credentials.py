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
from typing import NamedTuple, NoReturn
from urllib.parse import parse_qsl, quote, urlencode

from sightline.errors import InputError

_NAME = "[A-Za-z_][A-Za-z0-9_]*"
_REFERENCE = re.compile(r"\$\{(" + _NAME + r")\}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# of an address's query, what says which picture is meant; cameras put passwords there too, under many names
_HARMLESS = ("camera", "cam", "channel", "ch", "stream", "subtype", "profile", "resolution", "res", "size", "fps")
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
        userinfo, _, rest = rest.rpartition("@")
    place, _, query = rest.partition("#")[0].partition("?")
    return _Parts(scheme, userinfo, place, query)


def without_credentials(url: str) -> str:
    """The address without user and password, and of its query only what is known to be harmless."""
    scheme, _, place, query = _parts(url)
    kept = urlencode([(key, value) for key, value in parse_qsl(query) if key.lower() in _HARMLESS], safe=":/*")
    return f"{scheme}://{place}" + (f"?{kept}" if kept else "")


def shows_credentials(address: str) -> bool:
    """Whether a password, or what may be one, stands in it as it is: `${NAME}` is nothing to hide."""
    if "://" not in address:
        return False
    _, userinfo, _, query = _parts(_REFERENCE.sub("", address))
    user, colon, password = userinfo.partition(":")
    return bool(password if colon else user) or any(key.lower() not in _HARMLESS for key, _ in parse_qsl(query))


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


def seen_by_all(path: Path) -> str | None:
    """A warning when everybody on the machine may read the file."""
    if path.stat().st_mode & stat.S_IROTH:
        return f"everybody on this machine can read {path}: `chmod 600 {path}`"
    return None


def hide_arguments(addresses: Sequence[str]) -> list[str]:
    """The addresses as they were given, in a process whose command line shows none of their credentials.

    Call it with the options' values before any thread starts. When one has a password in it, the process starts itself
    again (0.1 s, the same PID) with addresses without credentials; the real ones wait in a pipe, which nobody else can
    read, and of which nothing is left once they are taken out.
    """
    fd = os.environ.pop(_FD, "")
    if fd:
        with os.fdopen(int(fd), "rb") as pipe:
            real: list[str] = json.load(pipe)
        return real
    secret = [a for a in addresses if shows_credentials(a)]
    arguments = sys.orig_argv[1:]
    for address in secret:
        arguments = [argument.replace(address, without_credentials(address)) for argument in arguments]
    if arguments != sys.orig_argv[1:]:
        _start_again(arguments, addresses)
    return list(addresses)


def _start_again(arguments: Sequence[str], addresses: Sequence[str]) -> NoReturn:
    print(
        "warning: a password stood on the command line, where `ps` shows it and the shell's history keeps it; write "
        "'rtsp://${CAMERA_USER}:${CAMERA_PASSWORD}@host/..' and put both into a file for --env-file",
        file=sys.stderr,
        flush=True,
    )
    read, write = os.pipe()
    with os.fdopen(write, "wb") as pipe:
        pipe.write(json.dumps(list(addresses)).encode())
    os.set_inheritable(read, True)
    os.environ[_FD] = str(read)
    sys.stdout.flush()
    # not argv[0], by which Python would look for itself on PATH and perhaps find another one
    os.execv(sys.executable, [sys.executable, *arguments])
