"""Whole or absent, whatever happens in the middle; and nothing that was written passes for something else."""

from __future__ import annotations

import copy
import errno
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sightline.errors import DeviceError, IntegrityError, ModelError
from sightline.files import (
    checked_table,
    exchange_folders,
    file_table,
    heal,
    read_verified,
    seal,
    sha256,
    unseal,
    write_file,
    write_folder,
)


def cannot_exchange(one: Path, other: Path) -> bool:
    """As on a file system that cannot."""
    return False


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def ctrl_c(*_: object) -> None:
    raise KeyboardInterrupt


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def on_call(number: int, fail: Callable[..., None], real: Callable[..., Any]) -> Callable[..., Any]:
    """`real`, but its call of that number, counted from 1, is `fail`."""
    calls = 0

    def call(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        return fail() if calls == number else real(*args)

    return call


def test_a_file_is_written_with_its_folders_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_file(path, b"old")
    write_file(path, b"new")
    assert tree(tmp_path) == {"a": None, "a/b": None, "a/b/file": b"new"}


@pytest.mark.parametrize(("fail", "error"), [(full, DeviceError), (ctrl_c, KeyboardInterrupt)])
@pytest.mark.parametrize("where", ["fsync", "rename"])
def test_a_file_that_cannot_be_finished_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, fail: Any, error: type[BaseException]
) -> None:
    path = tmp_path / "file"
    write_file(path, b"old")
    with monkeypatch.context() as m, pytest.raises(error):
        m.setattr(os, "fsync", fail) if where == "fsync" else m.setattr(Path, "replace", fail)
        write_file(path, b"new")
    assert tree(tmp_path) == {"file": b"old"}


def test_a_failed_write_says_which_file_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DeviceError, match=r"file: cannot be written: No space left on device") as e:
        write_file(tmp_path / "file", b"new")
    assert e.value.exit_code == 3


def test_a_file_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(DeviceError, match="cannot be written"):
        write_file(tmp_path / "file" / "below", b"new")
    assert tree(tmp_path) == {"file": b"old"}


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cannot be written"):
        write_file(tmp_path / ("x" * 300), b"new")
    assert tree(tmp_path) == {}


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a" / "folder"
    write_folder(path, {"one": b"1", "two": b"2"})
    write_folder(path, {"two": b"22", "three": b"3"})
    assert tree(tmp_path / "a") == {"folder": None, "folder/three": b"3", "folder/two": b"22"}


@pytest.mark.parametrize(("fail", "error"), [(full, DeviceError), (ctrl_c, KeyboardInterrupt)])
@pytest.mark.parametrize("where", ["first file", "second file", "old aside", "new in place"])
def test_a_folder_that_cannot_be_finished_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, fail: Any, error: type[BaseException]
) -> None:
    path = tmp_path / "folder"
    write_folder(path, {"one": b"1"})
    before = tree(tmp_path)
    with monkeypatch.context() as m, pytest.raises(error):
        if where.endswith("file"):
            m.setattr(os, "fsync", on_call(1 if where == "first file" else 2, fail, os.fsync))
        else:
            m.setattr(Path, "rename", on_call(1 if where == "old aside" else 2, fail, Path.rename))
        exchange = exchange_folders if where.endswith("file") else cannot_exchange
        write_folder(path, {"one": b"11", "two": b"22"}, exchange=exchange)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_new_folder_that_cannot_be_finished_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "fsync", on_call(number, full, os.fsync))
    with pytest.raises(DeviceError, match="folder: cannot be written: No space"):
        write_folder(tmp_path / "folder", {"one": b"1", "two": b"2"})
    assert tree(tmp_path) == {}


def test_a_link_to_a_folder_is_replaced_without_leftovers(tmp_path: Path) -> None:
    write_folder(tmp_path / "v1", {"one": b"1"})
    (tmp_path / "latest").symlink_to(tmp_path / "v1")
    write_folder(tmp_path / "latest", {"one": b"2"})
    assert (tmp_path / "latest" / "one").read_bytes() == b"2"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "v1"]


KILLED_ANYWHERE = """
import os, signal, sys
from pathlib import Path
import ctypes, shutil
import sightline.files as files

path = Path(sys.argv[1]) / "folder"
exchange = files.exchange_folders if sys.argv[2] == "exchange" else lambda *_: False
left = -1

def killed_soon(event, arguments):
    global left
    if left >= 0 and event.partition(".")[0] in ("os", "open", "shutil", "ctypes", "fcntl"):
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

sys.addaudithook(killed_soon)
old, new = {"a": b"old", "b": b"old"}, {"a": b"new", "b": b"new"}
files.write_folder(path, old)
step, code, seen = 0, 1, []
while code:
    child = os.fork()
    if not child:
        left = step
        files.write_folder(path, new, exchange=exchange)
        os._exit(0)
    code = os.waitpid(child, 0)[1]
    files.heal(path, wait_s=0)
    found = {p.name: p.read_bytes() for p in path.iterdir()}
    assert found in (old, new), (step, found)
    seen.append(found == new)
    files.write_folder(path, old)
    assert [p.name for p in path.parent.iterdir()] == ["folder"], (step, sorted(path.parent.iterdir()))
    step += 1
print(step, seen == sorted(seen))
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["exchange", "two renames"])
def test_a_writer_that_is_killed_anywhere_leaves_the_old_folder_or_the_new_one(tmp_path: Path, way: str) -> None:
    command = [sys.executable, "-c", KILLED_ANYWHERE, str(tmp_path), way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    steps, in_order = done.stdout.split()
    assert int(steps) > 10 and in_order == "True"


def test_a_writer_that_is_at_work_keeps_what_it_has(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / ".file.0123456789abcdef.part"
    other.write_bytes(b"of another process")
    with other.open("rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)  # as a living writer does
        write_file(path, b"mine")
    assert tree(tmp_path) == {".file.0123456789abcdef.part": b"of another process", "file": b"mine"}
    write_file(path, b"mine")
    assert tree(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize("suffix", ["", ".part", ".old", ".part.old"])
def test_a_users_own_files_beside_it_stay(tmp_path: Path, suffix: str) -> None:
    mine, folder = tmp_path / f".file.2024{suffix}", tmp_path / f".folder.20241128{suffix}"
    mine.write_bytes(b"mine")
    write_folder(folder, {"x": b"mine"})
    heal(tmp_path / "folder", wait_s=0)
    assert not (tmp_path / "folder").exists(), "a folder of the user was renamed"
    write_file(tmp_path / "file", b"")
    write_folder(tmp_path / "folder", {"a": b""})
    assert mine.read_bytes() == b"mine" and (folder / "x").read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_writer_whose_beginning_another_one_sweeps_away_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path, real = tmp_path / "it", fcntl.flock

    def flock(handle: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        write(b"of another writer")  # it sweeps before this one has its lock
        real(handle, how)

    def write(content: bytes) -> None:
        if kind == "file":
            write_file(path, content)
        else:
            write_folder(path, {"a": content})

    monkeypatch.setattr(fcntl, "flock", flock)
    write(b"1")
    assert tree(tmp_path) == ({"it": b"1"} if kind == "file" else {"it": None, "it/a": b"1"})


@pytest.mark.parametrize("kind", ["file", "folder", "folder without exchange"])
def test_writers_of_one_path_do_not_disturb_each_other(tmp_path: Path, kind: str) -> None:
    """Threads have one PID, as have processes of two containers."""
    path = tmp_path / "it"
    exchange = cannot_exchange if kind.endswith("exchange") else exchange_folders

    def write(number: int) -> None:
        data = b"%d" % number
        if kind == "file":
            write_file(path, data)
        else:
            write_folder(path, {"a": data, "b": data}, exchange=exchange)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(100)))
    left = tree(tmp_path)
    assert left.keys() == ({"it"} if kind == "file" else {"it", "it/a", "it/b"})
    assert kind == "file" or left["it/a"] == left["it/b"]


def test_a_folder_that_another_writer_puts_in_place_first_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "it", Path.rename

    def rename(self: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", real)
        write_folder(path, {"a": b"of another"})
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    write_folder(path, {"a": b"mine"})
    assert tree(tmp_path) == {"it": None, "it/a": b"mine"}


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a device"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "doc.json"
    {"a pipe": os.mkfifo, "a folder": os.mkdir, "a device": lambda p: p.symlink_to("/dev/zero")}[kind](path)
    with pytest.raises(ModelError, match=r"doc\.json cannot be read \(it is"):
        unseal(path, "thing", 1)
    with pytest.raises(IntegrityError, match=r"doc\.json: cannot be read \(it is"):
        read_verified(tmp_path, file_table({"doc.json": b"x"}), "doc.json")


@pytest.mark.parametrize("size", [1 << 40, -1])
def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path, size: int) -> None:
    with (tmp_path / "a").open("wb") as f:
        f.truncate(1 << 40)  # takes no room on the disk
    with pytest.raises(ModelError, match=r"bytes according to its document\. The limit is"):
        read_verified(tmp_path, {"a": {"sha256": "0", "bytes": size}}, "a")
    with pytest.raises(IntegrityError, match="1099511627776 bytes"):
        read_verified(tmp_path, file_table({"a": b"x"}), "a")
    with pytest.raises(ModelError, match=r"has 1099511627776 bytes\. The limit is"):
        unseal(tmp_path / "a", "thing", 1)


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"schema": 1, "name": "\\ud800"}'], ids=["nested", "surrogate"])
def test_a_document_that_json_alone_would_take_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "doc.json").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"doc\.json: damaged"):
        unseal(tmp_path / "doc.json", "thing", 1)


def test_verified_bytes_are_those_of_the_table(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    assert read_verified(tmp_path, file_table({"a": b"content"}), "a") == b"content"


@pytest.mark.parametrize(
    ("found", "why"),
    [(b"Content", "same size, other content"), (b"conten", "6 bytes"), (b"contentt", "8 bytes"), (b"", "0 bytes")],
)
def test_other_bytes_are_refused_by_name(tmp_path: Path, found: bytes, why: str) -> None:
    (tmp_path / "a.bin").write_bytes(found)
    with pytest.raises(IntegrityError, match=rf"a\.bin: is not the file that was written.*{why}"):
        read_verified(tmp_path, file_table({"a.bin": b"content"}), "a.bin")


def test_an_absent_and_an_unlisted_file_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "unlisted").write_bytes(b"content")
    table = file_table({"absent": b"content"})
    with pytest.raises(IntegrityError, match="absent: cannot be read"):
        read_verified(tmp_path, table, "absent")
    with pytest.raises(ModelError, match=r"does not list 'unlisted'\. It lists: absent"):
        read_verified(tmp_path, table, "unlisted")


keys = st.text(max_size=5).filter(lambda key: key not in ("schema", "sealed"))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(keys, values, min_size=1, max_size=5).map(lambda d: {"schema": 1, **d})


@pytest.fixture(scope="module")
def document_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("document") / "doc.json"


@pytest.mark.slow
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(document=documents)
def test_what_was_sealed_is_read_back(document_path: Path, document: dict[str, Any]) -> None:
    document_path.write_bytes(seal(document))
    assert unseal(document_path, "thing", 1) == document


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(document=documents, data=st.data())
def test_any_changed_value_breaks_the_seal(document_path: Path, document: dict[str, Any], data: st.DataObject) -> None:
    changed = json.loads(seal(document))
    where: Any = changed
    key: Any = data.draw(st.sampled_from(sorted(set(document) - {"schema"})))
    while isinstance(where[key], dict | list) and where[key]:
        where = where[key]
        key = data.draw(st.sampled_from(sorted(where) if isinstance(where, dict) else range(len(where))))
    where[key] = data.draw(values.filter(lambda v: json.dumps(v) != json.dumps(where[key])))
    document_path.write_text(json.dumps(changed))
    with pytest.raises(IntegrityError, match=r"doc\.json: is not the document that was written"):
        unseal(document_path, "thing", 1)


@pytest.mark.parametrize("change", ["added", "removed", "renamed", "unsealed"])
def test_a_changed_key_breaks_the_seal(tmp_path: Path, change: str) -> None:
    document = json.loads(seal({"schema": 1, "name": "x", "size": 3}))
    if change == "added":
        document["more"] = None
    elif change == "removed":
        del document["size"]
    elif change == "renamed":
        document["sizes"] = document.pop("size")
    else:
        del document["sealed"]
    (tmp_path / "doc.json").write_text(json.dumps(document))
    with pytest.raises(IntegrityError, match="its seal differs"):
        unseal(tmp_path / "doc.json", "thing", 1)


def test_layout_alone_does_not_break_the_seal(tmp_path: Path) -> None:
    document = json.loads(seal({"schema": 1, "b": 1, "a": [1, 2]}))
    (tmp_path / "doc.json").write_text(json.dumps(dict(reversed(document.items()))))
    assert unseal(tmp_path / "doc.json", "thing", 1) == {"schema": 1, "b": 1, "a": [1, 2]}


def test_the_seal_is_the_last_key_and_is_made_anew(tmp_path: Path) -> None:
    sealed = json.loads(seal({"schema": 1, "name": "ü"}))
    assert list(sealed) == ["schema", "name", "sealed"]
    again = copy.deepcopy(sealed)
    assert seal(again) == seal({"schema": 1, "name": "ü"})


@pytest.mark.parametrize(
    ("content", "error", "why"),
    [
        (seal({"schema": 2, "new": 1}), ModelError, r"newer Sightline \(schema 2; .* schema 1\)\. Upgrade"),
        (seal({"name": "x"}), ModelError, "not a thing: it has no schema number"),
        (seal({"schema": True}), ModelError, "no schema number"),
        (seal({"schema": "1"}), ModelError, "no schema number"),
        (seal({"schema": 0}), ModelError, "no schema number"),
        (seal({"schema": 1})[:-9], IntegrityError, "damaged, not valid JSON"),
        (b"[1, 2]", IntegrityError, "not a mapping"),
        (b"", IntegrityError, "damaged"),
        (b"\xff\xfe\x00", IntegrityError, "damaged"),
    ],
)
def test_a_document_that_is_none_is_refused(tmp_path: Path, content: bytes, error: type[Exception], why: str) -> None:
    path = tmp_path / "doc.json"
    path.write_bytes(content)
    with pytest.raises(error, match=why) as e:
        unseal(path, "thing", 1)
    assert type(e.value) is error
    assert str(path) in str(e.value)


def test_an_absent_document_names_the_folder_and_what_was_sought(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"not a thing: doc\.json cannot be read"):
        unseal(tmp_path / "doc.json", "thing", 1)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "..\\x", "C:\\x", "nul\0", "x/..", "./x"]
)
def test_a_file_name_that_leaves_the_folder_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="is not the plain name of a file in this folder"):
        checked_table({"files": {"good": {"sha256": "0", "bytes": 1}, name: {"sha256": "0", "bytes": 1}}}, "doc.json")


@pytest.mark.parametrize("name", ["model.tflite", ".hidden", "a..b", "...", "ü ü", "x" * 200])
def test_a_plain_file_name_is_taken(name: str) -> None:
    entry = {"sha256": sha256(b""), "bytes": 0}
    assert checked_table({"files": {name: entry}}, "doc.json") == {name: entry}


@pytest.mark.parametrize(
    "files", [None, [], {"a": None}, {"a": {"sha256": "0"}}, {"a": {"sha256": 0, "bytes": 1}}, {"a": {"bytes": 1}}]
)
def test_a_table_of_another_form_is_refused(files: object) -> None:
    with pytest.raises(ModelError, match=r"doc\.json: 'files' must be a table"):
        checked_table({"files": files}, "doc.json")
