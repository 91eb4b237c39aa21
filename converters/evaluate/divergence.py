"""How far a quantized model's outputs are from float32's, in one number. The search minimises it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sightline.metrics import paired_iou
from sightline.output_spec import OutputSpec, scores

MIN_PROBABILITY = 1e-3
EXACT_SNR_DB = 200.0  # of outputs that are equal
Outputs = NDArray[np.float32]


def split(values: Outputs, shapes: Sequence[tuple[int, ...]]) -> list[Outputs]:
    """Cut [n, values] into the model's outputs, each [n, ...]. shapes: of the outputs of one image."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    parts = np.split(values, ends[:-1], axis=1)
    return [part.reshape(len(values), *shape) for part, shape in zip(parts, shapes, strict=True)]


def class_divergence(expected: Outputs, actual: Outputs, spec: OutputSpec) -> float:
    """Mean Kullback-Leibler divergence, in nats, of the scores of `actual` from those of `expected`, both [n, classes].

    Unlike the outputs' own error it is bounded where the model is sure, so a few images with large outputs do not
    decide. Independent scores (sigmoid) are each a distribution of two. Scores under 0.001 count as 0.001: an int8
    probability has steps of 1/256, and a zero would outweigh everything else.
    """
    p = np.asarray([scores([row], spec) for row in expected], np.float64)
    q = np.asarray([scores([row], spec) for row in actual], np.float64)
    if spec.activation == "sigmoid":
        p, q = np.stack([p, 1 - p], -1), np.stack([q, 1 - q], -1)
    p, q = np.clip(p, MIN_PROBABILITY, None), np.clip(q, MIN_PROBABILITY, None)
    return float((p * np.log(p / q)).sum(axis=-1).mean())


def cell_divergence(expected: Outputs, actual: Outputs) -> float:
    """The same for the logits of cells, [n, ...], each a distribution of two. Summed over the cells of an image."""
    p, q = (np.clip(_sigmoid(v), MIN_PROBABILITY, 1 - MIN_PROBABILITY) for v in (expected, actual))
    return float((p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum()) / len(expected)


def box_divergence(expected: Sequence[Outputs], actual: Sequence[Outputs]) -> float:
    """The same for a detector's outputs, logits and distances in turn. Summed over the cells of an image.

    Each score counts as a distribution of two. Each cell's box counts as 1 - IoU, weighted by float32's best score
    there.
    """
    total = 0.0
    for logits, edges, actual_logits, actual_edges in zip(
        expected[::2], expected[1::2], actual[::2], actual[1::2], strict=True
    ):
        total += cell_divergence(logits, actual_logits) * len(logits)
        best = _sigmoid(logits).max(axis=-1)
        occupied = best > 10 * MIN_PROBABILITY
        a, b = edges[occupied].clip(0), actual_edges[occupied].clip(0)
        total += float((best[occupied] * (1 - paired_iou(_boxes(a), _boxes(b)))).sum())
    return total / len(expected[0])


def snr_db(expected: Outputs, actual: Outputs) -> float:
    """Signal-to-noise ratio in decibels. Only what varies counts as signal: a constant carries no information."""
    noise = float(np.square(actual - expected).mean())
    signal = float((expected - expected.mean(axis=0, keepdims=True)).var())
    return EXACT_SNR_DB if noise == 0 else float(10 * np.log10(max(signal, 1e-30) / noise))


def _sigmoid(logits: Outputs) -> Outputs:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))))


def _boxes(distances: Outputs) -> Outputs:
    """[n, 4] x, y, width, height around the origin, from distances to the left, top, right and bottom edge."""
    return np.concatenate([-distances[:, :2], distances[:, :2] + distances[:, 2:]], axis=1)
