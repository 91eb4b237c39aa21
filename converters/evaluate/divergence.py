"""How far a quantized model's outputs are from float32's, in one number: what the search goes by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sightline.output_spec import OutputSpec, scores

FLOOR = 1e-3
Outputs = NDArray[np.float32]


def split(values: Outputs, shapes: Sequence[tuple[int, ...]]) -> list[Outputs]:
    """Each output, [n, ...], of [n, values]. shapes: of the outputs of one picture."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    parts = np.split(values, ends[:-1], axis=1)
    return [part.reshape(len(values), *shape) for part, shape in zip(parts, shapes, strict=True)]


def class_divergence(wanted: Outputs, given: Outputs, spec: OutputSpec) -> float:
    """Mean Kullback-Leibler divergence, in nats, of the scores of `given` from those of `wanted`, [n, classes] each.

    Unlike the outputs' own error it is bounded where the model is sure anyway, so that a few pictures with large
    outputs do not decide. Independent scores (sigmoid) are each a distribution of two. Scores under 0.001 count as
    0.001: an int8 probability has steps of 1/256, and a zero would outweigh everything else.
    """
    p = np.asarray([scores([row], spec) for row in wanted], np.float64)
    q = np.asarray([scores([row], spec) for row in given], np.float64)
    if spec.activation == "sigmoid":
        p, q = np.stack([p, 1 - p], -1), np.stack([q, 1 - q], -1)
    p, q = np.clip(p, FLOOR, None), np.clip(q, FLOOR, None)
    return float((p * np.log(p / q)).sum(axis=-1).mean())


def cell_divergence(wanted: Outputs, given: Outputs) -> float:
    """The same of logits of cells, [n, ...], each a distribution of two; summed over the cells of a picture."""
    p, q = (np.clip(1 / (1 + np.exp(-np.clip(v, -30, 30))), FLOOR, 1 - FLOOR) for v in (wanted, given))
    return float((p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum()) / len(wanted)


def box_divergence(wanted: Sequence[Outputs], given: Sequence[Outputs]) -> float:
    """The same of a detector's outputs, summed over the cells of a picture: of each score as a distribution of two, and
    1 - IoU of each cell's box, as far as float32 sees something there."""
    total = 0.0
    for logits, edges, its_logits, its_edges in zip(wanted[::2], wanted[1::2], given[::2], given[1::2], strict=True):
        total += cell_divergence(logits, its_logits) * len(logits)
        best = (1 / (1 + np.exp(-np.clip(logits, -30, 30)))).max(axis=-1)
        seen = best > 10 * FLOOR
        a, b = edges[seen].clip(0), its_edges[seen].clip(0)
        shared = _area(np.minimum(a, b))
        overlap = shared / np.maximum(_area(a) + _area(b) - shared, 1e-9)
        total += float((best[seen] * (1 - overlap)).sum())
    return total / len(wanted[0])


def _area(edges: Outputs) -> Outputs:
    """Of boxes that lie around the same point, [n, 4] distances to left, top, right, bottom."""
    return np.asarray((edges[:, 0] + edges[:, 2]) * (edges[:, 1] + edges[:, 3]))


def snr_db(wanted: Outputs, given: Outputs) -> float:
    """Signal over noise in decibels; of the signal only what varies, for a constant says nothing."""
    noise = float(np.square(given - wanted).mean())
    signal = float((wanted - wanted.mean(axis=0, keepdims=True)).var())
    return 200.0 if noise == 0 else float(10 * np.log10(max(signal, 1e-30) / noise))
