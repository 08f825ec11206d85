"""The same image from two machines: other distributions, other versions of Python, other processors' numbers."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from tests.hooks.debian_systems import Layer, run_in

PROFILE = """\
name: shipped
critical: {modules: [virtio_blk, ext4, xhci_pci, usb_storage]}
deferred: [{name: later, modules: [btrfs, snd_hda_intel], after: userspace}]
compress: %s
fallback: modules
"""
_BUILD = """\
cd /tmp
%s/python -V
for profile in zstd xz lz4; do
    %s/megamod build -q --no-cache /mnt/work/$profile.yaml -k /mnt/tree/lib/modules/%s -o $profile.img
done
sha256sum *.img *.map
"""


@pytest.mark.parametrize(("suite", "architecture"), [("bookworm", "amd64"), ("trixie", "arm64")])
def test_two_debian_releases_and_this_machine_make_the_same_bytes(
    suite: str,
    architecture: str,
    kernels: Callable[..., Kernel],
    installed: Callable[[str], Layer],
    tmp_path: Path,
) -> None:
    kernel = kernels(suite, architecture)
    work = tmp_path / "work"
    work.mkdir()
    for method in ("zstd", "xz", "lz4"):
        (work / f"{method}.yaml").write_text(PROFILE % method)
    sums, pythons = {}, set()
    for system in ("bookworm", "trixie"):
        layer = installed(system)
        script = _BUILD % ("/opt/megamod/bin", "/opt/megamod/bin", kernel.release)
        bind = {work: "mnt/work", kernel.modules.parents[2]: "mnt/tree"}
        said = run_in(layer.system, layer, tmp_path / f"upper-{system}", script, bind=bind).stdout
        pythons.add(re.findall(r"^Python (\d+\.\d+)", said)[0])
        sums[system] = [line for line in said.splitlines() if line.endswith((".img", ".map"))]
    assert len(pythons) == 2
    assert len(sums["bookworm"]) == 6
    assert sums["bookworm"] == sums["trixie"]
    for method in ("zstd", "xz", "lz4"):
        program = "import sys; from megamod.cli.main import main; sys.exit(main())"
        command = [sys.executable, "-P", "-c", program, "build", "-q", "--no-cache", str(work / f"{method}.yaml")]
        subprocess.run([*command, "-k", kernel.modules, "-o", f"{method}.img"], cwd=tmp_path, check=True)
    here = subprocess.run("sha256sum *.img *.map", shell=True, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert here.stdout.splitlines() == sums["bookworm"]
