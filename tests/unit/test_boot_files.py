from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.common.errors import MegamodError
from megamod.hooks.installer.boot_files import BootFiles, OwnImage, boot_files, forgotten_files
from megamod.hooks.installer.boot_layout import find_layout, newest_kernel
from megamod.hooks.installer.grubenv import read_grubenv, with_variables
from megamod.hooks.transaction import Changes, apply_changes
from tests.unit.boot_systems import KERNEL, TOKEN, grub_system, put, systemd_boot_system

FIRST = OwnImage(kernel=KERNEL, data=b"the first image")
SECOND = OwnImage(kernel=KERNEL, data=b"the second image")
STEM = f"boot/efi/loader/entries/{TOKEN}-{KERNEL}.megamod"


def apply(root: Path, files: BootFiles) -> None:
    gone = [root / name for name in files.remove if name not in files.write]
    apply_changes(root, Changes(write=files.write, remove=gone))


def put_image(root: Path, image: OwnImage) -> BootFiles:
    files = boot_files(root, find_layout(root), image)
    apply(root, files)
    return files


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_grubs_menu_gets_the_new_image_and_one_try_of_it(tmp_path: Path) -> None:
    root = grub_system(tmp_path)
    put_image(root, FIRST)
    assert (root / f"boot/megamod/{KERNEL}-{FIRST.digest}.img").read_bytes() == FIRST.data
    assert (root / "boot/megamod/entries").read_text() == f"{KERNEL} {FIRST.digest}\n"
    assert read_grubenv(root / "boot/grub/grubenv") == {"megamod_try": f"megamod-{KERNEL}-{FIRST.digest}"}


def test_an_image_that_has_started_the_machine_stays_behind_the_next(tmp_path: Path) -> None:
    root = grub_system(tmp_path)
    put_image(root, FIRST)
    good = f"megamod-{KERNEL}-{FIRST.digest}"
    (root / "boot/grub/grubenv").write_bytes(with_variables(root / "boot/grub/grubenv", {"megamod_good": good}))
    put_image(root, SECOND)
    assert (root / "boot/megamod/entries").read_text() == f"{KERNEL} {SECOND.digest}\n{KERNEL} {FIRST.digest}\n"
    assert (root / f"boot/megamod/{KERNEL}-{FIRST.digest}.img").exists()
    env = read_grubenv(root / "boot/grub/grubenv")
    assert env == {"megamod_try": f"megamod-{KERNEL}-{SECOND.digest}", "megamod_good": good}


def test_an_image_that_has_never_started_anything_goes_with_the_next(tmp_path: Path) -> None:
    root = grub_system(tmp_path)
    put_image(root, FIRST)
    put_image(root, SECOND)
    assert names_in(root / "boot/megamod") == {f"{KERNEL}-{SECOND.digest}.img", "entries"}


def test_an_image_that_is_the_good_one_already_is_not_on_trial_again(tmp_path: Path) -> None:
    root = grub_system(tmp_path)
    env = root / "boot/grub/grubenv"
    env.write_bytes(with_variables(env, {"megamod_good": f"megamod-{KERNEL}-{FIRST.digest}"}))
    put_image(root, FIRST)
    assert "megamod_try" not in read_grubenv(env)


def test_where_grub_cannot_write_nothing_is_tried(tmp_path: Path) -> None:
    mounts = "20 1 0:30 / / rw - btrfs /dev/sda2 rw\n"
    root = put(grub_system(tmp_path), {"proc/self/mountinfo": mounts})
    layout = find_layout(root)
    assert not layout.counts
    assert "btrfs" in layout.why_not
    put_image(root, FIRST)
    assert not (root / "boot/grub/grubenv").exists()


def test_forgetting_a_kernel_gives_grub_its_default_back(tmp_path: Path) -> None:
    root = grub_system(tmp_path)
    put_image(root, FIRST)
    apply(root, forgotten_files(root, find_layout(root), KERNEL))
    assert read_grubenv(root / "boot/grub/grubenv") == {}
    assert not (root / "boot/megamod/entries").exists()


def test_grub_editenv_reads_what_we_write_and_we_what_it_writes(tmp_path: Path, tool: Callable[..., str]) -> None:
    editenv = tool("grub-editenv", package="grub-common")
    env = tmp_path / "grubenv"
    odd = "a\\b 'c' \"d\" #=$"
    env.write_bytes(with_variables(env, {"saved_entry": odd, "megamod_try": "x"}))
    assert env.stat().st_size == 1024
    listed = subprocess.run([editenv, env, "list"], check=True, capture_output=True, text=True).stdout
    assert listed == f"saved_entry={odd}\nmegamod_try=x\n"
    subprocess.run([editenv, env, "set", "other=1\\2"], check=True)
    assert read_grubenv(env) == {"saved_entry": odd, "megamod_try": "x", "other": "1\\2"}
    env.write_bytes(with_variables(env, {"megamod_try": ""}))
    listed = subprocess.run([editenv, env, "list"], check=True, capture_output=True, text=True).stdout
    assert listed == f"saved_entry={odd}\nother=1\\2\n"


def test_a_grubenv_that_is_not_grubs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "grubenv").write_text("saved_entry=0\n")
    with pytest.raises(MegamodError, match="is not a GRUB environment block"):
        read_grubenv(tmp_path / "grubenv")


def test_a_boot_entry_is_the_generators_with_our_image(tmp_path: Path) -> None:
    root = systemd_boot_system(tmp_path)
    put_image(root, FIRST)
    assert (root / f"{STEM}+3.conf").read_text() == (
        f"title      Debian GNU/Linux 12 (bookworm) (megamod)\n"
        f"version    {KERNEL}\n"
        f"machine-id {TOKEN}\n"
        f"sort-key   debian\n"
        f"options    root=UUID=1234 ro quiet systemd.machine_id={TOKEN} panic=10\n"
        f"linux      /{TOKEN}/{KERNEL}/linux\n"
        f"initrd     /{TOKEN}/{KERNEL}/intel-ucode.img\n"
        f"initrd     /{TOKEN}/{KERNEL}/megamod-{FIRST.digest}.img\n"
    )
    assert (root / f"boot/efi/{TOKEN}/{KERNEL}/megamod-{FIRST.digest}.img").read_bytes() == FIRST.data
    assert (root / f"boot/efi/loader/entries/{TOKEN}-{KERNEL}.conf").exists()


def test_an_entry_with_tries_left_keeps_them_when_nothing_is_new(tmp_path: Path) -> None:
    root = systemd_boot_system(tmp_path)
    put_image(root, FIRST)
    (root / f"{STEM}+3.conf").rename(root / f"{STEM}+1-2.conf")
    put_image(root, FIRST)
    assert [path.name for path in sorted((root / "boot/efi/loader/entries").iterdir())] == [
        f"{TOKEN}-{KERNEL}.conf",
        f"{TOKEN}-{KERNEL}.megamod+1-2.conf",
    ]


def test_an_entry_that_was_blessed_stays_behind_the_next(tmp_path: Path) -> None:
    root = systemd_boot_system(tmp_path)
    put_image(root, FIRST)
    (root / f"{STEM}+3.conf").rename(root / f"{STEM}.conf")
    put_image(root, SECOND)
    old = (root / f"{STEM}-old.conf").read_text()
    assert "(megamod, previous image)\n" in old
    assert f"megamod-{FIRST.digest}.img" in old
    assert not (root / f"{STEM}.conf").exists()
    assert (root / f"boot/efi/{TOKEN}/{KERNEL}/megamod-{FIRST.digest}.img").exists()
    # A third one, while the second is still on trial: the one that has worked stays.
    put_image(root, OwnImage(kernel=KERNEL, data=b"the third image"))
    assert f"megamod-{FIRST.digest}.img" in (root / f"{STEM}-old.conf").read_text()
    assert (root / f"boot/efi/{TOKEN}/{KERNEL}/megamod-{FIRST.digest}.img").exists()
    assert not (root / f"boot/efi/{TOKEN}/{KERNEL}/megamod-{SECOND.digest}.img").exists()


def test_forgetting_a_kernel_takes_entries_and_images(tmp_path: Path) -> None:
    root = systemd_boot_system(tmp_path)
    put_image(root, FIRST)
    (root / f"{STEM}+3.conf").rename(root / f"{STEM}.conf")
    put_image(root, SECOND)
    apply(root, forgotten_files(root, find_layout(root), KERNEL))
    assert names_in(root / "boot/efi/loader/entries") == {f"{TOKEN}-{KERNEL}.conf"}
    assert names_in(root / f"boot/efi/{TOKEN}/{KERNEL}") == {"linux", f"initrd.img-{KERNEL}"}


def test_without_the_generators_entry_there_is_nothing_to_build_on(tmp_path: Path) -> None:
    root = systemd_boot_system(tmp_path)
    (root / f"boot/efi/loader/entries/{TOKEN}-{KERNEL}.conf").unlink()
    with pytest.raises(MegamodError, match=f"no boot entry of {KERNEL} .hint: kernel-install add"):
        boot_files(root, find_layout(root), FIRST)


def test_the_boot_loader_that_has_started_the_machine_counts(tmp_path: Path) -> None:
    root = grub_system(systemd_boot_system(tmp_path))
    assert find_layout(root).kind == "grub"
    name = "sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
    put(root, {name: b"\6\0\0\0" + "systemd-boot 252".encode("utf-16-le")})
    assert find_layout(root).kind == "bls"
    put(root, {"etc/kernel/install.conf": "# comment\nlayout=uki\n"})
    assert find_layout(root).kind == "uki"
    assert find_layout(root, "grub").folder == "boot/grub"


def test_without_a_boot_loader_the_error_names_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(MegamodError, match=r"neither grub\.cfg nor systemd-boot"):
        find_layout(tmp_path)


def test_the_newest_kernel_is_by_its_numbers(tmp_path: Path) -> None:
    for release in ("6.1.0-9-amd64", "6.1.0-10-amd64", "6.1.0-10-amd64-dbg", "6.12.0-rc3-amd64"):
        put(tmp_path, {f"lib/modules/{release}/modules.dep": ""})
        if "dbg" not in release:
            put(tmp_path, {f"boot/vmlinuz-{release}": ""})
    assert newest_kernel(tmp_path) == "6.12.0-rc3-amd64"
    put(tmp_path, {"lib/modules/6.12.0-amd64/modules.dep": "", "boot/vmlinuz-6.12.0-amd64": ""})
    assert newest_kernel(tmp_path) == "6.12.0-amd64"
