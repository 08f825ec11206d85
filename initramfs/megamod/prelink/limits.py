"""What a kernel has for one module, or for all of them: what is too much is so for all members together."""

from __future__ import annotations

from megamod.common.errors import MegamodError

PERCPU_RESERVE = 8 << 10
"""PERCPU_MODULE_RESERVE (include/linux/percpu.h), where the kernel's configuration says nothing else."""

MOST_SECTIONS = 0xFEFF
"""The kernel reads e_shnum and nothing beyond it (kernel/module/main.c elf_validity_check(), 6.1)."""


class LimitError(MegamodError):
    """The members are too much for one module: fewer of them would do. The message begins with the file of the largest
    of them."""
