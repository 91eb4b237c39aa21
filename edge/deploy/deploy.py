"""One device, from bare to streaming, and back: a flat row of steps. What may fail, fails while the old agent runs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge.access import make_token
from edge.config import read_agent_config
from edge.deploy.kit import WHEEL, Kit, Platform
from edge.deploy.ssh import Device, StepError
from edge.service import Unit, check_unit_name, has_ribbon_camera, value_of
from sightline.bundle import Bundle
from sightline.device import load_device
from sightline.errors import ConfigError, DeviceError

Wheels = Literal["auto", "index", "carry"]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
FREE_MB = 500  # of an environment while it is made
PAGE_PORT = 8480
# options of `sightline run` whose files go along; what the others name is the device's own
CARRIED = ("--config", "--mqtt-ca", "--mqtt-cert", "--mqtt-key", "--page-cert", "--page-key")
_PIP_FAILED = 4  # of device.sh


@dataclass(frozen=True)
class Wanted:
    """What shall run. options: of `sightline run`, for this device. env_file: its content. trial_s: seconds of each
    of the benchmark's five rounds; 0 = the self-test alone."""

    bundle: Bundle
    name: str
    options: tuple[str, ...] = ()
    env_file: bytes | None = None
    wheels: Wheels = "auto"
    trial_s: float = 1.0


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


@dataclass(frozen=True)
class Found:
    """What the device is, as device.sh says it; the texts are its own."""

    python: str
    version: str
    bits: int
    venv: bool
    numpy: str
    machine: str
    system: str
    board: str
    memory_mb: int
    free_mb: int
    user: str
    home: str
    groups: tuple[str, ...]
    systemd: bool
    picamera2: bool
    ribbon: tuple[str, ...]
    environments: tuple[str, ...]
    active: str
    ports: tuple[int, ...]
    sudo: str
    refused: tuple[str, ...]


Say = Callable[[str, str], None]  # a title and a text


def deploy(device: Device, wanted: Wanted, kit: Kit, say: Say) -> Outcome:
    """Raises ConfigError and DeviceError; the agent that ran before goes on then, and the error says so if it had to be
    started again."""
    found = look(device, wanted.name)
    say("found", _described(found))
    check(found, device.to, wanted.name)
    picamera = _needs_picamera(found, wanted)
    environment = make_environment(device, found, picamera, wanted.wheels, kit, say)
    page = page_of(wanted.options, found.ports)
    options = (*_with_source(device, environment, wanted, say), *page.options)
    base = f"{found.home}/.sightline"
    if page.token:
        options += ("--page-token-file", f"{base}/{wanted.name}/page-token")
    release, files = _release(found, base, environment, wanted, options)
    device.step("release", wanted.name, release, environment, files=files)
    say("model", f"{wanted.bundle.manifest.name} {wanted.bundle.manifest.version}, as here to the last byte")
    bench = try_there(device, environment, wanted, release, options)
    say("self-test", _judged(bench))
    token, document = make_token()
    if not page.token or device.step("token", wanted.name, text=document).strip() != "new":
        token = ""
    answer = _answers(device.step("activate", wanted.name, release))
    device.step("sweep", wanted.name)
    service = answer["service"]
    what = {"new": "new: started, and at every boot", "changed": "changed, and started again", "same": "as it was"}
    say("service", f"sightline-{wanted.name}.service {what[service]}")
    say("it says", answer["status"])
    address = page.address(device)
    say("live page", address or "none")
    if token:
        say("token", f"{token}   (the page asks for it; shown this once)")
    return Outcome(device.to, wanted.name, service, address, token, answer["status"], bench)


def remove(device: Device, name: str, say: Say) -> Outcome:
    """The service, its state, the model and, where nothing else needs it, Sightline itself."""
    check_unit_name(name)
    found = look(device, name)
    _check_rights(found, device.to, name)
    done = device.step("remove", name).strip()
    say("service", f"sightline-{name}.service: " + ("nothing of it is there" if done == "nothing" else "removed"))
    return Outcome(device.to, name, done)


def look(device: Device, name: str) -> Found:
    """What is there; changes nothing."""
    answer = _answers(said := device.step("look", name))
    version, _, bits = answer["version"].partition(" ") if answer.get("version") else ("", "", "0")
    words = {key: tuple(answer.get(key, "").split()) for key in ("groups", "ribbon", "environments", "ports")}
    return Found(
        python=answer["python"],
        version=version,
        bits=int(bits),
        venv=answer.get("venv") == "yes",
        numpy=answer["numpy"],
        machine=answer["machine"],
        system=answer["system"],
        board=answer["board"],
        memory_mb=int(answer["memory_kb"] or 0) // 1024,
        free_mb=int(answer["free_kb"] or 0) // 1024,
        user=answer["user"],
        home=answer["home"],
        groups=words["groups"],
        systemd=answer["systemd"] == "yes",
        picamera2=answer["picamera2"] == "yes",
        ribbon=words["ribbon"],
        environments=words["environments"],
        active=answer["active"],
        ports=tuple(map(int, words["ports"])),
        sudo=answer.get("sudo", ""),
        refused=tuple(re.findall(r"^refused=(.+)$", said, re.MULTILINE)),
    )


def check(found: Found, to: str, name: str) -> None:
    """Whether it can be done at all. Raises DeviceError with what to do about it."""
    if found.bits == 32 or found.machine not in ("aarch64", "x86_64"):
        raise DeviceError(
            f"{to}: a {found.bits or 32}-bit system ({found.machine}): LiteRT has no wheels for it; install Raspberry "
            "Pi OS (64-bit)"
        )
    if found.version not in PYTHONS:
        has = f"Python {found.version}" if found.version else "no Python"
        raise DeviceError(f"{to}: has {has}; {PYTHONS[0]} to {PYTHONS[-1]} is needed, as Raspberry Pi OS bookworm and "
                          "trixie have it")  # fmt: skip
    if not found.venv:
        raise DeviceError(f"{to}: its Python makes no environments: sudo apt install python3-venv")
    if not found.systemd:
        raise DeviceError(f"{to}: systemd does not run there; `sightline run --supervise` does its work elsewhere")
    if found.user == "root":
        raise DeviceError(f"{to}: log in as an ordinary user; the agent runs as the one that deploys it")
    if "video" not in found.groups:
        raise DeviceError(f"{to}: has no group `video`, whose members may open cameras: sudo groupadd --system video")
    _check_rights(found, to, name)


def _check_rights(found: Found, to: str, name: str) -> None:
    if found.sudo == "missing":
        raise DeviceError(f"{to}: has no sudo, and a service is root's to install: apt install sudo")
    if found.sudo == "password":
        raise PasswordNeeded(f"{to}: sudo asks for a password there; run this on a terminal, or allow it without")
    if found.refused:
        allowed = ", \\\n  ".join(found.refused)
        raise DeviceError(
            f"{to}: sudo refuses what is needed there; /etc/sudoers.d/sightline-{name} may allow no more than\n"
            f"{found.user} ALL=(root) NOPASSWD: {allowed}"
        )


class PasswordNeeded(DeviceError):
    """sudo there wants one."""


def make_environment(device: Device, found: Found, picamera: bool, wheels: Wheels, kit: Kit, say: Say) -> str:
    """The id of an environment with this very Sightline in it, made where it is not there yet."""
    platform = Platform(found.version, found.machine)
    # picamera2 comes from Debian, with modules that were compiled for Debian's numpy
    more = ("numpy<2",) if picamera and found.numpy.startswith("1.") else ()
    content = hashlib.sha256(kit.sightline + repr((platform, picamera, more)).encode()).hexdigest()
    environment = f"python{found.version}-{content[:12]}"
    if environment in found.environments:
        say("installed", "as it was")
        return environment
    if found.free_mb < FREE_MB:
        raise DeviceError(f"{device.to}: {found.free_mb} MB are free, {FREE_MB} are needed")
    own = {WHEEL: kit.sightline, "pip.zip": kit.pip}
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
    fetched = kit.wheels(platform, more)
    device.step(*arguments, "carried", *more, files={**own, **fetched})
    size = sum(map(len, fetched.values())) / 1e6
    say("installed", f"{WHEEL.removesuffix('-py3-none-any.whl')}, with {len(fetched)} wheels ({size:.0f} MB) from here")
    return environment


def _needs_picamera(found: Found, wanted: Wanted) -> bool:
    """Only then its environment sees Debian's packages."""
    asked = has_ribbon_camera(wanted.options)
    if asked and not found.picamera2:
        raise DeviceError("picamera2 is not installed there: sudo apt install -y python3-picamera2")
    return found.picamera2 and (asked or bool(found.ribbon and not _has_source(wanted.options)))


def _has_source(options: tuple[str, ...]) -> bool:
    return value_of(options, "--source") is not None or value_of(options, "--config") is not None


def _with_source(device: Device, environment: str, wanted: Wanted, say: Say) -> tuple[str, ...]:
    """The options, with the device's only camera where none is named."""
    here = json.loads(device.step("call", environment, "sightline", "devices", "--json").splitlines()[-1])["here"]
    for problem in here["problems"]:
        say("problem", problem)
    for accelerator in here["accelerators"]:
        say("accelerator", f"{accelerator['name']} {accelerator['problem']}".strip())
    config = value_of(wanted.options, "--device") or wanted.bundle.manifest.device
    if load_device(config)[1].delegate != "edgetpu" and config != here["fits"]:
        say("note", f"it runs as {config}; {here['board']} is a {here['fits']}: -- --device {here['fits']}")
    if _has_source(wanted.options):
        return wanted.options
    usable = [camera for camera in here["cameras"] if not camera["problem"]]
    if len(usable) == 1:
        say("camera", f"{usable[0]['name']}: --source {usable[0]['source']}")
        return ("--source", usable[0]["source"], *wanted.options)
    listed = "".join(f"\n  -- --source {c['source']}   {c['name']} {c['problem']}" for c in here["cameras"])
    what = "has several cameras; say which" if usable else "has no camera that can be used; name one, such as rtsp://.."
    raise ConfigError(f"{device.to}: {what}{listed or ': -- --source ADDRESS'}")


def _release(
    found: Found, base: str, environment: str, wanted: Wanted, options: tuple[str, ...]
) -> tuple[str, dict[str, bytes]]:
    """Its id, a name of its content, and its files."""
    device = value_of(options, "--device") or wanted.bundle.manifest.device
    ribbon = has_ribbon_camera(options)
    files, options = _carried(options)
    bundle = wanted.bundle
    place = bundle.path.name
    if bundle.path.is_dir():
        manifest = (bundle.path / "manifest.json").read_bytes()
        files |= {f"{place}/{name}": data for name, data in {**bundle.contents, "manifest.json": manifest}.items()}
    else:
        files[place] = bundle.contents[place]
    if wanted.env_file is not None:
        files["env"] = wanted.env_file
    content = hashlib.sha256(repr((environment, options, sorted(files.items()))).encode())
    release = f"{bundle.manifest.version}-{content.hexdigest()[:12]}"
    folder = f"{base}/{wanted.name}/{release}"
    edgetpu = load_device(device)[1].delegate == "edgetpu"
    unit = Unit(
        name=wanted.name,
        command=(
            f"{base}/environments/{environment}/bin/sightline",
            "run",
            f"{folder}/{place}",
            *(option.replace(_HERE, f"{folder}/") for option in options),
        ),
        bundle=Path(folder),
        user=found.user,
        groups=("video", "plugdev") if edgetpu and "plugdev" in found.groups else ("video",),
        env_file=Path(f"{folder}/env") if wanted.env_file is not None else None,
        edgetpu=edgetpu,
        ribbon=ribbon,
    )
    return release, {**files, "unit.service": unit.text.encode()}


_HERE = "\0release/"  # what stands for the release's folder, whose name is not known before its content is


def _carried(options: tuple[str, ...]) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The files that options name, and the options with their places on the device."""
    files: dict[str, bytes] = {}
    placed = list(options)
    for i, word in enumerate(options):
        name, equals, value = word.partition("=")
        before = options[i - 1] if i else ""
        if word.startswith("--") and equals and name in CARRIED:
            path = Path(value)
        elif before in CARRIED:
            name, path = before, Path(word)
        else:
            continue
        kept = f"files/{name.removeprefix('--')}{path.suffix}"
        try:
            files[kept] = path.read_bytes()
        except OSError as e:
            raise ConfigError(f"{name} {path}: cannot be read: {e.strerror}") from None
        placed[i] = _HERE + kept
        if equals:
            placed[i] = f"{name}={placed[i]}"
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
    config = value_of(options, "--config")
    given = {key: str(value) for key, value in (read_agent_config(Path(config)).options if config else {}).items()}
    for key in ("page-address", "page-port", "page-cert", "page-token-file"):
        if (value := value_of(options, f"--{key}")) is not None:
            given[key] = value
    if "--no-page" in options or given.get("page") == "False":
        return PageOptions((), False, True, None, False)
    more: tuple[str, ...] = ()
    if "page-address" not in given:
        given["page-address"] = "0.0.0.0"
        more += ("--page-address", "0.0.0.0")
    if "page-port" not in given:
        given["page-port"] = str(next(port for port in range(PAGE_PORT, 65536) if port not in taken))
        more += ("--page-port", given["page-port"])
    local = given["page-address"] in ("127.0.0.1", "localhost", "::1")
    return PageOptions(
        more, not local and "page-token-file" not in given, local, given["page-port"], "page-cert" in given
    )


def try_there(
    device: Device, environment: str, wanted: Wanted, release: str, options: tuple[str, ...]
) -> dict[str, Any]:
    """Hashes, golden samples and speed, on the device and as what it shall run. Raises DeviceError."""
    place = f"{wanted.name}/{release}/{wanted.bundle.path.name}"
    config = value_of(options, "--device") or wanted.bundle.manifest.device
    scheme = value_of(options, "--scheme")
    if wanted.trial_s:
        # how noisy it is while another agent runs there is said, and no reason to stop
        command = ["sightline", "bench", place, "--device", config, "--seconds", f"{wanted.trial_s:g}"]
        command += ["--noise", "1000", "--json", *(("--scheme", scheme) if scheme else ())]
    else:
        command = ["edge.selftest", place, config, scheme or "", "0"]
    bench: dict[str, Any] = json.loads(device.step("call", environment, *command).splitlines()[-1])
    if bench.get("error"):
        raise DeviceError(f"{device.to}: {bench['error']}")
    if bench["sha256"] != wanted.bundle.variant(bench["scheme"])[2].sha256:
        raise DeviceError(f"{device.to}: what arrived is not the model that is here")
    return bench


def _described(found: Found) -> str:
    memory = f"{found.memory_mb / 1024:.1f} GiB" if found.memory_mb else "memory unknown"
    return (
        f"{found.board or 'a computer'}, {found.system}, {found.machine}, Python {found.version}, {memory}, "
        f"{found.free_mb / 1024:.1f} GiB free"
    )


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


def _answers(said: str) -> dict[str, str]:
    """`key=value` lines."""
    return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
