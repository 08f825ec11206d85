"""How the glue's init must look to the kernel that calls it through a pointer: as the members' own inits look.

With kCFI (clang's -fsanitize=kcfi) the hash of a function's type stands before its first instruction, and
do_one_initcall() compares it (include/linux/cfi.h; LLVM, AsmPrinter::emitKCFITypeId()): four bytes on arm64, riscv64
and arm, on x86_64 the operand of a ``mov $hash, %eax`` that FineIBT rewrites (arch/x86/kernel/alternative.c, 6.12).
Between the hash and the function may be the NOPs of a patchable prefix (-fpatchable-function-entry=N,M, CALL_PADDING).
All inits are of the type ``int (void)``, so all of one kernel have the same bytes, and the glue takes those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from megamod.common.errors import MegamodError
from megamod.prelink.elf import SHF_EXECINSTR
from megamod.prelink.member import Member

CFI_SITES = ".cfi_sites"
_WIDEST_PADDING = 64  # FUNCTION_ALIGNMENT_64B, arch/Kconfig
_HASH = 4
# What only a kCFI build has: where its checks trap (x86, riscv), FineIBT's list, and the compiler's symbols: hashes of
# functions of other files (all architectures), the place of each hash (x86).
_TRAPS = ("__kcfi_traps", ".kcfi_traps", CFI_SITES)
_SYMBOLS = (b"\0__kcfi_typeid_", b"\0__cfi_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """prefix: the bytes before the function; start: its first four. site: where in the prefix the instruction begins
    that .cfi_sites must list, None if nothing must."""

    prefix: bytes
    start: bytes
    site: int | None


def is_kcfi(member: Member) -> bool:
    """Whether *member* shows that it was built with kCFI; one that does not may still be."""
    return any(section.name in _TRAPS and section.size for section in member.sections) or any(
        name in member.strings for name in _SYMBOLS
    )


def entry_of_inits(members: Sequence[Member], *, kcfi: bool = False) -> Entry:
    """What all inits of *members* have before and at their start. kcfi: the kernel's configuration says so. Raise
    MegamodError for a member of a kCFI kernel whose init has not what the others have."""
    callable_ = [member for member in members if member.init is not None]
    if not callable_:
        return Entry(prefix=b"", start=b"", site=None)
    _check_places(callable_)
    prefixes = [_prefix(member, member.init) for member in callable_]
    starts = Counter(_start(member) for member in callable_)
    start = max(starts, key=lambda found: (starts[found], found))
    votes = Counter(prefixes)
    usual = max(votes, key=lambda found: (votes[found], found or b""))
    if kcfi or any(map(is_kcfi, members)):
        for member, prefix in zip(callable_, prefixes, strict=True):
            if prefix is None:
                raise MegamodError(f"{member.file}: no type hash (kCFI) stands before its init, the kernel would trap")
            if prefix != usual:
                raise MegamodError(
                    f"{member.file}: the type hash (kCFI) before its init is {prefix.hex()}, that of the others "
                    f"{(usual or b'').hex()}",
                    hint="load it on its own",
                )
    elif len(votes) > 1 or usual is None:
        # No kCFI: what is before a function's padding is the end of another.
        padding = min(_padding(member, member.init) for member in callable_)
        return Entry(prefix=_nop(members[0]) * (padding // len(_nop(members[0]))), start=start, site=None)
    prefix = usual or b""
    aligned = members[0].architecture.function_alignment
    lead = -len(prefix) % aligned
    listed = any(member.section(CFI_SITES) is not None for member in members)
    filler = _nop(members[0]) * (lead // len(_nop(members[0])))
    return Entry(prefix=filler + prefix, start=start, site=lead if listed else None)


def entry_of_setter(members: Sequence[Member], inits: Entry, *, kcfi: bool = False) -> Entry | None:
    """How a parameter's setter must look, in the kernel where inits look like *inits*: the hash of its type is that of
    the members' own setters (struct kernel_param_ops, include/linux/moduleparam.h). None where the kernel may look for
    one and no member has a setter."""
    nop = _nop(members[0])
    if not (kcfi or any(map(is_kcfi, members))) and inits.prefix == nop * (len(inits.prefix) // len(nop)):
        return Entry(prefix=inits.prefix, start=inits.start, site=None)
    found = {_prefix(member, place) for member in members for place in _setters(member)}
    prefix = found.pop() if len(found) == 1 else None
    if prefix is None:
        return None
    lead = -len(prefix) % members[0].architecture.function_alignment
    return Entry(prefix=nop * (lead // len(nop)) + prefix, start=inits.start, site=None if inits.site is None else lead)


def _setters(member: Member) -> Iterator[tuple[int, int]]:
    """Section and offset of each function of *member* that sets a parameter."""
    word = member.architecture.word
    for section in member.sections:
        if section.name != "__param" or not section.alloc:
            continue
        for at in range(0, section.size, member.architecture.parameter_entry):
            operations = _target(member, section.index, at + 2 * word)
            place = _target(member, operations[0], operations[1] + word) if operations else None
            if place is not None and member.sections[place[0]].sh_flags & SHF_EXECINSTR:
                yield place


def _target(member: Member, section: int, offset: int) -> tuple[int, int] | None:
    """Section and offset that a pointer of *member* points to, None if it is no place in it."""
    for target, rows in member.relas:
        found = rows[rows["r_offset"] == offset] if target == section else ()
        for row in found:
            home = int(member.symbols["st_shndx"][row["r_sym"]])
            if 0 < home < len(member.sections):
                return home, int(member.symbols["st_value"][row["r_sym"]]) + int(row["r_addend"])
    return None


def _check_places(members: Sequence[Member]) -> None:
    """One kernel has the pointer to an init at one place in struct module."""
    places = Counter(member.init_at for member in members)
    usual = max(places, key=lambda at: (places[at], at or 0))
    for member in members:
        if member.init_at != usual:
            raise MegamodError(
                f"{member.file}: struct module points to its init at {member.init_at or 0:#x}, the others' at "
                f"{usual or 0:#x}",
                hint="load it on its own",
            )


def _before(member: Member, place: tuple[int, int] | None) -> bytes:
    assert place is not None
    home, value = place
    value &= -2 if member.architecture.bits == 32 else -1  # a Thumb function's value is odd
    return bytes(member.sections[home].data[max(value - _WIDEST_PADDING - _HASH - 1, 0) : value])


def _start(member: Member) -> bytes:
    assert member.init is not None
    home, value = member.init
    return bytes(member.sections[home].data[value : value + 4])


def _nop(member: Member) -> bytes:
    return member.architecture.nop


def _padding(member: Member, place: tuple[int, int] | None) -> int:
    """Bytes of NOPs directly before the function."""
    before, nop = _before(member, place), _nop(member)
    count = 0
    while count < _WIDEST_PADDING and before.endswith(nop):
        before, count = before[: -len(nop)], count + len(nop)
    return count


def _prefix(member: Member, place: tuple[int, int] | None) -> bytes | None:
    """The hash (on x86_64 the instruction that carries it) and the NOPs behind it; None if none can stand there."""
    before, opcodes = _before(member, place), member.architecture.hash_opcodes
    # The last byte of a hash may look like a NOP of x86_64.
    for padding in range(_padding(member, place), -1, -1):
        size = padding + _HASH + bool(opcodes)
        if size <= len(before) and (not opcodes or before[-size] in opcodes):
            return before[-size:]
        if not opcodes:
            break
    return None
