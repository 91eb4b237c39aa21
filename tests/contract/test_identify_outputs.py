"""Models of others: recognized by what they say and by their shapes, and read as their makers read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import pytest

from sightline.decoders import BODY_POINTS, decode_outputs
from sightline.errors import ModelError
from sightline.identify_outputs import Hints, identify
from sightline.interpreter import Interpreter, TensorInfo
from sightline.output_spec import OutputSpec
from sightline.postprocess import postprocess
from sightline.predictions import SCHEMA_FILE, Detection, Pose, Region
from sightline.preprocess import InputSpec, place
from tests.support import foreign_models as f

RAW = ((0.0,) * 3, (1.0,) * 3)
BYTES = Hints(normalization=RAW)
NAMED = Hints(labels=f.CLASSES, normalization=RAW)


def scene() -> np.ndarray[Any, Any]:
    """uint8 [64, 128, 3] in BGR: its letterbox is rows 16 to 48 of the input; a red and a blue square in it."""
    picture = np.full((64, 128, 3), 90, np.uint8)
    picture[8:40, 72:104] = (30, 30, 230)
    picture[24:56, 8:40] = (230, 30, 30)
    return picture


RED, BLUE = (72, 8, 32, 32), (8, 24, 32, 32)


def look(content: bytes, hints: Hints, threshold: float = 0.3) -> tuple[Any, OutputSpec]:
    from sightline.preprocess import preprocess

    r = identify(content, "model", hints)
    interpreter = Interpreter(content, r.input)
    interpreter.fill(preprocess(scene(), r.input))
    interpreter.invoke()
    return postprocess(interpreter.raw(), interpreter.outputs, r.input, r.output, (128, 64), threshold), r.output


def assert_squares(found: Any) -> None:
    assert {d.label for d in found} == {"red", "blue"} and len(found) == 2
    for d in found:
        wanted = RED if d.label == "red" else BLUE
        given = d.box.x, d.box.y, d.box.width, d.box.height
        np.testing.assert_allclose(given, wanted, atol=0.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "decoder", "relative"),
    [
        (f.Yolo(), "yolo", True),
        (f.Yolo(relative=False), "yolo", False),
        (f.Yolo(objectness=True), "yolo5", True),
    ],
)
def test_ultralytics_layouts_are_told_by_their_shape(module: Any, decoder: str, relative: bool) -> None:
    found, output = look(f.tflite(module), NAMED)
    assert (output.decoder, output.relative, output.threshold) == (decoder, relative, 0.25)
    assert_squares(found)


@pytest.mark.slow
@pytest.mark.parametrize(("module", "decoder"), [(f.Yolo(turned=True), "yolo"), (f.Finished(), "boxes")])
def test_what_may_be_two_things_lists_them(module: Any, decoder: str) -> None:
    """[1, n, 6]: two classes of a turned YOLO, or finished boxes."""
    content = f.tflite(module)
    if decoder == "yolo":
        with pytest.raises(
            ModelError, match=r"several decoders fit its outputs .*Choose one with --decoder: yolo .*, boxes "
        ):
            identify(content, "model", BYTES)
    found, output = look(content, Hints(f.CLASSES, decoder, RAW))
    assert output.decoder == decoder
    assert_squares(found)
    with pytest.raises(ModelError, match=r"the decoder 'ssd' does not fit its outputs .*Possible decoders: "):
        identify(content, "model", Hints(f.CLASSES, "ssd", RAW))


@pytest.mark.slow
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1)])
def test_ssds_outputs_in_any_order(order: tuple[int, ...]) -> None:
    found, output = look(f.ssd(order), Hints(labels=("???", *f.CLASSES), normalization=RAW, resize="letterbox"))
    assert output.decoder == "ssd" and [order[i] for i in output.order] == [0, 1, 2, 3]
    assert output.labels == f.CLASSES, "what begins the list is no class of this op"
    assert_squares(found)


@pytest.mark.slow
def test_ultralytics_own_metadata_says_everything() -> None:
    content = f.with_ultralytics(f.tflite(f.Yolo(scale=255.0)))
    found, output = look(content, Hints())
    assert output.labels == f.CLASSES
    assert_squares(found)
    r = identify(content, "model")
    assert r.input.std == (255.0,) * 3 and r.input.resize == "letterbox" and r.input.pad == 114
    with pytest.raises(ModelError, match=r"the task 'segment'\. Sightline runs detect, pose and classify"):
        identify(f.with_ultralytics(f.tflite(f.Yolo()), task="segment"), "model", BYTES)
    damaged = f.with_ultralytics(f.tflite(f.Yolo()))[:-30] + bytes(30)
    assert identify(damaged, "model", BYTES).output.labels == ("class 0", "class 1"), "an archive that is none"


@pytest.mark.slow
def test_a_quantized_yolo_is_compared_as_integers() -> None:
    from converters.quantize.calibrate import observe, ranges
    from converters.quantize.quantize import quantize
    from sightline.preprocess import preprocess

    content, spec = f.tflite(f.Yolo()), InputSpec(64, 64)
    frames = np.stack([preprocess(scene(), spec)] * 4)
    int8 = quantize(content, "static_int8", ranges(observe(content, frames, spec), "min_max"), "per_channel")
    r = identify(int8, "model", Hints(labels=f.CLASSES))
    assert Interpreter(int8, r.input).outputs[0].dtype == "int8"
    assert np.array_equal(Interpreter(int8, r.input).table[0].view(np.uint8) ^ 0x80, np.arange(256)), (
        "bytes as they are"
    )
    found, _ = look(int8, Hints(labels=f.CLASSES))
    assert_squares(found)


@pytest.mark.slow
def test_a_pose_has_its_box_and_its_points() -> None:
    content = f.tflite(f.Yolo(points=17))
    with pytest.raises(ModelError, match=r"yolo .*, yolo_pose"):
        identify(content, "model", BYTES)
    found, output = look(content, Hints(None, "yolo_pose", RAW))
    assert output.labels == ("person",) and output.points == BODY_POINTS
    (pose,) = [p for p in found if p.score > 0.9]
    np.testing.assert_allclose((pose.box.x, pose.box.y, pose.box.width, pose.box.height), RED, atol=0.5)
    assert [p.name for p in pose.points] == list(BODY_POINTS)
    assert all(abs(p.x - 88) < 0.5 and abs(p.y - 24) < 0.5 for p in pose.points)


@pytest.mark.slow
def test_a_mask_lies_over_the_frame_and_not_over_what_was_padded() -> None:
    found, _ = look(f.tflite(f.Mask()), Hints(("background", *f.CLASSES), normalization=RAW), 0.0)
    assert {r.label for r in found} == {"blue", "red"}, "the background is no region"
    for r in found:
        assert isinstance(r, Region) and r.mask.shape == (8, 16)
        wanted = RED if r.label == "red" else BLUE
        assert (r.box.x, r.box.y, r.box.width, r.box.height) == wanted
        assert r.score == pytest.approx(32 * 32 / (64 * 128))
        told = r.to_json()["mask"]
        cells = np.repeat(np.arange(len(told["runs"])) % 2, told["runs"]).reshape(told["rows"], told["columns"])
        assert np.array_equal(cells.astype(bool), r.mask), "its runs are the mask"


def tensor(shape: tuple[int, ...], dtype: str = "float32") -> TensorInfo:
    return TensorInfo(0, "", shape, dtype, 0.0, 0)


def poses(decoder: Any, *outputs: Any, relative: bool = True, order: tuple[int, ...] = ()) -> tuple[Pose, ...]:
    spec = OutputSpec("pose", "none", ("person",), decoder=decoder, relative=relative, points=BODY_POINTS, order=order)
    arrays = [np.asarray(o, np.float32) for o in outputs]
    placement = place(128, 64, InputSpec(64, 64))
    return decode_outputs(arrays, [tensor(a.shape) for a in arrays], spec, (64, 64), placement, 0.1, 10)  # type: ignore[return-value]


def test_movenets_points_are_y_before_x() -> None:
    rows = np.tile([0.5, 0.25, 0.9], (17, 1))
    rows[3] = [0.25, 1.0, 0.05]  # not sure: no part of the box
    (pose,) = poses("movenet", rows[None, None])
    assert (pose.points[0].x, pose.points[0].y) == (32, 32), "the letterbox is undone"
    assert (pose.points[3].x, pose.points[3].y) == (128, 0)
    assert pose.box.x == 32 and pose.box.width == 1
    assert pose.score == pytest.approx((16 * 0.9 + 0.05) / 17)


def test_movenet_for_several_people() -> None:
    table = np.zeros((1, 6, 56))
    table[0, 2, :51] = np.tile([0.5, 0.25, 0.9], 17)
    table[0, 2, 51:] = [0.25, 0.0, 0.75, 0.5, 0.8]  # top, left, bottom, right, score
    (pose,) = poses("movenet_multi", table)
    assert pose.score == pytest.approx(0.8)
    assert (pose.box.x, pose.box.y, pose.box.width, pose.box.height) == (0, 0, 64, 64)


def test_posenet_adds_the_offset_to_the_best_cell() -> None:
    heat, offsets = np.full((1, 5, 5, 17), -5.0), np.zeros((1, 5, 5, 34))
    heat[0, 2, 3] = 5.0
    offsets[0, 2, 3, :17], offsets[0, 2, 3, 17:] = 4.5, -7.25  # y, then x; a cell is 63 / 4 pixels
    (pose,) = poses("posenet", offsets, heat, order=(1, 0))
    x, y = 3 * 63 / 4 - 7.25, 2 * 63 / 4 + 4.5
    assert (pose.points[0].x, pose.points[0].y) == (pytest.approx(2 * x), pytest.approx(2 * (y - 16)))
    assert pose.score == pytest.approx(1 / (1 + np.exp(-5)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shapes", "decoder"),
    [
        ([(1, 1, 17, 3)], "movenet"),
        ([(1, 6, 56)], "movenet_multi"),
        ([(1, 5, 5, 17), (1, 5, 5, 34), (1, 5, 5, 32), (1, 5, 5, 32)], "posenet"),
        ([(1, 300, 6)], "boxes"),
        ([(1, 33, 33, 21)], "mask"),
        ([(1, 10)], ""),
    ],
)
def test_shapes_alone(shapes: list[tuple[int, ...]], decoder: str) -> None:
    assert identify(f.tflite(f.Outputs(*shapes)), "model", BYTES).output.decoder == decoder


@pytest.mark.slow
def test_what_is_nothing_known_says_what_it_has() -> None:
    with pytest.raises(ModelError, match=r"no decoder fits its outputs .*\[1, 7, 3\].*\[1, 2\]\)\. Sightline runs"):
        identify(f.tflite(f.Outputs((1, 7, 3), (1, 2))), "model.tflite", BYTES)
    with pytest.raises(ModelError, match="does not state their normalisation"):
        identify(f.tflite(f.Yolo()), "model", Hints(labels=f.CLASSES))
    with pytest.raises(ModelError, match="has scores for 2 classes, but there are 3 labels"):
        identify(f.tflite(f.Yolo()), "model", Hints(labels=("a", "b", "c"), normalization=RAW))


def test_more_classes_than_labels_go_by_their_number() -> None:
    rows = np.zeros((1, 4, 6), np.float32)
    rows[0, 0] = [8, 20, 24, 36, 0.9, 90]
    rows[0, 1] = [8, 20, 24, 36, np.nan, -1]
    spec = OutputSpec("detect", "none", ("a",), decoder="boxes")
    placement = place(64, 64, InputSpec(64, 64))
    (d,) = decode_outputs([rows], [tensor(rows.shape)], spec, (64, 64), placement, 0.2, 10)
    assert isinstance(d, Detection) and d.label == "class 90"


@pytest.mark.slow
def test_all_that_can_be_said_is_by_the_schema() -> None:
    schema = json.loads(SCHEMA_FILE.read_text())
    items = {"$defs": schema["$defs"], **schema["properties"]["predictions"]}
    region, _ = look(f.tflite(f.Mask()), Hints(("background", *f.CLASSES), normalization=RAW), 0.0)
    pose, _ = look(f.tflite(f.Yolo(points=17)), Hints(None, "yolo_pose", RAW))
    for found in (region, pose):
        told = [p.to_json() for p in found]
        assert told
        jsonschema.validate(told, items)
        told[0]["color"] = 1
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(told, items)


@pytest.mark.slow
def test_a_plane_a_channel_is_what_some_converters_leave(tmp_path: Path) -> None:
    """[1, 3, height, width], as Ultralytics' own exports to LiteRT have it."""
    import warnings

    import litert_torch
    import torch

    class Planes(f.Yolo):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.permute(0, 2, 3, 1))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations of its own
        edge = litert_torch.convert(Planes(scale=255.0).eval(), (torch.zeros(1, 3, 64, 64),))
    edge.export(str(tmp_path / "planes.tflite"))
    content = f.with_ultralytics((tmp_path / "planes.tflite").read_bytes())
    assert Interpreter(content).input.shape == (1, 3, 64, 64) and Interpreter(content).size == (64, 64)
    found, output = look(content, Hints())
    assert output.decoder == "yolo" and output.relative
    assert_squares(found)


MODELS = Path(__file__).parents[3] / "shared" / "data" / "models"
IMAGES = MODELS.parent / "images"

if MODELS.is_dir():  # real models, where somebody has them; what needs none is above

    def real_answer(model: str, image: str, hints: Hints) -> tuple[Any, tuple[int, int]]:
        from sightline.preprocess import preprocess

        content = (MODELS / model).read_bytes()
        r = identify(content, model, hints)
        frame = cv2.imread(str(IMAGES / image))
        interpreter = Interpreter(content, r.input)
        interpreter.fill(preprocess(frame, r.input))  # type: ignore[arg-type]
        interpreter.invoke()
        height, width = frame.shape[:2]  # type: ignore[union-attr]
        return postprocess(interpreter.raw(), interpreter.outputs, r.input, r.output, (width, height), 0.0), (
            width,
            height,
        )

    def test_a_real_cat() -> None:
        found, _ = real_answer("mobilenet_v2_1.0_224_quant.tflite", "cat.bmp", Hints())
        assert found[0].label == "Egyptian cat" and found[0].index == 286 and found[0].score > 0.8

    def test_a_real_bird() -> None:
        """Of all pixels those on which the masks agree, over their union. The bird's own IoU is 0.82: this small net
        takes some of it for a dog."""
        labels = (MODELS / "pascal_voc_segmentation_labels.txt").read_text().splitlines()[:21]
        found, _ = real_answer("deeplabv3_mnv2_dm05_pascal_quant.tflite", "bird_segmentation.bmp", Hints(tuple(labels)))
        assert found[0].label == "bird"
        mask = np.zeros((513, 513), np.uint8)
        for region in found:
            mask[region.mask] = region.index
        truth = cv2.imread(str(IMAGES / "bird_segmentation_mask.bmp"))[:, :, 0]  # type: ignore[index]
        agree = float((mask == truth).mean())
        assert agree / (2 - agree) > 0.90
        bird, its = mask == 3, truth == 3
        assert (bird & its).sum() / (bird | its).sum() > 0.80

    def test_a_real_person() -> None:
        found, (width, height) = real_answer(
            "movenet_single_pose_lightning_ptq.tflite", "squat.bmp", Hints(resize="stretch")
        )
        rows = np.loadtxt(MODELS / "movenet_single_pose_lightning_ptq_reference.csv", delimiter=",", skiprows=1)
        given = [(p.x / width, p.y / height) for p in found[0].points]
        assert np.abs(np.asarray(given) - rows[:, 4:6]).max() < 0.03
