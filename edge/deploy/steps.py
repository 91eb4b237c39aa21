"""Deploy to one device, and remove a deployment again: a flat list of steps.

Every step that can fail runs before the previous agent stops.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from edge.deploy.payload import WHEEL, Payload, Platform
from edge.deploy.preflight import DeviceFacts, check, check_rights, gather_facts, parse_reply
from edge.deploy.release import SERVICES, ReleaseSpec, Wheels, make_release, model_name, page_options
from edge.deploy.ssh import Device, StepError
from edge.inference.self_test import Trial
from edge.system.benchmark_report import BenchmarkReport
from edge.system.hardware import Accelerator, Camera, Hardware
from edge.system.run_arguments import device_of, has_ribbon_camera, has_source, unencrypted_warnings, value_of
from edge.system.systemd_unit import check_unit_name
from edge.web.auth import make_token
from sightline.device_config import load_device
from sightline.errors import ConfigError, DeviceError

FREE_MB = 500  # MiB of free space that an environment needs while it is made
_PIP_FAILED = 4  # exit code of device.sh

OnStep = Callable[[str, str], None]  # called after a step with its title and its result

_SERVICE_TEXT = {
    "new": "installed and started. It starts at every boot",
    "changed": "replaced and restarted",
    "same": "unchanged",
}


@dataclass(frozen=True)
class Outcome:
    """The result for one device.

    to: the device's address.
    name: name of the deployment.
    service: 'new', 'changed', 'same', 'removed' or 'nothing' (there was nothing to remove); '' = failed.
    page: address of the live page; '' = none.
    token: the live page's token, if it is new.
    status: the agent's own status line.
    bench: result of the self-test and the benchmark on the device. None = they did not run.
    error: why it failed, and what runs on the device now; '' = it did not fail.
    exit_code: 0, or that of the error.
    """

    to: str
    name: str
    service: str = ""
    page: str = ""
    token: str = ""
    status: str = ""
    bench: BenchmarkReport | None = None
    error: str = ""
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        """One JSON object with these fields."""
        document = {field.name: getattr(self, field.name) for field in fields(self)}
        return document | {"bench": self.bench.to_json() if self.bench else None}


class NotStarted(DeviceError):
    """The new agent did not start.

    token: the live page's token, if it is new. It is in force all the same.
    """

    def __init__(self, message: str, token: str) -> None:
        super().__init__(message)
        self.token = token


def deploy(device: Device, spec: ReleaseSpec, payload: Payload, on_step: OnStep) -> Outcome:
    """Install and start a release.

    Raises ConfigError and DeviceError. Then the previous agent runs on; the error names it if it was restarted.
    """
    facts = gather_facts(device, spec.name)
    on_step("device", str(facts))
    check(facts, device.to, spec.name)
    environment = make_environment(device, facts, _needs_picamera(facts, spec), spec.wheels, payload, on_step)
    page = page_options(spec.options, facts.ports)
    options = (*_add_source(device, environment, spec, on_step), *page.options)
    base = f"{facts.home}/.sightline"
    if page.token:
        options += ("--page-token-file", f"{base}/{SERVICES}/{spec.name}/page-token")
    for warning in unencrypted_warnings(options):
        on_step("warning", warning)
    release, files = make_release(facts, base, environment, spec, options, page.port)
    device.step("release", spec.name, release, environment, files=files)
    on_step("model", f"{spec.bundle.manifest.name} {spec.bundle.manifest.version}, copied and verified by its hashes")
    bench = try_on_device(device, environment, spec, release, options)
    on_step("self-test", _verdict(bench))
    token = _send_token(device, spec) if page.token else ""
    try:
        reply = parse_reply(device.step("activate", spec.name, release, "restart" if token else ""))
    except DeviceError as e:
        raise NotStarted(str(e), token) from None
    finally:
        if token:
            on_step("token", f"{token}   (for the live page; shown only once)")
    device.step("sweep", spec.name)
    on_step("service", f"sightline-{spec.name}.service: {_SERVICE_TEXT[reply['service']]}")
    on_step("status", reply["status"])
    address = page.address(device)
    on_step("live page", address or "none")
    return Outcome(device.to, spec.name, reply["service"], address, token, reply["status"], bench)


def remove(device: Device, name: str, on_step: OnStep) -> Outcome:
    """Remove the service, its state, the model and, unless another deployment needs it, Sightline itself."""
    check_unit_name(name)
    facts = gather_facts(device, name)
    check_rights(facts, device.to, name)
    result = device.step("remove", name).strip()
    on_step("service", f"sightline-{name}.service: " + ("nothing to remove" if result == "nothing" else "removed"))
    return Outcome(device.to, name, result)


def make_environment(
    device: Device, facts: DeviceFacts, picamera: bool, wheels: Wheels, payload: Payload, on_step: OnStep
) -> str:
    """Returns the id of an environment with exactly this Sightline, and makes it if the device does not have it.

    picamera: the environment must see Debian's packages.
    Raises DeviceError.
    """
    platform = Platform(facts.version, facts.machine)
    # Debian's picamera2 has modules that were compiled for Debian's numpy
    requirements = ("numpy<2",) if picamera and facts.numpy.startswith("1.") else ()
    digest = hashlib.sha256(payload.sightline + repr((platform, picamera, requirements)).encode()).hexdigest()
    environment = f"python{facts.version}-{digest[:12]}"
    if environment in facts.environments:
        on_step("installed", "unchanged")
        return environment
    if facts.free_mb < FREE_MB:
        raise DeviceError(f"{device.to}: {facts.free_mb} MB are free, and the environment needs {FREE_MB} MB")
    version = WHEEL.removesuffix("-py3-none-any.whl")
    own_files = {WHEEL: payload.sightline, "pip.zip": payload.pip}
    arguments = ("environment", environment, facts.python, "yes" if picamera else "no")
    if wheels != "carry":
        try:
            device.step(*arguments, "index", *requirements, files=own_files)
            on_step("installed", f"{version}, its dependencies from the device's index")
            return environment
        except StepError as e:
            if e.code != _PIP_FAILED or wheels == "index":
                raise
            on_step("installing", "the device reaches no index, so the wheels are copied from this machine")
    copied = payload.wheels(platform, requirements)
    device.step(*arguments, "carried", *requirements, files={**own_files, **copied})
    size_mb = sum(map(len, copied.values())) / 1e6
    on_step("installed", f"{version}, {len(copied)} wheels ({size_mb:.0f} MB) copied from this machine")
    return environment


def _needs_picamera(facts: DeviceFacts, spec: ReleaseSpec) -> bool:
    """Whether the agent uses a ribbon-cable camera. Only then its environment sees Debian's packages."""
    requested = has_ribbon_camera(spec.options)
    if requested and not facts.picamera2:
        raise DeviceError("picamera2 is not installed on the device: sudo apt install -y python3-picamera2")
    return facts.picamera2 and (requested or bool(facts.ribbon and not has_source(spec.options)))


def _read_hardware(device: Device, environment: str) -> Hardware:
    output = device.step("call", environment, "sightline", "devices", "--json")
    document = json.loads(output.splitlines()[-1])["machine"]
    return Hardware(
        **{
            **document,
            "cameras": tuple(Camera(**camera) for camera in document["cameras"]),
            "accelerators": tuple(Accelerator(**accelerator) for accelerator in document["accelerators"]),
        }
    )


def _add_source(device: Device, environment: str, spec: ReleaseSpec, on_step: OnStep) -> tuple[str, ...]:
    """The options; if they name no camera, with the device's only camera as --source."""
    hardware = _read_hardware(device, environment)
    for problem in hardware.problems:
        on_step("problem", problem)
    for accelerator in hardware.accelerators:
        on_step("accelerator", f"{accelerator.name} {accelerator.problem}".strip())
    config = device_of(spec.options, spec.bundle)
    if load_device(config)[1].delegate != "edgetpu" and config != hardware.device:
        fitting = hardware.device
        on_step("note", f"it runs as {config}, but {hardware.board} is a {fitting}. Pass: -- --device {fitting}")
    if has_source(spec.options):
        return spec.options
    usable = [camera for camera in hardware.cameras if not camera.problem]
    if len(usable) == 1:
        on_step("camera", f"{usable[0].name}: --source {usable[0].source}")
        return ("--source", usable[0].source, *spec.options)
    listing = "".join(f"\n  -- --source {c.source}   {c.name} {c.problem}" for c in hardware.cameras)
    reason = (
        "the device has several cameras. Choose one:"
        if usable
        else "the device has no usable camera. Name a source, such as rtsp://..:"
    )
    raise ConfigError(f"{device.to}: {reason}{listing or ' -- --source ADDRESS'}")


def try_on_device(
    device: Device, environment: str, spec: ReleaseSpec, release: str, options: tuple[str, ...]
) -> BenchmarkReport:
    """Run the self-test and the benchmark with the installed release on the device. Raises DeviceError."""
    path = f"{SERVICES}/{spec.name}/{release}/{model_name(spec.bundle)}"
    config = device_of(options, spec.bundle)
    scheme = value_of(options, "--scheme")
    if spec.trial_s:
        # the agent that runs meanwhile makes the rounds differ, which is shown and must not stop the deployment
        command = ["sightline", "bench", path, "--device", config, "--seconds", f"{spec.trial_s:g}"]
        command += ["--noise", "1000", "--json", *(("--scheme", scheme) if scheme else ())]
    else:
        command = ["edge.inference.self_test", path, config, scheme or "", "0"]
    document = json.loads(device.step("call", environment, *command).splitlines()[-1])
    if document.get("error"):
        raise DeviceError(f"{device.to}: {document['error']}")
    if spec.trial_s:
        report = BenchmarkReport.from_json(document)
    else:
        report = BenchmarkReport("", config, load_device(config)[1].latency_budget_ms, Trial(**document))
    if report.trial.sha256 != spec.bundle.variant(report.trial.scheme)[2].sha256:
        raise DeviceError(f"{device.to}: the model on the device differs from the model on this machine. Deploy again")
    return report


def _send_token(device: Device, spec: ReleaseSpec) -> str:
    """Store a new token for the live page, which the agent reads when it starts. Returns '' if the old one stays."""
    token, document = make_token()
    mode = "replace" if spec.new_token else "keep"
    reply = device.step("token", spec.name, mode, text=document).strip()
    return "" if reply == "kept" else token


def _verdict(report: BenchmarkReport) -> str:
    trial = report.trial
    text = f"passed: {trial.scheme}, golden samples match"
    if not report.figures:
        return f"{text}, {trial.p50_ms:.1f} ms an inference"
    (figures,) = report.figures
    return (
        f"{text}; {figures.model_ms:.1f} ms an inference, {figures.whole_ms:.1f} ms ±{figures.whole_spread:.0%} a "
        f"frame (budget {report.latency_budget_ms} ms), {trial.rss_mb:.0f} MB, {report.cold_start_ms:.0f} ms to start"
    )
