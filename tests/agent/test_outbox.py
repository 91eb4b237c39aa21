"""What was promised arrives, in order; what cannot be kept is told by number. On a real file, and on a full disk."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from edge.outputs.outbox import Outbox
from edge.outputs.outbox_file import OVERHEAD, Message
from sightline.errors import ConfigError
from tests.support.disk import Disk

LIMIT = 1_000_000


def messages(first: int, end: int, size: int = 10) -> list[tuple[str, str, bytes]]:
    return [(f"k{i}", "t", str(i).encode().ljust(size)) for i in range(first, end)]


def everything(outbox: Outbox, output: str = "mqtt") -> list[Message]:
    return outbox.take(output, 0, 1_000_000)


def keys(outbox: Outbox, output: str = "mqtt") -> list[str]:
    return [m.key for m in everything(outbox, output)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "outbox.sqlite"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    box = Outbox(path, LIMIT)
    yield box
    box.close()


def test_they_come_out_in_order_and_stay_until_they_have_arrived(outbox: Outbox) -> None:
    outbox.put("mqtt", messages(0, 5))
    outbox.put("webhook", messages(5, 6))
    outbox.put("mqtt", messages(6, 8))
    assert keys(outbox) == ["k0", "k1", "k2", "k3", "k4", "k6", "k7"]
    first = outbox.take("mqtt", 0, 2)
    assert [m.body for m in first] == [b"0         ", b"1         "]
    assert [m.key for m in outbox.take("mqtt", first[-1].id, 2)] == ["k2", "k3"]
    outbox.delete("mqtt", [m.id for m in first])
    assert keys(outbox) == ["k2", "k3", "k4", "k6", "k7"]
    assert (outbox.waiting("mqtt"), outbox.size("mqtt")) == (5, 5 * (10 + OVERHEAD))
    assert keys(outbox, "webhook") == ["k5"]


def test_they_outlive_the_process(path: Path, outbox: Outbox) -> None:
    outbox.put("mqtt", messages(0, 3))
    outbox.delete("mqtt", [everything(outbox)[0].id])
    outbox.close()
    again = Outbox(path, LIMIT)
    assert keys(again) == ["k1", "k2"]
    assert (again.waiting("mqtt"), again.size("mqtt")) == (2, 2 * (10 + OVERHEAD))
    again.put("mqtt", messages(3, 4))
    assert keys(again) == ["k1", "k2", "k3"]
    again.close()


WRITER = """
import sys, pathlib
from edge.outputs.outbox import Outbox
box = Outbox(pathlib.Path(sys.argv[1]), 10**8)
for i in range(10**6):
    box.put("mqtt", [(f"k{i}", "t", b"x" * 200)])
    print(i, flush=True)  # accepted
"""


def test_what_was_accepted_survives_a_kill_at_any_moment(path: Path) -> None:
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            while int(process.stdout.readline()) < 20:
                pass
            process.send_signal(signal.SIGKILL)
            last = max([20, *(int(line) for line in process.stdout if line.endswith("\n"))])
        box = Outbox(path, LIMIT)
        found = keys(box)
        assert found[: last + 1] == [f"k{i}" for i in range(last + 1)]
        assert len(found) <= last + 2
        box.delete("mqtt", [m.id for m in everything(box)])
        box.close()


def test_beyond_its_limit_the_oldest_go_and_a_gap_says_how_many(path: Path) -> None:
    box = Outbox(path, 20 * (10 + OVERHEAD))
    for i in range(100):
        box.put("mqtt", messages(i, i + 1))
    gap, *rest = everything(box)
    assert (gap.gap, gap.key, gap.body) == (100 - len(rest), "gap-k0", b"")
    assert [m.key for m in rest] == [f"k{i}" for i in range(100 - len(rest), 100)]
    assert 18 <= len(rest) <= 20 and box.size("mqtt") <= box.limit
    assert box.dropped["mqtt"] == gap.gap
    box.close()


def test_an_output_that_is_dead_costs_another_nothing(path: Path) -> None:
    box = Outbox(path, 20 * (10 + OVERHEAD))
    box.put("mqtt", messages(0, 10))
    for i in range(100):
        box.put("webhook", messages(i, i + 1))
    assert keys(box) == [f"k{i}" for i in range(10)]
    assert (box.dropped["mqtt"], box.dropped["webhook"] > 80) == (0, True)
    box.close()


def test_what_is_on_its_way_is_not_dropped(path: Path) -> None:
    box = Outbox(path, 20 * (10 + OVERHEAD))
    box.put("mqtt", messages(0, 15))
    sent = box.take("mqtt", 0, 5)
    for i in range(15, 100):
        box.put("mqtt", messages(i, i + 1))
    found = everything(box)
    assert [m.key for m in found[:5]] == [m.key for m in sent]
    assert found[5].key == "gap-k5" and found[5].gap == 100 - 5 - len(found[6:])
    box.release("mqtt")
    for i in range(100, 200):
        box.put("mqtt", messages(i, i + 1))
    gap, *rest = everything(box)
    assert (gap.key, gap.gap) == ("gap-k0", 200 - len(rest)), "gaps that meet become one"
    assert box.dropped["mqtt"] == gap.gap
    box.close()


def test_one_that_is_larger_than_all_room_is_lost_and_told(path: Path) -> None:
    box = Outbox(path, 500)
    box.put("mqtt", messages(0, 1))
    box.put("mqtt", messages(1, 2, size=1000))
    assert box.failed is not None and "no room" in box.failed
    box.put("mqtt", messages(2, 3))
    assert box.failed is None
    assert [(m.key, m.gap) for m in everything(box) if not m.gap] == [("k0", 0), ("k2", 0)]
    assert [m.gap for m in everything(box)] == [0, 1, 0]
    box.close()


def test_a_second_agent_is_refused_while_the_first_runs(path: Path, outbox: Outbox) -> None:
    with pytest.raises(ConfigError, match="another agent uses it"):
        Outbox(path, LIMIT)
    outbox.close()
    Outbox(path, LIMIT).close()


def test_a_place_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be created"):
        Outbox(tmp_path / "file" / "outbox.sqlite", LIMIT)


@pytest.mark.parametrize("how", ["garbage", "flipped"])
def test_a_damaged_file_is_put_aside_and_the_agent_goes_on(path: Path, outbox: Outbox, how: str) -> None:
    outbox.put("mqtt", messages(0, 2000))
    outbox.close()
    data = bytearray(path.read_bytes())
    damaged = b"no database" * 1000 if how == "garbage" else bytes(data[:4096] + os.urandom(8192) + data[12288:])
    path.write_bytes(damaged)
    again = Outbox(path, LIMIT)
    again.put("mqtt", messages(5, 6))
    gap, rest = everything(again)
    assert (gap.gap, rest.key) == (1, "k5"), "at least one is missing; how many, nobody can know"
    assert path.with_name("outbox.sqlite.damaged").read_bytes() == damaged
    again.close()


FULL = """
import pathlib, resource, sys
from edge.outputs.outbox import Outbox
path, room, number = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
box = Outbox(path, 10**8)
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (room, unlimited[1]))  # of each file: what a full disk is to a writer
for i in range(number):
    box.put("mqtt", [(f"k{i}", "t", b"x" * 500)])
found = box.take("mqtt", 0, 10**6)
assert box.dropped["mqtt"] > 0, "the disk was never full"
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
box.put("mqtt", [("last", "t", b"")])
found = box.take("mqtt", 0, 10**6)
print(sum(m.gap for m in found), sum(not m.gap for m in found), box.dropped["mqtt"], found[-1].key, box.failed)
"""


@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 100_000, 300_000])
def test_on_a_full_disk_the_gaps_tell_the_exact_number(path: Path, room: int) -> None:
    number = 3000
    done = subprocess.run(
        [sys.executable, "-c", FULL, path, str(room), str(number)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    missing, there, dropped, last, failed = done.stdout.split()
    assert int(missing) + int(there) == number + 1
    assert missing == dropped
    assert (last, failed) == ("last", "None")
    if room > 262_144:  # else the log alone fills it
        assert int(there) > room * 0.3 / 600, "the room that there is is used"


def test_a_file_of_a_real_disk_of_one_megabyte(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only who may mount has a disk of 1 MB")
    try:
        with contextlib.closing(Outbox(disk / "outbox.sqlite", 64_000_000)) as box:
            for i in range(5000):
                box.put("mqtt", messages(i, i + 1, size=600))
            found = everything(box)
            assert sum(m.gap for m in found) + sum(not m.gap for m in found) == 5000
            assert sum(not m.gap for m in found) > 200
            assert [m.key for m in found if not m.gap] == [f"k{i}" for i in range(5000 - len(found) + 1, 5000)]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_query_for_the_next_needs_no_scan(outbox: Outbox, path: Path) -> None:
    plan = (
        sqlite3.connect(path)
        .execute("EXPLAIN QUERY PLAN SELECT id FROM messages WHERE output = 'mqtt' AND id > 5 ORDER BY id LIMIT 9")
        .fetchall()
    )
    assert "by_output" in plan[0][-1] and len(plan) == 1


def test_the_file_is_for_this_user_alone(path: Path, outbox: Outbox) -> None:
    outbox.put("mqtt", messages(0, 1))
    assert {p.name: p.stat().st_mode & 0o777 for p in path.parent.iterdir() if "lock" not in p.name} == dict.fromkeys(
        ("outbox.sqlite", "outbox.sqlite-wal", "outbox.sqlite-shm"), 0o600
    )


def test_what_is_no_outbox_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("remember the milk")
    os.mkfifo(tmp_path / "fifo")
    with contextlib.closing(sqlite3.connect(tmp_path / "other.sqlite")) as db:
        db.execute("CREATE TABLE messages (id INTEGER)")
    for name, words in {
        "folder": "is not a file",
        "fifo": "is not a file",
        "/dev/null": "is not a file",
        "/": "is not a file",
        "notes.txt": "belongs to another program",
        "other.sqlite": "is not an outbox of this version",
    }.items():
        for _ in range(2):
            with pytest.raises(ConfigError, match=f"--outbox .*{words}"):
                Outbox(tmp_path / name, LIMIT)
    assert (tmp_path / "notes.txt").read_text() == "remember the milk"
    assert not (tmp_path / "other.sqlite.damaged").exists()


def test_a_file_that_is_removed_while_it_runs_loses_nothing(path: Path, outbox: Outbox) -> None:
    outbox.put("mqtt", messages(0, 50))
    path.unlink()
    outbox.put("mqtt", messages(50, 60))
    outbox.close()
    again = Outbox(path, LIMIT)
    assert keys(again) == [f"k{i}" for i in range(60)]
    again.close()


def test_a_file_that_is_removed_before_the_end_is_there_at_the_next_start(path: Path, outbox: Outbox) -> None:
    outbox.put("mqtt", messages(0, 5))
    path.unlink()
    outbox.close()
    again = Outbox(path, LIMIT)
    assert keys(again) == [f"k{i}" for i in range(5)]
    again.close()


def test_a_page_that_is_damaged_while_it_runs_costs_what_was_on_it(path: Path, outbox: Outbox) -> None:
    for i in range(0, 2000, 100):
        outbox.put("mqtt", messages(i, i + 100, size=400))
    with path.open("r+b") as file:
        for page in range(20, 200, 7):
            file.seek(page * 4096)
            file.write(os.urandom(4096))
    outbox.put("mqtt", messages(2000, 2100, size=400))
    found = everything(outbox)
    present, missing = [m.key for m in found if not m.gap], sum(m.gap for m in found)
    assert len(present) + missing == 2100 and outbox.failed is None
    assert present == sorted(present, key=lambda key: int(key[1:]))
    assert present[0] == "k0" and present[-1] == "k2099"


def test_a_page_that_stands_in_two_places_costs_what_it_covers(path: Path, outbox: Outbox) -> None:
    outbox.put("mqtt", messages(0, 400, size=300))
    outbox.close()
    data = bytearray(path.read_bytes())
    pages = [i for i in range(0, len(data), 4096) if b"k2" in data[i : i + 4096] and data[i] == 13]  # leaves of a table
    data[pages[1] : pages[1] + 4096] = data[pages[4] : pages[4] + 4096]
    path.write_bytes(data)
    again = Outbox(path, LIMIT)
    again.put("mqtt", messages(400, 401))
    found = [m.key for m in everything(again) if not m.gap]
    assert 370 < len(found) < 401 and found == sorted(set(found), key=lambda key: int(key[1:]))
    again.close()


def test_a_bit_that_the_disk_changed_is_a_gap_and_no_message(path: Path, outbox: Outbox) -> None:
    outbox.put("mqtt", messages(0, 3))
    outbox.close()
    path.write_bytes(path.read_bytes().replace(b"1         ", b"7         "))
    again = Outbox(path, LIMIT)
    assert [(m.key, m.gap) for m in everything(again)] == [("k0", 0), ("gap-2", 1), ("k2", 0)]
    again.close()


def test_a_full_disk_takes_one_message_in_the_place_of_another(
    path: Path,
) -> None:
    disk = Disk()
    outbox = Outbox(path, LIMIT, free_bytes=disk.free_bytes)
    outbox.put("mqtt", messages(0, 500, size=100))
    disk.full = True
    for i in range(500, 520):
        outbox.put("mqtt", messages(i, i + 1, size=100))
    gap, *rest = everything(outbox)
    assert len(rest) >= 498 and gap.gap == 520 - len(rest)
    outbox.close()


def test_as_many_bytes_are_taken_as_fit_and_one_message_in_any_case(outbox: Outbox) -> None:
    outbox.put("mqtt", messages(0, 10, size=1000))
    assert len(outbox.take("mqtt", 0, 64, size=2500)) == 3
    assert len(outbox.take("mqtt", 0, 64, size=1)) == 1


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 40), st.integers(0, 3000)),
        st.tuples(st.just("acknowledge"), st.integers(1, 60), st.integers(0, 3)),
        st.tuples(st.sampled_from(("again", "full", "remove", "empty", "replace", "reopen")), st.just(0), st.just(0)),
        st.tuples(st.just("damage"), st.integers(0, 100), st.integers(1, 5000)),
    ),
    max_size=25,
)


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_every_accepted_message_is_there_or_a_gap_says_that_it_is_not(steps: list[tuple[str, int, int]]) -> None:
    """Whatever happens to the file while it is used."""
    note(str(steps))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "outbox.sqlite"
        disk = Disk()
        box, accepted, arrived, gaps = Outbox(path, 200_000, free_bytes=disk.free_bytes), 0, set[str](), 0
        harmed = unknown = False
        for kind, a, b in steps:
            if kind == "put":
                box.put("mqtt", messages(accepted, accepted + a, size=b))
                accepted += a
            if kind == "acknowledge":
                taken = box.take("mqtt", 0, a)[b:]
                box.delete("mqtt", [m.id for m in taken])
                arrived |= {m.key for m in taken if not m.gap}
                gaps += sum(m.gap for m in taken)
            if kind == "again":
                box.release("mqtt")
            if kind == "full":
                disk.full = True
                box.put("mqtt", messages(accepted, accepted + 1, size=500))
                accepted += 1
                disk.full = False
            if kind in ("remove", "replace", "empty"):
                with contextlib.suppress(FileNotFoundError):
                    path.unlink() if kind != "empty" else os.truncate(path, 0)
                if kind == "replace":
                    path.write_bytes(b"something else")
                harmed |= kind == "empty"
            if kind == "damage":
                with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
                    file.seek(a * path.stat().st_size // 100)
                    file.write(bytes(b))
                harmed = True
            if kind == "reopen":
                unknown |= harmed
                box.close()
                box = Outbox(path, 200_000, free_bytes=disk.free_bytes)
        box.put("mqtt", messages(accepted, accepted + 1))
        accepted += 1
        found = box.take("mqtt", 0, 10**6, size=10**9)
        present = [m.key for m in found if not m.gap]
        gaps += sum(m.gap for m in found)
        box.close()
    assert present == sorted(set(present), key=lambda key: int(key[1:]))
    missing = accepted - len(arrived | set(present))
    assert len(arrived & set(present)) == 0 or harmed
    if unknown:
        return
    assert missing <= gaps
    if not harmed:
        assert missing == gaps
