"""Python processes that Sightline starts: code in the user's folder never runs, and the installation is still found."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sightline
from edge import benchmark as bench
from edge.inference import self_test as selftest
from sightline.child import python
from tests.conftest import Sightline

ROOT = Path(sightline.__file__).parent.parent
SHOUT = "import sys; sys.stderr.write('code of the current folder ran\\n'); raise SystemExit(77)"


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, in which modules lie that have the names of others."""
    for name in ("json", "cv2", "random", "click", "numpy", "pip", "sightline", "edge", "converters", "runpy"):
        (tmp_path / f"{name}.py").write_text(SHOUT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_modules_in_the_current_folder_do_not_run(trap: Path) -> None:
    done = subprocess.run(python("sightline", "--version"), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert sightline.__version__ in done.stdout


def test_a_clone_that_is_not_installed_finds_itself(tmp_path: Path) -> None:
    package = tmp_path / "clone" / "sightline"
    package.mkdir(parents=True)
    (package / "child.py").write_bytes((ROOT / "sightline" / "child.py").read_bytes())
    (package / "__init__.py").write_text("")
    (package / "said.py").write_text("import sys; print(__file__, *sys.argv[1:])")
    command = [sys.executable, "-I", str(package / "child.py"), "sightline.said", "a b", "--c"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.split(maxsplit=1) == [str(package / "said.py"), "a b --c\n"], done.stderr


def test_pythonpath_is_still_heard(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("print('found')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(python("mine"), capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout == "found\n", done.stderr


@pytest.mark.slow
def test_the_self_test_and_a_cold_start_run_no_code_of_the_current_folder(bundle: Path, trap: Path) -> None:
    assert selftest.try_in_child(bundle, "desktop", "static_int8").error is None
    assert bench.cold_start_ms(bundle, "desktop", "static_int8") > 0


def test_a_probed_model_runs_no_code_of_the_current_folder(bundle: Path, trap: Path) -> None:
    from converters.inspect.probe import run_probe

    content = next(bundle.glob("*.static_int8.tflite")).read_bytes()
    assert not run_probe(content, "xnnpack", "model").load_error


def test_a_supervised_agent_runs_no_code_of_the_current_folder(bundle: Path, trap: Path, sightline: Sightline) -> None:
    picture = trap / "picture.png"
    picture.write_bytes(b"")
    command = python("sightline", "run", str(bundle), "--source", "none.png", "--supervise")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "none.png" in done.stderr, done.stderr


def test_no_process_is_started_with_a_module_or_code_by_name() -> None:
    """What starts Python does it with `sightline.child.python`, or with -I."""
    guilty = []
    for package in ("sightline", "edge", "converters", "trainer"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.List | ast.Tuple):
                    words = [e.value for e in node.elts if isinstance(e, ast.Constant)]
                    source = ast.unparse(node)
                    if "sys.executable" in source and {"-m", "-c"} & set(words) and "-I" not in words:
                        guilty.append(str(path.relative_to(ROOT)))
    assert guilty == ["edge/cli/service.py"], "systemd starts a service in /, not in a folder of the user's"
