"""The base class of outputs that lose nothing: MQTT and webhook. Each message goes through the outbox.

A message is `{"schema": 2, "key": .., "result": {..}}`. Instead of `result` it may have `event` or `gap`. The key is
the same each time that the same message arrives.
"""

from __future__ import annotations

import json
import secrets
import threading
from typing import TYPE_CHECKING

from edge.options import SendMode
from edge.outputs.outbox import Outbox
from edge.outputs.outbox_file import Message
from edge.outputs.send_filter import SendFilter
from edge.results.sink import Sink
from sightline.predictions import Result

if TYPE_CHECKING:
    from edge.results.sink import Item

SCHEMA = 2  # of a message
RUN = secrets.token_hex(4)  # frame ids and monotonic clocks start again with each agent
FLUSH_S = 2.0  # for sending what is quick to send, at the end
FAULT_S = 5.0  # pause after a fault of our own
BATCH, BATCH_BYTES = 64, 1 << 20  # messages of one commit


class DurableSink(Sink):
    """An output that stores what it could not send yet. Subclasses send it, in `_send_all`.

    Threads: the sink's thread filters items and stores them in the outbox; the sender thread takes them from there and
    sends them. Only the sink's thread writes the batch, and only the sender `sent` and `refused`. Both may write
    `failed`, which is one text. All of these may be read at any time.

    sent: number of messages that arrived since the start.
    refused: number of messages that the receiver refused.
    """

    def __init__(
        self,
        name: str,
        outbox: Outbox,
        mode: SendMode,
        *,
        lossless: bool,
        stopping: threading.Event | None = None,
        flush_s: float = FLUSH_S,
        fault_s: float = FAULT_S,
    ) -> None:
        super().__init__(name, lossless=lossless, stopping=stopping)
        self.outbox = outbox
        self.sent = self.refused = 0
        self._filter = SendFilter(mode)
        self._counted = 0  # of `dropped`: losses that the outbox knows
        self._flush_s, self._fault_s = flush_s, fault_s
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
        if self._filter(item):
            body = body_of(item)
            self._batch.append((key_of(item), topic_of(item), body))
            self._batch_bytes += len(body)
        # a commit waits for the disk: one commit serves all items that came in the meantime
        if self._queue.empty() or len(self._batch) >= BATCH or self._batch_bytes >= BATCH_BYTES:
            self._store()
        return False  # only the sender knows whether sending works

    def _store(self) -> None:
        if self.dropped > self._counted:  # the sink's queue was full
            self.outbox.count_loss(self.name, self.dropped - self._counted)
            self._counted = self.dropped
        if self._batch:
            self.outbox.put(self.name, self._batch)
            self._batch, self._batch_bytes = [], 0

    def finish(self) -> None:
        """Send what is quick to send. The rest stays in the outbox for the next start."""
        self._store()
        self._closing.set()
        with self.outbox.changed:
            self.outbox.changed.notify_all()
        self._sender.join(self._flush_s + 1)

    def _send(self) -> None:
        while not self._closing.is_set():
            try:
                self._send_all()
            except Exception as e:  # the thread must live: a dead one sends nothing, and reports nothing
                self.failed = f"{type(e).__name__}: {e}"
                self.outbox.release(self.name)
                self._closing.wait(self._fault_s)

    def _send_all(self) -> None:
        """Send messages until `_closing` is set, and then what is quick to send."""
        raise NotImplementedError


def key_of(item: Item) -> str:
    if not isinstance(item, Result):
        return item.key
    return f"{RUN}-{item.captured_ns}-{item.source}"


def topic_of(item: Item) -> str:
    return f"{_kind(item)}/{item.source}"


def body_of(item: Item) -> bytes:
    message = {"schema": SCHEMA, "key": key_of(item), _kind(item): item.to_json()}
    return json.dumps(message, ensure_ascii=False).encode("utf-8", "replace")


def _kind(item: Item) -> str:
    return "result" if isinstance(item, Result) else "event"


def payload(message: Message) -> bytes:
    """The bytes to send for a stored message."""
    if not message.gap:
        return message.body
    return json.dumps({"schema": SCHEMA, "key": message.key, "gap": message.gap}).encode()
