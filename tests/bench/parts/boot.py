"""Boot: from the kernel's start to the real init and to the last module, with every generator's image and one root."""

from __future__ import annotations

import re
import shutil
import stat
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from megamod.boot.disk import busybox_root, make_disk
from megamod.boot.qemu import run_qemu
from megamod.common.compression import compress, decompress
from megamod.common.errors import MegamodError
from megamod.common.host import find_program, run_program
from megamod.image.cpio import Entry
from megamod.modules.tree import ModuleTree, open_tree
from tests.bench.parts.context import Context, Part, Plot, Table
from tests.bench.shared.generators import CRITICAL, DEFERRED, QUICK, Generated, make_images, own_images, stamp
from tests.bench.shared.store import digest
from tests.bench.shared.system import program_entries

# MB/s of what holds the image: an SD card, eMMC, a fast flash.
RATES = (25, 100, 500)
_METHOD = "zstd"
_TIMEOUT = 900.0

# The real init. Its first line is the mark; idle time comes from the tick's own count, in nanoseconds
# (kernel/time/timer_list.c print_tickdevice(), print_cpu()).
_INIT = f"""\
#!/bin/busybox sh
[ -e /dev/kmsg ] || /bin/busybox mount -t devtmpfs dev /dev
echo "bench: init" >/dev/kmsg
PATH=/bin:/usr/sbin:/usr/bin
[ -e /proc/cmdline ] || mount -t proc proc /proc
[ -e /sys/kernel ] || mount -t sysfs sys /sys
idle=$(grep -e idle_sleeptime -e iowait_sleeptime /proc/timer_list)
if grep -q bench=wait /proc/cmdline; then
	while ! grep -q '^late done' /run/megamod/status; do usleep 1000; done
else
	/usr/sbin/modprobe -a {" ".join(DEFERRED)}
fi
echo "bench: all" >/dev/kmsg
echo "$idle" | sed 's/^/real/'
grep -e idle_sleeptime -e iowait_sleeptime /proc/timer_list | sed 's/^/all/'
dmesg | grep -e 'bench: ' -e 'megamod: ' -e 'Run .* as init' -e 'mounted filesystem' -e 'Freeing initrd'
cut -d' ' -f1 /proc/modules | sed 's/^/module /'
[ -e /run/megamod/status ] && sed 's/^/status /' /run/megamod/status
echo bench-end
poweroff -f
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootRow:
    """One image, the run with the least work of several. Seconds from the kernel's start: init (of the image), loaded
    (our critical stage, else None), mounted, real (the real init's first line), all. waits, all_waits: idle until
    then, which is when a disk is waited for.
    """

    key: str
    title: str
    bytes: int
    init: float
    loaded: float | None
    mounted: float
    real: float
    all: float
    waits: float
    all_waits: float
    spread: float

    @property
    def work(self) -> float:
        return self.real - self.waits


def measure_boot(context: Context, *, repeat: int) -> Part:
    """Boot each image *repeat* times; all are packed anew by the same method."""
    folder = context.store.folder.parent / "images"
    only = QUICK if context.quick else ()
    if context.system is None:
        tree, vmlinuz = context.kernel.tree, context.kernel.vmlinuz
        images: Iterable[Generated | str] = own_images(tree, folder, tree.release, step=context.step, only=only)
    else:
        tree = open_tree(str(context.system.tree / "lib/modules" / context.system.kernel))
        vmlinuz = context.system.vmlinuz
        images = make_images(context.system, folder, step=context.step)
    disk = _disk(context, tree)
    rows, notes = [], []
    for made in images:
        if isinstance(made, str):
            notes.append(made)
            continue
        context.step(f"boot: {made.key}")
        try:
            rows.append(_measure(context, made, vmlinuz, disk, repeat))
        except MegamodError as error:
            notes.append(f"`{made.key}` is left out: {str(error).splitlines()[0]}")
    return _part(rows, notes, tree.release)


def _part(rows: Sequence[BootRow], notes: Sequence[str], release: str) -> Part:
    rows = sorted(rows, key=lambda row: row.work)
    heads = [
        "image",
        "MB",
        "init",
        "loaded",
        "mounted",
        "real init",
        "of that waits",
        "work",
        "spread",
        "all loaded",
        "all, work",
    ]
    cells = [
        [
            row.title,
            f"{row.bytes / 1e6:.1f}",
            f"{row.init:.3f}",
            "-" if row.loaded is None else f"{row.loaded:.3f}",
            f"{row.mounted:.3f}",
            f"{row.real:.3f}",
            f"{row.waits:.3f}",
            f"{row.work:.3f}",
            f"{100 * row.spread:.1f} %",
            f"{row.all:.3f}",
            f"{row.all - row.all_waits:.3f}",
        ]
        for row in rows
    ]
    storage = [
        [row.title, f"{row.work:.3f}", *(f"{row.work + row.bytes / rate / 1e6:.3f}" for rate in RATES)] for row in rows
    ]
    tables = [
        Table(
            title=f"Boot: seconds from the kernel's start, {release}",
            heads=heads,
            rows=cells,
            notes=[*notes],
        ),
        Table(
            title="Boot: work until the real init, and the reading of the image at a given rate",
            heads=["image", "none", *(f"{rate} MB/s" for rate in RATES)],
            rows=storage,
            notes=["A model: size of the image by the rate, before the kernel starts."],
        ),
    ]
    plot = Plot(
        name="boot",
        title="Kernel start to real init, without waits",
        axis="seconds of guest time (10⁹ instructions)",
        parts=("kernel and unpacking, until the image's init", "until the real init"),
        bars={row.title: (row.init, max(row.work - row.init, 0.0)) for row in rows},
    )
    return Part(name="boot", tables=tables, plots=[plot], data=[{**asdict(row), "work": row.work} for row in rows])


def _measure(context: Context, made: Generated, vmlinuz: Path, disk: Path, repeat: int) -> BootRow:
    image = context.folder / "boot.img"
    # The archive as it is, hard links and all, by one method for everybody.
    image.write_bytes(compress(decompress(made.image.read_bytes()), _METHOD))
    late = made.key in ("megamod", "megamod compact")
    words = f"root=/dev/vda rootfstype=ext4 rw quiet log_buf_len=4M {'bench=wait' if late else ''} {made.words}"
    depends = {**context.facts, "kernel": digest(vmlinuz), "image": digest(image), "disk": disk.name, "words": words}
    runs = [
        context.store.figure("boot", {**depends, "run": run}, lambda: _boot(image, vmlinuz, disk, words, made.key))
        for run in range(repeat)
    ]
    least = min(runs, key=lambda run: run["real"] - run["waits"])
    works = [run["real"] - run["waits"] for run in runs]
    spread = max(works) / min(works) - 1
    return BootRow(key=made.key, title=made.title, bytes=image.stat().st_size, spread=spread, **least)


def _boot(image: Path, vmlinuz: Path, disk: Path, words: str, key: str) -> dict[str, float | None]:
    result = run_qemu(
        image=image,
        vmlinuz=vmlinuz,
        disks=[disk],
        append=words,
        icount=True,
        memory=1024,
        timeout=_TIMEOUT,
        until="bench-end",
        extra=("-rtc", "base=2026-01-01T00:00:00,clock=vm", "-seed", "1"),
    )
    text = result.console
    if "bench-end" not in text:
        raise MegamodError(f"{key}: the real init did not come to its end:\n{result.tail()}")
    modules = set(re.findall(r"^module (\S+)$", text, re.MULTILINE))
    # What a generator's own megamodule has is not there by name.
    if not modules & {"virtio_net", "snd_hda_intel", "megamod_late"}:
        raise MegamodError(f"{key}: the deferred modules are not loaded:\n{result.tail()}")
    waits = {
        word: sum(map(int, re.findall(rf"^{word}\s+\.\w+_sleeptime\s*: (\d+) nsecs", text, re.MULTILINE))) / 1e9
        for word in ("real", "all")
    }
    return {
        "init": _time(text, r"Run \S+ as init process"),
        "loaded": _time(text, r"megamod: load megamod_critical\S* took", last=True),
        "mounted": _time(text, r"EXT4-fs \(vda\): mounted filesystem"),
        "real": _time(text, r"bench: init"),
        "all": _time(text, r"bench: all"),
        "waits": waits["real"],
        "all_waits": waits["all"],
    }


def _time(text: str, pattern: str, *, last: bool = False) -> float | None:
    found = re.findall(rf"^\[ *(\d+\.\d+)\] {pattern}", text, re.MULTILINE)
    return float(found[-1 if last else 0]) if found else None


def _disk(context: Context, tree: ModuleTree) -> Path:
    """An ext4 root with busybox, kmod where there is a system, and the modules; made once."""
    images = context.store.folder.parent / "images"
    disk = images / f"root-{stamp([context.system.folder.name if context.system else '', tree.release, _INIT])}.img"
    if disk.exists():
        return disk
    images.mkdir(parents=True, exist_ok=True)
    folder = context.folder / "root"
    busybox_root(folder, init=_INIT, files={"etc/os-release": "ID=bench\n"})
    if context.system is not None:
        for entry in program_entries(context.system.tree, ["usr/sbin/modprobe"]):
            _put(folder, entry)
    else:
        _put(folder, Entry(path="usr/sbin/modprobe", mode=stat.S_IFLNK | 0o777, data=b"/bin/busybox"))
        _put(folder, Entry(path="lib", mode=stat.S_IFLNK | 0o777, data=b"usr/lib"))
    modules = folder / "usr/lib/modules" / tree.release
    names = [name for name in (*CRITICAL, *DEFERRED) if name in tree.modules]
    for module in dict.fromkeys(module for name in names for module in (*tree.modules[name].depends, name)):
        place = modules / tree.modules[module].relpath
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tree.modules[module].path, place)
    for file in ("modules.builtin", "modules.order"):
        shutil.copyfile(tree.folder / file, modules / file)
    run_program([find_program("depmod", package="kmod"), "-b", folder / "usr", tree.release])
    return make_disk(disk, folder, size_mib=128)


def _put(folder: Path, entry: Entry) -> None:
    place = folder / entry.path
    if stat.S_ISLNK(entry.mode):
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.symlink_to(entry.data.decode())
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(entry.data)
    place.chmod(stat.S_IMODE(entry.mode))
