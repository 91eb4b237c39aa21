"""Faults of users, disks and machines: one line that names the fault, and an exit code of its kind."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from edge.app.run import check_writable
from edge.inference.model import open_model
from sightline.bundle import read_bundle, write_bundle
from sightline.device_config import load_device
from sightline.errors import ModelError, SightlineError
from sightline.files import seal
from sightline.npz import pack, unpack
from tests.conftest import Sightline

Done = subprocess.CompletedProcess[str]


def refused(done: Done, exit_code: int, *words: object) -> None:
    """It ended with the code, with one line on stderr that has all the words, and with nothing on stdout."""
    assert done.returncode == exit_code, done.stderr
    assert done.stdout == ""
    one_line(done, *words)


def one_line(done: Done, *words: object) -> None:
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for word in words:
        assert str(word) in lines[0], f"{word!r} is not in: {lines[0]}"


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to be spoilt."""
    return Path(shutil.copytree(bundle, tmp_path / "copy.bundle"))


def variant_file(bundle: Path, scheme: str = "static_int8") -> Path:
    return bundle / read_bundle(bundle).manifest.variants[scheme]


def flip_a_bit(path: Path, where: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if where is None else where] ^= 1
    path.write_bytes(data)


def test_one_flipped_bit_of_the_model_is_found(copy: Path, clip: Path, sightline: Sightline) -> None:
    path = variant_file(copy)
    flip_a_bit(path)
    refused(sightline("run", copy, "--source", clip), 2, path.name, "not the file that was written")


def test_a_damaged_variant_that_does_not_run_is_found_too(copy: Path, clip: Path, sightline: Sightline) -> None:
    path = variant_file(copy, "float32")
    flip_a_bit(path, -1)
    refused(sightline("run", copy, "--source", clip), 2, path.name)


@pytest.mark.parametrize("name", ["golden.npz", "labels.txt", "manifest.json"])
def test_one_flipped_bit_of_any_other_file_is_found(copy: Path, clip: Path, sightline: Sightline, name: str) -> None:
    flip_a_bit(copy / name)
    refused(sightline("run", copy, "--source", clip), 2, name)


def test_a_missing_file_is_named(copy: Path, clip: Path, sightline: Sightline) -> None:
    path = variant_file(copy)
    path.unlink()
    refused(sightline("run", copy, "--source", clip), 2, path.name, "cannot be read")


@pytest.mark.parametrize("sealed", [True, False])
def test_a_bundle_of_a_newer_sightline_says_how_to_upgrade(
    copy: Path, clip: Path, sightline: Sightline, sealed: bool
) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest.update(schema=manifest["schema"] + 1, something_new=True)
    (copy / "manifest.json").write_bytes(seal(manifest) if sealed else json.dumps(manifest).encode())
    refused(sightline("run", copy, "--source", clip), 2, "newer Sightline", "pip install -U sightline")


@pytest.mark.parametrize("what", ["no such folder", "a folder", "a file"])
def test_what_is_no_bundle_is_named(tmp_path: Path, clip: Path, sightline: Sightline, what: str) -> None:
    path = tmp_path / "thing.bundle"
    if what == "a folder":
        path.mkdir()
    if what == "a file":
        path.write_bytes(b"TFL3")
    refused(sightline("run", path, "--source", clip), 2, "thing.bundle")


@pytest.mark.parametrize("scheme", ["static_int8", "float32"])
def test_a_machine_that_computes_other_numbers_is_found(
    bundle: Path, clip: Path, sightline: Sightline, tmp_path: Path, scheme: str
) -> None:
    read = read_bundle(bundle)
    files = {name: data for name, data in read.contents.items() if name != "labels.txt"}
    golden = unpack(files["golden.npz"], "golden.npz")
    key = f"{scheme}/output_0"
    golden[key] = golden[key] + np.float32(0.2 * np.ptp(golden[key]))
    path = tmp_path / "other.bundle"
    write_bundle(path, read.manifest, {**files, "golden.npz": pack(**golden)})
    command = ("run", path, "--source", clip, "--no-page", "--json", "--frames", 1)
    refused(sightline(*command, "--scheme", scheme), 3, "other outputs than the measured ones", f"{scheme}.tflite")
    sound = {"static_int8": "float32", "float32": "static_int8"}[scheme]
    assert sightline(*command, "--scheme", sound).returncode == 0


@pytest.mark.parametrize("frames", [0, 1])
def test_a_bundle_whose_samples_prove_nothing_is_refused(bundle: Path, tmp_path: Path, frames: int) -> None:
    read = read_bundle(bundle)
    files = {name: data for name, data in read.contents.items() if name != "labels.txt"}
    golden = {k: v[: frames if k == "frames" else None] for k, v in unpack(files["golden.npz"], "golden.npz").items()}
    write_bundle(tmp_path / "other.bundle", read.manifest, {**files, "golden.npz": pack(**golden)})
    with pytest.raises(ModelError, match=r"golden\.npz: .*row"):
        open_model(read_bundle(tmp_path / "other.bundle"), load_device("desktop")[1])


def test_a_bundle_that_can_prove_nothing_is_refused(
    bundle: Path, clip: Path, sightline: Sightline, tmp_path: Path
) -> None:
    read = read_bundle(bundle)
    files = {name: data for name, data in read.contents.items() if name not in ("labels.txt", "golden.npz")}
    write_bundle(tmp_path / "bare.bundle", read.manifest, files)
    refused(sightline("run", tmp_path / "bare.bundle", "--source", clip), 2, "golden.npz")


@pytest.mark.parametrize("part", ["input", "labels", "model"])
def test_a_bundle_whose_parts_do_not_fit_is_refused(
    bundle: Path, clip: Path, sightline: Sightline, tmp_path: Path, part: str
) -> None:
    read = read_bundle(bundle)
    files = {name: data for name, data in read.contents.items() if name != "labels.txt"}
    manifest = read.manifest
    if part == "input":
        manifest = dataclasses.replace(manifest, input=dataclasses.replace(manifest.input, width=48))
    if part == "labels":
        output = dataclasses.replace(manifest.output, labels=(*manifest.output.labels, "one more"))
        manifest = dataclasses.replace(manifest, output=output)
    if part == "model":
        files[manifest.variants["static_int8"]] = b"this is no model" * 100
    path = tmp_path / "odd.bundle"
    write_bundle(path, manifest, files)
    refused(sightline("run", path, "--source", clip), 2, manifest.variants["static_int8"])


@pytest.mark.parametrize("source", ["absent.mp4", "ftp://127.0.0.1/x", "test:huge", ""])
def test_a_source_that_is_none_is_bad_input(bundle: Path, sightline: Sightline, source: str) -> None:
    refused(sightline("run", bundle, "--source", source, "--no-page", timeout=20), 2, source)


def first_cause(bundle: Path, source: str, within_s: float = 10.0) -> tuple[str, str]:
    """Why the agent does not see the source yet: (code, text), of its first result that is no `opening`. It goes on
    trying; SIGTERM ends it well."""
    command = [sys.executable, "-m", "sightline", "run", str(bundle), "--source", source, "--json", "--no-page"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        killer = threading.Timer(within_s, process.kill)
        killer.start()
        try:
            assert process.stdout is not None and process.stderr is not None
            for line in process.stdout:
                result = json.loads(line)
                assert result["status"] == "not_inferred"
                if result["cause_code"] != "opening":
                    process.terminate()
                    break
            else:
                raise AssertionError(f"no cause within {within_s} s: {process.stderr.read()}")
            process.stdout.read()
            stderr = process.stderr.read()
            assert process.wait(5) == 0, stderr
            assert "Traceback" not in stderr and "secret" not in stderr
            return result["cause_code"], result["cause"]
        finally:
            killer.cancel()
            process.kill()


@pytest.mark.parametrize("source", ["99", "/dev/video99"])
def test_a_camera_that_is_not_there_is_waited_for(bundle: Path, source: str) -> None:
    code, cause = first_cause(bundle, source)
    assert code == "camera" and cause.startswith("/dev/video99: no such camera"), cause


def test_a_clip_that_is_cut_off_gives_what_it_has_and_then_fails(
    bundle: Path, sightline: Sightline, tmp_path: Path
) -> None:
    path, output = tmp_path / "cut.avi", tmp_path / "out.jsonl"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (64, 64))
    for _ in range(60):
        writer.write(np.full((64, 64, 3), (40, 50, 200), np.uint8))
    writer.release()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    done = sightline("run", bundle, "--source", path, "--json", "--no-page", "--output", output)
    assert done.returncode == 2, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert 5 < len(lines) < 55
    assert [line["frame_id"] for line in lines] == list(range(len(lines)))
    assert {line["predictions"][0]["label"] for line in lines} == {"red"}
    assert output.read_text() == done.stdout
    *_, last = done.stderr.splitlines()
    assert last.startswith("error: ") and "cut.avi" in last
    assert f"ends after {len(lines)} of the 60 frames" in last
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", [b"just a text\n" * 200, b""])
def test_a_text_that_calls_itself_a_clip_is_named(
    bundle: Path, sightline: Sightline, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "holiday.mp4"
    path.write_bytes(content)
    refused(sightline("run", bundle, "--source", path, "--no-page", "--json"), 2, "holiday.mp4", "not a video")


def test_a_device_that_runs_another_program_says_which(bundle: Path, clip: Path, sightline: Sightline) -> None:
    done = sightline("run", bundle, "--source", clip, "--device", "browser_phone")
    refused(done, 2, "browser_phone", "browser", "--device desktop")


def test_an_unknown_device_has_near_matches(bundle: Path, clip: Path, sightline: Sightline) -> None:
    done = sightline("run", bundle, "--source", clip, "--device", "rasberry_pi_5")
    refused(done, 2, "rasberry_pi_5", "did you mean raspberry_pi_5", "desktop")


def test_a_delegate_that_is_not_there_is_no_fault_of_the_bundle(bundle: Path, clip: Path, sightline: Sightline) -> None:
    refused(sightline("run", bundle, "--source", clip, "--device", "coral_usb"), 2, "Edge TPU", "--device desktop")


def test_an_unknown_variant_is_named_with_those_that_are(bundle: Path, clip: Path, sightline: Sightline) -> None:
    done = sightline("run", bundle, "--source", clip, "--no-page", "--scheme", "int4")
    refused(done, 2, "'int4'", "static_int8, float32")


def test_an_option_out_of_range_is_bad_input(bundle: Path, clip: Path, sightline: Sightline) -> None:
    for option, value in (("--threshold", 1.5), ("--top", 0), ("--page-port", 70000), ("--frames", -1)):
        done = sightline("run", bundle, "--source", clip, option, value)
        assert (done.returncode, done.stdout) == (2, "")
        assert option in done.stderr and "Traceback" not in done.stderr


def test_a_page_port_that_is_taken_is_named(bundle: Path, sightline: Sightline) -> None:
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = sightline("run", bundle, "--source", "test:", "--frames", 1, "--page-port", port, "--json")
    refused(done, 3, f"--page-port {port}", "in use")


def test_without_a_wish_the_page_takes_any_port(bundle: Path, sightline: Sightline) -> None:
    """Two agents on one machine: 8480 is taken, by the first or by anything else."""
    with closing(socket.socket()) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("127.0.0.1", 8480))
            other.listen()
        except OSError:
            pass  # another program has it: as good
        done = sightline("run", bundle, "--source", "test:", "--frames", 1, "--json")
    assert done.returncode == 0, done.stderr
    assert "live page: http://127.0.0.1:" in done.stderr and ":8480" not in done.stderr


def test_an_address_where_nothing_listens_is_waited_for(bundle: Path) -> None:
    with closing(socket.socket()) as unused:  # bound and not listening: no other program gets the port
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        code, cause = first_cause(bundle, f"rtsp://me:secret@{address}/live")
    assert code == "camera" and cause.startswith(f"rtsp://{address}/live: no answer from"), cause


@pytest.mark.slow
def test_a_server_that_says_nothing_is_waited_for(bundle: Path) -> None:
    """It takes the connection and never answers: OpenCV by itself waits for half a minute."""
    with closing(socket.socket()) as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        code, cause = first_cause(bundle, f"rtsp://{address}/live", within_s=15)
    assert code == "camera" and cause.startswith(f"rtsp://{address}/live: "), cause


@pytest.mark.parametrize("where", ["first", "last"])
def test_debug_shows_where_it_went_wrong(bundle: Path, sightline: Sightline, where: str) -> None:
    arguments = ["run", bundle, "--source", "absent.mp4"]
    arguments.insert(0 if where == "first" else len(arguments), "--debug")
    done = sightline(*arguments)
    assert done.returncode == 2, "the exit code is the same with and without the traceback"
    assert "Traceback" in done.stderr and "InputError: absent.mp4" in done.stderr


@pytest.mark.parametrize("option", ["--output", "--summary"])
def test_a_place_that_cannot_take_the_results_is_refused_at_once(
    bundle: Path, clip: Path, tmp_path: Path, sightline: Sightline, option: str
) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "out.json"
    refused(sightline("run", bundle, "--source", clip, option, place), 2, option, place, "cannot be made")
    refused(sightline("run", bundle, "--source", clip, option, tmp_path), 2, option, tmp_path, "is a folder")


@pytest.mark.parametrize(("flag", "code"), [(os.ST_RDONLY, 3), (0, 2)])
def test_a_disk_that_went_read_only_is_the_machines_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: int, code: int
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=flag))
    with pytest.raises(SightlineError, match=r"--output .*out\.json") as raised:
        check_writable(tmp_path / "out.json", "--output")
    assert raised.value.exit_code == code
