"""A boot in QEMU, asked for all that the chart can show, → its record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megamod.analyze.chart.record import BootRecord
from megamod.analyze.chart.record_source import record_from_log
from megamod.boot.timeline import BootReport, boot_image
from megamod.common.errors import MegamodError
from megamod.common.files import atomic_write

# The kernel's tracer says on the console when it has read a module's file (security_kernel_post_read_file is the last
# thing in kernel_read_file, fs/kernel_read_file.c, 5.10 to 7.2) and when it is about to run its init (trace_module_load
# at the end of load_module, kernel/module/main.c). A kernel without these events leaves the calls in one piece.
TIMES_WORD = "megamod.times"
EVENT_WORDS = "kprobe_event=p:copied,security_kernel_post_read_file trace_event=module:module_load tp_printk"
INITCALL_WORDS = "initcall_debug ignore_loglevel"


def boot_record(
    image: Path,
    *,
    vmlinuz: Path,
    disks: Sequence[Path] = (),
    append: str = "",
    timeout: float = 120.0,
    memory: int = 512,
    initcalls: bool = False,
    events: bool = True,
    wait_for: Sequence[str] | None = None,
    log: Path | None = None,
    marks: Sequence[str] = (),
) -> tuple[BootRecord, BootReport]:
    """Boot *image* under icount with the words that make the loader and the kernel tell more, and read its console.

    With *initcalls* the kernel's own initcalls are told too, which makes its start slower; without *events* its
    tracer is left off. *wait_for* is that of `boot_image`. *log*: the console is kept there. *marks*: texts to
    look for in it. Raises MegamodError as
    `boot_image` does, and if the loader was not reached.
    """
    chosen = [TIMES_WORD, EVENT_WORDS if events else "", INITCALL_WORDS if initcalls else "", append]
    words = " ".join(filter(None, chosen))
    report = boot_image(image, vmlinuz=vmlinuz, disks=disks, append=words, icount=True, timeout=timeout, memory=memory)
    if log is not None:
        atomic_write(log, report.result.console.encode())
    try:
        return record_from_log(report.result.console, name=image.name, texts=marks), report
    except MegamodError:
        tail = report.result.tail(1).strip()
        raise MegamodError(f"{image}: the boot did not reach the loader: {tail}") from None
