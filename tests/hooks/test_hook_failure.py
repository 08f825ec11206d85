"""A hook that fails leaves what the generator makes alone, and what it makes boots, with rdinit= too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hooks.conftest import GENERATE, GENERATORS, MadeOnce
from tests.hooks.debian_systems import Layer, image_files, run_in
from tests.hooks.system_boots import REPORT, boot_system
from tests.hooks.test_hook_boot import RDINIT, PlainBoot, assert_same_machine

Hooked = Callable[[str], tuple[Layer, dict[str, Path]]]
WARNING = "megamod: warning: the image is as {} made it: /etc/megamod/hook.conf: `some` is none of machine, all"


@pytest.fixture(scope="session")
def failed(hooked: Hooked, made_once: MadeOnce) -> tuple[Path, str]:
    """A folder with an image of each generator whose hook has failed, and what they said."""
    layer, _images = hooked("bookworm")

    def make(path: Path) -> None:
        path.mkdir()
        commands = [GENERATE[each].format(name=f"{each}.img", kernel=layer.system.kernel) for each in GENERATORS]
        script = "echo MEGAMOD_SELECT=some >/etc/megamod/hook.conf\n" + "\n".join(commands)
        done = run_in(layer.system, layer, path / "upper", script)
        (path / "said").write_text(done.stderr)

    folder = made_once("failed", make)
    return folder / "upper/boot", (folder / "said").read_text()


@pytest.mark.parametrize("generator", GENERATORS)
def test_the_image_is_the_generators_own_with_a_link_for_rdinit(
    generator: str, failed: tuple[Path, str], plain_image: Callable[[str, str], Path]
) -> None:
    folder, said = failed
    assert said.count(WARNING.format(generator)) == 1
    own, image = image_files(plain_image("bookworm", generator)), image_files(folder / f"{generator}.img")
    # initramfs-tools copies all scripts below /etc; this one does nothing without a plan.
    script = {"scripts/init-top/megamod"} if generator == "initramfs-tools" else set()
    assert image.keys() - own.keys() == {"megamod-init", *script}
    assert own.keys() - image.keys() == set()
    modules = {path for path in own if ".ko" in path}
    assert {path: image[path] for path in modules} == {path: own[path] for path in modules}


def test_it_boots_with_rdinit_on_the_command_line(
    failed: tuple[Path, str], hooked: Hooked, plain_boot: PlainBoot, tmp_path: Path
) -> None:
    system = hooked("bookworm")[0].system
    run = boot_system(system, failed[0] / "initramfs-tools.img", REPORT, tmp_path, append=RDINIT)
    assert_same_machine(run, plain_boot("bookworm", "initramfs-tools"))
