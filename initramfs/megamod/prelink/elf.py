"""ELF as tables: constants and numpy record types for the classes and byte orders that the kernel's modules use.

Source: System V ABI, chapter 4, and the psABI of each architecture. Little-endian only: no architecture that megamod
knows runs big-endian Debian kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

ET_REL, ET_EXEC, ET_DYN = 1, 2, 3
EM_ARM, EM_X86_64, EM_AARCH64, EM_RISCV = 40, 62, 183, 243
SHT_NULL, SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOTE, SHT_NOBITS, SHT_REL = 0, 1, 2, 3, 4, 7, 8, 9
SHT_ARM_EXIDX = 0x70000001
EXIDX = ".ARM.exidx"  # arm's unwind index; what follows in a section's name is the code section's
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR, SHF_MERGE, SHF_STRINGS, SHF_INFO_LINK, SHF_LINK_ORDER = 1, 2, 4, 16, 32, 64, 128
# Linux's own: with SHF_WRITE, memory that is read-only once the module's init has run (include/uapi/linux/elf.h;
# kernel/module/main.c layout_sections(), 5.10 to 7.2).
SHF_RO_AFTER_INIT = 0x0020_0000
SHN_UNDEF, SHN_LORESERVE, SHN_ABS, SHN_COMMON = 0, 0xFF00, 0xFFF1, 0xFFF2
STB_LOCAL, STB_GLOBAL, STB_WEAK = 0, 1, 2
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_SECTION, STT_FILE = 0, 1, 2, 3, 4

MACHINE_NAMES = {
    3: "i386",
    EM_ARM: "arm",
    EM_X86_64: "x86_64",
    EM_AARCH64: "arm64",
    EM_RISCV: "riscv64",
    2: "sparc",
    8: "mips",
    15: "parisc",
    20: "ppc",
    21: "ppc64",
    22: "s390",
    43: "sparc64",
    258: "loongarch",
}

EHDR64 = np.dtype(
    [
        ("e_ident", "V16"), ("e_type", "<u2"), ("e_machine", "<u2"), ("e_version", "<u4"), ("e_entry", "<u8"),
        ("e_phoff", "<u8"), ("e_shoff", "<u8"), ("e_flags", "<u4"), ("e_ehsize", "<u2"), ("e_phentsize", "<u2"),
        ("e_phnum", "<u2"), ("e_shentsize", "<u2"), ("e_shnum", "<u2"), ("e_shstrndx", "<u2"),
    ]
)  # fmt: skip
SHDR64 = np.dtype(
    [
        ("sh_name", "<u4"), ("sh_type", "<u4"), ("sh_flags", "<u8"), ("sh_addr", "<u8"), ("sh_offset", "<u8"),
        ("sh_size", "<u8"), ("sh_link", "<u4"), ("sh_info", "<u4"), ("sh_addralign", "<u8"), ("sh_entsize", "<u8"),
    ]
)  # fmt: skip
SYM64 = np.dtype(
    [
        ("st_name", "<u4"), ("st_info", "u1"), ("st_other", "u1"), ("st_shndx", "<u2"), ("st_value", "<u8"),
        ("st_size", "<u8"),
    ]
)  # fmt: skip
EHDR32 = np.dtype(
    [
        ("e_ident", "V16"), ("e_type", "<u2"), ("e_machine", "<u2"), ("e_version", "<u4"), ("e_entry", "<u4"),
        ("e_phoff", "<u4"), ("e_shoff", "<u4"), ("e_flags", "<u4"), ("e_ehsize", "<u2"), ("e_phentsize", "<u2"),
        ("e_phnum", "<u2"), ("e_shentsize", "<u2"), ("e_shnum", "<u2"), ("e_shstrndx", "<u2"),
    ]
)  # fmt: skip
SHDR32 = np.dtype(
    [
        ("sh_name", "<u4"), ("sh_type", "<u4"), ("sh_flags", "<u4"), ("sh_addr", "<u4"), ("sh_offset", "<u4"),
        ("sh_size", "<u4"), ("sh_link", "<u4"), ("sh_info", "<u4"), ("sh_addralign", "<u4"), ("sh_entsize", "<u4"),
    ]
)  # fmt: skip
SYM32 = np.dtype(
    [
        ("st_name", "<u4"), ("st_value", "<u4"), ("st_size", "<u4"), ("st_info", "u1"), ("st_other", "u1"),
        ("st_shndx", "<u2"),
    ]
)  # fmt: skip
# r_info: the low byte is the type, the rest the symbol (ELF32_R_TYPE, ELF32_R_SYM).
REL32 = np.dtype([("r_offset", "<u4"), ("r_info", "<u4")])
# r_info is split: the low word is the type, the high word the symbol (ELF64_R_TYPE, ELF64_R_SYM).
RELA64 = np.dtype([("r_offset", "<u8"), ("r_type", "<u4"), ("r_sym", "<u4"), ("r_addend", "<i8")])


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One section header of an input module, names resolved; ``data`` is empty for SHT_NOBITS."""

    index: int
    name: str
    sh_type: int
    sh_flags: int
    size: int
    sh_link: int
    sh_info: int
    sh_addralign: int
    sh_entsize: int
    data: memoryview

    @property
    def alloc(self) -> bool:
        return bool(self.sh_flags & SHF_ALLOC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layouts:
    """The record types of one ELF class. table: sh_type of its relocation tables, REL or RELA; prefix: their names'."""

    header: np.dtype[Any]
    section: np.dtype[Any]
    symbol: np.dtype[Any]
    relocation: np.dtype[Any]
    table: int
    prefix: str


CLASS64 = Layouts(header=EHDR64, section=SHDR64, symbol=SYM64, relocation=RELA64, table=SHT_RELA, prefix=".rela")
CLASS32 = Layouts(header=EHDR32, section=SHDR32, symbol=SYM32, relocation=REL32, table=SHT_REL, prefix=".rel")
# EI_CLASS → its records; 32-bit arm is the only architecture here with REL tables.
CLASSES = {1: CLASS32, 2: CLASS64}


def align_up(value: int, alignment: int) -> int:
    """The least multiple of *alignment* (0 counts as 1) that is not below *value*."""
    return -(-value // alignment) * alignment if alignment > 1 else value


def find_section(sections: Sequence[Section], name: str) -> Section | None:
    """The first SHF_ALLOC section of that name, as the kernel's find_sec() finds it (kernel/module/main.c)."""
    return next((s for s in sections if s.name == name and s.alloc), None)
