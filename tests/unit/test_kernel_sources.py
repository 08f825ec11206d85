"""What is known of the kernel's exports, and by which file: the glue takes no more of it than there is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.build.manifest import MANIFEST_PATH, Manifest
from megamod.cli import main as cli
from megamod.image.archive import read_image
from tests.unit.module_factory import GLUE_IMPORTS, Back, Ko
from tests.unit.module_trees import RELEASE
from tests.unit.test_cli_build import VERSION, Builder, builder, module_tree  # noqa: F401
from tests.unit.test_kernel_exports import kernel

CRITICAL = "critical: {modules: [disk]}\n"
UNKNOWN = f"  note: no kernel image, Module.symvers or System.map of {RELEASE} is found (--vmlinuz, --symvers"
NO_RESULTS = "what becomes of each member is not recorded"


def bare_tree(root: Path, *, unselected: bool = False) -> Path:
    """core and disk without versions, which import nothing that the glue wants; usb-storage does if *unselected*."""
    other = Ko("usb_storage", info=VERSION, versions=False)
    return module_tree(
        root,
        {
            "kernel/core.ko": bytes(Ko("core", info=VERSION, versions=False).exports("core_add", None)),
            "kernel/disk.ko": bytes(Ko("disk", info=VERSION, versions=False).calls("core_add", None)),
            "kernel/usb/usb-storage.ko": bytes(other.glue_imports() if unselected else other),
        },
    )


def symvers(path: Path, *names: str) -> Path:
    path.write_text("".join(f"0x00000000\t{name}\tvmlinux\tEXPORT_SYMBOL\t\n" for name in names))
    return path


def has_results(image: Path) -> bool:
    plan = next(entry.data for entry in read_image(image) if entry.path == "megamod/plan").decode()
    line = next(line for line in plan.splitlines() if line.startswith("merged "))
    return line.split()[3] == "1"


@pytest.mark.parametrize("imported", [False, True], ids=["by no module", "by another module of the tree"])
def test_without_a_source_the_glue_imports_what_some_module_imports(
    builder: Builder,  # noqa: F811
    tmp_path: Path,
    imported: bool,
) -> None:
    (tmp_path / "p.yaml").write_text(CRITICAL)
    tree = bare_tree(tmp_path, unselected=imported)
    status, _out, err = builder.run("p.yaml", "-k", tree, "-o", "out.img")
    assert status == 0, err
    assert UNKNOWN in err
    assert has_results(tmp_path / "out.img") is imported
    assert (NO_RESULTS in err) is not imported
    entry = next(entry for entry in read_image(tmp_path / "out.img") if entry.path == MANIFEST_PATH)
    notes = Manifest.from_json(entry.data, source="manifest").notes
    assert any(note.startswith("megamod_critical records no results") for note in notes) is not imported


@pytest.mark.parametrize("trimmed", [False, True], ids=["all", "trimmed"])
def test_with_a_named_source_the_glue_imports_what_it_lists(
    builder: Builder,  # noqa: F811
    tmp_path: Path,
    trimmed: bool,
) -> None:
    (tmp_path / "p.yaml").write_text(CRITICAL)
    source = symvers(tmp_path / "symbols", *(["printk"] if trimmed else GLUE_IMPORTS))
    status, _out, err = builder.run("p.yaml", "-k", bare_tree(tmp_path), "-o", "out.img", "--symvers", source)
    assert status == 0, err
    assert UNKNOWN not in err
    assert has_results(tmp_path / "out.img") is not trimmed
    assert (NO_RESULTS in err) is trimmed


def test_an_import_that_the_named_source_does_not_list_is_refused(
    builder: Builder,  # noqa: F811
    tmp_path: Path,
) -> None:
    tree = bare_tree(tmp_path, unselected=True)
    source = symvers(tmp_path / "symbols", "printk")
    (tmp_path / "p.yaml").write_text("critical: {modules: [usb-storage]}\n")
    status, _out, err = builder.run("p.yaml", "-q", "-k", tree, "-o", "out.img", "--symvers", source)
    assert status == 1
    assert f"which neither {source} nor a selected module exports" in err
    assert (tmp_path / "out.img").read_bytes() == b"old"


def test_a_kernel_image_that_cannot_be_read_is_a_note(builder: Builder, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "p.yaml").write_text(CRITICAL)
    image = tmp_path / "vmlinuz"
    image.write_bytes(b"what is this?".ljust(5000))
    tree = bare_tree(tmp_path)
    status, _out, err = builder.run("p.yaml", "-k", tree, "-o", "out.img", "--vmlinuz", image)
    assert status == 0, err
    assert f"  note: {image}: is not a kernel image that is known here: its exports are not read\n" in err
    assert UNKNOWN in err


@pytest.mark.parametrize("option", ["vmlinuz", "config", "system-map", "symvers"])
def test_a_named_file_must_be_there(builder: Builder, tmp_path: Path, option: str) -> None:  # noqa: F811
    tree = bare_tree(tmp_path)
    status, _out, err = builder.run("p.yaml", "-k", tree, "-o", "out.img", f"--{option}", "nowhere")
    assert status == 2
    assert f"--{option}" in err and "nowhere" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("trimmed", [False, True], ids=["all", "trimmed"])
def test_prelink_takes_the_kernels_files_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trimmed: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    module = tmp_path / "disk.ko"
    module.write_bytes(bytes(Ko("disk", versions=False)))
    source = symvers(tmp_path / "symbols", *([] if trimmed else GLUE_IMPORTS), "printk")
    words = ["megamod", "prelink", module, "-o", "out.ko", "--symvers", source]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    assert cli.main() == 0
    assert (NO_RESULTS in capsys.readouterr().err) is trimmed
    assert ("result" in Back((tmp_path / "out.ko").read_bytes()).params()) is not trimmed


def test_a_source_of_another_kernel_is_refused(
    builder: Builder,  # noqa: F811
    tmp_path: Path,
    make_kernel: Callable[[str], Path],
) -> None:
    status, _out, err = builder.run(
        *("p.yaml", "-q", "-k", bare_tree(tmp_path), "-o", "out.img", "--vmlinuz", make_kernel("5.9.0"))
    )
    assert status == 1
    assert f"is Linux 5.9.0, and the modules are of {RELEASE}" in err


@pytest.fixture
def make_kernel(tmp_path: Path) -> Callable[[str], Path]:
    def make(release: str) -> Path:
        path = kernel(tmp_path / "vmlinux", None)
        path.write_bytes(path.read_bytes() + f"\0Linux version {release} (a@b)\n".encode())
        return path

    return make
