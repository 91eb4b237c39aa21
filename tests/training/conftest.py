"""One finished training for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.training import learn


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The models are too small for more, and workers make the pictures."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A run that was never interrupted. Read only."""
    path = tmp_path_factory.mktemp("learned") / "colours"
    learn(pictures, path)
    return path
