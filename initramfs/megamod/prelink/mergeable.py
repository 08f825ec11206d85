"""Which modules may not be merged, and why: they are loaded on their own, before or after their stage's megamodule."""

from __future__ import annotations

from megamod.prelink.elf import SHN_UNDEF
from megamod.prelink.member import Member

# Modules that compare kernel_param.name with a string of theirs; the megamodule's names are member.name (seen in
# drivers/platform/x86/thinkpad_acpi.c set_ibm_param() and drivers/firmware/qemu_fw_cfg.c fw_cfg_cmdline_set(), 6.1).
_COMPARES_NAME = frozenset(["thinkpad_acpi", "qemu_fw_cfg"])

# include/linux/license.h, license_is_gpl_compatible()
GPL_COMPATIBLE = frozenset(
    ["GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL"]
)


def why_single(member: Member, *, allow_taint: bool = False) -> str | None:
    """The reason why *member* is loaded on its own, None if it may be merged; a sentence that goes on from its name."""
    if member.refused is not None:
        return f"cannot be merged: {member.refused}"
    if (reason := why_apart(member)) is not None:
        return reason
    licence = member.info("license")
    if licence not in GPL_COMPATIBLE:
        return f"has the licence '{licence or 'unspecified'}', which is not GPL-compatible"
    taint = taint_of(member)
    if taint is not None and not allow_taint:
        return f"is {taint} and would taint the kernel with all other members; allow-taint: true merges it"
    return None


def why_apart(member: Member) -> str | None:
    """The reason why the linker refuses *member* whatever the options, None if it does not."""
    if member.info("livepatch") is not None or any(s.name.startswith(".klp.") for s in member.sections):
        return "is a livepatch, which finds its sections and symbols by name"
    if member.name in _COMPARES_NAME and member.section("__param") is not None:
        return "compares the names of its own parameters"
    if "," in member.file:
        return "has a comma in its file name, which the kernel reads as _ and kmod does not, so it cannot be masked"
    if has_tags_in_data(member):
        return "has its allocation tags inside .data (MEM_ALLOC_PROFILING up to 6.12), where the kernel takes one range"
    return None


def taint_of(member: Member) -> str | None:
    """What the kernel would taint itself for, for messages (kernel/module/main.c module_augment_kernel_taints())."""
    if member.info("intree") is None:
        return "out of tree"
    return "in staging" if member.info("staging") == "Y" else None


def has_tags_in_data(member: Member) -> bool:
    """Up to 6.12 scripts/module.lds.S puts the tags into .data, between two symbols (lib/codetag.c
    get_section_range()); a megamodule would need one range with nothing else in it, and a reference to the end of the
    tags cannot be told from one to what follows. From 6.13 on they have a section of their own, which is merged."""
    if b"__start_alloc_tags" not in member.strings or member.section(".codetag.alloc_tags") is not None:
        return False
    homes, names = member.symbols["st_shndx"], member.symbols["st_name"]
    places = {
        int(member.symbols["st_value"][index])
        for index in ((homes != SHN_UNDEF) & (names != 0)).nonzero()[0].tolist()
        if member.symbol_name(index) in ("__start_alloc_tags", "__stop_alloc_tags")
    }
    return len(places) == 2
