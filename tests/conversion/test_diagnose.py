"""An op that cannot be converted: the error names it, its module and its line, and what to use instead."""

from __future__ import annotations

import inspect
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from converters.convert import ConvertOptions, convert
from converters.sources.base import ModelOptions
from converters.sources.diagnose import alternative
from converters.sources.from_torch import save_module, to_tflite
from sightline.errors import ModelError
from tests.conftest import Sightline
from tests.support.conversion import save_program

HERE = Path(__file__).name
ONE = torch.zeros(1, 3, 16, 16)


class Spectrum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft2(x).abs()


class Determinant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.linalg.det(x[:, :, :4, :4])[:, :, None, None]


class Inverse(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.inv(x[:, :, :4, :4])


class Peaks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_max_pool2d(x, 7)


class Cut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0].sum() + x


class ErfInv(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.erfinv(torch.tanh(x))


def net(part: nn.Module) -> nn.Module:
    blocks = nn.Sequential(nn.ReLU(), part)
    return nn.Sequential(nn.Conv2d(3, 4, 3), blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def line(kind: type[nn.Module]) -> str:
    """FILE:LINE: CODE of the one statement of its forward."""
    code, first = inspect.getsourcelines(kind.forward)
    return rf"{HERE}:{first + 1}: {code[1].strip().split('(')[0]}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "op", "advice"),
    [
        (Spectrum, r"aten\.fft_rfft2", "as a matmul with a constant matrix"),
        (Determinant, r"aten\.linalg_det", "compute it once, outside of forward"),
        (Inverse, r"aten\.linalg_inv", "compute it once, outside of forward"),
        (Peaks, r"aten\.adaptive_max_pool2d", "use max_pool2d"),
        (Cut, r"aten\.index\.Tensor|aten\.nonzero|aten\.masked_select", ""),
        (ErfInv, r"aten\.erfinv", ""),
    ],
)
def test_the_error_names_op_module_line_and_a_way_out(
    tmp_path: Path, kind: type[nn.Module], op: str, advice: str
) -> None:
    path = save_program(tmp_path / "mine.pt2", net(kind()), ONE)
    with pytest.raises(ModelError) as e:
        to_tflite(path)
    message = str(e.value)
    assert re.search(
        rf"mine\.pt2: litert-torch cannot convert .*({op}) in module '1\.1' \({kind.__name__}\) at ", message
    )
    assert line(kind) in message
    assert advice in message
    assert re.search(r"\(full output: \S+\.log\)$", message)
    assert "\n" not in message


@pytest.mark.slow
def test_a_module_in_memory_gets_the_same_error(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"Sequential: .*aten\.linalg_det in module '1\.1' .*{HERE}:\d+: return x \*"):
        convert(
            net(Determinant()).eval(),
            tmp_path / "c.bundle",
            ConvertOptions("desktop", model=ModelOptions(data=pictures, normalization="0..255", size=(16, 16))),
        )
    assert not (tmp_path / "c.bundle").exists()


@torch.library.custom_op("sightline_tests::wobble", mutates_args=())
def wobble(x: Tensor) -> Tensor:
    return x * 2


@wobble.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Wobble(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return wobble(x)


def test_an_op_of_ones_own_is_named_where_it_is_known(tmp_path: Path) -> None:
    path = save_program(tmp_path / "mine.pt2", net(Wobble()), ONE)
    with pytest.raises(ModelError, match=r"sightline_tests\.wobble in module '1\.1' \(Wobble\) .*a custom op has"):
        to_tflite(path)


@pytest.mark.slow
def test_and_where_it_is_not_in_one_line(tmp_path: Path, pictures: Path, sightline: Sightline) -> None:
    """In the converter's process nobody has registered it."""
    path = save_program(tmp_path / "mine.pt2", net(Wobble()), ONE)
    done = sightline(
        "convert", path, "--device", "desktop", "--data", pictures, "--normalization", "0..1",
        "--out", tmp_path / "c.bundle",
    )  # fmt: skip
    assert done.returncode == 2
    (last,) = (text for text in done.stderr.splitlines() if not text.endswith("converting"))
    place = f"in module '1.1' (Wobble) at {__file__}:{line(Wobble).split(':')[1]}: return wobble(x)"
    assert f"calls sightline_tests.wobble {place}, which is not on the list" in last
    assert last.endswith("a custom op has no kernel on a device: write it in PyTorch's ops")


def export_training(path: Path, module: nn.Module) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(module.train(), (ONE,)), path)
    return path


@pytest.mark.parametrize(("part", "op"), [(nn.Dropout(0.5), "dropout"), (nn.BatchNorm2d(4), "batch_norm")])
def test_a_program_exported_in_training_mode_is_refused(tmp_path: Path, part: nn.Module, op: str) -> None:
    path = export_training(tmp_path / "mine.pt2", net(part))
    with pytest.raises(
        ModelError, match=rf"was exported in training mode \(aten\.{op} in module '1\.1'.*Call \.eval\(\)"
    ):
        to_tflite(path)


@pytest.mark.slow
def test_the_same_in_evaluation_mode_is_converted(tmp_path: Path) -> None:
    assert to_tflite(save_program(tmp_path / "mine.pt2", net(nn.Dropout(0.5)), ONE))


class Chooses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x.mean((2, 3))
        return x.amax((2, 3))


def meta(module: nn.Module) -> nn.Module:
    return module.eval().to("meta")


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (nn.Conv2d(3, 4, 3), r"^Conv2d: is in training mode, .*\. Call \.eval\(\) first"),
        (meta(nn.Conv2d(3, 4, 3)), r"^Conv2d: is on meta\. Call \.cpu\(\) first"),
        (
            nn.Conv2d(4, 4, 3).eval(),
            r"^Conv2d: torch\.export cannot export it with an image \[1, 3, 16, 24\]: .*channels",
        ),
        (
            Chooses().eval(),
            rf"^Chooses: torch\.export cannot export it .*data-dependent.*{HERE}:\d+: if x\.sum\(\) > 0:",
        ),
    ],
    ids=["training", "elsewhere", "channels", "control flow"],
)
def test_a_module_that_cannot_be_exported_is_refused_with_the_reason(
    tmp_path: Path, module: nn.Module, why: str
) -> None:
    with pytest.raises(ModelError, match=why):
        save_module(module, tmp_path / "m.pt2", height=16, width=24)
    assert not (tmp_path / "m.pt2").exists()


@pytest.mark.parametrize(
    ("target", "advice"),
    [
        ("aten._linalg_svd.default", "compute it once"),
        ("aten._unique2.default", "its size depends on the image"),
        ("torchvision.nms.default", "return boxes and scores"),
        ("mine.op.default", "a custom op"),
        ("aten.erfinv.default", ""),
        ("aten.detach.default", ""),
        ("aten.convolution.default", ""),
    ],
)
def test_advice_appears_only_where_it_is_known(target: str, advice: str) -> None:
    assert alternative(target).startswith(advice)
    assert bool(alternative(target)) == bool(advice)
