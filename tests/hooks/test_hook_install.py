"""`megamod hook install`, `remove`, `status`: what they write, and that they take all of it back."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.cli.main import cli
from megamod.common.errors import MegamodError
from megamod.hooks.generators.install import install, read_settings, remove, status
from megamod.hooks.generators.run import GENERATORS, Generator
from megamod.image.uki import make_uki
from tests.fuzz.samples import efi_program

HOOKS = Path(__file__).resolve().parents[2] / "initramfs/megamod/hooks/generators"
GRUB_MKCONFIG = "for x in ${sysconfdir}/default/grub.d/*.cfg ; do\n"
PROGRAM = Path("/opt/megamod/bin/megamod")
SIGNS = {
    "dracut": "usr/lib/dracut/modules.d",
    "initramfs-tools": "usr/share/initramfs-tools",
    "mkinitcpio": "usr/lib/initcpio",
}


def make_root(folder: Path, *, grub: bool = False, kernel_install: bool = False) -> Path:
    for place in (*SIGNS.values(), "etc/default", "etc/initramfs-tools/hooks", "var/lib"):
        (folder / place).mkdir(parents=True)
    (folder / "etc/fstab").write_text("/dev/sda / ext4 defaults 0 1\n")
    if grub:
        (folder / "etc/default/grub").write_text('GRUB_CMDLINE_LINUX=""\n')
        (folder / "usr/sbin").mkdir()
        (folder / "usr/sbin/grub-mkconfig").write_text(GRUB_MKCONFIG)
    if kernel_install:
        (folder / "usr/lib/kernel/install.d").mkdir(parents=True)
        (folder / "usr/lib/kernel/install.d/90-loaderentry.install").touch()
        (folder / "boot/efi/loader/entries").mkdir(parents=True)
    return folder


def tree_hash(folder: Path) -> dict[str, tuple[int, str]]:
    """Every path with its mode and content."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("entry", ["rdinit", "hook-points", None])
@pytest.mark.parametrize("generator", GENERATORS)
def test_removing_brings_every_path_back_to_what_it_was(
    generator: Generator, entry: str | None, tmp_path: Path
) -> None:
    root = make_root(tmp_path, grub=True, kernel_install=True)
    before = tree_hash(root)
    install(generator, root=root, entry=entry, program=PROGRAM)  # type: ignore[arg-type]
    assert tree_hash(root) != before
    remove(generator, root=root)
    assert tree_hash(root) == before


def test_the_maps_of_the_images_go_with_the_last_hook(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    before = tree_hash(root)
    for generator in ("dracut", "initramfs-tools"):
        install(generator, root=root, entry="hook-points", program=PROGRAM)  # type: ignore[arg-type]
    (root / "var/lib/megamod/maps").mkdir()
    kept = root / "var/lib/megamod/maps/6.1.0.map"
    kept.write_text('{"megamodules": {"megamod_critical": {}}}')
    cli.main(["hook", "remove", "dracut", "--root", str(root)], standalone_mode=False)
    assert kept.exists()
    cli.main(["hook", "remove", "initramfs-tools", "--root", str(root)], standalone_mode=False)
    assert tree_hash(root) == before


@pytest.mark.parametrize("first", ["dracut", "initramfs-tools"])
def test_two_hooks_share_the_drop_ins_and_the_last_one_takes_them_away(first: Generator, tmp_path: Path) -> None:
    root = make_root(tmp_path, grub=True, kernel_install=True)
    before = tree_hash(root)
    for generator in ("dracut", "initramfs-tools"):
        install(generator, root=root, entry="rdinit", program=PROGRAM)  # type: ignore[arg-type]
    remove(first, root=root)
    assert (root / "etc/default/grub.d/megamod.cfg").exists()
    assert (root / "etc/kernel/install.d/95-megamod.install").stat().st_mode & 0o777 == 0o755
    remove("initramfs-tools" if first == "dracut" else "dracut", root=root)
    assert tree_hash(root) == before


def test_a_file_that_was_changed_since_is_told_and_removed(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    before = tree_hash(root)
    install("dracut", root=root, entry=None, program=PROGRAM)
    changed = root / "usr/lib/dracut/modules.d/99megamod/module-setup.sh"
    changed.write_text("# mine\n")
    assert status("dracut", root=root).changed == (str(changed),)
    assert any("has changed since" in line for line in remove("dracut", root=root))
    assert tree_hash(root) == before


def test_without_a_boot_loaders_drop_in_the_hook_points_are_used(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    lines = install("dracut", root=root, entry=None, program=PROGRAM)
    assert status("dracut", root=root).entry == "hook-points"
    assert "now generate the images again: dracut --regenerate-all --force" in lines


def test_rdinit_without_a_drop_in_is_printed_for_the_user(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    lines = install("initramfs-tools", root=root, entry="rdinit", program=PROGRAM)
    assert "then add to the kernel command line: rdinit=/megamod-init" in lines


def test_grubs_drop_in_adds_to_what_the_command_line_has(tmp_path: Path) -> None:
    root = make_root(tmp_path, grub=True)
    install("dracut", root=root, entry=None, program=PROGRAM)
    script = f'GRUB_CMDLINE_LINUX="quiet"\n. {root}/etc/default/grub.d/megamod.cfg\necho "$GRUB_CMDLINE_LINUX"'
    said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert said == "quiet rdinit=/megamod-init\n"


def test_installing_twice_is_an_error_that_changes_nothing(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    install("dracut", root=root, entry=None, program=PROGRAM)
    before = tree_hash(root)
    with pytest.raises(MegamodError, match="the hook is already installed"):
        install("dracut", root=root, entry=None, program=PROGRAM)
    assert tree_hash(root) == before


def test_a_path_that_is_taken_is_an_error_that_changes_nothing(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    (root / "etc/initramfs-tools/hooks/zz-megamod").write_text("somebody's\n")
    before = tree_hash(root)
    with pytest.raises(MegamodError, match="exists and does not belong to megamod"):
        install("initramfs-tools", root=root, entry=None, program=PROGRAM)
    assert tree_hash(root) == before


def test_a_generator_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MegamodError, match=r"no such folder \(hint: is mkinitcpio installed\?\)"):
        install("mkinitcpio", root=tmp_path, entry=None, program=PROGRAM)


def test_mkinitcpio_without_drop_ins_is_not_started_by_a_missing_loader(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/initcpio").mkdir(parents=True)
    (tmp_path / "etc/default").mkdir(parents=True)
    (tmp_path / "etc/default/grub").touch()
    (tmp_path / "usr/sbin").mkdir()
    (tmp_path / "usr/sbin/grub-mkconfig").write_text(GRUB_MKCONFIG)
    lines = install("mkinitcpio", root=tmp_path, entry=None, program=PROGRAM)
    assert "first add `megamod` to the end of HOOKS=(…) in /etc/mkinitcpio.conf" in lines
    assert not (tmp_path / "etc/default/grub.d/megamod.cfg").exists()


def test_what_is_not_installed_cannot_be_removed(tmp_path: Path) -> None:
    with pytest.raises(MegamodError, match="dracut: the hook is not installed"):
        remove("dracut", root=make_root(tmp_path))


def test_a_failed_installation_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_root(tmp_path)
    before = tree_hash(root)
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if bytes(data).startswith(b'{\n "version": 1'):
            raise OSError(28, os.strerror(28))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(MegamodError, match="No space left on device"):
        install("dracut", root=root, entry=None, program=PROGRAM)
    monkeypatch.undo()
    assert tree_hash(root) == before


def test_settings_are_read_as_a_shell_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "hook.conf"
    path.write_text("# a comment\nMEGAMOD_SELECT=all # take all\nMEGAMOD_EXCLUDE='i915 amdgpu'\n\n")
    assert read_settings(path) == {"MEGAMOD_SELECT": "all", "MEGAMOD_EXCLUDE": "i915 amdgpu"}
    path.write_text("MEGAMOD_SELECT=all\nrm -rf /\n")
    with pytest.raises(MegamodError, match=r"hook\.conf:2: `rm -rf /` is not NAME=VALUE"):
        read_settings(path)


def test_every_hook_file_is_clean_for_shellcheck(tool: Callable[..., str]) -> None:
    program = tool("shellcheck", package="shellcheck")
    everything = [*sorted(HOOKS.rglob("*")), *sorted((HOOKS.parent / "deploy").rglob("*"))]
    files = [path for path in everything if path.is_file() and path.read_bytes().startswith(b"#!")]
    assert len(files) >= 17
    for path in files:
        # mkinitcpio's runtime hooks are run by busybox ash, of which shellcheck knows the standard part.
        shell = ["-s", "dash"] if b"/ash\n" in path.read_bytes() else []
        done = subprocess.run([program, *shell, str(path)], capture_output=True, text=True, check=False)
        assert done.stdout == ""


def test_the_wheel_has_every_file_of_the_hooks() -> None:
    project = tomllib.loads((HOOKS.parents[3] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["megamod.hooks.generators"]
    packed = {path for pattern in patterns for path in HOOKS.glob(pattern) if path.is_file()}
    wanted = {
        path for path in HOOKS.rglob("*") if path.is_file() and path.suffix not in (".md", ".py", ".pyc", ".typed")
    }
    assert wanted
    assert wanted <= packed


def test_the_settings_that_the_readme_names_are_those_that_are_read() -> None:
    source = (HOOKS.parents[1] / "cli/hooks.py").read_text()
    readme = (HOOKS.parent / "README.md").read_text()
    names = set(re.findall(r"MEGAMOD_[A-Z]+", source)) - {"MEGAMOD_DEBUG"}
    assert names <= set(re.findall(r"MEGAMOD_[A-Z]+", readme))


@pytest.mark.parametrize("entry", ["rdinit", "hook-points"])
@pytest.mark.parametrize("generator", GENERATORS)
def test_the_shell_script_alone_brings_every_path_back(generator: Generator, entry: str, tmp_path: Path) -> None:
    root = make_root(tmp_path, grub=True, kernel_install=True)
    before = tree_hash(root)
    install(generator, root=root, entry=entry, program=PROGRAM)  # type: ignore[arg-type]
    (root / "var/lib/megamod/maps").mkdir()
    (root / "var/lib/megamod/maps/6.1.0.map").touch()
    said = remove_by_shell(root, generator)
    assert tree_hash(root) == before
    assert ("take rdinit=/megamod-init off the kernel command line" in said) == (entry == "rdinit")


@pytest.mark.parametrize("first", ["dracut", "initramfs-tools"])
def test_the_shell_script_leaves_what_another_hook_needs(first: Generator, tmp_path: Path) -> None:
    root = make_root(tmp_path, grub=True)
    before = tree_hash(root)
    for generator in ("dracut", "initramfs-tools"):
        install(generator, root=root, entry="rdinit", program=PROGRAM)  # type: ignore[arg-type]
    remove_by_shell(root, first)
    second: Generator = "initramfs-tools" if first == "dracut" else "dracut"
    assert (root / "etc/default/grub.d/megamod.cfg").exists()
    assert status(second, root=root).changed == ()
    remove_by_shell(root, second)
    assert tree_hash(root) == before


def test_grub_without_a_folder_for_drop_ins_gets_none(tmp_path: Path) -> None:
    root = make_root(tmp_path, grub=True)
    (root / "usr/sbin/grub-mkconfig").write_text(". ${sysconfdir}/default/grub\n")
    install("dracut", root=root, entry=None, program=PROGRAM)
    assert status("dracut", root=root).entry == "hook-points"


def test_the_plugin_of_kernel_install_adds_one_word_to_the_entry(tmp_path: Path) -> None:
    root = make_root(tmp_path, kernel_install=True)
    install("dracut", root=root, entry="rdinit", program=PROGRAM)
    folder = root / "boot/efi/loader/entries"
    for name in ("token-6.1.0.conf", "token-6.1.0+3.conf", "token-5.9.conf"):
        (folder / name).write_text("title      Debian\noptions    root=/dev/vda1\nlinux      /linux\noptions quiet\n")
    (folder / "token-6.1.0+2.conf").write_text("title      Debian\nlinux      /linux\n")
    environment = {
        "PATH": "/usr/bin:/bin",
        "KERNEL_INSTALL_LAYOUT": "bls",
        "KERNEL_INSTALL_BOOT_ROOT": str(root / "boot/efi"),
        "KERNEL_INSTALL_ENTRY_TOKEN": "token",
    }
    for _time in (1, 2):
        plugin = [root / "etc/kernel/install.d/95-megamod.install", "add", "6.1.0", "/boot/efi/token/6.1.0", "/linux"]
        subprocess.run(plugin, env=environment, check=True)
    for name in ("token-6.1.0.conf", "token-6.1.0+3.conf"):
        # Of several such lines GRUB's blscfg reads the first.
        assert (folder / name).read_text().splitlines()[1] == "options    root=/dev/vda1 rdinit=/megamod-init"
        assert (folder / name).read_text().count("rdinit=/megamod-init") == 1
    assert (folder / "token-6.1.0+2.conf").read_text().splitlines()[2:] == ["options    rdinit=/megamod-init"]
    assert not list(folder.glob("*.megamod"))
    assert "rdinit" not in (folder / "token-5.9.conf").read_text()
    found = {entry.file.name: entry.has_word for entry in status("dracut", root=root).entries}
    assert found == {
        "token-5.9.conf": False,
        "token-6.1.0+2.conf": True,
        "token-6.1.0+3.conf": True,
        "token-6.1.0.conf": True,
    }


def test_the_status_reads_the_entries_of_grub(tmp_path: Path) -> None:
    root = make_root(tmp_path, grub=True)
    install("dracut", root=root, entry=None, program=PROGRAM)
    (root / "boot/grub").mkdir(parents=True)
    lines = [
        "menuentry 'Debian' {",
        "\tlinux /vmlinuz-6.1 root=/dev/vda1 rdinit=/megamod-init",
        "}",
        "linux /vmlinuz-5.9 quiet",
    ]
    (root / "boot/grub/grub.cfg").write_text("\n".join(lines))
    found = [(entry.title, entry.has_word) for entry in status("dracut", root=root).entries]
    assert found == [("/vmlinuz-6.1", True), ("/vmlinuz-5.9", False)]


def test_unified_images_take_the_word_from_a_file_that_is_the_administrators(tmp_path: Path) -> None:
    root = make_root(tmp_path, grub=True)
    (root / "etc/kernel").mkdir()
    (root / "etc/kernel/install.conf").write_text("layout = uki\n")
    asked = "add to /etc/kernel/cmdline, or they start without it: rdinit=/megamod-init"
    before = tree_hash(root)
    assert any(line.endswith(asked) for line in install("dracut", root=root, entry="rdinit", program=PROGRAM))
    remove("dracut", root=root)
    assert tree_hash(root) == before
    with pytest.raises(MegamodError, match=r"etc/kernel/cmdline: not there \(hint: without it kernel-install takes"):
        install("dracut", root=root, entry=None, program=PROGRAM, edit_cmdline=True)
    assert tree_hash(root) == before
    (root / "etc/kernel/cmdline").write_text("root=/dev/vda1 rdinit=/megamod-init\n")
    assert not any(line.endswith(asked) for line in install("dracut", root=root, entry="rdinit", program=PROGRAM))


@pytest.mark.parametrize("by_shell", [False, True])
@pytest.mark.parametrize("text", ["root=/dev/vda1 quiet\n", "root=/dev/vda1\nquiet", "a rdinit=/megamod-initial b\n"])
def test_the_command_line_is_edited_where_that_is_asked_for_and_given_back(
    text: str, by_shell: bool, tmp_path: Path
) -> None:
    root = make_root(tmp_path, grub=True)
    (root / "etc/kernel").mkdir()
    place = root / "etc/kernel/cmdline"
    place.write_text(text)
    place.chmod(0o640)
    before = tree_hash(root)
    for generator in ("dracut", "initramfs-tools"):
        install(generator, root=root, entry=None, program=PROGRAM, edit_cmdline=True)  # type: ignore[arg-type]
    assert place.read_text().split() == [*text.split(), "rdinit=/megamod-init"]
    assert place.stat().st_mode & 0o777 == 0o640
    for generator in ("dracut", "initramfs-tools"):
        assert "rdinit=/megamod-init" in place.read_text().split()
        remove_by_shell(root, generator) if by_shell else remove(generator, root=root)  # type: ignore[arg-type]
    assert tree_hash(root) == before


def test_the_command_line_stays_as_it_is_unless_that_is_asked_for(tmp_path: Path) -> None:
    root = make_root(tmp_path, grub=True)
    (root / "etc/kernel").mkdir()
    (root / "etc/kernel/cmdline").write_text("root=/dev/vda1 rdinit=/megamod-init\n")
    before = tree_hash(root)
    install("dracut", root=root, entry=None, program=PROGRAM, edit_cmdline=True)
    remove("dracut", root=root)
    assert tree_hash(root) == before
    with pytest.raises(MegamodError, match="--edit-cmdline: with --hook-points nothing needs"):
        install("dracut", root=root, entry="hook-points", program=PROGRAM, edit_cmdline=True)
    assert tree_hash(root) == before


def test_the_script_that_removes_is_found_from_its_own_folder(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    before = tree_hash(root)
    install("dracut", root=root, entry=None, program=PROGRAM)
    subprocess.run(["sh", "dracut.remove"], cwd=root / "etc/megamod/hooks", check=True, capture_output=True)
    assert tree_hash(root) == before


def test_the_status_reads_the_command_lines_of_unified_images(tmp_path: Path) -> None:
    root = make_root(tmp_path, grub=True)
    folder = root / "boot/efi/EFI/Linux"
    folder.mkdir(parents=True)
    for name, words in (("a", b"root=/dev/vda1 rdinit=/megamod-init quiet\0"), ("b", b"quiet")):
        sections = {".cmdline": words, ".osrel": b'ID=x\nPRETTY_NAME="Some Linux"\n', ".linux": b"MZ"}
        made = make_uki(efi_program(0x8664), sections, machine=0x8664, file="stub")
        (folder / f"{name}.efi").write_bytes(made)
    (folder / "c.efi").write_bytes(b"MZ")
    install("dracut", root=root, entry="rdinit", program=PROGRAM)
    found = [(entry.file.name, entry.title, entry.has_word) for entry in status("dracut", root=root).entries]
    assert found == [("a.efi", "Some Linux", True), ("b.efi", "Some Linux", False)]


def remove_by_shell(root: Path, generator: str) -> str:
    script = root / f"etc/megamod/hooks/{generator}.remove"
    done = subprocess.run(["sh", script], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout
