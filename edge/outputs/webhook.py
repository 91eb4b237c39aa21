"""Webhook: each durable message is POSTed as JSON, in order, until the receiver has answered 2xx.

`Idempotency-Key` is the message's key. A message that the receiver cannot read (400, 409, 413, 414, 422) is counted and
not sent again. Any other answer concerns the receiver or the address, not this message: the message stays in the outbox
and is sent again, with growing pauses, without a limit. So an expired token or a moved server loses nothing.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from edge.options import SendMode
from edge.outputs.durable_sink import FLUSH_S, DurableSink
from edge.outputs.outbox import Outbox
from edge.outputs.outbox_file import Message
from edge.outputs.webhook_client import Client, Receiver, SendError
from sightline.backoff import Backoff

POLL_S = 1.0
REFUSED = (400, 409, 413, 414, 422)  # this message is at fault
HINTS = {401: "check the token or password", 403: "check the token or password", 407: "the proxy needs a password",
         404: "check the address", 405: "check the address", 410: "check the address"}  # fmt: skip


@dataclass(frozen=True)
class WebhookTiming:
    """Times in seconds.

    timeout_s: longest wait for the receiver in one step: to connect, to send, or for more of the answer.
    backoff_s, backoff_max_s: first and longest pause between two attempts.
    flush_s: for sending what is quick to send, at the end.
    fault_s: pause after a fault of our own.
    """

    timeout_s: float = 10.0
    backoff_s: float = 0.5
    backoff_max_s: float = 60.0
    flush_s: float = FLUSH_S
    fault_s: float = 5.0


class Webhook(DurableSink):
    """Threads: the sender thread alone uses the client. For the rest see `DurableSink`."""

    def __init__(
        self,
        receiver: Receiver,
        outbox: Outbox,
        mode: SendMode,
        *,
        lossless: bool,
        stopping: threading.Event | None = None,
        timing: WebhookTiming = WebhookTiming(),
        client: Client | None = None,
    ) -> None:
        """client: None = one for this receiver."""
        super().__init__(
            "webhook", outbox, mode, lossless=lossless, stopping=stopping,
            flush_s=timing.flush_s, fault_s=timing.fault_s,
        )  # fmt: skip
        self._where, self._timing = receiver.where, timing
        self._client = client or Client(receiver, timing.timeout_s)

    def _send_all(self) -> None:
        until, last, backoff = 0.0, 0, Backoff(self._timing.backoff_s, self._timing.backoff_max_s)
        while True:
            if self._closing.is_set():
                until = until or time.monotonic() + self._timing.flush_s
                if backoff.failures or time.monotonic() >= until:
                    break
            newest = self.outbox.newest(self.name)
            messages = self.outbox.take(self.name, last, 1)
            if not messages:
                if self._closing.is_set():
                    break
                with self.outbox.changed:
                    if self.outbox.newest(self.name) == newest and not self._closing.is_set():
                        self.outbox.changed.wait(POLL_S)
                continue
            pause_s = self._deliver(messages[0])
            if pause_s is None:
                backoff.reset()
                last = messages[0].id
                continue
            self._client.close()
            self.outbox.release(self.name)
            self._closing.wait(max(pause_s, backoff.next_s()))
        self._client.close()

    def _deliver(self, message: Message) -> float | None:
        """Send the message once. None = it is done; else the shortest pause that the receiver asks for, in seconds."""
        try:
            reply = self._client.post(message)
        except SendError as e:
            self.failed = f"{self._where}: {e}"
            return 0.0
        answer = f"{reply.status} {reply.reason}"
        if not 200 <= reply.status < 300 and reply.status not in REFUSED:
            hint = "give --webhook the new address" if 300 <= reply.status < 400 else HINTS.get(reply.status)
            self.failed = f"{self._where}: answers {answer}{f'; {hint}' if hint else ''}"
            return reply.retry_after_s
        if reply.status in REFUSED:
            # stored any longer, it would hold up all others
            self.refused += 1
            self.failed = f"{self._where}: refuses a message with {answer}; {self.refused} messages refused so far"
        else:
            self.sent += 1
            self.failed = None
        self.outbox.delete(self.name, [message.id])
        return None
