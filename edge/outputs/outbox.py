"""Messages for a receiver that is away: kept on the disk, in order, until the receiver has acknowledged them.

One SQLite file for all outputs. A message is accepted once it is committed (WAL, synchronous=FULL: a power cut does
not take it back), and deleted when its receiver has acknowledged it. Where there is no room the output's oldest go,
and a gap stands in their place, which is a message too: it says how many. Every row has a checksum, since SQLite has
none: a row that the disk has changed becomes a gap of one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import sqlite3
import threading
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sightline.errors import ConfigError, fault_type

T = TypeVar("T")
OVERHEAD = 64  # bytes of a row, beside its body
# SQLite's log cannot be written back to a disk that is full to the last byte, and then nothing can even be deleted
RESERVE = 384 << 10
HEADER = b"SQLite format 3\0"
VERSION = 2  # of the table
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=64", "journal_size_limit=262144")
_SCHEMA = f"""
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, output TEXT NOT NULL, key TEXT NOT NULL, topic TEXT NOT NULL,
    body BLOB NOT NULL, gap INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE INDEX by_output ON messages (output, id);
PRAGMA user_version={VERSION};
"""
_INSERT = "INSERT INTO messages (id, output, key, topic, body, gap, crc) VALUES (?, ?, ?, ?, ?, ?, ?)"
_COLUMNS = "id, output, key, topic, body, gap, crc"
_Row = tuple[Any, ...]  # _COLUMNS


@dataclass(frozen=True)
class Message:
    """key: the same for the same message, however often it arrives. topic: of the output's own. body: empty for a gap.
    gap: how many messages are missing here; 0 = this is one. A gap that arrives again may have grown."""

    id: int
    key: str
    topic: str
    body: bytes
    gap: int = 0


class Outbox:
    """Any thread may call it, under `changed`'s lock; nothing raises, since who puts has no better place either.

    A file that is removed, replaced or damaged while the agent runs is written again with every row that can still be
    read; the rest becomes a gap.

    dropped: messages of each output that were lost since the start. failed: why the last one was not stored; None when
    it was. changed: notified when there is something to send.
    """

    def __init__(self, path: Path, limit: int) -> None:
        """limit: bytes, of one output's messages. Raises ConfigError for a path that cannot be an outbox."""
        self.path, self.limit = path, limit
        self.dropped: Counter[str] = Counter()
        self.failed: str | None = None
        self.changed = threading.Condition()
        self._bytes: Counter[str] = Counter()
        self._count: Counter[str] = Counter()  # rows
        self._due: Counter[str] = Counter()  # messages: a gap counts for as many as it stands for
        self._newest: Counter[str] = Counter()  # id of each output's newest
        self._unknown = 0  # 1 = the file was damaged before this start, and nobody knows how many messages it had
        # nowhere stored, not even as a gap
        self._lost: defaultdict[str, int] = defaultdict(lambda: self._unknown)
        self._on_their_way: dict[str, int] = {}  # of each output: up to this id, which are not dropped
        self._db: sqlite3.Connection | None = None
        self._inode = (0, 0)
        _check_path(path)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_file = _lock_path(path).open("a")
        except OSError as e:
            raise fault_type(e, ConfigError)(f"--outbox {path}: cannot be made: {e.strerror}") from None
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock_file.close()
            raise ConfigError(f"{path}: another agent has it; give each its own --outbox") from None
        try:
            with self._faults():
                self._opened()
        except ConfigError:
            self._lock_file.close()
            raise

    def put(self, output: str, messages: Sequence[tuple[str, str, bytes]]) -> None:
        """Accept (key, topic, body) of an output, in this order, all or none."""
        rows = [(None, output, key, topic, body, 0, _crc(key, topic, body)) for key, topic, body in messages]
        with self.changed:
            # a disk that is full takes new messages in the place of as many bytes of old ones; where even that fails,
            # a quarter goes
            for room in (self.limit, self._bytes[output], self._bytes[output] * 3 // 4):
                with self._faults():
                    self._run(lambda db, room=room: self._store(db, output, rows, room))  # type: ignore[misc]
                    self.failed = None
                    self.changed.notify_all()
                    return
            self._lost[output] += len(rows)
            self.dropped[output] += len(rows)

    def lose(self, output: str, count: int) -> None:
        """Messages that somebody else has lost: a gap will stand before the next one."""
        with self.changed:
            self._lost[output] += count

    def take(self, output: str, after: int, limit: int, size: int = 4 << 20) -> list[Message]:
        """The next ones of an output, oldest first, behind the id `after`: they are on their way from now on. At most
        `limit` messages, and no more than one beyond `size` bytes."""

        def read(db: sqlite3.Connection) -> list[Message]:
            messages: list[Message] = []
            room = size
            query = f"SELECT {_COLUMNS} FROM messages WHERE output = ? AND id > ? ORDER BY id LIMIT ?"
            for row in db.execute(query, (output, after, limit)):
                messages.append(_message(row))
                room -= len(messages[-1].body)
                if room <= 0:
                    break
            return messages

        messages: list[Message] = []
        with self.changed, self._faults():
            messages += self._run(read)
            if messages:
                self._on_their_way[output] = messages[-1].id
        return messages

    def again(self, output: str) -> None:
        """Nothing is on its way any more: the connection broke off."""
        with self.changed:
            self._on_their_way.pop(output, None)

    def delete(self, output: str, ids: Sequence[int]) -> None:
        """They have arrived. Where this cannot be stored they arrive twice, which their keys tell."""

        def write(db: sqlite3.Connection) -> list[tuple[int, int]]:
            query = "DELETE FROM messages WHERE id = ? RETURNING length(body), gap"
            with _transaction(db):
                return [row for i in ids for row in db.execute(query, (i,)).fetchall()]

        with self.changed, self._faults():
            for size, gap in self._run(write):
                self._bytes[output] -= size + OVERHEAD
                self._count[output] -= 1
                self._due[output] -= max(gap, 1)

    def newest(self, output: str) -> int:
        """Id of the newest message of an output; one that a sender has not seen is worth a `take`."""
        return self._newest[output]

    def waiting(self, output: str) -> int:
        """How many messages of an output are stored."""
        return self._count[output]

    def size(self, output: str) -> int:
        """Their bytes."""
        return self._bytes[output]

    def close(self) -> None:
        """What was lost since the last message becomes a gap for the next start. A file that somebody has removed is
        written again."""
        with self.changed:
            if self._db is not None:
                with self._faults():
                    self._opened()
            for output in [output for output, count in self._lost.items() if count]:
                with self._faults():
                    self._run(lambda db, output=output: self._store(db, output, (), self.limit))  # type: ignore[misc]
            if self._db is not None:
                self._db.close()
                self._db = None
            self._lock_file.close()

    def _store(self, db: sqlite3.Connection, output: str, rows: Sequence[_Row], room: int) -> None:
        if room == self.limit and self._free(db) < RESERVE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        size = sum(len(row[4]) + OVERHEAD for row in rows)
        lost = self._lost[output]
        count, space, due, dropped = self._count[output], self._bytes[output], self._due[output], 0
        with _transaction(db):
            if space + size > room:
                gone, freed, dropped = self._drop(db, output, space + size - room)
                count, space = count - gone, space - freed
            if lost:
                db.execute(_INSERT, _gap(None, output, f"gap-{secrets.token_hex(8)}", lost))
            db.executemany(_INSERT, rows)
            (newest,) = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'messages'").fetchone()
        self._lost[output], self._newest[output] = 0, newest
        self._count[output] = count + len(rows) + (lost > 0)
        self._bytes[output] = space + size + OVERHEAD * (lost > 0)
        self._due[output] = due + len(rows) + lost
        self.dropped[output] += dropped

    def _free(self, db: sqlite3.Connection) -> int:
        """Bytes: of the disk, and of the file itself where messages were."""
        (pages,) = db.execute("PRAGMA freelist_count").fetchone()
        return shutil.disk_usage(self.path.parent).free + 4096 * int(pages)

    def _drop(self, db: sqlite3.Connection, output: str, size: int) -> tuple[int, int, int]:
        """Of an output the oldest that are not on their way, until `size` bytes are free; a gap takes their place.
        Returns rows, bytes, and messages that went."""
        query = "SELECT id, key, length(body), gap FROM messages WHERE output = ? AND id > ? ORDER BY id"
        gone: list[tuple[int, str, int, int]] = []
        freed = -OVERHEAD  # of the gap
        for row in db.execute(query, (output, self._on_their_way.get(output, 0))):
            if freed >= size:
                break
            gone.append(row)
            freed += row[2] + OVERHEAD
        if freed < size:
            raise sqlite3.OperationalError("no room beside what is on its way")
        first, key = gone[0][:2]
        db.executemany("DELETE FROM messages WHERE id = ?", [(row[0],) for row in gone])
        missing = sum(row[3] or 1 for row in gone)
        db.execute(_INSERT, _gap(first, output, key if gone[0][3] else f"gap-{key}", missing))
        return len(gone) - 1, freed, sum(1 for row in gone if not row[3])

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` gives; once more on a new file where this one turns out to be damaged."""
        try:
            return work(self._opened())
        except sqlite3.DatabaseError as e:
            if not _is_damage(e):
                raise
            self._write_again()
            return work(self._opened())

    def _opened(self) -> sqlite3.Connection:
        """Raises sqlite3.Error, OSError, and ConfigError for a file of somebody else."""
        if self._db is not None:
            if _inode(self.path) == self._inode:
                return self._db
            self._write_again()  # somebody removed the file, or put another into its place
            assert self._db is not None
            return self._db
        _create(self.path)
        db = self._connect()
        try:
            damaged = _checked(db, self.path)
        except BaseException:
            db.close()
            raise
        self._db, self._inode = db, _inode(self.path)
        if damaged:  # not worth an agent that never starts again
            self._unknown = 1
            self._write_again()
        else:
            self._count_rows(db)
        return self._db

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=5)
        db.text_factory = lambda data: data.decode("utf-8", "replace")  # of a row that is damaged
        return db

    def _write_again(self) -> None:
        """Move the file aside, as FILE.damaged, and fill a new one with the rows of the old that can still be read."""
        old, self._db = self._db, None
        before = self._due.copy()
        for counter in (self._count, self._bytes, self._due):
            counter.clear()
        try:
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    path = self.path.with_name(self.path.name + suffix)
                    path.replace(path.with_name(f"{self.path.name}.damaged{suffix}"))
            _create(self.path)
            db = self._connect()
            self._db, self._inode = db, _inode(self.path)
            _checked(db, self.path)
            with _transaction(db):
                if old is not None:
                    # a page that stands in two places gives its rows twice
                    db.executemany(_INSERT.replace("INSERT", "INSERT OR IGNORE"), _readable(old))
                # an id that was on its way may not come again for another message
                db.execute("UPDATE sqlite_sequence SET seq = max(seq, ?)", (max(self._newest.values(), default=0),))
            self._count_rows(db)
        finally:
            if old is not None:
                with contextlib.suppress(sqlite3.Error):
                    old.close()
            for output, count in (before - self._due).items():
                self._lost[output] += count
                self.dropped[output] += count

    def _count_rows(self, db: sqlite3.Connection) -> None:
        query = (
            """SELECT output, count(*), sum(length(body)), sum(max(gap, 1)), max(id) FROM messages GROUP BY output"""
        )
        for output, count, size, due, newest in db.execute(query):
            self._count[output], self._bytes[output] = count, size + OVERHEAD * count
            self._due[output], self._newest[output] = due, newest

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as e:
            self.failed = str(e)
            if self._db is not None:
                with contextlib.suppress(sqlite3.Error):  # a log that was written back leaves room to write
                    self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back by itself
            db.execute("ROLLBACK")
        raise


def _check_path(path: Path) -> None:
    """Raises ConfigError for what is there already and is no outbox: it must not be written over or moved away."""
    try:
        if not path.exists():
            return
        if not path.is_file():
            raise ConfigError(f"--outbox {path}: is not a file; give the name of a file that Sightline may make")
        with path.open("r+b") as file:
            header = file.read(len(HEADER))
    except OSError as e:
        raise fault_type(e, ConfigError)(f"--outbox {path}: cannot be used: {e.strerror}") from None
    # a file that we made, and the disk damaged, has its lock beside it
    if header not in (b"", HEADER) and not _lock_path(path).exists():
        raise ConfigError(f"--outbox {path}: is a file of something else; give the name of a new file")


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _create(path: Path) -> None:
    """Only this user may read what cameras saw; SQLite gives its log the same rights."""
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _inode(path: Path) -> tuple[int, int]:
    try:
        there = path.stat()
    except OSError:
        return 0, 0
    return there.st_ino, there.st_dev


def _checked(db: sqlite3.Connection, path: Path) -> bool:
    """Make the table where there is none. Whether the file is damaged. Raises ConfigError for a database of something
    else, and sqlite3.OperationalError for a disk that is full, say."""
    try:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if tables and (tables != {"messages", "sqlite_sequence"} or version != VERSION):
            raise ConfigError(f"--outbox {path}: is not an outbox of this version; give the name of a new file")
        for pragma in _PRAGMAS:
            db.execute(f"PRAGMA {pragma}")
        if not tables:
            db.executescript(_SCHEMA)
        (state,) = db.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as e:
        if not _is_damage(e):
            raise
        return True
    return bool(state != "ok")


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Of the file; subclasses of DatabaseError are of a full disk or a lock, but for a file that somebody emptied."""
    return type(error) is sqlite3.DatabaseError or "no such table" in str(error)


def _readable(db: sqlite3.Connection) -> Iterator[_Row]:
    """Rows from both ends of a table that may be damaged in between."""
    last = 0
    for order in ("ASC", "DESC"):
        with contextlib.suppress(sqlite3.Error):
            query = f"SELECT {_COLUMNS} FROM messages NOT INDEXED WHERE id > ? ORDER BY id {order}"
            for row in db.execute(query, (last,)):
                if order == "ASC":
                    last = row[0]
                if _whole(row):
                    yield row


def _whole(row: _Row) -> bool:
    _, output, key, topic, body, gap, crc = row
    texts = all(isinstance(text, str) for text in (output, key, topic))
    return (
        texts and isinstance(body, bytes) and isinstance(gap, int) and gap >= 0 and crc == _crc(key, topic, body, gap)
    )


def _crc(key: str, topic: str, body: bytes, gap: int = 0) -> int:
    return zlib.crc32(body, zlib.crc32(f"{key}\0{topic}\0{gap}".encode("utf-8", "replace")))


def _gap(i: int | None, output: str, key: str, count: int) -> _Row:
    return i, output, key, "", b"", count, _crc(key, "", b"", count)


def _message(row: _Row) -> Message:
    if not _whole(row):
        return Message(row[0], f"gap-{row[0]}", "", b"", 1)
    return Message(row[0], row[2], row[3], row[4], row[5])
