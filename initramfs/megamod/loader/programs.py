"""Compiles the loader's two programs, and gives their bytes to whoever writes an image: `init`, the loader itself, and
`ctl`, which is the stage keeper and megamod-ctl.

Needs the C sources in loader/ and a compiler: the one that MEGAMOD_CC names, or zig from the package ziglang. An
installed megamod has the programs compiled already (backend.py), so its users need neither. In a source tree they are
compiled when first asked for, and again when a source has changed. MEGAMOD_LOADERS names programs that are there.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shlex
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.common.host import data_folder
from megamod.common.trust import first_untrusted, is_called_by_user, require_trusted

ARCHITECTURES = ("x86_64", "aarch64", "arm", "riscv64")

# The loader's bytes depend on it; pyproject.toml pins the same.
ZIGLANG = "ziglang==0.13.0"

PROGRAMS = ("init", "ctl")
"""Both are made of all sources but the other's main file; what neither calls the linker leaves out."""

LOADERS = "MEGAMOD_LOADERS"
"""The variable that names a folder with ARCH/init and ARCH/ctl, made by whoever packages megamod: build systems compile
the loader with the compiler of their target, and megamod itself for the machine that builds."""

_LOADERS_HINT = f"{LOADERS} names a folder with ARCH/init and ARCH/ctl"

MAX_SIZE = 96 << 10
"""A bound that somebody has to raise on purpose: the programs are read from the image in every boot, and half of
`ctl` stays in memory as long as a deferred stage waits. A quarter of `init` keeps a driver's fault from the boot, a
third finds the root among real disks: members of arrays, copies, file systems on several devices. It is gone from
memory when the real init starts."""

_SOURCES = data_folder("loader")

_FLAGS = (
    *("-std=gnu11", "-Os", "-g0", "-Wall", "-Wextra", "-Wshadow"),
    *("-ffreestanding", "-fno-builtin", "-fno-stack-protector", "-fno-pie"),
    *("-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-ffunction-sections", "-fdata-sections"),
    *("-nostdlib", "-static", "-Wl,--gc-sections", "-Wl,-z,noexecstack", "-Wl,--build-id=none", "-s"),
)

# Oz: a smaller program than zig's own meaning of -Os. arm64 kernels may have pages of 64 KiB, and segments of different
# protection must not share one.
_ZIG_FLAGS = ("-Xclang", "-Oz", "-Wl,-z,max-page-size=65536")

# No floating point anywhere, so its registers need not be saved. arm: any ARMv6 (Raspberry Pi Zero) and newer, and the
# short instructions, which zig takes only in this form.
_ZIG_TARGETS = {
    "x86_64": ("-target", "x86_64-linux-musl"),
    # All of a program lies within a mebibyte, so one instruction finds an address (the tiny code model): 3 KB less.
    "aarch64": ("-target", "aarch64-linux-musl", "-mcpu=generic-neon-fp_armv8", "-mcmodel=tiny"),
    "arm": (
        *("-target", "arm-linux-musleabi", "-mcpu=arm1176jzf_s"),
        *("-Xclang", "-target-feature", "-Xclang", "+thumb-mode"),
    ),
    # The entry code sets up no gp, which relaxed code would use.
    "riscv64": ("-target", "riscv64-linux-musl", "-mno-relax"),
}

# GNU ld would fill the file up to a page between code and constants.
_OWN_FLAGS = ("-Wl,-z,noseparate-code",)
_OWN_TARGETS = {
    "x86_64": ("-mgeneral-regs-only",),
    "aarch64": ("-mgeneral-regs-only", "-Wl,-z,max-page-size=65536"),
    "arm": (),
    "riscv64": ("-mno-relax",),
}


def loader_binary(arch: str) -> bytes:
    """The loader for *arch* (x86_64, aarch64, arm, riscv64): a static ELF program of at most `MAX_SIZE` bytes.

    Raises MegamodError for an unknown architecture, and when it has to be compiled and cannot be.
    """
    return _binary(arch, "init")


def ctl_binary(arch: str) -> bytes:
    """The stage keeper and megamod-ctl for *arch*, under the same terms as the loader; /megamod/ctl in an image."""
    return _binary(arch, "ctl")


def _binary(arch: str, program: str) -> bytes:
    _check_arch(arch)
    if made := os.environ.get(LOADERS):
        if is_called_by_user():
            require_trusted(Path(made) / arch / program, "a program")
        return _prebuilt(Path(made) / arch / program)
    binary = _SOURCES / "bin" / arch / program
    stamp = binary.with_name("source.sha256")
    try:
        if not (binary.exists() and stamp.exists() and stamp.read_text() == source_hash(arch)):
            build_into(_SOURCES / "bin", arch)
        return binary.read_bytes()
    except OSError as error:
        raise MegamodError(f"{error.filename or binary}: {error.strerror}") from None


def _prebuilt(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MegamodError(f"{path}: {error.strerror}", hint=_LOADERS_HINT) from None
    if data[:4] != b"\x7fELF":
        raise MegamodError(f"{path}: is not an ELF program", hint=_LOADERS_HINT)
    return data


def build_into(folder: Path, arch: str) -> Path:
    """Compile *folder*/*arch*/init and ctl, and note beside them what they were compiled from; returns their folder."""
    target = folder / arch
    target.mkdir(parents=True, exist_ok=True)
    for program in PROGRAMS:
        compile_loader(arch, target / program, program=program)
    _replace(target / "source.sha256", source_hash(arch).encode(), mode=0o644)
    return target


def compile_loader(arch: str, out: Path, *, program: str = "init") -> None:
    """Compile *program* for *arch* to *out*, which appears whole or not at all.

    The compiler is MEGAMOD_CC (a command line such as ``gcc`` or ``clang --target=…``, or several, divided by
    semicolons), else zig.
    Raises MegamodError if there is none for *arch*, if it fails, or if the program grows over `MAX_SIZE`.
    """
    others = {f"{other}.c" for other in PROGRAMS if other != program}
    data = compile_program(arch, [path for path in _sources("*.c") if path.name not in others])
    if len(data) > MAX_SIZE:
        raise MegamodError(f"{program} for {arch}: {len(data)} bytes, more than {MAX_SIZE}")
    try:
        _replace(out, data, mode=0o755)
    except OSError as error:
        raise MegamodError(f"{out}: {error.strerror}") from None


def compile_program(arch: str, sources: Sequence[Path]) -> bytes:
    """A static program for *arch* of these C files, compiled as the loader is; its headers are found."""
    _check_arch(arch)
    own = _own_compiler(arch)
    command = [*own, *_own_flags(arch)] if own else [*_zig(arch), *_FLAGS, *_ZIG_FLAGS, *_ZIG_TARGETS[arch]]
    with tempfile.TemporaryDirectory(prefix="megamod-cc-") as scratch:
        program = Path(scratch) / "init"
        environment = dict(os.environ)
        environment.setdefault("ZIG_LOCAL_CACHE_DIR", str(Path(scratch) / "local"))
        environment.setdefault("ZIG_GLOBAL_CACHE_DIR", str(_cache_folder() or Path(scratch) / "global"))
        # Names instead of paths for the loader's own files: nothing of the place gets into the program.
        names = [path.name if path.parent == _SOURCES else str(path) for path in sources]
        _run([*command, "-I.", "-o", str(program), *names], environment, what=f"loader for {arch}")
        return _without_sections(program.read_bytes())


def _without_sections(data: bytes) -> bytes:
    """An ELF program without what no kernel reads: the section headers, and all that lies in no segment."""
    wide = data[4] == 2
    # Offsets of e_phoff, e_shoff, e_phentsize (System V ABI, "ELF Header"); e_phnum follows, then three of sections.
    word, phoff_at, shoff_at, counts_at = ("<Q", 32, 40, 54) if wide else ("<I", 28, 32, 42)
    (phoff,) = struct.unpack_from(word, data, phoff_at)
    phentsize, phnum = struct.unpack_from("<HH", data, counts_at)
    end = phoff + phentsize * phnum
    for number in range(phnum):
        at = phoff + phentsize * number
        # p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz; the flags stand later where words have 32 bits.
        offset, size = struct.unpack_from("<8xQ16xQ", data, at) if wide else struct.unpack_from("<4xI8xI", data, at)
        end = max(end, offset + size)
    out = bytearray(data[:end])
    struct.pack_into(word, out, shoff_at, 0)
    struct.pack_into("<HHH", out, counts_at + 4, 0, 0, 0)
    return bytes(out)


def source_hash(arch: str) -> str:
    """What the loader for *arch* is made from, as one number: sources, flags and the compiler's version."""
    digest = hashlib.sha256(repr((ZIGLANG, _FLAGS, _ZIG_FLAGS, _ZIG_TARGETS[arch])).encode())
    for path in [*_sources("*.[ch]"), *_sources("arch/*.h")]:
        data = path.read_bytes()
        digest.update(f"{path.name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def compiler_targets() -> frozenset[str] | None:
    """The architectures that MEGAMOD_CC compiles for, None if it is not set: then all of them can be compiled."""
    own = _own_compilers()
    return frozenset(map(_target_of, own)) if own else None


def compiler_target() -> str | None:
    """The first architecture that MEGAMOD_CC compiles for, None if it is not set."""
    own = _own_compilers()
    return _target_of(own[0]) if own else None


def _own_compilers() -> list[list[str]]:
    """The command lines in MEGAMOD_CC, which semicolons divide: distributions have a compiler an architecture."""
    return [words for text in os.environ.get("MEGAMOD_CC", "").split(";") if (words := shlex.split(text))]


def _own_compiler(arch: str) -> list[str]:
    """The one of MEGAMOD_CC that compiles for *arch*; [] if it names none at all."""
    compilers = _own_compilers()
    targets = [_target_of(own) for own in compilers]
    if compilers and arch not in targets:
        named = "; ".join(map(shlex.join, compilers))
        raise MegamodError(
            f"loader for {arch}: MEGAMOD_CC ({named}) compiles for {', '.join(targets)}",
            hint="name a target in MEGAMOD_CC, or unset it",
        )
    return compilers[targets.index(arch)] if compilers else []


def _cache_folder() -> Path | None:
    """Where zig keeps what it has compiled, None if that cannot be written."""
    home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("HOME")
    if not home:
        return None
    folder = Path(home) if os.environ.get("XDG_CACHE_HOME") else Path(home) / ".cache"
    folder = folder / "megamod" / "zig"
    # sudo and su may keep a user's HOME: what he can change is not compiled into root's images.
    if is_called_by_user() and first_untrusted([folder]) is not None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _check_arch(arch: str) -> None:
    if arch not in ARCHITECTURES:
        raise MegamodError(f"loader: no architecture {arch!r}", hint=f"one of {', '.join(ARCHITECTURES)}")


def _sources(pattern: str) -> list[Path]:
    return sorted(_SOURCES.glob(pattern))


def _zig(arch: str) -> list[str]:
    if importlib.util.find_spec("ziglang") is None:
        raise MegamodError(
            f"loader for {arch}: not compiled yet, and there is no compiler",
            hint=f"pip install {ZIGLANG}, or set MEGAMOD_CC to a C compiler",
        )
    return [sys.executable, "-m", "ziglang", "cc"]


def _own_flags(arch: str) -> list[str]:
    return [*_FLAGS, *_OWN_FLAGS, *_OWN_TARGETS[arch]]


def _target_of(own: Sequence[str]) -> str:
    """The architecture a compiler's programs are for: the first word of its target triple."""
    try:
        answer = subprocess.run([*own, "-dumpmachine"], capture_output=True, text=True, check=False).stdout
    except OSError as error:
        raise MegamodError(f"MEGAMOD_CC: {own[0]}: {error.strerror}") from None
    machine = answer.strip().partition("-")[0] or platform.machine()
    return (
        "arm" if machine.startswith(("arm", "thumb")) else {"arm64": "aarch64", "amd64": "x86_64"}.get(machine, machine)
    )


def _run(command: Sequence[str], environment: dict[str, str], *, what: str) -> None:
    try:
        result = subprocess.run(command, cwd=_SOURCES, env=environment, capture_output=True, text=True, check=False)
    except OSError as error:
        raise MegamodError(f"{what}: {command[0]}: {error.strerror}") from None
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if "error" in line] or result.stderr.splitlines()
        raise MegamodError(f"{what}: the compiler failed: {lines[0] if lines else f'status {result.returncode}'}")


def _replace(path: Path, data: bytes, *, mode: int) -> None:
    """Write *path* beside itself first, so that nobody ever sees a part of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
