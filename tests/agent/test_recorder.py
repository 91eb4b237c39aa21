"""Recordings: what was seen and said can be seen and said again, anywhere, and a difference does not stay hidden."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.capture.mailbox import Slot
from edge.capture.sources.recording import Recording, ReplayOptions
from edge.outputs.recorder import Recorder
from sightline.errors import ConfigError, IntegrityError, ModelError
from sightline.files import file_table, seal
from sightline.predictions import Cause, Classification, ModelId, Result
from tests.conftest import Sightline

MODEL = ModelId("m", "1", "ab" * 32)


def result(i: int, cause: Cause | None = None, score: float = 0.5) -> Result:
    seen = () if cause else (Classification("red", 2, score),)
    return Result("desktop", "camera", i, "2026-01-01T00:00:00.000Z", 5, MODEL, 8, 6, {}, seen, {}, cause)


def slot(i: int) -> Slot:
    return Slot(frame=np.random.default_rng(i).integers(0, 255, (6, 8, 3), np.uint8))


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory, bundle: Path, clip: Path, sightline: Sightline) -> Path:
    """A clip's 60 frames. Read only."""
    folder = tmp_path_factory.mktemp("recording") / "kept"
    done = sightline("run", bundle, "--source", clip, "--no-page", "--record", folder, "--top", 2, "--threshold", 0.01)
    assert done.returncode == 0, done.stderr
    assert f"recorded 60 frames in {folder}, " in done.stderr
    return folder


def test_a_recording_gives_the_same_again_and_says_so(recording: Path, bundle: Path, sightline: Sightline) -> None:
    done = sightline("run", bundle, "--source", recording, "--json", "--no-page")
    assert done.returncode == 0, done.stderr
    assert "replayed: 60 of 60 results are as recorded\n" in done.stderr
    then, now = ((recording / "results.jsonl").read_text().splitlines(), done.stdout.splitlines())
    assert [json.loads(line)["predictions"] for line in then] == [json.loads(line)["predictions"] for line in now]
    assert {len(json.loads(line)["predictions"]) for line in now} <= {1, 2}, "--top and --threshold are replayed, too"


def test_another_computation_is_found(recording: Path, bundle: Path, sightline: Sightline) -> None:
    done = sightline("run", bundle, "--source", recording, "--no-page", "--scheme", "float32")
    assert done.returncode == 3
    assert "of 60 results are as recorded; first difference: 000000.png has " in done.stderr
    assert "the recording is of another model" in done.stderr
    assert "this run differs from the recorded one" in done.stderr


def test_a_part_of_a_recording_says_how_much(recording: Path, bundle: Path, sightline: Sightline) -> None:
    done = sightline("run", bundle, "--source", recording, "--no-page", "--frames", 10)
    assert done.returncode == 0, done.stderr
    assert "replayed: 10 of 10 results are as recorded, 50 were not run\n" in done.stderr


def test_a_camera_is_recorded_as_well(bundle: Path, tmp_path: Path, sightline: Sightline) -> None:
    options = ["--no-page", "--frames", 50, "--record", tmp_path / "kept"]
    done = sightline("run", bundle, "--source", "test:64x48@100", *options)
    assert done.returncode == 0, done.stderr
    frames = json.loads((tmp_path / "kept/record.json").read_text())["frames"]
    assert frames == 50 or f"recorded {frames} frames" in done.stderr, "each one that was left out is told"
    assert frames >= 40
    again = sightline("run", bundle, "--source", tmp_path / "kept", "--no-page")
    assert again.returncode == 0, again.stderr
    assert f"replayed: {frames} of {frames} results are as recorded\n" in again.stderr


@pytest.mark.parametrize("what", ["pixel", "result", "document"])
def test_a_recording_that_was_changed_is_refused(what: str, recording: Path, bundle: Path, tmp_path: Path,
                                                 sightline: Sightline) -> None:  # fmt: skip
    folder = Path(shutil.copytree(recording, tmp_path / "kept"))
    if what == "pixel":
        image = cv2.imread(str(folder / "000007.png"))
        assert image is not None
        image[3, 3, 0] ^= 1
        cv2.imwrite(str(folder / "000007.png"), image)
    else:
        path = folder / ("results.jsonl" if what == "result" else "record.json")
        path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    done = sightline("run", bundle, "--source", folder, "--no-page")
    assert done.returncode == 2, done.stderr
    name = {"pixel": "000007.png", "result": "results.jsonl", "document": "record.json"}[what]
    assert f"{name}: is not the" in done.stderr


def test_a_folder_in_use_is_left_alone(recording: Path, bundle: Path, clip: Path, sightline: Sightline) -> None:
    before = sorted(recording.iterdir())
    done = sightline("run", bundle, "--source", clip, "--no-page", "--record", recording)
    assert (done.returncode, sorted(recording.iterdir())) == (2, before)
    assert "is not empty. Name a new folder" in done.stderr


def test_a_recording_beside_another_source_is_refused(recording: Path, bundle: Path, clip: Path,
                                                      sightline: Sightline) -> None:  # fmt: skip
    done = sightline("run", bundle, "--source", recording, "--source", clip, "--no-page")
    assert done.returncode == 2
    assert "a recording is replayed alone" in done.stderr


def test_frames_that_nobody_looked_at_are_not_recorded(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "kept", lossless=True, options=ReplayOptions())
    recorder.observe(result(0), slot(0))
    recorder.observe(result(1, Cause("no_motion", "nothing moves")), slot(1))
    recorder.observe(result(2, Cause("no_frame", "silent")), None)
    recorder.close()
    assert recorder.frames == 1
    assert np.array_equal(Recording(tmp_path / "kept").read(None), slot(0).frame)


def test_nothing_seen_leaves_no_recording(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "kept", lossless=True, options=ReplayOptions())
    recorder.close()
    assert not any((tmp_path / "kept").iterdir())


def fill(recorder: Recorder, frames: int) -> None:
    for i in range(frames):
        recorder.observe(result(i), slot(i))
    recorder.close()


def test_it_ends_at_its_limit_and_what_it_has_is_whole(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "kept", lossless=True, options=ReplayOptions(), limit=1000)
    fill(recorder, 30)
    assert recorder.failed is not None and "MB are used up" in recorder.failed
    assert 1 <= recorder.frames < 30
    assert len(Recording(tmp_path / "kept").expected) == recorder.frames


def test_a_fault_of_the_disk_ends_the_recording_and_nothing_else(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "kept", lossless=True, options=ReplayOptions())
    (tmp_path / "kept/000003.png").mkdir()
    fill(recorder, 30)
    assert (recorder.failed, recorder.frames) == ("Is a directory", 3)
    assert len(Recording(tmp_path / "kept").expected) == 3


def test_a_slow_disk_costs_a_camera_frames_of_the_recording_only(tmp_path: Path) -> None:
    gate = threading.Event()

    def slow(path: Path, data: bytes) -> None:
        gate.wait(10)
        path.write_bytes(data)

    recorder = Recorder(tmp_path / "kept", lossless=False, options=ReplayOptions(), write_bytes=slow)
    for i in range(30):
        recorder.observe(result(i), slot(i))
    gate.set()
    recorder.close()
    assert recorder.frames + recorder.dropped == 30
    assert recorder.dropped >= 20


def test_a_place_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(ConfigError, match=r"--record .*file"):
            Recorder(place, lossless=True, options=ReplayOptions())


def test_a_recording_cut_off_by_a_power_cut_is_a_folder_of_images(recording: Path, bundle: Path, tmp_path: Path,
                                                                    sightline: Sightline) -> None:  # fmt: skip
    folder = Path(shutil.copytree(recording, tmp_path / "kept"))
    (folder / "record.json").unlink()
    done = sightline("run", bundle, "--source", folder, "--json", "--no-page", "--top", 2, "--threshold", 0.01)
    assert done.returncode == 0, done.stderr
    then, now = ((recording / "results.jsonl").read_text().splitlines(), done.stdout.splitlines())
    assert [json.loads(line)["predictions"] for line in then] == [json.loads(line)["predictions"] for line in now]


def test_a_document_that_points_elsewhere_is_refused(recording: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(recording, tmp_path / "kept"))
    (folder / "000001.png").unlink()
    replay = Recording(folder)
    replay.open()
    replay.read(None)
    with pytest.raises(IntegrityError, match=r"000001\.png: cannot be read"):
        replay.read(None)


def reseal(folder: Path, **changes: object) -> Path:
    """What anybody can do to a recording: change its document and seal it again."""
    document = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_bytes(seal(document | changes))
    return folder


@pytest.mark.parametrize(
    "option",
    [
        {"webhook": "http://127.0.0.1:1/?k=${PATH}"},
        {"mqtt": "mqtt://127.0.0.1:1"},
        {"page_address": "0.0.0.0"},
        {"output": "/tmp/x"},
        {"top": "3"},
        {"top": 0},
        {"top": True},
        {"threshold": float("nan")},
        {"threshold": 1.5},
        {"track": 1},
    ],
)
def test_a_recording_sets_nothing_but_what_its_predictions_depend_on(
    option: dict[str, object], recording: Path, tmp_path: Path
) -> None:
    folder = reseal(Path(shutil.copytree(recording, tmp_path / "kept")), options={"top": 2, **option})
    with pytest.raises(ModelError, match=rf"record\.json: options: .*{next(iter(option))}"):
        Recording(folder)


def test_a_mailed_recording_sends_nothing_out(recording: Path, bundle: Path, tmp_path: Path,
                                              sightline: Sightline) -> None:  # fmt: skip
    """The command line ends before anything is opened, and says which key is a stranger's."""
    folder = reseal(Path(shutil.copytree(recording, tmp_path / "kept")), options={"webhook": "http://127.0.0.1:1/"})
    done = sightline("run", bundle, "--source", folder, "--no-page")
    assert done.returncode == 2 and "unknown key 'webhook'" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"options": None}, None),
        ({"options": [1]}, None),
        ({"moments_ns": None}, None),
        ({"moments_ns": [1, "2"]}, None),
        ({"frames": 59}, None),
        ({"frames": "60"}, None),
        ({"frames": 61, "moments_ns": [0] * 61}, None),
        ({}, b"5"),
        ({}, b"[" * 100_000),
        ({}, b'{"predictions": [{"label": 5, "score": 1}], "model": {"sha256": ""}}'),
        ({}, b'{"predictions": [{"label": "a", "score": "1"}], "model": {"sha256": ""}}'),
        ({}, b'{"predictions": [], "model": 5}'),
        ({}, b"\xff"),
    ],
)
def test_a_recording_that_somebody_wrote_by_hand_is_refused(
    changes: dict[str, object], line: bytes | None, recording: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(recording, tmp_path / "kept"))
    if line is not None:
        data = line + b"\n" + (folder / "results.jsonl").read_bytes().partition(b"\n")[2]
        (folder / "results.jsonl").write_bytes(data)
        files = json.loads((folder / "record.json").read_text())["files"]
        changes = {"files": files | file_table({"results.jsonl": data})}
    with pytest.raises(ModelError, match=r"record\.json: |results\.jsonl"):
        Recording(reseal(folder, **changes))


def test_a_fault_of_our_own_ends_the_recording_and_nothing_else(tmp_path: Path) -> None:
    def broken(*_: object) -> None:
        raise MemoryError("no room")

    recorder = Recorder(tmp_path / "kept", lossless=True, options=ReplayOptions(), write_bytes=broken)
    fill(recorder, 30)
    assert recorder.failed == "MemoryError: no room"


@pytest.mark.parametrize("lossless", [True, False])
def test_a_disk_that_hangs_does_not_keep_the_agent_from_ending(tmp_path: Path, lossless: bool) -> None:
    gate = threading.Event()
    recorder = Recorder(
        tmp_path / "kept", lossless=lossless, options=ReplayOptions(), stall_s=0.1,
        write_bytes=lambda *_: gate.wait(20),
    )  # fmt: skip
    fill(recorder, 30)
    assert recorder.failed == "the disk does not accept data"
    gate.set()
