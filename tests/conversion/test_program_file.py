"""A .pt2 is data: code in it that would run when torch opens it is refused, and does not run."""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from converters.sources.from_torch import open_program, outputs, to_tflite
from sightline.errors import ModelError
from sightline.files import file_table, seal
from sightline.program_file import checked_program
from sightline.program_ops import ATEN
from tests.conftest import SIZE, Sightline
from tests.support.conversion import Calls, save_program

Parts = dict[str, bytes]
GRAPH = "archive/models/model.json"


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def parts_of(run_folder: Path) -> Parts:
    with zipfile.ZipFile(run_folder / "model.pt2") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(parts: Parts) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def bomb(mark: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save((Bomb(mark),), buffer)
    return buffer.getvalue()


def graph(change: Callable[[Any], Any]) -> Callable[[Parts, Path], None]:
    def spoil(parts: Parts, mark: Path) -> None:
        document = json.loads(parts[GRAPH])
        change(document)
        parts[GRAPH] = json.dumps(document).replace("MARK", str(mark)).encode()

    return spoil


def pickled_weight(parts: Parts, mark: Path) -> None:
    path = "archive/data/weights/model_weights_config.json"
    document = json.loads(parts[path])
    payload = next(iter(document["config"].values()))
    payload["use_pickle"] = True
    parts[f"archive/data/weights/{payload['path_name']}"] = bomb(mark)
    parts[path] = json.dumps(document).encode()


def constant(prefix: str) -> Callable[[Parts, Path], None]:
    def spoil(parts: Parts, mark: Path) -> None:
        entry = {"path_name": f"{prefix}_0", "is_param": False, "use_pickle": False, "tensor_meta": None}
        parts["archive/data/constants/model_constants_config.json"] = json.dumps({"config": {"c": entry}}).encode()
        parts[f"archive/data/constants/{prefix}_0"] = pickle.dumps(Bomb(mark))

    return spoil


def rename_input(document: Any) -> None:
    text = json.dumps(document["graph_module"]).replace('"x"', "\"x=__import__('pathlib').Path('MARK').touch()\"")
    document["graph_module"] = json.loads(text)


def spec_of(document: Any) -> None:
    context = json.dumps({"default_factory_module": "antigravity", "default_factory_name": "x", "dict_context": "[]"})
    spec = json.dumps([1, {"type": "collections.defaultdict", "context": context, "children_spec": []}])
    document["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = spec


def call(target: str) -> Callable[[Parts, Path], None]:
    return graph(lambda d: d["graph_module"]["graph"]["nodes"][0].update(target=target))


BAD: dict[str, tuple[Callable[[Parts, Path], None], str]] = {
    "a pickled weight": (pickled_weight, "as a pickle, which is code"),
    "a script object": (constant("custom_obj"), "as a pickle, which is code"),
    "an opaque object": (constant("opaque_obj"), "as a pickle, which is code"),
    "weights of an old file": (lambda p, m: p.update({"archive/data/weights/model.pt": bomb(m)}), "code or a pickle"),
    "a compiled library": (lambda p, m: p.update({"archive/data/aotinductor/m/m.so": b"ELF"}), "code or a pickle"),
    "a function of Python": (call("torch.os.system"), "calls torch.os.system .*, which is not on the list"),
    "a library": (call("torch.ops.load_library.x"), "which is not on the list"),
    "a method of an op": (call("torch.ops.aten.conv2d.__class__"), "which is not on the list"),
    "an operator that calls": (call("_operator.methodcaller"), "which is not on the list"),
    "an expression": (
        graph(lambda d: d["range_constraints"].update(a={"expr_str": "().__class__.__base__"})), "has the expression"),
    "a name that is source": (graph(rename_input), "has arguments called"),
    "a type that imports": (graph(spec_of), "has an input or output of type 'collections.defaultdict'"),
    "no zip": (lambda p, m: p.clear(), "not a program that torch.export saved"),
    "no JSON": (lambda p, m: p.update({GRAPH: b"["}), "not a program that torch.export saved"),
    "nesting": (lambda p, m: p.update({GRAPH: b"[" * 100_000}), "nested too deep"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_would_run_is_refused(name: str, run_folder: Path, tmp_path: Path) -> None:
    spoil, words = BAD[name]
    parts, mark = parts_of(run_folder), tmp_path / "it-ran"
    spoil(parts, mark)
    with pytest.raises(ModelError, match=words):
        open_program(packed(parts), "theirs.pt2")
    assert not mark.exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda parts, mark: parts.update({"archive/data/sample_inputs/model.pt": bomb(mark)}),
        graph(lambda d: d.update(guards_code=["__import__('pathlib').Path('MARK').touch()"])),
    ],
    ids=["sample inputs", "guards"],
)
def test_what_nothing_needs_is_left_out(spoil: Callable[[Parts, Path], None], run_folder: Path, tmp_path: Path) -> None:
    parts, mark = parts_of(run_folder), tmp_path / "it-ran"
    spoil(parts, mark)
    program = open_program(packed(parts), "theirs.pt2")
    picture = torch.rand(1, SIZE, SIZE, 3) * 255
    expected = torch.export.load(run_folder / "model.pt2").module()(picture)
    assert torch.equal(program.module()(picture), expected)
    assert not mark.exists()


@pytest.mark.parametrize(
    "op",
    [
        "aten.from_file.default", "aten.save.default", "aten.as_strided_.default", "aten.as_strided_copy.default",
        "aten.set_.source_Storage_storage_offset", "aten.resize_.default", "aten._unsafe_index.Tensor",
        "aten._nested_view_from_buffer.default", "aten._embedding_bag.default", "aten.empty.memory_format",
        "aten.add.out", "aten.div.out_mode", "aten.xlogy.OutTensor", "aten.data_ptr.default", "aten.rand.default",
        "aten.wait.default", "inductor._reinterpret_tensor.default", "prims.as_strided.default", "profiler._record.x",
        "torchvision.roi_align.default", "c10d.send.default", "higher_order.triton_kernel_wrapper_mutation", "aten",
        "aten.add.Tensor.__class__", "mine.add.Tensor",
    ],
)  # fmt: skip
def test_an_op_that_is_not_on_the_list_is_refused_by_name(op: str, run_folder: Path, tmp_path: Path) -> None:
    parts = parts_of(run_folder)
    call(f"torch.ops.{op}")(parts, tmp_path)
    with pytest.raises(ModelError, match=rf"^theirs\.pt2: calls {re.escape(op.removesuffix('.default'))} .*not on the"):
        open_program(packed(parts), "theirs.pt2")


class Writes(nn.Module):
    """Writes its own constant into a tensor of its own, and does not use the result."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("text", torch.tensor(list(b"it ran"), dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        torch.ops.aten.copy_.default(torch.ops.aten.clone.default(self.text), self.text)
        return x.mean((2, 3))


def instead_of_the_copy(target: str, **arguments: object) -> Callable[[Parts, Path], None]:
    """The tensor that is written into comes of another op, with some arguments of its own."""

    def change(document: Any) -> None:
        (node,) = (n for n in document["graph_module"]["graph"]["nodes"] if ".clone." in n["target"])
        own = [{"name": n, "arg": value, "kind": 2 if n == "dtype" else 1} for n, value in arguments.items()]
        node.update(target=target, inputs=own if "filename" in arguments else [*node["inputs"], *own])

    return graph(change)


@pytest.mark.parametrize(
    "spoil",
    [
        instead_of_the_copy(
            "torch.ops.aten.from_file.default",
            filename={"as_string": "MARK"}, shared={"as_bool": True}, size={"as_int": 6}, dtype={"as_scalar_type": 1},
        ),
        instead_of_the_copy(
            "torch.ops.inductor._reinterpret_tensor.default",
            size={"as_ints": [6]}, stride={"as_ints": [1]}, offset_increment={"as_int": 1 << 20},
        ),
    ],
    ids=["a file", "foreign memory"],
)  # fmt: skip
def test_a_program_cannot_write_outside_its_tensors(spoil: Callable[[Parts, Path], None], tmp_path: Path) -> None:
    path, mark = save_program(tmp_path / "theirs.pt2", Writes(), torch.zeros(1, 3, 8, 8)), tmp_path / "it-ran"
    with zipfile.ZipFile(path) as archive:
        parts = {f"archive/{name.partition('/')[2]}": archive.read(name) for name in archive.namelist()}
    spoil(parts, mark)
    path.write_bytes(packed(parts))
    for use in (to_tflite, lambda p: outputs(p, np.zeros((1, 8, 8, 3), np.float32))):
        with pytest.raises(ModelError, match="is not on the list"):
            use(path)
    assert not mark.exists()


def test_a_view_beyond_its_tensor_is_no_view(tmp_path: Path) -> None:
    """What run_decompositions makes of some models has as_strided, which looks at the bounds of the memory."""
    path = save_program(tmp_path / "theirs.pt2", Writes(), torch.zeros(1, 3, 8, 8))
    with zipfile.ZipFile(path) as archive:
        parts = {f"archive/{name.partition('/')[2]}": archive.read(name) for name in archive.namelist()}
    view = {"size": {"as_ints": [6]}, "stride": {"as_ints": [1]}, "storage_offset": {"as_int": 1}}
    instead_of_the_copy("torch.ops.aten.as_strided.default", **view)(parts, tmp_path)
    program = open_program(packed(parts), "theirs.pt2")
    with pytest.raises(RuntimeError, match="out of bounds for storage"):
        program.module()(torch.zeros(1, 3, 8, 8))


class Ordinary(nn.Module):
    """Ways to write a model that torch.export keeps as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding="same")
        self.rnn = nn.GRU(4, 4, batch_first=True)
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.relu6(self.conv(x).add_(1).mul_(0.5), inplace=True)
        y[:, 0, :2] = 0
        with torch.no_grad():
            mask = torch.zeros_like(y).masked_fill_(y > 1, 2.0)
        with torch.autocast("cpu", enabled=False):
            y = nn.functional.interpolate(y + mask, scale_factor=0.5, mode="bilinear")
        z = y.flatten(2).transpose(1, 2)
        z = self.rnn(self.attend(z, z, z)[0])[0]
        return torch.einsum("bnc,bmc->bm", z, z).topk(3)[0].softmax(-1)


@pytest.mark.slow
def test_an_ordinary_model_is_opened_and_gives_the_same(tmp_path: Path) -> None:
    model, image = Ordinary().eval(), torch.rand(1, 3, 8, 8)
    path = save_program(tmp_path / "mine.pt2", model, image)
    with torch.no_grad():
        assert torch.allclose(open_program(path.read_bytes(), "mine").module()(image), model(image))


def test_every_listed_op_is_one_of_torch() -> None:
    assert [name for name in sorted(ATEN) if not getattr(torch.ops.aten, name).overloads()] == []


def test_running_a_program_leaves_its_inputs_alone(tmp_path: Path) -> None:
    def clamps(x: Tensor) -> Tensor:
        return x.add_(1).mean((2, 3))

    path, images = save_program(tmp_path / "m.pt2", Calls(clamps), torch.zeros(1, 3, 8, 8)), np.zeros((2, 8, 8, 3))
    inputs = np.float32(images)
    assert np.array_equal(outputs(path, inputs), np.ones((2, 3)))
    assert not inputs.any()


def test_a_program_that_fails_on_an_image_is_named(tmp_path: Path) -> None:
    def picks(x: Tensor) -> Tensor:
        return x.mean((2, 3)).index_select(1, x.sum().long().reshape(1))

    path = save_program(tmp_path / "m.pt2", Calls(picks), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ModelError, match=r"m\.pt2: does not run on an image: .*out of"):
        outputs(path, np.full((1, 8, 8, 3), 100, np.float32))


def test_a_name_that_is_in_the_archive_twice_is_refused(run_folder: Path) -> None:
    """Two readers may take different ones of them."""
    buffer = io.BytesIO((run_folder / "model.pt2").read_bytes())
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(GRAPH, b"{}")
    with pytest.raises(ModelError, match="is in it twice"):
        checked_program(buffer.getvalue(), "theirs.pt2")


@pytest.mark.slow
def test_a_run_that_somebody_sent_runs_nothing(run_folder: Path, tmp_path: Path, sightline: Sightline) -> None:
    parts, run = parts_of(run_folder), tmp_path / "theirs"
    pickled_weight(parts, tmp_path / "it-ran")
    run.mkdir()
    for path in run_folder.iterdir():
        if path.is_file():
            (run / path.name).write_bytes(path.read_bytes())
    (run / "model.pt2").write_bytes(packed(parts))
    document = json.loads((run / "model.json").read_text())
    document["files"] |= file_table({"model.pt2": packed(parts)})
    (run / "model.json").write_bytes(seal(document))
    done = sightline("convert", run, "--device", "desktop", "--out", tmp_path / "c.bundle")
    assert done.returncode == 2 and "is not opened: it could run anything here" in done.stderr
    assert not (tmp_path / "it-ran").exists()
