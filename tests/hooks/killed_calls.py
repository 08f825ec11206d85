"""Ends a command at each of its system calls that change something, and has the next command settle what is left:
``python -m tests.hooks.killed_calls WORK KERNEL FOLDER [--every N]``, with kill_calls.c preloaded.

WORK is one of ``works()``: ``install``, ``remove``, ``run``, ``deploy``, ``update``, ``take-away``, ``image``,
``image-away``. KERNEL is a lib/modules/KVER folder with its kernel image, some of whose modules are the system's;
FOLDER is new. Prints how many calls there were, and how many left the old and how many the new state.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import signal
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from megamod.cli import hooks as cli_hooks
from megamod.cli.main import cli
from megamod.common.errors import MegamodError
from megamod.common.host import find_program
from megamod.common.progress import Steps
from megamod.hooks.generators.run import HookRequest, run_hook
from megamod.hooks.transaction import IMAGE_JOURNAL
from megamod.image.archive import write_image
from megamod.image.cpio import Entry
from megamod.modules.tree import ModuleTree, open_tree
from tests.unit.boot_systems import ENTRY, KERNEL, OS_RELEASE, TOKEN, put

GUARD = Path(__file__).resolve().parents[2] / "initramfs/megamod/hooks/generators/guard"
PROFILE = """\
name: test
critical: {modules: [ext4]}
deferred: [{name: late, modules: [dummy, vfat], after: {delay: 20s}}]
"""
# What the profile names, what the image has, and all that these need.
_MODULES = ("ext4", "dummy", "vfat", "virtio_blk", "soundcore")
_MADE_ANYWHERE = (".cache",)


Act = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """*before* makes the first state; *act* is ended, and done again, which must leave the state of a whole run. With
    *settled* it is the guard that comes next, and the first state is as good."""

    before: Act | None
    act: Act
    settled: bool = False


def works(root: Path, kernel: Path) -> dict[str, Work]:
    """The pieces of work, on the system below *root*."""
    release = kernel.name
    here = ("--root", str(root))
    deploy = _command("deploy", *here, "-k", release, "-p", str(root / "etc/megamod/test.yaml"))
    install = _command("hook", "install", "initramfs-tools", *here)
    image = _command("install", *here, "-k", release, "-p", str(root / "etc/megamod/test.yaml"), "--quiet")
    return {
        "install": Work(before=None, act=install),
        "remove": Work(before=install, act=_command("hook", "remove", "initramfs-tools", *here)),
        "run": Work(before=None, act=lambda: _hook_run(root, kernel), settled=True),
        "deploy": Work(before=None, act=deploy),
        "update": Work(
            before=lambda: (deploy(), (root / "etc/megamod/test.yaml").write_text(PROFILE.replace(", vfat", ""))),
            act=_command("deploy", *here, "--update", "-k", release),
        ),
        "take-away": Work(before=deploy, act=_command("deploy", *here, "--remove")),
        "image": Work(before=None, act=image),
        "image-away": Work(before=image, act=_command("install", *here, "--remove")),
    }


def _command(*words: str) -> Act:
    return lambda: cli.main(list(words), prog_name="megamod", standalone_mode=False)


def _hook_run(root: Path, kernel: Path) -> None:
    request = HookRequest(
        generator="initramfs-tools",
        image_root=root / "image",
        kernel=kernel.name,
        modules=kernel,
        everything=True,
        host=root / "host",
    )
    with Path(os.devnull).open("w") as nowhere:
        run_hook(request, steps=Steps(nowhere))


def make_system(root: Path, kernel: Path) -> Path:
    """What initramfs-tools, deploy and a hook's run look at, and nothing of megamod's; returns its lib/modules/KVER."""
    release = kernel.name
    for folder in ("usr/share/initramfs-tools", "etc/initramfs-tools/hooks", "etc/kernel/postinst.d", "usr/lib"):
        (root / folder).mkdir(parents=True)
    for folder in ("boot", "var/lib", "etc/megamod", "run"):
        (root / folder).mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    own = root / "usr/lib/modules" / release
    tree = open_tree(str(kernel))
    _copy_modules(tree, _MODULES, own)
    subprocess.run([find_program("depmod", package="kmod"), "-b", root, release], check=True)
    boot = next(up / "boot" for up in kernel.parents[2:4] if (up / "boot").is_dir())
    for name in ("vmlinuz", "config"):
        (root / f"boot/{name}-{release}").symlink_to(boot / f"{name}-{release}")
    entry = Entry(path=f"usr/lib/modules/{release}/kernel/sound/soundcore.ko", mode=stat.S_IFREG | 0o644)
    write_image(root / f"boot/initrd.img-{release}", [entry], method="none")
    (root / "etc/megamod/test.yaml").write_text(PROFILE)
    image = root / "image/lib/modules" / release
    _copy_modules(tree, ["virtio_blk"], image)
    (root / "image/init").write_text("#!/bin/sh\n")
    (root / "host").mkdir()
    _add_boot_loader(root, release)
    return own


def _add_boot_loader(root: Path, release: str) -> None:
    """systemd-boot, and the entry that kernel-install has written."""
    files: dict[str, str | bytes] = {
        f"boot/efi/loader/entries/{TOKEN}-{release}.conf": ENTRY.replace(KERNEL, release),
        f"boot/efi/{TOKEN}/{release}/linux": "kernel",
        "boot/efi/EFI/systemd/systemd-bootx64.efi": "",
        "usr/bin/kernel-install": "",
        "lib/systemd/systemd-bless-boot": "",
        "etc/machine-id": f"{TOKEN}\n",
        "etc/os-release": OS_RELEASE,
        "proc/cmdline": "root=UUID=1234 ro quiet\n",
    }
    put(root, files)


def _copy_modules(tree: ModuleTree, names: Sequence[str], folder: Path) -> None:
    todo, done = list(names), set[str]()
    while todo:
        module = tree.modules[todo.pop()]
        todo += [name for name in module.depends if name not in done]
        done.add(module.name)
        (folder / module.relpath).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(module.path, folder / module.relpath)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copy(tree.folder / name, folder)


def everything(root: Path) -> dict[str, str]:
    """Each path with its kind, permissions and content; links to kernels are not followed."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if not name.startswith(_MADE_ANYWHERE):
            content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else ""
            found[name] = f"{path.lstat().st_mode:o} {content!r}"
    return found


def act_and_exit(
    act: Callable[[], object],
    *,
    refused: tuple[type[Exception], ...] = (MegamodError, OSError),
    last: Callable[[], object] = lambda: None,
) -> NoReturn:
    """A child's life: *act* without its output, then *last*; status 0, 4 where it was *refused*, else 3.

    An OSError is a refusal, as main() prints it in one line, too.
    """
    status = 3
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        act()
        status = 0
    except refused as error:
        print(f"refused: {error}", file=sys.stderr)
        status = 4
    except BaseException:
        traceback.print_exc()
    finally:
        last()
        os._exit(status)


def in_child(work: Callable[[], object], *, step: int = -1) -> tuple[bool, int]:
    """Run *work* in a child that is ended before its call *step*: whether it was, and how many calls there were."""
    calls = ctypes.CDLL(None)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:

        def armed() -> None:
            calls.kill_arm(ctypes.c_long(step))
            work()

        def tell() -> None:
            count = int(calls.kill_counted())
            calls.kill_arm(ctypes.c_long(-1))
            os.write(writer, str(count).encode())

        act_and_exit(armed, last=tell)
    os.close(writer)
    with os.fdopen(reader) as said:
        count = said.read()
    _child, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        return True, 0
    assert os.WEXITSTATUS(status) in (0, 4), f"status {os.WEXITSTATUS(status)}"
    return False, int(count)


def status_of(work: Act) -> int:
    """0, or 4 where it was refused with an error; nothing of it is ended."""
    child = os.fork()
    if child == 0:
        act_and_exit(work)
    _child, code = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(code) in (0, 4), code
    return os.waitstatus_to_exitcode(code)


def restore(saved: Path, root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(saved, root, symlinks=True)


def run(name: str, kernel: Path, folder: Path, *, every: int) -> str:
    """Do the work *name*, whole and then ended at each *every*-th call."""
    root, saved = folder / "root", folder / "saved"
    kernel = make_system(root, kernel)
    work = works(root, kernel)[name]
    if work.before is not None:
        in_child(work.before)
    shutil.copytree(root, saved, symlinks=True)
    before = everything(root)
    # What is kept from one run to the next is there from the second on.
    in_child(work.act)
    restore(saved, root)
    _ended, calls = in_child(work.act)
    after = everything(root)
    assert before != after
    found = {"old": 0, "new": 0}
    for step in range(0, calls, every):
        restore(saved, root)
        ended, _calls = in_child(work.act, step=step)
        assert ended, f"call {step} of {calls} was not made"
        if work.settled:
            subprocess.run(["sh", str(GUARD), "settle", str(root / "image"), IMAGE_JOURNAL], check=True)
        else:
            in_child(work.act)
        now = everything(root)
        # What a run keeps outside of the image is not of this journal.
        wanted = [after, before] if work.settled else [after]
        states = [_image(state) if work.settled else state for state in (now, *wanted)]
        assert states[0] in states[1:], (step, difference(states[1], states[0]))
        found["new" if states[0] == states[1] else "old"] += 1
    return f"{name}: {calls} calls, each {every}. of them ended: {found['old']} as before, {found['new']} as after"


def _image(state: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in state.items() if name.startswith("image")}


def difference(wanted: dict[str, str], found: dict[str, str]) -> list[str]:
    return sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))[:10]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=list(works(Path("/"), Path("/"))))
    parser.add_argument("kernel", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    # What root executes is another test's; here nothing is.
    cli_hooks.own_program = lambda _root: Path("/opt/megamod/bin/megamod")
    print(run(options.work, options.kernel.resolve(), options.folder, every=options.every))
    return 0


if __name__ == "__main__":
    sys.exit(main())
