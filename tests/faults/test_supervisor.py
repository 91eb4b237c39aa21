"""The supervisor with a child that hangs, crashes and misbehaves on command, and with the real agent."""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.support.waiting import wait_until
from edge.system.supervisor import Signals, rest

# speaks the protocol with edge.system.sd_notify; each start does the next task of its arguments
CHILD = """
import os, signal, sys, time, pathlib
from edge.system.sd_notify import Watchdog
count = pathlib.Path(sys.argv[1])
n = int(count.read_text()) if count.exists() else 0
count.write_text(str(n + 1))
todo = sys.argv[2:][min(n, len(sys.argv) - 3)]
print(f"start {n} {todo} {os.getpid()}", flush=True)
if todo.startswith("exit"):
    sys.exit(int(todo[4:]))
watchdog = Watchdog(minimum_s=0.5)
if todo != "never-ready":
    watchdog.ready(0.001)
until = time.monotonic() + (30 if todo == "work" else 0.3)
while time.monotonic() < until:
    watchdog.progress()
    time.sleep(0.01)
if todo == "crash":
    os.kill(os.getpid(), 11)
if todo == "stopping-exit3":
    for _ in range(3):
        watchdog.stopping()
    os._exit(3)
if todo in ("slow-end", "no-end"):
    watchdog.stopping()
    time.sleep(2 if todo == "slow-end" else 60)
    sys.exit(0)
if todo == "hup":
    signal.signal(signal.SIGHUP, lambda *_: os._exit(0))
    count.with_name("ready").touch()
    while True:
        watchdog.progress()
        time.sleep(0.01)
if todo.startswith("late-exit"):
    sys.exit(int(todo[9:]))
time.sleep(60)
"""
RUNNER = """
import sys
from edge.system.supervisor import Limits, log_to_stderr, supervise
limits = Limits(watchdog_s=0.5, starting_s=1.5, backoff_s=0.3, ending_s=3.0)
sys.exit(supervise(sys.argv[1:], log_to_stderr, limits))
"""


class Supervised:
    """A supervisor, with what it and its children print.

    Threads: one reader thread appends to each list; the test only reads them.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.logged: list[str] = []
        self.starts: list[tuple[float, str]] = []
        for stream, keep in ((process.stderr, self.logged.append), (process.stdout, self._started)):
            threading.Thread(target=self._read, args=(stream, keep), daemon=True).start()

    def _started(self, line: str) -> None:
        self.starts.append((time.monotonic(), line))

    @staticmethod
    def _read(stream: object, keep: Callable[[str], None]) -> None:
        for line in stream:  # type: ignore[attr-defined]
            keep(line.strip())

    def wait(self, condition: Callable[[], bool], within_s: float = 10.0) -> None:
        wait_until(condition, within_s, lambda: (self.logged, self.starts))


@contextmanager
def supervised(tmp_path: Path, *todo: str) -> Iterator[Supervised]:
    (tmp_path / "child.py").write_text(CHILD)
    child = [sys.executable, str(tmp_path / "child.py"), str(tmp_path / "count"), *todo]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *sys.path])}
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER, *child],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    ) as process:  # fmt: skip
        try:
            yield Supervised(process)
        finally:
            process.kill()


def test_a_child_that_hangs_is_killed_and_started_anew(tmp_path: Path) -> None:
    with supervised(tmp_path, "hang", "work") as s:
        s.wait(lambda: len(s.starts) == 2)
        assert s.starts[1][0] - s.starts[0][0] < 0.3 + 0.5 + 1.0
        s.wait(lambda: any("ready again after" in line for line in s.logged))
    assert s.logged[0].startswith("agent: no progress for 0.5 s: killed")


def test_a_crash_is_named_and_answered_at_once(tmp_path: Path) -> None:
    with supervised(tmp_path, "crash", "work") as s:
        s.wait(lambda: len(s.starts) == 2)
        assert s.starts[1][0] - s.starts[0][0] < 1.5
    assert s.logged[0] == "agent: killed by SIGSEGV; restarting"


@pytest.mark.slow
def test_one_that_dies_again_and_again_is_given_growing_pauses(tmp_path: Path) -> None:
    with supervised(tmp_path, "late-exit3") as s:
        s.wait(lambda: len(s.starts) == 4, 15)
        times = [t for t, _ in s.starts]
        gaps = [b - a for a, b in itertools.pairwise(times)]
        s.wait(lambda: len(s.logged) >= 5)
    assert gaps[0] < gaps[1] < gaps[2], gaps
    assert "exit code 3" in s.logged[0] and "in 0." in s.logged[2]


def test_a_pause_lasts_whatever_woke_the_supervisor() -> None:
    clock = [100.0]

    def wait(waiting: list[int], _w: object, _x: object, limit_s: float) -> tuple[list[int], list[int], list[int]]:
        readable = select.select(waiting, [], [], 0)[0]
        clock[0] += 0 if readable else limit_s
        return readable, [], []

    wake_r, wake_w = os.pipe()
    os.write(wake_w, bytes([signal.SIGCHLD, signal.SIGHUP]) * 50)
    rest(5.0, Signals(wake_r), clock=lambda: clock[0], wait=wait)
    assert clock[0] == pytest.approx(105.0)
    rest(5.0, Signals(wake_r, stop=[signal.SIGTERM]), clock=lambda: clock[0], wait=wait)
    assert clock[0] == pytest.approx(105.0), "a signal that asks to stop is not waited out"
    os.close(wake_r)
    os.close(wake_w)


@pytest.mark.slow
def test_one_that_says_it_ends_and_dies_waits_out_its_pauses(tmp_path: Path) -> None:
    with supervised(tmp_path, "stopping-exit3") as s:
        s.wait(lambda: len(s.starts) >= 4 and sum(" in " in line for line in s.logged) >= 2, 20)
        times = [t for t, _ in s.starts]
        announced = [float(line.rpartition(" in ")[2].split()[0]) for line in s.logged if " in " in line]
    assert [b - a > pause * 0.9 for pause, (a, b) in zip(announced, itertools.pairwise(times[1:4]), strict=False)] == [
        True, True,
    ]  # fmt: skip


@pytest.mark.slow
def test_one_that_never_gets_ready_is_killed(tmp_path: Path) -> None:
    with supervised(tmp_path, "never-ready", "work") as s:
        s.wait(lambda: len(s.starts) == 2)
        # it reports progress, which does not make it ready
        s.wait(lambda: bool(s.logged))
    assert "SIGSEGV" not in s.logged[0]


@pytest.mark.parametrize(("todo", "code"), [("exit2", 2), ("exit0", 0), ("late-exit0", 0)])
def test_bad_input_and_a_good_end_are_no_reason_to_start_anew(tmp_path: Path, todo: str, code: int) -> None:
    with supervised(tmp_path, todo) as s:
        assert s.process.wait(10) == code
    assert len(s.starts) == 1


def test_bad_input_after_a_good_start_may_be_a_bundle_that_is_being_copied(tmp_path: Path) -> None:
    with supervised(tmp_path, "crash", "exit2", "work") as s:
        s.wait(lambda: len(s.starts) == 3)
        s.wait(lambda: any("ready again" in line for line in s.logged))


def test_a_signal_to_the_supervisor_ends_both(tmp_path: Path) -> None:
    with supervised(tmp_path, "work") as s:
        s.wait(lambda: len(s.starts) == 1)
        pid = int(s.starts[0][1].split()[-1])
        time.sleep(0.2)
        s.process.send_signal(signal.SIGTERM)
        assert s.process.wait(10) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_supervisor_that_is_killed_takes_the_child_with_it(tmp_path: Path) -> None:
    with supervised(tmp_path, "work") as s:
        s.wait(lambda: len(s.starts) == 1)
        pid = int(s.starts[0][1].split()[-1])
        time.sleep(0.3)
        s.process.kill()
        s.process.wait(5)

        def gone() -> bool:
            try:
                return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
            except FileNotFoundError:
                return True

        s.wait(gone)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL, signal.SIGSEGV])
def test_the_agent_predicts_again_within_three_seconds(how: signal.Signals, bundle: Path, tmp_path: Path) -> None:
    """SIGSTOP is a hang that no code of ours can influence: the whole process, the loop and its watchdog. SIGSEGV is
    what a native crash of the interpreter is, SIGKILL what the kernel does when memory runs out."""
    command = [sys.executable, "-m", "sightline", "run", str(bundle), "--source", "test:64x48@60", "--supervise"]
    output = tmp_path / "out.jsonl"
    command += ["--json", "--no-page", f"--output={output}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        lines: list[tuple[float, str]] = []
        logged: list[str] = []
        assert process.stdout is not None and process.stderr is not None

        def read(stream: object, keep: Callable[[str], None]) -> None:
            for line in stream:  # type: ignore[attr-defined]
                keep(line)

        for stream, keep in (
            (process.stdout, lambda line: lines.append((time.monotonic(), line))),
            (process.stderr, logged.append),
        ):
            threading.Thread(target=read, args=(stream, keep), daemon=True).start()
        try:
            wait_until(lambda: len(lines) >= 20, 20, lambda: logged, process=process)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            (child,) = map(int, children)
            os.kill(child, how)
            stuck = time.monotonic()
            time.sleep(0.2)
            seen = len(lines)
            wait_until(lambda: any('"ok"' in line for _, line in lines[seen:]), 10, lambda: logged)
            recovery, again = next((at - stuck, line) for at, line in lines[seen:] if '"ok"' in line)
            assert json.loads(again)["frame_id"] < 10, "a new process"
            assert recovery < 4, f"it took {recovery:.1f} s"  # 3 s when nothing else runs on this machine
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()
    reason = {"SIGSTOP": "no progress for 2", "SIGKILL": "SIGKILL", "SIGSEGV": "SIGSEGV"}[how.name]
    assert any(reason in line for line in logged), logged
    results = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(results) > 20, "each line of the file is whole, those of both processes"


@pytest.mark.slow
def test_an_agent_that_ends_by_itself_is_given_time_to_write_what_it_has(tmp_path: Path) -> None:
    with supervised(tmp_path, "slow-end") as s:
        assert s.process.wait(10) == 0
    assert len(s.starts) == 1 and not s.logged


@pytest.mark.slow
def test_an_agent_that_never_ends_although_it_says_so_is_killed(tmp_path: Path) -> None:
    with supervised(tmp_path, "no-end", "work") as s:
        s.wait(lambda: len(s.starts) == 2)
    assert s.logged[0].startswith("agent: did not exit within 3 s: killed")


def test_a_hangup_is_passed_on(tmp_path: Path) -> None:
    """`kill -HUP` has the agent look for a new model; it must end neither of the two."""
    with supervised(tmp_path, "hup") as s:
        s.wait(lambda: len(s.starts) == 1 and (tmp_path / "ready").exists())
        s.process.send_signal(signal.SIGHUP)
        assert s.process.wait(10) == 0
    assert len(s.starts) == 1 and not s.logged


@pytest.mark.parametrize("reader", ["gone", "stopped"])
def test_a_supervisor_does_not_wait_for_the_reader_of_its_stderr(reader: str) -> None:
    read, write = os.pipe()
    if reader == "gone":
        os.close(read)
    program = "from edge.system.supervisor import log_to_stderr\nfor _ in range(1000): log_to_stderr('x' * 999)"
    done = subprocess.run([sys.executable, "-c", program], stderr=write, timeout=20)
    os.close(write)
    if reader == "stopped":
        os.close(read)
    assert done.returncode == 0
