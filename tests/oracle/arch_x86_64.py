"""x86_64: apply_relocate_add() in arch/x86/kernel/module.c; PLT32 is PC32 to it."""

from tests.oracle.arch import Arch, Trace, plain

R_64, R_PC32, R_PLT32, R_32, R_32S, R_PC64 = 1, 2, 4, 10, 11, 24
_HALF = 1 << 31

ARCH = Arch(
    name="x86_64",
    machine=62,
    bits=64,
    fields={
        R_64: plain("64", R_64, 64, relative=False),
        R_PC32: plain("PC32", R_PC32, 32, relative=True, low=-_HALF, high=_HALF),
        R_PLT32: plain("PC32", R_PLT32, 32, relative=True, low=-_HALF, high=_HALF, as_code=R_PC32),
        R_32: plain("32", R_32, 32, relative=False, high=2 * _HALF),
        R_32S: plain("32S", R_32S, 32, relative=False, low=-_HALF, high=_HALF),
        R_PC64: plain("PC64", R_PC64, 64, relative=True),
    },
    zero_fields=True,
    pointer=R_64,
    landing_pads=(b"\xf3\x0f\x1e\xfa",),
    # The kernel's own NOP: x86_nops[5], arch/x86/kernel/alternative.c.
    trace=Trace(size=5, nop=b"\x0f\x1f\x44\x00\x00", field_at=1, opcode=(0, 0xFF, 0xE8)),
    call_bias=4,
    call_codes=frozenset([R_PC32, R_PC64]),
)
