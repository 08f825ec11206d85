"""Build one of the kernels of `table.py`, or find it in the cache.

    python -m tests.kernels.build --list
    python -m tests.kernels.build kcfi-arm64 lean-gcc
    python -m tests.kernels.build --all --keep-objects

A finished kernel is the folder ``selfbuilt/NAME`` of the cache, a link to the last build of the row:
``boot/{vmlinuz,config,System.map,symvers}-KVER`` and ``lib/modules/KVER`` with depmod's indexes. Needs make, flex,
bison, bc, libelf-dev, kmod and the row's compiler.

With ``--keep-objects`` the objects stay in the cache, one folder for each source, architecture and compiler, and the
next row of these compiles only what its options change, or what a killed build had not reached.

With ``--modules-only`` it is ``selfbuilt/NAME-modules``, the modules without a kernel and without symbol versions: a
fifth of the work, and enough for `tests.properties.run`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from megamod.boot.debian import Kernel
from megamod.common.errors import MegamodError
from megamod.common.host import cache_folder, file_lock, find_program, run_program
from tests.kernels.sources import Say, Source, Toolchain, fetch_source, fill, find_toolchain
from tests.kernels.table import ROWS, Row, fragment_text, missing_values

# A change of the recipe below that changes what comes out of it.
_RECIPE = "1"
_TIMESTAMP = "Thu Jan  1 00:00:00 UTC 2026"
_IMAGES = {
    "x86_64": ("bzImage", "arch/x86/boot/bzImage"),
    "arm64": ("Image.gz", "arch/arm64/boot/Image.gz"),
    "arm": ("zImage", "arch/arm/boot/zImage"),
    "riscv64": ("Image", "arch/riscv/boot/Image"),
}
# make's name of an architecture where it is not the row's.
_ARCH = {"riscv64": "riscv"}
_DEBIAN_NAMES = {"x86_64": "amd64", "arm64": "arm64", "arm": "armhf", "riscv64": "riscv64"}
_JOBS = 2


def build_kernel(row: Row, *, cache: Path, say: Say = lambda line: None, keep_objects: bool = False) -> Kernel:
    """The kernel of *row*, built if the cache does not have it as the row is now.

    A second process that wants it waits and finds it; one kernel at a time is built on a machine. *say* gets a line
    for each slow step. MegamodError names the step that failed and the file with its output.
    """
    home = cache / "selfbuilt"
    with file_lock(home / "locks" / row.name):
        source = fetch_source(row, cache=cache, say=say)
        tools = find_toolchain(row, cache=cache, say=say)
        tree = home / "trees" / f"{row.name}-{build_key(row, source, tools)}"
        if not tree.exists():
            say(f"building {row.name}: {row.source} {source.version}, {tools.version}")
            with file_lock(home / "locks/make"):
                _sweep(home / "trees")
                kept = (
                    home / "objects" / f"{row.architecture}-{tools.program}-{source.version}" if keep_objects else None
                )
                fill(tree, lambda new: _make(row, source, tools, new, kept))
        _point(home / row.name, tree)
    return kernel_in(tree, row)


def build_modules(row: Row, *, cache: Path, say: Say = lambda line: None) -> Path:
    """The folder with the modules of *row* alone, for the oracle: they are for no kernel that there is.

    Objects are always kept, as those of `build_kernel` with *keep_objects*, in a folder of their own.
    """
    home = cache / "selfbuilt"
    name = f"{row.name}-modules"
    with file_lock(home / "locks" / name):
        source = fetch_source(row, cache=cache, say=say)
        tools = find_toolchain(row, cache=cache, say=say)
        tree = home / "trees" / f"{name}-{build_key(row, source, tools)}"
        if not tree.exists():
            say(f"building {name}: {row.source} {source.version}, {tools.version}")
            with file_lock(home / "locks/make"):
                _sweep(home / "trees")
                fill(tree, lambda new: _make_modules(row, source, tools, new, home / "objects" / name))
        _point(home / name, tree)
    return home / name


def find_built(row: Row, *, cache: Path) -> Kernel:
    """The kernel that was last built of *row*, without a look at sources or compilers."""
    folder = cache / "selfbuilt" / row.name
    if not folder.exists():
        raise MegamodError(f"{row.name}: is not built yet", hint=f"python -m tests.kernels.build {row.name}")
    return kernel_in(folder, row)


def build_key(row: Row, source: Source, tools: Toolchain) -> str:
    """Twelve digits that stand for all that goes into a build."""
    parts = [_RECIPE, row.architecture, fragment_text(row), source.version, tools.version, *tools.variables]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def kernel_in(tree: Path, row: Row) -> Kernel:
    """The finished kernel in *tree*."""
    modules = next(tree.glob("lib/modules/*"))
    boot = tree / "boot"
    return Kernel(
        release=modules.name,
        modules=modules,
        vmlinuz=boot / f"vmlinuz-{modules.name}",
        config=boot / f"config-{modules.name}",
        architecture=_DEBIAN_NAMES[row.architecture],
    )


def _make_modules(row: Row, source: Source, tools: Toolchain, new: Path, objects: Path) -> None:
    """What `_make` does, for the modules alone; modpost has no vmlinux to look into and so warns of each import."""
    log = _new_log(new, f"{row.name}-modules")
    objects.mkdir(parents=True, exist_ok=True)
    fragment = objects / "fragment"
    # Versions are made of the kernel's own objects.
    fragment.write_text(fragment_text(row) + "CONFIG_MODVERSIONS=n\n")
    _run_make(row, source, tools, objects, (f"KCONFIG_ALLCONFIG={fragment}", "allnoconfig"), log=log)
    _run_make(row, source, tools, objects, (f"-j{_JOBS}", "KBUILD_MODPOST_WARN=1", "modules"), log=log)
    # modules_install wants what is made of vmlinux: modules.builtin, System.map (scripts/Makefile.modinst, depmod.sh).
    release = (objects / "include/config/kernel.release").read_text().strip()
    folder = new / "lib/modules" / release
    # Lines are those of objects, before 6.2 of modules.
    names = [str(Path(line).with_suffix(".ko")) for line in (objects / "modules.order").read_text().split()]
    for name in names:
        target = folder / "kernel" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(objects / name, target)
    (folder / "modules.order").write_text("".join(f"kernel/{name}\n" for name in names))
    (folder / "modules.builtin").touch()
    run_program([find_program("depmod", package="kmod"), "-b", new, release])


def _new_log(new: Path, name: str) -> Path:
    log = new.parents[2] / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    return log


@contextmanager
def _object_folder(kept: Path | None, beside: Path) -> Iterator[Path]:
    """The folder *kept*, as it was left, or one for this build alone."""
    if kept is None:
        with tempfile.TemporaryDirectory(prefix="megamod-kernel-", dir=beside) as scratch:
            yield Path(scratch)
    else:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept


def _make(row: Row, source: Source, tools: Toolchain, new: Path, kept: Path | None) -> None:
    """Configure and build, in *kept* or a scratch folder, and put what a running system has of a kernel into *new*."""
    target, image = _IMAGES[row.architecture]
    log = _new_log(new, row.name)
    with _object_folder(kept, new.parent) as objects:

        def run(*words: str) -> None:
            _run_make(row, source, tools, objects, words, log=log)

        fragment = objects / "fragment"
        fragment.write_text(fragment_text(row))
        run(f"KCONFIG_ALLCONFIG={fragment}", "allnoconfig")
        config = (objects / ".config").read_text()
        if lines := missing_values(row, config):
            raise MegamodError(f"{row.name}: the kernel's configuration does not take {' '.join(lines)}")
        run(f"-j{_JOBS}", target, "modules")
        depmod = find_program("depmod", package="kmod")
        run(f"INSTALL_MOD_PATH={new}", "INSTALL_MOD_STRIP=1", f"DEPMOD={depmod}", "modules_install")
        release = (objects / "include/config/kernel.release").read_text().strip()
        for name in ("build", "source"):
            (new / "lib/modules" / release / name).unlink(missing_ok=True)
        boot = new / "boot"
        boot.mkdir()
        files = {"vmlinuz": image, "config": ".config", "System.map": "System.map", "symvers": "Module.symvers"}
        for name, path in files.items():
            shutil.copyfile(objects / path, boot / f"{name}-{release}")


def _run_make(row: Row, source: Source, tools: Toolchain, objects: Path, words: Sequence[str], *, log: Path) -> None:
    """One run of make, its output at the end of *log*; MegamodError with the compiler's first error."""
    command = [
        # Should this process be killed, make ends too, and ends its compilers.
        *(find_program("setpriv", package="util-linux"), "--pdeathsig", "TERM"),
        *(find_program("nice", package="coreutils"), "-n", "10", find_program("make", package="make"), "-s"),
        *("-C", str(source.folder), f"O={objects}", f"ARCH={_ARCH.get(row.architecture, row.architecture)}"),
        *(f"KBUILD_BUILD_TIMESTAMP={_TIMESTAMP}", "KBUILD_BUILD_USER=tests", "KBUILD_BUILD_HOST=tests"),
        *("KBUILD_BUILD_VERSION=1", *tools.variables, *_cached_compiler(row, tools), *words),
    ]
    # Nothing of the caller's flags for make may get in.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "ARCH")}
    cache = log.parents[1] / "ccache"
    start = log.stat().st_size if log.exists() else 0
    with log.open("a") as output:
        done = subprocess.run(
            command,
            env={**environment, "LC_ALL": "C.UTF-8", "CCACHE_DIR": str(cache), **tools.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode != 0:
        lines = log.read_text(errors="replace")[start:].splitlines()
        first = next((line for line in lines if "rror" in line), f"exit status {done.returncode}")
        raise MegamodError(f"{row.name}: make {words[-1]}: {first.strip()}", hint=f"all of it is in {log}")


def _sweep(trees: Path) -> None:
    """Remove what builds that were killed have left; only for the one that holds the lock of all builds."""
    for left in trees.glob(".new-*"):
        shutil.rmtree(left, ignore_errors=True)


def _cached_compiler(row: Row, tools: Toolchain) -> list[str]:
    """Use ccache where it is installed, for gcc: its rows of one version have most files in common."""
    return [f"CC=ccache {tools.program}"] if row.compiler == "gcc" and shutil.which("ccache") else []


def _point(link: Path, tree: Path) -> None:
    """Make *link* point to *tree*, at once or not at all, and remove what it pointed to before."""
    old = link.resolve() if link.is_symlink() else None
    if old == tree.resolve():
        return
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(Path("trees") / tree.name)
    temporary.replace(link)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="build small kernels for the tests")
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows of the table")
    parser.add_argument("--all", action="store_true", help="all rows, in the table's order")
    parser.add_argument("--keep-objects", action="store_true", help="compile only what the last build left undone")
    parser.add_argument("--modules-only", action="store_true", help="modules without a kernel, for the oracle")
    parser.add_argument("--list", action="store_true", help="print the table")
    arguments = parser.parse_args()
    if arguments.list or not (arguments.names or arguments.all):
        for row in ROWS.values():
            print(f"{row.name:22} {row.architecture:7} {row.compiler:9} {row.source:18} {row.purpose}")
        return 0
    if unknown := [name for name in arguments.names if name not in ROWS]:
        parser.error(f"{unknown[0]}: not in the table, which has {', '.join(ROWS)}")
    failed = False
    for name in ROWS if arguments.all else arguments.names:
        try:
            if arguments.modules_only:
                print(build_modules(ROWS[name], cache=cache_folder(), say=lambda line: print(line, flush=True)))
                continue
            kernel = build_kernel(
                ROWS[name],
                cache=cache_folder(),
                say=lambda line: print(line, flush=True),
                keep_objects=arguments.keep_objects,
            )
            count = sum(1 for _ in kernel.modules.rglob("*.ko"))
            print(f"{name}: {kernel.release}, {count} modules: {cache_folder() / 'selfbuilt' / name}", flush=True)
        except MegamodError as error:
            failed = True
            print(f"{name}: {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
