"""What both peers' tests share: tiny models of two architectures, and TRL's trainers around them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("trl")


@pytest.fixture(scope="session")
def trainer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trl")
