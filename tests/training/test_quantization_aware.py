"""Fine-tuning with int8's rounding: the rounding itself, what it teaches, and what it leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sightline.data.classification import ClassificationDataset, read_class_folders
from sightline.errors import ConfigError, DataError, ModelError
from sightline.images import read_image
from sightline.preprocess import InputSpec, Preprocessor
from sightline.run_folder import Run, read_run
from tests.conftest import write_coloured
from tests.support.models import Neighbours
from tests.support.training import (
    ARCH,
    Stopped,
    TaskFactory,
    run_line,
    same,
    stop_after,
    weights,
    with_accuracies,
    with_model,
)
from tests.training.test_resume import assert_equal_runs
from trainer.export import export_run
from trainer.model import build
from trainer.quantization_aware import (
    FakeQuantizedActivation,
    FakeQuantizedWeight,
    calibrate,
    divergence,
    fake_quantized,
)
from trainer.recipe import Recipe
from trainer.strategies import Distillation, Strategy
from trainer.task import Task
from trainer.train import Setup

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
CPU = torch.device("cpu")


def fine_tune(
    images: Path,
    parent: Path,
    out: Path,
    *more: str,
    task_factory: TaskFactory | None = None,
    setup: Setup | None = None,
) -> None:
    """`sightline train --quantization-aware` in this process."""
    line = [str(images), "--quantization-aware", str(parent), "--out", str(out), "--epochs", "2", *more]
    run_line(line, task_factory, setup)


def frames(data: ClassificationDataset) -> tuple[np.ndarray[Any, Any], Tensor]:
    """(uint8 [n, 32, 32, 3], labels [n]) of the held-out pictures."""
    preprocess = Preprocessor(InputSpec(32, 32))
    pictures = np.stack([preprocess(read_image(data.root / p.path)).copy() for p in data.val])
    return pictures, torch.tensor([p.label for p in data.val])


# the rounding


def test_an_activation_has_256_steps_and_zero_is_one_of_them() -> None:
    fake = FakeQuantizedActivation()
    fake.low.fill_(-1.3)
    fake.high.fill_(4.2)
    scale = 5.5 / 255
    zero_point = round(-128 + 1.3 / scale)
    x = torch.linspace(-3, 6, 1001)
    stored = np.clip(np.rint(x.numpy().astype(np.float64) / scale) + zero_point, -128, 127)
    assert np.allclose(fake(x).numpy(), (stored - zero_point) * scale, atol=1e-6)
    assert fake(torch.zeros(3)).tolist() == [0, 0, 0]
    assert len(np.unique(fake(torch.linspace(-2, 5, 100_000)).numpy())) == 256


def test_what_an_activation_saw_is_its_range_and_always_holds_zero() -> None:
    fake = FakeQuantizedActivation()
    fake.observing = True
    fake(torch.tensor([2.0, 3.0]))
    fake(torch.tensor([2.5, 3.5]))
    assert (fake.low.item(), fake.high.item()) == (0.0, 3.5)


def test_gradients_pass_inside_the_range_and_stop_outside() -> None:
    fake = FakeQuantizedActivation()
    fake.high.fill_(1.0)
    x = torch.tensor([-0.5, 0.3, 0.7, 1.5], requires_grad=True)
    fake(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 0]


def test_each_channel_of_a_weight_has_its_own_127_steps_to_both_sides() -> None:
    torch.manual_seed(0)
    w = torch.randn(5, 4, 3, 3) * torch.tensor([1e-3, 0.1, 1, 10, 0]).view(5, 1, 1, 1)
    given = FakeQuantizedWeight()(w)
    for before, after in zip(w, given, strict=True):
        step = max(float(before.abs().max()) / 127, 1e-30)
        assert np.allclose(after / step, torch.round(before / step), atol=1e-3)
        assert torch.isclose(after.abs().max(), before.abs().max())


def test_a_batch_norm_folded_in_later_changes_no_integer() -> None:
    """Training rounds w; TFLite rounds w * gamma / sigma, gamma of either sign."""
    torch.manual_seed(0)
    w, factor = torch.randn(64, 16, 3, 3), (torch.randn(64) * 3).view(64, 1, 1, 1)
    fake = FakeQuantizedWeight()
    assert torch.allclose(fake(w) * factor, fake(w * factor), rtol=1e-5, atol=1e-7)


# where it rounds


def test_it_rounds_where_tflite_has_a_tensor_and_nowhere_else() -> None:
    torch.manual_seed(0)
    model = Neighbours()
    net = fake_quantized(model, 8, CPU)
    rounded = [str(n.args[0].target) for n in net.graph.nodes if str(n.target).startswith("fake_activation")]
    assert rounded == [
        "aten.relu.default",  # of the convolution, its batch norm and it
        "aten.batch_norm.default",
        "aten.hardswish.default",
        "aten.relu6.default",  # of the addition and it
        "aten.mean.dim",
        "aten.linear.default",
    ]
    assert sum(isinstance(m, FakeQuantizedWeight) for m in net.modules()) == 3
    assert {id(p) for p in net.parameters()} == {id(p) for p in model.parameters()}


def test_a_value_that_is_overwritten_in_place_and_used_again_is_the_overwritten_one() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x.permute(0, 3, 1, 2).mean((2, 3)) - 100
            y = x.relu_()
            return x + y

    net = fake_quantized(Twice(), 8, CPU)
    x = torch.rand(5, 8, 8, 3) * 255
    calibrate(net, x.byte().numpy(), CPU)
    assert torch.allclose(net(x), Twice()(x), atol=2.5)  # 256 steps over 0..255, three times


@pytest.mark.slow
def test_the_rounded_model_is_near_the_float_one_and_not_equal(learned: Path, pictures: Path) -> None:
    model = build(ARCH, 3, str(next((learned / "checkpoint").glob("best-*"))), 32)
    net = fake_quantized(model, 32, CPU)
    images, _ = frames(read_class_folders(pictures))
    calibrate(net, images, CPU)
    with torch.no_grad():
        wanted, given = model(torch.from_numpy(images).float()), net(torch.from_numpy(images).float())
    assert 0 < (given - wanted).abs().max() < 0.1 * wanted.abs().max()


def test_the_divergence_is_nothing_between_equals_and_ln_2_of_a_coin_that_is_sure() -> None:
    assert divergence(torch.randn(3, 4).requires_grad_(), torch.zeros(3, 4)).item() > 0
    assert divergence(torch.ones(3, 4), torch.zeros(3, 4)).item() == pytest.approx(0, abs=1e-6)
    sure = torch.tensor([[0.0, -100.0]])
    assert divergence(torch.zeros(1, 2), sure).item() == pytest.approx(np.log(2))


# what it teaches


class Uneven(nn.Module):
    """What each layer does is lost in int8: its features differ in size up to 1000 times, and share one scale."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Linear(3, 64), nn.Linear(64, 3)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            sizes = 2 ** torch.empty(64).uniform_(-5, 5, generator=generator)
            self.features.weight.copy_(torch.randn(64, 3, generator=generator) * sizes[:, None])
            self.features.bias.zero_()
            self.head.weight.copy_(torch.randn(3, 64, generator=generator) / sizes)
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.features(x.mean((1, 2)) / 128 - 1)))


@pytest.fixture(scope="module")
def losing(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("losing") / "uneven"
    recipe = {"arch": ARCH, "batch": 16, "augment": "none", "flip": False, "seed": 0}
    data = read_class_folders(pictures)
    export_run(path, Uneven(), data, InputSpec(32, 32), metrics={"accuracy": 1.0}, provenance={"recipe": recipe})
    return path


def rounded_divergence(run: Path, pictures: Path) -> float:
    """Of the run's weights rounded as int8 would, from the same weights in float."""
    model = Uneven()
    model.load_state_dict(weights(run))
    net = fake_quantized(model, 32, CPU)
    images, _ = frames(read_class_folders(pictures))
    calibrate(net, images, CPU)
    x = torch.from_numpy(images).float()
    with torch.no_grad():
        return float(divergence(net(x), model(x)))


def without_rounding(task: Task, recipe: Recipe, parent: Run | None, device: torch.device) -> Strategy:
    assert parent is not None
    return Distillation(task, recipe, parent, device, quantize=lambda model, *_: model, set_ranges=lambda *_: None)


@pytest.mark.slow
def test_a_model_that_int8_would_ruin_learns_to_bear_it(pictures: Path, losing: Path, tmp_path: Path) -> None:
    task_factory = with_model(lambda _: Uneven())
    settings = ("--epochs", "30", "--learning-rate", "0.003")
    lost = rounded_divergence(losing, pictures)
    fine_tune(pictures, losing, tmp_path / "aware", *settings, task_factory=task_factory)
    assert rounded_divergence(tmp_path / "aware", pictures) < 0.6 * lost
    # the same without rounding teaches nothing of it
    setup = Setup(strategy=without_rounding)
    fine_tune(pictures, losing, tmp_path / "unaware", *settings, task_factory=task_factory, setup=setup)
    assert rounded_divergence(tmp_path / "unaware", pictures) > 0.8 * lost


# what it leaves


@pytest.fixture(scope="module")
def tuned(pictures: Path, learned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tuned") / "tuned"
    fine_tune(pictures, learned, path)
    return path


@pytest.mark.slow
def test_the_result_is_a_run_like_any_other_and_names_its_parent(tuned: Path, learned: Path) -> None:
    before, after = read_run(learned).manifest, read_run(tuned).manifest
    assert after.provenance["parent"] == {"name": before.name, "version": before.version, "metrics": before.metrics}
    assert (after.input, after.output) == (before.input, before.output)
    recipe = after.provenance["recipe"]
    assert recipe["quantization_aware"] is True
    assert not before.provenance["recipe"]["quantization_aware"]
    assert recipe["weights"] == f"{before.name} {before.version}"
    for key in ("arch", "batch", "augment", "flip", "seed"):
        assert recipe[key] == before.provenance["recipe"][key]
    assert set(after.metrics) == {"accuracy", "simulated_int8_accuracy", "best_epoch"}


@pytest.mark.slow
def test_the_last_epoch_is_the_result_whatever_the_labels_say(pictures: Path, learned: Path, tmp_path: Path) -> None:
    scripted = with_accuracies(1.0, 0.5, 0.75)  # of two epochs, and of the float program
    fine_tune(pictures, learned, tmp_path / "out", task_factory=scripted)
    expected = {"accuracy": 0.75, "best_epoch": 2, "simulated_int8_accuracy": 0.5}
    assert read_run(tmp_path / "out").manifest.metrics == expected


@pytest.mark.slow
def test_the_program_has_the_parents_tensors_and_no_rounding(tuned: Path, learned: Path) -> None:
    program, before = (torch.export.load(path / "model.pt2") for path in (tuned, learned))
    assert "fake" not in str(program.graph)
    assert [str(n.target) for n in program.graph.nodes] == [str(n.target) for n in before.graph.nodes]
    assert weights(tuned).keys() == weights(learned).keys()
    assert not same(weights(tuned), weights(learned))
    # a finished network's batch norms keep what they know of the pictures
    statistics = {k for k in weights(learned) if "running_" in k}
    assert statistics
    assert same({k: weights(tuned)[k] for k in statistics}, {k: weights(learned)[k] for k in statistics})


@pytest.mark.slow
def test_the_accuracy_is_that_of_the_float_program(tuned: Path, pictures: Path) -> None:
    images, labels = frames(read_class_folders(pictures))
    program = torch.export.load(tuned / "model.pt2").module()
    with torch.no_grad():
        answers = torch.tensor([int(program(torch.from_numpy(f[None]).float()).argmax()) for f in images])
    assert read_run(tuned).manifest.metrics["accuracy"] == float((answers == labels).double().mean())


@pytest.mark.slow
def test_a_resumed_one_ends_with_the_very_same_weights(
    pictures: Path, learned: Path, tuned: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tuned"
    with pytest.raises(Stopped):
        fine_tune(pictures, learned, out, setup=stop_after(0))
    fine_tune(pictures, learned, out, "--resume")
    assert_equal_runs(out, tuned)


@pytest.mark.slow
def test_it_is_not_resumed_from_another_parent(pictures: Path, learned: Path, tuned: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    fine_tune(pictures, learned, other, "--epochs", "1")
    with pytest.raises(ConfigError, match="cannot be resumed with other settings \\(weights was"):
        fine_tune(pictures, other, shutil.copytree(tuned, tmp_path / "tuned"), "--resume")


# what it refuses


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--patience", "3"), "--patience and --quantization-aware exclude each other"),
        (("--weights", "none"), "--weights and --quantization-aware exclude each other"),
        (("--arch", "resnet18"), f"--arch resnet18: .*colours was trained with {ARCH}"),
        (("--image-size", "64"), "--image-size 64: .* with 32"),
        (("--resize", "stretch"), "--resize stretch: .* with letterbox"),
    ],
)
def test_flags_that_contradict_the_run_are_refused(
    pictures: Path, learned: Path, tmp_path: Path, more: tuple[str, ...], why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        fine_tune(pictures, learned, tmp_path / "out", *more)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_flags_that_agree_with_the_run_are_taken(pictures: Path, learned: Path, tmp_path: Path) -> None:
    fine_tune(
        pictures, learned, tmp_path / "out", "--arch", ARCH, "--image-size", "32", "--batch", "8", "--epochs", "1"
    )
    assert read_run(tmp_path / "out").manifest.provenance["recipe"]["batch"] == 8


@pytest.mark.parametrize("seed", ["", "1"])
def test_other_pictures_or_another_split_are_refused(pictures: Path, learned: Path, tmp_path: Path, seed: str) -> None:
    data = pictures if seed else write_coloured(tmp_path / "data", 20, seed=1)
    with pytest.raises(DataError, match=r"is not the data set of .*colours with the same held-out images"):
        fine_tune(data, learned, tmp_path / "out", *(("--seed", seed) if seed else ()))
    assert not (tmp_path / "out").exists()


def test_what_is_no_run_of_the_trainer_is_refused(pictures: Path, run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a finished run"):
        fine_tune(pictures, tmp_path / "absent", tmp_path / "out")
    with pytest.raises(ModelError, match=r"does not state how it was trained .*Only a run of `sightline train`"):
        fine_tune(pictures, run_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_whose_program_is_another_module_is_refused(pictures: Path, losing: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.pt2: does not have the architecture that its recipe names"):
        fine_tune(pictures, losing, tmp_path / "out")
    assert json.loads((losing / "model.json").read_text())["name"] == "uneven"
    assert not (tmp_path / "out").exists()
