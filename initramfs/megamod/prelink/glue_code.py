"""What the megamodule's init does, in the operations of arch/encoder.py: the same for every architecture.

Calls each member's init in order and always returns 0: an error would free memory that other members have registered
(kernel/module/main.c do_init_module()). A member whose init fails is recorded, members that need it are skipped. Direct
calls only: they need neither a retpoline nor a type hash.
"""

from __future__ import annotations

from dataclasses import replace

from megamod.prelink.arch.encoder import Condition, Encoder, GlueCode, GlueRequest, Label, Register

# What the glue reports for a member (prelink/README.md, "What the glue does").
RESULT_ASKED, RESULT_NEEDS, RESULT_NOT_RUN = 1, 2, 3
CLOCK = "ktime_get"


def encode_init(encoder: Encoder, request: GlueRequest) -> GlueCode:
    """The init function that *request* describes, in *encoder*'s instructions."""
    encoder.code += request.prefix
    encoder.enter(request)
    encoder.address(Register.RESULTS, "result")
    if request.timed:
        encoder.call(CLOCK)
        encoder.start_clock()
    for number, base in enumerate(request.skip_chunks):
        _mark_skipped(encoder, number, base, len(request.inits))
    for number in range(len(request.inits)):
        _call_member(encoder, number, request)
    return replace(encoder.leave(), entry=len(request.prefix))


def _mark_skipped(encoder: Encoder, number: int, base: int, members: int) -> None:
    """for (i = count; i--;) if (base + list[i] < members) result[base + list[i]] = ASKED;"""
    top, out = Label(), Label()
    encoder.address(Register.COUNT, f"skip{number}_count")
    encoder.load(Register.COUNT, Register.COUNT, 0)
    encoder.address(Register.LIST, f"skip{number}")
    encoder.bind(top)
    encoder.branch_if(Register.COUNT, Condition.EQUAL, 0, out)
    encoder.decrement(Register.COUNT)
    encoder.load_indexed(Register.INDEX, Register.LIST, Register.COUNT)
    if base:
        encoder.constant(Register.VALUE, base)
        encoder.add(Register.INDEX, Register.VALUE)
    encoder.constant(Register.VALUE, members)
    # Compared without a sign, so a negative index is too large, too.
    encoder.branch_if(Register.INDEX, Condition.NOT_BELOW, Register.VALUE, top)
    encoder.constant(Register.VALUE, RESULT_ASKED)
    encoder.store_indexed(Register.VALUE, Register.RESULTS, Register.INDEX)
    encoder.jump(top)
    encoder.bind(out)


def _call_member(encoder: Encoder, number: int, request: GlueRequest) -> None:
    """if (result[i] != ASKED) { if any needed != 0: NEEDS; else { record init(); record time } }"""
    done, missing = Label(), Label()
    if request.skip_chunks:
        encoder.load(Register.VALUE, Register.RESULTS, number)
        encoder.branch_if(Register.VALUE, Condition.EQUAL, RESULT_ASKED, done)
    for needed in request.needs[number]:
        encoder.load(Register.VALUE, Register.RESULTS, needed)
        encoder.branch_if(Register.VALUE, Condition.NOT_EQUAL, 0, missing)
    if request.inits[number]:
        encoder.call(number)
        # A positive value counts as success, as in do_init_module().
        encoder.take_error()
        encoder.store(Register.VALUE, Register.RESULTS, number)
        if request.timed:
            encoder.call(CLOCK)
            encoder.store_elapsed(number)
    else:
        encoder.constant(Register.VALUE, 0)
        encoder.store(Register.VALUE, Register.RESULTS, number)
    if missing.sites:
        encoder.jump(done)
        encoder.bind(missing)
        encoder.constant(Register.VALUE, RESULT_NEEDS)
        encoder.store(Register.VALUE, Register.RESULTS, number)
    encoder.bind(done)
