"""The files that a device receives."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from edge.deploy.payload import PACKAGES, Payload


def test_the_wheel_holds_exactly_the_running_sightline(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    names = ", ".join(f'"{package}"' for package in PACKAGES)
    assert f"packages = [{names}]" in (root / "pyproject.toml").read_text()
    assert Payload().sightline == Payload().sightline
    wheel = tmp_path / "sightline-0.1.0-py3-none-any.whl"
    wheel.write_bytes(Payload().sightline)
    uv = shutil.which("uv", path=str(Path(sys.executable).parent))
    target = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--target", tmp_path / "site", wheel]
    done = subprocess.run([str(uv), *map(str, target)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/edge/system/sightline.service").exists(), "files that are not Python count, too"
    for path in (root / "edge").rglob("*.*"):
        if "__pycache__" not in path.parts:
            assert (tmp_path / "site" / path.relative_to(root)).read_bytes() == path.read_bytes()
