"""Microcode before the image: the kernel still unpacks what lies behind it, and its own loader has looked."""

from __future__ import annotations

from pathlib import Path

import pytest

from megamod.build.recipe import build_image
from megamod.common.progress import Steps
from megamod.modules.tree import open_tree
from megamod.profile.schema import load_profile
from tests.boot.image_fixtures import END, add_program, run
from tests.unit.test_microcode import INTEL, intel

PROFILE = """
critical: {modules: [loop]}
root: {exec: /main}
microcode: [haswell]
"""

# TCG's Haswell: family 6, model 0x3c, stepping 1, as an Intel file names it; the kernel asks only outside of guests.
SIGNATURE = 0x306C1
CPU = ("-cpu", "Haswell,-hypervisor")
LOOK = f"show microcode sh -c 'dmesg | grep -i microcode'\nshow early ls -l /{INTEL}\n"


@pytest.mark.parametrize("method", ["zstd", "none"])
def test_the_image_behind_the_early_archive_is_unpacked(method: str, made_once, kernels) -> None:
    kernel = kernels("bookworm")

    def make(path: Path) -> None:
        folder = path.with_name(f"{path.name}.profile")
        folder.mkdir()
        (folder / "haswell").write_bytes(intel(SIGNATURE))
        (folder / "p.yaml").write_text(f"{PROFILE}compress: {method}\n")
        with Path("/dev/null").open("w") as nowhere:
            build_image(load_profile(folder / "p.yaml"), open_tree(str(kernel.modules)), path, steps=Steps(nowhere))

    image = add_program(made_once, made_once(f"image-microcode-{method}", make), LOOK + END)
    guest = run(made_once, kernel, image, extra=CPU)
    assert "megamod_critical" in guest.modules()
    # The processor takes none from QEMU's; that its loader runs, and has not stumbled, is what can be seen.
    assert any("microcode" in line for line in guest.section("microcode"))
    assert guest.section("early")[0].split()[4] == str(len(intel(SIGNATURE)))
