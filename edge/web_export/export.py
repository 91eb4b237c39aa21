"""Exports a bundle as static files: page, model, runtime, and the golden samples that prove it in the browser."""

from __future__ import annotations

import dataclasses
import html
import json
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np

from edge.web_export.litert_js import VERSION as RUNTIME
from edge.web_export.litert_js import runtime_files
from sightline import __version__
from sightline.bundle import Bundle
from sightline.errors import ConfigError, ModelError
from sightline.files import sha256, write_file, write_folder
from sightline.interpreter import Interpreter
from sightline.npz import unpack_rows

SCHEMES = ("static_int8_float_io", "dynamic_int8", "float16", "float32")  # that LiteRT.js runs, the best first
GOLDEN_FRAMES = 4
_STATIC = Path(__file__).parent / "static"
_PAGE_FILES = (
    "page.css",
    "app.js",
    "camera.js",
    "drawing.js",
    "messages.js",
    "offline.js",
    "page.js",
    "sharing.js",
    "inference-worker.js",
    "preprocess-worker.js",
    "preprocess.js",
    "postprocess.js",
    "tracker.js",
    "icon.svg",
)


@dataclass(frozen=True)
class Exported:
    """An exported site.

    version: name of the folder with all versioned files.
    scheme: variant of the model.
    first_load: bytes that a phone downloads at the first load, with the larger of the runtime's two builds.
    total: bytes of all files.
    files: number of files.
    """

    version: str
    scheme: str
    first_load: int
    total: int
    files: int


def export(bundle: Bundle, out: Path, *, scheme: str | None, post: str, runtime: Path | None) -> Exported:
    """Write the site, or nothing.

    out: folder; a site in it is replaced. For a browser that is one step: the new index.html.
    scheme: variant; None = the best that LiteRT.js runs.
    post: address that the page may post results to; '' = none.
    runtime: folder with LiteRT.js's archives, see `runtime_files`.
    Raises ConfigError, ModelError and DeviceError.
    """
    if out.exists() and not (out / "app.webmanifest").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: exists and is not an exported site. Pass another --out.")
    if post:
        _check_address(post)
    chosen = _variant(bundle, scheme)
    files = _versioned(bundle, chosen, post, runtime)
    version = sha256(b"".join(name.encode() + b"\0" + data for name, data in sorted(files.items())))[:16]
    name = html.escape(bundle.manifest.name)
    policy = html.escape(content_policy(post))
    index = (_STATIC / "index.html").read_text()
    index = index.replace("@VERSION@", version).replace("@NAME@", name).replace("@CSP@", policy)
    shell = ["./", "app.webmanifest", *(f"{version}/{f}" for f in files if not f.startswith("litert_wasm"))]
    service_worker = (
        (_STATIC / "service-worker.js")
        .read_text()
        .replace("@VERSION@", version)
        .replace("/*@SHELL@*/[]", json.dumps(shell))
    )
    app = {
        "name": bundle.manifest.name, "short_name": bundle.manifest.name, "start_url": "./", "scope": "./",
        "display": "standalone", "background_color": "#05080b", "theme_color": "#05080b",
        "icons": [
            {"src": f"{version}/icon.svg", "sizes": "any", "type": "image/svg+xml", "purpose": "any maskable"},
            {"src": f"{version}/icon.png", "sizes": "512x512", "type": "image/png"},
        ],
    }  # fmt: skip
    top = {
        "app.webmanifest": json.dumps(app, indent=2).encode(),
        "service-worker.js": service_worker.encode(),
        "index.html": index.encode(),
    }
    older = [p.parent for p in out.glob("*/bundle.json") if p.parent.name != version]
    write_folder(out / version, files)
    for file, content in top.items():  # index.html comes last: until then the old version is complete
        write_file(out / file, content)
    # the previous version stays for open pages; older ones are deleted
    for folder in sorted(older, key=lambda p: p.stat().st_mtime)[:-1]:
        shutil.rmtree(folder)
    runtimes = [len(data) for file, data in files.items() if file.endswith(".wasm")]
    everything = sum(map(len, files.values())) + sum(map(len, top.values()))
    return Exported(version, chosen, everything - min(runtimes), everything, len(files) + len(top))


def _check_address(post: str) -> None:
    """The host becomes part of the page's policy, where a space or a ; would start another rule. Raises ConfigError."""
    try:
        parts = urlsplit(post)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("https", "http") or not re.fullmatch(r"[A-Za-z0-9._-]+(:[0-9]+)?", parts.netloc):
        raise ConfigError(f"--post {post}: not a valid address. Write https://host/path, without a password.")


def content_policy(post: str) -> str:
    """The page's Content-Security-Policy: no other origin, but that of --post for requests."""
    parts = urlsplit(post)
    origin = f" {parts.scheme}://{parts.netloc}" if post else ""
    return (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; "
        f"img-src 'self' blob:; media-src 'self' blob: mediastream:; connect-src 'self'{origin}; manifest-src 'self'; "
        "base-uri 'none'; form-action 'none'"
    )


def _variant(bundle: Bundle, scheme: str | None) -> str:
    output = bundle.manifest.output
    if output.decoder or output.task not in ("classify", "detect"):
        kind = output.decoder or output.task
        raise ModelError(f"{bundle.path}: the page runs Sightline's own classifiers and detectors, not {kind} models.")
    variants = bundle.manifest.variants
    if scheme is None:
        scheme = next((s for s in SCHEMES if s in variants), None)
    if scheme not in variants or scheme not in SCHEMES:
        raise ModelError(
            f"{bundle.path}: a browser needs a variant with float input and output ({', '.join(SCHEMES)}). The "
            f"bundle has: {', '.join(variants)}. `sightline convert .. --device browser_phone` makes one."
        )
    return scheme


def _versioned(bundle: Bundle, scheme: str, post: str, runtime: Path | None) -> dict[str, bytes]:
    """{name: content} of the files that never change under their names."""
    _, model, identity = bundle.variant(scheme)
    manifest = bundle.manifest
    outputs = Interpreter(model, manifest.input, threads=1, name=str(bundle.path)).outputs
    keys = [f"{scheme}/output_{i}" for i in range(len(outputs))]
    shapes = {"frames": ("uint8", manifest.input.width * manifest.input.height * 3)}
    shapes |= {key: ("float32", math.prod(t.shape)) for key, t in zip(keys, outputs, strict=True)}
    golden = unpack_rows(bundle.contents["golden.npz"], str(bundle.path / "golden.npz"), GOLDEN_FRAMES, shapes)
    frames = len(golden["frames"])
    samples = golden["frames"].tobytes()
    padding = b"\0" * (-len(samples) % 4)
    samples += padding + b"".join(golden[key][k].astype("<f4").tobytes() for k in range(frames) for key in keys)
    files = runtime_files(runtime)
    files |= {name: (_STATIC / name).read_bytes() for name in _PAGE_FILES}
    files |= {"icon.png": _icon(), "model.tflite": model, "golden.bin": samples, "licences.txt": _licences().encode()}
    about: dict[str, Any] = {
        "schema": 1, "name": manifest.name, "version": manifest.version, "scheme": scheme, "sha256": identity.sha256,
        "input": dataclasses.asdict(manifest.input), "output": dataclasses.asdict(manifest.output), "post": post,
        "golden": {"frames": frames, "sizes": [int(np.prod(t.shape)) for t in outputs], "padding": len(padding)},
        "files": {name: sha256(files[name]) for name in ("model.tflite", "golden.bin")},
    }  # fmt: skip
    return {**files, "bundle.json": json.dumps(about, ensure_ascii=False).encode()}


def _icon() -> bytes:
    """icon.svg as PNG, which phones' home screens need."""
    image = np.full((512, 512, 3), (11, 8, 5), np.uint8)
    cv2.circle(image, (256, 256), 176, (117, 122, 11), -1, cv2.LINE_AA)
    cv2.circle(image, (256, 256), 76, (255, 255, 255), -1, cv2.LINE_AA)
    return cv2.imencode(".png", image)[1].tobytes()


def _licences() -> str:
    return (
        f"Sightline {__version__}, Apache License 2.0.\n"
        f"LiteRT.js {RUNTIME} (@litertjs/core, @litertjs/wasm-utils), Copyright Google LLC, Apache License 2.0.\n"
        f"The model belongs to its author.\n\n{_apache()}"
    )


def _apache() -> str:
    """The licence's text, from a checkout or from the installed package."""
    from importlib.metadata import distribution

    here = Path(__file__).parents[2] / "LICENSE"
    if here.is_file():
        return here.read_text()
    for path in distribution("sightline").files or ():
        if path.name == "LICENSE":
            return str(path.read_text())
    return "https://www.apache.org/licenses/LICENSE-2.0\n"
