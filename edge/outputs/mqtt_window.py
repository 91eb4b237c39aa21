"""The MQTT messages in flight: published, and not acknowledged by the broker yet."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from paho.mqtt.client import MQTTMessageInfo

from edge.outputs.outbox_file import Message

WINDOW, WINDOW_BYTES = 64, 4 << 20  # limits of what is in flight
HALF = WINDOW // 2  # this many acknowledgements are worth waking up for


@dataclass(frozen=True)
class _Sent:
    """A message in flight.

    info: paho's own record of this publication. paho's message numbers do not identify it: states and images use them
    too, and they repeat after 65,535.
    """

    message: Message
    info: MQTTMessageInfo


class Window:
    """Messages in flight, in the order of their publication.

    Threads: the sender adds and removes messages, with the outbox's lock held. paho's thread reads `half_acknowledged`
    with the same lock held. The sender may read the rest without it, since it is the only writer.
    """

    def __init__(self) -> None:
        self._sent: deque[_Sent] = deque()

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def room(self) -> int:
        """Number of messages that may be added."""
        return WINDOW - len(self._sent)

    @property
    def room_bytes(self) -> int:
        return WINDOW_BYTES - sum(len(sent.message.body) for sent in self._sent)

    @property
    def acknowledged(self) -> set[int]:
        """Ids of the messages that the broker has acknowledged."""
        return {sent.message.id for sent in self._sent if sent.info.is_published()}

    @property
    def half_acknowledged(self) -> bool:
        """Whether half a window is acknowledged, by a broker that acknowledges in order."""
        return len(self._sent) >= HALF and self._sent[HALF - 1].info.is_published()

    def add(self, message: Message, info: MQTTMessageInfo) -> None:
        self._sent.append(_Sent(message, info))

    def remove(self, ids: set[int]) -> None:
        self._sent = deque(sent for sent in self._sent if sent.message.id not in ids)
