"""The systemd unit: what systemd itself says of it, and command lines that it must not misread."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click.testing
import pytest

from edge.service import Unit, escape, service
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
    (found,) = re.findall(rf"^{key}=(.*)$", path.read_text(), re.MULTILINE)
    return str(found)


def test_systemd_takes_the_unit_and_calls_it_safe(bundle: Path, tmp_path: Path, sightline: Sightline) -> None:
    path = installed(bundle, tmp_path, sightline, "--source", "rtsp://${U}:${P}@camera.local/a b%20c", "--json")
    verified = analyze("verify", path)
    assert (verified.returncode, verified.stderr.strip()) == (0, ""), verified.stderr
    judged = analyze("security", "--offline=true", path).stdout
    found = re.search(r"exposure level for \S+: ([0-9.]+)", judged)
    assert found is not None and float(found[1]) <= MOST_EXPOSURE, judged


def test_a_unit_with_a_mistake_is_refused(bundle: Path, tmp_path: Path, sightline: Sightline) -> None:
    """That the check above can fail."""
    path = installed(bundle, tmp_path, sightline, "--source", "0")
    whole = path.read_text()
    path.write_text(whole.replace("ExecStart=/", "ExecStart=nowhere/"))
    assert analyze("verify", path).returncode != 0
    path.write_text(re.sub(r"(?m)^(Protect|Restrict|SystemCall|NoNew|Private|Device|Capab).*\n", "", whole))
    judged = analyze("security", "--offline=true", path).stdout
    found = re.search(r"exposure level for \S+: ([0-9.]+)", judged)
    assert found is not None and float(found[1]) > MOST_EXPOSURE


def test_it_is_watched_and_comes_back_for_ever(bundle: Path, tmp_path: Path, sightline: Sightline) -> None:
    path = installed(bundle, tmp_path, sightline, "--source", "0")
    assert value(path, "Type") == "notify"
    assert value(path, "WatchdogSec") == "2"
    assert value(path, "Restart") == "always"
    assert value(path, "StartLimitIntervalSec") == "0"
    assert value(path, "CapabilityBoundingSet") == ""
    assert value(path, "SupplementaryGroups") == "video"


def test_a_ribbon_camera_gets_its_memory(bundle: Path, tmp_path: Path, sightline: Sightline) -> None:
    agent = tmp_path / "agent.yaml"
    for source, allowed in (("picamera", True), ("picamera:1", True), ("0", False)):
        agent.write_text(f"cameras: {{a: {{source: '{source}'}}}}")
        for options in (("--source", source), ("--source", f"door={source}"), ("--config", agent)):
            text = sightline("service", "show", bundle, "--", *options).stdout
            assert ("DeviceAllow=char-dma_heap rw" in text) == allowed, (source, options)


def test_files_are_found_from_the_units_own_folder(bundle: Path, tmp_path: Path, sightline: Sightline) -> None:
    (tmp_path / "agent.yaml").write_text("cameras: {a: {source: 0}}")
    done = sightline("service", "show", bundle, "--", "--config", "agent.yaml", "--threshold", "0.5", cwd=tmp_path,
                     env={"PYTHONPATH": str(Path.cwd()), "PATH": "/usr/bin:/bin"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    command = next(line for line in done.stdout.splitlines() if line.startswith("ExecStart=")).partition("=")[2]
    words = shlex.split(command)
    assert words[words.index("--config") + 1] == str(tmp_path / "agent.yaml")
    assert words[words.index("--threshold") + 1] == "0.5"
    assert Path(words[0]).is_absolute() and str(bundle) in words


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
def test_what_systemd_would_take_for_its_own_is_escaped(argument: str, written: str) -> None:
    assert escape(argument) == written


def test_a_line_break_is_refused() -> None:
    with pytest.raises(ConfigError):
        escape("a\nExecStartPost=/bin/evil")


def test_a_bundle_in_a_home_can_be_read_and_no_other_home_is_open() -> None:
    assert "ProtectHome=read-only" in Unit("a", ("/x",), Path("/home/me/a.bundle")).text
    assert "ProtectHome=yes" in Unit("a", ("/x",), Path("/opt/a.bundle")).text


def test_only_a_coral_gets_at_the_usb_bus() -> None:
    assert "usb" not in Unit("a", ("/x",), Path("/opt/a.bundle")).text
    assert "DeviceAllow=char-usb_device rw" in Unit("a", ("/x",), Path("/opt/a.bundle"), edgetpu=True).text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--json"], "--source or a --config is needed"),
        (["--source", "0", "--supervise"], "systemd does that"),
    ],
)
def test_what_could_not_run_is_refused_at_once(
    bundle: Path, sightline: Sightline, options: list[str], words: str
) -> None:
    done = sightline("service", "show", bundle, "--", *options)
    assert done.returncode == 2 and words in done.stderr


@pytest.mark.parametrize("name", ["../evil", "a b", "", "-x"])
def test_a_name_that_is_no_file_of_ours_is_refused(
    bundle: Path, tmp_path: Path, sightline: Sightline, name: str
) -> None:
    done = sightline("service", "install", "--root", tmp_path, f"--name={name}", bundle, "--", "--source", "0")
    if name:  # an empty one is the bundle's own
        assert done.returncode == 2 and "--name" in done.stderr
        assert not list(tmp_path.rglob("*.service"))


def test_uninstall_leaves_nothing_and_names_what_there_is(bundle: Path, tmp_path: Path, sightline: Sightline) -> None:
    path = installed(bundle, tmp_path, sightline, "--source", "0")
    done = sightline("service", "uninstall", "--root", tmp_path, "dor")
    assert done.returncode == 2 and "there are: door" in done.stderr
    assert sightline("service", "uninstall", "--root", tmp_path, "door").returncode == 0
    assert not path.exists()


def test_without_systemd_it_is_said_what_to_do_instead(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if Path("/run/systemd/system").is_dir():
        pytest.skip("systemd runs here")  # nothing is installed on a real machine by a test
    monkeypatch.setattr(sys, "argv", ["sightline"])
    done = click.testing.CliRunner().invoke(service, ["install", str(bundle), "--", "--source", "0"])
    assert isinstance(done.exception, ConfigError) and "--root" in str(done.exception)
