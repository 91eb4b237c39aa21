"""Messages for a receiver that is away: stored on the disk, in order, until the receiver has acknowledged them.

One SQLite file serves all outputs. A message is accepted once it is committed (WAL, synchronous=FULL: a power cut does
not undo it), and deleted once its receiver has acknowledged it. Where there is no room, the output's oldest messages
are deleted, and a gap takes their place. A gap is a message too, and holds the number of deleted messages.
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
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from edge.outputs.outbox_file import (
    COLUMNS,
    INSERT,
    OVERHEAD,
    PAGE_BYTES,
    Message,
    Row,
    check_path,
    connect,
    drop_oldest,
    gap_row,
    inode,
    is_damage,
    lock_path,
    message_of,
    message_row,
    move_aside,
    prepare,
    readable_rows,
    transaction,
)
from sightline.errors import ConfigError, fault_type

T = TypeVar("T")
# bytes: SQLite cannot write its log back to a disk that is full to the last byte, and then nothing can even be deleted
RESERVE = 384 << 10
TAKE_BYTES = 4 << 20


def free_bytes(folder: Path) -> int:
    """Free space of the folder's disk."""
    return shutil.disk_usage(folder).free


class Outbox:
    """Stored messages of all outputs. No method raises: whoever puts a message has no better place for it either.

    A file that is removed, replaced or damaged while the agent runs is written again with all rows that are still
    readable. The other messages become a gap.

    Threads: each sink's thread calls `put` and `count_loss`, and each sender's thread `take`, `release` and `delete`.
    They hold `changed`'s lock for the whole call, so every attribute has one writer at a time. `newest`, `waiting`,
    `size`, `dropped` and `failed` are read without the lock, by the page and the metrics too: each is one number or
    text, which is replaced as a whole.

    changed: notified when there is something to send. Senders share it as the one condition that they wait for.
    dropped: number of messages lost since the start, by output.
    failed: why the last message was not stored; None if it was.
    """

    def __init__(self, path: Path, limit: int, *, free_bytes: Callable[[Path], int] = free_bytes) -> None:
        """Raises ConfigError for a path that cannot be an outbox.

        limit: maximum size of one output's messages, in bytes.
        free_bytes: returns the free space of a folder's disk.
        """
        self.path, self.limit = path, limit
        self.dropped: Counter[str] = Counter()
        self.failed: str | None = None
        self.changed = threading.Condition()
        self._free_bytes = free_bytes
        self._bytes: Counter[str] = Counter()
        self._count: Counter[str] = Counter()  # rows
        self._due: Counter[str] = Counter()  # messages: a gap counts for the messages that it replaces
        self._newest: Counter[str] = Counter()  # id of each output's newest message
        self._unknown = 0  # 1 = the file was damaged before this start: the number of its messages is unknown
        # messages of which not even a gap is stored
        self._lost: defaultdict[str, int] = defaultdict(lambda: self._unknown)
        self._in_flight: dict[str, int] = {}  # by output: messages up to this id are with the sender: never dropped
        self._db: sqlite3.Connection | None = None
        self._inode = (0, 0)
        check_path(path)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_file = lock_path(path).open("a")
        except OSError as e:
            raise fault_type(e, ConfigError)(f"--outbox {path}: cannot be created: {e.strerror}") from None
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock_file.close()
            raise ConfigError(f"{path}: another agent uses it. Give each agent its own --outbox.") from None
        try:
            with self._faults():
                self._open()
        except ConfigError:
            self._lock_file.close()
            raise

    def put(self, output: str, messages: Sequence[tuple[str, str, bytes]]) -> None:
        """Accept (key, topic, body) of an output, in this order, all or none."""
        rows = [message_row(output, key, topic, body) for key, topic, body in messages]
        with self.changed:
            # on a full disk, new messages take the place of as many bytes of old ones; where even that fails, a quarter
            # of the old ones is deleted
            for room in (self.limit, self._bytes[output], self._bytes[output] * 3 // 4):
                with self._faults():
                    self._run(lambda db, room=room: self._store(db, output, rows, room))  # type: ignore[misc]
                    self.failed = None
                    self.changed.notify_all()
                    return
            self._lost[output] += len(rows)
            self.dropped[output] += len(rows)

    def count_loss(self, output: str, count: int) -> None:
        """Count messages that the caller has lost: a gap is stored before the next message."""
        with self.changed:
            self._lost[output] += count

    def take(self, output: str, after: int, limit: int, size: int = TAKE_BYTES) -> list[Message]:
        """The next messages of an output after the id `after`, oldest first. They are in flight from now on.

        limit: maximum number of messages.
        size: bytes after which no further message is taken.
        """

        def read(db: sqlite3.Connection) -> list[Message]:
            messages: list[Message] = []
            room = size
            query = f"SELECT {COLUMNS} FROM messages WHERE output = ? AND id > ? ORDER BY id LIMIT ?"
            for row in db.execute(query, (output, after, limit)):
                messages.append(message_of(row))
                room -= len(messages[-1].body)
                if room <= 0:
                    break
            return messages

        messages: list[Message] = []
        with self.changed, self._faults():
            messages += self._run(read)
            if messages:
                self._in_flight[output] = messages[-1].id
        return messages

    def release(self, output: str) -> None:
        """No message of the output is in flight any more, for example because the connection broke."""
        with self.changed:
            self._in_flight.pop(output, None)

    def delete(self, output: str, ids: Sequence[int]) -> None:
        """Delete messages that have arrived. If that fails they arrive twice, which their keys show."""

        def write(db: sqlite3.Connection) -> list[tuple[int, int]]:
            query = "DELETE FROM messages WHERE id = ? RETURNING length(body), gap"
            with transaction(db):
                return [row for i in ids for row in db.execute(query, (i,)).fetchall()]

        with self.changed, self._faults():
            for size, gap in self._run(write):
                self._bytes[output] -= size + OVERHEAD
                self._count[output] -= 1
                self._due[output] -= max(gap, 1)

    def newest(self, output: str) -> int:
        """Id of the newest message of an output. An id above the sender's last one makes `take` worth a call."""
        return self._newest[output]

    def waiting(self, output: str) -> int:
        """Number of stored messages of an output."""
        return self._count[output]

    def size(self, output: str) -> int:
        """Bytes of an output's stored messages."""
        return self._bytes[output]

    def close(self) -> None:
        """Store what was lost since the last message as a gap for the next start. Write a removed file again."""
        with self.changed:
            if self._db is not None:
                with self._faults():
                    self._open()
            for output in [output for output, count in self._lost.items() if count]:
                with self._faults():
                    self._run(lambda db, output=output: self._store(db, output, (), self.limit))  # type: ignore[misc]
            if self._db is not None:
                self._db.close()
                self._db = None
            self._lock_file.close()

    def _store(self, db: sqlite3.Connection, output: str, rows: Sequence[Row], room: int) -> None:
        if room == self.limit and self._free(db) < RESERVE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        size = sum(len(row[4]) + OVERHEAD for row in rows)
        lost = self._lost[output]
        count, space, due, dropped = self._count[output], self._bytes[output], self._due[output], 0
        with transaction(db):
            if space + size > room:
                deleted, freed, dropped = drop_oldest(db, output, self._in_flight.get(output, 0), space + size - room)
                count, space = count - deleted, space - freed
            if lost:
                db.execute(INSERT, gap_row(None, output, f"gap-{secrets.token_hex(8)}", lost))
            db.executemany(INSERT, rows)
            (newest,) = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'messages'").fetchone()
        self._lost[output], self._newest[output] = 0, newest
        self._count[output] = count + len(rows) + (lost > 0)
        self._bytes[output] = space + size + OVERHEAD * (lost > 0)
        self._due[output] = due + len(rows) + lost
        self.dropped[output] += dropped

    def _free(self, db: sqlite3.Connection) -> int:
        """Free bytes of the disk, and of the file itself where messages were deleted."""
        (pages,) = db.execute("PRAGMA freelist_count").fetchone()
        return self._free_bytes(self.path.parent) + PAGE_BYTES * int(pages)

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Returns `work`'s result. Repeats it on a new file if this one turns out to be damaged."""
        try:
            return work(self._open())
        except sqlite3.DatabaseError as e:
            if not is_damage(e):
                raise
            self._rewrite()
            return work(self._open())

    def _open(self) -> sqlite3.Connection:
        """Raises sqlite3.Error, OSError, and ConfigError for another program's file."""
        if self._db is not None:
            if inode(self.path) == self._inode:
                return self._db
            self._rewrite()  # somebody removed or replaced the file
            assert self._db is not None
            return self._db
        db = connect(self.path)
        try:
            damaged = prepare(db, self.path)
        except BaseException:
            db.close()
            raise
        self._db, self._inode = db, inode(self.path)
        if damaged:  # no reason for an agent never to start again
            self._unknown = 1
            self._rewrite()
        else:
            self._count_rows(db)
        return self._db

    def _rewrite(self) -> None:
        """Move the file aside, as FILE.damaged, and fill a new one with the old one's readable rows."""
        old, self._db = self._db, None
        before = self._due.copy()
        for counter in (self._count, self._bytes, self._due):
            counter.clear()
        try:
            move_aside(self.path)
            db = connect(self.path)
            self._db, self._inode = db, inode(self.path)
            prepare(db, self.path)
            with transaction(db):
                if old is not None:
                    # a page that is stored twice yields its rows twice
                    db.executemany(INSERT.replace("INSERT", "INSERT OR IGNORE"), readable_rows(old))
                # the id of a message in flight must not be given to another message
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
        query = "SELECT output, count(*), sum(length(body)), sum(max(gap, 1)), max(id) FROM messages GROUP BY output"
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
