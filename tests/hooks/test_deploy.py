"""`megamod deploy` below a folder that stands for a system: what is linked and written, and that all of it goes."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from megamod.hooks.install_record import InstallRecord
from megamod.image.archive import write_image
from megamod.image.cpio import Entry
from megamod.modules.tree import ModuleTree, open_tree

Kernels = Callable[[str], Kernel]
_PROFILE = """\
name: test
critical: {modules: [ext4]}
deferred:
  - {name: sound, modules: [snd_hda_intel], after: userspace}
  - {name: late, modules: [dummy, vfat], after: {delay: 20s}}
"""


@pytest.fixture(scope="session")
def tree(kernels: Kernels) -> ModuleTree:
    return open_tree(str(kernels("bookworm").modules))


@pytest.fixture
def root(tree: ModuleTree, kernels: Kernels, tmp_path: Path) -> Path:
    """A system with a kernel, an initramfs that has soundcore, and somebody's own file where a piece's folder is."""
    root = tmp_path / "root"
    (root / "usr/lib/modules").mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    (root / "usr/lib/modules" / tree.release).symlink_to(tree.folder)
    (root / "boot").mkdir()
    shutil.copy(kernels("bookworm").vmlinuz, root / f"boot/vmlinuz-{tree.release}")
    entry = Entry(path=f"usr/lib/modules/{tree.release}/kernel/sound/soundcore.ko", mode=stat.S_IFREG | 0o644)
    write_image(root / f"boot/initrd.img-{tree.release}", [entry], method="none")
    (root / "etc/kernel/postinst.d").mkdir(parents=True)
    (root / "etc/kernel/postinst.d/mine").write_text("#!/bin/sh\n")
    (root / "etc/megamod").mkdir()
    (root / "etc/megamod/test.yaml").write_text(_PROFILE)
    return root


def megamod(root: Path, *arguments: str, cwd: Path = Path("/")) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "megamod", "deploy", "--root", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def deploy(root: Path, tree: ModuleTree, *more: str) -> Path:
    """Deploy the test's profile; the folder of the deployment."""
    done = megamod(root, "-k", tree.release, "-p", str(root / "etc/megamod/test.yaml"), *more)
    assert done.returncode == 0, done.stderr
    return root / "usr/lib/megamod" / tree.release


def everything(root: Path) -> dict[str, str]:
    """Each path below *root* with its kind, permissions and content."""
    found = {}
    for path in sorted(root.rglob("*")):
        content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else ""
        found[str(path.relative_to(root))] = f"{path.lstat().st_mode:o} {content!r}"
    return found


def test_removing_a_deployment_leaves_every_path_as_it_was(root: Path, tree: ModuleTree) -> None:
    before = everything(root)
    deploy(root, tree)
    assert everything(root).keys() > before.keys()
    assert megamod(root, "--remove").returncode == 0
    assert everything(root) == before


def test_what_the_initramfs_has_is_not_deployed_but_asked_for_first(root: Path, tree: ModuleTree) -> None:
    folder = deploy(root, tree)
    members = (folder / "members").read_text().split()
    assert {"snd", "snd_pcm", "snd_hda_intel", "dummy", "vfat", "fat"} <= set(members)
    assert not {"ext4", "soundcore"} & set(members)
    assert (folder / "needed").read_text().split() == ["soundcore"]


def test_udev_loads_no_late_members_unless_something_asks_by_alias(root: Path, tree: ModuleTree) -> None:
    lines = (deploy(root, tree) / "mask").read_text().splitlines()
    assert "blacklist dummy" in lines
    # mount asks for fs-vfat.
    assert "blacklist vfat" not in lines
    assert not [line for line in lines if line.startswith("blacklist snd")]
    assert "install vfat /usr/lib/megamod/request late vfat" in lines


def test_the_plan_names_files_where_the_keeper_removes_nothing(root: Path, tree: ModuleTree) -> None:
    folder = deploy(root, tree)
    lines = (folder / "plan").read_text().splitlines()
    named = [line.split()[1] for line in lines if line.startswith(("merged ", "single "))]
    # Not by the link: what an update has put there by then was not planned for.
    assert folder.is_symlink()
    assert named == [f"/usr/lib/megamod/{folder.readlink()}/megamod_{stage}.ko" for stage in ("sound", "late")]
    assert all((root / name[1:]).is_file() for name in named)
    # A keeper for what the kernel has loaded already would be none: critical has no load.
    assert lines[lines.index("stage critical now - 0") + 1].startswith("stage sound")


def test_another_deployment_of_a_kernel_takes_the_place_of_the_first(root: Path, tree: ModuleTree) -> None:
    folder = deploy(root, tree)
    profile = root / "etc/megamod/test.yaml"
    profile.write_text(_PROFILE.replace("  - {name: sound, modules: [snd_hda_intel], after: userspace}\n", ""))
    done = megamod(root, "--update", "-k", tree.release)
    assert done.returncode == 0, done.stderr
    assert not (folder / "megamod_sound.ko").exists()
    assert (folder / "megamod_late.ko").exists()


def test_an_update_finds_the_profile_that_was_named_from_another_folder(root: Path, tree: ModuleTree) -> None:
    done = megamod(root, "-k", tree.release, "-p", "test.yaml", cwd=root / "etc/megamod")
    assert done.returncode == 0, done.stderr
    done = megamod(root, "--update", "-k", tree.release)
    assert (done.returncode, "warning" in done.stderr) == (0, False), done.stderr
    assert (root / "usr/lib/megamod" / tree.release / "megamod_sound.ko").exists()


def test_each_kernel_keeps_its_settings_and_a_new_one_takes_the_latest() -> None:
    record = InstallRecord(settings={"5.1": {"profile": "/a.yaml"}, "6.1": {"profile": "/b.yaml"}})
    assert record.settings_of("5.1") == {"profile": "/a.yaml"}
    assert record.settings_of("7.1") == {"profile": "/b.yaml"}
    assert InstallRecord().settings_of("7.1") == {}


def test_an_update_that_fails_takes_the_deployment_away(root: Path, tree: ModuleTree) -> None:
    folder = deploy(root, tree)
    (root / "etc/megamod/test.yaml").unlink()
    done = megamod(root, "--update", "-k", tree.release)
    assert done.returncode == 0
    assert "boots without deployed modules" in done.stderr
    assert not folder.exists()
    assert not (root / "etc/systemd/system/megamod-deploy.service").exists()


def test_a_file_of_somebody_else_is_not_written_over(root: Path, tree: ModuleTree) -> None:
    (root / "etc/kernel/postinst.d/zzz-megamod").write_text("mine\n")
    before = everything(root)
    done = megamod(root, "-k", tree.release, "-p", str(root / "etc/megamod/test.yaml"))
    assert done.returncode == 1
    assert "exists and does not belong to megamod" in done.stderr
    assert everything(root) == before


def test_the_status_names_a_file_that_was_changed(root: Path, tree: ModuleTree) -> None:
    folder = deploy(root, tree)
    (folder / "mask").write_text("")
    lines = megamod(root, "--status").stdout.splitlines()
    assert lines == [
        f"{tree.release}: deployed, {root}/etc/megamod/test.yaml",
        f"  {folder.resolve()}/mask has changed since it was written",
    ]


def test_without_a_trusted_key_nothing_is_deployed_on_a_locked_kernel(root: Path, tree: ModuleTree) -> None:
    (root / "sys/module/module/parameters").mkdir(parents=True)
    (root / "sys/module/module/parameters/sig_enforce").write_text("Y\n")
    before = everything(root)
    done = megamod(root, "-k", tree.release, "-p", str(root / "etc/megamod/test.yaml"))
    assert done.returncode == 1
    assert "module.sig_enforce is set" in done.stderr
    assert "mokutil --import" in done.stderr
    assert everything(root) == before


def test_a_module_with_an_install_command_is_not_deployed(root: Path, tree: ModuleTree) -> None:
    (root / "etc/modprobe.d").mkdir()
    (root / "etc/modprobe.d/own.conf").write_text("install snd_pcm /bin/true\noptions dummy numdummies=3\n")
    folder = deploy(root, tree, "-v")
    members = (folder / "members").read_text().split()
    assert "snd_pcm" not in members
    assert "snd_hda_intel" not in members
    assert "argument dummy.numdummies=3" in (folder / "plan").read_text().splitlines()


def test_the_shell_alone_takes_all_deployments_away(root: Path, tree: ModuleTree) -> None:
    before = everything(root)
    deploy(root, tree)
    script = root / "usr/lib/megamod/remove"
    done = subprocess.run(["sh", script], env=_SHELL, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert everything(root) == before


def test_a_module_that_was_exchanged_is_not_loaded_in_its_old_form_and_the_status_names_it(
    root: Path, tree: ModuleTree
) -> None:
    modules = root / "usr/lib/modules" / tree.release
    modules.unlink()
    shutil.copytree(tree.folder, modules)
    folder = deploy(root, tree)
    path = modules / tree.modules["dummy"].relpath
    # What the script that runs at boot asks; modules.dep is what it was.
    check = "cd $1 && xargs stat -c '%s %Y %n' <$2/files | cmp -s - $2/stamps"
    assert check.split(" <")[0].partition("xargs ")[2] in (root / "usr/lib/megamod/start").read_text()
    command = ["sh", "-c", check, "sh", modules, folder]
    assert subprocess.run(command, check=False).returncode == 0
    data = path.read_bytes()
    path.write_bytes(data.replace(b"alias=rtnl-link-dummy", b"alias=rtnl-link-dummz"))
    assert subprocess.run(command, check=False).returncode == 1
    assert f"  the module dummy has changed since: megamod deploy --update -k {tree.release}" in (
        megamod(root, "--status").stdout.splitlines()
    )


@pytest.mark.parametrize("fault", ["missing", "fails", "hangs", "killed"])
def test_an_update_that_cannot_be_made_withdraws_the_deployment(fault: str, root: Path, tree: ModuleTree) -> None:
    folder = deploy(root, tree)
    program = root / "program"
    script = {"fails": "echo megamod: no >&2; exit 1", "hangs": "sleep 600", "killed": "kill -KILL $$"}
    if fault != "missing":
        program.write_text(f"#!/bin/sh\n{script[fault]}\n")
        program.chmod(0o755)
    (root / "etc/megamod/deploy.conf").write_text(f"MEGAMOD={program}\n")
    (root / "etc/megamod/deploy.trust").write_text("")
    (root / "etc/megamod/hook.conf").write_text("MEGAMOD_TIMEOUT=1\n")
    update = [root / "usr/lib/megamod/update", tree.release]
    done = subprocess.run(update, env=_SHELL, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    [line] = done.stderr.splitlines()
    assert line.startswith(f"megamod: warning: {tree.release} boots without deployed modules: ")
    assert not (folder / "plan").exists()
    # The next command finds its way.
    assert megamod(root, "--remove").returncode == 0
    assert not (root / "usr/lib/megamod").exists()


_SHELL = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
