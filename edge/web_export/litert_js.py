"""LiteRT.js: what runs a .tflite in a browser. Fetched by npm, of one version, and compared with hashes known here."""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from sightline.directories import program_folder
from sightline.errors import ConfigError, DeviceError
from sightline.files import write_file

VERSION = "2.5.3"
# package: (archive, its sha512 in base64)
PACKAGES = {
    "@litertjs/core": (
        f"litertjs-core-{VERSION}.tgz",
        "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
    ),
    "@litertjs/wasm-utils": (
        f"litertjs-wasm-utils-{VERSION}.tgz",
        "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
    ),
}
# the two builds that a page chooses from: with relaxed SIMD, and without
BUILDS = ("litert_wasm_internal", "litert_wasm_compat_internal")


def runtime_files(folder: Path | None) -> dict[str, bytes]:
    """{name: content} of what a page needs of it. folder: with the two archives, for machines without a network; else
    they are taken from the cache, or fetched into it. Raises ConfigError, DeviceError."""
    core, helper = (_members(_archive(package, folder)) for package in PACKAGES)
    index = core["package/dist/index.js"].decode()
    # a browser has no node_modules to look names up in
    imported = 'from "@litertjs/wasm-utils"'
    if index.count(imported) != 1:
        raise DeviceError(f"LiteRT.js {VERSION} is not as it was when this was written: its import is not found")
    files = {"litert.js": index.replace(imported, 'from "./wasm-utils.js"').encode()}
    files["wasm-utils.js"] = helper["package/dist/index.js"]
    for build in BUILDS:
        for ending in (".js", ".wasm"):
            files[build + ending] = core[f"package/wasm/{build}{ending}"]
    return files


def _archive(package: str, folder: Path | None) -> bytes:
    name, digest = PACKAGES[package]
    if folder is not None:
        if not (folder / name).is_file():
            raise ConfigError(
                f"--runtime-dir {folder}: has no {name}; where there is a network: npm pack {package}@{VERSION}"
            )
        return _checked((folder / name).read_bytes(), digest, folder / name)
    cached = program_folder("cache", "--runtime-dir") / "litertjs" / name
    if cached.is_file():
        return _checked(cached.read_bytes(), digest, cached)
    npm = shutil.which("npm")
    if npm is None:
        raise ConfigError(
            f"npm is not installed, and {package} is fetched by it: apt install npm; or, from a machine that has it, "
            f"`npm pack {' '.join(f'{p}@{VERSION}' for p in PACKAGES)}` and --runtime-dir"
        )
    with tempfile.TemporaryDirectory() as work:
        done = subprocess.run(
            [npm, "pack", "--silent", f"{package}@{VERSION}"], capture_output=True, text=True, cwd=work, timeout=300
        )
        if done.returncode or not (Path(work) / name).is_file():
            reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise DeviceError(f"{package} {VERSION} cannot be fetched: {''.join(reason) or 'npm gave no reason'}")
        content = _checked((Path(work) / name).read_bytes(), digest, Path(name))
    write_file(cached, content)
    return content


def _checked(content: bytes, digest: str, where: Path) -> bytes:
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != digest:
        raise DeviceError(
            f"{where}: is not LiteRT.js {VERSION} as it was published (sha512 differs); remove it, and try again"
        )
    return content


def _members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]
