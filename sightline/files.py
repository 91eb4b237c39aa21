"""Files that are whole or absent, and folders whose document knows the hash of every file in them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sightline.documents import parse_json
from sightline.errors import DeviceError, IntegrityError, ModelError

FileTable = dict[str, dict[str, Any]]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def file_table(files: Mapping[str, bytes]) -> FileTable:
    """{name: {"sha256": hex, "bytes": size}}, in the order of the names."""
    return {name: {"sha256": sha256(data), "bytes": len(data)} for name, data in sorted(files.items())}


def read_verified(folder: Path, table: FileTable, name: str) -> bytes:
    """The bytes of a file, exactly as they were when the table was made; IntegrityError names it otherwise."""
    if name not in table:
        raise ModelError(f"{folder}: its document does not list {name!r}, only {', '.join(table)}")
    path = folder / name
    try:
        data = path.read_bytes()
    except OSError as e:
        raise IntegrityError(f"{path}: cannot be read ({e.strerror}); copy the whole folder again") from None
    if len(data) != table[name]["bytes"] or sha256(data) != table[name]["sha256"]:
        found = f"{len(data)} bytes" if len(data) != table[name]["bytes"] else "same size, other content"
        raise IntegrityError(
            f"{path}: is not the file that was written (sha256 differs; {found}); copy the folder again"
        )
    return data


def seal(document: dict[str, Any]) -> bytes:
    """The document as JSON with `sealed` as its last key: the sha256 of everything before it."""
    body = {k: v for k, v in document.items() if k != "sealed"}
    body["sealed"] = sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode())
    return (json.dumps(body, indent=2, ensure_ascii=False) + "\n").encode()


def unseal(path: Path, kind: str, newest: int) -> dict[str, Any]:
    """Read what `seal` wrote. `kind` names it in errors; `newest` is the highest schema that this version knows."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise ModelError(f"{path.parent}: not a {kind}: {path.name} cannot be read ({e.strerror})") from None
    try:
        document = parse_json(data)
        if not isinstance(document, dict):
            raise ValueError("not a mapping")
    except ValueError as e:
        raise IntegrityError(f"{path}: damaged, not valid JSON ({e}); copy the folder again") from None
    schema = document.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise ModelError(f"{path}: not a {kind}: it has no schema number")
    if schema > newest:
        raise ModelError(
            f"{path}: written by a newer Sightline (schema {schema}, this version reads up to {newest}); "
            "upgrade with: pip install -U sightline"
        )
    body = {k: v for k, v in document.items() if k != "sealed"}
    try:
        written = json.dumps(body, sort_keys=True, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):  # half of a surrogate pair, which no UTF-8 has; nested too deep
        raise IntegrityError(f"{path}: damaged: it holds what cannot be written; copy the folder again") from None
    if document.get("sealed") != sha256(written):
        raise IntegrityError(f"{path}: is not the document that was written (its seal differs); copy the folder again")
    return body


def checked_table(document: Mapping[str, Any], where: str) -> FileTable:
    """The document's `files`, each a plain name: a crafted document must not reach outside its folder."""
    table = document.get("files")
    if not isinstance(table, dict) or not all(
        isinstance(v, dict) and isinstance(v.get("sha256"), str) and isinstance(v.get("bytes"), int)
        for v in table.values()
    ):
        raise ModelError(f"{where}: 'files' is not a table of names with sha256 and bytes")
    for name in table:
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise ModelError(f"{where}: {name!r} is not the plain name of a file in this folder")
    return table


def write_file(path: Path, data: bytes) -> None:
    """Write beside, fsync, rename: a reader, or a power cut, sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_synced(temporary, data)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as e:
        raise DeviceError(f"{path}: cannot be written: {e.strerror}") from None
    finally:
        with contextlib.suppress(OSError):  # FileNotFoundError when all went well
            temporary.unlink()


def write_secret(path: Path, data: bytes) -> None:
    """The same for what only this user may read, in a folder that is theirs alone if it has to be made."""
    old = os.umask(0o077)
    try:
        write_file(path, data)
    finally:
        os.umask(old)


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """The same for a folder of files; whatever stood at `path` is replaced as a whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    replaced = path.with_name(f".{path.name}.{os.getpid()}.old")
    import shutil  # it brings every archive format: a device that only reads need not pay for it

    try:
        temporary.mkdir(parents=True)
        for name, data in files.items():
            _write_synced(temporary / name, data)
        _sync_folder(temporary)
        if path.exists():
            path.rename(replaced)
        temporary.rename(path)
        _sync_folder(path.parent)
    except OSError as e:
        raise DeviceError(f"{path}: cannot be written: {e.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            if replaced.exists() and not path.exists():  # stopped between the two renames
                replaced.rename(path)
        for leftover in (temporary, replaced):
            if leftover.is_symlink():  # `path` was a link to a folder: it is the link that was replaced
                leftover.unlink()
            shutil.rmtree(leftover, ignore_errors=True)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
