"""A distribution's own udev and kmod in a guest: their programs, rules and libraries, from Debian's packages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from elftools.elf.elffile import ELFFile

from megamod.boot.debian import Kernel, fetch_package_files
from megamod.common.host import cache_folder
from megamod.modules.tree import open_tree

_COMMON = (
    *("udev", "kmod", "libc6", "libkmod2", "libacl1", "libblkid1", "libcap2", "libselinux1"),
    *("libpcre2-8-0", "liblzma5", "libzstd1"),
)
_PACKAGES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "bookworm": (*_COMMON, "libssl3"),
        "trixie": (
            *_COMMON,
            *("libssl3t64", "libsystemd-shared", "libcrypt1", "libmount1", "libseccomp2", "libpam0g", "libaudit1"),
            *("libcap-ng0", "zlib1g"),
        ),
    }
)

# libsystemd-shared opens it when it is wanted (dlopen), so nothing names it.
_OPENED = ("libkmod.so.2",)


def udev_files(suite: str) -> dict[str, bytes]:
    """path → content: udevadm, systemd-udevd, kmod as /sbin/modprobe, the rules, and all libraries, of this suite."""
    trees = [fetch_package_files(n, suite, architecture="amd64", cache=cache_folder()) for n in _PACKAGES[suite]]
    udevadm, kmod = _find(trees, "bin/udevadm"), _find(trees, "bin/kmod")
    files = {
        "sbin/udevadm": udevadm.read_bytes(),
        "lib/systemd/systemd-udevd": udevadm.read_bytes(),
        "sbin/modprobe": kmod.read_bytes(),
        "sbin/kmod": kmod.read_bytes(),
        "etc/group": b"root:x:0:\ntty:x:5:\ndisk:x:6:\n",
        "etc/passwd": b"root:x:0:0::/root:/bin/sh\n",
    }
    for tree in trees:
        for rules in tree.glob("**/lib/udev/rules.d/*.rules"):
            # bookworm's looks below /lib, trixie's below /usr/lib alone.
            files[str(rules.relative_to(tree))] = rules.read_bytes()
    queue, done = [udevadm, kmod, *(_find(trees, name) for name in _OPENED)], set(_OPENED)
    files |= {f"lib/x86_64-linux-gnu/{name}": _find(trees, name).read_bytes() for name in _OPENED}
    for path in queue:
        for name in _needed(path):
            if name not in done:
                done.add(name)
                library = _find(trees, name)
                folder = "lib64" if name.startswith("ld-linux") else "lib/x86_64-linux-gnu"
                files[f"{folder}/{name}"] = library.read_bytes()
                queue.append(library)
    return files


def module_files(kernel: Kernel, *names: str) -> dict[str, bytes]:
    """/lib/modules of a root: all index files, the modules *names* that are not built in and what they depend on."""
    tree = open_tree(str(kernel.modules))
    there = [name for name in names if name not in tree.builtin]
    wanted = {name for module in there for name in (module, *tree.modules[module].depends)}
    paths = [*kernel.modules.glob("modules.*"), *(tree.modules[name].path for name in wanted)]
    return {f"lib/modules/{kernel.release}/{path.relative_to(kernel.modules)}": path.read_bytes() for path in paths}


def _find(trees: list[Path], name: str) -> Path:
    for tree in trees:
        for path in sorted(tree.glob(f"**/{name}")):
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    return path.resolve()
    raise AssertionError(f"{name}: in none of the packages")


def _needed(path: Path) -> list[str]:
    with path.open("rb") as stream:
        dynamic = ELFFile(stream).get_section_by_name(".dynamic")
        needed = [str(tag.needed) for tag in dynamic.iter_tags() if tag.entry.d_tag == "DT_NEEDED"] if dynamic else []
    return [*needed, "ld-linux-x86-64.so.2"]
