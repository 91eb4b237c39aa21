"""A bare .tflite as a bundle in memory: it runs, but it has no metrics and no golden samples."""

from __future__ import annotations

import re
from pathlib import Path

from sightline.bundle import Bundle, Manifest, read_bundle
from sightline.device_config import DeviceConfig, load_device
from sightline.documents import read_bytes
from sightline.errors import ModelError
from sightline.files import file_table, sha256
from sightline.identify_outputs import NO_HINTS, Hints, identify
from sightline.interpreter import Delegate

PASSTHROUGH = "passthrough"  # the scheme of a model that was not converted


def read_model(path: Path, delegate: Delegate = "xnnpack") -> Bundle:
    """A bundle, or a bare .tflite as one. delegate: runs the .tflite once to identify it. Raises ModelError."""
    return bare_bundle(path, delegate=delegate) if path.is_file() else read_bundle(path)


def read_for(path: Path, device: str | None) -> tuple[Bundle, str, DeviceConfig]:
    """(model, name of the device that runs it, its config). device: None = the model's own."""
    chosen = load_device(device) if device else None
    bundle = read_model(path, chosen[1].delegate if chosen else "xnnpack")
    return bundle, *(chosen or load_device(bundle.manifest.device))


def bare_bundle(path: Path, hints: Hints = NO_HINTS, delegate: Delegate = "xnnpack") -> Bundle:
    """A .tflite as a bundle. Raises ModelError if it is not a .tflite, or does not state enough about itself."""
    if path.suffix != ".tflite":
        raise ModelError(f"{path}: is neither a bundle nor a .tflite. Make a bundle with `sightline convert`.")
    content = read_bytes(path, ModelError)
    model = identify(content, str(path), hints, delegate)
    digest = sha256(content)
    manifest = Manifest(
        name=re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip(".-_")[:100] or "model",
        version=digest[:8],
        device="coral_usb" if delegate == "edgetpu" else "desktop",
        default=PASSTHROUGH,
        input=model.input,
        output=model.output,
        variants={PASSTHROUGH: path.name},
        metrics={},
        provenance={"source": {"file": path.name, "sha256": digest}, "assumed": list(model.notes)},
    )
    contents = {path.name: content}
    return Bundle(path, manifest, file_table(contents), contents)
