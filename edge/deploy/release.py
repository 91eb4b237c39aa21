"""What lies on a device for one deployment: the model, the files that its options name, and the unit that runs it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge.deploy.preflight import DeviceFacts
from edge.deploy.ssh import Device
from edge.system.run_arguments import LOCAL, device_of, files_of, has_page, has_ribbon_camera, replace_file, settings_of
from edge.system.systemd_unit import Unit
from sightline.bundle import Bundle
from sightline.device import load_device
from sightline.errors import ConfigError

Wheels = Literal["auto", "index", "carry"]
PAGE_PORT = 8480
SERVICES = "services"  # of ~/.sightline: no name of a deployment is that of another folder there


@dataclass(frozen=True)
class ReleaseSpec:
    """What shall run. options: of `sightline run`, for this device. env_file: its content. trial_s: seconds of each
    of the benchmark's five rounds; 0 = the self-test alone. new_token: of the page, in place of the one that is there.
    """

    bundle: Bundle
    name: str
    options: tuple[str, ...] = ()
    env_file: bytes | None = None
    wheels: Wheels = "auto"
    trial_s: float = 1.0
    new_token: bool = False


def make_release(
    found: DeviceFacts, base: str, environment: str, wanted: ReleaseSpec, options: tuple[str, ...], port: str | None
) -> tuple[str, dict[str, bytes]]:
    """Its id, a name of its content, and its files. port: of its page, which no other deployment shall take."""
    ribbon = has_ribbon_camera(options)
    files, options = _carried(options)
    bundle = wanted.bundle
    place = place_of(bundle)
    files |= model_files(bundle)
    if wanted.env_file is not None:
        files["env"] = wanted.env_file
    if port:
        files["port"] = f"{port}\n".encode()
    content = hashlib.sha256(repr((environment, options, sorted(files.items()))).encode())
    release = f"{bundle.manifest.version}-{content.hexdigest()[:12]}"
    folder = f"{base}/{SERVICES}/{wanted.name}/{release}"
    edgetpu = load_device(device_of(options, bundle))[1].delegate == "edgetpu"
    unit = Unit(
        name=wanted.name,
        command=(
            f"{base}/environments/{environment}/bin/sightline",
            "run",
            f"{folder}/{place}",
            *(option.replace(_HERE, f"{folder}/") for option in options),
        ),
        reads=(Path(folder),),
        user=found.user,
        groups=("video", "plugdev") if edgetpu and "plugdev" in found.groups else ("video",),
        env_file=Path(f"{folder}/env") if wanted.env_file is not None else None,
        edgetpu=edgetpu,
        ribbon=ribbon,
    )
    return release, {**files, "unit.service": unit.text.encode()}


def model_files(bundle: Bundle, folder: str = "") -> dict[str, bytes]:
    """{path: content}, each path after `folder`: of a bundle, or of the bare model that it is made of."""
    place = f"{folder}{place_of(bundle)}"
    if not bundle.path.is_dir():
        return {place: bundle.contents[bundle.path.name]}
    manifest = (bundle.path / "manifest.json").read_bytes()
    return {f"{place}/{name}": data for name, data in {**bundle.contents, "manifest.json": manifest}.items()}


def place_of(bundle: Bundle) -> str:
    """What it is called on the device."""
    return f"{bundle.manifest.name}.bundle" if bundle.path.is_dir() else bundle.path.name


_HERE = "\0release/"  # what stands for the release's folder, whose name is not known before its content is


def _carried(options: tuple[str, ...]) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The files that options name, and the options with their places on the device."""
    files: dict[str, bytes] = {}
    placed = list(options)
    for i, name, value in files_of(options):
        path = Path(value)
        kept = f"files/{name.removeprefix('--')}{path.suffix}"
        try:
            files[kept] = path.read_bytes()
        except OSError as e:
            raise ConfigError(f"{name} {path}: cannot be read: {e.strerror}") from None
        placed[i] = replace_file(options[i], _HERE + kept)
    return files, tuple(placed)


@dataclass(frozen=True)
class PageOptions:
    """Of the live page. options: to be added to those that are given. token: whether one has to be made for it.
    local: it answers on the device alone. port: None = there is no page."""

    options: tuple[str, ...]
    token: bool
    local: bool
    port: str | None
    tls: bool

    def address(self, device: Device) -> str:
        """For people; '' where there is none."""
        if self.port is None:
            return ""
        scheme = "https" if self.tls else "http"
        if self.local:
            tunnel = f"ssh -L {self.port}:127.0.0.1:{self.port} {device.to}"
            return f"{scheme}://127.0.0.1:{self.port}/ through {tunnel}"
        return f"{scheme}://{device.host}:{self.port}/"


def page_of(options: tuple[str, ...], taken: tuple[int, ...]) -> PageOptions:
    """Open to the network, behind a token, unless the options, or those in agent.yaml, say something else of it."""
    if not has_page(options):
        return PageOptions((), False, True, None, False)
    given = settings_of(options, "page-address", "page-port", "page-cert", "page-token-file")
    more: tuple[str, ...] = ()
    if "page-address" not in given:
        given["page-address"] = "0.0.0.0"
        more += ("--page-address", "0.0.0.0")
    if "page-port" not in given:
        given["page-port"] = str(next(port for port in range(PAGE_PORT, 65536) if port not in taken))
        more += ("--page-port", given["page-port"])
    if given["page-port"] == "0":
        raise ConfigError("--page-port 0: a page that is to be found needs a port that stays")
    local = given["page-address"] in LOCAL
    return PageOptions(
        more, not local and "page-token-file" not in given, local, given["page-port"], "page-cert" in given
    )
