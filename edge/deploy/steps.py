"""One device, from bare to streaming, and back: a flat row of steps. What may fail, fails while the old agent runs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edge.deploy.payload import WHEEL, Payload, Platform
from edge.deploy.preflight import DeviceFacts, answers, check, check_rights, gather_facts
from edge.deploy.release import SERVICES, ReleaseSpec, Wheels, make_release, page_of, place_of
from edge.deploy.ssh import Device, StepError
from edge.system.run_arguments import device_of, has_ribbon_camera, has_source, unencrypted_warnings, value_of
from edge.system.systemd_unit import check_unit_name
from edge.web.auth import make_token
from sightline.device import load_device
from sightline.errors import ConfigError, DeviceError

FREE_MB = 500  # of an environment while it is made
_PIP_FAILED = 4  # of device.sh


@dataclass(frozen=True)
class Outcome:
    """What became of a device. service: new, changed, same, removed or nothing. page: address. token: of the page, when
    it is new. error: why not; it says what runs there now. bench: as `sightline bench --json` says it."""

    to: str
    name: str
    service: str = ""
    page: str = ""
    token: str = ""
    status: str = ""
    bench: dict[str, Any] = dataclasses.field(default_factory=dict)
    error: str = ""
    exit_code: int = 0


Say = Callable[[str, str], None]  # a title and a text


class NotStarted(DeviceError):
    """token: of the page, when it is new: it is in force all the same."""

    def __init__(self, message: str, token: str) -> None:
        super().__init__(message)
        self.token = token


def deploy(device: Device, wanted: ReleaseSpec, payload: Payload, say: Say) -> Outcome:
    """Raises ConfigError and DeviceError; the agent that ran before goes on then, and the error says so if it had to be
    started again."""
    found = gather_facts(device, wanted.name)
    say("found", str(found))
    check(found, device.to, wanted.name)
    picamera = _needs_picamera(found, wanted)
    environment = make_environment(device, found, picamera, wanted.wheels, payload, say)
    page = page_of(wanted.options, found.ports)
    options = (*_with_source(device, environment, wanted, say), *page.options)
    base = f"{found.home}/.sightline"
    if page.token:
        options += ("--page-token-file", f"{base}/{SERVICES}/{wanted.name}/page-token")
    for warning in unencrypted_warnings(options):
        say("warning", warning)
    release, files = make_release(found, base, environment, wanted, options, page.port)
    device.step("release", wanted.name, release, environment, files=files)
    say("model", f"{wanted.bundle.manifest.name} {wanted.bundle.manifest.version}, as it is here, to the last byte")
    bench = try_there(device, environment, wanted, release, options)
    say("self-test", _judged(bench))
    token, document = make_token() if page.token else ("", "")
    if token:  # the agent reads it when it starts
        how = "replace" if wanted.new_token else "keep"
        if device.step("token", wanted.name, how, text=document).strip() == "kept":
            token = ""
    try:
        answer = answers(device.step("activate", wanted.name, release, "restart" if token else ""))
    except DeviceError as e:
        raise NotStarted(str(e), token) from None
    finally:
        if token:
            say("token", f"{token}   (the page asks for it; shown this once)")
    device.step("sweep", wanted.name)
    service = answer["service"]
    what = {"new": "new: started, and at every boot", "changed": "changed, and started again", "same": "as it was"}
    say("service", f"sightline-{wanted.name}.service {what[service]}")
    say("it says", answer["status"])
    address = page.address(device)
    say("live page", address or "none")
    return Outcome(device.to, wanted.name, service, address, token, answer["status"], bench)


def remove(device: Device, name: str, say: Say) -> Outcome:
    """The service, its state, the model and, where nothing else needs it, Sightline itself."""
    check_unit_name(name)
    found = gather_facts(device, name)
    check_rights(found, device.to, name)
    done = device.step("remove", name).strip()
    say("service", f"sightline-{name}.service: " + ("nothing of it is there" if done == "nothing" else "removed"))
    return Outcome(device.to, name, done)


def make_environment(
    device: Device, found: DeviceFacts, picamera: bool, wheels: Wheels, payload: Payload, say: Say
) -> str:
    """The id of an environment with this very Sightline in it, made where it is not there yet."""
    platform = Platform(found.version, found.machine)
    # picamera2 comes from Debian, with modules that were compiled for Debian's numpy
    more = ("numpy<2",) if picamera and found.numpy.startswith("1.") else ()
    content = hashlib.sha256(payload.sightline + repr((platform, picamera, more)).encode()).hexdigest()
    environment = f"python{found.version}-{content[:12]}"
    if environment in found.environments:
        say("installed", "as it was")
        return environment
    if found.free_mb < FREE_MB:
        raise DeviceError(f"{device.to}: {found.free_mb} MB are free, {FREE_MB} are needed")
    own = {WHEEL: payload.sightline, "pip.zip": payload.pip}
    arguments = ("environment", environment, found.python, "yes" if picamera else "no")
    if wheels != "carry":
        try:
            device.step(*arguments, "index", *more, files=own)
            say("installed", f"{WHEEL.removesuffix('-py3-none-any.whl')}, the rest from the device's index")
            return environment
        except StepError as e:
            if e.code != _PIP_FAILED or wheels == "index":
                raise
            say("installing", "the device reaches no index: the wheels are fetched here and carried over")
    fetched = payload.wheels(platform, more)
    device.step(*arguments, "carried", *more, files={**own, **fetched})
    size = sum(map(len, fetched.values())) / 1e6
    say("installed", f"{WHEEL.removesuffix('-py3-none-any.whl')}, with {len(fetched)} wheels ({size:.0f} MB) from here")
    return environment


def _needs_picamera(found: DeviceFacts, wanted: ReleaseSpec) -> bool:
    """Only then its environment sees Debian's packages."""
    asked = has_ribbon_camera(wanted.options)
    if asked and not found.picamera2:
        raise DeviceError("picamera2 is not installed there: sudo apt install -y python3-picamera2")
    return found.picamera2 and (asked or bool(found.ribbon and not has_source(wanted.options)))


def _with_source(device: Device, environment: str, wanted: ReleaseSpec, say: Say) -> tuple[str, ...]:
    """The options, with the device's only camera where none is named."""
    here = json.loads(device.step("call", environment, "sightline", "devices", "--json").splitlines()[-1])["machine"]
    for problem in here["problems"]:
        say("problem", problem)
    for accelerator in here["accelerators"]:
        say("accelerator", f"{accelerator['name']} {accelerator['problem']}".strip())
    config = device_of(wanted.options, wanted.bundle)
    if load_device(config)[1].delegate != "edgetpu" and config != here["device"]:
        say("note", f"it runs as {config}; {here['board']} is a {here['device']}: -- --device {here['device']}")
    if has_source(wanted.options):
        return wanted.options
    usable = [camera for camera in here["cameras"] if not camera["problem"]]
    if len(usable) == 1:
        say("camera", f"{usable[0]['name']}: --source {usable[0]['source']}")
        return ("--source", usable[0]["source"], *wanted.options)
    listed = "".join(f"\n  -- --source {c['source']}   {c['name']} {c['problem']}" for c in here["cameras"])
    what = "has several cameras; say which" if usable else "has no camera that can be used; name one, such as rtsp://.."
    raise ConfigError(f"{device.to}: {what}{listed or ': -- --source ADDRESS'}")


def try_there(
    device: Device, environment: str, wanted: ReleaseSpec, release: str, options: tuple[str, ...]
) -> dict[str, Any]:
    """Hashes, golden samples and speed, on the device and as what it shall run. Raises DeviceError."""
    place = f"{SERVICES}/{wanted.name}/{release}/{place_of(wanted.bundle)}"
    config = device_of(options, wanted.bundle)
    scheme = value_of(options, "--scheme")
    if wanted.trial_s:
        # how noisy it is while another agent runs there is said, and no reason to stop
        command = ["sightline", "bench", place, "--device", config, "--seconds", f"{wanted.trial_s:g}"]
        command += ["--noise", "1000", "--json", *(("--scheme", scheme) if scheme else ())]
    else:
        command = ["edge.inference.self_test", place, config, scheme or "", "0"]
    bench: dict[str, Any] = json.loads(device.step("call", environment, *command).splitlines()[-1])
    if bench.get("error"):
        raise DeviceError(f"{device.to}: {bench['error']}")
    if bench["sha256"] != wanted.bundle.variant(bench["scheme"])[2].sha256:
        raise DeviceError(f"{device.to}: what arrived is not the model that is here")
    return bench


def _judged(bench: Mapping[str, Any]) -> str:
    text = f"passed: {bench['scheme']}, golden samples as measured"
    if not bench.get("figures"):
        return f"{text}, {bench['p50_ms']:.1f} ms an inference"
    (figures,) = bench["figures"]
    frame = f"{figures['whole_ms']:.1f} ms ±{figures['whole_spread']:.0%}"
    return (
        f"{text}; {figures['model_ms']:.1f} ms an inference, a whole frame {frame} of {bench['latency_budget_ms']}, "
        f"{bench['rss_mb']:.0f} MB, {bench['cold_start_ms']:.0f} ms to start"
    )
