"""`megamod hook run` on image roots made by hand from a real kernel's modules."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from megamod.build.link_map import read_map
from megamod.common.errors import MegamodError
from megamod.common.progress import Steps
from megamod.hooks.generators.run import HookReport, HookRequest, run_hook
from megamod.modules.tree import ModuleTree, open_tree
from tests.unit.machine_records import recorded_machine

HERE = Path(__file__).parent
MODULES = ("virtio_blk", "virtio_pci", "ext4", "usb_storage")
Kernels = Callable[[str], Kernel]


@pytest.fixture(scope="session")
def tree(kernels: Kernels) -> ModuleTree:
    return open_tree(str(kernels("bookworm").modules))


@pytest.fixture
def image(tree: ModuleTree, tmp_path: Path) -> Path:
    """What a generator has made when it calls its hooks: modules, modules.builtin, an init."""
    root = tmp_path / "image"
    take(root, tree, MODULES)
    shutil.copy(tree.folder / "modules.builtin", root / "lib/modules" / tree.release)
    (root / "init").write_text("#!/bin/sh\n")
    return root


def take(root: Path, tree: ModuleTree, names: Iterable[str]) -> None:
    """The files of modules, with what they need."""
    for name in {need for first in names for need in (first, *tree.modules[first].depends)}:
        place = root / "lib/modules" / tree.release / tree.modules[name].relpath
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tree.modules[name].path, place)


def host(folder: Path) -> Path:
    """A machine with nothing on it."""
    (folder / "host").mkdir(exist_ok=True)
    return folder / "host"


def run(image: Path, tree: ModuleTree, *, everything: bool = True, **changes: object) -> HookReport:
    request = HookRequest(
        generator="dracut",
        image_root=image,
        kernel=tree.release,
        modules=tree.folder,
        everything=everything,
        host=host(image.parent),
        **changes,  # type: ignore[arg-type]
    )
    with (image.parent / "steps").open("w") as stream:
        return run_hook(request, steps=Steps(stream))


def hashes(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def plan_lines(image: Path) -> list[str]:
    return (image / "megamod/plan").read_text().splitlines()


def test_members_go_and_are_taken_for_built_in(image: Path, tree: ModuleTree, tool: Callable[..., str]) -> None:
    report = run(image, tree)
    assert {"virtio_blk", "ext4", "jbd2", "usb_storage", "scsi_mod"} <= set(report.members)
    folder = image / "lib/modules" / tree.release
    assert list(folder.rglob("*.ko*")) == []
    subprocess.run([tool("depmod", package="kmod"), "-b", image, tree.release], check=True)
    modprobe = [tool("modprobe", package="kmod"), "-d", image, "-S", tree.release, "-n", "-v"]
    done = subprocess.run([*modprobe, "ext4"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_plan_goes_on_with_the_generators_init_and_keeps_the_originals(image: Path, tree: ModuleTree) -> None:
    before = {path.name.split(".ko")[0].replace("-", "_") for path in image.rglob("*.ko*")}
    report = run(image, tree)
    lines = plan_lines(image)
    assert "root chain /init" in lines
    assert "fallback modules" in lines
    originals = {path.stem for path in (image / "megamod/originals").iterdir()}
    # ext4 has a softdep on crc32c, which this image's maker has forgotten.
    assert originals == set(report.members) == before | {"crc32c_generic", "crc32c_intel"}
    assert report.fallback_bytes == sum(path.stat().st_size for path in (image / "megamod/originals").iterdir())
    assert "kept for megamod=off" in report.summary()


def test_without_the_fallback_nothing_is_kept(image: Path, tree: ModuleTree) -> None:
    report = run(image, tree, fallback="none")
    assert "fallback none" in plan_lines(image)
    assert not (image / "megamod/originals").exists()
    assert report.fallback_bytes == 0


def test_megamodules_are_not_executable_and_the_loader_is(image: Path, tree: ModuleTree) -> None:
    run(image, tree)
    assert (image / "megamod/megamod_critical.ko").stat().st_mode & 0o777 == 0o644
    assert (image / "megamod-init").stat().st_mode & 0o777 == 0o755


def test_options_of_the_image_and_of_the_machine_become_arguments(image: Path, tree: ModuleTree) -> None:
    (image / "etc/modprobe.d").mkdir(parents=True)
    (image / "etc/modprobe.d/a.conf").write_text("options usb_storage delay_use=3\n")
    (host(image.parent) / "etc/modprobe.d").mkdir(parents=True)
    (host(image.parent) / "etc/modprobe.d/b.conf").write_text("options virtio_blk num_request_queues=2 nothing=1\n")
    report = run(image, tree)
    lines = plan_lines(image)
    assert {"argument usb_storage.delay_use=3", "argument virtio_blk.num_request_queues=2"} <= set(lines)
    assert any("virtio_blk has no parameter nothing" in note for note in report.notes)


def test_mistakes_in_modprobe_d_are_notes_and_unmerge_nothing(image: Path, tree: ModuleTree) -> None:
    (image / "etc/modprobe.d").mkdir(parents=True)
    lines = "\ufeffoptions usb_storage delay_use=3\njunk\noptions usb_storage delay_use=abc # why\n"
    (image / "etc/modprobe.d/a.conf").write_text(lines)
    report = run(image, tree)
    assert {"usb_storage", "virtio_blk", "ext4"} <= set(report.members)
    assert not any(line.startswith("argument ") for line in plan_lines(image))
    assert any(line.startswith("parameters ") and " delay_use=uint" in line for line in plan_lines(image))
    [passed, refused, unknown] = [note for note in report.notes if "a.conf:" in note]
    assert "a.conf:1 `" in passed and "a.conf:2 `junk`" in passed
    assert "a.conf:3: usb_storage.delay_use does not take `abc`" in refused
    assert "a.conf:3: usb_storage has no parameter #; " in unknown


def test_a_module_with_an_install_command_stays_a_file_with_what_needs_it(image: Path, tree: ModuleTree) -> None:
    (image / "etc/modprobe.d").mkdir(parents=True)
    (image / "etc/modprobe.d/a.conf").write_text("install scsi_mod /sbin/modprobe --ignore-install scsi_mod\n")
    report = run(image, tree)
    assert {"scsi_mod", "usb_storage"} & set(report.members) == set()
    left = {path.name.split(".ko")[0] for path in (image / "lib/modules").rglob("*.ko*")}
    assert {"scsi_mod", "usb-storage"} <= left


def test_excluded_modules_stay_files(image: Path, tree: ModuleTree) -> None:
    report = run(image, tree, exclude=("usb-stor*",))
    assert "usb_storage" not in report.members
    assert [path.name.split(".ko")[0] for path in (image / "lib/modules").rglob("usb-storage*")] == ["usb-storage"]


def test_roots_drivers_are_always_merged_a_keyboards_if_in_the_image(image: Path, tree: ModuleTree) -> None:
    folder = image.parent / "laptop"
    recorded_machine("laptop", folder)
    keyboard = {"xhci_pci", "usbhid", "hid_generic"}
    with_keyboard = shutil.copytree(image, image.parent / "with" / "image")
    take(with_keyboard, tree, keyboard)
    members = set(run(image, tree, everything=False, machine=folder).members)
    assert {"ext4", "nvme", "dm_crypt"} <= members
    assert not members & {*keyboard, "virtio_blk"}
    assert set(run(with_keyboard, tree, everything=False, machine=folder).members) == members | {
        *keyboard, "usbcore", "usb_common", "hid", "xhci_hcd"
    }  # fmt: skip


def test_held_places_are_empty_folders_where_depmod_finds_no_module(
    image: Path, tree: ModuleTree, tool: Callable[..., str]
) -> None:
    (image / "lib/modules" / tree.release / "modules.order").write_text("")
    report = run(image, tree, hold_places=True)
    places = [image / "lib/modules" / tree.release / tree.modules[name].relpath for name in report.members]
    assert [list(place.iterdir()) for place in places] == [[] for _member in report.members]
    done = subprocess.run(
        [tool("depmod", package="kmod"), "-a", "-b", str(image), tree.release],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line for line in done.stderr.splitlines() if "modules.builtin.modinfo" not in line] == []
    assert (image / "lib/modules" / tree.release / "modules.dep").read_text() == ""


@pytest.mark.parametrize("break_it", ["damaged", "full", "nothing", "other-kernel"])
def test_whatever_fails_leaves_the_image_as_it_was(
    break_it: str, image: Path, tree: ModuleTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if break_it == "damaged":
        # The machine's file is what is linked.
        copy = tmp_path / "copy" / tree.release
        shutil.copytree(tree.folder, copy)
        path = copy / tree.modules["ext4"].relpath
        path.write_bytes(path.read_bytes()[:5000])
        tree = open_tree(str(copy))
    if break_it == "nothing":
        shutil.rmtree(image / "lib/modules" / tree.release)
        (image / "lib/modules" / tree.release).mkdir()
    before = hashes(image)
    if break_it == "full":
        write, written = os.write, 0

        def full(descriptor: int, data: bytes) -> int:
            nonlocal written
            written += len(data)
            if written > 1 << 20:
                raise OSError(28, "No space left on device")
            return write(descriptor, data)

        monkeypatch.setattr(os, "write", full)
    with pytest.raises(MegamodError):
        if break_it == "other-kernel":
            request = HookRequest(generator="dracut", image_root=image, kernel="1.2.3", modules=tree.folder)
            run_hook(request, steps=Steps(sys.stderr, quiet=True))
        run(image, tree)
    assert hashes(image) == before
    assert not list(image.glob(".megamod*"))


def test_a_second_run_changes_nothing(image: Path, tree: ModuleTree) -> None:
    first = run(image, tree)
    before = hashes(image)
    second = run(image, tree)
    assert hashes(image) == before
    assert (second.members, second.fallback_bytes) == (first.members, first.fallback_bytes)
    assert second.notes == ("the image already has its megamodule: nothing was changed",)


def test_an_image_with_the_megamodule_of_another_kernel_is_refused(image: Path, tree: ModuleTree) -> None:
    run(image, tree)
    manifest = image / "megamod/manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"kernel": "{tree.release}"', '"kernel": "5.0"'))
    with pytest.raises(MegamodError, match=r"the image has a megamodule for 5\.0, not "):
        run(image, tree)


def test_a_link_to_an_absolute_path_leads_nowhere_outside_the_image(image: Path, tree: ModuleTree) -> None:
    outside = image.parent / "outside"
    take(outside, tree, MODULES)
    shutil.copy(tree.folder / "modules.builtin", outside / "lib/modules" / tree.release)
    (image / "usr").mkdir()
    (image / "lib").rename(image / "usr/lib")
    # On the host this is where the machine's own modules are.
    (image / "lib").symlink_to(outside / "lib")
    place = image / str(outside / "lib").lstrip("/")
    place.parent.mkdir(parents=True)
    place.symlink_to("/usr/lib")
    before = hashes(outside)
    report = run(image, tree)
    assert hashes(outside) == before
    assert "ext4" in report.members
    assert list((image / "usr/lib/modules").rglob("*.ko*")) == []


def test_links_that_lead_out_of_the_image_are_not_followed(image: Path, tree: ModuleTree) -> None:
    outside = image.parent / "outside"
    outside.mkdir()
    (image / "lib/modules").rename(outside / "modules")
    (image / "lib/modules").symlink_to(outside / "modules")
    before = hashes(outside)
    with pytest.raises(MegamodError, match="no lib/modules/"):
        run(image, tree)
    (image / "lib/modules").unlink()
    (image / "lib/modules").symlink_to("../../../../" + str(outside / "modules"))
    with pytest.raises(MegamodError, match="no lib/modules/"):
        run(image, tree)
    assert hashes(outside) == before


def booted_with(folder: Path, *members: str) -> None:
    """A machine that a megamodule of *members* was booted on."""
    (host(folder) / "sys/devices/platform").mkdir(parents=True)
    (host(folder) / "run/modprobe.d").mkdir(parents=True)
    lines = [f"blacklist {name}\ninstall {name} /bin/true\n" for name in members]
    (host(folder) / "run/modprobe.d/megamod.conf").write_text("".join(lines))


def test_members_that_the_mask_hid_from_the_generator_are_members_again(image: Path, tree: ModuleTree) -> None:
    first = run(shutil.copytree(image, image.parent / "first" / "image"), tree)
    booted_with(image.parent, *first.members)
    hidden = {"ext4", "jbd2", "virtio_blk"}
    for path in list(image.rglob("*.ko*")):
        if path.name.split(".ko")[0] in hidden:
            path.unlink()
    second = run(image, tree)
    assert set(second.members) == set(first.members)


def test_what_the_mask_hid_comes_back_as_a_file_where_it_is_not_merged(image: Path, tree: ModuleTree) -> None:
    booted_with(image.parent, "ext4")
    for path in list(image.rglob("scsi_mod.ko*")):
        path.unlink()
    report = run(image, tree, exclude=("scsi_mod",))
    assert report.added == ("scsi_mod",)
    assert [path.name for path in image.rglob("scsi_mod.ko")] == ["scsi_mod.ko"]
    assert "1 module added that the mask had hidden from the generator" in report.summary()


def test_a_locked_kernel_without_a_trusted_key_leaves_the_image_as_it_is(image: Path, tree: ModuleTree) -> None:
    lock = host(image.parent) / "sys/kernel/security/lockdown"
    lock.parent.mkdir(parents=True)
    lock.write_text("none [integrity] confidentiality\n")
    before = hashes(image)
    with pytest.raises(MegamodError, match=r"locked down .*mokutil --import"):
        run(image, tree)
    assert hashes(image) == before


def command(image: Path, tree: ModuleTree, *options: str) -> subprocess.CompletedProcess[str]:
    words = ["hook", "run", "initramfs-tools", "--image-root", image, "--kernel", tree.release]
    program = [sys.executable, "-c", "import sys; from megamod.cli.main import main; sys.exit(main())"]
    return subprocess.run(
        [*program, *words, "--modules-dir", tree.folder, *options], capture_output=True, text=True, check=False
    )


def test_a_failure_is_one_line_of_warning_and_with_strict_an_error(image: Path, tree: ModuleTree) -> None:
    shutil.rmtree(image / "lib/modules" / tree.release)
    done = command(image, tree, "--select", "all")
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("megamod: warning: the image is as initramfs-tools made it: ")
    assert command(image, tree, "--select", "all", "--strict").returncode == 1
    assert not (image / "megamod").exists()


def test_symbolize_finds_the_map_of_an_image_on_the_machine(image: Path, tree: ModuleTree) -> None:
    report = run(image, tree)
    kept = read_map(host(image.parent) / f"var/lib/megamod/maps/{tree.release}.map")
    assert kept.kernel == tree.release
    members = [member.name for megamap in kept.megamodules.values() for member in megamap.members]
    assert sorted(members) == sorted(report.members)


def test_two_runs_make_the_same_files(image: Path, tree: ModuleTree, tmp_path: Path) -> None:
    second = tmp_path / "second" / "image"
    shutil.copytree(image, second)
    run(image, tree)
    run(second, tree)
    assert hashes(image) == hashes(second)
