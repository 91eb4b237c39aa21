"""From frames to events: `--on 'cap_off>=0.8 for 2s'` says when something begins, goes on, and is over.

A rule has hysteresis twice: in the score, which has to fall clearly below the one that began it, and in time, which
has to pass both ways. A frame that nobody looked at says neither yes nor no: what was so before it goes on.
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

MARGIN = 0.1  # by so much a score has to fall below the rule's, for it to be over
OVER_S = 1.0  # and for so long, or for as long as it took to begin
UPDATE_S = 10.0
UNSEEN_S = 30.0  # without a look at it, it is over
GAP_S = 1.0  # of a time in which nobody could look, so much counts at most
_RULE = re.compile(
    r"\s*(?:'(?P<q>[^']+)'|\"(?P<qq>[^\"]+)\"|(?P<label>[^'\"].*?))\s*>=\s*(?P<score>[\d.]+)(?P<percent>\s*%)?"
    r"(?:\s+for\s+(?P<time>[\d.]+)\s*(?P<unit>ms|s|min))?(?:\s+on\s+(?P<camera>\S.*?))?\s*",
)
_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0}


@dataclass(frozen=True)
class Rule:
    """text: as it was written. score: 0..1, to begin with. for_s: how long it has to last. camera: '' = each one."""

    text: str
    label: str
    score: float
    for_s: float = 0.0
    camera: str = ""


def parse_rule(text: str, labels: Sequence[str], cameras: Sequence[str]) -> Rule:
    """Raises ConfigError for what is none, and for a label or a camera that there is not."""
    found = _RULE.fullmatch(text)
    try:
        if not found:
            raise ValueError
        score, seconds = float(found["score"]), float(found["time"] or 0) * _UNITS[found["unit"] or "s"]
    except ValueError:
        raise ConfigError(
            f"--on {text!r}: not a rule; such as 'fox>=0.8', 'cap_off>=80% for 2s', \"'red fox'>=0.8 for 1min on door\""
        ) from None
    label, camera = found["q"] or found["qq"] or found["label"], found["camera"] or ""
    if found["percent"]:
        score /= 100
    if not 0 < score <= 1:
        raise ConfigError(f"--on {text!r}: a score is above 0 and at most 1 (or 100%)")
    if label not in labels:
        raise ConfigError(f"--on {text!r}: the model has no label {label!r}{near(label, labels)}")
    if camera and camera not in cameras:
        raise ConfigError(
            f"--on {text!r}: no camera {camera!r}{near(camera, cameras)}; there are: {', '.join(cameras)}"
        )
    return Rule(" ".join(text.split()), label, score, seconds, camera)


@dataclass(frozen=True)
class Event:
    """Something that lasts. id: the same in each state. state: `new`, then `update` now and then, then `end`. score: of
    this moment; None where nobody looked. best: highest so far. began_at, at: UTC, ISO 8601. seconds: it has lasted.
    snapshot: file name of the picture that it began with; '' = none. ended_by: `score`, or `unseen` when nobody could
    look any more, or `stopped` with the agent; '' before."""

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
    ended_by: Literal["", "score", "unseen", "stopped"] = ""

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
    """One rule on one camera, fed with each of its results in order."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._event: Event | None = None
        self._began_ns = 0  # of the event
        self._since_ns: int | None = None  # the score says yes before, or no during an event
        self._looked_ns = self._told_ns = self._last_ns = 0
        self._blind = False  # nobody could look at the last frame

    def see(self, result: Result) -> Event | None:
        """What this result begins, continues, or ends."""
        now = self._last_ns = result.moment
        if result.cause is not None and result.cause.code != "no_motion":
            self._blind = True
            if self._event and now - self._looked_ns > UNSEEN_S * 1e9:
                return self._end(result.captured_at, now, None, "unseen")
            return None
        if self._blind and self._since_ns is not None:
            gap_s = (now - self._looked_ns) / 1e9
            self._since_ns = None if gap_s > UNSEEN_S else self._since_ns + int(1e9 * max(0.0, gap_s - GAP_S))
        self._blind, self._looked_ns = False, now
        if result.cause is not None:  # nothing moved: what held still holds
            return None
        score = max((p.score for p in result.predictions if p.label == self.rule.label), default=0.0)
        if self._event is None:
            return self._begin(result, now, score)
        self._event = replace(self._event, best=max(self._event.best, score))
        if score >= max(self.rule.score - MARGIN, self.rule.score / 2):
            self._since_ns = None
        elif self._since_ns is None:
            self._since_ns = now
        if self._since_ns is not None and now - self._since_ns >= max(OVER_S, self.rule.for_s) * 1e9:
            return self._end(result.captured_at, now, score, "score")
        if now - self._told_ns >= UPDATE_S * 1e9:
            return self._tell(replace(self._event, state="update", score=score, at=result.captured_at), now)
        return None

    def stop(self, at: str) -> Event | None:
        """The agent ends: nobody looks any more."""
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
        return self._tell(event, now)

    def _end(self, at: str, now: int, score: float | None, by: Literal["score", "unseen", "stopped"]) -> Event:
        assert self._event is not None
        event = self._tell(replace(self._event, state="end", score=score, at=at, ended_by=by), now)
        self._event, self._since_ns = None, None
        return event

    def _tell(self, event: Event, now: int) -> Event:
        self._told_ns = now
        self._event = replace(event, seconds=(now - self._began_ns) / 1e9)
        return self._event

    def photographed(self, name: str) -> Event:
        """The event that just began has a picture of this name."""
        assert self._event is not None
        self._event = replace(self._event, snapshot=name)
        return self._event
