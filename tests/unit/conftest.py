"""No unit test writes to the user's cache of indexes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from megamod.common.cache import read_entry, write_entry


@pytest.fixture(autouse=True)
def index_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that takes its place."""
    base = tmp_path_factory.mktemp("cache")
    use_cache(monkeypatch, base)
    (base / "indexes").mkdir()
    return base / "indexes"


def use_cache(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    """Have the indexes kept below *base*."""
    monkeypatch.setattr("megamod.modules.index_cache.read_entry", partial(read_entry, base=base))
    monkeypatch.setattr("megamod.modules.index_cache.write_entry", partial(write_entry, base=base))
