"""Images by every generator at hand, for the same system, and what making them costs.

Other generators run in a chroot of a Debian system (shared/system.py), in a layer that is thrown away. An image that
was made stays in a folder with its cost, under a name that says what it depends on.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from megamod.boot.debian import fetch_package_files
from megamod.boot.disk import host_busybox
from megamod.common.errors import MegamodError
from megamod.common.host import cache_folder, file_lock, find_program, run_program
from megamod.image.archive import make_image
from megamod.image.cpio import Entry
from megamod.modules.tree import ModuleTree, open_tree

if TYPE_CHECKING:
    from tests.hooks.debian_systems import Layer, System

TOP = Path(__file__).parents[3]

# What the root needs, and what comes once user space runs.
CRITICAL = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
DEFERRED = ("virtio_net", "xhci_pci", "ehci_pci", "uhci_hcd", "usb_storage", "usbhid", "hid_generic", "snd_hda_intel")

# Without a system: what --quick makes.
QUICK = ("megamod", "busybox")

_STARTER = """\
import os, sys, time
start = time.monotonic()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
_, status, usage = os.wait4(child, 0)
wall = time.monotonic() - start
print("cost", os.waitstatus_to_exitcode(status), wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One run of a generator: seconds of the clock, of processors, and MiB of its largest process."""

    wall: float
    processor: float
    peak_mib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """An image and its cost; words: what the kernel command line needs besides root=. ours: made with megamod."""

    key: str
    title: str
    image: Path
    cost: Cost
    words: str = ""
    ours: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """A command in a chroot that writes /out.img; *layer* says what of the system it runs in.

    prepare: a script before it that is not measured.
    """

    key: str
    title: str
    command: str
    prepare: str = ":"
    words: str = ""
    hooked: bool = False


def generators(kernel: str) -> tuple[Generator, ...]:
    """All that run in a chroot, for the kernel release *kernel*."""
    listed = "\\n".join(CRITICAL)
    tools = "sed -i 's/^MODULES=.*/MODULES={}/' /etc/initramfs-tools/initramfs.conf"
    drivers = " ".join(CRITICAL)
    hook = "printf 'MEGAMOD_STRICT=yes\\nMEGAMOD_MACHINE=/mnt\\n' >/etc/megamod/hook.conf"
    install = "mkdir -p /etc/megamod; /opt/megamod/bin/megamod hook install {}; " + hook
    dracut = f"dracut -q --force --add-drivers '{drivers}'"
    most = f"mkinitramfs -o /out.img {kernel}"
    rdinit = "rdinit=/megamod-init"
    return (
        Generator(key="dracut", title="dracut, not hostonly", command=f"{dracut} -N /out.img {kernel}"),
        Generator(key="dracut -H", title="dracut, hostonly", command=f"{dracut} -H /out.img {kernel}"),
        Generator(key="most", title="initramfs-tools, MODULES=most", command=most, prepare=tools.format("most")),
        Generator(
            key="list",
            title="initramfs-tools, MODULES=list",
            command=most,
            prepare=f"{tools.format('list')}; printf '{listed}\\n' >>/etc/initramfs-tools/modules",
        ),
        Generator(
            key="tiny",
            title="tiny-initramfs",
            command=f"/usr/sbin/mktirfs -o /out.img -m no -M no {kernel}",
            # Its option of that name is not known to its own getopt (0.1-5); the file is.
            prepare="cp -r /tiny/usr /; mkdir -p /etc/tiny-initramfs; "
            f"echo INCLUDE_MODULES={','.join(CRITICAL)} >/etc/tiny-initramfs/tiny-initramfs.conf",
        ),
        Generator(
            key="dracut+megamod",
            title="dracut, not hostonly, with megamod",
            command=f"{dracut} -N /out.img {kernel}",
            prepare=install.format("dracut"),
            words=rdinit,
            hooked=True,
        ),
        Generator(
            key="most+megamod",
            title="initramfs-tools, MODULES=most, with megamod",
            command=most,
            prepare=f"{tools.format('most')}; {install.format('initramfs-tools')}",
            words=rdinit,
            hooked=True,
        ),
    )


def make_images(
    system: System, folder: Path, *, step: Callable[[str], None], only: Sequence[str] = ()
) -> Iterator[Generated | str]:
    """Every image, made or from *folder*; a text where a generator cannot make one here."""
    folder.mkdir(parents=True, exist_ok=True)
    for generator in generators(system.kernel):
        if only and generator.key not in only:
            continue
        depends = [system.folder.name, system.kernel, asdict(generator), _source_stamp() if generator.hooked else ""]
        path = folder / f"{generator.key.replace(' ', '')}-{stamp(depends)}.img"
        step(f"images: {generator.key}")
        try:
            cost = _kept(path, lambda generator=generator, path=path: _generate(system, generator, path, folder))  # type: ignore[misc]
        except (MegamodError, AssertionError, subprocess.CalledProcessError) as error:
            yield f"`{generator.key}` is left out: {' '.join(str(error).split())[-300:]}"
            continue
        yield Generated(
            key=generator.key,
            title=generator.title,
            image=path,
            cost=cost,
            words=generator.words,
            ours=generator.hooked,
        )
    tree = open_tree(str(system.tree / "lib/modules" / system.kernel))
    yield from own_images(tree, folder, system.folder.name, step=step, only=only)


def _kept(path: Path, make: Callable[[], Cost]) -> Cost:
    note = path.with_suffix(".json")
    if not (path.exists() and note.exists()):
        note.write_text(json.dumps(asdict(make())))
    return Cost(**json.loads(note.read_text()))


def _generate(system: System, generator: Generator, path: Path, folder: Path) -> Cost:
    from tests.hooks.debian_systems import run_in

    layer = _hooked_layer(system, folder) if generator.hooked else None
    bind: dict[Path, str] = {}
    if generator.hooked:
        bind[_machine(system, layer, folder)] = "mnt"
    if generator.key == "tiny":
        bind[fetch_package_files("tiny-initramfs-core", system.suite, cache=cache_folder())] = "tiny"
    with tempfile.TemporaryDirectory(dir=folder) as name:
        upper = Path(name) / "upper"
        starter = f"python3 -c '{_STARTER}' /bin/sh -c"
        script = f'{generator.prepare}\n{starter} "{generator.command}"'
        done = run_in(system, layer, upper, script, bind=bind)
        cost = _cost(done.stdout)
        shutil.copyfile(upper / "out.img", path)
    return cost


def _cost(text: str) -> Cost:
    words = next(line.split() for line in reversed(text.splitlines()) if line.startswith("cost "))
    if int(words[1]):
        raise MegamodError(f"exit status {words[1]}: {text[-600:]}")
    return Cost(wall=float(words[2]), processor=float(words[3]), peak_mib=int(words[4]) / 1024)


def _hooked_layer(system: System, folder: Path) -> Layer:
    """The system with megamod of this tree installed by pip."""
    from tests.hooks.debian_systems import Layer, build_wheel, install_wheel

    place = folder / f"installed-{stamp([system.folder.name, _source_stamp()])}"
    with file_lock(place.with_suffix(".lock")):
        if not (place / "done").exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            install_wheel(system, build_wheel(place), place / "upper")
            (place / "done").touch()
    return Layer(system=system, uppers=(place / "upper",))


def _machine(system: System, layer: Layer | None, folder: Path) -> Path:
    """What ``megamod detect --record`` says in the guest, for the hooks in a chroot."""
    from tests.hooks.debian_systems import make_disk
    from tests.hooks.system_boots import boot_system

    assert layer is not None
    place = folder / f"machine-{system.folder.name}"
    if not (place / "boot/out/machine").exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        make_disk(layer, place / "disk.img")
        image = next(made for made in make_images(system, folder, step=lambda text: None, only=("dracut",)))
        if isinstance(image, str):
            raise MegamodError(image)
        script = "/opt/megamod/bin/megamod detect --record /tmp/machine\nsend -C /tmp machine\n"
        # It shows the console's end, for tests.
        with contextlib.redirect_stdout(io.StringIO()):
            boot_system(system, image.image, script, place / "boot", disk=place / "disk.img")
        (place / "disk.img").unlink()
    return place / "boot/out/machine"


def own_images(
    tree: ModuleTree, folder: Path, origin: str, *, step: Callable[[str], None], only: Sequence[str] = ()
) -> Iterator[Generated]:
    """megamod alone, by several options, and a busybox image written by hand; *origin* says whose kernel it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for key, (unwind, deferred, title) in _OWN.items():
        if only and key not in only:
            continue
        step(f"images: {key}")
        text = _profile(unwind, DEFERRED if deferred else ())
        path = folder / f"{key.replace(' ', '-')}-{stamp([origin, _source_stamp(), text])}.img"

        def build(text: str = text, path: Path = path) -> Cost:
            profile = folder / "bench.yaml"
            profile.write_text(text)
            command = ["build", "-q", "--no-cache", "-k", str(tree.folder), "-o", str(path), str(profile)]
            # What the kernel exports is read once and remembered, so the first build of all is not the one that counts.
            _run_megamod(command)
            return _run_megamod(command)

        yield Generated(key=key, title=title, image=path, cost=_kept(path, build), ours=True)
    if only and "busybox" not in only:
        return
    step("images: busybox")
    path = folder / f"busybox-{stamp([origin, CRITICAL, _BUSYBOX_INIT])}.img"
    cost = _kept(path, lambda: _busybox_image(path, tree))
    yield Generated(key="busybox", title="busybox and a script, by hand", image=path, cost=cost)


# key: unwind, with the deferred modules, title.
_OWN = {
    "megamod": ("drop", True, "megamod, unwind: drop, deferred stage in the image"),
    "megamod compact": ("compact", True, "megamod, unwind: compact, deferred stage in the image"),
    "megamod root": ("drop", False, "megamod, unwind: drop, what the root needs alone"),
}


def _profile(unwind: str, deferred: Sequence[str]) -> str:
    critical, late = (", ".join(f'"?{name}"' for name in names) for names in (CRITICAL, deferred))
    stage = f"deferred:\n  - name: late\n    modules: [{late}]\n    after: userspace\n" if deferred else ""
    return (
        f"name: bench\ncritical:\n  modules: [{critical}]\n{stage}"
        f"unwind: {unwind}\nsymbols: trim\nfirmware: none\ncompress: zstd\n"
    )


def _run_megamod(words: Sequence[str]) -> Cost:
    program = "import sys; from megamod.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-I", "-c", _STARTER, sys.executable, "-c", program, *words]
    return _cost(run_program(command))


_BUSYBOX_INIT = f"""\
#!/bin/sh
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for name in {" ".join(CRITICAL)}; do modprobe $name; done
while [ ! -b /dev/vda ]; do usleep 1000; done
mount -t ext4 /dev/vda /target
mount --move /dev /target/dev
mount --move /proc /target/proc
mount --move /sys /target/sys
exec switch_root /target /sbin/init
"""


def _busybox_image(path: Path, tree: ModuleTree) -> Cost:
    """As people write it by hand; what making it costs is not asked, so its cost is nothing."""
    names = [name for name in CRITICAL if name in tree.modules]
    whole = dict.fromkeys(module for name in names for module in (*tree.modules[name].depends, name))
    applets = "sh mount modprobe usleep switch_root".split()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "lib/modules" / tree.release
        for module in whole:
            place = folder / tree.modules[module].relpath
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(tree.modules[module].path, place)
        for file in ("modules.builtin", "modules.order"):
            shutil.copyfile(tree.folder / file, folder / file)
        run_program([find_program("depmod", package="kmod"), "-b", name, tree.release])
        entries = [
            *(Entry(path=p, mode=stat.S_IFDIR | 0o755) for p in ("bin", "dev", "proc", "sys", "target")),
            Entry(path="bin/busybox", mode=stat.S_IFREG | 0o755, data=host_busybox().read_bytes()),
            *(Entry(path=f"bin/{applet}", mode=stat.S_IFLNK | 0o777, data=b"busybox") for applet in applets),
            Entry(path="init", mode=stat.S_IFREG | 0o755, data=_BUSYBOX_INIT.encode()),
            *(
                Entry(path=str(file.relative_to(name)), mode=stat.S_IFREG | 0o644, data=file.read_bytes())
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            ),
        ]
    path.write_bytes(make_image(entries, method="zstd"))
    return Cost(wall=0, processor=0, peak_mib=0)


def stamp(depends: object) -> str:
    return hashlib.sha256(json.dumps(depends, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _source_stamp() -> str:
    """Of megamod's own sources."""
    digest = hashlib.sha256()
    for name in ("initramfs", "loader", "profiles"):
        for path in sorted((TOP / name).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and "bin" not in path.parts:
                digest.update(path.read_bytes())
    return digest.hexdigest()
