"""The systemd unit: systemd's own checks, and command lines that systemd must not misread."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click.testing
import pytest

from edge.cli.service import service
from edge.system.systemd_unit import Unit, escape
from sightline.errors import ConfigError
from tests.conftest import Sightline, need

MOST_EXPOSURE = 2.0  # of 10, by systemd's own reckoning


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    need(program is not None, "the unit is checked by systemd-analyze: apt-get install systemd")
    return subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True, timeout=60)


def installed(bundle: Path, root: Path, sightline: Sightline, *options: object) -> Path:
    done = sightline("service", "install", "--root", root, "--name", "door", bundle, "--", *options)
    assert done.returncode == 0, done.stderr
    path = root / "etc/systemd/system/sightline-door.service"
    assert done.stdout == f"wrote {path}\n"
    return path


def value(path: Path, key: str) -> str:
    (match,) = re.findall(rf"^{key}=(.*)$", path.read_text(), re.MULTILINE)
    return str(match)


def test_systemd_accepts_the_unit_and_rates_it_safe(bundle: Path, tmp_path: Path, sightline: Sightline) -> None:
    path = installed(bundle, tmp_path, sightline, "--source", "rtsp://${U}:${P}@camera.local/a b%20c", "--json")
    verified = analyze("verify", path)
    assert (verified.returncode, verified.stderr.strip()) == (0, ""), verified.stderr
    security = analyze("security", "--offline=true", path).stdout
    match = re.search(r"exposure level for \S+: ([0-9.]+)", security)
    assert match is not None and float(match[1]) <= MOST_EXPOSURE, security


def test_a_unit_with_a_mistake_is_refused(bundle: Path, tmp_path: Path, sightline: Sightline) -> None:
    """That the check above can fail."""
    path = installed(bundle, tmp_path, sightline, "--source", "0")
    whole = path.read_text()
    path.write_text(whole.replace("ExecStart=/", "ExecStart=nowhere/"))
    assert analyze("verify", path).returncode != 0
    path.write_text(re.sub(r"(?m)^(Protect|Restrict|SystemCall|NoNew|Private|Device|Capab).*\n", "", whole))
    security = analyze("security", "--offline=true", path).stdout
    match = re.search(r"exposure level for \S+: ([0-9.]+)", security)
    assert match is not None and float(match[1]) > MOST_EXPOSURE


def test_systemd_watches_and_restarts_it_for_ever(bundle: Path, tmp_path: Path, sightline: Sightline) -> None:
    path = installed(bundle, tmp_path, sightline, "--source", "0")
    assert value(path, "Type") == "notify"
    assert value(path, "WatchdogSec") == "2"
    assert value(path, "Restart") == "always"
    assert value(path, "StartLimitIntervalSec") == "0" and value(path, "RestartPreventExitStatus") == "2"
    assert value(path, "CapabilityBoundingSet") == ""
    assert value(path, "SupplementaryGroups") == "video"


@pytest.mark.slow
def test_a_ribbon_camera_gets_its_memory(bundle: Path, tmp_path: Path, sightline: Sightline) -> None:
    agent = tmp_path / "agent.yaml"
    for source, allowed in (("picamera", True), ("picamera:1", True), ("0", False)):
        agent.write_text(f"cameras: {{a: {{source: '{source}'}}}}")
        for options in (("--source", source), ("--source", f"door={source}"), ("--config", agent)):
            text = sightline("service", "show", bundle, "--", *options).stdout
            assert ("DeviceAllow=char-dma_heap rw" in text) == allowed, (source, options)


def command_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What the unit that was shown starts."""
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("ExecStart=")).partition("=")[2]
    return shlex.split(line)


@pytest.mark.slow
def test_only_paths_that_the_agent_reads_become_absolute(bundle: Path, tmp_path: Path, sightline: Sightline) -> None:
    """Also where other values are the names of files here."""
    (tmp_path / "agent.yaml").write_text("cameras: {a: {source: 0}}")
    (tmp_path / "clip.mp4").touch()
    (tmp_path / "ca.pem").touch()
    (tmp_path / "results.jsonl").touch()
    for folder in ("sightline", "pictures", "0"):
        (tmp_path / folder).mkdir()

    def words(*options: str) -> list[str]:
        env = {"PYTHONPATH": str(Path.cwd()), "PATH": "/usr/bin:/bin"}
        return command_of(sightline("service", "show", bundle, "--", *options, cwd=tmp_path, env=env))

    written = ("--output", "results.jsonl", "--on", "red>=0.5", "--snapshots", "pictures", "--mqtt-prefix", "sightline")
    command = words("--config", "agent.yaml", "--threshold", "0.5", "--mqtt-ca=ca.pem", *written)
    assert Path(command[0]).is_absolute() and command[1:3] == ["run", str(bundle)]
    read = ["--config", f"{tmp_path}/agent.yaml", "--threshold", "0.5", f"--mqtt-ca={tmp_path}/ca.pem"]
    assert command[3:] == [*read, *written]
    assert words("--config=agent.yaml")[3:] == [f"--config={tmp_path}/agent.yaml"]
    sources = ("--source", "0", "--source", "clip.mp4", "--source=door=clip.mp4", "--source", "rtsp://h/clip.mp4")
    assert words(*sources)[3:] == [
        "--source", "0", "--source", f"{tmp_path}/clip.mp4", f"--source=door={tmp_path}/clip.mp4", "--source",
        "rtsp://h/clip.mp4",
    ]  # fmt: skip


@pytest.fixture
def pause(tmp_path: Path) -> Callable[[], str]:
    """What the unit's pause asks `sleep` for at the next start; its file lies in tmp_path/memory."""
    text = Unit("a", ("/x",), ()).text
    line = next(line for line in text.splitlines() if line.startswith("ExecStartPre=")).partition("=")[2]
    program = [word.replace("$$", "$").replace("%%", "%") for word in shlex.split(line.removeprefix("-"))]
    sleep = tmp_path / "sleep"
    sleep.write_text("#!/bin/sh\necho $1\n")
    sleep.chmod(0o755)
    memory = tmp_path / "memory"
    memory.mkdir()
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "RUNTIME_DIRECTORY": str(memory)}

    def start() -> str:
        done = subprocess.run(program, env=env, capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()

    return start


def test_the_pause_grows_with_each_death_in_a_row(tmp_path: Path, pause: Callable[[], str]) -> None:
    assert [pause() for _ in range(10)] == ["", "", "1", "2", "4", "8", "16", "30", "30", "30"]
    (file,) = (tmp_path / "memory").iterdir()
    count, moment = file.read_text().split()
    file.write_text(f"{count} {int(moment) - 61}\n")
    assert pause() == "", "it ran for a minute"
    file.write_text("")
    assert pause() == ""
    assert Unit("a", ("/x",), ()).text != Unit("a", ("/y",), ()).text.replace("/y", "/x"), (
        "another command does not wait for this one's deaths"
    )


@pytest.mark.parametrize(
    "content", ["x y", "3", "08 5", "5 08", "-1 -1", "1 2 3", "9" * 30 + " 5", "5 " + "9" * 30, "\0"]
)
def test_a_damaged_count_of_deaths_is_ignored(tmp_path: Path, pause: Callable[[], str], content: str) -> None:
    assert pause() == ""
    (file,) = (tmp_path / "memory").iterdir()
    file.write_text(content + "\n")
    assert [pause(), pause(), pause()] == ["", "", "1"]


def test_a_failing_pause_does_not_prevent_the_start() -> None:
    """A shell that fails ends with 2, upon which systemd would not restart the unit."""
    assert "\nExecStartPre=-/bin/sh " in Unit("a", ("/x",), ()).text


@pytest.mark.parametrize(
    ("argument", "written"),
    [
        ("plain", "plain"),
        ("", '""'),
        ("a b", '"a b"'),
        ("100%", "100%%"),
        ("$HOME", "$$HOME"),
        ('say "hi"', '"say \\"hi\\""'),
        ("back\\slash", "back\\\\slash"),
        ("it's", '"it\'s"'),
        ("a;b", '"a;b"'),
    ],
)
def test_characters_with_a_meaning_for_systemd_are_escaped(argument: str, written: str) -> None:
    assert escape(argument) == written


def test_a_line_break_is_refused() -> None:
    with pytest.raises(ConfigError):
        escape("a\nExecStartPost=/bin/evil")


def test_a_bundle_in_a_home_can_be_read_and_no_other_home_is_open() -> None:
    assert "ProtectHome=read-only" in Unit("a", ("/x",), (Path("/home/me/a.bundle"),)).text
    assert "ProtectHome=yes" in Unit("a", ("/x",), (Path("/opt/a.bundle"),)).text


def test_a_line_of_the_template_without_a_value_is_left_out() -> None:
    plain = Unit("a", ("/x",), (Path("/opt/a"),)).text.splitlines()
    full = Unit("a", ("/x",), (Path("/opt/a"),), "pi", ("video",), Path("/opt/env"), edgetpu=True, ribbon=True)
    added = [line for line in full.text.splitlines() if line not in plain]
    assert added == [
        "EnvironmentFile=/opt/env", "User=pi", "DeviceAllow=char-usb_device rw", "DeviceAllow=/dev/apex_0 rw",
        "DeviceAllow=char-dma_heap rw",
    ]  # fmt: skip
    assert [line for line in plain if line not in full.text.splitlines()] == ["DynamicUser=yes"]
    assert not any("${" in line for line in full.text.replace("$${", "").splitlines())
    assert [line for line in plain if line.endswith("=")] == ["CapabilityBoundingSet=", "AmbientCapabilities="]


def test_only_a_coral_may_open_the_usb_bus() -> None:
    assert "usb" not in Unit("a", ("/x",), (Path("/opt/a.bundle"),)).text
    assert "DeviceAllow=char-usb_device rw" in Unit("a", ("/x",), (Path("/opt/a.bundle"),), edgetpu=True).text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--json"], "no camera: pass --source or --config"),
        (["--source", "0", "--supervise"], "systemd restarts the agent"),
        (["--source", "0", "--env-file", "x.env"], "systemd reads this file. Put the option before the --"),
        (["--source", "0", "--page-address", "0.0.0.0", "--new-page-token"], "each start would make another"),
        (["--source", "0", "--treshold", "0.5"], "--treshold"),
        (
            ["--source", "rtsp://h/user=admin&password=s3cr3t&channel=1.sdp"],
            "--source: everybody can see",
        ),
        (["--source=door=rtsp://admin:s3cr3t@h/"], "--source: everybody can see"),
        (
            ["--source", "0", "--webhook-header", "Authorization: Bearer s3cr3t"],
            "--webhook-header: everybody can see",
        ),
        (["--source", "0", "--webhook=https://ha/api/webhook/s3cr3t"], "--webhook: everybody can see"),
        (["--source", "0", "--mqtt", "me:s3cr3t@broker"], "--mqtt: everybody can see"),
    ],
)
def test_options_that_cannot_run_are_refused_at_once(
    bundle: Path, sightline: Sightline, options: list[str], words: str
) -> None:
    done = sightline("service", "show", bundle, "--", *options)
    assert done.returncode == 2 and words in done.stderr and "s3cr3t" not in done.stderr


@pytest.mark.parametrize("name", ["../evil", "a b", "", "-x"])
def test_an_invalid_unit_name_is_refused(bundle: Path, tmp_path: Path, sightline: Sightline, name: str) -> None:
    done = sightline("service", "install", "--root", tmp_path, f"--name={name}", bundle, "--", "--source", "0")
    if name:  # an empty one is the bundle's own
        assert done.returncode == 2 and "--name" in done.stderr and "use letters, digits" in done.stderr
        assert not list(tmp_path.rglob("*.service"))


def test_uninstall_leaves_nothing_and_lists_the_names(bundle: Path, tmp_path: Path, sightline: Sightline) -> None:
    path = installed(bundle, tmp_path, sightline, "--source", "0")
    done = sightline("service", "uninstall", "--root", tmp_path, "dor")
    assert done.returncode == 2 and "Installed names: door" in done.stderr
    assert sightline("service", "uninstall", "--root", tmp_path, "door").returncode == 0
    assert not path.exists()


@pytest.mark.slow
def test_the_token_of_an_open_page_is_shown_by_install_and_kept(
    bundle: Path, tmp_path: Path, sightline: Sightline
) -> None:
    """The agent would show it in the system's journal."""

    def install(*more: str) -> tuple[str, str]:
        line = ("service", "install", "--root", tmp_path, "--name", "door", *more, bundle, "--", "--source", "0")
        done = sightline(*line, "--page-address", "0.0.0.0")
        assert done.returncode == 0 and "others on the network can read the live page" in done.stderr
        match = re.search(r"token of the live page, shown only once: (\S+)", done.stdout)
        return match[1] if match else "", (tmp_path / "etc/sightline/door").read_text()

    token, document = install()
    unit = tmp_path / "etc/systemd/system/sightline-door.service"
    assert value(unit, "ExecStart").endswith("--page-token-file /etc/sightline/door")
    assert token and token not in document + unit.read_text()
    assert install() == ("", document)
    other, changed = install("--new-token")
    assert other not in ("", token) and changed != document
    assert sightline("service", "uninstall", "--root", tmp_path, "door").returncode == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_password_file_that_others_can_read_is_warned_of(bundle: Path, tmp_path: Path, sightline: Sightline) -> None:
    secret = tmp_path / "cameras.env"
    secret.write_text("P=hunter2\n")
    secret.chmod(0o644)
    line = ("service", "install", "--root", tmp_path, "--env-file", secret, bundle, "--", "--source", "0")
    done = sightline(*line, "--mqtt", "mqtt://me:${P}@broker")
    assert done.returncode == 0 and f"chmod 600 {secret}" in done.stderr
    assert "--mqtt: others on the network can read the password" in done.stderr
    secret.chmod(0o600)
    done = sightline(*line, "--mqtt", "mqtts://me:${P}@broker")
    assert (done.returncode, done.stderr) == (0, "")


def test_without_systemd_the_error_names_the_alternatives(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if Path("/run/systemd/system").is_dir():
        pytest.skip("systemd runs here")  # nothing is installed on a real machine by a test
    monkeypatch.setattr(sys, "argv", ["sightline"])
    done = click.testing.CliRunner().invoke(service, ["install", str(bundle), "--", "--source", "0"])
    assert isinstance(done.exception, ConfigError) and "--root" in str(done.exception)
