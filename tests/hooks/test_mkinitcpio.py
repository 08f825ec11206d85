"""mkinitcpio's images with megamod's hook, against the stand-in mkinitcpio.bash, whose order of work is that of v41."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from megamod.hooks.generators.install import install
from megamod.modules.tree import ModuleTree
from tests.hooks.test_hook_run import HERE, MODULES, plan_lines, tree  # noqa: F401


@dataclass(frozen=True, kw_only=True)
class Mkinitcpio:
    """What the stand-in mkinitcpio.bash has made: the image's root, and its standard output and error."""

    image: Path
    out: str
    err: str

    def modules(self) -> set[str]:
        return {path.name.split(".ko")[0] for path in (self.image / "usr/lib/modules").rglob("*.ko*")}

    def members(self) -> set[str]:
        return {line.split()[1] for line in plan_lines(self.image) if line.startswith("member ")}


@pytest.fixture
def mkinitcpio(
    tree: ModuleTree,  # noqa: F811
    tmp_path: Path,
    tool: Callable[..., str],
) -> Callable[..., Mkinitcpio]:
    """`mkinitcpio(MODULES of the configuration, hooks=modules that earlier hooks have added)`, megamod's hook last."""
    system, image = tmp_path / "system", tmp_path / "image"
    (system / "usr/lib/initcpio").mkdir(parents=True)
    (system / "lib").mkdir()
    (system / "lib/modules").symlink_to(tree.folder.parent)
    program = system / "megamod"
    main = "import sys; from megamod.cli.main import main; sys.exit(main())"
    options = "--select all --exclude usb_storage"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{main}" "$@" {options}\n')
    program.chmod(0o755)
    install("mkinitcpio", root=system, entry="hook-points", program=program)
    # The hook names its files by absolute paths; here they are below a folder.
    hook = (system / "etc/initcpio/install/megamod").read_text()
    (tmp_path / "hook").write_text(
        hook.replace("/etc/megamod/hooks/mkinitcpio.run", f"{system}/etc/megamod/hooks/mkinitcpio.run")
    )
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "MODULES_ROOT": str(system),
        "FILES_ROOT": str(system),
        "RUNSCRIPT": str(system / "etc/initcpio/hooks/megamod"),
    }
    bash = tool("bash", package="bash")

    def make(configured: str, *, hooks: Iterable[str]) -> Mkinitcpio:
        (tmp_path / "config").write_text(f"MODULES=({configured})\n")
        stand_in = [bash, HERE / "mkinitcpio.bash", tmp_path / "hook", tmp_path / "config", image, tree.release]
        done = subprocess.run([*stand_in, *hooks], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return Mkinitcpio(image=image, out=done.stdout, err=done.stderr)

    return make


def test_mkinitcpio_copies_what_is_left(mkinitcpio: Callable[..., Mkinitcpio]) -> None:
    made = mkinitcpio("", hooks=MODULES)
    assert made.modules() == {"usb-storage"}
    assert "root chain /init" in plan_lines(made.image)
    assert (made.image / "hooks/megamod").exists()
    assert (made.image / "usr/lib/systemd/system/sysinit.target.wants/megamod-load.service").resolve().is_file()
    assert made.err.count("WARNING") == 0


def test_mkinitcpios_own_modules_are_merged_too(mkinitcpio: Callable[..., Mkinitcpio]) -> None:
    """MODULES is parsed after all build hooks (parse_config, functions, v41)."""
    made = mkinitcpio("virtio_blk sd-mod? ext4 nowhere?", hooks=["virtio_pci", "usb-storage"])
    assert {"virtio_blk", "sd_mod", "ext4", "jbd2", "virtio_pci"} <= made.members()
    assert made.modules() == {"usb-storage"}
    assert made.err.count("ERROR") == 0


def test_a_name_of_no_module_is_mkinitcpios_to_complain_about(mkinitcpio: Callable[..., Mkinitcpio]) -> None:
    made = mkinitcpio("nowhere", hooks=["ext4"])
    assert made.err.count("module not found: 'nowhere'") == 1


def test_mkinitcpios_warning_of_no_modules_is_answered(mkinitcpio: Callable[..., Mkinitcpio]) -> None:
    made = mkinitcpio("virtio_blk", hooks=["ext4", "virtio_pci"])
    assert made.modules() == set()
    assert made.err.count("WARNING: No modules were added") == 1
    assert "megamod: all modules are in one; mkinitcpio's warning that none were added is about their own" in made.out
    # modprobe in the image works as with mkinitcpio's own indexes.
    indexes = {path.name for path in (made.image / "usr/lib/modules").rglob("modules.*")}
    assert {"modules.dep.bin", "modules.builtin.bin", "modules.alias.bin"} <= indexes
