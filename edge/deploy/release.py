"""A release: the model, the files that its options name, and the unit, as they lie on a device."""

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
from sightline.device_config import load_device
from sightline.errors import ConfigError

Wheels = Literal["auto", "index", "carry"]
PAGE_PORT = 8480  # first port that is tried for the live page
# Folder of the deployments below ~/.sightline. A folder of their own: one may be called `environments`.
SERVICES = "services"


@dataclass(frozen=True)
class ReleaseSpec:
    """What one device must run.

    name: name of the deployment.
    options: options of `sightline run` for this device.
    env_file: content of the file with passwords. None = no file.
    wheels: where the device's wheels come from: its own index, this machine (`carry`), or `auto`.
    trial_s: seconds of each of the benchmark's 5 rounds. 0 = only the self-test.
    new_token: replace the live page's token.
    """

    bundle: Bundle
    name: str
    options: tuple[str, ...] = ()
    env_file: bytes | None = None
    wheels: Wheels = "auto"
    trial_s: float = 1.0
    new_token: bool = False


def make_release(
    facts: DeviceFacts, base: str, environment: str, spec: ReleaseSpec, options: tuple[str, ...], port: str | None
) -> tuple[str, dict[str, bytes]]:
    """Returns the release's id, which depends on its content, and its files as {path: content}.

    base: the folder ~/.sightline on the device.
    environment: id of the virtual environment.
    options: all options of `sightline run`.
    port: port of the live page, which no other deployment may take. None = no page.
    """
    ribbon = has_ribbon_camera(options)
    files, options = _option_files(options)
    bundle = spec.bundle
    files |= model_files(bundle)
    if spec.env_file is not None:
        files["env"] = spec.env_file
    if port:
        files["port"] = f"{port}\n".encode()
    digest = hashlib.sha256(repr((environment, options, sorted(files.items()))).encode()).hexdigest()
    release = f"{bundle.manifest.version}-{digest[:12]}"
    folder = f"{base}/{SERVICES}/{spec.name}/{release}"
    edgetpu = load_device(device_of(options, bundle))[1].delegate == "edgetpu"
    unit = Unit(
        name=spec.name,
        command=(
            f"{base}/environments/{environment}/bin/sightline",
            "run",
            f"{folder}/{model_name(bundle)}",
            *(option.replace(_RELEASE_FOLDER, f"{folder}/") for option in options),
        ),
        reads=(Path(folder),),
        user=facts.user,
        groups=("video", "plugdev") if edgetpu and "plugdev" in facts.groups else ("video",),
        env_file=Path(f"{folder}/env") if spec.env_file is not None else None,
        edgetpu=edgetpu,
        ribbon=ribbon,
    )
    return release, {**files, "unit.service": unit.text.encode()}


def model_files(bundle: Bundle, folder: str = "") -> dict[str, bytes]:
    """{path: content} of a bundle's files, or of a .tflite. `folder` is put before each path."""
    place = f"{folder}{model_name(bundle)}"
    if not bundle.path.is_dir():
        return {place: bundle.contents[bundle.path.name]}
    manifest = (bundle.path / "manifest.json").read_bytes()
    return {f"{place}/{name}": data for name, data in {**bundle.contents, "manifest.json": manifest}.items()}


def model_name(bundle: Bundle) -> str:
    """Name of the bundle's folder, or of the .tflite, on the device."""
    return f"{bundle.manifest.name}.bundle" if bundle.path.is_dir() else bundle.path.name


_RELEASE_FOLDER = "\0release/"  # placeholder: the folder's name depends on the content, and so on these options


def _option_files(options: tuple[str, ...]) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """{path: content} of the files that options name, and the options with their paths on the device.

    Raises ConfigError for a file that cannot be read.
    """
    files: dict[str, bytes] = {}
    arguments = list(options)
    for i, name, value in files_of(options):
        path = Path(value)
        remote_path = f"files/{name.removeprefix('--')}{path.suffix}"
        try:
            files[remote_path] = path.read_bytes()
        except OSError as e:
            raise ConfigError(f"{name} {path}: cannot read the file: {e.strerror}") from None
        arguments[i] = replace_file(options[i], _RELEASE_FOLDER + remote_path)
    return files, tuple(arguments)


@dataclass(frozen=True)
class PageOptions:
    """How the live page is served.

    options: options of `sightline run` to add.
    token: it needs a token that deploy makes.
    local: only the device itself can reach it.
    port: None = there is no page.
    tls: it is served over HTTPS.
    """

    options: tuple[str, ...]
    token: bool
    local: bool
    port: str | None
    tls: bool

    def address(self, device: Device) -> str:
        """The page's address as text; '' = there is no page."""
        if self.port is None:
            return ""
        scheme = "https" if self.tls else "http"
        if self.local:
            tunnel = f"ssh -L {self.port}:127.0.0.1:{self.port} {device.to}"
            return f"{scheme}://127.0.0.1:{self.port}/ through {tunnel}"
        return f"{scheme}://{device.host}:{self.port}/"


def page_options(options: tuple[str, ...], taken: tuple[int, ...]) -> PageOptions:
    """Serve the page to the network with a token, unless the options or agent.yaml set something else.

    taken: ports of other deployments' pages.
    Raises ConfigError for a port that changes at each start.
    """
    if not has_page(options):
        return PageOptions((), False, True, None, False)
    settings = settings_of(options, "page-address", "page-port", "page-cert", "page-token-file")
    added: tuple[str, ...] = ()
    if "page-address" not in settings:
        settings["page-address"] = "0.0.0.0"
        added += ("--page-address", "0.0.0.0")
    if "page-port" not in settings:
        settings["page-port"] = str(next(port for port in range(PAGE_PORT, 65536) if port not in taken))
        added += ("--page-port", settings["page-port"])
    if settings["page-port"] == "0":
        raise ConfigError("--page-port 0: the port would change at each start. Pass a fixed port")
    local = settings["page-address"] in LOCAL
    token = not local and "page-token-file" not in settings
    return PageOptions(added, token, local, settings["page-port"], "page-cert" in settings)
