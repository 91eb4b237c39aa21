"""What a promising output shares: what goes out of it, and the way through the outbox.

A message is `{"schema": 1, "key": .., "result": {..}}`, or has an `event`, or a `gap` in the place of the result. The
key is the same each time that the same message arrives.
"""

from __future__ import annotations

import json
import secrets
import threading
from typing import TYPE_CHECKING, Any

from edge.outputs.outbox import Outbox
from edge.outputs.outbox_file import Message
from edge.outputs.send_filter import SendFilter, SendMode
from edge.results.sink import Sink
from sightline.predictions import Result

if TYPE_CHECKING:
    from edge.results.sink import Item

RUN = secrets.token_hex(4)  # frame ids and monotonic clocks begin anew with each start
FLUSH_S = 2.0
FAULT_S = 5.0  # after a fault of our own
BATCH, BATCH_BYTES = 64, 1 << 20  # of one commit


class DurableSink(Sink):
    """An output that keeps what it could not send yet. Subclasses say how to send, in `_send_all`, a thread of its own.

    sent: messages that arrived since the start. refused: that the receiver does not want.
    """

    def __init__(self, name: str, outbox: Outbox, what: SendMode, **options: Any) -> None:
        super().__init__(name, **options)
        self.outbox = outbox
        self.wanted = SendFilter(what)
        self.sent = self.refused = self._told = 0
        self._closing = threading.Event()
        self._batch: list[tuple[str, str, bytes]] = []
        self._batch_bytes = 0
        self._sender = threading.Thread(target=self._send, name=f"{name} sender", daemon=True)

    def start(self) -> None:
        super().start()
        self._sender.start()

    @property
    def problem(self) -> str | None:
        return self.failed or (f"outbox: {self.outbox.failed}" if self.outbox.failed else None)

    @property
    def note(self) -> str:
        waiting = self.outbox.waiting(self.name)
        return f"{waiting} messages wait for the next start" if waiting else ""

    @property
    def lost(self) -> int:
        return self.dropped + self.outbox.dropped[self.name]

    def write(self, item: Item) -> bool:
        if self.wanted(item):
            body = body_of(item)
            self._batch.append((key_of(item), topic_of(item), body))
            self._batch_bytes += len(body)
        # one commit, which waits for the disk, for all that came in the meantime
        if self._queue.empty() or len(self._batch) >= BATCH or self._batch_bytes >= BATCH_BYTES:
            self._store()
        return False  # whether it arrives is the sender's to say

    def _store(self) -> None:
        if self.dropped > self._told:  # they did not fit into the queue
            self.outbox.count_loss(self.name, self.dropped - self._told)
            self._told = self.dropped
        if self._batch:
            self.outbox.put(self.name, self._batch)
            self._batch, self._batch_bytes = [], 0

    def finish(self) -> None:
        """What is left in the outbox goes at the next start; what is quick goes now."""
        self._store()
        self._closing.set()
        with self.outbox.changed:
            self.outbox.changed.notify_all()
        self._sender.join(FLUSH_S + 1)

    def _send(self) -> None:
        while not self._closing.is_set():
            try:
                self._send_all()
            except Exception as e:  # a dead thread would say nothing, and send nothing
                self.failed = f"{type(e).__name__}: {e}"
                self.outbox.release(self.name)
                self._closing.wait(FAULT_S)

    def _send_all(self) -> None:
        """Until `_closing` is set, and what is quick to send then."""
        raise NotImplementedError


def key_of(item: Item) -> str:
    if not isinstance(item, Result):
        return item.key
    return f"{RUN}-{item.captured_ns}-{item.source}"


def topic_of(item: Item) -> str:
    return f"{_kind(item)}/{item.source}"


def body_of(item: Item) -> bytes:
    message = {"schema": 1, "key": key_of(item), _kind(item): item.to_json()}
    return json.dumps(message, ensure_ascii=False).encode("utf-8", "replace")


def _kind(item: Item) -> str:
    return "result" if isinstance(item, Result) else "event"


def payload(message: Message) -> bytes:
    """What is sent for a stored message."""
    if not message.gap:
        return message.body
    return json.dumps({"schema": 1, "key": message.key, "gap": message.gap}).encode()
