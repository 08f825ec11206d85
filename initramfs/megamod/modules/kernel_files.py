"""Where the kernel's own files lie: its image, configuration, System.map and Module.symvers.

What the user names comes first; then the places of distributions (beside the modules, /boot of the same tree), of a
kernel's build folder (the modules folder's link `build`), of Buildroot (output/build/linux-*, output/images) and of
Yocto (STAGING_KERNEL_BUILDDIR and DEPLOY_DIR_IMAGE, from the environment or below the tmp folder that the modules lie
in). A place that does not name the release counts only if a file in it does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# As kernels are called in /boot, before -KVER, and in arch/*/boot of a build folder.
_IMAGES = ("vmlinuz", "vmlinux", "bzImage", "Image", "Image.gz", "zImage", "uImage", "vmlinuz.efi", "kernel")
# As Yocto and Buildroot call what they deploy; a build folder's vmlinux has all debug information in it.
_DEPLOYED = ("bzImage", "Image", "Image.gz", "zImage", "vmlinuz", "uImage", "fitImage", "vmlinux")
_VARIABLES = {"staging": "STAGING_KERNEL_BUILDDIR", "deployed": "DEPLOY_DIR_IMAGE"}


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFiles:
    """The files of the kernel whose modules lie in *folder* (lib/modules/KVER), *release* its name. The other fields
    are files that the user has named, and the two folders that Yocto names in the environment of its tasks:
    STAGING_KERNEL_BUILDDIR and DEPLOY_DIR_IMAGE."""

    folder: Path
    release: str
    vmlinuz: Path | None = None
    config: Path | None = None
    system_map: Path | None = None
    symvers: Path | None = None
    staging: Path | None = None
    deployed: Path | None = None

    def images(self) -> Iterator[Path]:
        """Kernel images that exist, the likeliest first. One from a place without the release in its name may be of
        another kernel: only its content says."""
        yield from _existing(
            self._named(self.vmlinuz) or (self.folder / "vmlinuz", *self._in_boot(_IMAGES), *self._built_images())
        )

    def configs(self) -> Iterator[Path]:
        """Configurations that exist."""
        places = (self.folder / "config", *self._in_boot(("config",)))
        yield from _existing(self._named(self.config) or (*places, *(build / ".config" for build in self._builds())))

    def system_maps(self) -> Iterator[Path]:
        """Files System.map that exist."""
        own = (self.folder / "System.map", *self._in_boot(("System.map",)))
        built = [build / name for build in self._builds() for name in ("System.map", f"System.map-{self.release}")]
        yield from _existing(self._named(self.system_map) or (*own, *built))

    def symvers_files(self) -> Iterator[Path]:
        """Files Module.symvers that exist, which Fedora packs."""
        suffixes = ("", ".gz", ".xz", ".zst")
        own = [self.folder / f"symvers{suffix}" for suffix in suffixes]
        names = ("symvers", "Module.symvers")
        boot = [path for suffix in suffixes for path in self._in_boot(names, suffix=suffix)]
        built = [build / "Module.symvers" for build in self._builds()]
        yield from _existing(self._named(self.symvers) or (*own, *boot, *built))

    def is_named(self, path: Path) -> bool:
        """Whether the user has named *path*."""
        return path in (self.vmlinuz, self.config, self.system_map, self.symvers)

    def _named(self, path: Path | None) -> tuple[Path, ...]:
        return (path,) if path is not None else ()

    def _in_boot(self, names: Iterable[str], *, suffix: str = "") -> Iterator[Path]:
        for parent in self.folder.absolute().parents[2:4]:
            for name in names:
                yield parent / "boot" / f"{name}-{self.release}{suffix}"

    def _builds(self) -> Iterator[Path]:
        """Folders in which this kernel was built."""
        if (self.folder / "build").is_dir():
            yield self.folder / "build"
        for root in self._parents("build"):
            for build in sorted((root / "build").glob("linux-*")):
                if _first_line(build / "include/config/kernel.release") == self.release:
                    yield build
        for build in self._yocto_builds():
            if _first_line(build / "kernel-abiversion") == self.release:
                yield build

    def _yocto_builds(self) -> Iterator[Path]:
        if self.staging is not None:
            yield self.staging
        for root in self._parents("work-shared"):
            yield from sorted((root / "work-shared").glob("*/kernel-build-artifacts"))

    def _built_images(self) -> Iterator[Path]:
        builds = list(self._builds())
        for build in builds:
            for name in _DEPLOYED:
                yield from sorted(build.glob(f"arch/*/boot/{name}"))
        for root in self._parents("images"):
            yield from (root / "images" / name for name in _DEPLOYED)
        for folder in self._deployed(builds):
            yield from (folder / name for name in _DEPLOYED)
        for build in builds:
            yield build / "vmlinux"

    def _deployed(self, builds: Iterable[Path]) -> Iterator[Path]:
        """Yocto's deploy/images/MACHINE; the machine is named by the folder above the build."""
        if self.deployed is not None:
            yield self.deployed
        for build in builds:
            if build.name == "kernel-build-artifacts":
                yield build.parents[2] / "deploy/images" / build.parent.name

    def _parents(self, name: str) -> Iterator[Path]:
        """Folders that the modules lie below in a build system's tree, and that have a folder *name*: Buildroot's
        output above target, Yocto's tmp."""
        parents = self.folder.absolute().parents
        for number, above in enumerate(parents):
            is_buildroot = number == 3 and parents[2].name == "target"
            if number >= 3 and (is_buildroot or name == "work-shared") and (above / name).is_dir():
                yield above


def yocto_folders(environment: Mapping[str, str] = os.environ) -> dict[str, Path]:
    """The folders that *environment* names, by field of KernelFiles."""
    return {field: Path(environment[name]) for field, name in _VARIABLES.items() if environment.get(name)}


def _existing(paths: Iterable[Path]) -> Iterator[Path]:
    return (path for path in paths if path.is_file())


def _first_line(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").partition("\n")[0].strip()
    except OSError:
        return ""
