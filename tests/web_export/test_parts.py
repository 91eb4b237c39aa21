"""The page's arithmetic beside Python's: preprocessing within one grey level, the same answers, the same tracks."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.results.tracker import LOW, Tracker
from sightline.detection_postprocess import detect
from sightline.interpreter import TensorInfo
from sightline.output_spec import OutputSpec, decode
from sightline.predictions import Box, Detection, Prediction
from sightline.preprocess import InputSpec, Preprocessor, place
from tests.conftest import need

SITE = Path(__file__).parents[2] / "edge/web_export/static"


PRINT = "const print = value => console.log(JSON.stringify(value));"


def node(work: Path, program: str, **inputs: Any) -> Any:
    """What a program prints as JSON; `inputs` are constants in it."""
    need(shutil.which("node") is not None, "the page's parts are tried with node: apt-get install nodejs")
    names = {"preprocess": "Preprocessor, place", "postprocess": "answer, compare", "tracker": "Tracker, LOW_SCORE"}
    lines = [f'import {{{what}}} from "{(SITE / name).as_uri()}.js";' for name, what in names.items()]
    lines += [PRINT, 'import {readFileSync} from "node:fs";', f"const inputs = {json.dumps(inputs)};", program]
    (work / "program.mjs").write_text("\n".join(lines))
    done = subprocess.run(["node", work / "program.mjs"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# sizes of images and inputs: even and odd halves, one side stretched, larger
SIZES = ((1280, 720, 224, 224), (640, 480, 96, 96), (97, 61, 40, 32), (50, 333, 64, 48), (30, 20, 64, 64))


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["letterbox", "center_crop", "stretch"])
@pytest.mark.parametrize("filter", ["pyramid", "linear", "area"])
def test_a_picture_is_made_ready_within_one_grey_level(tmp_path: Path, resize: Any, filter: Any) -> None:
    rng = np.random.default_rng(7)
    for width, height, w, h in SIZES:
        spec = InputSpec(w, h, resize, filter)
        smooth = rng.integers(0, 256, (5, 7, 3)).astype(np.uint8)
        import cv2

        frame = cv2.resize(smooth, (width, height), interpolation=cv2.INTER_CUBIC)
        frame = np.clip(frame + rng.normal(0, 20, frame.shape), 0, 255).astype(np.uint8)
        sx, sy, sw, sh = place(width, height, spec).source
        part = frame[sy : sy + sh, sx : sx + sw, ::-1]
        rgba = np.concatenate([part, np.full((sh, sw, 1), 255, np.uint8)], axis=2)
        (tmp_path / "in.rgba").write_bytes(rgba.tobytes())
        got = node(
            tmp_path,
            f"""const p = new Preprocessor(inputs.spec), {{source, target}} = p.prepare({width}, {height});
            const out = p.run(new Uint8ClampedArray(readFileSync({json.dumps(str(tmp_path / "in.rgba"))})));
            console.log(JSON.stringify({{source, target, out: Array.from(out)}}));""",
            spec=asdict(spec),
        )
        placement = place(width, height, spec)
        assert (got["source"], got["target"]) == (list(placement.source), list(placement.target))
        expected = Preprocessor(spec)(frame).astype(int)
        assert np.abs(np.asarray(got["out"]).reshape(expected.shape) - expected).max() <= 1, (width, height, w, h)


def test_what_a_third_party_model_takes_is_computed_alike(tmp_path: Path) -> None:
    spec = InputSpec(8, 8, "stretch", "linear", 114, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    frame = np.random.default_rng(1).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    rgba = np.concatenate([frame[:, :, ::-1], np.full((8, 8, 1), 255, np.uint8)], axis=2)
    (tmp_path / "in.rgba").write_bytes(rgba.tobytes())
    got = node(
        tmp_path,
        f"""const p = new Preprocessor(inputs.spec); p.prepare(8, 8);
        print(Array.from(p.run(new Uint8ClampedArray(readFileSync({json.dumps(str(tmp_path / "in.rgba"))})))));""",
        spec=asdict(spec),
    )
    assert np.asarray(got) == pytest.approx(spec.normalize(Preprocessor(spec)(frame)).reshape(-1), abs=1e-6)


def plain(predictions: tuple[Prediction, ...]) -> list[dict[str, Any]]:
    return [p.to_json() for p in predictions]


def same(got: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [(g["label"], g["index"], g.get("track")) for g in got] == [
        (e["label"], e["index"], e.get("track")) for e in expected
    ]
    for g, e in zip(got, expected, strict=True):
        assert g["kind"] == e["kind"] and g["score"] == pytest.approx(e["score"], abs=1e-5)
        if "box" in e:
            assert list(g["box"].values()) == pytest.approx(list(e["box"].values()), abs=0.006)  # rounded to 0.01


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
def test_classes_are_those_that_python_says(tmp_path: Path, activation: Any) -> None:
    rng = np.random.default_rng(3)
    output = OutputSpec("classify", activation, tuple("abcdefg"))
    for threshold in (0.0, 0.3):
        values = rng.normal(0, 3, (1, 7)).astype(np.float32)
        values[0, 4] = values[0, 2]  # equal ones in the order of the labels
        program = "print(answer([new Float32Array(inputs.values)], inputs.output, null, null, inputs.threshold))"
        got = node(tmp_path, program,
                   values=values[0].tolist(), output=asdict(output), threshold=threshold)  # fmt: skip
        same(got, plain(decode([values], output, 3, threshold)))


@pytest.mark.slow
def test_boxes_are_those_that_python_finds(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    output = OutputSpec("detect", "sigmoid", ("cat", "dog", "fox"), (8, 16, 32), 0.4)
    spec = InputSpec(160, 96)
    placement = place(640, 480, spec)
    for threshold in (0.4, 0.02):
        outputs: list[np.ndarray[Any, Any]] = []
        for stride in output.strides:
            shape = (1, 96 // stride, 160 // stride)
            outputs.append(rng.normal(-2, 2, (*shape, 3)).astype(np.float32))
            outputs.append(rng.uniform(-0.3, 4, (*shape, 4)).astype(np.float32))
        tensors = [TensorInfo(i, "", o.shape, "float32", 0.0, 0) for i, o in enumerate(outputs)]
        expected = detect(outputs, tensors, output, placement, threshold)
        got = node(
            tmp_path,
            "const {outputs, output, spec, threshold} = inputs;"
            "print(answer(outputs.map(o => Float32Array.from(o)), output, place(640, 480, spec), spec, threshold))",
            outputs=[o.reshape(-1).tolist() for o in outputs],
            output=asdict(output), spec=asdict(spec), threshold=threshold,
        )  # fmt: skip
        assert len(expected) > 5
        same(got, plain(expected))


@pytest.mark.slow
def test_things_keep_the_numbers_that_python_gives_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    frames: list[tuple[float, list[Detection]]] = []
    for t in range(60):
        detections = []
        for k in range(5):
            if rng.random() < 0.2:
                continue  # out of sight
            x, y = 40 + 60 * k + 3 * t * (-1) ** k, 50 + 20 * k + 2 * t
            noise = rng.normal(0, 1.5, 4)
            box = Box(x + noise[0], y + noise[1], 50 + noise[2], 40 + noise[3])
            detections.append(Detection("ab"[k % 2], k % 2, float(rng.uniform(0.15, 1)), box))
        detections.sort(key=lambda d: -d.score)
        frames.append((t / 10 + float(rng.uniform(0, 0.03)), detections))
    tracker = Tracker()
    expected = [plain(tracker(detections, round(at * 1e9), 0.5)) for at, detections in frames]
    got = node(
        tmp_path,
        "const t = new Tracker(); print(inputs.frames.map(([at, detections]) => t.run(detections, at, 0.5)))",
        frames=[(round(at * 1e9) / 1e9, plain(tuple(detections))) for at, detections in frames],
    )
    assert len({p["track"] for frame in expected for p in frame if "track" in p}) >= 5
    for ours, theirs in zip(got, expected, strict=True):
        same(ours, theirs)
    assert node(tmp_path, "console.log(LOW_SCORE)") == LOW
