"""What the pages for people have in common: a look, tables, figures, pictures with boxes. No page has a script."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from converters.evaluate.metrics import boxes_of
from sightline.images import read_image
from sightline.metrics import GroundTruth
from sightline.predictions import Detection
from sightline.preprocess import Frame

WHITE, GREEN, RED = (255, 255, 255), (80, 200, 80), (60, 60, 235)  # BGR: what is there, float32's, the variant's

_STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--dim:#667080;--line:#d9dee5;--card:#fff;--page:#f4f6f8;--good:#14804a;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e7ebf0;--dim:#98a3b3;--line:#2c343f;--card:#181d24;--page:#0f1318;--good:#4cc38a;--bad:#ff8a80}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:60rem;margin:auto;padding:2rem 1rem}h1{margin:0 0 .25rem;font-size:1.8rem}h2{font-size:1.15rem;margin:2rem 0 .5rem}
.dim{color:var(--dim)}.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.75rem;margin:1.5rem 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1rem}.card b{display:block;font-size:1.6rem}
table{border-collapse:collapse;width:100%;background:var(--card);border:1px solid var(--line);border-radius:10px}
th,td{padding:.5rem .75rem;text-align:right;border-bottom:1px solid var(--line);font-variant-numeric:tabular-nums}
th:first-child,td:first-child,.left td:nth-child(2){text-align:left}td:first-child{overflow-wrap:anywhere}td{white-space:nowrap}tr:last-child td{border:0}.scroll{overflow-x:auto}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(8rem,1fr));gap:.75rem}
.wide{grid-template-columns:repeat(auto-fill,minmax(15rem,1fr))}.pictures img{width:100%;image-rendering:auto;border-radius:8px;display:block}.pictures div{font-size:.85rem}
code{overflow-wrap:anywhere}svg{width:100%;height:auto;display:block;font:11px system-ui,sans-serif;fill:var(--dim)}
.bar{fill:var(--good)}.bad{fill:var(--bad)}.grid{stroke:var(--line)}.line{fill:none;stroke-width:2;stroke:var(--dim)}.l1{stroke:var(--good)}.l2{stroke:var(--bad)}.l3{stroke:#3b82f6}.mark{stroke:var(--bad);stroke-width:2}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(17rem,1fr));gap:.75rem}.charts .dim{font-size:.8rem;overflow-wrap:anywhere}
.yes{color:var(--good);font-weight:600}
"""


def page(title: str, about: str, body: str) -> str:
    """A self-contained page. title: text; about, body: HTML."""
    title = html.escape(title)
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1"><title>{title}</title><style>{_STYLE}</style></head>
<body><main><h1>{title}</h1><div class="dim">{about}</div>
{body}</main></body></html>
"""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{h}</th>" for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def percent(fraction: float | None) -> str:
    return "unknown" if fraction is None else f"{fraction:.2%}"


def points(drop: float | None) -> str:
    return "" if drop is None else f"{0 - drop:+.2f}"


def kib(size: int) -> str:
    return f"{size / 1024:,.0f} KiB"


def shown_frame(frame: Frame) -> str:
    """The address, `data:`, of a frame as the model takes it, RGB."""
    return _jpeg(cv2.cvtColor(np.asarray(frame), cv2.COLOR_RGB2BGR))


def drawn(
    path: Path, truth: GroundTruth, labels: Sequence[str], shown: Sequence[Sequence[Detection]], side: int = 420
) -> tuple[str, str]:
    """(the address, `data:`, of a picture `side` pixels large, what is there in words). In it what is there is white,
    what the first model shows green, the second's red."""
    frame = read_image(path)
    scale = side / max(frame.shape[:2])
    frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    layers = [(truth.boxes, [""] * len(truth.boxes)), *((boxes_of(found), [d.label for d in found]) for found in shown)]
    for (boxes, texts), colour in zip(layers, (WHITE, GREEN, RED), strict=False):
        rows = (np.asarray(boxes, np.float64).reshape(-1, 4) * scale).round().astype(int).tolist()
        for (x, y, width, height), text in zip(rows, texts, strict=True):
            cv2.rectangle(frame, (x, y), (x + width, y + height), colour, 2)
            cv2.putText(frame, text, (x + 3, y + 13), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)
    return _jpeg(frame), ", ".join(labels[k] for k in truth.labels) or "nothing"


def _jpeg(frame: Frame) -> str:
    data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
