"""The options and times of the MQTT output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge.outputs.durable_sink import FLUSH_S
from edge.results.zones import Zone
from sightline.predictions import ModelId


@dataclass(frozen=True)
class MqttOptions:
    """What is published, and under which names.

    name: of this agent; Home Assistant knows the device by it, so it must stay the same.
    prefix: first part of each topic.
    cameras: their names.
    model: returns the model that runs.
    facts: returns the agent's state, which must have `threshold`; called every ten seconds.
    set_threshold: called with a number from 0 to 1, by paho's thread.
    image_s: seconds between two images of one camera; 0 = no images.
    zones: zones and lines, whose counts are part of a camera's state.
    """

    name: str
    prefix: str
    cameras: Sequence[str]
    model: Callable[[], ModelId]
    facts: Callable[[], Mapping[str, Any]]
    set_threshold: Callable[[float], None]
    image_s: float
    zones: Sequence[Zone] = ()


@dataclass(frozen=True)
class MqttTiming:
    """Times in seconds.

    connect_s: for a broker to accept the connection.
    backoff_s, backoff_max_s: first and longest pause between two attempts.
    acknowledge_s: without any acknowledgement, after which the connection is given up.
    delete_s: between two deletions of what has arrived: each one is a write to the disk.
    state_s: minimum time between two states of one camera.
    flush_s: for sending what is quick to send, at the end.
    """

    connect_s: float = 5.0
    backoff_s: float = 0.5
    backoff_max_s: float = 30.0
    acknowledge_s: float = 30.0
    delete_s: float = 0.5
    state_s: float = 1.0
    flush_s: float = FLUSH_S


TIMING = MqttTiming()
