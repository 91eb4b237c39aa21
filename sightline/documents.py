"""Files that somebody else wrote: what may be read of them, and how a refusal names its place."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from sightline.errors import ConfigError, InputError


def read_bytes(path: Path, error: type[InputError], most: int | None = None) -> bytes:
    """The content of an ordinary file. most: bytes it may have. Raises `error`: a pipe would hold up its reader for
    ever, and a folder or a device has no content."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise error(f"{path}: cannot be read: {'it is a folder' if stat.S_ISDIR(mode) else 'it is not a file'}")
        with path.open("rb") as f:
            data = f.read() if most is None else f.read(most + 1)
    except OSError as e:
        raise error(f"{shortened(path)}: cannot be read: {e.strerror}") from None
    except ValueError as e:  # a NUL in its name, or half of a surrogate pair
        raise error(f"{shortened(path)!r}: cannot be the name of a file: {e}") from None
    if most is not None and len(data) > most:
        raise error(f"{path}: is larger than {most:,} bytes, the most that is read of such a file")
    return data


def read_text(path: Path, error: type[InputError], most: int | None = None) -> str:
    """The same as text. Raises `error`, which names the byte that is not UTF-8."""
    data = read_bytes(path, error, most)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise error(f"{path}, line {line}: not UTF-8 (byte {data[e.start]:#04x}); save it as UTF-8") from None


def is_file(path: Path) -> bool:
    """Whether it is an ordinary file; False as well where the system refuses to say, as for a name that is too long."""
    return os.path.isfile(path)  # noqa: PTH113  # Path.is_file raises for those


def inside(folder: Path, name: str) -> Path | None:
    """folder/name, by which a document names a file; None where its text leads out of the folder. Links are followed:
    whoever owns the folder has made them."""
    plain = os.path.normpath(name)
    return None if plain.split("/")[0] in ("", "..") else folder / plain


def home(instead: str) -> Path:
    """This user's folder. A container's user may have none: ConfigError, which names the option to give instead."""
    try:
        return Path.home()
    except RuntimeError:
        raise ConfigError(f"this user has no home folder: set HOME, or give {instead}") from None


def parse_json(data: bytes | str) -> Any:
    """As `json.loads`, whose RecursionError for what is nested too deep becomes a ValueError too."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def utf8(text: str) -> bool:
    """Whether it can be written as UTF-8: a name of a file may be any bytes, of which Python makes half surrogates."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def shortened(path: str | os.PathLike[str], width: int = 120) -> str:
    """A path for a message, which stays readable."""
    text = os.fspath(path)
    return text if len(text) <= width else f"{text[: width // 2]}...{text[-width // 3 :]}"
