"""What the tests of the hooks share: systems, images with and without megamod, boots of them, each made once a session.

What does not depend on megamod, so the images without it and their boots, is kept with the system in the cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import pytest

from megamod.common.host import file_lock
from tests.hooks.debian_systems import Layer, System, build_wheel, install_wheel, make_system, run_in
from tests.hooks.system_boots import REPORT, GuestRun, boot_system

MadeOnce = Callable[[str, Callable[[Path], None]], Path]
GENERATORS = ("dracut", "initramfs-tools")
SUITES = ("bookworm", "trixie")

# Not for this machine: the chroot sees no hardware of the guest's.
GENERATE = {
    "dracut": "dracut -q -N --force /boot/{name} {kernel}",
    "initramfs-tools": "mkinitramfs -o /boot/{name} {kernel}",
}
_RECORD = """\
/opt/megamod/bin/megamod detect --record /tmp/machine
send -C /tmp machine
"""


class Systems(Protocol):
    def __call__(self, suite: str) -> System: ...


@pytest.fixture(scope="session")
def systems(tool: Callable[..., str]) -> Systems:
    """``systems("bookworm")``: a Debian system with both generators, and without megamod."""
    made: dict[str, System] = {}

    def get(suite: str) -> System:
        if suite not in made:
            made[suite] = make_system(suite, tool)
        return made[suite]

    return get


@pytest.fixture(scope="session")
def installed(systems: Systems, made_once: MadeOnce) -> Callable[[str], Layer]:
    """``installed("bookworm")``: the system with megamod of this tree installed by pip."""

    def get(suite: str) -> Layer:
        def make(path: Path) -> None:
            path.mkdir()
            install_wheel(systems(suite), wheel(made_once), path / "upper")

        return Layer(system=systems(suite), uppers=(made_once(f"installed-{suite}", make) / "upper",))

    return get


def wheel(made_once: MadeOnce) -> Path:
    """A wheel of this tree."""

    def make(path: Path) -> None:
        path.mkdir()
        build_wheel(path)

    return next((made_once("wheel", make) / "wheel").glob("*.whl"))


@pytest.fixture(scope="session")
def plain_image(systems: Systems) -> Callable[[str, str], Path]:
    """``plain_image("bookworm", "dracut")``: what the generator makes without megamod; kept in the cache."""

    def get(suite: str, generator: str) -> Path:
        system = systems(suite)
        path = system.folder / f"{generator}.img"
        with file_lock(path.with_suffix(".lock")):
            if not path.exists():
                upper = system.folder / f"upper-{generator}"
                command = GENERATE[generator].format(name="plain.img", kernel=system.kernel)
                run_in(system, None, upper, command)
                (upper / "boot/plain.img").rename(path)
        return path

    return get


@pytest.fixture(scope="session")
def plain_boot(systems: Systems, plain_image: Callable[[str, str], Path]) -> Callable[[str, str], GuestRun]:
    """``plain_boot("bookworm", "dracut")``: how the guest comes up without megamod; kept in the cache."""

    def get(suite: str, generator: str) -> GuestRun:
        system, image = systems(suite), plain_image(suite, generator)
        path = system.folder / f"{generator}.json"
        with file_lock(path.with_suffix(".lock")):
            if not path.exists():
                run = boot_system(system, image, REPORT, system.folder / f"boot-{generator}")
                run.section("log")
                path.write_text(json.dumps(asdict(run)))
        return GuestRun(**json.loads(path.read_text()))

    return get


@pytest.fixture(scope="session")
def machine(installed: Callable[[str], Layer], made_once: MadeOnce, plain_image: Callable[[str, str], Path]) -> Path:
    """The guest as `megamod detect --record` sees it on itself: the folder to give to a hook in a chroot."""
    from tests.hooks.debian_systems import make_disk

    def make(path: Path) -> None:
        layer = installed("bookworm")
        path.mkdir()
        make_disk(layer, path / "disk.img")
        boot_system(layer.system, plain_image("bookworm", "dracut"), _RECORD, path / "boot", disk=path / "disk.img")
        (path / "disk.img").unlink()

    return made_once("machine", make) / "boot/out/machine"


@pytest.fixture(scope="session")
def hooked(
    installed: Callable[[str], Layer], made_once: MadeOnce, machine: Path
) -> Callable[[str], tuple[Layer, dict[str, Path]]]:
    """``hooked("bookworm")``: the system with the hooks of both generators, and the images that they make then."""

    def get(suite: str) -> tuple[Layer, dict[str, Path]]:
        layer = installed(suite)

        def make(path: Path) -> None:
            path.mkdir()
            lines = [f"/opt/megamod/bin/megamod hook install {each}" for each in GENERATORS]
            lines += [
                "mkdir -p /etc/megamod; printf 'MEGAMOD_STRICT=yes\\nMEGAMOD_MACHINE=/mnt\\n' >/etc/megamod/hook.conf"
            ]
            lines += [GENERATE[each].format(name=f"{each}.img", kernel=layer.system.kernel) for each in GENERATORS]
            done = run_in(layer.system, layer, path / "upper", "\n".join(lines), bind={machine: "mnt"})
            (path / "said").write_text(done.stdout + done.stderr)

        folder = made_once(f"hooked-{suite}", make)
        images = {each: folder / f"upper/boot/{each}.img" for each in GENERATORS}
        return Layer(system=layer.system, uppers=(folder / "upper", *layer.uppers)), images

    return get


@pytest.fixture(scope="session")
def hooked_boot(
    hooked: Callable[[str], tuple[Layer, dict[str, Path]]], made_once: MadeOnce
) -> Callable[[str, str, str], GuestRun]:
    """``hooked_boot("bookworm", "dracut", "rdinit=/megamod-init")``: how the guest comes up with megamod."""

    def get(suite: str, generator: str, append: str) -> GuestRun:
        layer, images = hooked(suite)

        def make(path: Path) -> None:
            run = boot_system(layer.system, images[generator], REPORT, path.with_suffix(".boot"), append=append)
            path.write_text(json.dumps(asdict(run)))

        name = "".join(c if c.isalnum() else "-" for c in f"{suite}-{generator}-{append}")
        return GuestRun(**json.loads(made_once(f"boot-{name}.json", make).read_text()))

    return get
