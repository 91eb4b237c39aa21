"""Bad input for the whole command line: `python -m benchmarks.fuzz_cli [--seed 0] [--cases 1200]`.

Every option of every command in the click tree gets every wrong value of its kind. Files that people and programs
write (manifests, runs, data sets, YAML, labels, arrays, models) get their values replaced, cut and mixed up. The seed
selects `--cases` of these cases. Each runs through the real entry point in a forked process of a user without rights,
with limits of time and memory. It prints one JSON line: how often each exit code occurred, and how many cases were
faults (a traceback, exit code 1, a signal, a hang). Each fault is printed with the command that reproduces it, and
then the exit code is 1.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.agent import show
from benchmarks.fuzz_cli.files import file_cases
from benchmarks.fuzz_cli.material import Case, Place, add_special_files, make
from benchmarks.fuzz_cli.options import base, option_cases
from benchmarks.fuzz_cli.process import HEAVY, execute


def choose(place: Place, seed: int, number: int, *, heavy: bool, only: str = "") -> list[Case]:
    """The cases of a seed: two thirds with bad options, one third with bad files."""
    rng = random.Random(seed)
    names = [n for n in base(place) if heavy or n.split()[0] not in HEAVY]
    options = [c for c in option_cases(place, names) if c.title.startswith(only)]
    rng.shuffle(options)
    half = min(len(options), max(1, number * 2 // 3))
    files = file_cases(place, rng, heavy=heavy)
    if only:
        return options[:number]
    return options[:half] + [next(files) for _ in range(number - half)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=1200)
    parser.add_argument("--light", action="store_true", help="Run only commands that need no PyTorch.")
    parser.add_argument(
        "--only", default="", help="Run only cases of options whose title begins with this, such as 'run: --source'."
    )
    parser.add_argument(
        "--bundle", type=Path, help="Use this bundle, and those of --run and --images, instead of new ones."
    )
    parser.add_argument("--run", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make(options.make)
        return
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sightline-fuzz-") as name:
        root = Path(name)
        root.chmod(0o755)
        if options.bundle:
            fixtures = {"colours.bundle": options.bundle, "colour-run": options.run, "colours": options.images}
            for target, source in fixtures.items():
                shutil.copytree(source, root / target)
        else:  # in a process of its own: a fork does not copy JAX's threads
            subprocess.run([sys.executable, "-m", "benchmarks.fuzz_cli", "--make", name], check=True)
        place = add_special_files(root)
        (root / "cases").mkdir()
        (root / "cases").chmod(0o777)
        cases = choose(place, options.seed, options.cases, heavy=not options.light, only=options.only)
        _preload(options.light)
        codes: collections.Counter[int] = collections.Counter()
        faults: collections.Counter[str] = collections.Counter()
        for i, case in enumerate(cases):
            started = time.monotonic()
            outcome = execute(case, place, root / "cases" / str(i))
            codes[outcome.code] += 1
            if options.verbose:
                print(f"{time.monotonic() - started:6.2f} s {outcome.code:4} {case.title}: {outcome.output[-200:]!r}")
            if outcome.fault:
                faults[outcome.fault] += 1
                words = " ".join(repr(a) if len(a) < 200 else f"'{a[:20]}...' ({len(a)})" for a in case.arguments)
                print(
                    f"{outcome.fault}: {case.title}\n  sightline {words}\n  {outcome.output[-1500:].strip()}",
                    flush=True,
                )
            shutil.rmtree(root / "cases" / str(i), ignore_errors=True)
        show(
            "fuzz_cli", seed=options.seed, cases=len(cases), faults=sum(faults.values()), kinds=dict(faults),
            exit_codes={str(k): n for k, n in sorted(codes.items())}, seconds=round(time.monotonic() - began),
        )  # fmt: skip
    sys.exit(1 if faults else 0)


def _preload(light: bool) -> None:
    """Import the modules that every forked process would import again."""
    names = ["sqlite3", "ssl", "edge.app.run", "edge.outputs.factory", "edge.outputs.outbox"]
    names += ["edge.cli.service", "edge.cli.deploy"]
    names += (
        []
        if light
        else ["converters.convert", "converters.evaluate.evaluate", "converters.sources.from_torch", "trainer.train"]
    )
    for name in names:
        importlib.import_module(name)


if __name__ == "__main__":
    main()
