"""What the megamodule's init does, in the operations of arch/encoder.py: the same for every architecture.

Calls each member's init in order and always returns 0: an error would free memory that other members have registered
(kernel/module/main.c do_init_module()). A member whose init fails is recorded, members that need it are skipped. Direct
calls only: they need neither a retpoline nor a type hash.

When an init does not come back, because the kernel oopsed in it or it waits for ever, the others can still be run: by a
write to the parameter ``resume``, whose setter calls the init function again. What it rests on, in Linux 5.10 to 7.2:

- sysfs has the parameters before the init is called (load_module() of kernel/module/main.c, kernel/module.c before
  5.19: mod_sysfs_setup(), then do_init_module()), and param_attr_store() (kernel/params.c) asks for no reference;
- init memory is freed by do_init_module() once the init has returned, and nothing else frees it in state coming;
- sealed (strict_rwx) is all that before; .data..ro_after_init stays writable until the init has returned;
- nothing of the loader holds a lock while the init runs, but whoever sets a parameter holds the module's param_lock,
  for which kernel_param_lock() and kernel_param_unlock() are exported: the setter gives it up while inits run.

Each time it is called the function takes a *turn*, and from then on an older one runs nothing more, should the init in
which it hangs come back. All that is shared is touched under param_lock, which is held between the inits. A member is
called once, whatever happens: it must not have a result yet. When all have been through, the megamodule is *closed*:

- the first turn, the call itself, returns, and the kernel does the rest: live, init memory freed;
- a later one makes the module live, for which the first field of struct module is enough (resolve_symbol() and
  /proc/modules look at nothing else). Its init memory stays.

The first turn, should it come back after another was taken, may not return to the kernel while another may be in init
memory: it waits until all *flows* of the setter are over, and if one is lost it waits for ever.
"""

from __future__ import annotations

from dataclasses import replace

from megamod.prelink.arch.encoder import Condition, Encoder, GlueCode, GlueRequest, Label, Register

# What the glue reports for a member (prelink/README.md, "What the glue does").
RESULT_ASKED, RESULT_NEEDS, RESULT_NOT_RUN, RESULT_RUNS = 1, 2, 3, 4
CLOCK = "ktime_get"
LOCK, UNLOCK, SLEEP = "kernel_param_lock", "kernel_param_unlock", "msleep"
MODULE = "struct module"
INIT = "init"
_LIVE = 0  # enum module_state, include/linux/module.h
_LOOK_MILLISECONDS = 1000
_IN_REACH = 1024  # members


def encode_init(encoder: Encoder, request: GlueRequest) -> GlueCode:
    """The init function that *request* describes, in *encoder*'s instructions."""
    superseded, out = Label(), Label()
    encoder.code += request.prefix
    encoder.enter(request)
    if request.resumable:
        _take_turn(encoder)
    encoder.address(Register.RESULTS, "result")
    if request.timed:
        encoder.call(CLOCK)
        encoder.start_clock()
    for number, base in enumerate(request.skip_chunks):
        _mark_skipped(encoder, number, base, len(request.inits))
    for number in range(len(request.inits)):
        if number and not number % _IN_REACH:
            superseded = _island(encoder, superseded)
        _call_member(encoder, number, request, superseded)
    if request.resumable:
        _close(encoder, superseded, out)
    encoder.bind(out)
    return replace(encoder.leave(), entry=len(request.prefix))


def encode_setter(encoder: Encoder, request: GlueRequest) -> GlueCode:
    """``int set(const char *, const struct kernel_param *)`` of the parameter ``resume``; it is called with param_lock
    held, and passes over a megamodule whose init has not begun, as its arguments are parsed, or which is closed."""
    out = Label()
    encoder.code += request.prefix
    encoder.enter(replace(request, unwind=None, image=None))
    _load(encoder, Register.VALUE, "turn")
    encoder.branch_if(Register.VALUE, Condition.EQUAL, 0, out)
    _load(encoder, Register.VALUE, "closed")
    encoder.branch_if(Register.VALUE, Condition.NOT_EQUAL, 0, out)
    _load(encoder, Register.VALUE, "flows")
    encoder.constant(Register.INDEX, 1)
    encoder.add(Register.VALUE, Register.INDEX)
    encoder.store(Register.VALUE, Register.LIST, 0)
    _call_with_module(encoder, UNLOCK)
    encoder.call(INIT)
    _call_with_module(encoder, LOCK)
    _load(encoder, Register.VALUE, "flows")
    encoder.decrement(Register.VALUE)
    encoder.store(Register.VALUE, Register.LIST, 0)
    encoder.bind(out)
    return replace(encoder.leave(), entry=len(request.prefix))


def _island(encoder: Encoder, label: Label) -> Label:
    """A branch reaches 1 MiB at least, a thousand members are less: there is a jump on to the end now and then."""
    further, over = Label(), Label()
    if not label.sites:
        return label
    encoder.jump(over)
    encoder.bind(label)
    encoder.jump(further)
    encoder.bind(over)
    return further


def _load(encoder: Encoder, register: Register, name: str) -> None:
    """LIST = &name; register = name"""
    encoder.address(Register.LIST, name)
    encoder.load(register, Register.LIST, 0)


def _call_with_module(encoder: Encoder, function: str) -> None:
    encoder.pass_address(MODULE)
    encoder.call(function)


def _take_turn(encoder: Encoder) -> None:
    """lock; TURN = ++turn;"""
    _call_with_module(encoder, LOCK)
    _load(encoder, Register.TURN, "turn")
    encoder.constant(Register.VALUE, 1)
    encoder.add(Register.TURN, Register.VALUE)
    encoder.store(Register.TURN, Register.LIST, 0)


def _close(encoder: Encoder, superseded: Label, out: Label) -> None:
    """closed = 1; a later turn makes the module live; unlock. And where a turn goes that is no longer the last one."""
    unlock, wait = Label(), Label()
    encoder.constant(Register.VALUE, 1)
    encoder.address(Register.LIST, "closed")
    encoder.store(Register.VALUE, Register.LIST, 0)
    encoder.branch_if(Register.TURN, Condition.EQUAL, 1, unlock)
    encoder.constant(Register.VALUE, _LIVE)
    encoder.address(Register.LIST, MODULE)
    encoder.store(Register.VALUE, Register.LIST, 0)
    encoder.bind(unlock)
    _call_with_module(encoder, UNLOCK)
    encoder.jump(out)

    encoder.bind(superseded)
    _call_with_module(encoder, UNLOCK)
    encoder.branch_if(Register.TURN, Condition.NOT_EQUAL, 1, out)
    encoder.bind(wait)
    encoder.pass_constant(_LOOK_MILLISECONDS)
    encoder.call(SLEEP)
    _call_with_module(encoder, LOCK)
    _load(encoder, Register.RESULTS, "closed")
    _load(encoder, Register.TURN, "flows")
    _call_with_module(encoder, UNLOCK)
    encoder.branch_if(Register.RESULTS, Condition.EQUAL, 0, wait)
    encoder.branch_if(Register.TURN, Condition.NOT_EQUAL, 0, wait)


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


def _call_member(encoder: Encoder, number: int, request: GlueRequest, superseded: Label) -> None:
    """if (result[i] != ASKED) { if any needed != 0: NEEDS; else { record init(); record time } }; with turns only if
    result[i] == NOT_RUN, and param_lock is given up for the init."""
    done, missing = Label(), Label()
    if request.resumable:
        encoder.load(Register.VALUE, Register.RESULTS, number)
        encoder.branch_if(Register.VALUE, Condition.NOT_EQUAL, RESULT_NOT_RUN, done)
    elif request.skip_chunks:
        encoder.load(Register.VALUE, Register.RESULTS, number)
        encoder.branch_if(Register.VALUE, Condition.EQUAL, RESULT_ASKED, done)
    for needed in request.needs[number]:
        encoder.load(Register.VALUE, Register.RESULTS, needed)
        encoder.branch_if(Register.VALUE, Condition.NOT_EQUAL, 0, missing)
    if request.inits[number]:
        _call_init(encoder, number, request, superseded)
    else:
        encoder.constant(Register.VALUE, 0)
        encoder.store(Register.VALUE, Register.RESULTS, number)
    if missing.sites:
        encoder.jump(done)
        encoder.bind(missing)
        encoder.constant(Register.VALUE, RESULT_NEEDS)
        encoder.store(Register.VALUE, Register.RESULTS, number)
    encoder.bind(done)


def _call_init(encoder: Encoder, number: int, request: GlueRequest, superseded: Label) -> None:
    if request.resumable:
        encoder.constant(Register.VALUE, RESULT_RUNS)
        encoder.store(Register.VALUE, Register.RESULTS, number)
        _call_with_module(encoder, UNLOCK)
    encoder.call(number)
    # A positive value counts as success, as in do_init_module().
    encoder.take_error()
    encoder.store(Register.VALUE, Register.RESULTS, number)
    if request.timed:
        encoder.call(CLOCK)
        encoder.store_elapsed(number)
    if request.resumable:
        _call_with_module(encoder, LOCK)
        _load(encoder, Register.VALUE, "turn")
        encoder.branch_if(Register.VALUE, Condition.NOT_EQUAL, Register.TURN, superseded)
