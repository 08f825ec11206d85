"""Pass 10, verify: the names form of a megamodule, beside the file that has been checked as a whole.

What it says of imports is checked as there; all else must be the same, but for the jump over the look at the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from megamod.prelink.member import Member
from megamod.prelink.verify.arch_facts import ARCH_FACTS
from megamod.prelink.verify.checks import check_relocations, check_versions
from megamod.prelink.verify.elf_reader import failure, reread
from megamod.prelink.verify.imports import Expected, check_imports


def verify_names_form(
    data: bytes, names: bytes, members: Sequence[Member], link_map: Mapping[str, Any], expected: Expected
) -> None:
    """Check *names* against *data*, which verify() has been through; raise MegamodError at the first thing wrong."""
    read, other = reread(names, str(link_map["name"])), reread(data, str(link_map["name"]))
    facts = ARCH_FACTS[members[0].machine]
    check_relocations(read, facts)
    check_versions(read, members)
    check_imports(read, members, expected, None, facts)
    changed = 0
    for section, same in zip(read.sections, other.sections, strict=True):
        if (section.name, section.kind, section.flags & 6, section.align) != (
            same.name,
            same.kind,
            same.flags & 6,
            same.align,
        ):
            raise failure(read.name, f"names form: {section.name} is another section")
        if not section.flags & 2 or section.name in ("__versions", "__version_ext_crcs", "__version_ext_names"):
            continue
        differs = np.frombuffer(section.data, np.uint8) != np.frombuffer(same.data, np.uint8)
        if section.name == ".note.gnu.build-id":
            continue
        changed += int(differs.sum())
        if differs.any() and section.name != ".init.text":
            raise failure(read.name, f"names form: {section.name} differs")
    if not 0 < changed <= 5:
        raise failure(read.name, f"names form: {changed} bytes of code differ, a jump is less")
