"""What an option may change: the only differences that are not differences.

Section names are those the kernel looks up by name (find_module_sections, module_finalize and the notifiers, Linux
5.10 to 7.2) or treats by name in layout.
"""

import re
from collections.abc import Mapping
from typing import Any

Options = Mapping[str, str]
Map = Mapping[str, Any]  # the prelinker's JSON, version 1

# Not looked up by anyone: may be folded into another section of the same kind.
_GENERIC = re.compile(
    r"\.(text|rodata|data|bss|ref|init|exit|fixup|sdata|sbss|srodata)(\..*)?$"
    r"|\.altinstr_(replacement|aux)$|\.static_call\.text$"
)
_NAMED = {".data..percpu", ".data..ro_after_init"}  # generic by prefix, special by meaning

# Special, but made of objects that are aligned and reached by pointers, or plain code: gaps do no harm.
_GAPS_ALLOWED = {
    ".data..percpu",
    ".data..ro_after_init",
    ".noinstr.text",
    ".kprobes.text",
    ".cpuidle.text",
    ".irqentry.text",
    ".softirqentry.text",
    ".sched.text",
    "__tracepoints",
    "__tracepoints_strings",
    "__tracepoint_check",
    "__ksymtab_strings",
    ".BTF_ids",
}

REBUILT = re.compile(
    r"(__versions|__version_ext_(crcs|names)|__ksymtab(_gpl|_gpl_future|_unused|_unused_gpl)?"
    r"|__kcrctab(_gpl|_gpl_future|_unused|_unused_gpl)?|__kflagstab|\.modinfo|\.gnu\.linkonce\.this_module"
    r"|\.note\..*|\.orc_header"
    # Looked for and filled: module_frob_arch_sections() of arm, arm64, riscv, and arm64's module_init_ftrace_plt().
    r"|\.plt|\.init\.plt|\.got|\.got\.plt|\.text\.ftrace_trampoline|\.init\.text\.ftrace_trampoline)$"
)
_TRACING = {
    "__mcount_loc",
    "__patchable_function_entries",
    "_ftrace_events",
    "_ftrace_eval_map",
    "__tracepoints_ptrs",
    "__bpf_raw_tp_map",
    "__trace_printk_fmt",
    "__tracepoint_str",
}
_UNWIND = {".orc_unwind", ".orc_unwind_ip", ".orc_header"}
ARM_UNWIND = (".ARM.exidx", ".ARM.extab")
# Read by no part of the loader: BTF is dropped by decision, __tracepoint_check is for the build of the kernel only.
_ALWAYS = {".BTF", ".BTF.base", ".BTF_ids", "__tracepoint_check"}


def generic(name: str) -> bool:
    """True for a section that the kernel treats by its flags alone (and by the prefix .init)."""
    return name not in _NAMED and _GENERIC.match(name) is not None and REBUILT.match(name) is None


def gapless(name: str) -> bool:
    """True for a table of which the kernel takes size / entry as the count: nothing may stand between members."""
    if name in _GAPS_ALLOWED or name.startswith((".note.", ".ARM.extab", ".pci_fixup")):
        return False
    return not generic(name)


def may_drop(name: str, options: Options, *, settled: bool = False) -> bool:
    """True if the options (or a decision that holds for all) let this whole input section go.

    settled: the unwind entries of all members stand in a table of the megamodule's own.
    """
    if REBUILT.match(name) or name in _ALWAYS or (settled and name in _UNWIND):
        return True
    if options.get("tracing") == "off" and name in _TRACING:
        return True
    if options.get("static_calls") == "trampoline" and name == ".static_call_sites":
        return True
    return options.get("unwind") == "drop" and (name in _UNWIND or name.startswith(ARM_UNWIND))


def may_thin(name: str, options: Options) -> bool:
    """True if single entries of this section may be left out; what was left out is judged elsewhere."""
    if name in (".orc_unwind", ".orc_unwind_ip"):
        return options.get("unwind") == "compact"
    return name == ".static_call_sites" or name.startswith(".rodata")


# Their parameters' set functions compare kp->name (set_ibm_param in drivers/platform/x86/thinkpad_acpi.c,
# fw_cfg_cmdline_set in drivers/firmware/qemu_fw_cfg.c), which a merge changes.
SINGLES = {"thinkpad_acpi", "qemu_fw_cfg"}

GLUE_IMPORTS = {
    "ktime_get",
    "ktime_get_mono_fast_ns",
    "kernel_param_lock",
    "kernel_param_unlock",
    "msleep",
    "param_array_ops",
    "param_ops_int",
    "param_ops_uint",
    "param_ops_ulong",
    "param_ops_ullong",
    "param_ops_byte",
    "param_ops_bool",
    "__x86_return_thunk",
    "module_layout",
}
