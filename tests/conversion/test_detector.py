"""A detector on its way to a bundle: measured by its boxes, in points of mAP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.convert import ConvertOptions, convert, report_path
from converters.evaluate.acceptance import HeldOutEvaluation, Limits, check_accuracy
from converters.evaluate.divergence import box_divergence, split
from converters.evaluate.metrics import DetectionMetrics
from converters.evaluate.run_images import run_all
from converters.sources.base import ModelOptions
from converters.sources.open import open_source
from converters.tflite.ops import list_ops
from sightline.bundle import Bundle, read_bundle
from sightline.errors import ModelError, QualityError
from sightline.files import seal
from sightline.metrics import GroundTruth
from sightline.npz import unpack
from sightline.output_spec import OutputSpec
from sightline.predictions import Box, Detection
from sightline.preprocess import InputSpec
from sightline.tflite_metadata import read_metadata
from tests.conftest import SPOT_BGR, Sightline, export_spots
from tests.support.models import SpotNet

LABELS = tuple(SPOT_BGR)


@pytest.fixture(scope="module")
def spots_bundle(tmp_path_factory: pytest.TempPathFactory, spots_run: Path) -> Bundle:
    path = tmp_path_factory.mktemp("bundle") / "spots.bundle"
    convert(spots_run, path, ConvertOptions("desktop", schemes=("static_int8", "float32")))
    return read_bundle(path)


@pytest.mark.slow
def test_the_manifest_records_map(spots_bundle: Bundle) -> None:
    m = spots_bundle.manifest
    assert m.output == OutputSpec("detect", "sigmoid", LABELS, (8, 16), 0.5)
    for scheme in ("float32", "static_int8"):
        assert m.metrics[scheme]["map"] == m.metrics[scheme]["map50"] == pytest.approx(1), (
            "the spots are where its cells are"
        )
    assert m.metrics["static_int8"]["agreement"] == 1.0


def test_the_golden_outputs_are_those_of_each_output(spots_bundle: Bundle, spots_run: Path) -> None:
    names = [f"{s}/output_{i}" for s in ("static_int8", "float32") for i in range(4)]
    golden = unpack(spots_bundle.contents["golden.npz"], "golden", "frames", *names)
    assert [golden[f"float32/output_{i}"].shape[1:] for i in range(4)] == [(8, 8, 2), (8, 8, 4), (4, 4, 2), (4, 4, 4)]
    shapes = [(8, 8, 2), (8, 8, 4), (4, 4, 2), (4, 4, 4)]
    for scheme in ("static_int8", "float32"):
        content, spec = spots_bundle.variant(scheme)[1], spots_bundle.manifest.input
        again = split(run_all(content, golden["frames"], spec, scheme), shapes)
        for i, output in enumerate(again):
            np.testing.assert_allclose(golden[f"{scheme}/output_{i}"], output, atol=1e-5)


def test_the_file_describes_its_own_outputs(spots_bundle: Bundle) -> None:
    metadata = read_metadata(spots_bundle.variant("static_int8")[1])
    assert metadata is not None and metadata.labels == LABELS


def test_the_report_shows_map_and_draws_what_differs(spots_bundle: Bundle, spots: Path, tmp_path: Path) -> None:
    page = report_path(spots_bundle.path).read_text()
    assert "mAP" in page and "accuracy" not in page and "<script" not in page
    document = json.loads(report_path(spots_bundle.path).with_suffix(".json").read_text())
    assert (
        document["float32"]["map"] == document["float32"]["map50"] == pytest.approx(1) and document["differing"] == []
    )


@pytest.mark.slow
def test_a_detector_that_lost_its_boxes_is_refused(spots: Path, spots_run: Path, tmp_path: Path) -> None:
    evaluation = HeldOutEvaluation(open_source(spots_run, ModelOptions()))
    smaller = export_spots(tmp_path / "smaller", spots, SpotNet("blue, red", reach=0.9, doubt=13))
    content = open_source(smaller, ModelOptions()).float_model
    m = evaluation.with_negative_control(evaluation.measure("float16", content), content)
    assert m.quality is not None and 0.5 < m.quality < 0.9, "81 % of each box's area is left"
    with pytest.raises(QualityError, match=r"lost .* points of mAP, --max-drop is 0.5"):
        check_accuracy(m, evaluation, Limits())
    check_accuracy(m, evaluation, Limits(max_drop=90, max_class_drop=90))  # and only for this


def test_a_run_whose_outputs_are_not_its_strides_is_refused(spots_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "spots"
    run.mkdir()
    for file in spots_run.iterdir():
        (run / file.name).write_bytes(file.read_bytes())
    document = json.loads((run / "model.json").read_text())
    document["output"]["strides"] = [8, 32]
    document.pop("sha256", None)
    (run / "model.json").write_bytes(seal({k: v for k, v in document.items() if k != "seal"}))
    with pytest.raises(ModelError, match=r"golden outputs .* are needed, by its model\.json"):
        open_source(run, ModelOptions())


def detection(label: int, score: float, *box: float) -> Detection:
    return Detection(LABELS[label], label, score, Box(*box))


def detection_metrics(truth: list[GroundTruth]) -> DetectionMetrics:
    return DetectionMetrics(OutputSpec("detect", "sigmoid", LABELS, (8, 16), 0.5), InputSpec(64, 64), truth)


NOTHING = GroundTruth(np.zeros(0, np.int64), np.zeros((0, 4)))
A, B = detection(0, 0.9, 0, 0, 10, 10), detection(1, 0.8, 30, 30, 10, 10)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ((A, B), (A, B), 1.0),
        ((A, B), (B, A), 1.0),
        ((A, B), (A,), 2 / 3),  # two of one's, of which the other has one; one of the other's, which it has
        ((A,), (detection(1, 0.9, 0, 0, 10, 10),), 0.0),  # another class
        ((A,), (detection(0, 0.9, 4, 0, 10, 10),), 0.0),  # IoU 60 / 140
        ((A,), (detection(0, 0.9, 3, 0, 10, 10),), 1.0),  # IoU 70 / 130
        ((detection(0, 0.51, 0, 0, 10, 10),), (detection(0, 0.45, 0, 0, 10, 10),), 1.0),  # just under the threshold
        ((detection(0, 0.51, 0, 0, 10, 10),), (detection(0, 0.3, 0, 0, 10, 10),), 0.0),
        ((A, detection(0, 0.7, 1, 0, 10, 10)), (A,), 2 / 3),  # no box serves two
        ((), (), 1.0),
        ((detection(0, 0.3, 0, 0, 10, 10),), (), 1.0),  # nobody shows it
    ],
)
def test_agreement_is_the_share_of_boxes_that_both_show(one: Any, other: Any, same: float) -> None:
    assert detection_metrics([NOTHING]).agreement([one], [other]) == pytest.approx(same)
    assert detection_metrics([NOTHING]).agreement([other], [one]) == pytest.approx(same)
    assert detection_metrics([NOTHING]).differs(one, other) == (same < 1)


def test_mistakes_are_the_missed_and_the_false() -> None:
    r = detection_metrics([GroundTruth(np.asarray([0, 1]), np.asarray([[0, 0, 10, 10], [50, 50, 10, 10.0]]))])
    assert r.count_mistakes(0, (A,)) == 1
    assert r.count_mistakes(0, (A, B)) == 2
    assert r.count_mistakes(0, ()) == 2
    assert r.count_mistakes(0, (A, detection(1, 0.6, 50, 51, 10, 10), detection(1, 0.2, 0, 0, 5, 5))) == 0


def test_divergence_depends_on_what_matters_to_boxes() -> None:
    rng = np.random.default_rng(0)
    logits = np.full((2, 8, 8, 2), -9.0, np.float32)
    logits[:, 3, 4, 1] = 2.0
    edges = rng.uniform(1, 3, (2, 8, 8, 4)).astype(np.float32)
    same = box_divergence([logits, edges], [logits, edges])
    assert same == pytest.approx(0, abs=1e-6)
    elsewhere, there = edges.copy(), edges.copy()
    elsewhere[:, 0, 0] *= 3
    there[:, 3, 4, 0] *= 1.5
    assert box_divergence([logits, edges], [logits, elsewhere]) == pytest.approx(0, abs=1e-6), "there is no object"
    a = box_divergence([logits, edges], [logits, there])
    weaker = logits.copy()
    weaker[:, 3, 4, 1] = 0.0
    assert a > 0.05 and box_divergence([logits, edges], [weaker, edges]) > 0.05


@pytest.mark.slow
def test_a_trained_detectors_graph_has_no_op_that_int8_computes_badly(tmp_path: Path) -> None:
    import torch

    from converters.sources.from_torch import convert_program
    from trainer.detector import build_detector

    model = build_detector("test_byobnet", 2, "none", 64).eval()
    program = torch.export.export(model, (torch.zeros(1, 64, 64, 3),))
    kinds = {op.name for op in list_ops(convert_program(program, "detector"))}
    assert "CONV_2D" in kinds and "DEPTHWISE_CONV_2D" in kinds and "RESIZE_NEAREST_NEIGHBOR" in kinds
    assert not kinds & {"CONCATENATION", "LOGISTIC", "TRANSPOSE", "NON_MAX_SUPPRESSION_V4", "SOFTMAX", "EXP"}, kinds


@pytest.mark.slow
def test_evaluate_puts_a_run_and_its_bundle_side_by_side(
    spots_run: Path, spots_bundle: Bundle, spots: Path, tmp_path: Path, sightline: Sightline
) -> None:
    page = tmp_path / "page.html"
    done = sightline("evaluate", spots_run, spots_bundle.path, spots, "--report", page)
    assert done.returncode == 0, done.stderr
    assert "12 images" in done.stdout and "mAP50" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[1] for row in rows if row[:1] == ["spots"]] == ["float32", "static_int8", "float32"]
    assert "polyline" in page.read_text() and "<script" not in page.read_text()
    document = json.loads(sightline("evaluate", spots_bundle.path, spots, "--part", "all", "--json").stdout)
    assert document["images"] == 36 and document["worst"] == []
    one = document["models"]["spots static_int8"]
    assert one["map"] == pytest.approx(1) and one["mistakes"] == 0 and set(one["per_class"]) == set(LABELS)


@pytest.mark.slow
def test_evaluate_shows_mistakes(spots: Path, tmp_path: Path, sightline: Sightline) -> None:
    """A detector that calls red blue, and blue red."""
    run = export_spots(tmp_path / "turned", spots, SpotNet("red, blue", doubt=13))
    done = sightline("evaluate", run, spots, "--json", "--report", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (one,) = document["models"].values()
    boxes = sum(c["count"] for c in one["per_class"].values())
    assert one["map"] < 0.01 and one["mistakes"] == 2 * boxes and len(document["worst"]) == 12
    assert (tmp_path / "page.html").read_text().count("data:image/jpeg") == 12


@pytest.mark.slow
def test_evaluate_refuses_what_cannot_be_compared(
    bundle: Path, pictures: Path, spots_bundle: Bundle, spots: Path, sightline: Sightline, tmp_path: Path
) -> None:
    for arguments, words in [
        ((bundle, spots_bundle.path, spots), "one task at a time"),
        ((tmp_path / "no.bundle", spots), "no such run or bundle"),
        ((spots_bundle.path, tmp_path / "nowhere"), "nowhere"),
        ((spots_bundle.path, pictures), "no annotations"),
        ((spots_bundle.path, spots, "--report", tmp_path / "page.pdf"), ".html"),
        ((spots_bundle.path, spots, "--scheme", "float16"), "no variant 'float16'"),
    ]:
        done = sightline("evaluate", *arguments)
        assert done.returncode == 2 and words in done.stderr, (arguments, done.stderr)
        assert done.stdout == ""


def test_evaluate_of_a_classifier(bundle: Path, pictures: Path, tmp_path: Path, sightline: Sightline) -> None:
    turned = tmp_path / "turned"
    for ours, theirs in (("blue", "red"), ("red", "blue")):
        (turned / ours).mkdir(parents=True)
        for file in (pictures / theirs).iterdir():
            (turned / ours / file.name).write_bytes(file.read_bytes())
    for data, right in ((pictures, 1.0), (turned, 0.0)):
        done = sightline("evaluate", bundle, data, "--json", "--report", tmp_path / "page.html")
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert {m["accuracy"] for m in document["models"].values()} == {right}
        assert len(document["worst"]) == (0 if right else document["images"])
    assert "confuses" in (tmp_path / "page.html").read_text()
