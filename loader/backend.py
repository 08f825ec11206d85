"""The PEP 517 backend: compiles the loader for every architecture, then setuptools makes the wheel.

Runs inside the source tree, in an environment that has setuptools and ziglang and not megamod itself. Nothing but
loader/bin is left in the tree: setuptools' own folders go to a temporary place, so what an earlier build left in them
cannot get into a wheel either.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Imported by name: setuptools has no types.
_setuptools: Any = importlib.import_module("setuptools.build_meta")

_TREE = Path(__file__).resolve().parent.parent

get_requires_for_build_wheel = _setuptools.get_requires_for_build_wheel
get_requires_for_build_editable = _setuptools.get_requires_for_build_editable
get_requires_for_build_sdist = _setuptools.get_requires_for_build_sdist


def build_wheel(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """A wheel with the loaders in it."""
    compile_loaders()
    with _clean_folders():
        return str(_setuptools.build_wheel(wheel_directory, config_settings, metadata_directory))


def build_editable(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """An editable wheel; the loaders are compiled in place, and again on demand when a source changes."""
    compile_loaders()
    return str(_setuptools.build_editable(wheel_directory, config_settings, metadata_directory))


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """The sources; whoever makes a wheel of them compiles the loaders."""
    return str(_setuptools.build_sdist(sdist_directory, config_settings))


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """The metadata alone; nothing is compiled for it."""
    with _clean_folders():
        return str(_setuptools.prepare_metadata_for_build_wheel(metadata_directory, config_settings))


def prepare_metadata_for_build_editable(metadata_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """The metadata alone; nothing is compiled for it."""
    with _clean_folders():
        return str(_setuptools.prepare_metadata_for_build_editable(metadata_directory, config_settings))


def compile_loaders() -> None:
    """Fill loader/bin anew: every architecture with zig, the one that MEGAMOD_CC compiles for with that."""
    build = _import_build()
    only = build.compiler_target()
    folder = _TREE / "loader" / "bin"
    for arch in build.ARCHITECTURES:
        if only in (None, arch):
            made = build.build_into(folder, arch)
            sizes = ", ".join(f"{name} {(made / name).stat().st_size} bytes" for name in build.PROGRAMS)
            print(f"compiled the loader for {arch}: {sizes}")
        else:
            _remove(folder / arch)
            print(f"left out the loader for {arch}: MEGAMOD_CC compiles for {only}")


def _remove(folder: Path) -> None:
    for path in folder.glob("*"):
        path.unlink()


def _import_build() -> Any:
    """megamod.loader.build, from the tree: the folders have the names of the packages, only `megamod` has no folder."""
    package = types.ModuleType("megamod")
    package.__path__ = [str(_TREE)]
    sys.modules["megamod"] = package
    return importlib.import_module("megamod.loader.build")


@contextmanager
def _clean_folders() -> Iterator[None]:
    """setuptools' build and egg-info folders go to a temporary place (DIST_EXTRA_CONFIG of distutils)."""
    before = os.environ.get("DIST_EXTRA_CONFIG")
    with tempfile.TemporaryDirectory(prefix="megamod-build-") as folder:
        config = Path(folder) / "distutils.cfg"
        config.write_text(f"[build]\nbuild_base = {folder}/build\n[egg_info]\negg_base = {folder}\n")
        os.environ["DIST_EXTRA_CONFIG"] = str(config)
        try:
            yield
        finally:
            if before is None:
                del os.environ["DIST_EXTRA_CONFIG"]
            else:
                os.environ["DIST_EXTRA_CONFIG"] = before
