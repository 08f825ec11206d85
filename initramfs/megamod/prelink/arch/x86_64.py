"""x86_64: relocations, trace calls, and the machine code of the glue.

Relocations are ELF64 RELA; the kernel's loader (arch/x86/kernel/module.c, apply_relocate_add(), 6.1) knows NONE, 64,
32, 32S, PC32, PLT32 and, from 4.x, PC64; it refuses to write over bytes that are not zero, checks 32 and 32S for
overflow, and since 6.x PC32 too. S is the symbol's address, A the addend, P the place. All modules lie within 2 GiB of
each other and of the kernel (-mcmodel=kernel), so PC32 always reaches.

Trace calls: with CONFIG_DYNAMIC_FTRACE every function starts with ``call __fentry__`` (5 bytes, E8), listed in
__mcount_loc; ftrace turns each into a 5-byte NOP at load (arch/x86/kernel/ftrace.c ftrace_nop_replace()).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from megamod.prelink.arch.interface import (
    ORC_IP,
    ORC_STATE,
    RESULT_ASKED,
    RESULT_NEEDS,
    SORTED_IP,
    SORTED_STATE,
    Architecture,
    Fixup,
    GlueCode,
    GlueRequest,
    Reach,
    RelocationType,
    TraceCall,
    UnwindTable,
)
from megamod.prelink.elf import EM_X86_64

R_NONE, R_64, R_PC32, R_PLT32, R_32, R_32S, R_PC64 = 0, 1, 2, 4, 10, 11, 24
RETURN_THUNK = "__x86_return_thunk"
# Unwind entries of the glue's init: its start, three pushes, three pops, its end.
_FRAMES = 8
_INT32 = (-(1 << 31), 1 << 31)

_RELOCATIONS = {
    R_NONE: RelocationType(name="NONE", width=0, reach=Reach.KERNEL),
    R_64: RelocationType(name="64", width=8, reach=Reach.ABSOLUTE),
    R_32: RelocationType(name="32", width=4, reach=Reach.ABSOLUTE, low=0, high=1 << 32),
    R_32S: RelocationType(name="32S", width=4, reach=Reach.ABSOLUTE, low=_INT32[0], high=_INT32[1]),
    R_PC32: RelocationType(name="PC32", width=4, reach=Reach.RELATIVE, low=_INT32[0], high=_INT32[1]),
    R_PLT32: RelocationType(name="PLT32", width=4, reach=Reach.RELATIVE, low=_INT32[0], high=_INT32[1]),
    R_PC64: RelocationType(name="PC64", width=8, reach=Reach.RELATIVE),
}


@dataclass(slots=True)
class _Assembler:
    code: bytearray = field(default_factory=bytearray)
    fixups: list[Fixup] = field(default_factory=list)

    def emit(self, text: str) -> None:
        self.code += bytes.fromhex(text)

    def word(self, text: str, value: int) -> None:
        self.emit(text)
        self.code += struct.pack("<i", value)

    def refer(self, text: str, target: str | int, *, call: bool = False, trailing: int = 0) -> None:
        """Opcode bytes, then a PC-relative field against *target*; *trailing* bytes follow before the next insn."""
        self.emit(text)
        kind = R_PLT32 if call else R_PC32
        self.fixups.append(Fixup(offset=len(self.code), kind=kind, target=target, addend=-4 - trailing))
        self.code += bytes(4)

    def jump(self, text: str) -> int:
        """A forward jump with a 32-bit displacement; returns what land() needs."""
        self.word(text, 0)
        return len(self.code)

    def land(self, jumps: Sequence[int]) -> None:
        for after in jumps:
            struct.pack_into("<i", self.code, after - 4, len(self.code) - after)


def _encode_init(request: GlueRequest) -> GlueCode:
    """The megamodule's init_module.

    Registers: rbx = result, r12 = nanoseconds, r13 = the time of the last reading; all three are callee-saved.
    """
    inits, needs, skip_chunks, timed = request.inits, request.needs, request.skip_chunks, request.timed
    asm = _Assembler()
    frames = [(0, 8)]
    asm.emit("f30f1efa")  # endbr64: do_one_initcall() calls through a pointer
    for push, depth in (("53", 16), ("4154", 24), ("4155", 32)):
        asm.emit(push)
        frames.append((len(asm.code), depth))
    if request.unwind is not None:
        _encode_unwind(asm, request.unwind)
    asm.refer("488d1d", "result")
    if timed:
        asm.refer("4c8d25", "nanoseconds")
        asm.refer("e8", "ktime_get", call=True)
        asm.emit("4989c5")  # mov r13, rax
    for number, base in enumerate(skip_chunks):
        _encode_skip(asm, number, base, len(inits))
    for number, has_init in enumerate(inits):
        _encode_member(asm, number, has_init=has_init, needs=needs[number], check_skip=bool(skip_chunks), timed=timed)
    asm.emit("31c0")  # xor eax, eax: always 0
    for pop, depth in (("415d", 24), ("415c", 16), ("5b", 8)):
        asm.emit(pop)
        frames.append((len(asm.code), depth))
    return_site = None
    if request.thunk:
        return_site = len(asm.code)
        asm.refer("e9", RETURN_THUNK, call=True)
    else:
        asm.emit("c3")
    asm.emit("cc")  # int3: nothing may run on
    frames.append((len(asm.code), 0))
    assert len(frames) == _FRAMES
    return GlueCode(code=bytes(asm.code), fixups=tuple(asm.fixups), frames=tuple(frames), return_site=return_site)


def _encode_unwind(asm: _Assembler, table: UnwindTable) -> None:
    """Put the sorted unwind table in the place of the small one that the kernel has registered (unwind.py).

    The kernel keeps num_orcs, orc_unwind_ip and orc_unwind next to each other in struct module (arch/x86/include/asm/
    module.h, struct mod_arch_specific, the same since 4.14). Where differs with its configuration, so they are searched
    by their values, which stand nowhere else; if they are not found, nothing is changed. Registers: rax = the place of
    orc_unwind_ip, r8 = the states, with the gap. Four instructions for each entry.
    """
    own, grown = _FRAMES, [(name, count + _FRAMES * (name == table.own)) for name, count in (*table.core, *table.init)]
    core = sum(count for _, count in grown[: len(table.core)])
    init = sum(count for _, count in grown[len(table.core) :])
    total = core + init
    asm.refer("488d05", "struct module")  # lea rax, [struct module]
    asm.refer("488d0d", ORC_IP)  # lea rcx, [.orc_unwind_ip]
    asm.refer("488d15", ORC_STATE)  # lea rdx, [.orc_unwind]
    asm.word("be", table.module_size // 8 - 2)  # mov esi, places
    top = len(asm.code)
    asm.emit("4883c008")  # add rax, 8
    asm.emit("483908")  # cmp [rax], rcx
    other = [asm.jump("0f85")]
    asm.emit("48395008")  # cmp [rax + 8], rdx
    other.append(asm.jump("0f85"))
    asm.word("8178f8", own)  # cmp dword [rax - 8], own
    found = asm.jump("0f84")
    asm.land(other)
    asm.emit("ffce")  # dec esi
    asm.word("0f85", top - (len(asm.code) + 6))  # jnz top
    out = asm.jump("e9")
    asm.land([found])

    asm.refer("488d3d", SORTED_IP)  # lea rdi, [table]
    asm.refer("4c8d05", SORTED_STATE)  # lea r8, [states]
    asm.word("4881c7", 4 * init)  # add rdi, gap
    for name, count in grown:
        if count:
            _encode_distances(asm, name, count)
    asm.word("488d97", -4 * total)  # lea rdx, [rdi - table]
    asm.word("4d8d88", 6 * init)  # lea r9, [r8 + gap]
    if core:
        asm.refer("4c8d15", table.own)  # lea r10, [init code]
        asm.refer("4c8d1d", next(name for name, count in grown if count))  # lea r11, [other code]
        asm.emit("4d39da")  # cmp r10, r11
        above = asm.jump("0f87")  # ja: as it is
        _encode_move(asm, init, total)
        asm.land([above])
    asm.emit("488910")  # mov [rax], rdx
    asm.emit("4c894808")  # mov [rax + 8], r9
    asm.word("c740f8", total)  # mov dword [rax - 8], total
    asm.land([out])


def _encode_distances(asm: _Assembler, name: str, count: int) -> None:
    """for (i = 0; i < count; i++, rdi += 4) *rdi += code - rdi;"""
    asm.refer("4c8d0d", name)  # lea r9, [code]
    asm.emit("4129f9")  # sub r9d, edi
    asm.word("4881c7", 4 * count)  # add rdi, 4*count
    asm.word("48c7c1", -count)  # mov rcx, -count
    top = len(asm.code)
    asm.emit("44010c8f")  # add [rdi + 4*rcx], r9d
    asm.emit("4183e904")  # sub r9d, 4
    asm.emit("48ffc1")  # inc rcx
    asm.word("0f85", top - (len(asm.code) + 6))  # jnz top


def _encode_move(asm: _Assembler, init: int, total: int) -> None:
    """Init code lies below the rest: its entries move from the end, rdi, into the gap before the table."""
    asm.word("48c7c1", -init)  # mov rcx, -init
    top = len(asm.code)
    asm.emit("8b348f")  # mov esi, [rdi + 4*rcx]
    asm.word("81c6", 4 * total)  # add esi, 4*total
    asm.word("89b48f", -4 * total)  # mov [rdi + 4*rcx - 4*total], esi
    asm.emit("48ffc1")  # inc rcx
    asm.word("0f85", top - (len(asm.code) + 6))  # jnz top
    asm.word("498db0", 6 * total)  # lea rsi, [r8 + 6*total]
    asm.emit("4c89c7")  # mov rdi, r8
    asm.word("b9", 6 * init)  # mov ecx, 6*init
    asm.emit("f3a4")  # rep movsb
    asm.word("4881ea", 4 * init)  # sub rdx, 4*init
    asm.emit("4d89c1")  # mov r9, r8


def _encode_skip(asm: _Assembler, number: int, base: int, members: int) -> None:
    """for (i = count; i--;) if (base + list[i] < members) result[base + list[i]] = ASKED;"""
    asm.refer("8b0d", f"skip{number}_count")  # mov ecx, [count]
    asm.refer("488d15", f"skip{number}")  # lea rdx, [list]
    top = len(asm.code)
    asm.emit("85c9")  # test ecx, ecx
    out = asm.jump("0f84")  # jz out
    asm.emit("ffc9")  # dec ecx
    asm.emit("8b048a")  # mov eax, [rdx + 4*rcx]
    asm.word("05", base)  # add eax, base
    asm.word("3d", members)  # cmp eax, members
    asm.word("0f83", top - (len(asm.code) + 6))  # jae top (unsigned: a negative index is out of range too)
    asm.word("c70483", RESULT_ASKED)  # mov dword [rbx + 4*rax], ASKED
    asm.word("e9", top - (len(asm.code) + 5))  # jmp top
    asm.land([out])


def _encode_member(
    asm: _Assembler, number: int, *, has_init: bool, needs: Sequence[int], check_skip: bool, timed: bool
) -> None:
    """if (result[i] != ASKED) { if any needed != 0: NEEDS; else { record init(); record time } }"""
    done, missing = [], []
    if check_skip:
        asm.word("83bb", 4 * number)  # cmp dword [rbx + 4*i], ASKED
        asm.code.append(RESULT_ASKED)
        done.append(asm.jump("0f84"))
    for needed in needs:
        asm.word("83bb", 4 * needed)  # cmp dword [rbx + 4*needed], 0
        asm.code.append(0)
        missing.append(asm.jump("0f85"))
    if has_init:
        asm.refer("e8", number, call=True)
        # A positive value counts as success, as in do_init_module().
        asm.emit("31c985c00f4fc1")  # xor ecx, ecx; test eax, eax; cmovg eax, ecx
        asm.word("8983", 4 * number)  # mov [rbx + 4*i], eax
        if timed:
            asm.refer("e8", "ktime_get", call=True)
            asm.emit("4889c14c29e94989c5")  # mov rcx, rax; sub rcx, r13; mov r13, rax
            asm.word("49898c24", 8 * number)  # mov [r12 + 8*i], rcx
    else:
        asm.word("c783", 4 * number)  # mov dword [rbx + 4*i], 0
        asm.code += struct.pack("<i", 0)
    if missing:
        done.append(asm.jump("e9"))
        asm.land(missing)
        asm.word("c783", 4 * number)  # mov dword [rbx + 4*i], NEEDS
        asm.code += struct.pack("<i", RESULT_NEEDS)
    asm.land(done)


X86_64 = Architecture(
    name="x86_64",
    loader="x86_64",
    machine=EM_X86_64,
    bits=64,
    none=R_NONE,
    pointer=R_64,
    relative=R_PC32,
    relocations=_RELOCATIONS,
    export_relative=True,
    encode_init=_encode_init,
    tables={"__ksymtab": R_PC32, "__ksymtab_gpl": R_PC32, "__param": R_64, ".orc_unwind_ip": R_PC32},
    zero_fields=True,
    # call rel32 is e8 and the field; ftrace writes nopl 0(%rax,%rax), the kernel's own 5-byte NOP.
    trace_call=TraceCall(
        symbol="__fentry__",
        types=frozenset([R_PLT32, R_PC32]),
        before=1,
        mask=0xFF,
        value=0xE8,
        nop=b"\x0f\x1f\x44\x00\x00",
    ),
    return_thunk=RETURN_THUNK,
    area=1 << 30,  # MODULES_LEN with CONFIG_RANDOMIZE_BASE, arch/x86/include/asm/pgtable_64_types.h
)
