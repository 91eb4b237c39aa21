"""A real, tiny training: what it leaves, and what it refuses."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from sightline.data.classification import read_class_folders
from sightline.errors import ConfigError, DataError, InputError
from sightline.npz import unpack
from sightline.preprocess import InputSpec, preprocess
from sightline.run_folder import read_run
from tests.conftest import LABELS
from tests.support.training import ARCH, EPOCHS, learn, recipe, same, weights, with_accuracies, with_model
from trainer.recipe import Recipe
from trainer.train import learning_rate

# DataLoader forks while torch has threads; Python 3.12 and later warn of that
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")


def history(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def test_a_run_says_what_it_is_and_where_it_comes_from(learned: Path, pictures: Path) -> None:
    run = read_run(learned)
    data = read_class_folders(pictures)
    manifest = run.manifest
    assert manifest.name == "colours"
    assert manifest.input == InputSpec(32, 32, "letterbox")
    assert (manifest.output.labels, manifest.output.activation) == (LABELS, "softmax")
    assert manifest.provenance["recipe"]["seed"] == 0
    assert manifest.provenance["recipe"]["arch"] == ARCH
    assert manifest.provenance["dataset"] == {
        "name": "colours",
        "fingerprint": data.fingerprint,
        "train": 48,
        "val": 12,
        "skipped": 0,
    }
    assert {"sightline", "python", "torch", "timm", "numpy"} <= set(manifest.provenance["versions"])
    assert run.heldout() == (pictures.resolve(), [(p.path, p.label) for p in data.val])
    for name in run.files:
        run.read(name)


def test_a_run_has_learned_and_its_accuracy_is_that_of_the_program_that_it_wrote(learned: Path) -> None:
    run = read_run(learned)
    root, files = run.heldout()
    program = torch.export.load(learned / "model.pt2").module()
    right = 0
    for path, label in files:
        image = preprocess(cv2.imread(str(root / path)), run.manifest.input)
        right += int(program(torch.from_numpy(image[None].astype(np.float32))).argmax()) == label
    assert run.manifest.metrics["accuracy"] == right / len(files)
    assert right / len(files) > 0.8, "three plain colours were not learned"


def test_a_run_carries_pictures_to_calibrate_and_to_compare_with(learned: Path, pictures: Path) -> None:
    run = read_run(learned)
    calibration = unpack(run.read("calibration.npz"), "calibration.npz", "frames")["frames"]
    golden = unpack(run.read("golden.npz"), "golden.npz", "frames", "output_0")
    assert (calibration.shape, calibration.dtype) == ((48, 32, 32, 3), np.uint8)
    assert golden["frames"].shape == (12, 32, 32, 3)
    program = torch.export.load(learned / "model.pt2").module()
    given = np.concatenate([program(torch.from_numpy(f[None].astype(np.float32))).detach() for f in golden["frames"]])
    assert np.allclose(given, golden["output_0"], atol=1e-5)
    data = read_class_folders(pictures)
    heldout = [preprocess(cv2.imread(str(pictures / p.path)), run.manifest.input).tobytes() for p in data.val]
    assert {f.tobytes() for f in golden["frames"]} == set(heldout)
    assert not {f.tobytes() for f in calibration} & set(heldout), "calibrated with pictures that judge"


def test_history_has_a_line_an_epoch(learned: Path) -> None:
    lines = history(learned)
    assert [line["epoch"] for line in lines] == list(range(EPOCHS))
    assert lines[-1]["loss"] < lines[0]["loss"]
    best = read_run(learned).manifest.metrics
    assert max(line["val_accuracy"] for line in lines) == round(best["accuracy"], 6)
    assert lines[best["best_epoch"] - 1]["val_accuracy"] == round(best["accuracy"], 6)


@pytest.mark.slow
def test_the_same_command_gives_the_same_weights(learned: Path, pictures: Path, tmp_path: Path) -> None:
    learn(pictures, tmp_path / "again")
    assert same(weights(tmp_path / "again"), weights(learned))
    learn(pictures, tmp_path / "other", seed=1, epochs=1)
    assert not same(weights(tmp_path / "other"), weights(learned))


@pytest.mark.slow
def test_the_result_is_one_json_object_on_stdout(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learn(pictures, tmp_path / "run", epochs=1, json=True)
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["run"] == str(tmp_path / "run")
    assert result["accuracy"] == read_run(tmp_path / "run").manifest.metrics["accuracy"]
    assert "48 training images, 12 held out, 3 classes: blue, green, red" in err


@pytest.mark.slow
def test_patience_ends_a_training_that_gets_no_better(pictures: Path, tmp_path: Path) -> None:
    learn(pictures, tmp_path / "run", with_accuracies(0.5, 0.6, 0.6, 0.4, 0.9), epochs=5, patience=2)
    assert [line["val_accuracy"] for line in history(tmp_path / "run")] == [0.5, 0.6, 0.6, 0.4]
    assert read_run(tmp_path / "run").manifest.metrics == {"accuracy": 0.6, "best_epoch": 2}


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_training_and_leaves_no_checkpoint(pictures: Path, tmp_path: Path) -> None:
    class Broken(torch.nn.Module):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.head = torch.nn.Linear(3, classes)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x.mean((1, 2))) * (math.inf if self.training else 1)

    with pytest.raises(
        ConfigError, match=r"the loss became (nan|inf) in epoch 1\. Use a smaller --learning-rate than 0\.002"
    ):
        learn(pictures, tmp_path / "run", with_model(Broken))
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_an_out_that_has_something_in_it_is_refused_and_left_alone(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name, words in (
        ("run", r"already exists\. Continue it with --resume, or choose another --out"),
        ("file", "is a file"),
    ):
        with pytest.raises(InputError, match=f"{name}: {words}"):
            learn(pictures, tmp_path / name)
    assert {p.name for p in tmp_path.rglob("*")} == {"run", "mine", "file"}


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        (
            {"arch": "mobilnetv4_conv_smal"},
            ConfigError,
            r"no model 'mobilnetv4_conv_smal' \(did you mean mobilenetv4_co",
        ),
        ({"arch": "mobilenetv3_small_050.nonsense"}, ConfigError, r"nonsense"),
        ({"batch": 49}, ConfigError, "--batch 49 is more than the 48 training images"),
        ({"arch": "test_vit", "image_size": 37}, ConfigError, "cannot take images of 37x37"),
        ({"weights": "absent.safetensors"}, InputError, r"absent\.safetensors: no such weights file"),
        ({"resume": True}, InputError, "cannot be resumed: it has no finished epoch"),
    ],
)
def test_what_cannot_be_learned_is_refused_before_anything_is_written(
    pictures: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        learn(pictures, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_name_that_no_bundle_could_have_is_refused_before_the_work(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--out: the name 'my run' must"):
        learn(pictures, tmp_path / "my run")


@pytest.mark.slow
def test_a_corrupt_picture_is_refused_or_skipped_and_counted(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(pictures, tmp_path / "data")
    (data / "red" / "bad.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 61 images are corrupt"):
        learn(data, tmp_path / "run")
    learn(data, tmp_path / "run", corrupt="skip", epochs=1)
    assert "bad.png: the file is empty" in capsys.readouterr().err
    assert read_run(tmp_path / "run").manifest.provenance["dataset"]["skipped"] == 1


@pytest.mark.slow
def test_pictures_in_both_parts_are_warned_of(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pictures, tmp_path / "data" / "train")
    for label in LABELS:
        (tmp_path / "data" / "val" / label).mkdir(parents=True)
        shutil.copy(pictures / label / "000.png", tmp_path / "data" / "val" / label / "leak.png")
    learn(tmp_path / "data", tmp_path / "run", epochs=1)
    assert (
        "warning: 3 images are in both the training and the validation part. Validation scores will be too high."
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.5 / 10),  # 2 warm-up epochs of 5 steps: a tenth more each step
        (4, 0.25),
        (9, 0.5),
        (10, 0.5),  # the cosine begins at its top
        (20, 0.5 * (0.01 + 0.99 * (1 + math.sqrt(0.5)) / 2)),  # a quarter of 40 steps
        (30, 0.5 * (0.01 + 0.99 / 2)),
        (50, 0.5 * 0.01),
        (60, 0.5 * 0.01),
    ],
)
def test_the_learning_rate_warms_up_and_falls_by_a_cosine_to_a_hundredth(step: int, expected: float) -> None:
    assert learning_rate(step, 5, recipe()) == pytest.approx(expected, rel=1e-9)


def test_without_a_warm_up_the_learning_rate_begins_at_its_peak_and_only_falls() -> None:
    rates = [learning_rate(step, 5, recipe(warmup_epochs=0)) for step in range(50)]
    assert rates[0] == 0.5
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.5 * 0.012


def test_the_learning_rate_of_the_run_is_that_of_the_schedule(learned: Path) -> None:
    used = read_run(learned).manifest.provenance["recipe"]
    assert [line["learning_rate"] for line in history(learned)] == [
        learning_rate(3 * epoch + 2, 3, Recipe(**used)) for epoch in range(EPOCHS)
    ]
