"""Small modules of arm64, riscv64 and arm made in memory, with what the oracle compares: nothing in them runs."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from tests.oracle.arch import Arch
from tests.oracle.arches import BY_NAME
from tests.oracle.fabricate import LAYOUT_CRC, VERMAGIC
from tests.oracle.write import Object

_FUNC, _GLOBAL, _EXIDX = 2, 0x10, 0x70000001
_Fixups = list[tuple[int, int, int, int]]
GLUE_IMPORTS = {
    "param_array_ops": 0xA1,
    "param_ops_int": 0xA2,
    "ktime_get": 0xA3,
    "param_ops_ulong": 0xA4,
    "kernel_param_lock": 0xA5,
    "kernel_param_unlock": 0xA6,
    "msleep": 0xA7,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recipe:
    """Instructions of one architecture. call: (bytes, type, addend); address: (bytes, [(offset, type, label?)])."""

    init: str
    nops: str
    call: tuple[str, int, int]
    address: tuple[str, list[tuple[int, int, bool]]]
    ret: str
    pointer: int
    relative: tuple[int, ...]  # types that together make a 32-bit distance, or one that makes a pointer


_RECIPES = {
    "arm64": _Recipe(
        init="3f2303d5 00008052 bf2303d5 c0035fd6",  # paciasp; mov w0, #0; autiasp; ret
        nops="1f2003d5 1f2003d5",
        call=("00000094", 283, 0),
        # adrp x0; add x0, x0; ldr x1, [x0]; strb w1, [x0]
        address=(
            "00000090 00000091 010040f9 01000039",
            [(0, 275, False), (4, 277, False), (8, 286, False), (12, 278, False)],
        ),
        ret="c0035fd6",
        pointer=257,
        relative=(261,),
    ),
    "riscv64": _Recipe(
        init="01458280",  # c.li a0, 0; c.jr ra
        nops="13000000 13000000",
        call=("97000000 e7800000", 19, 0),
        address=("17050000 13050500 2320a500", [(0, 23, False), (4, 24, True), (8, 25, True)]),  # auipc; addi; sw
        ret="8280",
        pointer=2,
        relative=(35, 39),
    ),
    "thumb": _Recipe(
        init="00207047",  # movs r0, #0; bx lr
        nops="",
        call=("00f000d0", 10, -4),
        address=("40f20000 c0f20000", [(0, 47, False), (4, 48, False)]),
        ret="7047",
        pointer=2,
        relative=(2,),
    ),
    "arm": _Recipe(
        init="0000a0e3 1eff2fe1",  # mov r0, #0; bx lr
        nops="",
        call=("000000eb", 28, -8),
        address=("000000e3 000040e3", [(0, 43, False), (4, 44, False)]),  # movw; movt
        ret="1eff2fe1",
        pointer=2,
        relative=(2,),
    ),
}


def make_arch_module(
    machine: str,
    name: str,
    *,
    exports: Mapping[str, int] = {},
    imports: Mapping[str, int] = {},
    namespace: str = "",
    init: bool = True,
    glue: bool = True,
    padding: int = 0,
    before: bytes = b"",
) -> bytes:
    """A plain .ko. exports and imports: symbol → CRC. padding: bytes of .text before the first function.

    init: whether it has an init function; before: what stands before it; glue: it imports what the glue needs.
    """
    arch, recipe, out = BY_NAME[machine], _RECIPES[machine], Object()
    odd = int(arch.thumb)
    text = out.section(".text", flags=6, align=8)
    start = out.section(".init.text", flags=6, align=8)
    data = out.section(".data", bytes(64), flags=3, align=32)
    rodata = out.section(".rodata", b"abcd" + bytes(28) + name.encode() + b"\0debug\0", align=32)
    known = {**imports, **(GLUE_IMPORTS if glue else {}), "_printk": 0xF1}
    if arch.name == "arm":
        known["__gnu_mcount_nc"] = 0xF0
    imported = {s: out.symbol(s, None, 0, _GLOBAL) for s in known}
    local = {n: out.symbol("", n, 0, 3) for n in (text, start, data, rodata)}

    code, fixups = bytearray(padding), out.sections[text].relocations
    starts, functions = [], list(exports) or [f"{name}_work"]
    for function in functions:
        starts.append(len(code))
        out.symbol(function, text, len(code) + odd, _FUNC | _GLOBAL, 32)
        if arch.name == "arm":
            code += bytes.fromhex("4df804ed" if arch.thumb else "04e02de5")  # push {lr}
            _add_call(code, fixups, recipe, imported["__gnu_mcount_nc"])
        code += bytes.fromhex(recipe.nops)
        for target in ["_printk", *imports]:
            _add_call(code, fixups, recipe, imported[target])
        _add_call(code, fixups, recipe, local[text], starts[0])  # a call of its own first function
        for home, at in ((data, 8), (rodata, 16), (text, starts[0])):
            _add_address(out, code, fixups, recipe, text, local[home], at)
        code += bytes.fromhex(recipe.ret)
        code += bytes(-len(code) % 8)
    out.sections[text].data += code
    if init:
        body = bytes.fromhex(recipe.init)
        out.sections[start].data += before + body
        init_symbol = out.symbol("init_module", start, len(before) + odd, _FUNC | _GLOBAL, len(body))

    name_at = 3 * arch.word
    init_at = name_at + 64
    raw = bytes(name_at) + name.encode().ljust(48 * arch.word - name_at, b"\0")
    this = out.section(".gnu.linkonce.this_module", raw, flags=3, align=64)
    this_symbol = out.symbol("__this_module", this, 0, 0x11)
    pointer = recipe.pointer
    if init:
        out.sections[this].relocations.append((init_at, pointer, init_symbol, 0))
    out.sections[data].relocations += [(8, pointer, this_symbol, 0), (16, pointer, local[text], starts[-1])]
    out.section(".bss", bytes(40), flags=3, type=8, align=8)
    _param(out, arch, recipe, local[rodata], 32 + len(name) + 1, this_symbol, imported["_printk"], local[data])
    _bugs(out, recipe, local[text], local[rodata])
    _places(out, arch, recipe, local[text], starts)
    if arch.name == "arm":
        _exidx(out, text, local[text], starts, ".ARM.exidx")
        _exidx(out, start, local[start], [len(before)] if init else [], ".ARM.exidx.init.text")
    _exports(out, arch, recipe, exports, namespace, text)
    for section in arch.placeholders if machine != "riscv64" else ():
        out.section(section, b"\0", flags=2 if section.startswith(".init") else 6)
    _identity(out, arch, name, known, namespace if imports else "")
    return out.write(arch)


def _add_call(code: bytearray, fixups: _Fixups, recipe: _Recipe, symbol: int, offset: int = 0) -> None:
    raw, kind, addend = recipe.call
    fixups.append((len(code), kind, symbol, addend + offset))
    code += bytes.fromhex(raw)


def _add_address(
    out: Object, code: bytearray, fixups: _Fixups, recipe: _Recipe, text: int, symbol: int, offset: int
) -> None:
    raw, rows = recipe.address
    at = len(code)
    label = out.symbol("", text, at) if any(labelled for _, _, labelled in rows) else 0
    for where, kind, labelled in rows:
        # A MOVW and its MOVT hold the same addend, which the writer's fields do not: none here.
        addend = 0 if labelled or kind in (43, 44, 47, 48) else offset
        fixups.append((at + where, kind, label if labelled else symbol, addend))
    code += bytes.fromhex(raw)


def _param(out: Object, arch: Arch, recipe: _Recipe, rodata: int, name_at: int, this: int, ops: int, data: int) -> None:
    size, word = arch.param_size, arch.word
    raw = bytearray(size)
    raw[3 * word : 3 * word + 2] = b"\x24\x01"
    table = out.section("__param", bytes(raw), align=word)
    rows = ((0, rodata, name_at), (word, this, 0), (2 * word, ops, 0), (4 * word, data, 24))
    out.sections[table].relocations += [(at, recipe.pointer, symbol, addend) for at, symbol, addend in rows]


def _distance(out: Object, table: int, at: int, recipe: _Recipe, symbol: int, addend: int) -> None:
    """A reference of four bytes: a distance from its own place, or on arm a pointer."""
    rows = out.sections[table].relocations
    rows.append((at, recipe.relative[0], symbol, addend))
    if len(recipe.relative) > 1:
        rows.append((at, recipe.relative[1], out.symbol("", table, at), 0))


def _bugs(out: Object, recipe: _Recipe, text: int, rodata: int) -> None:
    table = out.section("__bug_table", bytes(24), flags=3, align=4)
    for at, symbol, addend in ((0, text, 8), (4, rodata, 0), (12, text, 12), (16, rodata, 4)):
        _distance(out, table, at, recipe, symbol, addend)


def _places(out: Object, arch: Arch, recipe: _Recipe, text: int, starts: list[int]) -> None:
    """The list of traced functions: the call itself on arm, the NOPs elsewhere."""
    name = "__mcount_loc" if arch.name == "arm" else "__patchable_function_entries"
    table = out.section(name, bytes(arch.word * len(starts)), flags=3, align=arch.word)
    shift = 4 if arch.name == "arm" else 0
    rows = [(arch.word * n, recipe.pointer, text, at + shift) for n, at in enumerate(starts)]
    out.sections[table].relocations += rows


def _exidx(out: Object, code: int, symbol: int, starts: list[int], name: str) -> None:
    table = out.section(name, b"".join(bytes(4) + b"\1\0\0\0" for _ in starts), flags=0x82, type=_EXIDX, align=4)
    out.sections[table].relocations += [(8 * n, 42, symbol, at) for n, at in enumerate(starts)]
    assert out.sections[code].flags & 4


def _exports(out: Object, arch: Arch, recipe: _Recipe, exports: Mapping[str, int], namespace: str, text: int) -> None:
    if not exports:
        return
    step = arch.ksym_field
    strings = out.section("__ksymtab_strings", flags=0x32, entsize=1)
    table = out.section("__ksymtab_gpl", bytes(3 * step * len(exports)), align=step)
    base = out.symbol("", strings, 0, 3)
    kind = recipe.relative[0] if arch.prel_exports else recipe.pointer
    for entry, name in enumerate(sorted(exports)):
        symbol = next(n for n, s in enumerate(out.symbols) if s.name == name and s.section == text)
        at = len(out.sections[strings].data)
        out.sections[strings].data += name.encode() + b"\0" + namespace.encode() + b"\0"
        rows = ((0, symbol, 0), (1, base, at), (2, base, at + len(name) + 1))
        out.sections[table].relocations += [(step * (3 * entry + n), kind, s, a) for n, s, a in rows]
    out.section("__kcrctab_gpl", b"".join(exports[n].to_bytes(4, "little") for n in sorted(exports)), align=4)


def _identity(out: Object, arch: Arch, name: str, known: Mapping[str, int], namespace: str) -> None:
    crcs = {"module_layout": LAYOUT_CRC, **known}
    word = arch.word
    rows = b"".join(crc.to_bytes(word, "little") + s.encode().ljust(64 - word, b"\0") for s, crc in crcs.items())
    out.section("__versions", rows, align=word)
    texts = ["license=GPL", "intree=Y", f"name={name}", f"vermagic={VERMAGIC}{'thumb2 ' if arch.thumb else ''}"]
    texts += [f"import_ns={namespace}"] if namespace else []
    out.section(".modinfo", b"".join(t.encode() + b"\0" for t in texts))
    out.section(".note.Linux", struct.pack("<III", 6, 4, 0x101) + b"Linux\0\0\0" + bytes(4), type=7, align=4)
