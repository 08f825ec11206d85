"""The kernels that the tests build themselves: one row each, what it is built of and what it is there for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FRAGMENTS = Path(__file__).parent / "fragments"

Architecture = Literal["x86_64", "arm64", "arm", "riscv64"]
Compiler = Literal["gcc", "clang-19"]

# Debian's source packages and the suites that have them.
SUITES = {"linux-source-6.1": "bookworm", "linux-source-6.12": "trixie", "linux-source-7.2": "sid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A kernel: *source* is Debian's package, *base* and *options* names of fragments, *purpose* half a sentence,
    *lines* more of a configuration.

    What *base* asks for is taken where a version or architecture has it; what *options* and *lines* ask for must be
    in the finished configuration, since the row stands for it.
    """

    name: str
    architecture: Architecture
    compiler: Compiler
    source: str
    base: tuple[str, ...]
    options: tuple[str, ...]
    purpose: str
    lines: str = ""


def _row(
    name: str,
    architecture: Architecture,
    compiler: Compiler,
    options: str,
    purpose: str,
    *,
    version: str = "6.12",
    modules: str = "small",
) -> Row:
    return Row(
        name=name,
        architecture=architecture,
        compiler=compiler,
        source=f"linux-source-{version}",
        base=("common", architecture, *modules.split()),
        options=tuple(options.split()),
        purpose=purpose,
    )


# A root on a disk, and larger subsystems; the other rows have `small`.
_DISK = "modules"
_MORE = "modules modules-more"

_ROWS = (
    _row("tiny", "x86_64", "gcc", "tiny", "all that one can do without: one processor, no versions, names, times"),
    _row(
        "kcfi-arm64",
        "arm64",
        "clang-19",
        "kcfi kcfi-arm64",
        "kCFI without a marker section; SCS, PAC, BTI, ftrace",
        modules="modules",
    ),
    _row("kcfi-x86_64-nofineibt", "x86_64", "clang-19", "kcfi-x86_64 nofineibt", "kCFI as the compiler makes it"),
    _row("kcfi-x86_64", "x86_64", "clang-19", "kcfi-x86_64 fineibt", "kCFI that the kernel rewrites: .cfi_sites"),
    _row(
        "lean-gcc",
        "x86_64",
        "gcc",
        "lean",
        "no versions, frame pointers, no unload",
        version="6.1",
        modules="modules modules-more",
    ),
    _row("thumb2", "arm", "gcc", "thumb2", "Thumb-2 code, REL relocations", modules=_DISK),
    _row("debug", "x86_64", "gcc", "debug", "KASAN, UBSAN, lockdep, debug objects: constructors, large sections"),
    _row("alloc-tags", "x86_64", "gcc", "alloc-tags", "MEM_ALLOC_PROFILING: a range of tags in each module"),
    _row("trimmed", "x86_64", "gcc", "trimmed", "TRIM_UNUSED_KSYMS without versions: exports that the glue wants"),
    _row("extended-versions", "x86_64", "gcc", "extended-versions", "versions by GENDWARFKSYMS", version="7.2"),
    _row("rt", "x86_64", "gcc", "rt", "PREEMPT_RT"),
    _row("nokallsyms", "x86_64", "gcc", "nokallsyms", "modules without a symbol table in the kernel"),
    _row("pages-16k", "arm64", "gcc", "pages-16k", "16 KiB pages"),
    _row("pages-64k", "arm64", "gcc", "pages-64k", "64 KiB pages"),
    _row("uniprocessor", "x86_64", "gcc", "uniprocessor", "SMP=n: no .data..percpu, another vermagic"),
    _row("lto-thin", "x86_64", "clang-19", "lto-thin", "thin LTO: modules linked out of bitcode"),
    _row("randstruct", "x86_64", "clang-19", "randstruct", "struct module in a drawn order"),
    _row("packed-lzma", "x86_64", "gcc", "packed-lzma", "a bzImage packed with LZMA"),
    _row("packed-bzip2", "x86_64", "gcc", "packed-bzip2", "a bzImage packed with bzip2"),
    _row("packed-lzo", "x86_64", "gcc", "packed-lzo", "a bzImage packed with LZO"),
    _row("livepatch", "x86_64", "gcc", "livepatch", "LIVEPATCH, with modules that patch"),
    _row("kunit", "x86_64", "gcc", "kunit", "modules with KUnit suites, run as they are loaded"),
    _row("gcc-plugins", "x86_64", "gcc", "gcc-plugins", "GCC plugins: latent entropy, STACKLEAK, RANDSTRUCT"),
    _row("kcfi-riscv64", "riscv64", "clang-19", "kcfi-riscv64", "kCFI on riscv64, with trap sites"),
    _row("tickless", "x86_64", "gcc", "tickless", "NO_HZ_IDLE: no ticks while a guest is idle"),
    _row(
        "flash",
        "arm",
        "gcc",
        "flash",
        "NOR, UBI and UBIFS as modules, the kernel's own ip=, NFS and 9p",
        modules="modules",
    ),
    _row("noprintktime", "x86_64", "gcc", "noprintktime", "a log without times"),
)

ROWS = {row.name: row for row in _ROWS}


def fragment_text(row: Row) -> str:
    """The configuration that the row asks for, later lines before earlier ones; its name is the local version."""
    names = (*row.base, *row.options)
    return "".join(_read(name) for name in names) + row.lines + f'CONFIG_LOCALVERSION="-{row.name}"\n'


def wanted(row: Row) -> dict[str, str]:
    """The values that the finished configuration must have, ``n`` for what must not be set."""
    values: dict[str, str] = {}
    for text in (*map(_read, row.options), row.lines):
        for line in text.splitlines():
            if line and not line.startswith("#"):
                key, _, value = line.partition("=")
                values[key] = value
    return values


def missing_values(row: Row, config: str) -> list[str]:
    """The lines that *row* wants and the text *config* of a finished .config has otherwise."""
    lines = config.splitlines()
    found = dict(line.split("=", 1) for line in lines if line.startswith("CONFIG_") and "=" in line)
    return [f"{key}={value}" for key, value in wanted(row).items() if found.get(key, "n") != value]


def _read(name: str) -> str:
    return (FRAGMENTS / f"{name}.config").read_text()
