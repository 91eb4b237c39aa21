"""Write TFLite Metadata into a .tflite, for `sightline.tflite_metadata` and other apps (MediaPipe, ML Kit).

The slots and numbers are those of metadata_schema.fbs (tflite-support) and of TFLite's own schema.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence

import flatbuffers
import numpy as np

from sightline.errors import ModelError
from sightline.flatbuffer import Table
from sightline.output_spec import OutputSpec
from sightline.preprocess import InputSpec
from sightline.tflite_metadata import ENTRY

_LABELS = "labels.txt"
_ALIGNMENT = 16  # bytes, of a buffer's position in the file: kernels read the weights in place
_SLOTS = 10  # fields of TFLite's root table, from `version` to `external_buffers`
_BUFFERS, _METADATA = 4, 6
_OUTPUTS = {
    "softmax": ("score", "One score per label. A softmax over the scores gives probabilities."),
    "sigmoid": ("score", "One score per label. A sigmoid of a score gives its probability."),
    "none": ("probability", "One probability per label."),
}
_KINDS = {"classify": "Image classifier", "detect": "Object detector"}


def with_metadata(content: bytes, *, name: str, version: str, input: InputSpec, output: OutputSpec) -> bytes:
    """Add TFLite Metadata to a .tflite of one input, and its labels in a ZIP archive at the end of the file.

    An older TFLITE_METADATA is replaced. Everything else keeps its bytes: the model moves as a whole, by a multiple of
    16 bytes, to make room. The same arguments give the same bytes. Raises ModelError.
    """
    try:
        model = _with_entry(content, _metadata(name, version, input, output))
    except ValueError as e:
        raise ModelError(f"{name}: metadata cannot be added to its .tflite: {e}") from None
    file = io.BytesIO()
    file.write(model)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        info = zipfile.ZipInfo(_LABELS, (1980, 1, 1, 0, 0, 0))
        info.create_system, info.external_attr = 3, 0o644 << 16  # the same on every system
        archive.writestr(info, "".join(f"{label}\n" for label in output.labels))
    return file.getvalue()


class _Builder(flatbuffers.Builder):  # type: ignore[misc]  # it has no types
    def table(self, references: Mapping[int, int], small: Mapping[int, int] | None = None) -> int:
        """Write a table. Returns its offset.

        references: {slot: offset}.
        small: {slot: number of one byte}.
        """
        small = small or {}
        self.StartObject(max((*references, *small), default=-1) + 1)
        for slot, offset in references.items():
            self.PrependUOffsetTRelativeSlot(slot, offset, 0)
        for slot, number in small.items():
            self.PrependUint8Slot(slot, number, 0)
        return int(self.EndObject())

    def vector(self, *offsets: int) -> int:
        self.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.PrependUOffsetTRelative(offset)
        return int(self.EndVector())

    def floats(self, values: Sequence[float]) -> int:
        return int(self.CreateNumpyVector(np.asarray(values, np.float32)))

    def text(self, text: str) -> int:
        return int(self.CreateString(text))


def _metadata(name: str, version: str, input: InputSpec, output: OutputSpec) -> bytes:
    """The schema's root, ModelMetadata."""
    b = _Builder(4096)
    # for int8 too the standard wants the normalisation of the image before it is quantized
    options = b.table({0: b.floats(input.mean), 1: b.floats(input.std)})
    stats = b.table({0: b.floats(input.values.max(axis=1).tolist()), 1: b.floats(input.values.min(axis=1).tolist())})
    image = b.table(
        {
            0: b.text("image"),
            1: b.text(f"RGB, {input.width}x{input.height} pixels; resized by {input.resize}, filter {input.filter}."),
            3: b.table({1: b.table({}, {0: 1})}, {0: 2}),  # Content: ImageProperties of RGB
            4: b.vector(b.table({1: options}, {0: 1})),  # ProcessUnit: NormalizationOptions
            5: stats,
        }
    )
    labels = b.table({0: b.text(_LABELS), 1: b.text("Labels, in the order of the scores.")}, {2: 2})
    outputs = [
        b.table(
            {
                0: b.text(title),
                1: b.text(description),
                3: b.table({1: b.table({})}, {0: 1}),  # Content: FeatureProperties
                **({6: b.vector(labels)} if labelled else {}),  # TENSOR_AXIS_LABELS
            }
        )
        for title, description, labelled in _described(output)
    ]
    graph = b.table({2: b.vector(image), 3: b.vector(*outputs)})
    model = b.table(
        {
            0: b.text(name),
            1: b.text(f"{_KINDS[output.task]} of {len(output.labels)} classes, converted by Sightline."),
            2: b.text(version),
            3: b.vector(graph),
            7: b.text("1.0.0"),  # the version of the schema that has all of these fields
        }
    )
    b.Finish(model, b"M001")
    return bytes(b.Output())


def _described(output: OutputSpec) -> list[tuple[str, str, bool]]:
    """(name, description, whether it has the labels) of each output."""
    if output.task == "classify":
        return [(*_OUTPUTS[output.activation], True)]
    described = []
    if output.decoder == "points":
        text = (
            f"One logit per label for each cell of {output.strides[0]}x{output.strides[0]} pixels. Objects are peaks."
        )
        return [("heat", text, True)]
    for stride in output.strides:
        cells = f"cell of {stride}x{stride} pixels"
        described.append(
            (f"logits_{stride}", f"One logit per label for each {cells}. A sigmoid gives the score.", True)
        )
        text = f"Distances from the centre of each {cells} to the left, top, right and bottom edge, in {stride} pixels."
        described.append((f"distances_{stride}", text, False))
    return described


def _with_entry(content: bytes, metadata: bytes) -> bytes:
    """The model with `metadata` as its entry TFLITE_METADATA.

    References in a FlatBuffer point forward only. So the new root goes before the old content and refers to the tables
    in it: no weight is unpacked, and 45 MB take as long as copying them.
    """
    old = Table.root(content, b"TFL3")
    if old.slots() > _SLOTS:
        raise ValueError(f"its root table has {old.slots()} fields; only {_SLOTS} are known")
    buffers = [old.item(_BUFFERS, i) for i in range(old.vector(_BUFFERS, 4)[1])]
    entries = [entry for entry in old.tables(_METADATA) if entry.text(0) != ENTRY]

    # a builder works from the end to the front and counts positions from the end: the old content comes first
    size = -(-len(content) // _ALIGNMENT) * _ALIGNMENT
    b = _Builder(size + len(metadata) + 4 * len(buffers) + 4096)
    b.CreateByteVector(content.ljust(size, b"\0"))
    b.Prep(_ALIGNMENT, len(metadata))
    buffer = b.table({0: b.CreateByteVector(metadata)})
    name = b.text(ENTRY)
    b.StartObject(2)
    b.PrependUint32Slot(1, len(buffers), 0)
    b.PrependUOffsetTRelativeSlot(0, name, 0)
    entry = b.EndObject()
    fields = {slot: size - target for slot in range(1, _SLOTS) if (target := old.target(slot)) is not None}
    fields[_BUFFERS] = b.vector(*(size - table.position for table in buffers), buffer)
    fields[_METADATA] = b.vector(*(size - table.position for table in entries), entry)
    b.StartObject(_SLOTS)
    b.PrependUint32Slot(0, old.number(0, "<I"), 0)
    for slot, offset in fields.items():
        b.PrependUOffsetTRelativeSlot(slot, offset, 0)
    b.Finish(b.EndObject(), b"TFL3")
    whole = bytearray(b.Output())
    moved = len(whole) - size
    for table in buffers:  # weights after the FlatBuffer are referred to by their position in the file
        place, offset = table.place(1), table.number(1, "<Q")
        if place is not None and offset > 1:
            struct.pack_into("<Q", whole, moved + place, offset + moved)
    return bytes(whole)
