"""``megamod build`` as a user meets it, on small trees of modules made in memory: the image, and every clear error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from megamod.cli import main as cli
from megamod.image.archive import read_image
from tests.unit.module_factory import VERMAGIC, Ko
from tests.unit.module_trees import RELEASE, make_tree

GOOD = "critical: {modules: [disk]}\ndeferred: [{name: usb, modules: [usb-storage], after: {delay: 5ms}}]\n"
VERSION = {"vermagic": VERMAGIC.replace("6.1.0-test", RELEASE)}


def module_tree(root: Path, changed: Mapping[str, bytes] | None = None) -> Path:
    """core; disk, which needs it; usb-storage, which needs it; plain files of these in a lib/modules folder."""
    folder = make_tree(
        root,
        {
            "kernel/core.ko": [],
            "kernel/disk.ko": ["kernel/core.ko"],
            "kernel/usb/usb-storage.ko": ["kernel/core.ko"],
        },
    )
    files = {
        "kernel/core.ko": bytes(Ko("core", info=VERSION).exports("core_add", 1).param("debug").glue_imports()),
        "kernel/disk.ko": bytes(Ko("disk", info=VERSION).calls("core_add", 1)),
        "kernel/usb/usb-storage.ko": bytes(Ko("usb_storage", info=VERSION).calls("core_add", 1)),
        **(changed or {}),
    }
    for relpath, data in files.items():
        (folder / relpath).write_bytes(data)
    return folder


class Builder:
    """Runs ``megamod build`` in a folder with a profile, a tree and an old image."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys
        monkeypatch.chdir(folder)
        monkeypatch.setattr("megamod.build.recipe.loader_binary", lambda arch: b"the loader")
        (folder / "p.yaml").write_text(GOOD)
        (folder / "out.img").write_bytes(b"old")

    def run(self, *words: object) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["megamod", "build", "--no-cache", *map(str, words)])
        status = cli.main()
        captured = self.capsys.readouterr()
        return status, captured.out, captured.err

    def refused(self, *, profile: str = GOOD, tree: Path | str | None = None, output: str = "out.img") -> str:
        """The one line of a build that must fail, without writing anything."""
        (self.folder / "p.yaml").write_text(profile)
        place = tree if tree is not None else module_tree(self.folder)
        before = sorted(self.folder.iterdir())
        status, out, err = self.run("p.yaml", "-q", "-k", place, "-o", output)
        assert status == 1, err
        assert out == ""
        assert len(err.splitlines()) == 1
        assert err.startswith("megamod: ")
        assert "internal error" not in err
        assert (self.folder / "out.img").read_bytes() == b"old"
        assert sorted(self.folder.iterdir()) == before
        return err.removeprefix("megamod: ").rstrip("\n").replace(f"{self.folder}/", "")


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Builder:
    return Builder(tmp_path, monkeypatch, capsys)


def test_image_holds_the_loader_the_plan_and_a_megamodule_a_stage(builder: Builder, tmp_path: Path) -> None:
    status, out, err = builder.run("p.yaml", "-k", module_tree(tmp_path), "-o", "out.img")
    assert (status, out) == (0, "")
    assert "prelink megamod_critical: 2 members" in err
    entries = {entry.path: entry for entry in read_image(tmp_path / "out.img")}
    assert entries["init"].data == b"the loader"
    assert {
        "megamod/plan",
        "megamod/manifest.json",
        "megamod/megamod_critical.ko",
        "megamod/megamod_usb.ko.lz4",
    } <= set(entries)
    assert entries["megamod/plan"].data.decode().splitlines() == [
        "megamod-plan 1",
        f"kernel {RELEASE}",
        "fallback none",
        "root cmdline",
        "stage critical now - 0",
        "merged /megamod/megamod_critical.ko megamod_critical 1",
        "member core",
        "parameters debug=int",
        "member disk 0",
        "stage usb delay 5 0",
        "merged /megamod/megamod_usb.ko.lz4 megamod_usb 1",
        "member usb_storage 0",
    ]


def test_two_builds_are_the_same_bytes(builder: Builder, tmp_path: Path) -> None:
    tree = module_tree(tmp_path)
    for name in ("one.img", "two.img"):
        assert builder.run("p.yaml", "-q", "-k", tree, "-o", name)[0] == 0
    assert (tmp_path / "one.img").read_bytes() == (tmp_path / "two.img").read_bytes()


def test_options_reach_the_plan(builder: Builder, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(GOOD + "options: {core: {debug: 1}}\n")
    assert builder.run("p.yaml", "-q", "-k", module_tree(tmp_path), "-o", "out.img")[0] == 0
    plan = next(e.data for e in read_image(tmp_path / "out.img") if e.path == "megamod/plan")
    assert b"\nargument core.debug=1\n" in plan


def test_watchdog_and_shell_reach_the_plan_in_whole_seconds(builder: Builder, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(GOOD + "watchdog: 1500ms\nshell: none\n")
    assert builder.run("p.yaml", "-q", "-k", module_tree(tmp_path), "-o", "out.img")[0] == 0
    plan = next(e.data for e in read_image(tmp_path / "out.img") if e.path == "megamod/plan")
    assert b"\nwatchdog 2\nshell none\n" in plan


# Profiles


def test_unknown_key_is_refused_with_its_place(builder: Builder) -> None:
    message = builder.refused(profile="critical: {modules: [disk]}\ncritcal: {}\n")
    assert message.startswith("p.yaml:2:1: ")
    assert "critcal" in message


def test_module_that_does_not_exist_is_refused_with_the_nearest_names(builder: Builder) -> None:
    message = builder.refused(profile="critical:\n  modules: [disk, usb_storge]\n")
    assert message.startswith("p.yaml:2:19: ")
    assert "usb_storage" in message.partition("(hint: ")[2]


@pytest.mark.parametrize("profile", ["", "[]", "critical: [", "critical: {modules: 5}", "\0", "a: b: c"])
def test_profile_that_is_none_is_refused(builder: Builder, profile: str) -> None:
    assert builder.refused(profile=profile).startswith("p.yaml")


def test_option_that_the_module_does_not_have_is_refused(builder: Builder) -> None:
    message = builder.refused(profile=f"{GOOD}options: {{core: {{debgu: 1}}}}\n")
    assert message.startswith("p.yaml:3:")
    assert "debug" in message.partition("(hint: ")[2]


@pytest.mark.parametrize("name", ["nothing", "no/such.yaml", "folder"])
def test_missing_profile_is_refused(builder: Builder, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    status, out, err = builder.run(name, "-q", "-k", module_tree(tmp_path), "-o", "out.img")
    assert (status, out) == (1, "")
    assert err.startswith(f"megamod: {name}")
    assert len(err.splitlines()) == 1


# Trees


def test_folder_without_an_index_is_refused_where_there_is_no_depmod(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = module_tree(tmp_path)
    (tree / "modules.dep").unlink()
    monkeypatch.setattr("shutil.which", lambda *words, **more: None)
    message = builder.refused(tree=tree)
    assert message.startswith(f"lib/modules/{RELEASE}")
    assert "depmod" in message


def test_folder_without_an_index_is_indexed_elsewhere(
    builder: Builder, tmp_path: Path, tool: Callable[..., str]
) -> None:
    tool("depmod", package="kmod")
    tree = module_tree(tmp_path)
    (tree / "modules.dep").unlink()
    assert builder.run("p.yaml", "-q", "-k", tree, "-o", "out.img")[0] == 0
    assert not (tree / "modules.dep").exists()


@pytest.mark.parametrize("kernel", ["no/such/folder", "9.9.9-nothing", "p.yaml"])
def test_kernel_that_is_not_there_is_refused(builder: Builder, kernel: str) -> None:
    assert kernel in builder.refused(tree=kernel)


BAD: dict[str, tuple[dict[str, bytes], str]] = {
    "truncated": ({"kernel/disk.ko": bytes(Ko("disk", info=VERSION))[:500]}, "disk.ko: "),
    "no ELF": ({"kernel/disk.ko": b"junk"}, "disk.ko: not an ELF file"),
    "executable": ({"kernel/disk.ko": bytes(Ko("disk", e_type=2))}, "disk.ko: an executable"),
    "another machine": ({"kernel/disk.ko": bytes(Ko("disk", info=VERSION, machine=8))}, "disk.ko: built for mips"),
    "another kernel": (
        {"kernel/disk.ko": bytes(Ko("disk", info={"vermagic": "5.0 SMP "}))}, "disk.ko: built for 5.0, the tree is of"
    ),
    "another vermagic": (
        {"kernel/disk.ko": bytes(Ko("disk", info={"vermagic": f"{RELEASE} PREEMPT "}))}, "disk.ko: vermagic"
    ),
    "another name": ({"kernel/disk.ko": bytes(Ko("disc", info=VERSION))}, "disk.ko: the module inside calls itself"),
    "CRC": ({"kernel/disk.ko": bytes(Ko("disk", info=VERSION).calls("core_add", 2))}, "disk.ko: the version (CRC)"),
    "cycle": (
        {
            "kernel/core.ko": bytes(Ko("core", info=VERSION).exports("core_add", 1).calls("disk_sym", 1)),
            "kernel/disk.ko": bytes(Ko("disk", info=VERSION).exports("disk_sym", 1).calls("core_add", 1)),
        },
        "cyclic dependency: ",
    ),
    "broken parameters": (
        {"kernel/core.ko": bytes(Ko("core", info=VERSION).exports("core_add", 1)).replace(b"core", b"cor\xff", 1)},
        "core.ko: ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_module_is_refused_by_name(builder: Builder, tmp_path: Path, case: str) -> None:
    changed, text = BAD[case]
    assert text in builder.refused(tree=module_tree(tmp_path, changed))


def patched() -> bytes:
    """A struct module that the linker does not understand."""
    ko = Ko("disk", info=VERSION).calls("core_add", 1)
    ko.this.data[500] = 1
    return bytes(ko)


SINGLE: dict[str, tuple[bytes, str]] = {
    "proprietary": (
        bytes(Ko("disk", info={**VERSION, "license": "Proprietary"})),
        "has the licence 'Proprietary', which is not GPL-compatible",
    ),
    "out of tree": (
        bytes(Ko("disk", info={**VERSION, "intree": None})),
        "is out of tree and would taint the kernel with all other members; allow-taint: true merges it",
    ),
    "unknown layout": (
        patched(),
        "cannot be merged: .gnu.linkonce.this_module: unexpected bytes around the name; unknown layout of "
        "struct module",
    ),
    "refused by a later pass": (
        bytes(Ko("disk", info=VERSION).param("core.debug")), "cannot be merged: parameter core.debug is core.ko's too"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SINGLE)
def test_module_that_cannot_be_merged_is_loaded_on_its_own(builder: Builder, tmp_path: Path, case: str) -> None:
    data, reason = SINGLE[case]
    status, _out, err = builder.run("p.yaml", "-k", module_tree(tmp_path, {"kernel/disk.ko": data}), "-o", "out.img")
    assert status == 0, err
    assert f"  note: disk stays a module of its own: it {reason}\n" in err
    files = {entry.path: entry.data for entry in read_image(tmp_path / "out.img")}
    assert files["megamod/disk.ko"] == data


@pytest.mark.parametrize("case", SINGLE)
def test_merge_required_makes_it_an_error(builder: Builder, tmp_path: Path, case: str) -> None:
    data, reason = SINGLE[case]
    message = builder.refused(profile=f"{GOOD}merge: required\n", tree=module_tree(tmp_path, {"kernel/disk.ko": data}))
    assert message.startswith("disk.ko: ")
    assert reason.removeprefix("cannot be merged: ") in message


def test_one_reason_of_many_modules_is_one_line(builder: Builder, tmp_path: Path) -> None:
    taint = {**VERSION, "intree": None}
    changed = {"kernel/core.ko": bytes(Ko("core", info=taint).exports("core_add", 1))}
    changed["kernel/disk.ko"] = bytes(Ko("disk", info=taint).calls("core_add", 1))
    status, _out, err = builder.run("p.yaml", "-k", module_tree(tmp_path, changed), "-o", "out.img")
    assert status == 0, err
    assert "  note: 2 modules stay on their own (core, disk): each is out of tree and would taint" in err


def test_module_file_that_is_gone_is_refused(builder: Builder, tmp_path: Path) -> None:
    tree = module_tree(tmp_path)
    (tree / "kernel/disk.ko").unlink()
    assert "disk.ko" in builder.refused(tree=tree)


# Output


@pytest.mark.parametrize("output", ["no/out.img", ".", "/dev/null", "/proc/out.img", "p.yaml"])
def test_output_that_cannot_be_written_is_refused(builder: Builder, output: str) -> None:
    assert builder.refused(output=output).startswith(f"{output}: cannot be written: ")


def test_firmware_folder_that_is_not_there_is_refused(builder: Builder, tmp_path: Path) -> None:
    status, _out, err = builder.run("p.yaml", "-k", module_tree(tmp_path), "-o", "out.img", "--firmware-dir", "nosuch")
    assert (status, err) == (1, "megamod: nosuch: no such folder (hint: firmware is looked for there)\n")
    assert (tmp_path / "out.img").read_bytes() == b"old"


def test_full_disk_leaves_the_old_image(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = module_tree(builder.folder)
    real = os.write

    def full(descriptor: int, data: Any) -> int:
        if descriptor < 3:
            return real(descriptor, data)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    assert builder.refused(tree=tree).startswith("out.img: cannot be written: No space left on device (hint: free some")


SLOW = """
import os, sys, time
from megamod.build import link_stages, recipe as build
from megamod.cli import main as cli
build.loader_binary = lambda arch: b"the loader"
def slow(*words, **more):
    print("ready", flush=True)
    for _ in range(6000):  # one long sleep could begin just after the signal
        time.sleep(0.1)
{patch}
sys.argv = ["megamod", "build", "p.yaml", "-q", "-k", sys.argv[1], "-o", "out.img"]
sys.exit(cli.main())
"""


@pytest.mark.parametrize(
    "patch", ["link_stages.prelink = slow", "os.fsync = slow"], ids=["while linking", "while writing"]
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_interrupted_build_leaves_the_old_image(tmp_path: Path, patch: str, number: signal.Signals) -> None:
    tree = module_tree(tmp_path)
    (tmp_path / "p.yaml").write_text(GOOD)
    (tmp_path / "out.img").write_bytes(b"old")
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW.format(patch=patch), tree],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.stderr
    process.send_signal(number)
    _, err = process.communicate(timeout=1200)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert "Traceback" not in err
    assert {path.name for path in tmp_path.iterdir()} == {"lib", "p.yaml", "out.img"}
    assert (tmp_path / "out.img").read_bytes() == b"old"
