"""Draws the best prediction into each frame of a clip: `python -m examples.draw BUNDLE SOURCE OUT.mp4`."""

from __future__ import annotations

import sys

import cv2

from edge import predictions


def main(bundle: str, source: str, out: str) -> None:
    writer: cv2.VideoWriter | None = None
    with predictions(bundle, source) as results:
        for result in results:
            if results.frame is None or not result.predictions:
                continue
            best = result.predictions[0]
            height, width = results.frame.shape[:2]
            size = width / 640
            text = f"{best.label} {best.score:.0%}"
            cv2.rectangle(results.frame, (0, height - int(40 * size)), (width, height), (20, 20, 20), cv2.FILLED)
            cv2.putText(results.frame, text, (int(12 * size), height - int(12 * size)), cv2.FONT_HERSHEY_SIMPLEX, size,
                        (255, 255, 255), max(1, round(2 * size)), cv2.LINE_AA)  # fmt: skip
            if writer is None:
                writer = cv2.VideoWriter(out, cv2.VideoWriter.fourcc(*"mp4v"), 30, (width, height))
            writer.write(results.frame)
    if writer is not None:
        writer.release()


if __name__ == "__main__":
    main(*sys.argv[1:])
