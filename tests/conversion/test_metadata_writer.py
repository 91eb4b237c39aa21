"""Metadata put into models: what they compute, and where their weights are, stays the same."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter as LiteRT

from converters.quantize.quantize import quantize
from converters.sources.base import DEFAULTS
from converters.sources.open import open_source
from converters.tflite.graph import pack, unpack
from converters.tflite.metadata_writer import with_metadata
from sightline.bundle import read_bundle
from sightline.errors import ModelError
from sightline.output_spec import OutputSpec
from sightline.preprocess import InputSpec
from sightline.tflite_metadata import read_metadata
from tests.conftest import LABELS, SIZE

SPEC = InputSpec(SIZE, SIZE)
OUTPUT = OutputSpec("classify", "softmax", LABELS)


def add(content: bytes, **changes: Any) -> bytes:
    return with_metadata(content, **{"name": "colours", "version": "1", "input": SPEC, "output": OUTPUT, **changes})


@pytest.fixture(scope="module")
def plain(run_folder: Path) -> bytes:
    """The float .tflite as litert-torch wrote it."""
    return open_source(run_folder, DEFAULTS).float_model


def outputs(content: bytes) -> list[np.ndarray[Any, Any]]:
    """Of four random inputs, raw."""
    interpreter = LiteRT(model_content=content)
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    rng, tensors = np.random.default_rng(0), []
    for _ in range(4):
        interpreter.set_tensor(entry["index"], rng.integers(0, 127, entry["shape"]).astype(entry["dtype"]))
        interpreter.invoke()
        tensors += [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]
    return tensors


def places(content: bytes) -> list[int]:
    """Where each buffer with data is, from the last multiple of 16."""
    model = schema.Model.GetRootAs(content, 0)
    tables = [model.Buffers(i)._tab for i in range(model.BuffersLength())]
    return [t.Vector(t.Offset(4)) % 16 for t in tables if t.Offset(4)]


def without(content: bytes, buffers: int) -> bytes:
    """The model's objects, less TFLITE_METADATA and all buffers but the first ones, written anew."""
    model = unpack(content)
    model.metadata = [m for m in model.metadata or [] if m.name != b"TFLITE_METADATA"]
    model.buffers = model.buffers[:buffers]
    return pack(model)


def check_unchanged(before: bytes, after: bytes) -> None:
    buffers = schema.Model.GetRootAs(before, 0).BuffersLength()
    assert without(before, buffers) == without(after, buffers), "graph, weights, signatures or other metadata differ"
    assert places(after) == [*places(before), 0]
    for mine, theirs in zip(outputs(before), outputs(after), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_every_variant_of_a_bundle_agrees_with_its_manifest(bundle: Path) -> None:
    opened = read_bundle(bundle)
    manifest = opened.manifest
    for scheme in ("static_int8", "float32"):
        read = read_metadata(opened.variant(scheme)[1])
        assert read is not None
        assert (read.name, read.version, read.labels) == (manifest.name, manifest.version, manifest.output.labels)
        assert (read.mean, read.std) == (manifest.input.mean, manifest.input.std)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["float32", "float16", "dynamic_int8"])
def test_the_model_is_the_same_to_the_bit(plain: bytes, scheme: Any) -> None:
    content = quantize(plain, scheme, {}, "per_channel")
    assert LiteRT(model_content=content).get_signature_list(), "a signature that could be lost"
    assert read_metadata(content) is None
    check_unchanged(content, add(content))


def test_a_model_of_any_length_and_alignment_keeps_it(plain: bytes) -> None:
    """Whatever follows the FlatBuffer, an older archive too, stays in the file and moves nothing."""
    for n in range(1, 18):
        after = add(plain + bytes(n))
        assert places(after) == [*places(plain), 0]
    check_unchanged(plain + bytes(5), add(plain + bytes(5)))


def test_only_the_metadata_is_added(plain: bytes) -> None:
    grown = len(add(plain)) - len(plain)
    assert grown < 1500
    more = tuple(f"{label} and more" for label in LABELS)
    again = len(add(plain, output=OutputSpec("classify", "softmax", more))) - len(plain)
    assert again - grown == 3 * len(" and more")


def test_the_same_model_gives_the_same_bytes_at_another_time(plain: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    now = add(plain)
    monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(2_345_678_901))
    assert add(plain) == now


def test_the_archive_is_stored_and_has_the_labels_alone(plain: bytes) -> None:
    output = OutputSpec("classify", "softmax", ("grün, hell", "日本語", "red"))
    with zipfile.ZipFile(io.BytesIO(add(plain, output=output))) as archive:
        (info,) = archive.infolist()
        assert (info.filename, info.compress_type) == ("labels.txt", zipfile.ZIP_STORED)
        assert archive.read(info).decode() == "grün, hell\n日本語\nred\n"
        assert archive.testzip() is None


def test_older_metadata_is_replaced_and_other_entries_stay(plain: bytes) -> None:
    names = [m.name for m in unpack(plain).metadata]
    assert b"min_runtime_version" in names
    first = add(plain, output=OutputSpec("classify", "none", ("x", "y", "z")), version="0")
    second = add(first)
    check_unchanged(plain, first)
    check_unchanged(first, second)
    read = read_metadata(second)
    assert read is not None
    assert (read.labels, read.version) == (LABELS, "1")
    assert [m.name for m in unpack(second).metadata] == [*names, b"TFLITE_METADATA"]
    with zipfile.ZipFile(io.BytesIO(second)) as archive:
        assert archive.namelist() == ["labels.txt"]


def newer(content: bytes) -> bytes:
    """A root that has an eleventh field."""
    builder = flatbuffers.Builder(64)
    builder.StartObject(11)
    builder.PrependUint8Slot(10, 1, 0)
    builder.Finish(builder.EndObject(), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (newer, "its root table has 11 fields; only 10 are known"),
        (
            lambda content: content[: len(content) // 2],
            "colours: metadata cannot be added to its .tflite: it refers to",
        ),
        (lambda content: b"not a model", "its identifier is b'a mo', not b'TFL3'"),
    ],
)
def test_a_model_that_cannot_be_moved_is_refused(plain: bytes, change: Callable[[bytes], bytes], why: str) -> None:
    with pytest.raises(ModelError, match=why):
        add(change(plain))
