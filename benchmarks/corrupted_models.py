"""Corrupt models with valid hashes: `python -m benchmarks.corrupted_models [NUMBER]`.

Each is a small int8 model with changed bytes, a piece cut out or a piece repeated, in a bundle whose manifest has the
right hashes, as a crafted file would have. All go through the steps of the self-test, many in one child process. If the
child dies or hangs, the next child continues with the following file. It prints one JSON line: how many models were
refused (not loaded), gave other numbers than the golden samples, passed, crashed the child, or hung.
"""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.agent import show

HANG_S = 20.0  # a child without output for this long hangs


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory(prefix="sightline-corrupt-") as name:
        folder = Path(name)
        bundle = make_bundle(folder)
        outcomes: collections.Counter[str] = collections.Counter()
        done = 0
        while done < number:
            command = [
                sys.executable,
                "-m",
                "benchmarks.corrupted_models",
                "--child",
                str(bundle),
                str(done),
                str(number),
            ]
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            assert child.stdout is not None
            watch = Hang(child)
            for line in child.stdout:
                watch.alive()
                outcomes[json.loads(line)] += 1
                done += 1
            code = child.wait()
            hung = watch.stop()
            if done < number:
                outcomes["hung" if hung else f"crashed_{-code}" if code < 0 else f"ended_{code}"] += 1
                done += 1
    show("corrupted_models", number=number, outcomes=dict(outcomes))


class Hang:
    """Kills a child that prints nothing for HANG_S.

    Threads: the main thread calls `heard` and `stop`. The watching thread writes `_hung`, which `stop` reads after it
    has joined that thread.
    """

    def __init__(self, child: subprocess.Popen[str]) -> None:
        import threading

        self._child, self._hung = child, False
        self._beat, self._over = threading.Event(), False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def alive(self) -> None:
        self._beat.set()

    def stop(self) -> bool:
        self._over = True
        self._beat.set()
        self._thread.join()
        return self._hung

    def _run(self) -> None:
        while not self._over:
            if not self._beat.wait(HANG_S):
                self._hung = True
                self._child.kill()
                return
            self._beat.clear()


def make_bundle(folder: Path) -> Path:
    from benchmarks.support.colour_net import ColourNet
    from benchmarks.support.colours import SIZE, write_coloured
    from converters.convert import ConvertOptions, convert
    from sightline.data.classification import read_class_folders
    from sightline.preprocess import InputSpec
    from trainer.export import export_run

    images = read_class_folders(write_coloured(folder / "images", 20))
    export_run(folder / "run", ColourNet(), images, InputSpec(SIZE, SIZE), metrics={}, provenance={})
    convert(folder / "run", folder / "c.bundle", ConvertOptions("desktop"))
    return folder / "c.bundle"


def child(path: Path, first: int, end: int) -> None:
    import resource
    from dataclasses import replace

    from edge.inference.model import open_model
    from sightline.bundle import read_bundle
    from sightline.device_config import load_device
    from sightline.errors import InterpreterError, SightlineError

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    bundle, config = read_bundle(path), load_device("desktop")[1]
    file = bundle.manifest.variants[bundle.manifest.default]
    whole = bundle.contents[file]
    for i in range(first, end):
        content = corrupted(whole, i)
        try:
            open_model(replace(bundle, contents={**bundle.contents, file: content}), config)
            outcome = "passed_unchanged" if content == whole else "passed"
        except InterpreterError:
            outcome = "other_numbers"
        except SightlineError:
            outcome = "refused"
        except Exception as e:  # our code did not expect it: refused all the same, but counted separately
            outcome = f"refused_{type(e).__name__}"
        print(json.dumps(outcome), flush=True)


def corrupted(whole: bytes, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    content = bytearray(whole)
    kind = seed % 4
    if kind == 3:  # one piece is cut out or repeated
        a, b = sorted(rng.integers(0, len(content), 2).tolist())
        return bytes(content[:a] + content[b:]) if seed % 8 == 3 else bytes(content[:b] + content[a:])
    # the first bytes hold the root and its tables, where a change does most damage
    reach = len(content) if kind == 0 else min(len(content), 512 if kind == 1 else 4096)
    for at in rng.integers(0, reach, int(rng.integers(1, 9))).tolist():
        content[at] = int(rng.integers(0, 256))
    return bytes(content)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
        os._exit(0)  # do not clean up: a corrupt model may have damaged the interpreter's state
    main()
