"""Figures that were measured, each a JSON file named after what it depends on: a run that was broken off goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megamod.common.files import atomic_write
from megamod.common.host import find_program, run_program


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """The folder of the figures. With *fresh* nothing that lies there is believed."""

    folder: Path
    fresh: bool = False

    def figure(self, what: str, depends: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """What *make* gives, which JSON can hold, or what it gave when it was called for the same *depends*."""
        key = json.dumps({"what": what, **depends}, sort_keys=True)
        path = self.folder / f"{what}-{hashlib.sha256(key.encode()).hexdigest()[:20]}.json"
        if path.exists() and not self.fresh:
            return json.loads(path.read_text())["figure"]
        figure = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"what": what, "depends": dict(depends), "figure": figure}, indent=1, sort_keys=True)
        atomic_write(path, f"{text}\n".encode())
        # What comes out of JSON is what a later run will see: tuples are lists, keys are text.
        return json.loads(text)["figure"]


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def qemu_version(program: str = "qemu-system-x86_64") -> str:
    """The first line of what QEMU says of itself."""
    return run_program([find_program(program, package="qemu-system-x86"), "--version"]).split("\n")[0]
