"""Measures how fast a kernel unpacks an initramfs: python -m tests.bench.unpack [--suite bookworm] [--write]

One image with the modules of a shipped profile is packed by each method and booted with `-icount`, where an instruction
is a nanosecond. The time is that between the kernel's lines "Trying to unpack rootfs image" and "Freeing initrd memory"
(init/initramfs.c, do_populate_rootfs(), with initramfs_async=0). --write makes megamod/build/unpack-rates.tsv of it.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

from megamod.boot.debian import Kernel, fetch_kernel
from megamod.boot.qemu import run_qemu
from megamod.common.compression import METHODS, compress, read_module_bytes
from megamod.common.errors import MegamodError
from megamod.common.host import cache_folder
from megamod.image.cpio import Entry, write_cpio
from megamod.modules.tree import open_tree
from megamod.profile.schema import find_profile
from megamod.select.select import select

TABLE = Path(__file__).parents[2] / "initramfs/megamod/build/unpack-rates.tsv"
_LINES = re.compile(
    r"^\[ *([\d.]+)\] Trying to unpack rootfs image.*?^\[ *([\d.]+)\] Freeing initrd memory", re.MULTILINE | re.DOTALL
)
_RUNS = 2


def content(kernel: Kernel, profile: str) -> bytes:
    """An archive of all modules that *profile* selects, as they are."""
    selection = select(find_profile(profile), open_tree(str(kernel.modules)))
    modules = [module for stage in selection.stages for module in stage.modules]
    entries = [
        Entry(path=f"{module.name}.ko", mode=0o100644, data=read_module_bytes(module.path)) for module in modules
    ]
    return write_cpio(entries, mtime=0)


def seconds(kernel: Kernel, image: Path) -> float:
    """The least of some runs."""
    found = []
    for _run in range(_RUNS):
        result = run_qemu(
            image=image,
            vmlinuz=kernel.vmlinuz,
            append="initramfs_async=0 ignore_loglevel",
            icount=True,
            timeout=300.0,
            until="Freeing initrd memory",
            memory=1024,
        )
        match = _LINES.search(result.console)
        if match is None:
            raise MegamodError(f"{kernel.release}: does not say how it unpacks {image.name}: {result.tail(3)}")
        found.append(float(match[2]) - float(match[1]))
    return min(found)


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--suite", default="bookworm")
    parser.add_argument("--profile", default="desktop", help="whose modules are unpacked")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}")
    options = parser.parse_args()
    try:
        kernel = fetch_kernel(options.suite, architecture="amd64", cache=cache_folder())
        data = content(kernel, options.profile)
        print(f"{kernel.release}, modules of {options.profile}: {len(data) / 1e6:.1f} MB")
        rows = []
        with tempfile.TemporaryDirectory(prefix="megamod-unpack-") as folder:
            for method in METHODS:
                image = Path(folder) / method
                image.write_bytes(compress(data, method))
                took = seconds(kernel, image)
                rows.append(f"{method}\t{round(len(data) / took)}")
                size = image.stat().st_size / 1e6
                print(f"{method:5} {size:6.1f} MB  {took:7.3f} s  {len(data) / took / 1e6:7.1f} MB/s", flush=True)
    except MegamodError as error:
        print(f"unpack: {error}", file=sys.stderr)
        return 1
    if options.write:
        head = f"# Unpacked bytes a second, an instruction taken as 1 ns, {kernel.release}: tests/bench/unpack.py\n"
        TABLE.write_text(head + "\n".join(rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
