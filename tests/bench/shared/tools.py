"""What people load modules with today, each in a guest of its own: tools of user space, and threads by waves."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megamod.common.compression import read_module_bytes
from megamod.common.host import find_program, run_program
from megamod.image.archive import write_image
from megamod.image.cpio import Entry
from tests.bench.shared.guest import run_guest
from tests.bench.shared.kernels import BenchKernel
from tests.bench.shared.sets import ModuleSet
from tests.bench.shared.system import program_entries

_FILE, _FOLDER = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755
_PROGRAM = stat.S_IFREG | 0o755


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A program that loads modules. *one_by_one*: a process for each name; else all names in one. Without *names* it
    finds them by itself, in a file of /etc/modules-load.d."""

    key: str
    title: str
    program: str
    arguments: str = ""
    one_by_one: bool = False
    names: bool = True

    def commands(self, names: Sequence[str]) -> list[str]:
        start = f"/{self.program} {self.arguments}".strip()
        if not self.names:
            return [start]
        return [f"{start} {name}" for name in names] if self.one_by_one else [" ".join([start, *names])]


TOOLS = (
    Tool(
        key="busybox",
        title="busybox modprobe, one by one",
        program="usr/bin/busybox",
        arguments="modprobe",
        one_by_one=True,
    ),
    Tool(key="kmod", title="kmod's modprobe, one by one", program="usr/sbin/modprobe", one_by_one=True),
    Tool(key="kmod -a", title="kmod's `modprobe -a`", program="usr/sbin/modprobe", arguments="-a"),
    Tool(
        key="systemd",
        title="systemd-modules-load",
        program="usr/lib/systemd/systemd-modules-load",
        names=False,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Elapsed:
    """Nanoseconds from the first to the last, those of the inits in them, memory in KiB, and what is loaded."""

    load_ns: int
    init_ns: int
    overhead_ns: int
    memory_kib: int
    vmalloc_kib: int
    modules: int
    names: tuple[str, ...]


def tool_image(path: Path, program: Path, tree: Path, tool: Tool, chosen: ModuleSet, names: Sequence[str]) -> Path:
    """An image with a system's *tool*, its libraries, the files of *chosen* where modprobe looks, and its commands."""
    entries = [
        *_guest_entries(program, tool.commands(names)),
        *program_entries(tree, [tool.program]),
        *module_entries(chosen),
        Entry(path="etc/modules-load.d/bench.conf", mode=_FILE, data="\n".join([*names, ""]).encode()),
    ]
    write_image(path, entries, method="none")
    return path


# What udev needs to load drivers: a rule that loads by modalias, and names that the rules before it set.
_RULES = ("50-udev-default.rules", "80-drivers.rules")
_UDEV = ("usr/bin/udevadm", "usr/lib/systemd/systemd-udevd")
_COLDPLUG = (
    "/usr/lib/systemd/systemd-udevd --daemon",
    "/usr/bin/udevadm trigger --type=subsystems --action=add",
    "/usr/bin/udevadm trigger --type=devices --action=add",
    "/usr/bin/udevadm settle",
)
# A machine with something for many of the drivers.
DEVICES = (
    *("-device", "qemu-xhci,id=usb", "-device", "usb-kbd,bus=usb.0", "-device", "usb-tablet,bus=usb.0"),
    *("-drive", "if=none,id=stick,file.driver=null-co,format=raw,file.size=64M,file.read-zeroes=on"),
    *("-device", "usb-storage,bus=usb.0,drive=stick", "-device", "ich9-usb-ehci1", "-device", "piix3-usb-uhci"),
    *("-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0", "-netdev", "user,id=n1"),
    *("-device", "e1000e,netdev=n1", "-device", "virtio-rng-pci", "-device", "virtio-balloon-pci"),
    *("-device", "virtio-scsi-pci", "-device", "virtio-serial-pci", "-device", "ahci", "-device", "virtio-gpu-pci"),
    *("-drive", "if=none,id=flash,file.driver=null-co,format=raw,file.size=64M,file.read-zeroes=on"),
    *("-device", "nvme,drive=flash,serial=1", "-audiodev", "none,id=none", "-device", "intel-hda"),
    *("-device", "hda-output,audiodev=none", "-device", "sdhci-pci"),
)


def coldplug_image(
    path: Path, program: Path, system: Path, chosen: ModuleSet, *, first: Mapping[str, bytes], without: Sequence[str]
) -> Path:
    """An image in which udev loads what of *chosen* the devices ask for. *first* are megamodules loaded before it, by
    name, and *without* their members, which the image has as megamod's would: no file, and built in by name."""
    commands = [*(f"load /{name}.ko" for name in first), *_COLDPLUG]
    rules = [f"usr/lib/udev/rules.d/{name}" for name in _RULES]
    entries = [
        *_guest_entries(program, commands),
        *program_entries(system, _UDEV),
        *module_entries(chosen, without=without),
        *(Entry(path=name, mode=_FILE, data=(system / name).read_bytes()) for name in rules),
        *(Entry(path=f"{name}.ko", mode=_FILE, data=data) for name, data in first.items()),
    ]
    write_image(path, entries, method="none")
    return path


def _guest_entries(program: Path, commands: Sequence[str]) -> Iterator[Entry]:
    for name in ("dev", "proc", "sys", "run", "tmp"):
        yield Entry(path=name, mode=_FOLDER)
    yield Entry(path="dev/console", mode=stat.S_IFCHR | 0o600, rdev=(5, 1))
    yield Entry(path="init", mode=_PROGRAM, data=program.read_bytes())
    yield Entry(path="commands", mode=_FILE, data="\n".join(commands).encode())


def module_entries(chosen: ModuleSet, *, without: Sequence[str] = ()) -> Iterator[Entry]:
    """lib/modules/KVER with the set's files as they are, less *without*, which depmod takes for built in."""
    tree = chosen.tree
    top = Path("usr/lib/modules") / tree.release
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "lib/modules" / tree.release
        for module, path in chosen.paths.items():
            if module in without:
                continue
            place = folder / tree.modules[module].relpath
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
        for file in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
            if (tree.folder / file).exists():
                (folder / file).write_bytes((tree.folder / file).read_bytes())
        with (folder / "modules.builtin").open("a") as file:
            file.writelines(f"{tree.modules[module].relpath.partition('.ko')[0]}.ko\n" for module in without)
        run_program([find_program("depmod", package="kmod"), "-b", name, tree.release])
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                yield Entry(path=str(top / path.relative_to(folder)), mode=_FILE, data=path.read_bytes())


def waves_image(path: Path, program: Path, chosen: ModuleSet) -> Path:
    """An image for guest/waves.c: the set's files as they are, in waves of what needs only earlier ones."""
    levels = _waves(chosen)
    order = sorted(chosen.members, key=lambda member: levels[member.name])
    listing = "".join(f"/modules/{member.name}.ko {levels[member.name]}\n" for member in order)
    entries = [
        *_guest_entries(program, []),
        Entry(path="list", mode=_FILE, data=listing.encode()),
        *(
            Entry(path=f"modules/{m.name}.ko", mode=_FILE, data=read_module_bytes(chosen.paths[m.name]))
            for m in chosen.members
        ),
    ]
    write_image(path, entries, method="none")
    return path


def _waves(chosen: ModuleSet) -> Mapping[str, int]:
    levels: dict[str, int] = {}
    # In init order, so what a member needs has its level already.
    for member in chosen.members:
        needed = chosen.tree.modules[member.name].depends
        levels[member.name] = max((levels[name] + 1 for name in needed), default=0)
    return levels


def measure_elapsed(
    kernel: BenchKernel, image: Path, *, seed: int = 1, threads: int = 1, devices: Sequence[str] = ()
) -> Elapsed:
    """Two boots under icount: one for the time, one with initcall_debug for the inits.

    There is one processor, whatever the threads: under icount several would take turns.
    """
    words = (f"threads={threads}",)
    plain = run_guest(kernel, image, words=words, seed=seed, extra=devices)
    noted = run_guest(kernel, image, words=words, seed=seed, extra=devices, initcalls=True)
    inits = sum(1000 * microseconds for name, _, microseconds in noted.initcalls if name != "?")
    # The messages of the second boot take some 20 µs each, in its time and not in its inits.
    return Elapsed(
        load_ns=plain.elapsed,
        init_ns=inits,
        overhead_ns=plain.elapsed - inits,
        memory_kib=plain.memory_kib,
        vmalloc_kib=plain.vmalloc_kib,
        modules=plain.modules,
        names=plain.names,
    )
