"""A bundle: the folder in which a converted model travels to a device. Every file is hashed.

NAME.bundle/
  manifest.json        the model's input and output, its metrics, and the hash of every other file
  NAME.SCHEME.tflite   one for each variant
  labels.txt           one label per line, in the order of the model's outputs
  golden.npz           inputs, and the outputs of each variant when it was measured
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.errors import InputError, ModelError
from sightline.files import (
    FileTable,
    checked_table,
    file_table,
    heal,
    read_verified,
    seal,
    unseal,
    write_file,
    write_folder,
)
from sightline.interpreter import Delegate, is_compiled
from sightline.output_spec import OutputSpec
from sightline.predictions import ModelId
from sightline.preprocess import InputSpec
from sightline.strict_config import read_record

SCHEMA = 2
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Manifest:
    """What a bundle states about its model.

    name, version: of the model.
    device: name of the device config for which it was converted.
    default: scheme of the variant that runs by default.
    input, output: what the model takes in and gives out.
    variants: {scheme: file}.
    metrics: {scheme: scores}, and `evidence` of devices. For people and reports.
    provenance: where the model comes from. For people and reports.
    """

    name: str
    version: str
    device: str
    default: str
    input: InputSpec
    output: OutputSpec
    variants: dict[str, str]
    metrics: dict[str, Any]
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        if not self.version.isprintable() or len(self.version) > 100:
            raise ValueError(f"version {self.version[:100]!r}: must be up to 100 printable characters")
        for scheme in self.variants:
            if not isinstance(self.metrics.get(scheme) or {}, dict):
                raise ValueError(f"metrics: {scheme} must be a mapping, not {self.metrics[scheme]!r:.100}")
        evidence = self.metrics.get("evidence", [])
        if not isinstance(evidence, list) or not all(isinstance(record, dict) for record in evidence):
            raise ValueError("metrics: evidence must be a list of mappings")
        check_provenance(self.provenance)


def check_provenance(provenance: Mapping[str, Any]) -> None:
    """Raise ValueError if a value that programs read has another type. The rest is for people."""
    for key, kind, name in (("recipe", dict, "mapping"), ("dataset", dict, "mapping"), ("assumed", list, "list")):
        if not isinstance(provenance.get(key, kind()), kind):
            raise ValueError(f"provenance: {key} must be a {name}, not {provenance[key]!r:.100}")
    if not all(isinstance(note, str) for note in provenance.get("assumed", [])):
        raise ValueError("provenance: assumed must be a list of strings")
    seed = provenance.get("recipe", {}).get("seed", 0)
    if not isinstance(seed, int) or abs(seed) >= 2**63:
        raise ValueError(f"provenance: the recipe's seed must be an integer, not {seed!r:.100}")


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files have all been read and verified.

    path: of its folder.
    files: hash and size of each file.
    contents: the bytes of each file.
    """

    path: Path
    manifest: Manifest
    files: FileTable
    contents: dict[str, bytes]

    def variant(self, scheme: str | None = None) -> tuple[str, bytes, ModelId]:
        """(scheme, .tflite bytes, identity) of a variant. scheme: None = the default one."""
        chosen = scheme or self.manifest.default
        if chosen not in self.manifest.variants:
            raise ModelError(f"{self.path}: no variant {chosen!r}. Its variants: {', '.join(self.manifest.variants)}")
        file = self.manifest.variants[chosen]
        identity = ModelId(self.manifest.name, self.manifest.version, self.files[file]["sha256"])
        return chosen, self.contents[file], identity

    def fitting(self, delegate: Delegate) -> str:
        """The scheme that runs by default on a device with this delegate.

        It is the default variant, or else the first one, that is compiled for the Edge TPU if and only if the delegate
        needs it. Raises ModelError if there is none.
        """
        on_edgetpu = delegate == "edgetpu"
        manifest = self.manifest
        for scheme in dict.fromkeys((manifest.default, *manifest.variants)):
            if is_compiled(self.contents[manifest.variants[scheme]]) == on_edgetpu:
                return scheme
        variants = f"its variants ({', '.join(manifest.variants)})"
        if on_edgetpu:
            raise ModelError(
                f"{self.path}: none of {variants} is compiled for the Edge TPU. Convert with --device coral_usb where "
                "edgetpu_compiler is installed, or run it on the CPU with --device desktop."
            )
        raise ModelError(
            f"{self.path}: all of {variants} are compiled for the Edge TPU. Run it with a --device that has one."
        )


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Write the whole bundle or nothing. It replaces an older bundle at `path`, but nothing else.

    files: the .tflite of each variant, and golden.npz. labels.txt and manifest.json are made here.

    Raises InputError if something else is at `path`.
    """
    check_bundle_path(path)
    check_name(manifest.name, str(path))
    # leaves out what a classifier does not have: a Sightline before detectors can read it too
    output = {k: v for k, v in dataclasses.asdict(manifest.output).items() if v or k in ("task", "activation")}
    labels = output.pop("labels")
    everything = {**files, "labels.txt": "".join(f"{label}\n" for label in labels).encode()}
    document = {
        "schema": SCHEMA,
        "name": manifest.name,
        "version": manifest.version,
        "device": manifest.device,
        "default": manifest.default,
        "input": dataclasses.asdict(manifest.input),
        "output": output,
        "variants": manifest.variants,
        "metrics": manifest.metrics,
        "provenance": manifest.provenance,
        "files": file_table(everything),
    }
    write_folder(path, {**everything, "manifest.json": seal(document)})


def add_evidence(path: Path, record: dict[str, Any]) -> None:
    """Write what a machine measured into the manifest of the bundle at `path`. No other file changes.

    It replaces the earlier record of the same machine, device and variant. Raises ModelError.

    record: JSON, with `machine`, `device` and `scheme`.
    """
    bundle = read_bundle(path)
    document = unseal(path / "manifest.json", "bundle", SCHEMA)
    keys = ("machine", "device", "scheme")
    others = [r for r in bundle.manifest.metrics.get("evidence", []) if any(r.get(k) != record[k] for k in keys)]
    document["metrics"] = {**bundle.manifest.metrics, "evidence": [*others, record]}
    write_file(path / "manifest.json", seal(document))


def name_of_new(out: Path) -> str:
    """The name of a bundle that will be written at `out`. Raises InputError early, before the work."""
    if out.suffix != ".bundle":
        raise InputError(f"{out}: the name of a bundle must end in .bundle. Pass --out {out.name}.bundle")
    check_bundle_path(out)
    name = out.name.removesuffix(".bundle")
    check_name(name, "--out")
    return name


def check_bundle_path(path: Path) -> None:
    """Raise InputError early for a path at which `write_bundle` would fail after the work."""
    if path.exists() and not (path / "manifest.json").is_file():
        raise InputError(f"{path}: exists and is not a bundle. Choose another --out.")


def check_name(name: str, where: str, error: type[InputError] = InputError) -> None:
    """Raise `error` if a model cannot have this name. where: the option or file that has it."""
    if not _NAME.fullmatch(name):
        raise error(
            f"{where}: the name {name[:120]!r} must start with a letter or digit and have at most 100 letters, "
            "digits, '.', '_' and '-'"
        )


def read_bundle(path: Path) -> Bundle:
    """Read and verify a bundle. Raises ModelError for an unknown key, a newer schema, or a missing or changed file."""
    heal(path)
    if not path.is_dir():
        what = "is a file, not a bundle folder" if path.is_file() else "no such bundle"
        raise ModelError(f"{path}: {what}. Make one with `sightline convert`.")
    document = unseal(path / "manifest.json", "bundle", SCHEMA)
    where = str(path / "manifest.json")
    table = checked_table(document, where)
    contents = {name: read_verified(path, table, name) for name in table}
    if "labels.txt" not in contents:
        raise ModelError(f"{where}: does not list labels.txt")
    try:
        labels = contents["labels.txt"].decode("utf-8").splitlines()
    except UnicodeDecodeError as e:
        raise ModelError(f"{path / 'labels.txt'}: not UTF-8 ({e.reason} at byte {e.start})") from None
    document = {k: v for k, v in document.items() if k not in ("schema", "files")}
    for key in ("input", "output"):
        if not isinstance(document.get(key), dict):
            raise ModelError(f"{where}: {key!r} is missing")
    document["input"] = read_record(InputSpec, document["input"], f"{where}: input", ModelError)
    document["output"] = read_record(
        OutputSpec, {**document["output"], "labels": labels}, f"{where}: output", ModelError
    )
    manifest = read_record(Manifest, document, where, ModelError)
    check_name(manifest.name, where, ModelError)
    for scheme, file in manifest.variants.items():
        if file not in table:
            raise ModelError(f"{where}: the file {file!r} of the variant {scheme} is not in its list of files")
    if manifest.default not in manifest.variants:
        raise ModelError(f"{where}: the default {manifest.default!r} is not one of its variants")
    return Bundle(path, manifest, table, contents)
