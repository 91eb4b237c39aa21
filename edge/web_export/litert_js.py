"""LiteRT.js, which runs a .tflite in a browser: npm downloads one version, and its hashes are checked."""

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
# package: (name of its archive, the archive's sha512 in base64)
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
# the two builds that a page chooses from: with and without relaxed SIMD
BUILDS = ("litert_wasm_internal", "litert_wasm_compat_internal")


def runtime_files(folder: Path | None) -> dict[str, bytes]:
    """{name: content} of the files that a page needs.

    folder: with the two archives, for machines without a network; None = the cache, or a download into it.
    Raises ConfigError and DeviceError.
    """
    core, helper = (_members(_archive(package, folder)) for package in PACKAGES)
    index = core["package/dist/index.js"].decode()
    # a browser has no node_modules to resolve names in
    imported = 'from "@litertjs/wasm-utils"'
    if index.count(imported) != 1:
        raise DeviceError(f"LiteRT.js {VERSION}: unexpected content, the import of wasm-utils is missing")
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
            raise ConfigError(f"--runtime-dir {folder}: has no {name}. Get it with `npm pack {package}@{VERSION}`.")
        return _verified((folder / name).read_bytes(), digest, folder / name)
    cached = program_folder("cache", "--runtime-dir") / "litertjs" / name
    if cached.is_file():
        return _verified(cached.read_bytes(), digest, cached)
    npm = shutil.which("npm")
    if npm is None:
        raise ConfigError(
            f"npm is not installed, which downloads {package}. Run `apt install npm`. Or run "
            f"`npm pack {' '.join(f'{p}@{VERSION}' for p in PACKAGES)}` on another machine and pass --runtime-dir."
        )
    with tempfile.TemporaryDirectory() as work:
        npm_run = subprocess.run(
            [npm, "pack", "--silent", f"{package}@{VERSION}"], capture_output=True, text=True, cwd=work, timeout=300
        )
        if npm_run.returncode or not (Path(work) / name).is_file():
            reason = (npm_run.stderr.strip() or npm_run.stdout.strip()).splitlines()[-1:]
            raise DeviceError(f"{package} {VERSION} cannot be downloaded: {''.join(reason) or 'npm gave no reason'}")
        content = _verified((Path(work) / name).read_bytes(), digest, Path(name))
    write_file(cached, content)
    return content


def _verified(content: bytes, digest: str, where: Path) -> bytes:
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != digest:
        raise DeviceError(
            f"{where}: not the published LiteRT.js {VERSION} (sha512 differs). Delete the file, and try again."
        )
    return content


def _members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]
