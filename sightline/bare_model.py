"""A .tflite of somebody else's as if it were a bundle: it can run, but nobody measured it, and nothing proves it."""

from __future__ import annotations

import re
from pathlib import Path

from sightline.bundle import Bundle, Manifest, read_bundle
from sightline.device import DeviceConfig, load_device
from sightline.errors import ModelError
from sightline.files import file_table, sha256
from sightline.identify_outputs import NO_HINTS, Hints, recognize
from sightline.interpreter import Delegate

PASSTHROUGH = "passthrough"  # the scheme of a model that was not converted


def read_model(path: Path, delegate: Delegate = "xnnpack") -> Bundle:
    """A bundle, or a bare .tflite. delegate: that can run it, if need be. Raises ModelError."""
    return bare_bundle(path, delegate=delegate) if path.is_file() else read_bundle(path)


def read_for(path: Path, device: str | None) -> tuple[Bundle, str, DeviceConfig]:
    """The model, and the device that runs it, by name and as it is: the one that is said, else the model's own."""
    said = load_device(device) if device else None
    bundle = read_model(path, said[1].delegate if said else "xnnpack")
    return bundle, *(said or load_device(bundle.manifest.device))


def bare_bundle(path: Path, hints: Hints = NO_HINTS, delegate: Delegate = "xnnpack") -> Bundle:
    """Raises ModelError where it is no .tflite, or does not say enough of itself."""
    if path.suffix != ".tflite":
        raise ModelError(f"{path}: is no bundle and no .tflite; `sightline convert` makes a bundle of a model")
    try:
        content = path.read_bytes()
    except OSError as e:
        raise ModelError(f"{path}: {e.strerror}") from None
    found = recognize(content, str(path), hints, delegate)
    digest = sha256(content)
    manifest = Manifest(
        name=re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip(".-_")[:100] or "model",
        version=digest[:8],
        device="coral_usb" if delegate == "edgetpu" else "desktop",
        default=PASSTHROUGH,
        input=found.input,
        output=found.output,
        variants={PASSTHROUGH: path.name},
        metrics={},
        provenance={"source": {"file": path.name, "sha256": digest}, "assumed": list(found.notes)},
    )
    contents = {path.name: content}
    return Bundle(path, manifest, file_table(contents), contents)
