"""Learning where things are: a heat map in place of boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sightline.decoders import decode_outputs
from sightline.interpreter import TensorInfo
from sightline.metrics import GroundTruth, in_boxes, point_score
from sightline.output_spec import OutputSpec
from sightline.predictions import Box, Detection
from sightline.preprocess import InputSpec, place
from sightline.run_folder import read_run
from tests.conftest import SPOT_BGR, Sightline, write_spots
from tests.support.training import ARCH, learn
from trainer.detector import build_point_detector
from trainer.points_task import heat, point_loss

SPEC = OutputSpec("detect", "sigmoid", tuple(SPOT_BGR), (8,), 0.5, "points")


def test_the_heat_is_one_where_a_middle_is_and_falls_off() -> None:
    targets = torch.tensor([[[1, 8, 8, 40, 40], [-1, 0, 0, 64, 64]]], dtype=torch.float32)
    wanted = heat(targets, 2, 8, 8)[0]
    assert wanted[3, 3, 1] == 1 and int((wanted == 1).sum()) == 1
    assert float(wanted[..., 0].max()) == 0, "no other class, and padding is no box"
    assert 0 < wanted[3, 4, 1] < 1 and wanted[3, 4, 1] > wanted[3, 5, 1]
    at_the_edge = heat(torch.tensor([[[0, 60, 60, 68, 68]]], dtype=torch.float32), 2, 8, 8)
    assert at_the_edge[0, 7, 7, 0] == 1


def test_the_loss_is_least_where_the_points_are() -> None:
    targets = torch.tensor([[[1, 8, 8, 40, 40]]], dtype=torch.float32)
    right = torch.full((1, 8, 8, 2), -9.0)
    right[0, 3, 3, 1] = 9.0
    near, far, none = (torch.full((1, 8, 8, 2), -9.0) for _ in range(3))
    near[0, 3, 3, 1], far[0, 3, 3, 1] = 9.0, 9.0
    near[0, 3, 4, 1], far[0, 7, 7, 1] = 9.0, 9.0
    losses = [float(point_loss(x, targets)) for x in (right, near, far, none)]
    assert losses == sorted(losses) and losses[0] < 1e-3 < losses[1], losses
    assert np.isfinite(float(point_loss(right, torch.full((1, 1, 5), -1.0))))


def read(cells: np.ndarray, tensor: TensorInfo, threshold: float = 0.5) -> tuple[Detection, ...]:
    placement = place(128, 64, InputSpec(64, 64))  # rows 16 to 48 of the input
    return decode_outputs([cells], [tensor], SPEC, (64, 64), placement, threshold, 10)  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_each_peak_is_one_thing_at_its_middle(dtype: str) -> None:
    scale, zero = (0.1, -20) if dtype == "int8" else (0.0, 0)
    logits = np.full((1, 8, 8, 2), -9.0)
    logits[0, 3, 2, 0] = 3.0
    logits[0, 3, 3, 0] = 3.0  # as high: still one thing, between the two
    logits[0, 4, 6, 1] = 1.0
    logits[0, 4, 6, 0] = -0.5  # below the threshold
    stored = np.round(logits / scale + zero).clip(-128, 127).astype(np.int8) if scale else logits.astype(np.float32)
    found = read(stored, TensorInfo(0, "", stored.shape, dtype, scale, zero))
    assert [d.label for d in found] == ["blue", "red"]
    middles = [(d.box.x + d.box.width / 2, d.box.y + d.box.height / 2) for d in found]
    np.testing.assert_allclose(middles, [(48, 24), (104, 40)], atol=0.5)
    assert found[0].score == pytest.approx(1 / (1 + np.exp(-3)), abs=0.01)
    assert len(read(stored, TensorInfo(0, "", stored.shape, dtype, scale, zero), 0.99)) == 0


def point(label: int, score: float, x: float, y: float) -> Detection:
    return Detection(list(SPOT_BGR)[label], label, score, Box(x - 4, y - 4, 8, 8))


def test_a_point_is_right_in_a_box_of_its_class_that_nobody_took() -> None:
    truth = GroundTruth(np.asarray([0, 1]), np.asarray([[0, 0, 20, 20], [30, 30, 20, 20.0]]))
    found = [point(0, 0.9, 5, 5), point(0, 0.8, 15, 15), point(1, 0.7, 5, 5), point(1, 0.6, 40, 40)]
    assert in_boxes(found, truth) == [True, False, False, True]
    a = point_score([found], [truth], 2, 0.5)
    assert (a.precision, a.recall) == (0.5, 1.0) and a.f1 == pytest.approx(2 / 3)
    np.testing.assert_allclose(a.per_class, [2 / 3, 2 / 3])
    best = point_score([[point(0, 0.9, 5, 5), point(0, 0.3, 60, 60)]], [truth], 3)
    assert best.f1 == pytest.approx(2 / 3) and 0.3 < best.threshold <= 0.9 and np.isnan(best.per_class[2])
    assert point_score([[]], [truth], 2).f1 == 0


def test_what_it_is_judged_by_has_one_name_everywhere() -> None:
    """Also on the live page, which said "unknown" of points while the bundle had their F1."""
    from types import SimpleNamespace

    from edge.app.state import model_info

    manifest = SimpleNamespace(metrics={"static_int8": {"f1": 0.875}}, output=SPEC)
    model = SimpleNamespace(
        manifest=manifest, scheme="static_int8", identity=SimpleNamespace(name="", version="", sha256="")
    )
    told = model_info("desktop", model, [])  # type: ignore[arg-type]
    assert (told["metric"], told["quality"]) == ("F1", 0.875)


def test_the_network_is_one_heat_map() -> None:
    model = build_point_detector(ARCH, 3, "none", 64).eval()
    out = model(torch.rand(2, 64, 96, 3) * 255)
    assert out.shape == (2, 8, 12, 3)


@pytest.mark.slow
def test_it_learns_and_becomes_a_bundle_that_runs(tmp_path: Path, sightline: Sightline) -> None:
    data = write_spots(tmp_path / "data", 96, 24)
    run = tmp_path / "spots"
    learn(data, run, task="points", image_size=64, batch=8, augment="none", epochs=10)
    m = read_run(run).manifest
    assert m.output.decoder == "points" and m.output.strides == (8,) and m.metrics["f1"] > 0.8
    bundle = tmp_path / "spots.bundle"
    done = sightline("convert", run, "--device", "desktop", "--max-drop", 5, "--max-class-drop", 50, "--out", bundle)
    assert done.returncode == 0, done.stderr
    assert "F1" in done.stdout
    done = sightline("evaluate", run, bundle, data, "--json", "--report", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["models"]
    assert figures["spots float32"]["f1"] == pytest.approx(m.metrics["f1"], abs=0.02)
    assert figures["spots static_int8"]["f1"] > 0.75 and "recall" in figures["spots static_int8"]
    picture = data / "val" / "000.png"
    done = sightline("run", bundle, "--source", picture, "--json", "--no-page")
    assert done.returncode == 0, done.stderr
    document = json.loads((data / "val" / "_annotations.coco.json").read_text())
    wanted = [(a["bbox"][0] + 8, a["bbox"][1] + 8) for a in document["annotations"] if a["image_id"] == 0]
    for p in json.loads(done.stdout)["predictions"]:
        box = p["box"]
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        assert min(abs(x - a) + abs(y - b) for a, b in wanted) < 12
