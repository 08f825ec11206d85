"""`megamod install` on a machine, from its first boot to `--remove`: firmware, boot loader, kernels as Debian has them.

    python -m tests.hooks.installed_systems WORK --suite trixie --loader bls

makes a disk of a fresh Debian that OVMF and the suite's own GRUB or systemd-boot start, and boots it in QEMU as often
as it takes. All commands run in the guest: megamod install; a newer kernel by dpkg; an image that cannot work, until
the machine comes up again without it; megamod install --remove. Each line printed is a step that was seen. Needs root,
the packages debootstrap, ovmf, qemu-system-x86, dosfstools, mtools and fdisk, and a Debian mirror.
"""

from __future__ import annotations

import argparse
import functools
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from megamod.common.errors import MegamodError
from megamod.common.host import find_program
from tests.hooks.debian_systems import Layer, build_wheel, install_wheel, make_system
from tests.hooks.firmware_disks import Loader, boot_disk, make_firmware_disk
from tests.hooks.system_boots import GuestRun

LOADERS: tuple[Loader, ...] = ("grub", "bls", "uki")
# Newer than the suite's system by name, and small, so that an emulated guest installs it in minutes.
UPDATES = {
    "bookworm": "linux-image-6.1.0-57-cloud-amd64",
    "trixie": "linux-image-cloud-amd64",
    "sid": "linux-image-cloud-amd64",
}
_TRIALS = 3
_PROGRAM = "/opt/megamod/bin/megamod"
_FILES = (
    "find / -xdev -path /var/log -prune -o -path /var/cache -prune -o -path /tmp -prune -o -path /run -prune -o "
    "! -type d -print; find /boot/efi -xdev ! -type d"
)
# What marks an image as good comes after boot-complete.target, which multi-user.target does not wait for.
_LOOK = f"""\
i=120
while [ $i -gt 0 ] && systemctl list-jobs | grep -q 'bless\\|keep-image'; do i=$((i-1)); sleep 1; done
show kernel uname -r
show words cat /proc/cmdline
show loader cat /run/megamod/status
show failed systemctl list-units --failed --no-legend --plain
show target systemctl is-active multi-user.target
show selected sh -c 'tr -d "\\0" </sys/firmware/efi/efivars/LoaderEntrySelected-*'
show status {_PROGRAM} install --status
show entries sh -c 'ls /boot/efi/loader/entries /boot/efi/EFI/Linux; cat /boot/megamod/entries'
show grubenv cat /boot/grub/grubenv
show files sh -c '{_FILES}'
"""
_INSTALL = f"show install {_PROGRAM} install OPTION\n"
_GRUB = "show grub sh -c 'grub-install --target=x86_64-efi --removable --no-nvram && update-grub'\n"
_UPDATE = "show update sh -c 'dpkg -i /var/tmp/linux-image*.deb'\n"
# It builds, and it has no driver for the disk: the kernel finds no root.
_BREAK = f"""\
printf 'name: broken\\ncritical: {{modules: [loop]}}\\n' >/etc/megamod/profile.yaml
show break {_PROGRAM} install
"""
_REMOVE = f"show remove {_PROGRAM} install --remove\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One machine in *work*; *say* is told of each step that was seen. No boot is begun after *until* (monotonic)."""

    layer: Layer
    loader: Loader
    work: Path
    say: Callable[[str], None]
    until: float = math.inf

    @property
    def disk(self) -> Path:
        return self.work / "disk.img"

    def boot(self, name: str, script: str = "", *, before: str = "") -> GuestRun:
        """Boot once: *before*, the machine's state, *script*. A boot that was seen is not made again."""
        console = self.work / name / "console.txt"
        if console.exists():
            return GuestRun(console=console.read_text(), out="", seconds=0.0)
        if time.monotonic() > self.until:
            raise SystemExit(3)
        run = boot_disk(self.disk, before + _LOOK + script, self.work / name)
        (self.work / name / "script.img").unlink()
        return run


def run_case(case: Case) -> None:
    """Take one machine through all steps; raises AssertionError at the first that is not as it should be."""
    if not case.disk.exists():
        part = case.disk.with_suffix(".part")
        make_firmware_disk(case.layer, case.loader, part, update=UPDATES[case.layer.system.suite])
        part.rename(case.disk)
    # Where kernel-install cannot make the generator's UKI, ours has to be asked for.
    option = "--uki" if case.loader == "uki" and case.layer.system.suite == "bookworm" else ""
    grub = _GRUB if case.loader == "grub" else ""
    first = case.boot("1-fresh", _INSTALL.replace("OPTION", option), before=grub)
    _expect(first, megamod=False, kernel=case.layer.system.kernel)
    assert not grub or first.status("grub") == 0, first.section("grub")
    assert first.status("install") == 0, first.section("install")
    case.say("fresh, the generator's image; megamod install: " + "; ".join(first.section("install")))

    second = case.boot("2-installed", _UPDATE)
    _expect(second, megamod=True, kernel=case.layer.system.kernel)
    assert second.status("update") == 0, second.section("update")
    case.say(f"restarted with megamod's image of {case.layer.system.kernel}; a newer kernel installed by dpkg")

    third = case.boot("3-updated", _BREAK)
    newer = third.section("kernel")[0]
    assert newer != case.layer.system.kernel
    _expect(third, megamod=True, kernel=newer)
    assert third.status("break") == 0, third.section("break")
    case.say(f"restarted with megamod's image of {newer}; an image without the disk's driver installed")

    for trial in range(1, _TRIALS + 2):
        fourth = case.boot(f"4-broken-{trial}", _REMOVE)
        if "]]] kernel" in fourth.console:
            break
        assert "panic" in fourth.console.lower(), fourth.console[-2000:]
    assert trial > 1, "the broken image was not tried"
    _expect(fourth, megamod=True, kernel=newer)
    assert _image(fourth) == _image(third)
    assert fourth.status("remove") == 0, fourth.section("remove")
    case.say(f"the broken image was started {trial - 1} times, then the one before it; megamod install --remove")

    fifth = case.boot("5-removed")
    _expect(fifth, megamod=False, kernel=newer)
    left = [name for name in _new_files(first, fifth) if newer not in name]
    assert left == ["/etc/megamod/profile.yaml"], left
    case.say(f"restarted with the generator's image of {newer}; left is {left[0]}, which was edited")


def _expect(run: GuestRun, *, megamod: bool, kernel: str) -> None:
    assert run.section("kernel") == [kernel]
    assert run.section("target") == ["active"]
    assert run.section("failed") == []
    assert (run.status("loader") == 0) is megamod, run.console[-3000:]


def _image(run: GuestRun) -> list[str]:
    """What tells the image of this boot from another: of GRUB its name, of systemd-boot the entry's."""
    found = [word for word in run.section("words")[0].split() if word.startswith("megamod.image=")]
    return found or [line.replace("-old.", ".") for line in run.section("selected")]


def _new_files(before: GuestRun, after: GuestRun) -> list[str]:
    """Files that were not there, but for what dpkg, systemd and the boot loader write themselves."""
    own = ("/var/lib/dpkg/", "/var/lib/systemd/", "/var/tmp/", "/opt/", "/vmlinuz", "/initrd.img", "/boot/grub/grubenv")
    gone = set(after.section("files")) - set(before.section("files"))
    return sorted(name for name in gone if not name.startswith(own))


def main() -> None:
    parser = argparse.ArgumentParser(description="megamod install on Debian systems that firmware starts")
    parser.add_argument("work", type=Path, help="a folder for disks and consoles")
    parser.add_argument("--suite", choices=sorted(UPDATES), default="trixie")
    parser.add_argument("--loader", choices=LOADERS, default="bls")
    parser.add_argument("--wheel", type=Path, help="a wheel of megamod; default: made of this tree")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no boot after that; status 3")
    parser.add_argument("--continue", dest="again", action="store_true", help="go on where --minutes has ended it")
    options = parser.parse_args()
    work = options.work.absolute() / f"{options.suite}-{options.loader}"
    if not options.again:
        shutil.rmtree(work, ignore_errors=True)
    until = time.monotonic() + 60 * options.minutes
    system = make_system(options.suite, lambda name, package: find_program(name, package=package))
    layer = Layer(system=system, uppers=(work / "installed",))
    try:
        if not (work / "disk.img").exists():
            for name in ("made", "installed"):
                shutil.rmtree(work / name, ignore_errors=True)
                (work / name).mkdir(parents=True)
            install_wheel(system, options.wheel or build_wheel(work / "made"), work / "installed")
        say = functools.partial(print, flush=True)
        run_case(Case(layer=layer, loader=options.loader, work=work, say=say, until=until))
    except MegamodError as error:
        raise SystemExit(str(error)) from None
    print(f"{options.suite} {options.loader}: every step was seen", flush=True)
    for name in ("made", "installed", "disk.img", "disk.vars"):
        path = work / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
