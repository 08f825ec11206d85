"""Random prelinks with imports by distance, judged by the addresses of the running kernel.

    python -m tests.properties.distances --tree DIR --cases N --seed S [--kallsyms FILE]

DIR is an unpacked Debian kernel package. The kernel is booted once (without KASLR) and says itself where its symbols
are; FILE keeps that for the next time. Of each case the names form is judged as ever, and the other one beside it
(oracle/distance.py). Exit status 1 if any case failed.
"""

import argparse
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from megamod.boot.debian import fetch_package_files
from megamod.boot.disk import host_busybox
from megamod.boot.qemu import run_qemu
from megamod.common.errors import MegamodError
from megamod.common.host import cache_folder
from megamod.image.archive import write_image
from megamod.image.cpio import Entry
from megamod.kernel.export_sources import KernelExports
from megamod.kernel.exports import find_exports, image_of
from megamod.modules.tree import open_tree
from megamod.prelink.link import prelink
from megamod.prelink.options import PrelinkOptions
from megamod.prelink.read import read_member
from tests.oracle import judge
from tests.oracle.distance import compare_distances
from tests.properties.cases import Case, draw
from tests.properties.modules import Tree, open_folder, plain

_DEBIAN = {"x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64"}
_SCRIPT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
echo 0 > /proc/sys/kernel/kptr_restrict
echo SYMBOLS
/bin/busybox grep ' [A-Z] ' /proc/kallsyms
echo END
/bin/busybox poweroff -f
"""


def guest_busybox(arch: str) -> Path:
    """A static busybox for guests of *arch*, as QEMU calls it."""
    if arch == "x86_64":
        return host_busybox()
    tree = fetch_package_files("busybox-static", "trixie", architecture=_DEBIAN[arch], cache=cache_folder())
    return next(path for path in (tree / "bin/busybox", tree / "usr/bin/busybox") if path.is_file())


def kallsyms(vmlinuz: Path, arch: str) -> str:
    """The global symbols of a kernel, booted without KASLR, as /proc/kallsyms lists them."""
    busybox = guest_busybox(arch)
    with tempfile.TemporaryDirectory(prefix="megamod-kallsyms-") as folder:
        image = Path(folder) / "image"
        entries = [
            Entry(path="init", mode=stat.S_IFREG | 0o755, data=_SCRIPT.encode()),
            Entry(path="bin/busybox", mode=stat.S_IFREG | 0o755, data=busybox.read_bytes()),
            Entry(path="dev/console", mode=stat.S_IFCHR | 0o600, rdev=(5, 1)),
            *(Entry(path=name, mode=stat.S_IFDIR | 0o755) for name in ("dev", "proc", "bin")),
        ]
        write_image(image, entries, method="none")
        options = ("-cpu", "cortex-a72") if arch == "aarch64" else ()
        run = run_qemu(
            image=image, vmlinuz=vmlinuz, arch=arch, append="nokaslr quiet", timeout=900, accel="tcg", extra=options
        )
    _, _, text = run.console.partition("SYMBOLS")
    if "END" not in text:
        raise MegamodError(f"{vmlinuz}: the kernel did not list its symbols: {run.tail(3)}")
    return text.partition("END")[0]


def addresses(text: str) -> dict[str, int]:
    """Name → address of global symbols of the kernel itself; of a name that it has twice nothing is known."""
    found: dict[str, int] = {}
    twice = set()
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3:
            if words[2] in found:
                twice.add(words[2])
            found[words[2]] = int(words[0], 16)
    return {name: at for name, at in found.items() if name not in twice}


def failures(tree: Tree, case: Case, exports: KernelExports, kernel: Mapping[str, int]) -> list[str] | None:
    """What is wrong with a case; None for one that is not bound by distance."""
    members = [(name, plain(tree.files[name])) for name in case.members]
    donors = {name: export.crc for name, export in exports.symbols.items() if export.crc is not None}
    options = PrelinkOptions(
        name="megamod_test", unwind=case.unwind, symbols=case.symbols, static_calls=case.static_calls, allow_taint=True
    )
    try:
        read = [read_member(data, file=f"{name}.ko") for name, data in members]
        made = prelink(read, options, donors=donors, image=image_of(exports))
    except MegamodError as error:
        return None if "verify" not in str(error) else [str(error)]
    if made.names is None:
        return None
    # jiffies is data that every kernel exports.
    compared = compare_distances(made.data, made.names, kernel, partial="jiffies" not in kernel)
    return [str(each) for each in [*judge(members, made.names, made.map), *compared]]


def main() -> int:
    """Parses the arguments, runs the cases, prints a closing line."""
    parser = argparse.ArgumentParser(description="random prelinks by distance, judged by the kernel's own addresses")
    parser.add_argument("--tree", type=Path, required=True, help="an unpacked kernel package")
    parser.add_argument("--arch", default="x86_64", choices=sorted(_DEBIAN), help="as QEMU calls it")
    parser.add_argument("--cases", type=int, default=20, help="how many (default 20)")
    parser.add_argument("--seed", default="1", help="any text; the same text draws the same cases")
    parser.add_argument("--kallsyms", type=Path, help="a file that keeps the kernel's symbols")
    arguments = parser.parse_args()
    tree = open_folder(arguments.tree)
    exports = find_exports(open_tree(str(tree.folder)).kernel_files)
    assert exports is not None and image_of(exports) is not None, "the kernel's image is not readable"
    if arguments.kallsyms and arguments.kallsyms.is_file():
        text = arguments.kallsyms.read_text()
    else:
        text = kallsyms(exports.source, arguments.arch)
        if arguments.kallsyms:
            arguments.kallsyms.write_text(text)
    kernel, failed, members, bound = addresses(text), 0, 0, 0
    for number in range(arguments.cases):
        case = draw(tree, f"{arguments.seed}-{number}")
        found = failures(tree, case, exports, kernel)
        bound += found is not None
        members += len(case.members) if found is not None else 0
        if found:
            failed += 1
            print(f"case {number}: {len(case.members)} members: {'; '.join(found[:5])}", flush=True)
    print(f"{tree.folder.name}: {arguments.cases} cases, {bound} by distance, {members} members, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
