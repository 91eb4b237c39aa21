"""Runs one case through the real entry point, in a forked process of a user without rights."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple

from benchmarks.fuzz_cli.material import Case, Place
from sightline import cli

LIMIT_S = 25.0  # time limit of a case
HEAVY_S = 150.0  # time limit of a command in HEAVY, on a busy machine
STOP_S = 10.0  # after Ctrl-C, for a command in LASTING
MEMORY = 8 << 30  # bytes of address space for a case
NOBODY = 47113  # a user id without an entry in passwd, so without a home
HEAVY = ("train", "convert", "evaluate")  # these import PyTorch
LASTING = ("run", "serve-web", "train", "bench", "service", "deploy")  # these run on with good input


class Outcome(NamedTuple):
    """The result of a case.

    code: exit code, or minus the signal.
    fault: what is wrong; '' = nothing, a clear error included.
    output: stdout and stderr.
    """

    code: int
    fault: str
    output: str


def execute(case: Case, place: Place, folder: Path) -> Outcome:
    """Run one case in a process of its own."""
    folder.mkdir()
    case.prepare(folder)
    if os.geteuid() == 0:
        for path in [folder, *folder.rglob("*")]:
            os.lchown(path, NOBODY, NOBODY)
    output = folder.with_name(folder.name + ".output")
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _become(case, place, folder, output)
    command = case.arguments[0] if case.arguments else ""
    limit_s = HEAVY_S if command in HEAVY else LIMIT_S
    code, hung = _wait(pid, began + limit_s, command in LASTING)
    text = output.read_bytes().decode(errors="replace") if output.exists() else ""
    if hung:
        fault = f"not finished after {limit_s:g} s"
    elif code < 0:
        fault = f"ended by signal {-code}"
    elif "Traceback" in text or "internal error" in text:
        fault = "an internal error"
    elif code not in (0, 2, 3, 130):
        fault = f"exit code {code}"
    elif code and not text.strip():
        fault = "no message"
    else:
        fault = ""
    return Outcome(code, fault, text)


def _become(case: Case, place: Place, folder: Path, output: Path) -> None:
    """The forked process. It never returns."""
    code = 70
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(folder)
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in (1, 2):
            os.dup2(handle, number)
        for stream in ("stdin", "stdout", "stderr"):
            setattr(sys, stream, None)
        # as Python opens them at its start
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
        home = folder / "home"
        home.mkdir()
        if os.geteuid() == 0:
            os.chown(home, NOBODY, NOBODY)
            _give_up_rights()
        os.environ |= {
            "HOME": str(home), "TMPDIR": str(home), "PATH": f"{place.root / 'bin'}:/usr/bin:/bin",
            "PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_OFFLINE": "1", "COLUMNS": "120",
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        tempfile.tempdir = str(home)
        for name, value in case.environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        sys.argv = ["sightline", *case.arguments]
        sys.orig_argv = [sys.executable, "-m", "sightline", *case.arguments]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        cli.main()
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        with open(os.devnull, "w"):  # noqa: PTH123
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _give_up_rights() -> None:
    """Become a user who may write only to the case's folder. If this Python lies in a folder that only root may enter,
    the user may still read everything."""
    os.setgroups([])
    closed = any(not path.stat().st_mode & 0o001 for path in Path(sys.base_prefix).parents)
    libc = ctypes.CDLL(None)
    if closed:
        libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    if closed:  # CAP_DAC_READ_SEARCH for this process and its children (PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE)
        header, one = (ctypes.c_uint32 * 2)(0x20080522, 0), 1 << 2
        libc.capset(header, (ctypes.c_uint32 * 6)(one, one, one, 0, 0, 0))
        libc.prctl(47, 2, 2, 0, 0)


def _wait(pid: int, end: float, lasting: bool) -> tuple[int, bool]:
    """Wait for the process. Returns (exit code or minus the signal, whether it hung).

    end: monotonic time of its limit.
    lasting: it may run until then, and must exit after Ctrl-C.
    """
    handle = os.pidfd_open(pid)
    try:
        hung = False
        if not select.select([handle], [], [], max(0.0, end - time.monotonic()))[0]:
            os.kill(pid, signal.SIGINT)
            hung = not select.select([handle], [], [], STOP_S if lasting else 0)[0] or not lasting
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), hung
    finally:
        os.close(handle)
