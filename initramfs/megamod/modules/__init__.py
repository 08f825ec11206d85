"""A lib/modules/KVER folder: its indexes, modprobe.d, initcall levels."""
