"""Metadata read back, of our own files, of other people's, and of damaged ones."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.tflite.graph import pack, unpack
from converters.tflite.metadata_writer import with_metadata
from sightline.errors import ModelError
from sightline.flatbuffer import Table
from sightline.output_spec import OutputSpec
from sightline.preprocess import InputSpec
from sightline.tflite_metadata import Metadata, read_metadata

IMAGENET = InputSpec(4, 6, mean=(123.5, 116.25, 103.75), std=(58.5, 57.0, 57.5))  # exact in float32


def empty_model() -> bytes:
    """A .tflite without a graph: all that is in it is metadata."""
    model = schema.ModelT()
    model.version, model.buffers, model.subgraphs, model.operatorCodes = 3, [schema.BufferT()], [], []
    return pack(model)


def model(labels: tuple[str, ...] = ("a", "b"), spec: InputSpec = IMAGENET) -> bytes:
    return with_metadata(
        empty_model(), name="name", version="7", input=spec, output=OutputSpec("classify", "none", labels)
    )


def packed(content: bytes) -> tuple[int, int]:
    """(place, size) of the metadata's FlatBuffer in the file."""
    return Table.root(content, b"TFL3").item(4, 1).vector(0, 1)


def test_all_of_it_comes_back() -> None:
    read = read_metadata(model())
    assert read == Metadata(
        "name", "Image classifier of 2 classes, converted by Sightline.", "7", ("a", "b"), IMAGENET.mean, IMAGENET.std
    )


@pytest.mark.parametrize(
    "labels",
    [
        ("one",),
        ("tench, Tinca tinca", "jack-o'-lantern", '"quoted"', "semi;colon\ttab"),
        ("grün", "日本語", "emoji 🦊", "e\u0301", "\u200f"),
        ("PK\x05\x06 end", "TFLITE_METADATA", "0", "???"),
        tuple(f"class {i}" for i in range(20_000)),
    ],
)
def test_labels_come_back_as_they_are(labels: tuple[str, ...]) -> None:
    read = read_metadata(model(labels))
    assert read is not None
    assert read.labels == labels


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=5, unique=True))
def test_whatever_is_a_label_comes_back(labels: list[str]) -> None:
    try:
        output = OutputSpec("classify", "softmax", tuple(labels))
    except ValueError:
        return
    read = read_metadata(with_metadata(empty_model(), name="n", version="1", input=IMAGENET, output=output))
    assert read is not None
    assert read.labels == tuple(labels)


def test_a_model_without_metadata_has_none() -> None:
    assert read_metadata(empty_model()) is None
    other = schema.MetadataT()
    other.name, other.buffer = "min_runtime_version", 0
    objects = unpack(empty_model())
    objects.metadata = [other]
    assert read_metadata(pack(objects)) is None


def archived(content: bytes, file: str, data: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """The model with another archive after it, in the way of other tools."""
    buffer = io.BytesIO(content[: content.index(b"PK\x03\x04")])
    with zipfile.ZipFile(buffer, "a", method) as archive:
        archive.writestr(file, data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "labels"),
    [
        (b"a\r\nb\r\n", ("a", "b")),
        (b"a\nb", ("a", "b")),
        (b"???\n\nb\n", ("???", "", "b")),  # an empty line is an output without a name: those after it stay in place
    ],
)
def test_label_files_of_other_tools_are_read(data: bytes, labels: tuple[str, ...]) -> None:
    read = read_metadata(archived(model(), "labels.txt", data))
    assert read is not None
    assert read.labels == labels


@pytest.mark.parametrize(
    ("file", "data", "method", "why"),
    [
        ("other.txt", b"a\n", zipfile.ZIP_DEFLATED, "it names 'labels.txt', which is not in the file's archive"),
        ("labels.txt", b"\xff\n", zipfile.ZIP_DEFLATED, "'utf-8' codec can't decode"),
        ("labels.txt", b"a\n", zipfile.ZIP_LZMA, "compressed by method 14"),
        ("labels.txt", b"\n" * (17 << 20), zipfile.ZIP_DEFLATED, "'labels.txt' is larger than 16 MiB"),
    ],
)
def test_label_files_that_cannot_be_read_say_why(file: str, data: bytes, method: int, why: str) -> None:
    with pytest.raises(ModelError, match=f"x.tflite: its metadata cannot be read: .*{why}"):
        read_metadata(archived(model(), file, data, method), "x.tflite")


def test_a_missing_archive_is_an_error() -> None:
    content = model()
    with pytest.raises(ModelError, match=r"the archive with 'labels\.txt' is damaged or missing"):
        read_metadata(content[: content.index(b"PK\x03\x04")])


@pytest.mark.parametrize("content", [b"", b"TFL3", b"\0\0\0\0TFL2", b"PK\x03\x04 a zip", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(ModelError, match=r"x\.tflite: not a \.tflite file"):
        read_metadata(content, "x.tflite")


def changed(content: bytes, at: int, form: str, *values: float) -> bytes:
    data = bytearray(content)
    struct.pack_into(form, data, at, *values)
    return bytes(data)


@pytest.mark.parametrize(
    ("form", "values", "why"),
    [
        ("<f", (float("nan"),), "must be finite"),
        ("<f", (float("inf"),), "must be finite"),
        ("<f", (0.0,), "deviations above 0"),
        ("<f", (-1.0,), "deviations above 0"),
    ],
)
def test_a_normalization_that_nothing_can_compute_is_refused(form: str, values: tuple[float, ...], why: str) -> None:
    content = model()
    at = content.index(struct.pack("<I3f", 3, *IMAGENET.std)) + 4
    with pytest.raises(ModelError, match=why):
        read_metadata(changed(content, at, form, *values))


def test_one_value_stands_for_all_channels_and_two_for_none() -> None:
    content = model()
    for values in (IMAGENET.mean, IMAGENET.std):
        content = changed(content, content.index(struct.pack("<I3f", 3, *values)), "<I", 1)
    read = read_metadata(content)
    assert read is not None
    assert (read.mean, read.std) == ((123.5,) * 3, (58.5,) * 3)
    for count, why in ((2, "1 means and 2 deviations"), (0, "1 means and 0 deviations")):
        at = content.index(struct.pack("<I3f", 1, *IMAGENET.std))
        with pytest.raises(ModelError, match=rf"{why}\. There must be 1 or 3 of each"):
            read_metadata(changed(content, at, "<I", count))


def test_another_schema_is_refused() -> None:
    content = model()
    start, _ = packed(content)
    with pytest.raises(ModelError, match="its identifier is b'M002', not b'M001'"):
        read_metadata(content[: start + 4] + b"M002" + content[start + 8 :])


def test_a_vector_that_claims_to_be_huge_is_refused_at_once() -> None:
    """The same table a million times over would be read for minutes."""
    content = model() + bytes(8 << 20)
    root = Table.root(content, b"TFL3")
    start, count = root.vector(6, 4)
    assert count == 1
    with pytest.raises(ModelError, match="1000000 tables at byte"):
        read_metadata(changed(content, start - 4, "<I", 1_000_000))


@settings(max_examples=300)
@given(st.data())
def test_damaged_files_are_read_or_refused(data: st.DataObject) -> None:
    """Whatever is overwritten, with whatever, wherever the file ends: an answer or a ModelError, in time."""
    content = bytearray(model())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 4))
        number = data.draw(st.one_of(st.integers(0, 2**32 - 1), st.integers(0, len(content))))
        struct.pack_into("<I", content, at, number)
    end = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    try:
        read_metadata(bytes(content[:end]))
    except ModelError as e:
        assert str(e).startswith("model: ")


def test_the_damage_of_that_test_is_noticed() -> None:
    """Most single bytes of the FlatBuffers and the archive matter: were they ignored, nothing would be tested."""
    content = model()
    whole, outcomes = read_metadata(content), []
    for at in range(len(content)):
        try:
            outcomes.append(read_metadata(content[:at] + bytes([content[at] ^ 0x80]) + content[at + 1 :]) == whole)
        except ModelError:
            outcomes.append(False)
    assert 0.3 < 1 - sum(outcomes) / len(outcomes) < 1.0
