"""The rival that links nothing: a module from which everything is taken that its kernel can do without.

A few lines and binutils, none of the prelinker's passes. Taken out: the mcount table and each `call __fentry__` with
its relocation, trace events and eval maps, BTF, the local symbols, and the ORC tables if asked for.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from megamod.common.errors import MegamodError
from megamod.common.host import find_program, run_program
from megamod.prelink.elf import EHDR64, RELA64, SHDR64, SHF_ALLOC, SHT_RELA, SHT_SYMTAB, SYM64, Array

_TRACING = ("__mcount_loc", "_ftrace_events", "_ftrace_eval_map", "__bpf_raw_tp_map", ".BTF", ".BTF.base")
_ORC = (".orc_unwind", ".orc_unwind_ip", ".orc_header")
# The NOP that ftrace itself writes there (arch/x86/kernel/ftrace.c, x86_nops[5]).
_CALL, _NOP = 0xE8, bytes([0x0F, 0x1F, 0x44, 0, 0])


def prune(data: bytes, *, name: str, orc: bool) -> bytes:
    """The unsigned module file *data* without what is not needed; with the ORC tables if *orc*."""
    image = bytearray(data)
    header = np.frombuffer(image, EHDR64, count=1)[0]
    sections = np.frombuffer(image, SHDR64, count=int(header["e_shnum"]), offset=int(header["e_shoff"]))
    names = [_text(image, sections[int(header["e_shstrndx"])], int(section["sh_name"])) for section in sections]
    gone = _TRACING if orc else (*_TRACING, *_ORC)
    for section in sections:
        if section["sh_type"] == SHT_RELA:
            kept = _keep_rows(image, section, sections, gone=names[int(section["sh_info"])] in gone, name=name)
            section["sh_size"] = kept * RELA64.itemsize
    for number, section in enumerate(sections):
        if names[number] in gone:
            section["sh_flags"] &= ~np.uint64(SHF_ALLOC)
            section["sh_size"] = 0
    del sections, section, header
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.ko"
        path.write_bytes(image)
        remove = [word for section in gone for word in ("-R", section)]
        run_program([find_program("strip", package="binutils"), "--strip-unneeded", *remove, path])
        return path.read_bytes()


def _keep_rows(image: bytearray, section: np.void, sections: Array, *, gone: bool, name: str) -> int:
    """Write NOPs over the trace calls of a relocation section and close up its other rows; returns how many."""
    if gone:
        return 0
    start, size = int(section["sh_offset"]), int(section["sh_size"])
    rows = np.frombuffer(image, RELA64, count=size // RELA64.itemsize, offset=start)
    table = sections[int(section["sh_link"])]
    assert table["sh_type"] == SHT_SYMTAB
    count = int(table["sh_size"]) // SYM64.itemsize
    symbols = np.frombuffer(image, SYM64, count=count, offset=int(table["sh_offset"]))
    strings = sections[int(table["sh_link"])]
    undefined = np.flatnonzero(symbols["st_shndx"] == 0)
    traced = [n for n in undefined if _text(image, strings, int(symbols["st_name"][n])) == "__fentry__"]
    calls = np.isin(rows["r_sym"], traced)
    target = int(sections[int(section["sh_info"])]["sh_offset"])
    for offset in rows["r_offset"][calls].tolist():
        at = target + offset - 1
        if image[at] != _CALL:
            raise MegamodError(f"{name}: a reference to __fentry__ that is not a call")
        image[at : at + len(_NOP)] = _NOP
    kept = rows[~calls].tobytes()
    image[start : start + len(kept)] = kept
    return len(kept) // RELA64.itemsize


def _text(image: bytearray, table: np.void, offset: int) -> str:
    start = int(table["sh_offset"]) + offset
    return image[start : image.index(0, start)].decode()
