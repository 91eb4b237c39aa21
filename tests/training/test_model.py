"""timm's models as Sightline's: names, weights from wherever, and the normalisation inside."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from sightline.errors import ConfigError, DataError, ModelError
from tests.support.training import ARCH, same, weights
from trainer.model import build, check_arch, check_classifier, native_size

OTHER_ARCH = "test_efficientnet"


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """Weights of ARCH for 3 classes, as another training may have left them."""
    torch.manual_seed(7)
    return timm.create_model(ARCH, num_classes=3).state_dict()


def test_bytes_are_normalized_inside_as_timm_would_outside() -> None:
    torch.manual_seed(0)
    model = build(ARCH, 3, "none", 32).eval()
    config = model.backbone.pretrained_cfg
    image = torch.randint(0, 256, (1, 32, 32, 3)).float()
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = model.backbone((image.permute(0, 3, 1, 2) / 255 - mean) / std)
        assert torch.allclose(model(image), expected, atol=1e-5)
        assert not torch.allclose(model(image), model.backbone(image.permute(0, 3, 1, 2)), atol=1e-2)


def test_a_new_classifier_starts_at_chance() -> None:
    torch.manual_seed(0)
    model = build(ARCH, 10, "none", 32).eval()
    with torch.no_grad():
        scores = model(torch.randint(0, 256, (4, 32, 32, 3)).float()).softmax(1)
    assert torch.allclose(scores, torch.full_like(scores, 0.1), atol=0.05)


def test_an_unknown_arch_is_told_with_its_neighbours() -> None:
    with pytest.raises(ConfigError, match=r"timm has no model 'resnet5O' \(did you mean .*resnet50"):
        check_arch("resnet5O")
    with pytest.raises(ConfigError, match=r"timm has no model 'zzzzzzzzzz'; `timm\.list_models\(\)` names all \d{3,}"):
        check_arch("zzzzzzzzzz")


def test_an_arch_with_an_unknown_tag_is_refused_and_with_a_known_one_taken() -> None:
    check_arch("mobilenetv3_small_050.lamb_in1k")
    assert native_size("mobilenetv3_small_050.lamb_in1k") == 224
    with pytest.raises(ConfigError, match=r"nonsense"):
        check_arch("mobilenetv3_small_050.nonsense")


def test_every_model_of_timm_has_a_size_of_its_own() -> None:
    assert all(native_size(arch) > 0 for arch in timm.list_models())


@pytest.mark.parametrize("form", ["safetensors", "pt", "state_dict", "model", "module.", "backbone."])
def test_weights_that_fit_are_all_loaded(state: dict[str, torch.Tensor], tmp_path: Path, form: str) -> None:
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(state, path)
    elif form.endswith("."):
        torch.save({form + k: v for k, v in state.items()}, path)
    else:
        torch.save({form: state, "epoch": 3} if form != "pt" else state, path)
    assert same(dict(build(ARCH, 3, str(path), 32).backbone.state_dict()), state)


@pytest.mark.slow
def test_a_runs_own_best_weights_are_weights_to_start_from(learned: Path) -> None:
    (best,) = (learned / "checkpoint").glob("best-*.safetensors")
    assert same(dict(build(ARCH, 3, str(best), 32).state_dict()), weights(learned))


def test_weights_of_other_classes_are_loaded_up_to_the_head_which_starts_afresh(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_file(state, tmp_path / "w.safetensors")
    given = dict(build(ARCH, 5, str(tmp_path / "w.safetensors"), 32).backbone.state_dict())
    head = {k for k in state if k.startswith("head.fc")}
    assert head == {"head.fc.weight", "head.fc.bias"}
    assert same({k: v for k, v in given.items() if k not in head}, {k: v for k, v in state.items() if k not in head})
    assert given["head.fc.weight"].shape == (5, state["head.fc.weight"].shape[1])
    assert given["head.fc.weight"].abs().max() < 0.1


def test_weights_without_a_head_are_a_backbone(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file({k: v for k, v in state.items() if not k.startswith("head.fc")}, tmp_path / "w.safetensors")
    given = build(ARCH, 3, str(tmp_path / "w.safetensors"), 32).backbone.state_dict()
    assert torch.equal(given["stem.conv.weight"], state["stem.conv.weight"])


def test_weights_of_another_architecture_are_refused_with_what_is_missing(tmp_path: Path) -> None:
    save_file(timm.create_model(OTHER_ARCH, num_classes=3).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"w\.safetensors: is not for this architecture: \d+ of \d+ tensors .* 'stage"):
        build(ARCH, 3, str(tmp_path / "w.safetensors"), 32)


def test_weights_that_lack_one_tensor_are_refused_by_its_name(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    missing = next(k for k in state if k.endswith("running_mean"))
    save_file({k: v for k, v in state.items() if k != missing}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=f"1 of .* '{missing}'"):
        build(ARCH, 3, str(tmp_path / "w.safetensors"), 32)


class Bomb:
    """What a pickle may hold: a call."""

    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('a pickle was executed')",))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("w.safetensors", b"no tensors"),
        ("w.safetensors", b""),
        ("w.pt", b"no tensors"),
        ("w.pt", b""),
        ("w.pt", pickle.dumps(Bomb())),
        ("w.pt", pickle.dumps([1, 2])),
        ("w.pt", pickle.dumps({"a": 1})),
        ("w.txt", b"hello"),
    ],
)
def test_what_is_no_file_of_weights_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=rf"{name}: (not a readable state dict|has no state dict)"):
        build(ARCH, 3, str(tmp_path / name), 32)
    with pytest.raises(ModelError, match="no such weights file"):
        build(ARCH, 3, str(tmp_path / "absent.pt"), 32)


class Hub(Exception):
    """A hub client's error, of a class that nobody knows beforehand."""


@pytest.mark.parametrize(
    "failure", [Hub("Max retries exceeded\nwith url: ..."), OSError("offline"), TimeoutError(), Hub("")]
)
def test_weights_that_cannot_be_downloaded_say_what_to_do(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    real = timm.create_model

    def create(arch: str, pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            raise failure
        return real(arch, **options)

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(ModelError) as e:
        build("mobilenetv3_small_050", 3, "timm", 32)
    message = str(e.value)
    assert message.startswith("the weights of mobilenetv3_small_050 cannot be downloaded (")
    assert type(failure).__name__ in message
    assert (
        "Offline? Pass --weights FILE (a state dict as .safetensors or .pt, downloaded elsewhere) or --weights none."
        in message
    )
    assert "\n" not in message


def test_an_arch_without_weights_at_timm_says_what_to_do() -> None:
    arch = next(a for a in timm.list_models("mobilenet*") if not timm.get_pretrained_cfg(a).has_weights)
    with pytest.raises(ModelError, match=rf"timm has no weights for {arch}\. Pass --weights none, or a file"):
        build(arch, 3, "timm", 32)


def test_a_transformer_is_made_for_the_size_that_is_asked() -> None:
    """One made for 224, its native size, refuses any other."""
    check_classifier(build("vit_tiny_patch16_224", 3, "none", 48), 48, 3)
    with pytest.raises(ConfigError, match="cannot take images of 48x48"):
        check_classifier(build("vit_tiny_patch16_224", 3, "none", 224), 48, 3)


def test_a_size_that_the_model_cannot_take_is_refused() -> None:
    with pytest.raises(ConfigError, match="xcit_nano_12_p16_224 cannot take images of 37x37: `patch_size` should"):
        build("xcit_nano_12_p16_224", 3, "none", 37)
    with pytest.raises(ConfigError, match="cannot take images of 37x37"):
        check_classifier(build("test_vit", 3, "none", 32), 37, 3)


class Fails(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError  # as a bare `assert` in a model does


def test_a_model_that_refuses_without_a_word_is_refused_too() -> None:
    with pytest.raises(ConfigError, match="cannot take images of 32x32"):
        check_classifier(Fails(), 32, 3)


def test_a_model_that_does_not_classify_is_refused() -> None:
    with pytest.raises(DataError, match=r"is not a classifier: its output is torch\.Size\(\[1, 3\]\)"):
        check_classifier(build(ARCH, 3, "none", 32), 32, 4)
