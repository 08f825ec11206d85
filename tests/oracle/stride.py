"""How far apart the entries of a table are: the size of the structure that the kernel steps by.

A member's table may be shorter than a whole number of entries: in 5.10 .parainstructions holds 12 bytes for its last
entry, the kernel steps by sizeof(struct paravirt_patch_site), 16, and the next member's table must begin where the
kernel looks for it.
"""

import numpy as np

from tests.oracle.elffile import Section
from tests.oracle.model import Model

# Sizes on x86_64, Linux 5.10 to 7.2; several where kernels differ. The relocations of the first field decide. Other
# architectures name what differs (Arch.strides).
_SIZES = {
    ".parainstructions": (16,),  # struct paravirt_patch_site
    ".altinstructions": (12, 13, 14),  # struct alt_instr, packed
    "__bug_table": (12, 16),  # struct bug_entry
    "__ex_table": (12,),  # struct exception_table_entry
    "__jump_table": (16,),  # struct jump_entry
    ".static_call_sites": (8,),  # struct static_call_site
    ".orc_unwind_ip": (4,),
    ".orc_unwind": (6,),
    ".smp_locks": (4,),
    ".retpoline_sites": (4,),
    ".return_sites": (4,),
    ".call_sites": (4,),
    ".cfi_sites": (4,),
    "__kcfi_traps": (4,),  # s32 distances, kernel/cfi.c is_module_cfi_trap()
    ".ibt_endbr_seal": (4,),
    "__mcount_loc": (8,),
    "__patchable_function_entries": (8,),
    "__param": (40,),  # struct kernel_param
    "__dyndbg": (56,),  # struct _ddebug
    "__dyndbg_classes": (56,),  # struct ddebug_class_map
    "__bpf_raw_tp_map": (32,),  # struct bpf_raw_event_map, aligned
    "__tracepoints_ptrs": (4,),
    "__tracepoint_str": (8,),
    "__trace_printk_fmt": (8,),
    "_ftrace_events": (8,),
    "_ftrace_eval_map": (8,),
    "___srcu_struct_ptrs": (8,),
    "_error_injection_whitelist": (16,),  # struct error_injection_entry
    "_kprobe_blacklist": (8,),
    ".kunit_test_suites": (8,),
    ".kunit_init_test_suites": (8,),
    ".printk_index": (8,),
    ".init_array": (8,),
    ".ctors": (8,),
}
_WITHOUT_RELOCATIONS = {".orc_unwind"}
_FIRST = {"__dyndbg_classes": 16}  # offset of the first reference, behind a struct list_head


def entry_size(model: Model, table: Section) -> int | None:
    """The table's stride in bytes; None if the name is not known or no known size fits its relocations."""
    name = ".ARM.exidx" if table.name.startswith(".ARM.exidx") else table.name
    for size in model.arch.strides.get(name, _SIZES.get(name, ())):
        if table.name in _WITHOUT_RELOCATIONS:
            return size
        # Once each: on riscv two relocations stand at one place.
        places = np.unique(model.place[model.rows(table)])
        count = -(-table.size // size)
        first = _FIRST.get(table.name, 0) * model.arch.word // 8
        if np.array_equal(places[places % size == first], first + size * np.arange(count)):
            return size
    return None
