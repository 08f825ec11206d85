"""Debian's modules of architectures that are not linked: refused by name, before anything is written."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.boot.debian import fetch_package_files
from megamod.cli import main as cli
from megamod.common.compression import read_module_bytes
from megamod.common.host import cache_folder

# Suite, Debian's name, package, what the error calls it, and readelf.
KERNELS = [
    ("trixie", "s390x", "linux-image-s390x", "s390x, big-endian, 64 bits", "IBM S/390"),
    ("trixie", "ppc64el", "linux-image-powerpc64le", "ppc64le, 64 bits", "PowerPC64"),
    ("sid", "loong64", "linux-image-loong64", "loongarch64, 64 bits", "LoongArch"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("suite", "architecture", "package", "name", "machine"), KERNELS, ids=lambda value: value)
def test_modules_of_other_architectures_are_refused_by_name(
    suite: str,
    architecture: str,
    package: str,
    name: str,
    machine: str,
    tool: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tree = fetch_package_files(package, suite, architecture=architecture, cache=cache_folder())
    found = next(tree.rglob("fat.ko*"))
    # The package has no indexes: they are made when it is installed.
    modules = tmp_path / "lib/modules" / next(part for part in found.parts if part[0].isdigit())
    module = modules / "kernel/fat.ko"
    module.parent.mkdir(parents=True)
    module.write_bytes(read_module_bytes(found))
    (modules / "modules.dep").write_text("kernel/fat.ko:\n")
    header = subprocess.check_output([tool("readelf", package="binutils"), "-h", module], text=True)
    assert re.search(rf"Machine: +{machine}", header)
    profile = tmp_path / "profile.yaml"
    profile.write_text("name: foreign\ncritical: {modules: [fat]}\nroot: {exec: /bin/sh}\n")
    output = tmp_path / "out"
    for words in (
        ["prelink", "-o", str(output), str(module), str(module)],
        ["build", str(profile), "-k", str(modules), "-o", str(output)],
    ):
        monkeypatch.setattr(sys, "argv", ["megamod", *words])
        assert cli.main() == 1
        assert f"fat.ko: built for {name}, which cannot be linked" in capsys.readouterr().err
        assert not output.exists()
