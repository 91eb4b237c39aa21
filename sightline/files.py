"""Files that are complete or absent, and folders with a document that has the hash of every file in them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sightline.documents import parse_json, read_regular
from sightline.errors import DeviceError, IntegrityError, ModelError, fault_type

LARGEST = 2**31  # bytes of a file: a .tflite cannot have more
LARGEST_DOCUMENT = 2**26  # bytes of a JSON document
RENAME_S = 0.2  # a living writer needs less between its two renames
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # constants of Linux
_MAX_TRIES = 100  # of a writer that other writers of the same path disturb
FileTable = dict[str, dict[str, Any]]
Exchange = Callable[[Path, Path], bool]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def file_table(files: Mapping[str, bytes]) -> FileTable:
    """{name: {"sha256": hex, "bytes": size}}, sorted by name."""
    return {name: {"sha256": sha256(data), "bytes": len(data)} for name, data in sorted(files.items())}


def read_verified(folder: Path, table: FileTable, name: str) -> bytes:
    """The bytes of a file, exactly as they were when the table was made. Raises IntegrityError if they have changed."""
    if name not in table:
        raise ModelError(f"{folder}: its document does not list {name!r}. It lists: {', '.join(table)}")
    path, size = folder / name, table[name]["bytes"]
    if not 0 <= size <= LARGEST:
        raise ModelError(f"{path}: has {size} bytes according to its document. The limit is {LARGEST}.")
    try:
        data, actual_size = read_regular(path, size)
    except OSError as e:
        text = f"{path}: cannot be read ({e.strerror}). Copy the whole folder again."
        raise fault_type(e, IntegrityError)(text) from None
    if actual_size != size or sha256(data) != table[name]["sha256"]:
        difference = f"{actual_size} bytes" if actual_size != size else "same size, other content"
        raise IntegrityError(
            f"{path}: is not the file that was written (sha256 differs; {difference}). Copy the folder again."
        )
    return data


def seal(document: dict[str, Any]) -> bytes:
    """The document as JSON, with the sha256 of everything else as its last key, `sealed`."""
    body = {k: v for k, v in document.items() if k != "sealed"}
    body["sealed"] = sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode())
    return (json.dumps(body, indent=2, ensure_ascii=False) + "\n").encode()


def unseal(path: Path, what: str, current: int) -> dict[str, Any]:
    """Read what `seal` wrote, without its seal.

    what: names the document in errors.
    current: schema number that this version reads.
    """
    try:
        data, size = read_regular(path, LARGEST_DOCUMENT)
    except OSError as e:
        text = f"{path.parent}: not a {what}: {path.name} cannot be read ({e.strerror})"
        raise fault_type(e, ModelError)(text) from None
    if size > LARGEST_DOCUMENT:
        raise ModelError(f"{path}: has {size} bytes. The limit is {LARGEST_DOCUMENT}.")
    try:
        document = parse_json(data)
        if not isinstance(document, dict):
            raise ValueError("not a mapping")
        body = {k: v for k, v in document.items() if k != "sealed"}
        digest = sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode())
    except RecursionError:
        raise IntegrityError(f"{path}: damaged: nested too deep. Copy the folder again.") from None
    except ValueError as e:  # half a surrogate pair is one, too
        raise IntegrityError(f"{path}: damaged, not valid JSON ({e}). Copy the folder again.") from None
    schema = document.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise ModelError(f"{path}: not a {what}: it has no schema number")
    if schema > current:
        raise ModelError(
            f"{path}: written by a newer Sightline (schema {schema}; this version reads schema {current}). "
            "Upgrade with: pip install -U sightline"
        )
    if schema < current:
        raise ModelError(
            f"{path}: written by an older Sightline (schema {schema}; this version reads schema {current}). "
            f"Make the {what} again with this version."
        )
    if document.get("sealed") != digest:
        raise IntegrityError(f"{path}: is not the document that was written (its seal differs). Copy the folder again.")
    return body


def checked_table(document: Mapping[str, Any], where: str) -> FileTable:
    """The document's `files`. All names must be plain: a crafted document must not reach outside its folder."""
    table = document.get("files")
    if not isinstance(table, dict) or not all(
        isinstance(v, dict) and isinstance(v.get("sha256"), str) and isinstance(v.get("bytes"), int)
        for v in table.values()
    ):
        raise ModelError(f"{where}: 'files' must be a table of names with sha256 and bytes")
    for name in table:
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise ModelError(f"{where}: {name!r} is not the plain name of a file in this folder")
    return table


def write_file(path: Path, data: bytes) -> None:
    """Write a temporary file, fsync, rename: after a power cut there is the old file or the new one, never a part.

    Raises DeviceError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        with _temporary(path, folder=False) as (temporary, handle):
            with os.fdopen(handle, "wb", closefd=False) as f:
                f.write(data)
                f.flush()
                os.fsync(handle)
            temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as e:
        raise DeviceError(f"{path}: cannot be written: {e.strerror}") from None


def write_secret(path: Path, data: bytes) -> None:
    """Like `write_file`, but only this user may read the file. A new folder for it is also private."""
    old = os.umask(0o077)
    try:
        write_file(path, data)
    finally:
        os.umask(old)


def exchange_folders(one: Path, other: Path) -> bool:
    """Exchange two folders in one step. Returns False if the system or the file system cannot do that."""
    import ctypes

    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # an old libc, or not Linux
        return False
    failed: int = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return failed == 0


def write_folder(path: Path, files: Mapping[str, bytes], *, exchange: Exchange = exchange_folders) -> None:
    """Like `write_file` for a folder of files. It replaces whatever is at `path` as a whole. Raises DeviceError.

    If the file system cannot exchange two folders, the old one is renamed first. If the writer is killed between these
    two renames, `heal` restores the old folder.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        heal(path)
        _sweep(path)
        with _temporary(path, folder=True) as (temporary, _):
            for name, data in files.items():
                with (temporary / name).open("wb") as f:
                    f.write(data)
                    f.flush()
                    os.fsync(f.fileno())
            _sync_folder(temporary)
            _put_in_place(temporary, path, exchange)
        _sync_folder(path.parent)
    except OSError as e:
        raise DeviceError(f"{path}: cannot be written: {e.strerror}") from None


def heal(path: Path, *, wait_s: float = RENAME_S) -> None:
    """Restore a folder whose writer was killed between its two renames.

    wait_s: seconds in which a living writer may finish. 0 if this process was the writer.
    """
    if os.path.lexists(path) or not (replaced := _leftovers(path, "old")):
        return
    time.sleep(wait_s)
    with contextlib.suppress(OSError):
        if not os.path.lexists(path):
            max(replaced, key=lambda p: p.stat().st_mtime).rename(path)


def _put_in_place(temporary: Path, path: Path, exchange: Exchange) -> None:
    """Move a finished folder to `path`. Another writer of the same path may interfere at any step: then try again."""
    replaced = _beside(path, "old")
    try:
        for _ in range(_MAX_TRIES):
            if os.path.lexists(path):
                if exchange(temporary, path):
                    return
                _remove(replaced)  # of the previous try, if a newer folder is at `path`
                with contextlib.suppress(FileNotFoundError):
                    path.rename(replaced)
            try:
                temporary.rename(path)
                return
            except OSError as e:
                if e.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
        raise OSError(errno.EBUSY, "other processes keep writing it")
    finally:
        heal(path, wait_s=0)
        if os.path.lexists(path):
            _remove(replaced)


@contextlib.contextmanager
def _temporary(path: Path, *, folder: bool) -> Iterator[tuple[Path, int]]:
    """(a new file or folder beside `path`, its open handle).

    It is locked while its writer lives, and removed at the end unless it has been renamed. A sweeper may remove it
    before it is locked: then another one is made.
    """
    for _ in range(_MAX_TRIES):
        temporary, handle = _beside(path, "part"), -1
        try:
            if folder:
                temporary.mkdir()
            try:
                handle = os.open(temporary, os.O_RDONLY if folder else os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                fcntl.flock(handle, fcntl.LOCK_EX)
                exists = os.path.samestat(os.fstat(handle), temporary.stat())
            except FileNotFoundError:
                if not path.parent.is_dir():
                    raise
                exists = False
            if exists:
                yield temporary, handle
                return
        finally:
            if handle >= 0:
                os.close(handle)
            with contextlib.suppress(OSError):
                _remove(temporary)
    raise OSError(errno.EBUSY, "other processes keep removing the temporary file")


def _beside(path: Path, kind: str) -> Path:
    """A unique name beside `path`. The PID would not be unique: containers and threads share it."""
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}.{kind}")


def _leftovers(path: Path, kind: str) -> list[Path]:
    """The paths that `_beside` has named in any process. A user's own files have other names."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.{kind}")
    try:
        return [path.with_name(entry.name) for entry in os.scandir(path.parent) if pattern.fullmatch(entry.name)]
    except OSError:
        return []


def _sweep(path: Path) -> None:
    """Remove the leftovers of writers that were killed. A living writer holds a lock on its temporary file."""
    for leftover in _leftovers(path, "part"):
        with contextlib.suppress(OSError), _locked(leftover, fcntl.LOCK_NB):
            _remove(leftover)
    replaced = _leftovers(path, "old")
    if os.path.lexists(path):  # checked after the listing: each replaced folder has a successor
        for leftover in replaced:
            _remove(leftover)


def _remove(path: Path) -> None:
    import shutil  # loads every archive format, which a device that only reads does not need

    if path.is_symlink() or path.is_file():  # a link: the replaced path was a link to a folder
        path.unlink(missing_ok=True)
    elif path.exists():
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path, how: int = 0) -> Iterator[None]:
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | how)
        yield
    finally:
        os.close(handle)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
