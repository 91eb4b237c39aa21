"""What was promised to somebody who is away: kept on the disk, in order, until they say that they have it.

One SQLite file for all outputs. A message is accepted once it is committed (WAL, synchronous=FULL: a power cut does
not take it back), and deleted when its receiver has acknowledged it. Where there is no room the output's oldest go,
and a gap stands in their place, which is a message too: it says how many.
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
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sightline.errors import ConfigError

OVERHEAD = 64  # bytes of a row, beside its body
FULL = 0.75  # of what an output has, on a disk that is full, is what it keeps
# SQLite's log cannot be written back to a disk that is full to the last byte, and then nothing can even be deleted
RESERVE = 384 << 10
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=64", "journal_size_limit=262144")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, output TEXT NOT NULL, key TEXT NOT NULL, topic TEXT NOT NULL,
    body BLOB NOT NULL, gap INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS by_output ON messages (output, id);
"""


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
    """Any thread may call it; nothing raises, since who puts has no better place either.

    dropped: messages of each output that were lost since the start. failed: why the last one was not stored; None when
    it was. changed: notified when there is something to send.
    """

    def __init__(self, path: Path, limit: int) -> None:
        """limit: bytes, of one output's messages. Raises ConfigError for a place that cannot be one."""
        self.path, self.limit = path, limit
        self.dropped: Counter[str] = Counter()
        self.failed: str | None = None
        self.changed = threading.Condition()
        self._bytes: Counter[str] = Counter()
        self._count: Counter[str] = Counter()
        self._newest: Counter[str] = Counter()  # id of each output's newest
        self._lost: Counter[str] = Counter()  # nowhere stored, not even as a gap
        self._on_their_way: dict[str, int] = {}  # of each output: up to this id, which are not dropped
        self._db: sqlite3.Connection | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock_file = path.with_name(path.name + ".lock").open("a")
        except OSError as e:
            raise ConfigError(f"{path}: cannot be made: {e.strerror}") from None
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock_file.close()
            raise ConfigError(f"{path}: another agent has it; give each its own --outbox") from None
        with self._faults():
            self._opened()

    def put(self, output: str, messages: Sequence[tuple[str, str, bytes]]) -> None:
        """Accept (key, topic, body) of an output, in this order, all or none."""
        rows = [(output, key, topic, body, 0) for key, topic, body in messages]
        with self.changed:
            for room in (self.limit, int(min(self.limit, self._bytes[output]) * FULL)):
                with self._faults():
                    if room == self.limit and self._free() < RESERVE:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    self._store(output, rows, room)
                    self.failed = None
                    self.changed.notify_all()
                    return
            self._lost[output] += len(rows)
            self.dropped[output] += len(rows)

    def lose(self, output: str, count: int) -> None:
        """Messages that somebody else has lost: a gap will stand before the next one."""
        with self.changed:
            self._lost[output] += count

    def take(self, output: str, after: int, limit: int) -> list[Message]:
        """The next ones of an output, oldest first, behind the id `after`: they are on their way from now on."""
        messages: list[Message] = []
        query = "SELECT id, key, topic, body, gap FROM messages WHERE output = ? AND id > ? ORDER BY id LIMIT ?"
        with self.changed, self._faults():
            messages += [Message(*row) for row in self._opened().execute(query, (output, after, limit))]
            if messages:
                self._on_their_way[output] = messages[-1].id
        return messages

    def again(self, output: str) -> None:
        """Nothing is on its way any more: the connection broke off."""
        with self.changed:
            self._on_their_way.pop(output, None)

    def delete(self, output: str, ids: Sequence[int]) -> None:
        """They have arrived. Where this cannot be stored they arrive twice, which their keys tell."""
        with self.changed, self._faults(), self._transaction() as db:
            for i in ids:
                for (size,) in db.execute("DELETE FROM messages WHERE id = ? RETURNING length(body)", (i,)).fetchall():
                    self._bytes[output] -= size + OVERHEAD
                    self._count[output] -= 1

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
        with self.changed:
            if self._db is not None:
                self._db.close()
                self._db = None
            self._lock_file.close()

    def _store(self, output: str, rows: Sequence[tuple[str, str, str, bytes, int]], room: int) -> None:
        size = sum(len(row[3]) + OVERHEAD for row in rows)
        lost = self._lost[output]
        count, space, dropped = self._count[output], self._bytes[output], 0
        with self._transaction() as db:
            if space + size > room:
                gone, freed, dropped = self._drop(db, output, space + size - room)
                count, space = count - gone, space - freed
            insert = "INSERT INTO messages (output, key, topic, body, gap) VALUES (?, ?, ?, ?, ?)"
            if lost:
                db.execute(insert, (output, f"gap-{secrets.token_hex(8)}", "", b"", lost))
            db.executemany(insert, rows)
            (newest,) = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'messages'").fetchone()
        self._lost[output], self._newest[output] = 0, newest
        self._count[output] = count + len(rows) + (lost > 0)
        self._bytes[output] = space + size + OVERHEAD * (lost > 0)
        self.dropped[output] += dropped

    def _free(self) -> int:
        """Bytes: of the disk, and of the file itself where messages were."""
        (pages,) = self._opened().execute("PRAGMA freelist_count").fetchone()
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
        db.execute(
            "INSERT INTO messages (id, output, key, topic, body, gap) VALUES (?, ?, ?, '', x'', ?)",
            (first, output, key if gone[0][3] else f"gap-{key}", sum(row[3] or 1 for row in gone)),
        )
        return len(gone) - 1, freed, sum(1 for row in gone if not row[3])

    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            try:
                self._db = self._open()
            except sqlite3.OperationalError:  # a full disk, say: it is tried again
                raise
            except sqlite3.DatabaseError:
                # not worth an agent that never starts again: what was in it is left to people
                for suffix in ("", "-wal", "-shm"):
                    with contextlib.suppress(FileNotFoundError):
                        path = self.path.with_name(self.path.name + suffix)
                        path.replace(path.with_name(f"{self.path.name}.damaged{suffix}"))
                self._db = self._open()
        return self._db

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=5)
        try:
            for pragma in _PRAGMAS:
                db.execute(f"PRAGMA {pragma}")
            db.executescript(_SCHEMA)
            (state,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if state != "ok":
                raise sqlite3.DatabaseError(state)
            query = "SELECT output, count(*), sum(length(body)), max(id) FROM messages GROUP BY output"
            for output, count, size, newest in db.execute(query):
                self._count[output], self._bytes[output] = count, size + OVERHEAD * count
                self._newest[output] = newest
        except BaseException:
            db.close()
            raise
        return db

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = self._opened()
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
            db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back by itself
                db.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as e:
            self.failed = str(e)
            if self._db is not None:
                with contextlib.suppress(sqlite3.Error):  # a log that was written back leaves room to write
                    self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
