"""The package that a kernel comes from, as Debian's packages tell it; apt's metadata are the judge of the real ones."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from megamod.image.archive import read_image
from megamod.inspect.inspection import ImageInspection, inspect_file
from megamod.kernel.package import KernelPackage, find_package
from tests.unit.test_cli_build import GOOD, Builder, builder, module_tree

__all__ = ["builder"]

RELEASE = "6.1.0-57-amd64"
SIGNED = (
    "linux-signed-amd64 (6.1.192+3) bookworm-security; urgency=high\n\n  * Sign kernel from linux 6.1.192-3\n\n -- A\n"
)


def make_tree(
    root: Path, text: str | bytes, *, doc: str = f"linux-image-{RELEASE}", name: str = "changelog.gz"
) -> Path:
    folder = root / "lib/modules" / RELEASE
    folder.mkdir(parents=True, exist_ok=True)
    place = root / "usr/share/doc" / doc
    place.mkdir(parents=True)
    (place / name).write_bytes(text if isinstance(text, bytes) else gzip.compress(text.encode()))
    return folder


def test_of_a_signed_kernel_it_is_what_was_signed(tmp_path: Path) -> None:
    assert find_package(make_tree(tmp_path, SIGNED), RELEASE) == KernelPackage(
        name=f"linux-image-{RELEASE}",
        version="6.1.192-3",
        source="linux",
        source_version="6.1.192-3",
        vendor="debian",
        suite="bookworm-security",
    )


def test_modules_may_have_a_package_of_their_own_and_a_system_its_name(tmp_path: Path) -> None:
    text = "linux (7.2.13-1) unstable; urgency=medium\n\n  * New upstream stable update\n"
    folder = make_tree(tmp_path, text, doc=f"linux-modules-{RELEASE}", name="changelog.Debian.gz")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text('NAME="Some Linux"\nID=some\n')
    found = find_package(folder, RELEASE)
    assert found is not None
    assert (found.name, found.source_version, found.vendor) == (f"linux-modules-{RELEASE}", "7.2.13-1", "some")


@pytest.mark.parametrize("text", ["", "no changelog", b"\x1f\x8bdamaged", b""])
def test_what_tells_nothing_is_no_error(text: str | bytes, tmp_path: Path) -> None:
    assert find_package(make_tree(tmp_path, text), RELEASE) is None
    assert find_package(tmp_path / "nowhere", RELEASE) is None


@pytest.mark.parametrize("suite", ["bookworm", "sid"])
def test_it_is_the_version_that_apt_has_given(suite: str, kernels: Callable[[str], Kernel]) -> None:
    kernel = kernels(suite)
    found = find_package(kernel.modules, kernel.release)
    assert found is not None
    # The tree is named by what apt calls the package: NAME_VERSION_ARCHITECTURE.
    root = next(path for path in kernel.modules.parents if path.name.startswith("linux-image-"))
    assert root.name.split("_")[1] == found.version == found.source_version
    assert (found.source, found.vendor) == ("linux", "debian")


def test_a_build_records_it_and_the_digests_of_the_members(builder: Builder, tmp_path: Path) -> None:
    tree = module_tree(tmp_path)
    release = tree.name
    root = tree.parents[2]
    place = root / f"usr/share/doc/linux-image-{release}"
    place.mkdir(parents=True)
    (place / "changelog.gz").write_bytes(gzip.compress(SIGNED.encode()))
    (tmp_path / "p.yaml").write_text(GOOD)
    status, _out, err = builder.run("p.yaml", "-k", tree, "-o", "out.img")
    assert status == 0, err
    inspection = inspect_file(tmp_path / "out.img")
    assert isinstance(inspection, ImageInspection)
    assert inspection.manifest.package is not None
    assert inspection.manifest.package.source_version == "6.1.192-3"
    members = [m for stage in inspection.manifest.stages for load in stage.loads for m in load.members]
    assert {m.name: m.sha256 for m in members} == {
        m.name: hashlib.sha256((tree / m.file).read_bytes()).hexdigest() for m in members
    }
    assert any(entry.path == "init" for entry in read_image(tmp_path / "out.img"))
