"""What `megamod detect` finds on a machine with layers below its root is enough to open and mount that root.

Each machine is made in a guest with stock modules, and looked at there; the profile that detect makes of the recorded
machine in tests/data is then built, and its image boots on the same disks.
"""

from __future__ import annotations

import io
import stat
from pathlib import Path

import pytest

from megamod.build.recipe import build_image
from megamod.common.errors import MegamodError
from megamod.common.progress import Steps
from megamod.image.archive import read_image, write_image
from megamod.image.cpio import Entry
from megamod.machine.detect import detect
from megamod.machine.detected_yaml import detected_profile
from megamod.machine.machine import Machine
from megamod.machine.machine_recorder import write_record
from megamod.modules.tree import open_tree
from megamod.profile.schema import load_profile
from tests.boot.layered_disks import LAPTOP, SERVER, install_entries, make_disk_file, open_script, program_entries
from tests.conftest import missing
from tests.unit.machine_records import DUMP, items_of_dump, recorded_machine

CHILD = """\
extends: ./detected.yaml
root: {exec: /assemble}
unwind: drop
symbols: trim
"""


@pytest.mark.parametrize(
    "storage", [LAPTOP, pytest.param(SERVER, marks=pytest.mark.slow)], ids=lambda storage: storage.name
)
def test_the_critical_stage_of_a_detected_profile_mounts_the_root(kernels, boot, storage, tmp_path: Path) -> None:
    kernel = kernels("bookworm")
    tree = open_tree(str(kernel.modules))
    try:
        programs = program_entries(storage.programs)
    except MegamodError as error:
        missing(str(error))

    disks = [make_disk_file(tmp_path / f"disk{number}.img") for number in range(storage.disks)]
    attached = [option.format(*disks) for option in storage.qemu]
    install = tmp_path / "install.cpio"
    look = "mount --bind /sys /mnt/sys; mount -t proc proc /mnt/proc\n"
    look += f"chroot /mnt /bin/busybox sh -c '{DUMP}'\n"
    write_image(install, install_entries(storage, tree, look), method="none")
    made = boot(image=install, vmlinuz=kernel.vmlinuz, extra=attached, timeout=1200, memory=1024)
    assert "DUMP-END" in made.console

    machine = recorded_machine(storage.name, tmp_path / "recorded")
    live = tmp_path / "live"
    write_record(items_of_dump(made.console, tmp_path / "raw"), live)
    detection = detect(machine, tree)
    seen = detect(Machine(root=live), tree)
    assert {f.name for f in seen.critical} == {f.name for f in detection.critical}, "the recorded machine is this one"

    (tmp_path / "detected.yaml").write_text(detected_profile(detection, tree))
    child = tmp_path / "child.yaml"
    child.write_text(CHILD)
    image = tmp_path / "image"
    build_image(load_profile(child), tree, image, steps=Steps(io.StringIO(), quiet=True))
    own = [Entry(path="assemble", mode=stat.S_IFREG | 0o755, data=open_script(storage))]
    entries = {entry.path: entry for entry in [*programs, *read_image(image), *own]}
    write_image(image, entries.values(), method="none")

    # `manual` would need a word to the keeper: with deferred stages off only the critical one can have done it.
    result = boot(
        image=image, vmlinuz=kernel.vmlinuz, extra=attached, append="megamod.deferred=off", timeout=1200, memory=1024
    )
    assert f"marker of {storage.name}" in result.console
    assert f" {storage.filesystem} ro" in result.console
    assert "load megamod_critical took" in result.console
    assert "\nmegamod_critical\n" in result.console
