"""A classifier's and a detector's bundle for browsers, and their sites."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import need


@pytest.fixture(scope="session", autouse=True)
def runtime() -> None:
    need(shutil.which("npm") is not None, "LiteRT.js is fetched by npm: apt-get install npm")


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory, run_folder: Path) -> Path:
    """Its variants: an int8 body with float input and output (default), and float32. Read only."""
    from converters.convert import ConvertOptions, convert

    path = tmp_path_factory.mktemp("phone") / "colours.bundle"
    convert(run_folder, path, ConvertOptions("browser_phone", schemes=("static_int8_float_io", "float32")))
    return path


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory, spots_run: Path) -> Path:
    from converters.convert import ConvertOptions, convert

    path = tmp_path_factory.mktemp("phone") / "spots.bundle"
    convert(spots_run, path, ConvertOptions("browser_phone"))
    return path


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, colours: Path) -> Path:
    """Of the classifier. Read only."""
    return exported(colours, tmp_path_factory.mktemp("site") / "colours")


@pytest.fixture(scope="session")
def detector_site(tmp_path_factory: pytest.TempPathFactory, detector: Path) -> Path:
    return exported(detector, tmp_path_factory.mktemp("site") / "spots")


def exported(bundle: Path, out: Path, scheme: str | None = None, post: str = "") -> Path:
    from edge.web_export.export import export
    from sightline.bundle import read_bundle

    export(read_bundle(bundle), out, scheme=scheme, post=post, runtime=None)
    return out
