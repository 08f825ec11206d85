"""The merge table: what becomes of each input section, by name and flags.

The kernel finds its special sections by exact name, first match (kernel/module/main.c find_sec(), 6.1), places init or
core by the prefix ``.init`` (module_init_section()), and everything else by flags alone. So sections that it looks for
keep their names and become one; sections that it does not look for may be folded, which lets more PC-relative
references be resolved here. Tables of fixed-size entries are packed: the kernel counts size / entry, and a gap would be
an entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from megamod.common.choices import StaticCalls, Tracing, Unwind
from megamod.prelink.arch.interface import ORC_IP, ORC_STATE, Architecture
from megamod.prelink.elf import SHF_ALLOC, SHF_WRITE, Section
from megamod.prelink.options import PrelinkOptions


class MergeRule(Enum):
    """How an input section gets into its output section."""

    ALIGNED = "aligned"  # one after the other, each at its own alignment
    PACKED = "packed"  # one after the other without padding
    SORTED = "sorted"  # entry by entry, in the order that the kernel searches
    SHARED = "shared"  # all members' copies are the glue's one
    DROPPED = "dropped"  # left out, with the reason
    REBUILT = "rebuilt"  # the glue brings a new one


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where one input section goes: *output* is the name of the output section, *why* the reason if it is left out."""

    rule: MergeRule
    output: str = ""
    why: str = ""


# Tables that the kernel walks by size / entry, or sorts: 6.1 kernel/module/main.c find_module_sections(),
# arch/x86/kernel/module.c module_finalize(), and their 6.12 counterparts.
_PACKED = frozenset(
    """__ex_table __jump_table .static_call_sites __bug_table .altinstructions .smp_locks
    .retpoline_sites .return_sites .call_sites .cfi_sites .ibt_endbr_seal .kcfi_traps __kcfi_traps _ftrace_events
    _ftrace_eval_map __tracepoints_ptrs __trace_printk_fmt __tracepoint_str __bpf_raw_tp_map ___srcu_struct_ptrs
    __dyndbg __dyndbg_classes .printk_index _error_injection_whitelist _kprobe_blacklist .kunit_test_suites
    .kunit_init_test_suites .ctors .init_array __param __mcount_loc __patchable_function_entries .orc_unwind
    .orc_unwind_ip .eh_frame .init.eh_frame .alternative .alt.smp.init .pv_table .ARM.exidx .ARM.exidx.init.text
    .ARM.exidx.exit.text""".split()
)
# .parainstructions is not among them: each entry starts 8-aligned (struct paravirt_patch_site), but up to 5.x the
# last one ends without its padding, so packing shifts the next member's entries (a BUG in apply_paravirt() on 5.10:
# seen).

# Entry sizes that are the same in every version since 5.10; an input that is not a whole number of them is damaged.
ENTRY_SIZES = {
    "__ksymtab": 12, "__ksymtab_gpl": 12, "__kcrctab": 4, "__kcrctab_gpl": 4, "__versions": 64, "__param": 40,
    "__jump_table": 16, "__ex_table": 12, ".static_call_sites": 8, ".smp_locks": 4, ".retpoline_sites": 4,
    ".return_sites": 4, ".call_sites": 4, ".ibt_endbr_seal": 4, ".cfi_sites": 4, "__kcfi_traps": 4,
    ".orc_unwind": 6, ".orc_unwind_ip": 4, "__tracepoints_ptrs": 4,
    "_ftrace_events": 8, "_ftrace_eval_map": 8, "__mcount_loc": 8,
}  # fmt: skip
_SORTED = frozenset(["__ksymtab", "__ksymtab_gpl"])
_REBUILT = frozenset(
    """.modinfo __versions __version_ext_crcs __version_ext_names __kcrctab __kcrctab_gpl __kflagstab
    .orc_header""".split()
)
# What ftrace and the trace-event core read when a module is COMING (kernel/trace/ftrace.c ftrace_module_init(),
# kernel/trace/trace_events.c trace_module_add_events()); nothing in a module's code refers to them.
_TRACING = frozenset(
    "__mcount_loc __patchable_function_entries _ftrace_events _ftrace_eval_map __bpf_raw_tp_map".split()
)
_UNWIND = frozenset([ORC_IP, ORC_STATE, ".orc_header"])
# Names that the kernel gives a meaning beyond their flags; they are not folded.
_APART = frozenset([".data..percpu", ".data..ro_after_init", ".noinstr.text", ".kprobes.text"])
# Prefix → output section. The kernel knows these families by flags (or, for .init, by prefix) only.
_FOLDED = (
    (".init.text", ".init.text"),
    (".init.data", ".init.data"),
    (".init.rodata", ".init.rodata"),
    (".exit.text", ".exit.text"),
    (".exit.data", ".exit.data"),
    (".text", ".text"),
    (".rodata", ".rodata"),
    (".data", ".data"),
    (".ref.data", ".data"),
    (".bss", ".bss"),
    # What unwinds .text.unlikely and the like, which are part of .text here (arch/arm/kernel/module.c
    # module_finalize() finds a table's code by the rest of its name).
    (".ARM.exidx.text", ".ARM.exidx"),
    (".ARM.extab.text", ".ARM.extab"),
)


# One member's flags hold for the whole output section, so what is writable in one and not in another goes to the
# section that is what it is: test_bpf of 6.1 has a writable .init.rodata, Rust modules of 7.2 a read-only .init.data.
_BY_PROTECTION = {
    (".rodata", True): ".data",
    (".data", False): ".rodata",
    (".init.rodata", True): ".init.data",
    (".init.data", False): ".init.rodata",
    (".exit.data", False): ".exit.rodata",
}


def output_position(name: str) -> tuple[int, str]:
    """The order of output sections in the file: code, constants, tables, data. It is the kernel's order of what it puts
    into one memory, which the sorted unwind table relies on (unwind.py)."""
    first = (".text", ".init.text", ".exit.text", ".rodata", ".data", ".bss")
    return (first.index(name), name) if name in first else (len(first), name)


def is_packed(name: str) -> bool:
    """Whether sections of that name follow each other without padding, whatever their sh_addralign says."""
    return name in _PACKED


def entry_size(name: str, architecture: Architecture) -> int:
    """Bytes of an entry of the table *name*, 1 if it is none or its entries differ between kernels."""
    return architecture.entry_sizes.get(name, ENTRY_SIZES.get(name, 1))


def place(section: Section, options: PrelinkOptions, architecture: Architecture, *, own_keys: bool) -> Placement:
    """The merge table's row for *section* under *options*; *own_keys*: some of its static calls are a member's own."""
    name = section.name
    if not section.sh_flags & SHF_ALLOC:
        return Placement(rule=MergeRule.DROPPED, why="not loaded by the kernel")
    if name == ".gnu.linkonce.this_module":
        return Placement(rule=MergeRule.SHARED, output=name)
    if options.tracing == Tracing.OFF and name in _TRACING:
        return Placement(rule=MergeRule.DROPPED, why="tracing off")
    if options.unwind == Unwind.DROP and name in _UNWIND:
        return Placement(rule=MergeRule.DROPPED, why="unwind drop")
    if name == ".static_call_sites" and options.static_calls == StaticCalls.TRAMPOLINE and not own_keys:
        # A site that is not listed calls the trampoline for ever, and __static_call_update() always patches that
        # (kernel/static_call_inline.c, 6.1). What is saved is a text_poke_bp() for each site whose target is not the
        # default, three rounds of interrupts on SMP. A module that has keys of its own has them for speed: it keeps
        # its sites, and so does whoever calls through them.
        return Placement(rule=MergeRule.DROPPED, why="static calls go through their trampolines")
    if name in _REBUILT or name.startswith(".note.") or name in architecture.placeholders:
        return Placement(rule=MergeRule.REBUILT, why="rebuilt")
    if name in (".BTF", ".BTF.base"):
        # Split BTF of several modules cannot be concatenated, and a bad one fails the load (kernel/bpf/btf.c
        # btf_module_notify()).
        return Placement(rule=MergeRule.DROPPED, why="BTF of several modules cannot be one")
    if name in _SORTED:
        return Placement(rule=MergeRule.SORTED, output=name)
    if name in _PACKED:
        return Placement(rule=MergeRule.PACKED, output=name)
    if name in _APART:
        return Placement(rule=MergeRule.ALIGNED, output=name)
    return Placement(rule=MergeRule.ALIGNED, output=folded(section))


def folded(section: Section) -> str:
    """The output of a section that the kernel knows by its flags alone: its family's, or its own name."""
    for prefix, output in _FOLDED:
        if section.name == prefix or section.name.startswith(prefix + "."):
            return _BY_PROTECTION.get((output, bool(section.sh_flags & SHF_WRITE)), output)
    return section.name
