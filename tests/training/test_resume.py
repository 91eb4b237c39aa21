"""A training that was killed goes on as if nothing had been, or says why it cannot."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.support.waiting import wait_until
from sightline.errors import ConfigError, IntegrityError, ModelError
from sightline.run_folder import read_run
from tests.conftest import write_coloured
from tests.support.training import ARCH, Stopped, arguments, learn, same, stop_after, weights, with_model
from trainer.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from trainer.model import build

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")

ROOT = Path(__file__).parents[2]
KILLED = """
import json, os, signal, sys
from sightline.files import write_file
from tests.support.training import run_line
from trainer.train import Setup

def write(path, data):
    if path.name == "state.json" and json.loads(data)["epoch"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    write_file(path, data)

run_line(sys.argv[1:], setup=Setup(write=write))
"""


def assert_equal_runs(run: Path, uninterrupted: Path) -> None:
    assert same(weights(run), weights(uninterrupted))
    assert (run / "history.jsonl").read_bytes() == (uninterrupted / "history.jsonl").read_bytes()
    assert (run / "golden.npz").read_bytes() == (uninterrupted / "golden.npz").read_bytes()
    names = sorted(p.name for p in (uninterrupted / "checkpoint").glob("*.safetensors"))
    assert sorted(p.name for p in (run / "checkpoint").glob("*.safetensors")) == names
    for name in names:
        a, b = (load_file(folder / "checkpoint" / name) for folder in (run, uninterrupted))
        a.pop("rng", None), b.pop("rng", None)  # the same numbers were drawn, or the weights would differ
        assert same(a, b), name


def group(leader: int) -> list[int]:
    """The processes of a group that live."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended in between
            state, _, leads = path.read_text().rpartition(")")[2].split()[:3]
            if int(leads) == leader and state not in "ZX":
                found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_a_killed_training_ends_with_the_very_weights_of_one_that_was_not(
    pictures: Path, learned: Path, tmp_path: Path
) -> None:
    """SIGKILL, at the worst moment: the third epoch's tensors are written, and nothing names them yet."""
    out, log = tmp_path / "colours", tmp_path / "log"
    command = [sys.executable, "-c", KILLED, *arguments(pictures, out)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }  # threads: as many as here: sums of floats depend on it
    with log.open("w") as f:
        process = subprocess.Popen(command, stdout=f, stderr=f, env=environment, start_new_session=True)
    try:
        assert process.wait(120) == -signal.SIGKILL, log.read_text()
        wait_until(lambda: not group(process.pid), 30, "its workers have outlived it")
    finally:
        for pid in group(process.pid):
            os.kill(pid, signal.SIGKILL)
    assert json.loads((out / "checkpoint" / "state.json").read_text())["epoch"] == 1
    assert (out / "checkpoint" / "epoch-0002.safetensors").exists()
    assert not (out / "model.json").exists()
    with pytest.raises(ModelError, match=r"not a finished run: model\.json cannot be read"):
        read_run(out)
    learn(pictures, out, resume=True)
    assert_equal_runs(out, learned)


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [0, 2])
def test_it_does_not_matter_after_which_epoch(pictures: Path, learned: Path, tmp_path: Path, epoch: int) -> None:
    out = tmp_path / "colours"
    with pytest.raises(Stopped):
        learn(pictures, out, setup=stop_after(epoch))
    learn(pictures, out, resume=True)
    assert_equal_runs(out, learned)


@pytest.mark.slow
def test_a_model_with_dropout_goes_on_exactly_too(pictures: Path, tmp_path: Path) -> None:
    """Dropout draws from torch's own random state while training: everything that draws from it has to be repeated."""

    def make(classes: int) -> torch.nn.Module:
        model = build(ARCH, classes, "none", 32)
        model.backbone.head.drop.p = 0.5  # type: ignore[union-attr]
        return model

    learn(pictures, tmp_path / "straight" / "colours", with_model(make))
    out = tmp_path / "colours"
    with pytest.raises(Stopped):
        learn(pictures, out, with_model(make), stop_after(1))
    learn(pictures, out, with_model(make), resume=True)
    assert_equal_runs(out, tmp_path / "straight" / "colours")


@pytest.mark.slow
def test_a_finished_run_may_be_resumed_and_stays_what_it_is(pictures: Path, learned: Path, tmp_path: Path) -> None:
    out = shutil.copytree(learned, tmp_path / "colours")
    learn(pictures, out, resume=True)
    assert_equal_runs(out, learned)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"learning_rate": 0.1}, "learning_rate was 0.002, is 0.1"),
        ({"seed": 1}, "seed was 0, is 1"),
        (
            {"augment": "none", "flip": None, "no_flip": True},
            "augment was 'default', is 'none', flip was True, is False",
        ),
        ({"batch": 8}, "batch was 16, is 8"),
        ({"epochs": 9}, "epochs was 4, is 9"),
        ({"image_size": 48}, "input was"),
        ({"resize": "stretch"}, "input was"),
    ],
)
def test_other_settings_are_refused_by_name(
    pictures: Path, learned: Path, tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    out = shutil.copytree(learned, tmp_path / "colours")
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match=f"cannot be resumed with other settings.*{told}"):
        learn(pictures, out, resume=True, **options)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_other_pictures_are_refused(learned: Path, tmp_path: Path) -> None:
    other = write_coloured(tmp_path / "other", 20, seed=1)
    with pytest.raises(ConfigError, match=r"cannot be resumed with other settings \(data was"):
        learn(other, shutil.copytree(learned, tmp_path / "colours"), resume=True)


def test_a_checkpoint_has_no_pickle_in_it(learned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = list((learned / "checkpoint").iterdir())
    assert {p.suffix for p in files} == {".safetensors", ".json"}
    for path in files:
        data = path.read_bytes()
        body = data if path.suffix == ".json" else data[8 : 8 + int.from_bytes(data[:8], "little")]
        assert isinstance(json.loads(body), dict)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    checkpoint = load_checkpoint(learned / "checkpoint")
    tensors, best = checkpoint.tensors, checkpoint.best
    assert checkpoint.epoch == 3
    assert checkpoint.state["config"]["seed"] == 0
    assert {name.split(".")[0] for name in tensors} == {"model", "ema", "optimizer", "rng"}
    assert best is not None
    assert best.keys() == {name.removeprefix("ema.") for name in tensors if name.startswith("ema.")}


def some(value: float) -> dict[str, Tensor]:
    return {"model.a": torch.full((3,), value), "model.n": torch.tensor(int(value))}


def saved(epoch: int, is_best: bool = True) -> Checkpoint:
    return Checkpoint(epoch, {"x": epoch}, some(epoch), some(10 + epoch) if is_best else None)


def assert_is(checkpoint: Checkpoint, epoch: int, best_epoch: int) -> None:
    assert (checkpoint.epoch, checkpoint.state) == (epoch, {"x": epoch})
    assert same(checkpoint.tensors, some(epoch))
    assert checkpoint.best is not None and same(checkpoint.best, some(10 + best_epoch))


def test_only_the_last_and_the_best_epoch_are_kept(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, saved(0))
    save_checkpoint(tmp_path, saved(1))
    save_checkpoint(tmp_path, saved(2, is_best=False))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best-0001.safetensors",
        "epoch-0002.safetensors",
        "state.json",
    ]
    assert_is(load_checkpoint(tmp_path), 2, best_epoch=1)


def test_a_save_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, saved(0))
    for fails_at in ("epoch-0001.safetensors", "best-0001.safetensors", "state.json"):

        def write(path: Path, data: bytes, fails_at: str = fails_at) -> None:
            if path.name == fails_at:
                raise KeyboardInterrupt
            path.write_bytes(data)

        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, saved(1), write)
        assert_is(load_checkpoint(tmp_path), 0, best_epoch=0)


@pytest.mark.parametrize("name", ["epoch-0000.safetensors", "best-0000.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_refused_by_the_files_name(tmp_path: Path, name: str) -> None:
    save_checkpoint(tmp_path, saved(0))
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(IntegrityError, match=name):
        load_checkpoint(tmp_path)
