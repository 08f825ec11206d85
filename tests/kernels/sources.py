"""Where the sources and the compilers come from: Debian's packages, unpacked below the cache and never installed.

Needs apt-get, dpkg-deb, tar and xz, and for gcc the machine's own packages. Guarantees that a folder is whole or not
there, and that /etc/apt is only read.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from megamod.boot.apt import find_package, host_architecture, open_apt, unpack, update
from megamod.boot.debian import fetch_package_files
from megamod.common.errors import MegamodError
from megamod.common.host import file_lock, find_program, run_program
from tests.kernels.table import SUITES, Row

Say = Callable[[str], None]

# The compiler's own libraries, and others that it is linked with and a small system may lack.
_CLANG_SUITE = "bookworm"
_CLANG_PACKAGES = (
    *("clang-19", "lld-19", "llvm-19", "llvm-19-linker-tools", "libllvm19", "libclang-cpp19", "libclang-common-19-dev"),
    *("libz3-4", "libedit2", "libbsd0", "libxml2", "libpfm4"),
)
_GCC = {
    "x86_64": ("", "gcc"),
    "arm64": ("aarch64-linux-gnu-", "gcc-aarch64-linux-gnu"),
    "arm": ("arm-linux-gnueabihf-", "gcc-arm-linux-gnueabihf"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An unpacked kernel source: *version* is that of Debian's package, ``6.12.117-1``."""

    folder: Path
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """A compiler: what make is told, what the environment must have, and the line that it calls itself by."""

    program: str
    variables: tuple[str, ...]
    environment: Mapping[str, str]
    version: str


def fetch_source(row: Row, *, cache: Path, say: Say) -> Source:
    """The source of *row*, unpacked; MegamodError when it cannot be had."""
    package = fetch_package_files(row.source, SUITES[row.source], cache=cache, say=say)
    archive = package / f"usr/src/{row.source}.tar.xz"
    version = package.name.split("_")[1]
    folder = cache / "selfbuilt/sources" / f"{row.source}_{version}"
    with file_lock(folder.with_name(f"{folder.name}.lock")):
        if not folder.exists():
            say(f"unpacking {archive.name} {version}")
            tar = find_program("tar", package="tar")
            fill(folder, lambda new: run_program([tar, "-xf", archive, "--strip-components=1", "-C", new]))
    return Source(folder=folder, version=version)


def find_toolchain(row: Row, *, cache: Path, say: Say) -> Toolchain:
    """The compiler of *row*: Debian's clang from the cache, or the machine's gcc for that architecture."""
    if row.compiler == "gcc":
        prefix, package = _GCC[row.architecture]
        program = find_program(f"{prefix}gcc", package=package)
        variables = (f"CROSS_COMPILE={prefix}",) if prefix else ()
        return Toolchain(program=f"{prefix}gcc", variables=variables, environment={}, version=_first_line(program))
    folder = _fetch_clang(cache=cache, say=say)
    libraries = [*sorted(folder.glob("usr/lib/*-linux-gnu")), folder / "usr/lib/llvm-19/lib"]
    environment = {
        "PATH": f"{folder}/usr/bin:{os.environ.get('PATH', os.defpath)}",
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
    }
    return Toolchain(program="clang-19", variables=("LLVM=-19",), environment=environment, version=folder.name)


def fill(folder: Path, make: Callable[[Path], object]) -> Path:
    """Let *make* fill a temporary folder; it is renamed to *folder*, in place of an old one, when all is there.

    The caller holds a lock, so that a temporary folder for the same name is what a killed process has left.
    """
    prefix = f".new-{folder.name}-"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as scratch:
            new = Path(scratch) / "new"
            new.mkdir()
            make(new)
            if folder.exists():
                shutil.rmtree(folder)
            new.rename(folder)
    except OSError as error:
        raise MegamodError(f"{folder}: {error.strerror}", hint="XDG_CACHE_HOME names another cache folder") from None
    return folder


def _fetch_clang(*, cache: Path, say: Say) -> Path:
    """The folder with clang 19 and its libraries, ``clang-19_1%3a19.1.7-3~deb12u1``."""
    compilers = cache / "selfbuilt/compilers"
    with file_lock(compilers / "clang-19.lock"):
        if found := sorted(compilers.glob("clang-19_*")):
            return found[-1]
        say(f"downloading {_CLANG_PACKAGES[0]} of {_CLANG_SUITE}")
        apt = open_apt(_CLANG_SUITE, architecture=host_architecture(), folder=compilers / "apt")
        update(apt)
        packages = [find_package(apt, name) for name in _CLANG_PACKAGES]

        def make(new: Path) -> None:
            with tempfile.TemporaryDirectory(dir=new.parent) as scratch:
                unpack(apt, packages, scratch=Path(scratch), tree=new)

        return fill(compilers / f"clang-19_{packages[0].version}".replace(":", "%3a"), make)


def _first_line(program: str) -> str:
    return re.sub(r"\s+", " ", run_program([program, "--version"]).splitlines()[0]).strip()
