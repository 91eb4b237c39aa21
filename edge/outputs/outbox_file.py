"""The SQLite file of an outbox: its table, its rows, their checksums, and what to do about a damaged file.

SQLite has no checksum for a row, so each row has one of its own. A row that the disk has changed becomes a gap.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.errors import ConfigError, fault_type

HEADER = b"SQLite format 3\0"
VERSION = 2  # of the table
OVERHEAD = 64  # bytes of a row, beside its body
PAGE_BYTES = 4096
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=64", "journal_size_limit=262144")
_SCHEMA = f"""
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, output TEXT NOT NULL, key TEXT NOT NULL, topic TEXT NOT NULL,
    body BLOB NOT NULL, gap INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE INDEX by_output ON messages (output, id);
PRAGMA user_version={VERSION};
"""
COLUMNS = "id, output, key, topic, body, gap, crc"
INSERT = f"INSERT INTO messages ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
Row = tuple[Any, ...]  # COLUMNS


@dataclass(frozen=True)
class Message:
    """A stored message.

    key: the same each time that the same message arrives.
    topic: the output's own text.
    body: the JSON document; empty for a gap.
    gap: number of messages that are missing here; 0 = this is a message. A gap that arrives again may have grown.
    """

    id: int
    key: str
    topic: str
    body: bytes
    gap: int = 0


def check_path(path: Path) -> None:
    """Raises ConfigError for an existing path that is no outbox: it must not be overwritten or moved away."""
    try:
        if not path.exists():
            return
        if not path.is_file():
            raise ConfigError(f"--outbox {path}: is not a file. Give the name of a file that Sightline may create.")
        with path.open("r+b") as file:
            header = file.read(len(HEADER))
    except OSError as e:
        raise fault_type(e, ConfigError)(f"--outbox {path}: cannot be used: {e.strerror}") from None
    # an outbox that the disk damaged still has its lock file beside it
    if header not in (b"", HEADER) and not lock_path(path).exists():
        raise ConfigError(f"--outbox {path}: belongs to another program. Give the name of a new file.")


def lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def inode(path: Path) -> tuple[int, int]:
    """The file's identity; (0, 0) where there is no file."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_ino, status.st_dev


def connect(path: Path) -> sqlite3.Connection:
    """Open the database, and create its file where there is none. Raises OSError and sqlite3.Error.

    Only this user may read what cameras saw. SQLite gives its log the same rights.
    """
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    db.text_factory = lambda data: data.decode("utf-8", "replace")  # for damaged rows
    return db


def prepare(db: sqlite3.Connection, path: Path) -> bool:
    """Create the table where there is none. Returns whether the file is damaged.

    Raises ConfigError for a database of another program, and sqlite3.OperationalError for example for a full disk.
    """
    try:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if tables and (tables != {"messages", "sqlite_sequence"} or version != VERSION):
            raise ConfigError(f"--outbox {path}: is not an outbox of this version. Give the name of a new file.")
        for pragma in _PRAGMAS:
            db.execute(f"PRAGMA {pragma}")
        if not tables:
            db.executescript(_SCHEMA)
        (state,) = db.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as e:
        if not is_damage(e):
            raise
        return True
    return bool(state != "ok")


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file is damaged. A full disk or a lock raises a subclass; so does a file that was emptied."""
    return type(error) is sqlite3.DatabaseError or "no such table" in str(error)


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back by itself
            db.execute("ROLLBACK")
        raise


def move_aside(path: Path) -> None:
    """Rename the file and its logs to FILE.damaged. Raises OSError."""
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            part = path.with_name(path.name + suffix)
            part.replace(part.with_name(f"{path.name}.damaged{suffix}"))


def readable_rows(db: sqlite3.Connection) -> Iterator[Row]:
    """Intact rows from both ends of a table that may be damaged in the middle."""
    last = 0
    for order in ("ASC", "DESC"):
        with contextlib.suppress(sqlite3.Error):
            query = f"SELECT {COLUMNS} FROM messages NOT INDEXED WHERE id > ? ORDER BY id {order}"
            for row in db.execute(query, (last,)):
                if order == "ASC":
                    last = row[0]
                if _is_intact(row):
                    yield row


def drop_oldest(db: sqlite3.Connection, output: str, after: int, size: int) -> tuple[int, int, int]:
    """Replace an output's oldest messages by a gap, until `size` bytes are free. Call it within a transaction.

    Returns the number of deleted rows, of freed bytes, and of lost messages. Raises sqlite3.OperationalError where the
    messages do not free as much.

    after: id; only messages behind it are deleted.
    """
    query = "SELECT id, key, length(body), gap FROM messages WHERE output = ? AND id > ? ORDER BY id"
    victims: list[tuple[int, str, int, int]] = []
    freed = -OVERHEAD  # the gap's
    for row in db.execute(query, (output, after)):
        if freed >= size:
            break
        victims.append(row)
        freed += row[2] + OVERHEAD
    if freed < size:
        raise sqlite3.OperationalError("no room beside the messages in flight")
    first, key = victims[0][:2]
    db.executemany("DELETE FROM messages WHERE id = ?", [(row[0],) for row in victims])
    missing = sum(row[3] or 1 for row in victims)
    db.execute(INSERT, gap_row(first, output, key if victims[0][3] else f"gap-{key}", missing))
    return len(victims) - 1, freed, sum(1 for row in victims if not row[3])


def message_row(output: str, key: str, topic: str, body: bytes) -> Row:
    """A new row, whose id SQLite assigns."""
    return None, output, key, topic, body, 0, _checksum(key, topic, body)


def gap_row(i: int | None, output: str, key: str, count: int) -> Row:
    return i, output, key, "", b"", count, _checksum(key, "", b"", count)


def message_of(row: Row) -> Message:
    if not _is_intact(row):
        return Message(row[0], f"gap-{row[0]}", "", b"", 1)
    return Message(row[0], row[2], row[3], row[4], row[5])


def _is_intact(row: Row) -> bool:
    _, output, key, topic, body, gap, crc = row
    texts = all(isinstance(text, str) for text in (output, key, topic))
    types = texts and isinstance(body, bytes) and isinstance(gap, int)
    return types and gap >= 0 and bool(crc == _checksum(key, topic, body, gap))


def _checksum(key: str, topic: str, body: bytes, gap: int = 0) -> int:
    return zlib.crc32(body, zlib.crc32(f"{key}\0{topic}\0{gap}".encode("utf-8", "replace")))
