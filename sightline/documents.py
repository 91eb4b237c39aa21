"""Reads files of other origin: within limits, and with errors that name the file and the place in it."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from sightline.errors import ConfigError, InputError


def read_regular(path: Path, limit: int | None = None) -> tuple[bytes, int]:
    """(content, size of the file in bytes) of an ordinary file. limit: bytes that are read at most.

    Raises OSError, also for a folder, a pipe or a device: reading from a pipe could block forever. The check is made on
    the open file, so nothing can replace the file between check and reading.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    info = os.fstat(handle)
    if not stat.S_ISREG(info.st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is a folder" if stat.S_ISDIR(info.st_mode) else "it is not a regular file")
    with os.fdopen(handle, "rb") as f:
        return f.read() if limit is None else f.read(limit), info.st_size


def read_bytes(path: Path, error: type[InputError], limit: int | None = None) -> bytes:
    """The content of an ordinary file. limit: bytes that it may have. Raises `error`."""
    try:
        data, _ = read_regular(path, None if limit is None else limit + 1)
    except OSError as e:
        raise error(f"{shortened(path)}: cannot be read: {e.strerror}") from None
    except ValueError as e:  # a NUL in its name, or half of a surrogate pair
        raise error(f"{shortened(path)!r}: cannot be the name of a file: {e}") from None
    if limit is not None and len(data) > limit:
        raise error(f"{path}: is larger than {limit:,} bytes, the limit for such a file")
    return data


def read_text(path: Path, error: type[InputError], limit: int | None = None) -> str:
    """The content of an ordinary file as text. Raises `error`, which names the byte that is not UTF-8."""
    data = read_bytes(path, error, limit)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise error(f"{path}, line {line}: not UTF-8 (byte {data[e.start]:#04x}). Save it as UTF-8.") from None


def is_file(path: Path) -> bool:
    """Whether it is an ordinary file. False if the system cannot tell, as for a name that is too long."""
    return os.path.isfile(path)  # noqa: PTH113  # Path.is_file raises for those


def inside(folder: Path, name: str) -> Path | None:
    """folder/name, where a document names the file; None if the name leads out of the folder.

    Links are followed: the owner of the folder has made them.
    """
    plain = os.path.normpath(name)
    return None if plain.split("/")[0] in ("", "..") else folder / plain


def home(instead: str) -> Path:
    """This user's home folder. Raises ConfigError if the user has none, as in some containers.

    instead: the option that replaces it, for the message.
    """
    try:
        return Path.home()
    except RuntimeError:
        raise ConfigError(f"this user has no home folder. Set HOME, or pass {instead}.") from None


def parse_json(data: bytes | str) -> Any:
    """Like `json.loads`, but raises ValueError instead of RecursionError for a document that is nested too deep."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def utf8(text: str) -> bool:
    """Whether the text can be written as UTF-8. A file name may be any bytes; Python reads some as half surrogates."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def shortened(path: str | os.PathLike[str], width: int = 120) -> str:
    """A path for a message, which stays readable."""
    text = os.fspath(path)
    return text if len(text) <= width else f"{text[: width // 2]}...{text[-width // 3 :]}"
