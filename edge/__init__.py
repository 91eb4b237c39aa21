"""The agent: a camera in, predictions out. Light enough for a Raspberry Pi, and without torch or tensorflow.

`from edge import predictions` is for programs of one's own around a camera; see `edge.api`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge.api import Predictions as predictions

__all__ = ["predictions"]


def __getattr__(name: str) -> Any:
    if name == "predictions":  # not at import: the command line need not pay for it
        from edge.api import Predictions

        return Predictions
    raise AttributeError(f"module 'edge' has no attribute {name!r}")
