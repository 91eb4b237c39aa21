"""A bundle is what was written, to the last byte, or it is refused by the name of what is wrong."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.bundle import Manifest, check_name, read_bundle, write_bundle
from sightline.errors import InputError, IntegrityError, ModelError
from sightline.files import file_table, seal, sha256
from sightline.npz import pack
from sightline.output_spec import OutputSpec
from sightline.preprocess import InputSpec

INT8, FLOAT = bytes(range(256)) * 4, bytes(reversed(range(256))) * 16
FILES = {
    "lamp.static_int8.tflite": INT8,
    "lamp.float32.tflite": FLOAT,
    "golden.npz": pack(frames=np.zeros((1, 8, 8, 3), np.uint8)),
}
MANIFEST = Manifest(
    name="lamp",
    version="20250101-0123abcd",
    device="desktop",
    default="static_int8",
    input=InputSpec(8, 8, "center_crop", "area", 0),
    output=OutputSpec("classify", "softmax", ("off", "glühend", "点灯")),
    variants={"static_int8": "lamp.static_int8.tflite", "float32": "lamp.float32.tflite"},
    metrics={"pictures": 12, "static_int8": {"accuracy": 0.9166666666666666, "parity": 1.2e-07}},
    provenance={"seed": 0, "git": None, "dataset": {"name": "Lämpchen"}},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "lamp.bundle", MANIFEST, FILES)
    return tmp_path / "lamp.bundle"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """A manifest as a wrong writer, or an attacker, would make it: changed, and properly sealed."""
    document = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    change(document)
    (path / "manifest.json").write_bytes(seal(document))


def test_a_bundle_is_read_back_as_it_was_written(path: Path) -> None:
    bundle = read_bundle(path)
    assert bundle.manifest == MANIFEST
    labels = "off\nglühend\n点灯\n".encode()
    assert bundle.contents == {**FILES, "labels.txt": labels}
    assert (path / "labels.txt").read_bytes() == labels
    assert bundle.files == file_table({**FILES, "labels.txt": labels})


def test_the_same_bundle_is_the_same_bytes(path: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "again.bundle", MANIFEST, dict(reversed(FILES.items())))
    assert tree(tmp_path / "again.bundle") == tree(path)


def test_a_variant_comes_with_the_hash_of_the_very_file(path: Path) -> None:
    bundle = read_bundle(path)
    scheme, content, identity = bundle.variant()
    assert (scheme, content, identity.sha256) == ("static_int8", INT8, sha256(INT8))
    assert (identity.name, identity.version) == (MANIFEST.name, MANIFEST.version)
    scheme, content, identity = bundle.variant("float32")
    assert (scheme, content, identity.sha256) == ("float32", FLOAT, sha256(FLOAT))
    with pytest.raises(ModelError, match=r"no variant 'float16'\. Its variants: static_int8, float32"):
        bundle.variant("float16")


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("name", [*FILES, "labels.txt"])
def test_one_flipped_bit_in_any_file_is_refused_by_the_files_name(path: Path, name: str, where: str) -> None:
    data = bytearray((path / name).read_bytes())
    data[{"first": 0, "middle": len(data) // 2, "last": -1}[where]] ^= 1
    (path / name).write_bytes(data)
    with pytest.raises(IntegrityError, match=rf"{name}: is not the file that was written"):
        read_bundle(path)


def test_one_flipped_bit_anywhere_in_the_manifest_is_refused(path: Path) -> None:
    """The schema is read before the seal, so that a newer bundle is called newer: damage right there may be called so.
    A flip that leaves the document's values as they are (in the 17th digit of a number) does no harm and may pass."""
    whole = (path / "manifest.json").read_bytes()
    schema_line = range(whole.index(b'"schema"'), whole.index(b"\n", whole.index(b'"schema"')))
    harmless = 0
    for i in range(len(whole)):
        damaged = bytearray(whole)
        damaged[i] ^= 1
        (path / "manifest.json").write_bytes(damaged)
        try:
            if json.loads(damaged) == json.loads(whole):
                harmless += 1
                continue
        except ValueError:
            pass
        with pytest.raises(ModelError if i in schema_line else IntegrityError, match=r"manifest\.json"):
            read_bundle(path)
    assert harmless < 5
    (path / "manifest.json").write_bytes(whole)
    read_bundle(path)


@pytest.mark.parametrize("name", [*FILES, "labels.txt"])
@pytest.mark.parametrize("change", ["cut", "longer", "missing"])
def test_a_cut_a_longer_and_a_missing_file_are_refused_by_name(path: Path, name: str, change: str) -> None:
    data = (path / name).read_bytes()
    if change == "missing":
        (path / name).unlink()
    else:
        (path / name).write_bytes(data[:-1] if change == "cut" else data + b"\n")
    with pytest.raises(IntegrityError, match=name):
        read_bundle(path)


def test_files_of_two_bundles_do_not_mix(path: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "other.bundle", dataclasses.replace(MANIFEST, version="2"), {**FILES, "golden.npz": b"2"})
    (path / "golden.npz").write_bytes((tmp_path / "other.bundle" / "golden.npz").read_bytes())
    with pytest.raises(IntegrityError, match=r"golden\.npz"):
        read_bundle(path)


def test_a_file_that_the_manifest_does_not_list_is_no_part_of_it(path: Path) -> None:
    (path / "lamp.float16.tflite").write_bytes(b"slipped in")
    assert "lamp.float16.tflite" not in read_bundle(path).contents


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(defualt="float32"), r"unknown key 'defualt' \(did you mean default\?\); the keys"),
        (lambda d: d["input"].update(hight=8), r"input: unknown key 'hight' \(did you mean height\?\)"),
        (lambda d: d["output"].update(scale=1), "output: unknown key 'scale'"),
        (lambda d: d.pop("version"), "missing key 'version'"),
        (lambda d: d.pop("input"), "'input' is missing"),
        (lambda d: d.pop("files"), "'files' must be a table"),
        (lambda d: d["input"].pop("width"), "input: missing key 'width'"),
        (lambda d: d["input"].update(width=0), "input: input of 0x8"),
        (lambda d: d["input"].update(filter="lanczos"), "'lanczos' is not one of pyramid, linear, area"),
        (lambda d: d["output"].update(task="count"), "'count' is not one of classify"),
        (lambda d: d.update(schema=3), r"written by a newer Sightline \(schema 3.*Upgrade with"),
        (lambda d: d.update(schema=1), r"written by an older Sightline \(schema 1.*Make the bundle again"),
        (lambda d: d.update(default="float16"), "default 'float16' is not one of its variants"),
        (
            lambda d: d["variants"].update(float16="lamp.float16.tflite"),
            "'lamp.float16.tflite' of the variant float16 is not in its list",
        ),
        (lambda d: d["variants"].update(float16=3), "variants: a mapping of texts to texts"),
        (lambda d: d["files"].pop("labels.txt"), r"does not list labels\.txt"),
        (lambda d: d.update(name="../lamp"), r"the name '\.\./lamp' must start with"),
        (lambda d: d.update(version="\x1b[31m"), "printable characters"),
        (lambda d: d.update(metrics="text"), "metrics: a mapping of texts is needed"),
        (lambda d: d["metrics"].update(float32="text"), "metrics: float32 must be a mapping, not 'text'"),
        (lambda d: d["metrics"].update(evidence={}), "metrics: evidence must be a list of mappings"),
        (lambda d: d["metrics"].update(evidence=[1]), "metrics: evidence must be a list of mappings"),
        (lambda d: d["provenance"].update(assumed=5), "provenance: assumed must be a list, not 5"),
        (lambda d: d["provenance"].update(assumed=[5]), "provenance: assumed must be a list of strings"),
        (lambda d: d["provenance"].update(recipe="r"), "provenance: recipe must be a mapping, not 'r'"),
        (lambda d: d["provenance"].update(recipe={"seed": "x"}), "seed must be an integer, not 'x'"),
        (lambda d: d["output"].update(threshold=float("nan")), "output: threshold: nan is not a finite number"),
        (lambda d: d["files"].update({"../x": d["files"]["golden.npz"]}), "'../x' is not the plain name"),
        (lambda d: d["files"].update({"/etc/passwd": d["files"]["golden.npz"]}), "'/etc/passwd' is not the plain name"),
    ],
)
def test_a_manifest_that_is_not_understood_to_the_last_key_is_refused(
    path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    rewrite(path, change)
    with pytest.raises(ModelError, match=message) as e:
        read_bundle(path)
    assert str(path / "manifest.json") in str(e.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"schema": 1, "name": "\\ud800"}', "damaged, not valid JSON"),
        (b"[" * 200_000, "it is nested too deep"),
        (b'{"schema": 1, "a": ' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
    ids=["half a surrogate", "nesting", "digits"],
)
def test_a_manifest_that_no_one_could_have_written_is_damaged(path: Path, content: bytes, message: str) -> None:
    (path / "manifest.json").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_bundle(path)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (b"off\noff\nlit\n", "two classes have the same label"),
        (b"", "the label list is empty"),
        (b"off\n\nlit\n", "must be one line"),
        (b" off\nlit\n", "without spaces at its ends"),
        (b"off\n\xff\xfe\n", r"labels\.txt"),
    ],
    ids=["twice the same", "none", "an empty one", "space around", "not UTF-8"],
)
def test_labels_that_cannot_be_are_refused(path: Path, labels: bytes, message: str) -> None:
    (path / "labels.txt").write_bytes(labels)
    rewrite(path, lambda d: d["files"].update(file_table({"labels.txt": labels})))
    with pytest.raises(ModelError, match=message):
        read_bundle(path)


def test_what_is_no_bundle_is_refused_with_the_way_to_make_one(tmp_path: Path, path: Path) -> None:
    with pytest.raises(ModelError, match=r"no such bundle\. Make one with `sightline convert`"):
        read_bundle(tmp_path / "absent.bundle")
    with pytest.raises(ModelError, match="is a file, not a bundle folder"):
        read_bundle(path / "golden.npz")
    with pytest.raises(ModelError, match=r"not a bundle: manifest\.json cannot be read"):
        read_bundle(tmp_path)


def test_a_folder_that_is_no_bundle_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "mine.jpg").write_bytes(b"precious")
    with pytest.raises(InputError, match="exists and is not a bundle"):
        write_bundle(folder, MANIFEST, FILES)
    assert tree(tmp_path) == {"pictures/mine.jpg": b"precious"}


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "lamp.bundle").write_bytes(b"precious")
    with pytest.raises(InputError, match="exists and is not a bundle"):
        write_bundle(tmp_path / "lamp.bundle", MANIFEST, FILES)
    assert tree(tmp_path) == {"lamp.bundle": b"precious"}


def test_an_older_bundle_is_replaced_with_all_its_files(path: Path) -> None:
    only = dataclasses.replace(MANIFEST, version="2", variants={"static_int8": "lamp.static_int8.tflite"})
    write_bundle(path, only, {k: v for k, v in FILES.items() if "float32" not in k})
    assert read_bundle(path).manifest.version == "2"
    assert not (path / "lamp.float32.tflite").exists()
    assert [p.name for p in path.parent.iterdir()] == ["lamp.bundle"]


@pytest.mark.parametrize("name", ["lamp", "Lamp-2.1_b", "7", "a" * 100])
def test_a_plain_name_is_taken(name: str) -> None:
    check_name(name, "--out")


@pytest.mark.parametrize("name", ["", ".lamp", "-lamp", "a b", "a/b", "../a", "ä", "a\n", "a" * 101])
def test_a_name_that_could_surprise_a_shell_or_a_url_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must start with a letter or digit"):
        check_name(name, "--out")
    with pytest.raises(InputError, match="must start with a letter or digit"):
        write_bundle(tmp_path / "new.bundle", dataclasses.replace(MANIFEST, name=name), FILES)
    assert tree(tmp_path) == {}
