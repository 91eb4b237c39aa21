"""Times as text."""

from __future__ import annotations

import datetime


def utc_now() -> str:
    """Now, in UTC, ISO 8601 with milliseconds: 2026-01-31T12:00:00.000Z."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03}Z"
