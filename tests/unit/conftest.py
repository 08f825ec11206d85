"""No unit test writes to the user's cache of indexes."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def index_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that takes its place."""
    folder = tmp_path_factory.mktemp("indexes")
    monkeypatch.setattr("megamod.modules.index_cache.cache_folder", lambda: folder)
    return folder
