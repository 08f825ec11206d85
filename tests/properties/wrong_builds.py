"""Megamodules that are bound by distance for another build than the one that gets them: none calls a member.

    python -m tests.properties.wrong_builds --tree DIR [--arch aarch64] [--other IMAGE…]

DIR is an unpacked Debian kernel package. Each file is linked for a kernel whose exports lie elsewhere in one way, and
given to the real kernel by itself, as if loader and plan knew nothing: the glue has to find out. Then the right file is
loaded in the same boot, under KASLR. A refused file ends with ENOEXEC, or
EINVAL where a relocation does not reach, and leaves nothing behind: no module, no bus,
class, driver or file system that a member's init would have registered, no WARNING. --other takes images of really
built kernels, whose addresses are used. Exit status 1 if anything else happens.
"""

from __future__ import annotations

import argparse
import random
import re
import stat
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from megamod.boot.qemu import run_qemu
from megamod.common.errors import MegamodError
from megamod.image.archive import write_image
from megamod.image.cpio import Entry
from megamod.kernel.export_sources import read_image_exports
from megamod.kernel.exports import find_exports, image_of
from megamod.modules.tree import open_tree
from megamod.prelink.distance import ImageSymbol, KernelImage
from megamod.prelink.link import Megamodule, prelink
from megamod.prelink.options import PrelinkOptions
from megamod.prelink.read import read_member
from tests.properties.distances import guest_busybox
from tests.properties.modules import Tree, open_folder, plain

_DRIVERS = ("virtio_blk", "virtio_pci", "virtio_net", "virtio_console", "virtio_scsi", "virtio_rng", "ext4")
_OTHER_ID = "ab" * 20
_SCRIPT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
seen() { /bin/busybox cat /proc/filesystems; /bin/busybox ls /sys/bus /sys/class /sys/bus/*/drivers; }
before=$(seen)
for file in /wrong/*.ko /right.ko; do
  answer=$(/bin/busybox insmod "$file" 2>&1)
  loaded=no; /bin/busybox grep -q ^megamod_test /proc/modules && loaded=yes
  traces=no; [ "$(seen)" = "$before" ] || traces=yes
  /bin/busybox echo "RESULT $file|$loaded|$traces|$answer"
done
/bin/busybox echo "TAINTED $(/bin/busybox cat /proc/sys/kernel/tainted)"
/bin/busybox poweroff -f
"""
_COMPLAINT = re.compile(r"WARNING:|BUG:|Oops|Call Trace|Unable to handle|general protection|kernel panic")
# An unsigned module, and nothing else (kernel/panic.c taint_flags[]).
_UNSIGNED = 1 << 13


def kinds(image: KernelImage, others: Mapping[str, KernelImage]) -> dict[str, KernelImage]:
    """A name for each way in which a kernel may differ → what the link is told of it."""
    places = sorted(symbol.address for symbol in image.symbols.values())

    def at(share: float) -> int:
        return places[min(int(len(places) * share), len(places) - 1)]

    def moved(shift: Callable[[int, str], int]) -> KernelImage:
        symbols = {
            name: replace(symbol, address=symbol.address + shift(symbol.address, name))
            for name, symbol in image.symbols.items()
        }
        return replace(image, symbols=symbols, build_id=_OTHER_ID)

    draw = random.Random("wrong builds")
    names = sorted(image.symbols)
    turned = dict(zip(names, draw.sample([image.symbols[name].address for name in names], len(names)), strict=True))
    one, two = "kfree", "__kmalloc" if "__kmalloc" in image.symbols else names[0]
    apart = image.symbols[two].address - image.symbols[one].address
    reach = places[-1] - places[0]
    found = {
        "a function in the middle grew by 64 bytes": moved(lambda place, _: 64 * (place > at(1 / 3))),
        "one grew by 16": moved(lambda place, _: 16 * (place > at(1 / 2))),
        "one shrank by 64": moved(lambda place, _: -64 * (place > at(1 / 2))),
        "a page more in the middle": moved(lambda place, _: 4096 * (place > at(1 / 2))),
        "2 MiB more in the middle": moved(lambda place, _: (2 << 20) * (place > at(1 / 2))),
        "one at the beginning grew": moved(lambda place, _: 16 * (place > at(1 / 20))),
        "one at the end grew": moved(lambda place, _: 16 * (place > at(19 / 20))),
        "the last export lies elsewhere": moved(lambda place, _: 16 * (place >= places[-1])),
        "data lies elsewhere": moved(lambda place, _: 4096 * (place > at(9 / 10))),
        "two functions have changed places": moved(
            lambda _, name: apart if name == one else -apart if name == two else 0
        ),
        "one function alone lies elsewhere": moved(lambda _, name: 16 if name == one else 0),
        "every second export lies elsewhere": moved(lambda _, name: 32 * (names.index(name) % 2)),
        "every address differs a little": moved(lambda _, name: 16 * draw.randrange(-4, 5)),
        "all addresses are shuffled": moved(lambda place, name: turned[name] - place),
        "the image is mirrored": moved(lambda place, _: places[0] + places[-1] - 2 * place),
        "everything lies twice as far": moved(lambda place, _: min(place - places[0], (1 << 30) - reach)),
        "the same code, built again": replace(image, build_id=_OTHER_ID),
        "the same, its notes elsewhere": replace(image, note=image.note + 64),
        "its notes elsewhere, and another id": replace(image, note=image.note - 4096, build_id=_OTHER_ID),
        "one bit of the id": replace(image, build_id=f"{int(image.build_id, 16) ^ 1:040x}"),
    }
    return found | {f"really built: {name}": with_crcs(other, image) for name, other in others.items()}


def with_crcs(other: KernelImage, image: KernelImage) -> KernelImage:
    """*other*'s addresses of what both kernels export, as if interfaces were the same: CRCs would give it away."""
    symbols: dict[str, ImageSymbol] = {
        name: replace(symbol, address=other.symbols[name].address)
        for name, symbol in image.symbols.items()
        if name in other.symbols
    }
    return replace(other, symbols=symbols)


def linked(tree: Tree, image: KernelImage) -> Megamodule | None:
    """The drivers for *image*; None if nothing is bound by distance."""
    chosen = tree.closure([name for name in _DRIVERS if name in tree.files])
    members = [read_member(plain(tree.files[name]), file=f"{name}.ko") for name in chosen]
    donors = {name: symbol.crc for name, symbol in image.symbols.items() if symbol.crc is not None}
    made = prelink(members, PrelinkOptions(name="megamod_test"), donors=donors, image=image)
    return made if made.names is not None else None


def main() -> int:
    """Parses the arguments, boots once, prints a table."""
    parser = argparse.ArgumentParser(description="megamodules bound by distance for other builds, in a real kernel")
    parser.add_argument("--tree", type=Path, required=True, help="an unpacked kernel package")
    parser.add_argument("--arch", default="x86_64", help="as QEMU calls it")
    parser.add_argument("--other", type=Path, action="append", default=[], help="an image of another kernel")
    arguments = parser.parse_args()
    tree = open_folder(arguments.tree)
    exports = find_exports(open_tree(str(tree.folder)).kernel_files)
    image = image_of(exports)
    if exports is None or image is None:
        raise MegamodError(f"{arguments.tree}: the kernel's image is not readable")
    others = {path.name: read for path in arguments.other if (read := image_of(read_image_exports(path))) is not None}
    files, not_bound = {}, []
    for number, (name, wrong) in enumerate(kinds(image, others).items()):
        made = linked(tree, wrong)
        if made is None:
            not_bound.append(name)
        else:
            files[f"/wrong/{number:02}.ko"] = name, made.data
    right = linked(tree, image)
    if right is None:
        raise MegamodError(f"{arguments.tree}: nothing is bound by distance")
    files["/right.ko"] = "the right build", right.data
    with tempfile.TemporaryDirectory(prefix="megamod-wrong-") as folder:
        path = Path(folder) / "image"
        entries = [
            Entry(path=name.lstrip("/"), mode=stat.S_IFREG | 0o644, data=data) for name, (_, data) in files.items()
        ]
        entries += [
            Entry(path="init", mode=stat.S_IFREG | 0o755, data=_SCRIPT.encode()),
            Entry(path="bin/busybox", mode=stat.S_IFREG | 0o755, data=guest_busybox(arguments.arch).read_bytes()),
            Entry(path="dev/console", mode=stat.S_IFCHR | 0o600, rdev=(5, 1)),
            *(Entry(path=name, mode=stat.S_IFDIR | 0o755) for name in ("dev", "proc", "sys", "bin", "wrong")),
        ]
        write_image(path, entries, method="none")
        extra = ("-cpu", "cortex-a72") if arguments.arch == "aarch64" else ()
        run = run_qemu(
            image=path,
            vmlinuz=exports.source,
            arch=arguments.arch,
            append="quiet loglevel=5",
            timeout=1500,
            accel="tcg",
            extra=extra,
            memory=1024,
        )
    failed = judge_run(run.console, {file: name for file, (name, _) in files.items()})
    for name in not_bound:
        print(f"{name}: nothing is bound by distance, so the names form is all there is")
    print(f"{tree.folder.name}: {len(files) - 1} wrong builds, {failed} failures")
    return 1 if failed else 0


def judge_run(console: str, files: Mapping[str, str]) -> int:
    """Prints what became of each file; the number of those with which it should not have."""
    text = console.replace("\r", "")
    results = {m[1]: (m[2], m[3], m[4]) for m in re.finditer(r"RESULT ([^|\n]+)\|(\w+)\|(\w+)\|([^\n]*)", text)}
    failed = 0
    for file, name in files.items():
        loaded, traces, answer = results.get(file, ("?", "?", "was not tried"))
        if file == "/right.ko":
            fine = (loaded, traces, answer) == ("yes", "yes", "")
        else:
            # What lies too far for a field the kernel refuses itself, before any init (riscv64: EINVAL).
            refused = ("invalid module format", "invalid argument")
            fine = (loaded, traces) == ("no", "no") and answer.lower().endswith(refused)
        failed += not fine
        verdict, error = "ok" if fine else "FAILED", answer.rpartition(": ")[2] or "no error"
        print(f"{verdict}: {name}: loaded {loaded}, traces {traces}, {error}")
    complaints = sorted({line.strip() for line in text.splitlines() if _COMPLAINT.search(line)})
    for line in complaints:
        print(f"FAILED: the kernel says: {line}")
    tainted = re.search(r"TAINTED (\d+)", text)
    if tainted is None or int(tainted[1]) & ~_UNSIGNED:
        complaints.append("taint")
        print(f"FAILED: taint {tainted[1] if tainted else 'not read'}")
    return failed + len(complaints)


if __name__ == "__main__":
    sys.exit(main())
