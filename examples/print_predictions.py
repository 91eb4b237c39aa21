"""Prints a line when the best prediction changes: `python -m examples.print_predictions BUNDLE SOURCE`."""

from __future__ import annotations

import sys

from edge import predictions


def main(bundle: str, source: str) -> None:
    before = ""
    with predictions(bundle, source) as results:
        for result in results:
            if result.status != "ok":
                print(f"no inference: {result.cause.text if result.cause else ''}")
            elif result.predictions and result.predictions[0].label != before:
                best = result.predictions[0]
                before = best.label
                print(f"frame {result.frame_id}: {best.label} {best.score:.0%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
