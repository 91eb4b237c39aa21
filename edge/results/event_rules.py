"""Alert rules: `--on 'cap_off>=0.8 for 2s'` makes events from results: an event begins, continues and ends.

A rule has hysteresis in the score, which has to fall clearly below the rule's for the event to end, and in time, which
has to pass in both directions. A frame without inference counts neither for nor against: the state before it continues.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sightline.errors import ConfigError
from sightline.predictions import ModelId, Result
from sightline.strict_config import near

MARGIN = 0.1  # an event ends when the score falls this far below the rule's
MIN_END_S = 1.0  # and stays there for this long, or for the rule's own time if that is longer
UPDATE_S = 10.0  # between two updates of an event
NO_INFERENCE_S = 30.0  # without inference, after which an event ends
GAP_S = 1.0  # longest part of a time without inference that counts towards a rule's time
_RULE = re.compile(
    r"\s*(?:'(?P<q>[^']+)'|\"(?P<qq>[^\"]+)\"|(?P<label>[^'\"].*?))\s*>=\s*(?P<score>[\d.]+)(?P<percent>\s*%)?"
    r"(?:\s+for\s+(?P<time>[\d.]+)\s*(?P<unit>ms|s|min))?(?:\s+on\s+(?P<camera>\S.*?))?\s*",
)
_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0}


@dataclass(frozen=True)
class Rule:
    """A condition on one label.

    text: the rule as the user wrote it.
    score: 0..1; an event begins at this score.
    for_s: how long the score has to last.
    camera: '' = every camera.
    """

    text: str
    label: str
    score: float
    for_s: float = 0.0
    camera: str = ""


def parse_rule(text: str, labels: Sequence[str], cameras: Sequence[str]) -> Rule:
    """Read the text of --on. Raises ConfigError, also for an unknown label or camera."""
    match = _RULE.fullmatch(text)
    try:
        if not match:
            raise ValueError
        score, seconds = float(match["score"]), float(match["time"] or 0) * _UNITS[match["unit"] or "s"]
    except ValueError:
        raise ConfigError(
            f"--on {text!r}: not a rule. Write 'fox>=0.8', 'cap_off>=80% for 2s' or "
            f"\"'red fox'>=0.8 for 1min on door\"."
        ) from None
    label, camera = match["q"] or match["qq"] or match["label"], match["camera"] or ""
    if match["percent"]:
        score /= 100
    if not 0 < score <= 1:
        raise ConfigError(f"--on {text!r}: a score must be above 0 and at most 1 (or 100%)")
    if label not in labels:
        raise ConfigError(f"--on {text!r}: the model has no label {label!r}{near(label, labels)}")
    if camera and camera not in cameras:
        raise ConfigError(f"--on {text!r}: no camera {camera!r}{near(camera, cameras)}. Cameras: {', '.join(cameras)}.")
    return Rule(" ".join(text.split()), label, score, seconds, camera)


@dataclass(frozen=True)
class Event:
    """A rule's condition holds for some time.

    id: the same in each state.
    state: `new`, then `update` every UPDATE_S, then `end`.
    score: at this moment; None without inference.
    best: highest score so far.
    began_at, at: UTC, ISO 8601.
    seconds: duration so far.
    snapshot: file name of the image that it began with; '' = none.
    ended_by: `score`; `no_inference` after NO_INFERENCE_S without; `stopped` with the agent; '' before the end.
    """

    id: str
    state: Literal["new", "update", "end"]
    rule: str
    device: str
    source: str
    label: str
    score: float | None
    best: float
    began_at: str
    at: str
    seconds: float
    model: ModelId
    snapshot: str = ""
    ended_by: Literal["", "score", "no_inference", "stopped"] = ""

    @property
    def key(self) -> str:
        return f"{self.id}-{self.state}" + (f"-{self.seconds:.0f}" if self.state == "update" else "")

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "state": self.state,
            "rule": self.rule,
            "device": self.device,
            "source": self.source,
            "label": self.label,
            "score": None if self.score is None else round(self.score, 5),
            "best": round(self.best, 5),
            "began_at": self.began_at,
            "at": self.at,
            "seconds": round(self.seconds, 3),
            "model": {"name": self.model.name, "version": self.model.version, "sha256": self.model.sha256},
            "snapshot": self.snapshot or None,
            "ended_by": self.ended_by or None,
        }


class EventTracker:
    """Applies one rule to one camera's results. Only one thread may use an object: the publisher's."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._event: Event | None = None
        self._began_ns = 0  # when the event began
        # since when the score has been high enough, before an event, or low enough, during one
        self._since_ns: int | None = None
        self._inferred_ns = self._reported_ns = self._last_ns = 0
        self._blind = False  # the last frame got no inference, and not for lack of motion

    def update(self, result: Result) -> Event | None:
        """The event that the camera's next result begins, continues or ends, if it is to be reported."""
        now = self._last_ns = result.moment
        if result.cause is not None and result.cause.code != "no_motion":
            self._blind = True
            if self._event and now - self._inferred_ns > NO_INFERENCE_S * 1e9:
                return self._end(result.captured_at, now, None, "no_inference")
            return None
        if self._blind and self._since_ns is not None:
            gap_s = (now - self._inferred_ns) / 1e9
            self._since_ns = None if gap_s > NO_INFERENCE_S else self._since_ns + int(1e9 * max(0.0, gap_s - GAP_S))
        self._blind, self._inferred_ns = False, now
        if result.cause is not None:  # nothing moved, so nothing changed
            return None
        score = max((p.score for p in result.predictions if p.label == self.rule.label), default=0.0)
        if self._event is None:
            return self._begin(result, now, score)
        self._event = replace(self._event, best=max(self._event.best, score))
        if score >= max(self.rule.score - MARGIN, self.rule.score / 2):
            self._since_ns = None
        elif self._since_ns is None:
            self._since_ns = now
        if self._since_ns is not None and now - self._since_ns >= max(MIN_END_S, self.rule.for_s) * 1e9:
            return self._end(result.captured_at, now, score, "score")
        if now - self._reported_ns >= UPDATE_S * 1e9:
            return self._report(replace(self._event, state="update", score=score, at=result.captured_at), now)
        return None

    def stop(self, at: str) -> Event | None:
        """End the event, because the agent ends. at: UTC, ISO 8601."""
        return self._end(at, self._last_ns, None, "stopped") if self._event else None

    def _begin(self, result: Result, now: int, score: float) -> Event | None:
        if score < self.rule.score:
            self._since_ns = None
            return None
        self._since_ns = now if self._since_ns is None else self._since_ns
        if now - self._since_ns < self.rule.for_s * 1e9:
            return None
        self._began_ns, self._since_ns = now, None
        event = Event(
            secrets.token_hex(8), "new", self.rule.text, result.device, result.source, self.rule.label, score, score,
            result.captured_at, result.captured_at, 0.0, result.model,
        )  # fmt: skip
        return self._report(event, now)

    def _end(self, at: str, now: int, score: float | None, by: Literal["score", "no_inference", "stopped"]) -> Event:
        assert self._event is not None
        event = self._report(replace(self._event, state="end", score=score, at=at, ended_by=by), now)
        self._event, self._since_ns = None, None
        return event

    def _report(self, event: Event, now: int) -> Event:
        self._reported_ns = now
        self._event = replace(event, seconds=(now - self._began_ns) / 1e9)
        return self._event

    def set_snapshot(self, name: str) -> Event:
        """Give the event that just began the file name of its snapshot."""
        assert self._event is not None
        self._event = replace(self._event, snapshot=name)
        return self._event
