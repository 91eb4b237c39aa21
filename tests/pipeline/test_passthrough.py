"""A model of somebody else's, from its .tflite to the predictions of the agent."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from sightline.bundle import read_bundle
from tests.conftest import Sightline
from tests.support import foreign_models as f

pytestmark = pytest.mark.slow

DEVICE = ("--device", "desktop")


@pytest.fixture(scope="module")
def yolo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Ultralytics exports one: its metadata describe it completely."""
    path = tmp_path_factory.mktemp("foreign") / "yolo spots.tflite"
    path.write_bytes(f.with_ultralytics(f.tflite(f.Yolo(scale=255.0))))
    return path


def test_a_bare_file_runs(yolo: Path, spots: Path, sightline: Sightline) -> None:
    picture = spots / "val" / "000.png"
    done = sightline("run", yolo, "--source", picture, "--json", "--no-page")
    assert done.returncode == 0, done.stderr
    assert "note: images are resized by letterbox" in done.stderr
    (result,) = map(json.loads, done.stdout.splitlines())
    assert result["model"]["name"] == "yolo-spots" and len(result["model"]["sha256"]) == 64
    document = json.loads((spots / "val" / "_annotations.coco.json").read_text())
    expected = sorted(a["bbox"] for a in document["annotations"] if a["image_id"] == 0)
    actual = sorted([round(p["box"][k]) for k in ("x", "y", "width", "height")] for p in result["predictions"])
    assert actual == expected


def test_a_bundle_of_it_is_measured_and_proves_itself(
    yolo: Path, spots: Path, tmp_path: Path, sightline: Sightline
) -> None:
    out = tmp_path / "yolo.bundle"
    done = sightline("convert", yolo, "--scheme", "passthrough", *DEVICE, "--data", spots, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["task"] == "detect" and result["decoder"] == "yolo" and result["images"] == 36
    assert result["map"] > 0.99 and result["map50"] > 0.99
    bundle = read_bundle(out)
    assert bundle.variant()[1] == yolo.read_bytes(), "not a byte of it was touched"
    assert bundle.manifest.metrics["passthrough"]["map"] == result["map"]
    picture = spots / "val" / "000.png"
    assert sightline("run", out, "--source", picture, "--json", "--no-page").returncode == 0
    result = json.loads(sightline("evaluate", out, spots, "--json").stdout)
    assert result["models"]["yolo passthrough"]["map"] > 0.99
    # and where it computes something else it does not run: another colour is red
    other = tmp_path / "other.bundle"
    model = tmp_path / "other.tflite"
    model.write_bytes(f.with_ultralytics(f.tflite(f.Yolo(scale=128.0))))
    assert sightline("convert", model, "--scheme", "passthrough", *DEVICE, "--out", other).returncode == 0
    from sightline.bundle import write_bundle

    theirs = read_bundle(other)
    files = {k: v for k, v in theirs.contents.items() if k not in ("labels.txt", "manifest.json")}
    files["golden.npz"] = bundle.contents["golden.npz"]
    write_bundle(other, theirs.manifest, files)
    done = sightline("run", other, "--source", picture, "--json", "--no-page")
    assert done.returncode == 3 and "other outputs than the measured ones" in done.stderr


def test_a_mask_and_a_finished_detector_prove_themselves_too(tmp_path: Path, spots: Path, sightline: Sightline) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("background\nblue\nred\n\nwhat comes after an empty line is a remark\n")
    for name, content, hints in (
        ("mask", f.tflite(f.Mask()), ("--labels", labels)),
        ("ssd", f.ssd((2, 0, 3, 1)), ("--labels", labels, "--data", spots)),
    ):
        model, out = tmp_path / f"{name}.tflite", tmp_path / f"{name}.bundle"
        model.write_bytes(content)
        line = ("convert", model, "--scheme", "passthrough", *DEVICE, "--out", out, "--normalization", "0..255", *hints)
        done = sightline(*line)
        assert done.returncode == 0, done.stderr
        assert "2 classes: blue, red" in done.stdout if name == "ssd" else "3 classes" in done.stdout
        assert ("mAP 100.00% on 36 images" in done.stdout) == (name == "ssd")
        done = sightline("run", out, "--source", spots / "val" / "000.png", "--json", "--no-page")
        assert done.returncode == 0, done.stderr
        kinds = {p["kind"] for p in json.loads(done.stdout)["predictions"]}
        assert kinds == {"region" if name == "mask" else "detection"}


def test_text_counts_people_and_names_regions(tmp_path: Path, sightline: Sightline) -> None:
    picture = tmp_path / "red.png"
    import numpy as np

    frame = np.full((64, 64, 3), 90, np.uint8)
    frame[4:20, 36:52] = (30, 30, 230)
    cv2.imwrite(str(picture), frame)
    for module, decoder, words in (
        (f.Yolo(points=17), ("--decoder", "yolo_pose"), "1 person"),
        (f.Mask(), (), "class 2"),
    ):
        model, out = tmp_path / "model.tflite", tmp_path / "model.bundle"
        model.write_bytes(f.tflite(module))
        line = (
            "convert",
            model,
            "--scheme",
            "passthrough",
            *DEVICE,
            "--out",
            out,
            "--normalization",
            "0..255",
            *decoder,
        )
        assert sightline(*line).returncode == 0
        done = sightline("run", out, "--source", picture, "--no-page")
        assert words in done.stdout, (done.stdout, done.stderr)


def test_what_cannot_be_made_a_bundle_is_refused_with_the_reason(
    yolo: Path, pictures: Path, tmp_path: Path, sightline: Sightline
) -> None:
    plain, mask = tmp_path / "plain.tflite", tmp_path / "mask.tflite"
    plain.write_bytes(f.tflite(f.Yolo()))
    mask.write_bytes(f.tflite(f.Mask()))
    out = tmp_path / "out.bundle"
    passthrough = ("--scheme", "passthrough", *DEVICE, "--out", out)
    compiled = tmp_path / "x_edgetpu.tflite"
    compiled.write_bytes(plain.read_bytes() + b"edgetpu-custom-op")
    for arguments, words in [
        ((plain, *passthrough), "--normalization"),
        ((yolo, *passthrough, "--scheme", "float32"), "cannot be combined"),
        ((yolo, *passthrough, "--decoder", "ssd"), "the decoder 'ssd' does not fit its outputs"),
        (
            (mask, *passthrough, "--normalization", "0..255", "--data", pictures),
            "no metric for a model of the task segment",
        ),
        ((tmp_path / "no.tflite", *passthrough), "No such file"),
        ((pictures, *passthrough), "is neither a bundle nor a .tflite"),
        ((compiled, *passthrough), "compiled for the Edge TPU"),
        ((yolo, *DEVICE, "--out", out, "--decoder", "yolo"), "--decoder is for --scheme passthrough"),
        ((yolo, *DEVICE, "--out", out, "--normalization", "0..1", "--data", pictures), "--scheme passthrough"),
    ]:
        done = sightline("convert", *arguments)
        assert done.returncode == 2 and words in done.stderr, (arguments, done.stderr)
        assert not out.exists()
    done = sightline("run", plain, "--source", pictures, "--no-page")
    assert done.returncode == 2 and "sightline convert --scheme passthrough --normalization" in done.stderr
