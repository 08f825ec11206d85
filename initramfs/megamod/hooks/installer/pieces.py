"""What `megamod install` puts on a system beside images and entries: scripts that renew them with each kernel."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from megamod.hooks.generators.program_trust import trust_list
from megamod.hooks.installer.boot_layout import BootLayout
from megamod.hooks.transaction import NewFile

PROFILE = "etc/megamod/profile.yaml"
_LIB = "usr/lib/megamod"
GUARD = f"{_LIB}/image-guard"
REMOVAL = f"{_LIB}/remove-image"
_HERE = Path(__file__).parent / "files"
_WANTS = "etc/systemd/system/multi-user.target.wants/megamod-keep-image.service"

# Path below the root → (file of files/, mode).
_GRUB: Mapping[str, tuple[str, int]] = {
    "etc/grub.d/45_megamod": ("grub-entries", 0o755),
    f"{_LIB}/keep-image": ("keep-image", 0o755),
    "etc/systemd/system/megamod-keep-image.service": ("megamod-keep-image.service", 0o644),
}
# Before zz-update-grub, after what makes a kernel's other images and modules.
_DEBIAN: Mapping[str, tuple[str, int]] = {
    "etc/kernel/postinst.d/zy-megamod": ("kernel-postinst", 0o755),
    "etc/kernel/postrm.d/zy-megamod": ("kernel-postrm", 0o755),
}
_PLUGINS: Mapping[str, tuple[str, int]] = {
    "etc/kernel/install.d/50-megamod.install": ("50-megamod.install", 0o755),
    "etc/kernel/install.d/86-megamod.install": ("86-megamod.install", 0o755),
}
_ENTRY_PLUGIN = {"etc/kernel/install.d/95-megamod-image.install": ("95-megamod-image.install", 0o755)}


def pieces(root: Path, layout: BootLayout, program: Path) -> dict[str, NewFile]:
    """The scripts for *layout*, and the settings that say which *program* they call."""
    debian = (root / "etc/kernel/postinst.d").is_dir()
    chosen = dict(_PLUGINS)
    links = {}
    if layout.kind == "grub":
        chosen |= {**_GRUB, **(_DEBIAN if debian else _ENTRY_PLUGIN)}
        links[_WANTS] = NewFile(link="../megamod-keep-image.service")
    else:
        chosen |= _ENTRY_PLUGIN
    trusted = "".join(f"{name}\n" for name in trust_list(program, root=root))
    conf = f"# Written by `megamod install`.\nMEGAMOD={shlex.quote(str(program))}\n"
    return {
        **{path: NewFile(data=(_HERE / name).read_bytes(), mode=mode) for path, (name, mode) in chosen.items()},
        **links,
        GUARD: NewFile(data=(_HERE / "../../generators/guard").read_bytes(), mode=0o755),
        "etc/megamod/image.conf": NewFile(data=conf.encode()),
        "etc/megamod/image.trust": NewFile(data=trusted.encode()),
    }
