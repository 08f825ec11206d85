"""The PEP 517 backend: compiles the loader for every architecture, then setuptools makes the wheel.

Runs inside the source tree, in an environment that has setuptools, for a wheel ziglang too, and not megamod itself.
Nothing but loader/bin is left in the tree: setuptools' own folders go to a temporary place, so what an earlier build
left in them cannot get into a wheel either. The editable wheel and the sdist are written here: setuptools would list
the package's files once, where a path sees new ones, and leave tests and dot files out of the sources.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib
import io
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Imported by name: setuptools has no types.
_setuptools: Any = importlib.import_module("setuptools.build_meta")

_WHEEL = b"Wheel-Version: 1.0\nGenerator: megamod\nRoot-Is-Purelib: true\nTag: py3-none-any\n"

_TREE = Path(__file__).resolve().parents[3]

# The closed top level of the tree, in the sdist as it is; `.git` and what tools leave there is not in it.
_TOP = (
    *("LICENSE", "README.md", "pyproject.toml", "initramfs", "loader", "profiles", "tests"),
    *(".ci", ".clang-format", ".editorconfig", ".github", ".gitignore", ".pre-commit-config.yaml"),
)
_MADE = ("__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis")


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """What pyproject.toml leaves out as it is large: zig, unless MEGAMOD_CC names a compiler or nothing is compiled."""
    return [] if os.environ.get("MEGAMOD_CC") or _came_compiled() else [_programs().ZIGLANG]


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Nothing: the loaders are compiled when first asked for."""
    return []


def get_requires_for_build_sdist(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Nothing, but for the loaders if they are to be in it: else whoever makes a wheel of the sources compiles them."""
    return get_requires_for_build_wheel() if _with_loaders(config_settings) else []


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
    """A wheel that holds the metadata and a .pth to this tree's source root, so that edits and new files are seen at
    once. The loaders are compiled when first asked for, and again when a source changes."""
    with tempfile.TemporaryDirectory(prefix="megamod-build-") as folder:
        info = Path(folder) / prepare_metadata_for_build_editable(folder, config_settings)
        name = f"{info.name.removesuffix('.dist-info')}-0.editable-py3-none-any.whl"
        files = {"megamod.pth": f"{_TREE / 'initramfs'}\n".encode(), f"{info.name}/WHEEL": _WHEEL}
        files |= {
            f"{info.name}/{path.relative_to(info)}": path.read_bytes() for path in info.rglob("*") if path.is_file()
        }
        record = f"{info.name}/RECORD"
        rows = [f"{path},sha256={_digest(data)},{len(data)}" for path, data in files.items()]
        files[record] = "\n".join([*rows, f"{record},,", ""]).encode()
        with zipfile.ZipFile(Path(wheel_directory) / name, "w", zipfile.ZIP_DEFLATED) as wheel:
            for path, data in files.items():
                wheel.writestr(path, data)
    return name


def _digest(data: bytes) -> str:
    # As RECORD has it (Binary distribution format, PyPA): urlsafe base64 without padding.
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """The sources, all of them: with the tests, without what was compiled. Equal trees give equal bytes.

    With the setting ``loaders=compiled`` the loaders are in it, compiled, and whoever installs it needs no compiler.
    """
    if _with_loaders(config_settings):
        compile_loaders()
        compiled = sorted(path for path in (_TREE / "loader/bin").rglob("*") if path.is_file())
    else:
        compiled = []
    with tempfile.TemporaryDirectory(prefix="megamod-build-") as folder:
        info = Path(folder) / prepare_metadata_for_build_wheel(folder, config_settings)
        metadata = (info / "METADATA").read_bytes()
    title = info.name.removesuffix(".dist-info")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted([*source_files(), *compiled]):
            mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            _add(archive, f"{title}/{path.relative_to(_TREE)}", path.read_bytes(), mode)
        _add(archive, f"{title}/PKG-INFO", metadata, 0o644)
    name = f"{title}.tar.gz"
    (Path(sdist_directory) / name).write_bytes(gzip.compress(out.getvalue(), mtime=0))
    return name


def source_files() -> list[Path]:
    """Every file of the sources, sorted: what lies in the tree and was not made of it."""
    found: list[Path] = []
    for name in _TOP:
        path = _TREE / name
        if path.is_file():
            found.append(path)
        for folder, folders, files in os.walk(path):
            place = Path(folder)
            folders[:] = [one for one in folders if not _is_made(place / one)]
            found += [place / file for file in files]
    return sorted(found)


def _is_made(folder: Path) -> bool:
    return folder.name in _MADE or folder.name.endswith(".egg-info") or folder == _TREE / "loader" / "bin"


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    entry.mtime = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    archive.addfile(entry, io.BytesIO(data))


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """The metadata alone; nothing is compiled for it."""
    with _clean_folders():
        return str(_setuptools.prepare_metadata_for_build_wheel(metadata_directory, config_settings))


def prepare_metadata_for_build_editable(metadata_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """The metadata alone; nothing is compiled for it."""
    with _clean_folders():
        return str(_setuptools.prepare_metadata_for_build_editable(metadata_directory, config_settings))


def compile_loaders() -> None:
    """Fill loader/bin: every architecture with zig, those that MEGAMOD_CC compiles for with that."""
    if not os.environ.get("MEGAMOD_CC") and _came_compiled():
        print("the loaders came compiled")
        return
    build = _programs()
    only = build.compiler_targets()
    folder = _TREE / "loader" / "bin"
    for arch in build.ARCHITECTURES:
        if only is None or arch in only:
            made = build.build_into(folder, arch)
            sizes = ", ".join(f"{name} {(made / name).stat().st_size} bytes" for name in build.PROGRAMS)
            print(f"compiled the loader for {arch}: {sizes}")
        else:
            _remove(folder / arch)
            print(f"left out the loader for {arch}: MEGAMOD_CC compiles for {', '.join(sorted(only))}")


def _with_loaders(config_settings: dict[str, Any] | None) -> bool:
    wanted = (config_settings or {}).get("loaders", "")
    if wanted not in ("", "compiled"):
        raise SystemExit(f"megamod: error: -C loaders={wanted}: not known (hint: loaders=compiled)")
    return bool(wanted)


def _came_compiled() -> bool:
    """Whether this is an unpacked sdist that has the loaders in it, compiled from these very sources."""
    build = _programs()
    if not (_TREE / "PKG-INFO").is_file():
        return False
    for arch in build.ARCHITECTURES:
        folder = _TREE / "loader" / "bin" / arch
        stamp = folder / "source.sha256"
        if not stamp.is_file() or stamp.read_text() != build.source_hash(arch):
            return False
        if not all((folder / name).is_file() for name in build.PROGRAMS):
            return False
    return True


def _remove(folder: Path) -> None:
    for path in folder.glob("*"):
        path.unlink()


def _programs() -> Any:
    # Ours, of this tree (`backend-path`); it needs nothing but the standard library.
    return importlib.import_module("megamod.loader.programs")


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
