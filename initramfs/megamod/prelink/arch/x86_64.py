"""x86_64: relocations, trace calls, and the instructions of the glue.

Relocations are ELF64 RELA; the kernel's loader (arch/x86/kernel/module.c, apply_relocate_add(), 6.1) knows NONE, 64,
32, 32S, PC32, PLT32 and, from 4.x, PC64; it refuses to write over bytes that are not zero, checks 32 and 32S for
overflow, and since 6.x PC32 too. S is the symbol's address, A the addend, P the place. All modules lie within 2 GiB of
each other and of the kernel (-mcmodel=kernel), so PC32 always reaches.

Trace calls: with CONFIG_DYNAMIC_FTRACE every function starts with ``call __fentry__`` (5 bytes, E8), listed in
__mcount_loc; ftrace turns each into a 5-byte NOP at load (arch/x86/kernel/ftrace.c ftrace_nop_replace()).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from megamod.prelink.arch.encoder import (
    Condition,
    Encoder,
    Fixup,
    GlueCode,
    GlueRequest,
    ImageCheck,
    Label,
    Register,
    UnwindTable,
)
from megamod.prelink.arch.interface import (
    ORC_IP,
    ORC_STATE,
    SORTED_IP,
    SORTED_STATE,
    Architecture,
    Reach,
    RelocationType,
    TraceCall,
)
from megamod.prelink.elf import EM_X86_64

R_NONE, R_64, R_PC32, R_PLT32, R_32, R_32S, R_PC64 = 0, 1, 2, 4, 10, 11, 24
RETURN_THUNK = "__x86_return_thunk"
# Unwind entries of a function of the glue: its start, five pushes, five pops, its end.
_FRAMES = 12
_ENOEXEC = 8
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


# rbx, r12 to r14 are callee-saved: result, nanoseconds, the time of the last reading, the turn.
_REGISTERS = {
    Register.RESULTS: 3,
    Register.TURN: 14,
    Register.COUNT: 1,
    Register.LIST: 2,
    Register.INDEX: 6,
    Register.VALUE: 0,
}
_RAX, _RCX, _RDI, _TIMES, _LAST = 0, 1, 7, 12, 13
_CONDITIONS = {Condition.EQUAL: b"\x0f\x84", Condition.NOT_EQUAL: b"\x0f\x85", Condition.NOT_BELOW: b"\x0f\x83"}
# push and pop of rbx and r12 to r15; the last one for the stack's alignment.
_PUSHED = ((b"\x53", b"\x5b"), *((bytes([0x41, 0x50 | n]), bytes([0x41, 0x58 | n])) for n in range(4, 8)))


@dataclass(slots=True)
class _Encoder(Encoder):
    """Intel SDM, volume 2. frames: see GlueCode; thunk: it returns through RETURN_THUNK."""

    frames: list[tuple[int, int]] = field(default_factory=list)
    thunk: bool = False

    def emit(self, text: str) -> None:
        self.code += bytes.fromhex(text)

    def word(self, text: str, value: int) -> None:
        self.emit(text)
        self.code += struct.pack("<i", value)

    def refer(self, text: str, target: str | int, *, kind: int = R_PC32) -> None:
        """Opcode bytes, then a PC-relative field against *target* that ends the instruction."""
        self.emit(text)
        self.fixups.append(Fixup(offset=len(self.code), kind=kind, target=target, addend=-4))
        self.code += bytes(4)

    def _access(
        self, opcode: int, register: int, base: int, *, offset: int = 0, index: int | None = None, wide: bool = False
    ) -> None:
        """An instruction with one register and [base + offset], or [base + 4 * index + offset]."""
        prefix = 0x40 | wide << 3 | register >> 3 << 2 | (index or 0) >> 3 << 1 | base >> 3
        self.code += bytes([prefix, opcode] if prefix > 0x40 else [opcode])
        if index is not None:
            self.code += bytes([0x84 | (register & 7) << 3, 2 << 6 | (index & 7) << 3 | base & 7])
        elif base & 7 == 4:
            self.code += bytes([0x84 | (register & 7) << 3, 4 << 3 | base & 7])  # rsp and r12 need a SIB byte
        else:
            self.code += bytes([0x80 | (register & 7) << 3 | base & 7])
        self.code += struct.pack("<i", offset)

    def _pair(self, opcode: int, register: int, other: int, *, wide: bool = False) -> None:
        """An instruction with two registers: *register* in r/m, *other* in reg."""
        prefix = 0x40 | wide << 3 | other >> 3 << 2 | register >> 3
        self.code += bytes([prefix, opcode] if prefix > 0x40 else [opcode])
        self.code.append(0xC0 | (other & 7) << 3 | register & 7)

    def enter(self, request: GlueRequest) -> None:
        self.frames.append((0, 8))  # FineIBT runs in what stands before the function
        self.emit("f30f1efa")  # endbr64: do_one_initcall() calls through a pointer
        for number, (push, _) in enumerate(_PUSHED):
            self.code += push
            self.frames.append((len(self.code), 16 + 8 * number))
        self.thunk = request.thunk
        if request.image is not None:
            self.check_image(request.image)
        if request.unwind is not None:
            _settle_unwind(self, request.unwind)

    def leave(self) -> GlueCode:
        self.emit("31c0")  # xor eax, eax
        if self.refused is not None:
            out = Label()
            self.jump(out)
            self.bind(self.refused)
            self.word("b8", -_ENOEXEC)  # mov eax, -ENOEXEC
            self.bind(out)
        for number, (_, pop) in reversed(list(enumerate(_PUSHED))):
            self.code += pop
            self.frames.append((len(self.code), 8 + 8 * number))
        return_site = len(self.code) if self.thunk else None
        if self.thunk:
            self.refer("e9", RETURN_THUNK, kind=R_PLT32)
        else:
            self.emit("c3")
        self.emit("cc")  # int3: nothing may run on
        self.frames.append((len(self.code), 0))
        assert len(self.frames) == _FRAMES
        return GlueCode(
            code=bytes(self.code),
            fixups=tuple(self.fixups),
            frames=tuple(self.frames),
            return_site=return_site,
            check=self.check,
        )

    def check_image(self, image: ImageCheck) -> None:
        self.refused, start = Label(), len(self.code)
        self.emit("0f1f440000")  # nop, as long as a jump
        self.refer("488d05", image.anchor)  # lea rax, [anchor]
        for name, distance in image.symbols:
            self.refer("488d0d", name)  # lea rcx, [name]
            self.emit("4829c1")  # sub rcx, rax
            self.word("4881f9", distance)  # cmp rcx, distance
            self.branch(Condition.NOT_EQUAL, self.refused)
        for at in range(0, len(image.build_id), 4):
            self.word("81b8", image.note + at)  # cmp dword [rax + note + at], word
            self.code += image.build_id[at : at + 4]
            self.branch(Condition.NOT_EQUAL, self.refused)
        self.check = (start, len(self.code))

    def call(self, target: str | int) -> None:
        self.refer("e8", target, kind=R_PLT32)

    def pass_address(self, target: str) -> None:
        self._address(_RDI, target)

    def pass_constant(self, value: int) -> None:
        self.word("bf", value)  # mov edi, value

    def address(self, register: Register, target: str) -> None:
        self._address(_REGISTERS[register], target)

    def _address(self, number: int, target: str) -> None:
        self.refer(f"{0x48 | number >> 3 << 2:02x}8d{0x05 | (number & 7) << 3:02x}", target)  # lea

    def constant(self, register: Register, value: int) -> None:
        self.word(f"{0xB8 | _REGISTERS[register]:02x}", value)

    def load(self, register: Register, base: Register, number: int) -> None:
        self._access(0x8B, _REGISTERS[register], _REGISTERS[base], offset=4 * number)

    def store(self, register: Register, base: Register, number: int) -> None:
        self._access(0x89, _REGISTERS[register], _REGISTERS[base], offset=4 * number)

    def load_indexed(self, register: Register, base: Register, index: Register) -> None:
        self._access(0x8B, _REGISTERS[register], _REGISTERS[base], index=_REGISTERS[index])

    def store_indexed(self, register: Register, base: Register, index: Register) -> None:
        self._access(0x89, _REGISTERS[register], _REGISTERS[base], index=_REGISTERS[index])

    def add(self, register: Register, other: Register) -> None:
        self._pair(0x01, _REGISTERS[register], _REGISTERS[other])

    def decrement(self, register: Register) -> None:
        self._pair(0xFF, _REGISTERS[register], 1)  # dec: ff /1

    def branch_if(self, register: Register, condition: Condition, other: Register | int, label: Label) -> None:
        if isinstance(other, Register):
            self._pair(0x39, _REGISTERS[register], _REGISTERS[other])  # cmp
        else:
            self._pair(0x83, _REGISTERS[register], 7)  # cmp: 83 /7 ib
            self.code.append(other)
        self.branch(condition, label)

    def take_error(self) -> None:
        self.emit("31c985c00f4fc1")  # xor ecx, ecx; test eax, eax; cmovg eax, ecx

    def start_clock(self) -> None:
        self._address(_TIMES, "nanoseconds")
        self._pair(0x89, _LAST, _RAX, wide=True)  # mov r13, rax

    def store_elapsed(self, number: int) -> None:
        self._pair(0x89, _RCX, _RAX, wide=True)  # mov rcx, rax
        self._pair(0x29, _RCX, _LAST, wide=True)  # sub rcx, r13
        self._pair(0x89, _LAST, _RAX, wide=True)  # mov r13, rax
        self._access(0x89, _RCX, _TIMES, offset=8 * number, wide=True)  # mov [r12 + 8*number], rcx

    def encode_branch(self, condition: Condition | None, distance: int) -> bytes:
        opcode = b"\xe9" if condition is None else _CONDITIONS[condition]
        return opcode + struct.pack("<i", distance - len(opcode) - 4)


def _settle_unwind(asm: _Encoder, table: UnwindTable) -> None:
    """Put the sorted unwind table in the place of the small one that the kernel has registered (unwind.py).

    The kernel keeps num_orcs, orc_unwind_ip and orc_unwind next to each other in struct module (arch/x86/include/asm/
    module.h, struct mod_arch_specific, the same since 4.14). Where differs with its configuration, so they are searched
    by their values, which stand nowhere else; if they are not found, nothing is changed. Registers: rax = the place of
    orc_unwind_ip, r8 = the states, with the gap. Four instructions for each entry.
    """
    own = _FRAMES * len(table.own)
    grown = [(name, count + _FRAMES * (name in table.own)) for name, count in (*table.core, *table.init)]
    core = sum(count for _, count in grown[: len(table.core)])
    init = sum(count for _, count in grown[len(table.core) :])
    total = core + init
    asm.refer("488d05", "struct module")  # lea rax, [struct module]
    asm.refer("488d0d", ORC_IP)  # lea rcx, [.orc_unwind_ip]
    asm.refer("488d15", ORC_STATE)  # lea rdx, [.orc_unwind]
    asm.word("be", table.module_size // 8 - 2)  # mov esi, places
    top, other, found, out = Label(), Label(), Label(), Label()
    asm.bind(top)
    asm.emit("4883c008")  # add rax, 8
    asm.emit("483908")  # cmp [rax], rcx
    asm.branch(Condition.NOT_EQUAL, other)
    asm.emit("48395008")  # cmp [rax + 8], rdx
    asm.branch(Condition.NOT_EQUAL, other)
    asm.word("8178f8", own)  # cmp dword [rax - 8], own
    asm.branch(Condition.EQUAL, found)
    asm.bind(other)
    asm.emit("ffce")  # dec esi
    asm.branch(Condition.NOT_EQUAL, top)
    asm.jump(out)
    asm.bind(found)

    asm.refer("488d3d", SORTED_IP)  # lea rdi, [table]
    asm.refer("4c8d05", SORTED_STATE)  # lea r8, [states]
    asm.word("4881c7", 4 * init)  # add rdi, gap
    for name, count in grown:
        if count:
            _settle_distances(asm, name, count)
    asm.word("488d97", -4 * total)  # lea rdx, [rdi - table]
    asm.word("4d8d88", 6 * init)  # lea r9, [r8 + gap]
    if core:
        asm.refer("4c8d15", table.own[0])  # lea r10, [init code]
        asm.refer("4c8d1d", next(name for name, count in grown if count))  # lea r11, [other code]
        above = Label()
        asm.emit("4d39da")  # cmp r10, r11, which differ
        asm.branch(Condition.NOT_BELOW, above)  # as it is
        _settle_move(asm, init, total)
        asm.bind(above)
    asm.emit("488910")  # mov [rax], rdx
    asm.emit("4c894808")  # mov [rax + 8], r9
    asm.word("c740f8", total)  # mov dword [rax - 8], total
    asm.bind(out)


def _settle_distances(asm: _Encoder, name: str, count: int) -> None:
    """for (i = 0; i < count; i++, rdi += 4) *rdi += code - rdi;"""
    asm.refer("4c8d0d", name)  # lea r9, [code]
    asm.emit("4129f9")  # sub r9d, edi
    asm.word("4881c7", 4 * count)  # add rdi, 4*count
    asm.word("48c7c1", -count)  # mov rcx, -count
    top = Label()
    asm.bind(top)
    asm.emit("44010c8f")  # add [rdi + 4*rcx], r9d
    asm.emit("4183e904")  # sub r9d, 4
    asm.emit("48ffc1")  # inc rcx
    asm.branch(Condition.NOT_EQUAL, top)


def _settle_move(asm: _Encoder, init: int, total: int) -> None:
    """Init code lies below the rest: its entries move from the end, rdi, into the gap before the table."""
    asm.word("48c7c1", -init)  # mov rcx, -init
    top = Label()
    asm.bind(top)
    asm.emit("8b348f")  # mov esi, [rdi + 4*rcx]
    asm.word("81c6", 4 * total)  # add esi, 4*total
    asm.word("89b48f", -4 * total)  # mov [rdi + 4*rcx - 4*total], esi
    asm.emit("48ffc1")  # inc rcx
    asm.branch(Condition.NOT_EQUAL, top)
    asm.word("498db0", 6 * total)  # lea rsi, [r8 + 6*total]
    asm.emit("4c89c7")  # mov rdi, r8
    asm.word("b9", 6 * init)  # mov ecx, 6*init
    asm.emit("f3a4")  # rep movsb
    asm.word("4881ea", 4 * init)  # sub rdx, 4*init
    asm.emit("4d89c1")  # mov r9, r8


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
    encoder=_Encoder,
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
    nop=b"\x90",
    # mov $hash, %eax; another register says how many arguments there are (-fsanitize-kcfi-arity).
    hash_opcodes=frozenset(range(0xB8, 0xC0)),
    function_alignment=16,
    checks_image=True,
    area=1 << 30,  # MODULES_LEN with CONFIG_RANDOMIZE_BASE, arch/x86/include/asm/pgtable_64_types.h
)
