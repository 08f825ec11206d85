"""Which modules may not be merged, and why: they are loaded on their own, before or after their stage's megamodule."""

from __future__ import annotations

from megamod.prelink.member import Member

# Modules that compare kernel_param.name with a string of theirs; the megamodule's names are member.name (seen in
# drivers/platform/x86/thinkpad_acpi.c set_ibm_param() and drivers/firmware/qemu_fw_cfg.c fw_cfg_cmdline_set(), 6.1).
_COMPARES_NAME = frozenset(["thinkpad_acpi", "qemu_fw_cfg"])


def why_single(member: Member) -> str | None:
    """The reason why *member* must stay on its own, None if it may be merged."""
    if member.info("livepatch") is not None or any(s.name.startswith(".klp.") for s in member.sections):
        return "is a livepatch, which finds its sections and symbols by name"
    if member.name in _COMPARES_NAME and member.section("__param") is not None:
        return "compares the names of its own parameters"
    if "," in member.file:
        return "has a comma in its file name, which the kernel reads as _ and kmod does not, so it cannot be masked"
    return None
