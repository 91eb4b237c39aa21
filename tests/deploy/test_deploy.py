"""`sightline deploy` against a machine with its own systemd, sshd and sudo: what runs there after each failure."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support.broker import free_port
from edge.deploy.ssh import Device, StepError
from sightline.errors import DeviceError
from tests.conftest import need
from tests.support.debian import missing
from tests.support.deploy_machine import Machine, booted, build

pytestmark = pytest.mark.slow

UNIT = "sightline-colours.service"
Deploy = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def system(request: pytest.FixtureRequest) -> Path:
    lacking = missing("unshare", "ssh", "ssh-keygen", "nsenter")
    need(lacking is None, f"a machine of its own needs {lacking}")
    return build(request.config.cache.mkdir("deploy"))


@pytest.fixture(scope="module")
def machine(system: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine that reaches no index."""
    with booted(system, tmp_path_factory.mktemp("machine"), index=False) as running:
        yield running


@pytest.fixture(scope="module")
def port() -> int:
    """Port of the live page. The device shares this machine's network."""
    return free_port()


def command(machine: Machine, bundle: Path, *arguments: object) -> list[str]:
    line = [sys.executable, "-m", "sightline", "deploy", bundle, "--ssh-config", machine.ssh_config, *arguments]
    return [*map(str, line)]


@pytest.fixture(scope="module")
def deploy(machine: Machine, bundle: Path, port: int) -> Deploy:
    """deploy("--threshold", 0.5) deploys with these options of `sightline run`, without the benchmark."""

    def call(*options: object, before: tuple[object, ...] = ()) -> subprocess.CompletedProcess[str]:
        run = ("--", "--source", "test:", "--page-port", port, *options)
        line = command(machine, bundle, "--to", "device", "--trial", 0, *before, *run)
        return subprocess.run(line, capture_output=True, text=True, timeout=300)

    return call


@pytest.fixture(scope="module")
def keeper(machine: Machine, bundle: Path) -> None:
    """Another deployment, so that the environment stays when the one under test is removed."""
    line = command(machine, bundle, "--to", "device", "--trial", 0, "--name", "keeper")
    run = ["--", "--source", "test:320x240@2", "--no-page"]
    done = subprocess.run([*line, *run], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def deployed(deploy: Deploy, keeper: None) -> str:
    """Deploy once. Returns the output of deploy."""
    done = deploy()
    assert done.returncode == 0, done.stderr
    return done.stdout


def pid(machine: Machine) -> int:
    """Process id of the agent; 0 = none runs."""
    return int(machine.ssh(f"systemctl show --property MainPID --value {UNIT}"))


def runs(machine: Machine) -> str:
    """The command line of the running agent, from the kernel."""
    machine.ssh(f"for _ in $(seq 60); do systemctl --quiet is-active {UNIT} && exit; sleep 0.3; done; exit 1")
    return machine.ssh(f"tr '\\0' ' ' </proc/{pid(machine)}/cmdline")


def page(port: int, path: str, token: str = "") -> Any:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def test_from_a_bare_system_to_a_live_page_and_back(machine: Machine, bundle: Path, port: int) -> None:
    before = written(machine)
    run = ("--", "--source", "test:", "--page-port", port)
    line = command(machine, bundle, "--to", "device", "--json", *run)
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "reaches no index" in done.stderr and "golden samples match" in done.stderr
    assert "warning      others on the network can read the live page" in done.stderr
    (outcome,) = json.loads(done.stdout)["devices"]
    assert (outcome["service"], outcome["page"]) == ("new", f"http://127.0.0.1:{port}/")
    assert re.fullmatch(r"[\d.]+ frames a second", outcome["status"]) and not outcome["status"].startswith("0.0")
    assert outcome["bench"]["figures"][0]["whole_ms"] > 0

    with pytest.raises(urllib.error.HTTPError, match="401"):
        page(port, "/api/predictions")
    (newest,) = page(port, "/api/predictions", outcome["token"]).values()
    assert newest["status"] == "ok"
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert newest["model"]["sha256"] == manifest["files"][manifest["variants"]["static_int8"]]["sha256"]
    assert page(port, "/api/info", outcome["token"])["model"]["sha256"] == newest["model"]["sha256"]
    assert machine.ssh(f"systemctl is-enabled {UNIT}").strip() == "enabled"
    assert "status=" not in machine.ssh(f"systemctl show -p NRestarts {UNIT}; stat -c %U /var/lib/sightline/colours")
    status = machine.ssh(f"grep -E '^(NoNewPrivs|CapEff|Seccomp):' /proc/{pid(machine)}/status")
    assert re.sub(r"\s+", " ", status) == "CapEff: 0000000000000000 NoNewPrivs: 1 Seccomp: 2 ", (
        "as hard as the unit says"
    )
    libraries = machine.ssh("ls ~/.sightline/environments/*/lib/python3*/site-packages").split()
    assert "ai_edge_litert" in libraries and not {"torch", "tensorflow", "pip"} & set(libraries)

    done = subprocess.run(command(machine, bundle, "--to", "device", "--remove"), capture_output=True, text=True)
    assert done.returncode == 0 and "removed" in done.stdout, done.stderr
    assert written(machine) == before
    assert pid(machine) == 0
    done = subprocess.run(command(machine, bundle, "--to", "device", "--remove"), capture_output=True, text=True)
    assert done.returncode == 0 and "nothing to remove" in done.stdout, done.stderr


def written(machine: Machine) -> set[str]:
    """Every file and folder on the device's disk, except the system's own state."""
    own = ("/var/log/", "/var/lib/systemd/", "/var/lib/private", "/var/tmp", "/proc", "/sys", "/run", "/tmp", "/dev")
    every = machine.ssh("sudo find / -xdev -print").splitlines()
    return {path for path in every if not path.startswith(own) and "/machine-id" not in path}


def test_a_second_deployment_changes_nothing(machine: Machine, deploy: Deploy, deployed: str) -> None:
    first, files = pid(machine), written(machine)
    done = deploy()
    assert done.returncode == 0 and f"{UNIT}: unchanged" in done.stdout, done.stderr
    assert pid(machine) == first != 0 and written(machine) == files
    assert not re.search("^token ", done.stdout, re.MULTILINE), "it is shown once"


def test_other_options_replace_the_release(machine: Machine, deploy: Deploy, deployed: str) -> None:
    done = deploy("--threshold", "0.25")
    assert done.returncode == 0 and "replaced and restarted" in done.stdout, done.stderr
    assert "--threshold 0.25" in runs(machine)
    folders = machine.ssh("ls ~/.sightline/services/colours ~/.sightline/environments").split()
    assert len([f for f in folders if f.startswith("20")]) == 1
    assert len([f for f in folders if f.startswith("python3")]) == 1


def test_a_release_that_fails_is_rolled_back(machine: Machine, deploy: Deploy, deployed: str, port: int) -> None:
    done = deploy("--page-port", "22", before=("--new-token",))
    assert done.returncode == 3
    assert "previous release runs again" in done.stderr and "Permission denied" in done.stderr
    assert "--page-port 22 " not in runs(machine)
    assert machine.ssh(f"systemctl is-enabled {UNIT}").strip() == "enabled"
    (token,) = re.findall(r"^token +(\S+)", done.stdout, re.MULTILINE)
    assert page(port, "/api/info", token), "the token that was shown is in force"


def test_the_token_is_shown_even_if_the_first_start_fails(
    machine: Machine, bundle: Path, keeper: None, port: int
) -> None:
    line = command(machine, bundle, "--to", "device", "--trial", 0, "--name", "first", "--json")
    run = ["--", "--source", "test:320x240@2", "--page-port"]
    try:
        done = subprocess.run([*line, *run, "22"], capture_output=True, text=True, timeout=300)
        (outcome,) = json.loads(done.stdout)["devices"]
        assert done.returncode == 3 and "Permission denied" in outcome["error"] and outcome["token"]
        other = free_port()
        done = subprocess.run([*line, *run, str(other)], capture_output=True, text=True, timeout=300)
        (again,) = json.loads(done.stdout)["devices"]
        assert (again["service"], again["token"]) == ("new", ""), done.stderr
        assert page(other, "/api/info", outcome["token"])
    finally:
        subprocess.run([*line, "--remove"], capture_output=True, timeout=300)


def test_a_file_that_the_card_damaged_is_restored(machine: Machine, deploy: Deploy, deployed: str) -> None:
    (model,) = machine.root.glob("home/pi/.sightline/services/colours/*/*.bundle/*.static_int8.tflite")
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    done = deploy()
    assert done.returncode == 0, done.stderr
    content[len(content) // 2] ^= 1
    assert model.read_bytes() == content
    runs(machine)


def test_options_are_checked_before_anything_changes(
    machine: Machine, deploy: Deploy, deployed: str, tmp_path: Path
) -> None:
    first = pid(machine)
    for options, message in (
        (("--treshold", "0.5"), "--treshold"),
        (("--mqtt-ca", tmp_path / "none.pem"), "none.pem"),
        (("--source", "rtsp://u:secret@cam/"), "password"),
        (("--env-file", "x"), "--env-file"),
        (("--page-port", "0"), "--page-port 0"),
    ):
        done = deploy(*options)
        assert done.returncode == 2 and message in done.stderr, (options, done.stderr)
        assert "Traceback" not in done.stderr
    assert pid(machine) == first


def test_passwords_and_files_are_copied_for_their_owner_only(
    machine: Machine, deploy: Deploy, deployed: str, tmp_path: Path, port: int
) -> None:
    secret = tmp_path / "cameras.env"
    secret.write_text("CAMERA=hunter2\n")
    agent = tmp_path / "agent.yaml"
    agent.write_text(f"cameras: {{door: {{source: 'test:'}}}}\noptions: {{page-port: {port}}}\n")
    line = ("--to", "device", "--trial", 0, "--env-file", secret, "--", "--config", agent)
    bundle = next((machine.root / "home/pi/.sightline/services/colours").glob("*/*.bundle"))
    done = subprocess.run(command(machine, bundle, *line), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and f":{port}/" in done.stdout, done.stderr
    listing = machine.ssh(
        f"sudo cat /proc/{pid(machine)}/environ | tr '\\0' '\\n'; stat -c '%a %n' ~/.sightline/services/colours/*/*"
    )
    assert "CAMERA=hunter2" in listing
    assert "hunter2" not in runs(machine) + machine.ssh(f"cat /etc/systemd/system/{UNIT}")
    modes = dict(
        reversed(line.split(maxsplit=1)) for line in listing.splitlines() if "/.sightline/" in line and " " in line
    )
    assert {mode for name, mode in modes.items() if name.endswith("/env")} == {"600"}
    assert "files/config.yaml" in runs(machine)


def test_after_a_kill_at_any_step_the_old_or_the_new_runs(
    machine: Machine, bundle: Path, deploy: Deploy, deployed: str, port: int
) -> None:
    """Kill deploy after each line of its output."""
    for k in range(1, 8):
        run = ("--", "--source", "test:", "--page-port", port, "--threshold", f"0.{k}1")
        line = command(machine, bundle, "--to", "device", "--trial", 0, *run)
        with subprocess.Popen(
            line, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        ) as p:
            assert p.stdout is not None
            for _ in range(k):
                p.stdout.readline()
            p.send_signal(signal.SIGKILL)
        time.sleep(0.3)
        assert re.search(rf"--page-port {port} ", runs(machine)), "the old or the new agent runs"
    done = deploy("--threshold", "0.99")
    assert done.returncode == 0 and "--threshold 0.99" in runs(machine), done.stderr
    assert (
        len([f for f in machine.ssh("ls -A ~/.sightline/services/colours").split() if f.startswith((".", "20"))]) == 1
    )


SHIM = """#!/bin/sh
# at command number `at` the step ends as if the power had gone, before the command runs
case "{name} $1" in "systemctl is-"* | "systemctl --"* | "systemctl show"*) exec /usr/bin/systemctl "$@" ;; esac
flock /run/cut/count sh -c 'echo $(($(cat /run/cut/count) + 1)) >/run/cut/count'
if [ "$(cat /run/cut/count)" = "$(cat /run/cut/at)" ]; then
  pkill -KILL -f "^sh -c # The device's side"
  exit 1
fi
exec /usr/bin/{name} "$@"
"""
SHIMMED = ("mv", "install", "systemctl", "rm")


@pytest.fixture
def power(machine: Machine) -> Iterator[Callable[[int], None]]:
    """power(k) cuts the power before the k-th command that changes something on the device; 0 = never."""
    machine.ssh("sudo mkdir -m 777 /run/cut && echo 0 >/run/cut/count && echo 0 >/run/cut/at && chmod 666 /run/cut/*")
    shims = machine.root / "usr/local/bin"
    for name in SHIMMED:
        (shims / name).write_text(SHIM.replace("{name}", name))
        (shims / name).chmod(0o755)

    def cut(k: int) -> None:
        machine.ssh(f"echo 0 >/run/cut/count; echo {k} >/run/cut/at")

    yield cut
    for name in SHIMMED:
        (shims / name).unlink()
    machine.ssh("sudo rm -r /run/cut")


def test_after_a_power_cut_the_old_or_the_new_runs(
    machine: Machine, deploy: Deploy, deployed: str, power: Callable[[int], None]
) -> None:
    """Cut the power before every command of the step that changes what runs, and boot."""
    here = machine.root / "home/pi/.sightline/services/colours"
    old = (here / "active").read_text().strip()
    device = Device("device", machine.ssh_config, ask=False)
    outcomes, cuts = set(), 0
    for k in range(1, 60):
        new = f"other-{k}"
        machine.ssh(
            f"cd ~/.sightline/services/colours && cp -a {old} {new} && sed -i 's/{old}/{new}/' {new}/unit.service"
        )
        power(k)
        try:
            device.step("activate", "colours", new)
        except DeviceError:
            cuts += 1
        else:
            power(0)
            break
        power(0)
        # as a boot would: only the files on the disk count
        machine.ssh(f"sudo systemctl daemon-reload && sudo systemctl restart {UNIT}")
        line = runs(machine)
        outcomes.add("old" if f"/{new}/" not in line else "new")
        assert machine.ssh(f"systemctl is-enabled {UNIT}").strip() == "enabled"
    assert cuts >= 7 and outcomes == {"old", "new"}
    assert f"/{new}/" in runs(machine) and (here / "active").read_text().strip() == new
    device.step("sweep", "colours")


def test_a_remote_benchmark_leaves_nothing_behind(machine: Machine, bundle: Path, keeper: None, tmp_path: Path) -> None:
    before = written(machine)
    copy = tmp_path / "copy.bundle"
    shutil.copytree(bundle, copy)
    line = [sys.executable, "-m", "sightline", "bench", copy, "--to", "device", "--ssh-config", machine.ssh_config]
    more = ["--compare", bundle, "--evidence", "--seconds", "0.1", "--noise", "10000", "--threads", "2"]
    done = subprocess.run([*map(str, line), *more], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "compared " in done.stdout and "2 threads" in done.stdout, done.stderr
    (record,) = json.loads((copy / "manifest.json").read_text())["metrics"]["evidence"]
    assert "bookworm" in record["machine"]
    assert written(machine) == before
    done = subprocess.run([*map(str, line), "--noise", "0", "--seconds", "0.1"], capture_output=True, text=True)
    assert done.returncode == 3 and "too noisy" in done.stderr and written(machine) == before


def test_sudo_needs_only_the_rights_in_the_error_message(machine: Machine, deploy: Deploy, keeper: None) -> None:
    try:
        machine.sudoers("pi ALL=(root) NOPASSWD: /usr/bin/systemctl daemon-reload\n")
        done = deploy()
        assert done.returncode == 3 and "sudo refuses" in done.stderr
        lines = done.stderr[done.stderr.index("pi ALL=") :]
        machine.sudoers(lines)
        for options in ((), ("--threshold", "0.3"), ("--page-port", "22")):
            done = deploy(*options)
            assert done.returncode == (3 if "22" in options else 0), done.stderr
        assert "--threshold 0.3" in runs(machine), "the broken release was rolled back, too"
        done = deploy(before=("--remove",))
        assert done.returncode == 0 and "removed" in done.stdout, done.stderr
        assert pid(machine) == 0
    finally:
        machine.sudoers("pi ALL=(root) NOPASSWD: ALL\n")


def test_sudo_may_ask_for_a_password(machine: Machine, bundle: Path, deploy: Deploy, port: int, keeper: None) -> None:
    try:
        machine.ssh("echo pi:raspberry | sudo chpasswd")
        machine.sudoers("pi ALL=(root) ALL\n")
        done = deploy()
        assert done.returncode == 3 and "asks for a password" in done.stderr, "without a terminal"
        run = ("--", "--source", "test:", "--page-port", port)
        line = command(machine, bundle, "--to", "device", "--trial", 0, *run)
        assert on_a_terminal(line, b"wrong\n") == 3
        assert on_a_terminal(line, b"raspberry\n") == 0
        assert "raspberry" not in runs(machine)
    finally:
        machine.sudoers("pi ALL=(root) NOPASSWD: ALL\n")


def on_a_terminal(line: list[str], answer: bytes) -> int:
    """Run a command on a terminal, and type `answer` when it asks for a password. Returns its exit code."""
    with subprocess.Popen(
        ["script", "--quiet", "--return", "--command", shlex.join(line), "/dev/null"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as typing:  # fmt: skip
        assert typing.stdin is not None and typing.stdout is not None
        seen = b""
        while b"password of" not in seen and (chunk := os.read(typing.stdout.fileno(), 4096)):
            seen += chunk
        time.sleep(0.3)  # getpass discards what is typed before it reads
        typing.stdin.write(answer)
        typing.stdin.flush()
        typing.stdout.read()
    return typing.returncode


def test_an_inventory_of_several_devices_with_awkward_names(
    machine: Machine, bundle: Path, tmp_path: Path, keeper: None
) -> None:
    inventory = tmp_path / "hosts.yaml"
    inventory.write_text(
        "- {to: device, name: carried, options: ['--page-port=8480']}\n"
        "- {to: device, name: environments}\n- nobody@127.0.0.1\n"
    )
    line = command(machine, bundle, "--inventory", inventory, "--trial", 0, "--json", "--", "--source", "test:")
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 3 and "2 of 3 devices are up to date." in done.stderr, done.stderr
    outcomes = json.loads(done.stdout)["devices"]
    assert [d["service"] for d in outcomes] == ["new", "new", ""] and "ssh cannot reach" in outcomes[2]["error"]
    assert (outcomes[0]["page"], outcomes[1]["page"]) == ("http://127.0.0.1:8480/", "http://127.0.0.1:8481/")
    for name in ("carried", "environments", "keeper"):
        machine.ssh(f"systemctl is-active sightline-{name} && sudo systemctl restart sightline-{name}")
    assert len(machine.ssh("ls ~/.sightline/environments").split()) == 1, "they share one environment"
    done = subprocess.run([*line[: line.index("--json")], "--remove"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 3 and done.stdout.count("removed") >= 2, done.stderr


@pytest.fixture
def door(machine: Machine, keeper: None) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """door("--output", "x") runs `service install` with these options on the device, with a model that everybody may
    read. `before` are the options before the model."""
    program = machine.ssh("ls -d ~/.sightline/environments/*/bin/sightline").strip()
    machine.ssh("chmod 755 ~; cp -r ~/.sightline/services/keeper/*/*.bundle ~/mine.bundle; chmod -R a+rX ~/mine.bundle")

    def install(*options: object, before: tuple[object, ...] = ()) -> subprocess.CompletedProcess[str]:
        words = (program, "service", "install", "--name", "door", *before, "mine.bundle", "--", "--source", "test:")
        line = shlex.join(map(str, ("sudo", *words, *options)))
        ssh = ["ssh", "-F", str(machine.ssh_config), "device", line]
        return subprocess.run(ssh, capture_output=True, text=True, timeout=120)

    yield install
    state = "/var/lib/private/sightline/door /var/lib/sightline/door"
    machine.ssh(f"sudo {program} service uninstall door; sudo rm -rf ~/mine.bundle {state}")


def test_a_service_is_installed_only_where_it_starts(
    machine: Machine, door: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    port, before = free_port(), written(machine)
    machine.ssh("chmod 700 ~")
    done = door("--no-page")
    machine.ssh("chmod 755 ~")
    assert done.returncode == 2 and "may not read" in done.stderr and "may not enter /home/pi" in done.stderr
    done = door("--page-address", "0.0.0.0", "--page-port", port, "--output", "/home/pi/results.jsonl")
    assert done.returncode == 3 and "Nothing was installed. Its last output: --output" in done.stderr, done.stderr
    assert written(machine) ^ before == set()

    machine.ssh("touch ~/results.jsonl ~/sightline")  # files of an earlier run by hand
    done = door("--page-address", "0.0.0.0", "--page-port", port, "--output", "results.jsonl")
    machine.ssh("rm ~/results.jsonl ~/sightline")
    assert done.returncode == 0, done.stderr
    (token,) = re.findall("shown only once: (.+)", done.stdout)
    assert page(port, "/api/info", token)
    assert token not in machine.ssh("sudo journalctl --unit sightline-door")
    assert int(machine.ssh("sudo stat -c %s /var/lib/sightline/door/results.jsonl"))

    done = door("--no-page", "--output", "/home/pi/results.jsonl")
    assert done.returncode == 3 and "The previous service is back" in done.stderr
    machine.ssh("for _ in $(seq 60); do systemctl --quiet is-active sightline-door && exit; sleep 0.3; done; exit 1")
    assert page(port, "/api/info", token)
    with pytest.raises(StepError, match="deploy did not make this unit"):
        Device("device", machine.ssh_config, ask=False).step("remove", "door")


def test_restarts_of_a_failing_service_get_rarer(
    machine: Machine, door: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """A busy port may become free again. A missing model is bad input, and ends the service."""
    port = free_port()
    done = door("--page-port", port)
    assert done.returncode == 0, done.stderr
    taken = f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); time.sleep(120)"
    machine.ssh(
        "sudo systemctl stop sightline-door; "
        f'setsid python3 -c "{taken}" >/dev/null 2>&1 </dev/null & echo $! >taker; sleep 1; '
        "sudo systemctl start --no-block sightline-door"
    )
    # the fifth restart comes after eight seconds
    again = machine.ssh(
        "restarts='systemctl show --property NRestarts --value sightline-door'; "
        "for _ in $(seq 300); do [ $($restarts) -lt 5 ] || break; sleep 0.1; done; sleep 2; "
        "systemctl show --property NRestarts,SubState --value sightline-door; kill $(cat taker); rm taker; "
        "for _ in $(seq 100); do systemctl --quiet is-active sightline-door && break; sleep 0.3; done; "
        "systemctl is-active sightline-door"
    )
    assert again.split() == ["5", "start-pre", "active"], "it waits, and starts by itself"
    ended = machine.ssh(
        "mv mine.bundle away.bundle; sudo systemctl kill --signal KILL sightline-door; "
        "for _ in $(seq 100); do systemctl --quiet is-failed sightline-door && break; sleep 0.2; done; "
        "systemctl show --property SubState,ExecMainStatus --value sightline-door; mv away.bundle mine.bundle"
    )
    assert sorted(ended.split()) == ["2", "failed"]


def test_a_device_with_an_index_gets_its_wheels_from_there(system: Path, bundle: Path, tmp_path: Path) -> None:
    with booted(system, tmp_path / "machine", index=True) as online:
        line = command(online, bundle, "--to", "device", "--trial", 0, "--wheels", "index", "--", "--source", "test:")
        done = subprocess.run([*line, "--no-page"], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and "from the device's index" in done.stdout, done.stderr
        assert "--source test:" in runs(online)


def test_an_incomplete_step_changes_nothing(machine: Machine) -> None:
    device = Device("device", machine.ssh_config, ask=False)
    with pytest.raises(StepError, match="did not arrive complete"):
        device.step("release", "half", "r", "e", text="not a tar")
    assert not (machine.root / "home/pi/.sightline/services/half/r").exists()
    machine.ssh("rm -rf ~/.sightline/services/half")


def test_power_cuts_during_a_removal(
    machine: Machine, deploy: Deploy, deployed: str, power: Callable[[int], None]
) -> None:
    device = Device("device", machine.ssh_config, ask=False)
    assert device.step("remove", "keeper").strip() == "removed"
    for k in range(1, 30):
        power(k)
        try:
            reply = device.step("remove", "colours")
        except DeviceError:
            continue
        break
    power(0)
    assert k > 3 and reply.strip() in ("removed", "nothing")
    assert not (machine.root / "home/pi/.sightline").exists() and pid(machine) == 0
    assert not list((machine.root / "etc/systemd/system").rglob("*sightline*"))
