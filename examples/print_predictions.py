"""What the camera sees, one line a change: `python -m examples.print_predictions BUNDLE SOURCE`."""

from __future__ import annotations

import sys

from edge import predictions


def main(bundle: str, source: str) -> None:
    before = ""
    with predictions(bundle, source) as seen:
        for result in seen:
            if result.status != "ok":
                print(f"not seen: {result.cause.text if result.cause else ''}")
            elif result.predictions and result.predictions[0].label != before:
                best = result.predictions[0]
                before = best.label
                print(f"frame {result.frame_id}: {best.label} {best.score:.0%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
