"""Debian's kernels: where they are looked for, what is kept, what happens without a network or with half a download."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from megamod.boot import debian
from megamod.boot.apt import Apt, Dependency, Package, suite_sources
from megamod.boot.debian import fetch_kernel, fetch_package_files, host_kernel
from megamod.common.errors import MegamodError

MIRROR = "http://mirror.example/debian"
SECURITY = "http://mirror.example/debian-security"
RELEASE = "6.1.0-50-amd64"


def index(site: str, release: str, *, origin: str | None = "Debian", entry: str = "/etc/apt/debian.sources:1") -> str:
    lines = [f"Created-By: Packages\nRelease: {release}\nSite: {site}\nSourcesentry: {entry}"]
    return "\n".join([*lines, *([f"Origin: {origin}"] if origin else [])]) + "\n"


def sources(suite: str, targets: Iterable[str], files: dict[str, str] | None = None) -> list[str]:
    texts = {"/etc/apt/debian.sources": f"URIs: {MIRROR}\nSigned-By: /keys/debian.gpg\n", **(files or {})}
    return suite_sources(suite, targets="\n".join(targets), read=lambda path: texts.get(str(path), ""))


def test_another_suite_comes_from_the_mirror_of_this_machine_with_its_key() -> None:
    assert sources("sid", [index(MIRROR, "bookworm")]) == [f"deb [signed-by=/keys/debian.gpg] {MIRROR} sid main"]


def test_the_own_suite_has_its_security_part_and_not_its_backports() -> None:
    files = {
        "/etc/apt/sources.list": f"deb [arch=amd64 signed-by=/keys/security.gpg] {SECURITY} bookworm-security main"
    }
    targets = [
        index(SECURITY, "bookworm-security", entry="/etc/apt/sources.list:1"),
        index(MIRROR, "bookworm"),
        index(MIRROR, "bookworm-backports"),
    ]
    assert sources("bookworm", targets, files) == [
        f"deb [signed-by=/keys/debian.gpg] {MIRROR} bookworm main",
        f"deb [signed-by=/keys/security.gpg] {SECURITY} bookworm-security main",
    ]
    assert sources("bookworm-backports", targets, files) == [
        f"deb [signed-by=/keys/debian.gpg] {MIRROR} bookworm-backports main"
    ]


def test_the_key_of_another_stanza_is_not_taken() -> None:
    text = f"URIs: {SECURITY}\nSigned-By: /keys/other.gpg\n\nURIs: {MIRROR}/\nSigned-By: /keys/mine.gpg\n"
    lines = sources("sid", [index(MIRROR, "trixie")], {"/etc/apt/debian.sources": text})
    assert lines == [f"deb [signed-by=/keys/mine.gpg] {MIRROR} sid main"]


def test_a_repository_of_somebody_else_is_no_mirror() -> None:
    with pytest.raises(MegamodError, match="no Debian mirror"):
        sources("sid", [index("http://packages.example/debian", "stable", origin="Somebody")])


def test_before_the_first_update_the_mirror_is_told_by_its_address() -> None:
    assert sources("sid", [index(MIRROR, "bookworm", origin=None)])
    with pytest.raises(MegamodError, match="no Debian mirror"):
        sources("sid", [index("http://packages.example/tools", "stable", origin=None)])


def test_a_machine_without_sources_is_told_so() -> None:
    with pytest.raises(MegamodError, match="no Debian mirror"):
        suite_sources("sid", targets="", read=lambda path: "")


@dataclass
class Archive:
    """A Debian archive that exists in this test alone, in place of apt."""

    packages: dict[str, Package] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)
    offline: bool = False
    damaged: bool = False
    looks: int = 0
    downloads: int = 0

    def add(self, name: str, version: str, *, depends: Sequence[tuple[str, str | None]] = (), files: str = "") -> None:
        wanted = tuple(Dependency(name=other, version=exact) for other, exact in depends)
        self.packages[name] = Package(name=name, version=version, architecture="amd64", depends=wanted)
        self.files[name] = files.split()

    def update(self, apt: Apt) -> None:
        self.looks += 1
        if self.offline:
            raise MegamodError("apt-get: Could not resolve host")

    def find(self, apt: Apt, name: str) -> Package:
        if name not in self.packages:
            raise MegamodError(f"{apt.suite} has no package {name}")
        return self.packages[name]

    def unpack(self, apt: Apt, packages: Sequence[Package], *, scratch: Path, tree: Path) -> None:
        self.downloads += 1
        for package in packages:
            for name in self.files[package.name]:
                place = tree / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(b"")
            if self.damaged:
                raise MegamodError("dpkg-deb: unexpected end of file")


def kernel_files(release: str) -> str:
    return f"boot/vmlinuz-{release} boot/config-{release} lib/modules/{release}/kernel/a.ko"


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Archive:
    """The archive, with one kernel; depmod is not run."""
    archive = Archive()
    archive.add("linux-image-amd64", "6.1.176-1", depends=[(f"linux-image-{RELEASE}", "6.1.176-1")])
    archive.add(f"linux-image-{RELEASE}", "6.1.176-1", depends=[("linux-base", None)], files=kernel_files(RELEASE))

    def open_apt(suite: str, *, architecture: str, folder: Path) -> Apt:
        return Apt(suite=suite, architecture=architecture, root=folder, options=())

    def depmod(command: Sequence[str | Path], *, folder: Path | None = None) -> str:
        _, base, release = command[1:]
        (Path(base) / "lib/modules" / str(release) / "modules.dep").write_text("kernel/a.ko:\n")
        return ""

    monkeypatch.setattr(debian, "open_apt", open_apt)
    monkeypatch.setattr(debian, "update", archive.update)
    monkeypatch.setattr(debian, "find_package", archive.find)
    monkeypatch.setattr(debian, "unpack", archive.unpack)
    monkeypatch.setattr(debian, "find_program", lambda name, *, package: name)
    monkeypatch.setattr(debian, "run_program", depmod)
    return archive


def test_a_kernel_is_found_through_the_meta_package(archive: Archive, tmp_path: Path) -> None:
    kernel = fetch_kernel("bookworm", architecture="amd64", cache=tmp_path)
    assert kernel.release == RELEASE
    assert kernel.vmlinuz.name == f"vmlinuz-{RELEASE}"
    assert kernel.modules.parts[-3:] == ("lib", "modules", RELEASE)
    assert (kernel.modules / "modules.dep").exists()


def test_a_kernel_in_several_packages_and_a_merged_usr_is_put_together(archive: Archive, tmp_path: Path) -> None:
    release, version = "7.2.13+deb14-amd64", "7.2.13-1"
    parts = [f"linux-{part}-{release}" for part in ("base", "binary", "modules")]
    archive.add("linux-image-amd64", version, depends=[(f"linux-image-{release}", version)])
    archive.add(
        f"linux-image-{release}",
        version,
        depends=[("linux-initramfs-tool", None), *((part, version) for part in parts)],
    )
    modules = f"usr/lib/modules/{release}"
    for part, files in zip(parts, (f"{modules}/config", f"{modules}/vmlinuz", f"{modules}/kernel/a.ko"), strict=True):
        archive.add(part, version, files=files)
    kernel = fetch_kernel("sid", architecture="amd64", cache=tmp_path)
    assert kernel.release == release
    assert kernel.modules.parts[-3:] == ("lib", "modules", release)
    assert (kernel.vmlinuz, kernel.config) == (kernel.modules / "vmlinuz", kernel.modules / "config")


def test_what_was_fetched_once_is_used_without_looking_again(archive: Archive, tmp_path: Path) -> None:
    first = fetch_kernel("bookworm", architecture="amd64", cache=tmp_path)
    assert fetch_kernel("bookworm", architecture="amd64", cache=tmp_path) == first
    assert (archive.looks, archive.downloads) == (1, 1)


def test_a_refresh_looks_and_downloads_only_what_is_new(archive: Archive, tmp_path: Path) -> None:
    fetch_kernel("bookworm", architecture="amd64", cache=tmp_path)
    fetch_kernel("bookworm", architecture="amd64", cache=tmp_path, refresh=True)
    assert (archive.looks, archive.downloads) == (2, 1)
    archive.add("linux-image-amd64", "6.1.192-2", depends=[("linux-image-6.1.0-56-amd64", "6.1.192-2")])
    archive.add("linux-image-6.1.0-56-amd64", "6.1.192-2", files=kernel_files("6.1.0-56-amd64"))
    assert fetch_kernel("bookworm", architecture="amd64", cache=tmp_path, refresh=True).release == "6.1.0-56-amd64"
    assert (archive.looks, archive.downloads) == (3, 2)


def test_a_look_that_is_too_old_is_repeated(archive: Archive, tmp_path: Path) -> None:
    fetch_kernel("bookworm", architecture="amd64", cache=tmp_path)
    for pointer in (tmp_path / "suites").glob("*.json"):
        text = json.loads(pointer.read_text())
        pointer.write_text(json.dumps({**text, "looked": text["looked"] - 8 * 86400}))
    fetch_kernel("bookworm", architecture="amd64", cache=tmp_path)
    assert archive.looks == 2


def test_without_a_network_the_cached_kernel_is_used_and_that_is_said(archive: Archive, tmp_path: Path) -> None:
    first = fetch_kernel("bookworm", architecture="amd64", cache=tmp_path)
    archive.offline = True
    said: list[str] = []
    assert fetch_kernel("bookworm", architecture="amd64", cache=tmp_path, refresh=True, say=said.append) == first
    assert "Could not resolve host" in said[-1]


def test_without_a_network_and_a_cache_there_is_an_error(archive: Archive, tmp_path: Path) -> None:
    archive.offline = True
    with pytest.raises(MegamodError, match="Could not resolve host"):
        fetch_kernel("bookworm", architecture="amd64", cache=tmp_path)


def test_half_an_unpacked_kernel_is_never_used(archive: Archive, tmp_path: Path) -> None:
    archive.damaged = True
    with pytest.raises(MegamodError, match="unexpected end of file"):
        fetch_kernel("bookworm", architecture="amd64", cache=tmp_path)
    assert not list((tmp_path / "trees").iterdir())
    archive.damaged = False
    assert fetch_kernel("bookworm", architecture="amd64", cache=tmp_path).release == RELEASE


def test_a_tree_that_lost_its_marker_is_made_anew(archive: Archive, tmp_path: Path) -> None:
    kernel = fetch_kernel("bookworm", architecture="amd64", cache=tmp_path)
    next((tmp_path / "trees").glob("*/.megamod-complete")).unlink()
    kernel.vmlinuz.unlink()
    assert fetch_kernel("bookworm", architecture="amd64", cache=tmp_path).vmlinuz.exists()


def test_a_damaged_note_of_the_last_look_means_a_new_look(archive: Archive, tmp_path: Path) -> None:
    fetch_kernel("bookworm", architecture="amd64", cache=tmp_path)
    for pointer in (tmp_path / "suites").glob("*.json"):
        pointer.write_text("[1,")
    fetch_kernel("bookworm", architecture="amd64", cache=tmp_path)
    assert archive.looks == 2


def test_the_files_of_any_package_can_be_had(archive: Archive, tmp_path: Path) -> None:
    archive.add("busybox-static", "1:1.35.0-4", depends=[("libc6", None)], files="bin/busybox")
    tree = fetch_package_files("busybox-static", "bookworm", architecture="amd64", cache=tmp_path)
    assert (tree / "bin/busybox").exists()


def test_a_flavour_that_does_not_exist_is_an_error(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(MegamodError, match="bookworm has no package linux-image-amd65"):
        fetch_kernel("bookworm", flavour="amd65", architecture="amd64", cache=tmp_path)


@pytest.mark.parametrize("suite", ["", "../../etc", "book worm", "-o"])
def test_a_suite_is_a_plain_word(tmp_path: Path, suite: str) -> None:
    with pytest.raises(MegamodError, match="not the name of a Debian suite"):
        fetch_kernel(suite, architecture="amd64", cache=tmp_path / "cache")


def test_the_kernel_of_this_machine_is_taken_where_it_is_whole(tmp_path: Path) -> None:
    for name in (*kernel_files(RELEASE).split(), f"lib/modules/{RELEASE}/modules.dep"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    kernel = host_kernel(root=tmp_path, release=RELEASE)
    assert kernel is not None
    assert kernel.vmlinuz == tmp_path / f"boot/vmlinuz-{RELEASE}"


@pytest.mark.parametrize("absent", [*kernel_files(RELEASE).split()[:2], f"lib/modules/{RELEASE}/modules.dep"])
def test_the_kernel_of_this_machine_is_not_taken_where_a_part_is_missing(tmp_path: Path, absent: str) -> None:
    for name in (*kernel_files(RELEASE).split(), f"lib/modules/{RELEASE}/modules.dep"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / absent).unlink()
    assert host_kernel(root=tmp_path, release=RELEASE) is None
