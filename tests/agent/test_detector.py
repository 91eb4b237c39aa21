"""A detector on the agent, from its .tflite to boxes in pixels of the frame: its answers are known without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import pytest

from edge import predictions
from sightline.bundle import read_bundle, write_bundle
from sightline.npz import pack
from sightline.predictions import SCHEMA_FILE, Detection
from tests.agent.conftest import write_crossing
from tests.conftest import Sightline

SIZE = 64
BGR = {"red": (30, 30, 230), "blue": (230, 30, 30)}
# (label, x, y, width, height) in the camera's pixels: one cell of stride 8 is 40x40 of them
SPOTS = [("red", 40, 40, 40, 40), ("blue", 200, 80, 40, 40)]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of 320x200 with the spots; the letterbox puts it into rows 12 to 52 of the input."""
    image = np.full((200, 320, 3), 90, np.uint8)
    for label, x, y, w, h in SPOTS:
        image[y : y + h, x : x + w] = BGR[label]
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    cv2.imwrite(str(path), image)
    return path


def run(sightline: Sightline, *arguments: object) -> list[dict[str, Any]]:
    done = sightline("run", *arguments, "--json", "--no-page")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["static_int8", "float32"])
def test_boxes_are_where_the_spots_are(detector: Path, scene: Path, sightline: Sightline, scheme: str) -> None:
    (result,) = run(sightline, detector, "--source", scene, "--scheme", scheme)
    jsonschema.validate(result, json.loads(SCHEMA_FILE.read_text()))
    for label, x, y, w, h in SPOTS:
        boxes = [p for p in result["predictions"] if p["label"] == label]
        assert boxes, label
        for p in boxes:  # a box of one stride to each side, around a cell that lies in the spot
            middle = p["box"]["x"] + p["box"]["width"] / 2, p["box"]["y"] + p["box"]["height"] / 2
            assert x <= middle[0] <= x + w and y <= middle[1] <= y + h, (label, p)
    scores = [p["score"] for p in result["predictions"]]
    assert scores == sorted(scores, reverse=True) and min(scores) >= 0.5, "the model's own threshold"


@pytest.mark.slow
def test_the_threshold_and_top_are_for_boxes_too(detector: Path, scene: Path, sightline: Sightline) -> None:
    everything = run(sightline, detector, "--source", scene, "--threshold", 0.02)[0]["predictions"]
    assert len(everything) > len(SPOTS)
    assert len(run(sightline, detector, "--source", scene, "--threshold", 0.02, "--top", 1)[0]["predictions"]) == 1
    assert run(sightline, detector, "--source", scene, "--threshold", 1)[0]["predictions"] == []


def test_text_counts_the_objects(detector: Path, scene: Path, sightline: Sightline) -> None:
    done = sightline("run", detector, "--source", scene, "--no-page")
    assert "2 blue, 2 red" in done.stdout, done.stdout


def test_a_program_gets_boxes(detector: Path, scene: Path) -> None:
    with predictions(detector, str(scene)) as results:
        (result,) = results
    assert {p.label for p in result.predictions} == {"red", "blue"}
    assert all(isinstance(p, Detection) and p.box.width > 0 for p in result.predictions)


def test_one_flipped_output_is_refused(detector: Path, scene: Path, sightline: Sightline, tmp_path: Path) -> None:
    read = read_bundle(detector)
    from sightline.npz import unpack

    golden = unpack(read.contents["golden.npz"], "golden.npz")
    golden["static_int8/output_3"] = golden["static_int8/output_3"] + 1
    files = {k: v for k, v in read.contents.items() if k not in ("labels.txt", "golden.npz")}
    write_bundle(tmp_path / "b.bundle", read.manifest, {**files, "golden.npz": pack(**golden)})
    done = sightline("run", tmp_path / "b.bundle", "--source", scene, "--no-page")
    assert done.returncode == 3 and "other outputs than the measured ones" in done.stderr


def test_outputs_that_do_not_fit_are_refused(detector: Path, scene: Path, sightline: Sightline, tmp_path: Path) -> None:
    import dataclasses

    read = read_bundle(detector)
    files = {k: v for k, v in read.contents.items() if k != "labels.txt"}
    output = dataclasses.replace(read.manifest.output, strides=(16, 8))
    write_bundle(tmp_path / "b.bundle", dataclasses.replace(read.manifest, output=output), files)
    done = sightline("run", tmp_path / "b.bundle", "--source", scene, "--no-page")
    assert done.returncode == 2 and "does not fit its manifest" in done.stderr


@pytest.mark.slow
def test_a_tracked_object_keeps_its_number(detector: Path, tmp_path: Path, sightline: Sightline) -> None:
    clip = write_crossing(tmp_path / "moving.avi", 40, 5, start=20)
    results = run(sightline, detector, "--source", clip, "--track", "--record", tmp_path / "recording")
    done = sightline("run", detector, "--source", tmp_path / "recording", "--no-page")
    assert "replayed: 40 of 40 results are as recorded" in done.stderr, "the ids too, by the clip's own clock"
    for result in results:
        jsonschema.validate(result, json.loads(SCHEMA_FILE.read_text()))
    tracks = [{p["track"] for p in r["predictions"] if "track" in p} for r in results if r["status"] == "ok"]
    longest = max(set.union(*tracks), key=lambda k: sum(k in t for t in tracks))
    assert sum(longest in t for t in tracks) > len(tracks) * 0.6


def test_a_classifier_has_no_tracks(bundle: Path, clip: Path, sightline: Sightline) -> None:
    done = sightline("run", bundle, "--source", clip, "--track", "--no-page")
    assert done.returncode == 2 and "The task of this model is classify" in done.stderr
