"""Files that are whole or absent, and folders whose document knows the hash of every file in them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sightline.documents import parse_json
from sightline.errors import DeviceError, IntegrityError, ModelError, fault_type

LARGEST = 2**31  # bytes of a file: a .tflite cannot have more
LARGEST_DOCUMENT = 2**26
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE, of Linux
_TRIES = 100  # of a writer whom other writers of the same path disturb

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
    path, size = folder / name, table[name]["bytes"]
    if not 0 <= size <= LARGEST:
        raise ModelError(f"{path}: {size} bytes, by its document; at most {LARGEST} are taken")
    try:
        data, there = read_regular(path, size)
    except OSError as e:
        text = f"{path}: cannot be read ({e.strerror}); copy the whole folder again"
        raise fault_type(e, IntegrityError)(text) from None
    if there != size or sha256(data) != table[name]["sha256"]:
        found = f"{there} bytes" if there != size else "same size, other content"
        raise IntegrityError(
            f"{path}: is not the file that was written (sha256 differs; {found}); copy the folder again"
        )
    return data


def read_regular(path: Path, most: int) -> tuple[bytes, int]:
    """(its first bytes, how many it has). Raises OSError, also for a pipe or a device, which could keep us for ever."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    info = os.fstat(handle)
    if not stat.S_ISREG(info.st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is a folder" if stat.S_ISDIR(info.st_mode) else "it is no regular file")
    with os.fdopen(handle, "rb") as f:
        return f.read(most), info.st_size


def seal(document: dict[str, Any]) -> bytes:
    """The document as JSON with `sealed` as its last key: the sha256 of everything before it."""
    body = {k: v for k, v in document.items() if k != "sealed"}
    body["sealed"] = sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode())
    return (json.dumps(body, indent=2, ensure_ascii=False) + "\n").encode()


def unseal(path: Path, what: str, current: int) -> dict[str, Any]:
    """Read what `seal` wrote. `what` names it in errors; `current` is the schema number that this version reads."""
    try:
        data, size = read_regular(path, LARGEST_DOCUMENT)
    except OSError as e:
        text = f"{path.parent}: not a {what}: {path.name} cannot be read ({e.strerror})"
        raise fault_type(e, ModelError)(text) from None
    if size > LARGEST_DOCUMENT:
        raise ModelError(f"{path}: {size} bytes; at most {LARGEST_DOCUMENT} are taken")
    try:
        document = parse_json(data)
        if not isinstance(document, dict):
            raise ValueError("not a mapping")
        body = {k: v for k, v in document.items() if k != "sealed"}
        digest = sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode())
    except RecursionError:
        raise IntegrityError(f"{path}: damaged: nested too deeply; copy the folder again") from None
    except ValueError as e:  # half a surrogate pair is one, too
        raise IntegrityError(f"{path}: damaged, not valid JSON ({e}); copy the folder again") from None
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        with _begun(path, folder=False) as (temporary, handle):
            with os.fdopen(handle, "wb", closefd=False) as f:
                f.write(data)
                f.flush()
                os.fsync(handle)
            temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as e:
        raise DeviceError(f"{path}: cannot be written: {e.strerror}") from None


def write_secret(path: Path, data: bytes) -> None:
    """The same for what only this user may read, in a folder that is theirs alone if it has to be made."""
    old = os.umask(0o077)
    try:
        write_file(path, data)
    finally:
        os.umask(old)


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """The same for a folder of files; whatever stood at `path` is replaced as a whole. Where the file system cannot
    exchange two folders, `heal` finds the old one if the writer is killed between two renames."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        heal(path)
        _sweep(path)
        with _begun(path, folder=True) as (temporary, _):
            for name, data in files.items():
                with (temporary / name).open("wb") as f:
                    f.write(data)
                    f.flush()
                    os.fsync(f.fileno())
            _sync_folder(temporary)
            _put_in_place(temporary, path)
        _sync_folder(path.parent)
    except OSError as e:
        raise DeviceError(f"{path}: cannot be written: {e.strerror}") from None


def heal(path: Path, *, at_once: bool = False) -> None:
    """Put a folder back in its place whose writer was killed between its two renames. at_once: this process was it."""
    if os.path.lexists(path) or not (aside := _leftovers(path, "old")):
        return
    if not at_once:
        time.sleep(0.2)  # a writer that lives is between them for a moment only
    with contextlib.suppress(OSError):
        if not os.path.lexists(path):
            max(aside, key=lambda p: p.stat().st_mtime).rename(path)


def _put_in_place(temporary: Path, path: Path) -> None:
    """Another writer of the same path may come between any two steps: then again."""
    replaced = _beside(path, "old")
    try:
        for _ in range(_TRIES):
            if os.path.lexists(path):
                if _exchanged(temporary, path):
                    return
                _remove(replaced)  # of the try before, when a newer one stands in its place
                with contextlib.suppress(FileNotFoundError):
                    path.rename(replaced)
            try:
                temporary.rename(path)
                return
            except OSError as e:
                if e.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
        raise OSError(errno.EBUSY, "others write it again and again")
    finally:
        heal(path, at_once=True)
        if os.path.lexists(path):
            _remove(replaced)


@contextlib.contextmanager
def _begun(path: Path, *, folder: bool) -> Iterator[tuple[Path, int]]:
    """(a new file or folder beside `path`, its open handle), locked as long as its writer lives; it is removed unless
    it has been renamed. A sweeper may see it before it is locked, and remove it: then another one is made."""
    for _ in range(_TRIES):
        temporary, handle = _beside(path, "part"), -1
        try:
            if folder:
                temporary.mkdir()
            try:
                handle = os.open(temporary, os.O_RDONLY if folder else os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                fcntl.flock(handle, fcntl.LOCK_EX)
                is_there = os.path.samestat(os.fstat(handle), temporary.stat())
            except FileNotFoundError:
                if not path.parent.is_dir():
                    raise
                is_there = False
            if is_there:
                yield temporary, handle
                return
        finally:
            if handle >= 0:
                os.close(handle)
            with contextlib.suppress(OSError):
                _remove(temporary)
    raise OSError(errno.EBUSY, "others remove what is written")


def _beside(path: Path, kind: str) -> Path:
    """A name that nobody else has: two containers, or two threads, may have the same PID."""
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}.{kind}")


def _leftovers(path: Path, kind: str) -> list[Path]:
    """What `_beside` named, of any process; a user's own file beside it has another name."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.{kind}")
    try:
        return [path.with_name(entry.name) for entry in os.scandir(path.parent) if pattern.fullmatch(entry.name)]
    except OSError:
        return []


def _sweep(path: Path) -> None:
    """Remove what writers that were killed have left. One that lives holds a lock on its own."""
    for leftover in _leftovers(path, "part"):
        with contextlib.suppress(OSError), _locked(leftover, fcntl.LOCK_NB):
            _remove(leftover)
    replaced = _leftovers(path, "old")
    if os.path.lexists(path):  # asked after the list was made: each of it has a successor
        for leftover in replaced:
            _remove(leftover)


def _remove(path: Path) -> None:
    import shutil  # it brings every archive format: a device that only reads need not pay for it

    if path.is_symlink() or path.is_file():  # a link: what was replaced was a link to a folder
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


def _exchanged(one: Path, other: Path) -> bool:
    """Whether the two have changed places, in one step; False where the system or the file system cannot do that."""
    import ctypes

    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # an old libc, or no Linux
        return False
    failed: int = rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE)
    return failed == 0


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
