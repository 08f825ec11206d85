"""Small kernel modules made in memory: enough of everything that the oracle compares, nothing that runs."""

import struct
from collections.abc import Mapping

from tests.oracle.write import Object

VERMAGIC = "6.1.0-test SMP preempt mod_unload modversions "
LAYOUT_CRC = 0x11223344
_FUNC, _GLOBAL = 2, 0x10
_R64, _PC32, _PLT32, _32S = 1, 2, 4, 11


def make_module(
    name: str,
    *,
    exports: Mapping[str, int] = {},
    imports: Mapping[str, int] = {},
    parameter: str = "debug",
    licence: str = "GPL",
    namespace: str = "",
    calls: int = 3,
    paravirt: int = 0,
    leaves: bool = False,
    unloads: bool = True,
) -> bytes:
    """A plain .ko. exports and imports: symbol → CRC; each function has a traced entry and calls imports.

    paravirt: entries of .parainstructions, 16 bytes each but the last one, which has 12, as in 5.10. leaves: it has a
    cleanup function with unwind entries. unloads: the kernel has CONFIG_MODULE_UNLOAD.
    """
    out = Object()
    text = out.section(".text", flags=6, align=16)
    init = out.section(".init.text", flags=6)
    data = out.section(".data", flags=3, align=32)
    rodata = out.section(".rodata", align=32)
    mcount = out.section("__mcount_loc")
    imported = {s: out.symbol(s, None, 0, _GLOBAL) for s in ["__fentry__", "_printk", *imports]}
    local = {n: out.symbol("", n, 0, 3) for n in (text, init, data, rodata)}  # section symbols

    code, relocations = bytearray(), out.sections[text].relocations
    functions = list(exports) or [f"{name}_work"]
    unwind: list[tuple[int, int, int]] = []  # section symbol, offset, word
    for function in functions:
        start = len(code)
        out.symbol(function, text, start, _FUNC | _GLOBAL, 48)
        out.sections[mcount].relocations.append((len(out.sections[mcount].data), _R64, local[text], start))
        out.sections[mcount].data += bytes(8)
        relocations.append((start + 1, _PLT32, imported["__fentry__"], -4))
        code += b"\xe8\0\0\0\0" + b"\x53"  # call __fentry__; push rbx
        targets = [imported["_printk"], *(imported[s] for s in imports)] * calls
        for target in targets[:calls]:
            relocations.append((len(code) + 1, _PLT32, target, -4))
            code += b"\xe8\0\0\0\0"
        relocations.append((len(code) + 3, _PC32, local[data], 8 - 4))
        code += b"\x48\x8d\x05\0\0\0\0"  # lea rax, [rip + .data + 8]
        relocations.append((len(code) + 3, _32S, local[rodata], 4))
        code += b"\x48\xc7\xc7\0\0\0\0"  # mov rdi, .rodata + 4
        bug = len(code)
        code += b"\x0f\x0b\x5b\xc3"  # ud2; pop rbx; ret
        unwind += [(local[text], start, _word(8)), (local[text], start + 6, _word(16))]
        unwind += [(local[text], bug + 3, _word(8)), (local[text], len(code), 0)]
        code += bytes(-len(code) % 16)
    out.sections[text].data += code

    at_init = len(out.sections[init].data)
    out.sections[init].data += b"\x31\xc0\xc3"  # xor eax, eax; ret
    out.symbol("init_module", init, at_init, _FUNC | _GLOBAL, 3)
    unwind += [(local[init], at_init, _word(8)), (local[init], at_init + 3, 0)]

    if leaves:
        gone = out.section(".exit.text", b"\xc3", flags=6)
        unwind += [(out.symbol("", gone, 0, 3), 0, _word(8)), (out.symbol("", gone, 0, 3), 1, 0)]

    this = out.section(".gnu.linkonce.this_module", bytes(24) + name.encode().ljust(232, b"\0"), flags=3, align=64)
    this_symbol = out.symbol("__this_module", this, 0, 0x11)
    init_symbol = next(n for n, s in enumerate(out.symbols) if s.name == "init_module")
    out.sections[this].relocations.append((128, _R64, init_symbol, 0))
    out.sections[data].data += bytes(64)
    work = out.symbols[-1].name if not functions else functions[0]
    work_symbol = next(n for n, s in enumerate(out.symbols) if s.name == work)
    out.sections[data].relocations += [(8, _R64, this_symbol, 0), (16, _R64, work_symbol, 0)]
    out.sections[rodata].data += b"abcd" + name.encode() + b"\0" + parameter.encode() + b"\0"
    out.section(".bss", bytes(40), flags=3, type=8, align=8)
    out.section(".data..percpu", bytes(16), flags=3, align=8)

    param = out.section("__param", bytes(24) + b"\x24\x01" + bytes(14), align=8)
    at = 4 + len(name) + 1
    out.sections[param].relocations += [
        (0, _R64, local[rodata], at),
        (8, _R64, this_symbol, 0),
        (16, _R64, imported["_printk"], 0),
        (32, _R64, local[data], 24),
    ]
    bugs = out.section("__bug_table", bytes(12), flags=3, align=8)
    out.sections[bugs].relocations += [(0, _PC32, local[text], bug), (4, _PC32, local[rodata], 0)]
    faults = out.section("__ex_table", struct.pack("<iii", 0, 0, 7), align=4)
    out.sections[faults].relocations += [(0, _PC32, local[text], 11), (4, _PC32, local[text], bug)]
    if paravirt:
        sites = out.section(".parainstructions", bytes(16 * paravirt - 4), align=8)
        out.sections[sites].relocations += [(16 * n, _R64, local[text], 6 + n) for n in range(paravirt)]
    _tables(out, local, unwind, exports, namespace, text)
    _identity(out, name, imports, licence, namespace, VERMAGIC if unloads else VERMAGIC.replace("mod_unload ", ""))
    return out.write()


def _word(offset: int) -> int:
    return offset & 0xFFFF | 0x0205 << 32


def _tables(
    out: Object,
    local: dict[int, int],
    unwind: list[tuple[int, int, int]],
    exports: Mapping[str, int],
    namespace: str,
    text: int,
) -> None:
    ips = out.section(".orc_unwind_ip", bytes(4 * len(unwind)))
    out.section(".orc_unwind", b"".join(word.to_bytes(6, "little") for _, _, word in unwind))
    out.sections[ips].relocations += [(4 * n, _PC32, symbol, at) for n, (symbol, at, _) in enumerate(unwind)]
    if not exports:
        return
    strings = out.section("__ksymtab_strings", flags=0x32, entsize=1)
    table = out.section("__ksymtab_gpl", bytes(12 * len(exports)), align=4)
    base = out.symbol("", strings, 0, 3)
    for entry, name in enumerate(sorted(exports)):
        symbol = next(n for n, s in enumerate(out.symbols) if s.name == name and s.section == text)
        at = len(out.sections[strings].data)
        out.sections[strings].data += name.encode() + b"\0" + namespace.encode() + b"\0"
        rows = ((0, symbol, 0), (4, base, at), (8, base, at + len(name) + 1))
        out.sections[table].relocations += [(12 * entry + o, _PC32, s, a) for o, s, a in rows]
    out.section("__kcrctab_gpl", b"".join(exports[n].to_bytes(4, "little") for n in sorted(exports)), align=4)


def _identity(out: Object, name: str, imports: Mapping[str, int], licence: str, namespace: str, vermagic: str) -> None:
    known = {"module_layout": LAYOUT_CRC, "__fentry__": 0xF0, "_printk": 0xF1, **imports}
    rows = b"".join(crc.to_bytes(8, "little") + symbol.encode().ljust(56, b"\0") for symbol, crc in known.items())
    out.section("__versions", rows, align=32)
    pairs = {"license": licence, "intree": "Y", "name": name, "retpoline": "Y", "vermagic": vermagic}
    spaces = [("import_ns", namespace)] if namespace and imports else []
    texts = [f"{key}={value}" for key, value in [*pairs.items(), *spaces]]
    out.section(".modinfo", b"".join(t.encode() + b"\0" for t in texts))
    out.section(".note.Linux", struct.pack("<III", 6, 4, 0x101) + b"Linux\0\0\0" + bytes(4), type=7, align=4)


def make_chain() -> list[tuple[str, bytes]]:
    """Three modules of which each needs the next, not in init order: (name, file)."""
    core = make_module("core", exports={"core_add": 0xC0DE, "core_del": 0xC0DF}, namespace="CORE")
    disk = make_module("disk", exports={"disk_read": 0xD15C}, imports={"core_add": 0xC0DE}, namespace="CORE")
    top = make_module("top", imports={"disk_read": 0xD15C, "core_del": 0xC0DF}, namespace="CORE")
    return [("top", top), ("core", core), ("disk", disk)]
