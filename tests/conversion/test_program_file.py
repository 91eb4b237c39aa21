"""A .pt2 is data: what would run when torch opens it is refused, and does not run."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from converters.torch_source import open_program
from sightline.errors import ModelError
from sightline.files import file_table, seal
from sightline.program_file import checked_program
from tests.conftest import SIZE, Sightline

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
    "a function of Python": (call("torch.os.system"), "'torch.os.system', which is no op"),
    "a library": (call("torch.ops.load_library.x"), "which is no op"),
    "a method of an op": (call("torch.ops.aten.conv2d.__class__"), "which is no op"),
    "an operator that calls": (call("_operator.methodcaller"), "which is no op"),
    "an expression": (
        graph(lambda d: d["range_constraints"].update(a={"expr_str": "().__class__.__base__"})), "has the expression"),
    "a name that is source": (graph(rename_input), "has arguments called"),
    "a type that imports": (graph(spec_of), "takes or gives a 'collections.defaultdict'"),
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


def test_a_name_that_is_in_the_archive_twice_is_refused(run_folder: Path) -> None:
    """Two readers may take different ones of them."""
    buffer = io.BytesIO((run_folder / "model.pt2").read_bytes())
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(GRAPH, b"{}")
    with pytest.raises(ModelError, match="is in it twice"):
        checked_program(buffer.getvalue(), "theirs.pt2")


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
