"""Learning to draw boxes: the network, what it learns from, and the run that is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from sightline.data.dataset import read_frames
from sightline.data.detection import read_boxes
from sightline.errors import ConfigError, ModelError
from sightline.preprocess import InputSpec
from sightline.run_folder import read_run
from tests.conftest import SPOT_BGR, Sightline, write_spots
from tests.support.training import ARCH, Stopped, arguments, learn, recipe, run_line, same, stop_after, weights
from trainer.detection_data import UNAUGMENTED_FRACTION, AugmentedBoxes, PlainBoxes, collate
from trainer.detection_loss import assign, detection_loss, flatten
from trainer.detector import STRIDES, build_detector, quantization_risk
from trainer.model import make

OPTIONS: dict[str, object] = {"task": "detect", "image_size": 64, "batch": 8, "augment": "none", "epochs": 4}


@pytest.fixture(scope="module")
def found_spots(tmp_path_factory: pytest.TempPathFactory, spots: Path) -> Path:
    """A run that was never interrupted. Read only."""
    path = tmp_path_factory.mktemp("learned") / "spots"
    learn(spots, path, **OPTIONS)
    return path


@pytest.mark.parametrize("height", [64, 96])
def test_each_level_gives_logits_and_distances(height: int) -> None:
    model = build_detector(ARCH, 3, "none", 64).eval()
    outputs = model(torch.rand(2, height, 64, 3) * 255)
    wanted = [(2, height // s, 64 // s, channels) for s in STRIDES for channels in (3, 4)]
    assert [tuple(o.shape) for o in outputs] == wanted
    assert all(float(o.detach().min()) >= 0 for o in outputs[1::2]), "no edge lies behind the middle"
    assert float(outputs[0].detach().sigmoid().mean()) < 0.1, "before anything is learned it sees little"


def test_what_cannot_be_a_detector_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--image-size 100: must be a multiple of 32 for a detector, such as 96"):
        build_detector(ARCH, 3, "none", 100)
    with pytest.raises(ConfigError, match=r"test_vit cannot be a detector's backbone: it has no feature maps"):
        build_detector("test_vit", 3, "none", 64)


def test_a_classifiers_weights_begin_a_detector(tmp_path: Path) -> None:
    torch.manual_seed(1)
    classifier = make(ARCH)
    torch.save(classifier.state_dict(), tmp_path / "weights.pth")
    model = build_detector(ARCH, 3, str(tmp_path / "weights.pth"), 64)
    theirs = {name.replace(".", "_"): value for name, value in classifier.state_dict().items()}
    own = model.backbone.state_dict()
    assert own and all(torch.equal(value, theirs[name.replace(".", "_")]) for name, value in own.items())
    torch.save(make("test_resnet").state_dict(), tmp_path / "other.pth")
    with pytest.raises(ModelError, match=r"other\.pth: is not for this architecture"):
        build_detector(ARCH, 3, str(tmp_path / "other.pth"), 64)


def test_what_int8_fears_is_said() -> None:
    assert quantization_risk(make("mobilenetv4_conv_small")) is None
    assert "squeeze-and-excite" in str(quantization_risk(make("mobilenetv3_small_050")))
    assert "hard swish" in str(quantization_risk(make("mobilenetv3_small_050")))


def cells(size: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of a network that says the same everywhere: boxes of two strides to each side."""
    outputs: list[torch.Tensor] = []
    for s in STRIDES:
        outputs += [torch.full((1, size // s, size // s, 2), -2.0), torch.full((1, size // s, size // s, 4), 2.0)]
    return flatten(tuple(outputs), size)


def boxes(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor([rows], dtype=torch.float32)


def test_a_cells_box_is_around_its_middle_in_pixels() -> None:
    _, edges, points, strides = cells()
    assert points[0].tolist() == [4, 4] and points[8].tolist() == [4, 12] and points[64].tolist() == [8, 8]
    assert edges[0, 0].tolist() == [-12, -12, 20, 20] and edges[0, 64].tolist() == [-24, -24, 40, 40]
    assert strides.tolist() == [8] * 64 + [16] * 16 + [32] * 4


def test_a_box_is_learned_by_cells_within_it_and_by_the_class_that_it_is() -> None:
    logits, edges, points, strides = cells()
    a = assign(logits, edges, points, strides, boxes((1, 8, 8, 40, 40)))
    taken = a.weight[0] > 0
    assert 1 <= int(taken.sum()) <= 10
    assert bool(((points[taken] > 8) & (points[taken] < 40)).all())
    assert float(a.quality[0, :, 0].max()) == 0 and float(a.quality[0, :, 1].max()) > 0
    # the best one shall score the IoU of its box: 32x32 around (20 or 28, 20 or 28) of stride 8
    assert float(a.weight.max()) == pytest.approx(28 * 28 / (2 * 32 * 32 - 28 * 28))


def test_a_box_smaller_than_any_cell_is_learned_too() -> None:
    logits, edges, points, strides = cells()
    a = assign(logits, edges, points, strides, boxes((0, 9, 9, 11, 11)))
    assert int((a.weight[0] > 0).sum()) >= 1


def test_no_cell_serves_two_boxes_and_padding_is_no_box() -> None:
    logits, edges, points, strides = cells()
    two = boxes((0, 0, 0, 32, 32), (1, 8, 8, 40, 40), (-1, -1, -1, -1, -1))
    a = assign(logits, edges, points, strides, two)
    assert bool((a.quality[0].gt(0).sum(-1) <= 1).all())
    assert {int(b) for b in a.box[0][a.weight[0] > 0]} == {0, 1}
    none = assign(logits, edges, points, strides, boxes((-1, -1, -1, -1, -1)))
    assert float(none.weight.max()) == 0


def test_padding_changes_no_loss_and_a_loss_falls_where_boxes_are_right() -> None:
    torch.manual_seed(0)
    model = build_detector(ARCH, 2, "none", 64).train()
    with torch.no_grad():
        outputs = model(torch.rand(1, 64, 64, 3) * 255)
    one = boxes((1, 8, 8, 40, 40))
    padded = torch.cat([one, torch.full((1, 3, 5), -1.0)], dim=1)
    loss = detection_loss(outputs, one, 64)
    assert float(detection_loss(outputs, padded, 64)) == pytest.approx(float(loss))
    assert float(detection_loss(outputs, torch.full((1, 1, 5), -1.0), 64)) > 0, "seeing something is wrong there"
    # by hand: one cell of stride 8, (20, 20), says the box exactly and is sure of it
    right = [o.detach().clone() for o in outputs]
    for logits in right[0::2]:
        logits.fill_(-12.0)
    right[0][0, 2, 2, 1] = 12.0
    right[1][0, 2, 2] = torch.tensor([12, 12, 20, 20]) / 8
    assert float(detection_loss(tuple(right), one, 64)) < float(loss)


def spec(size: int = 64) -> InputSpec:
    return InputSpec(size, size)


def marked(path: Path, count: int) -> Any:
    """Black pictures with one white box each, in COCO's form."""
    rng = np.random.default_rng(0)
    (path / "train").mkdir(parents=True)
    images, annotations = [], []
    for i in range(count):
        picture = np.zeros((90, 120, 3), np.uint8)
        x, y, w, h = (int(v) for v in (rng.integers(0, 60), rng.integers(0, 40), *rng.integers(20, 50, 2)))
        picture[y : y + h, x : x + w] = 255
        cv2.imwrite(str(path / "train" / f"{i}.png"), picture)
        images.append({"id": i, "file_name": f"{i}.png", "width": 120, "height": 90})
        annotations.append({"id": i, "image_id": i, "category_id": 0, "bbox": [x, y, w, h]})
    document = {"images": images, "annotations": annotations, "categories": [{"id": 0, "name": "white"}]}
    (path / "train" / "_annotations.coco.json").write_text(json.dumps(document))
    return read_boxes(path)


def where_it_is_white(image: torch.Tensor) -> list[float]:
    ys, xs = np.nonzero(image.numpy().mean(-1) > 128)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@pytest.mark.parametrize("augment", ["none", "light", "default", "strong"])
def test_boxes_stay_on_what_they_were_drawn_around(augment: str, tmp_path: Path) -> None:
    data = marked(tmp_path / "white", 10)
    items = AugmentedBoxes(data, spec(96), recipe(augment=augment, flip=True, epochs=100))
    items.jitter = None
    seen = alone = 0
    for epoch in range(12):
        for index in range(len(data.train)):
            image, target = items[epoch, index]
            rest = image.numpy().copy()
            rest[(rest == 114).all(-1)] = 0  # what is padded
            for _, left, top, right, bottom in target.tolist():
                inside = rest[round(top) + 2 : round(bottom) - 2, round(left) + 2 : round(right) - 2]
                assert inside.size == 0 or inside.min() > 128, "white, all over"
                seen += 1
            if len(target) == 1:
                one = target[0, 1:].tolist()
                white = where_it_is_white(torch.from_numpy(rest))
                if max(abs(a - b) for a, b in zip(white, one, strict=True)) < 2:
                    alone += 1
    assert seen >= 60 and alone >= 10


def test_randomness_is_a_function_of_the_key(spots: Path) -> None:
    data = read_boxes(spots)

    def item(seed: int, *key: int) -> tuple[torch.Tensor, torch.Tensor]:
        return AugmentedBoxes(data, spec(), recipe(seed=seed, augment="strong", flip=True))[key[0], key[1]]

    a, b = item(0, 1, 2), item(0, 1, 2)
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    for other in (item(1, 1, 2), item(0, 2, 2), item(0, 1, 3)):
        assert not torch.equal(a[0], other[0])


def test_the_last_epochs_have_no_mosaics(tmp_path: Path) -> None:
    data = marked(tmp_path / "white", 10)
    epochs = 20
    items = AugmentedBoxes(data, spec(96), recipe(augment="strong", flip=True, epochs=epochs))
    most = [max(len(items[epoch, i][1]) for i in range(len(data.train))) for epoch in range(epochs)]
    unaugmented = round(epochs * UNAUGMENTED_FRACTION)
    assert unaugmented == 3 and max(most[:-unaugmented]) > 1 and max(most[-unaugmented:]) == 1


def test_held_out_pictures_are_what_the_device_sees(spots: Path) -> None:
    data = read_boxes(spots)
    plain = PlainBoxes(data.root, data.val, spec(96))
    frames = read_frames(data.root, data.val, spec(96))
    for i in range(len(plain)):
        image, target = plain[i]
        assert np.array_equal(image.numpy(), frames[i])
        wanted = [[b.label, *(v * 1.5 for v in (b.x, b.y, b.x + b.width, b.y + b.height))] for b in data.val[i].boxes]
        np.testing.assert_allclose(target.numpy(), wanted, atol=1e-4)


def test_a_batch_pads_with_no_box() -> None:
    image = torch.zeros(4, 4, 3, dtype=torch.uint8)
    images, targets = collate([(image, torch.ones(2, 5)), (image, torch.zeros(0, 5))])
    assert images.shape == (2, 4, 4, 3) and targets.shape == (2, 2, 5)
    assert targets[1, :, 0].tolist() == [-1, -1]
    assert collate([(image, torch.zeros(0, 5))])[1].shape == (1, 1, 5)


@pytest.mark.slow
def test_the_run_says_what_its_boxes_are_worth(found_spots: Path, spots: Path) -> None:
    run = read_run(found_spots)
    m = run.manifest
    assert m.output.task == "detect" and m.output.labels == tuple(SPOT_BGR) and m.output.strides == STRIDES
    assert 0 <= m.output.threshold <= 1
    assert {"map", "map50", "best_epoch"} <= m.metrics.keys()
    root, heldout = run.heldout()
    data = read_boxes(spots)
    assert root == spots.resolve() and len(heldout) == len(data.val)
    for (path, truth), image in zip(heldout, data.val, strict=True):
        assert path == image.path and not isinstance(truth, int)
        assert np.array_equal(truth.boxes, image.truth.boxes)
    lines = [json.loads(line) for line in (found_spots / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3] and all(0 < line["loss"] < 10 for line in lines)


@pytest.mark.slow
def test_it_learns(tmp_path: Path) -> None:
    """Squares on grey are not hard: without pretrained weights and in seconds most are found."""
    data = write_spots(tmp_path / "data", 96, 12)
    learn(data, tmp_path / "run", **{**OPTIONS, "epochs": 12})
    assert read_run(tmp_path / "run").manifest.metrics["map50"] > 0.5


@pytest.mark.slow
def test_the_same_command_gives_the_same_weights_also_after_a_stop(
    found_spots: Path, spots: Path, tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        learn(spots, tmp_path / "spots", setup=stop_after(1), **OPTIONS)
    learn(spots, tmp_path / "spots", resume=True, **OPTIONS)
    assert same(weights(tmp_path / "spots"), weights(found_spots))


@pytest.mark.slow
def test_a_detector_can_be_fine_tuned_with_int8s_rounding(found_spots: Path, spots: Path, tmp_path: Path) -> None:
    line = [str(spots), "--quantization-aware", str(found_spots), "--out", str(tmp_path / "tuned"), "--epochs", "1"]
    run_line(line)
    run = read_run(tmp_path / "tuned")
    assert run.manifest.output.strides == STRIDES and run.manifest.provenance["recipe"]["quantization_aware"]
    assert not same(weights(tmp_path / "tuned"), weights(found_spots))


@pytest.mark.slow
def test_the_command_says_what_it_found(spots: Path, tmp_path: Path, sightline: Sightline) -> None:
    line = arguments(spots, tmp_path / "spots", **{**OPTIONS, "epochs": 1, "arch": "test_efficientnet"})
    done = sightline("train", *line)
    assert done.returncode == 0, done.stderr
    assert "mAP" in done.stdout and "training images with" in done.stderr
    assert "warning: test_efficientnet has SiLU, squeeze-and-excite. It will lose accuracy in int8" in done.stderr


@pytest.mark.slow
def test_classes_are_no_boxes(pictures: Path, tmp_path: Path, sightline: Sightline) -> None:
    done = sightline("train", *arguments(pictures, tmp_path / "run", **OPTIONS))
    assert done.returncode == 2 and "no annotations" in done.stderr and not (tmp_path / "run").exists()
