"""`megamod inspect` beyond the overview: all files, one file, what differs, and the bill of materials."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from megamod.build.manifest import MANIFEST_PATH, Manifest
from megamod.cli import main as cli
from megamod.image.archive import write_image
from megamod.image.cpio import Entry
from megamod.kernel.package import KernelPackage
from tests.unit.test_manifest import MANIFEST

PACKAGE = KernelPackage(
    name="linux-image-6.1.0-57-amd64",
    version="6.1.192-3",
    source="linux",
    source_version="6.1.192-3",
    vendor="debian",
    suite="bookworm-security",
)
REGULAR, LINK, FOLDER = 0o100644, 0o120777, 0o040755


def image(path: Path, manifest: Manifest = MANIFEST, **changed: Entry | None) -> Path:
    """An image that fits *manifest*, with entries replaced or, by None, left out."""
    loads = {load.file: bytes(load.bytes) for stage in manifest.stages for load in stage.loads}
    entries = {
        "init": Entry(path="init", mode=0o100755, data=b"loader"),
        "megamod/plan": Entry(path="megamod/plan", mode=REGULAR, data=b"megamod-plan 1\n"),
        "etc": Entry(path="etc", mode=FOLDER),
        "etc/conf": Entry(path="etc/conf", mode=REGULAR, data=b"fps=30\n"),
        "etc/link": Entry(path="etc/link", mode=LINK, data=b"conf"),
        "etc/far": Entry(path="etc/far", mode=LINK, data=b"/nowhere"),
        "dev/console": Entry(path="dev/console", mode=0o020600, rdev=(5, 1)),
        "lib/firmware/a.bin.xz": Entry(path="lib/firmware/a.bin.xz", mode=REGULAR, data=b"firmware"),
        MANIFEST_PATH: Entry(path=MANIFEST_PATH, mode=REGULAR, data=manifest.to_json()),
        **{name: Entry(path=name, mode=REGULAR, data=data) for name, data in loads.items()},
        **{name.replace("__", "/"): entry for name, entry in changed.items()},
    }
    write_image(path, [entry for entry in entries.values() if entry is not None], method="zstd")
    return path


class Inspector:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *words: object) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["megamod", "inspect", *map(str, words)])
        try:
            status = cli.main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = self.capsys.readouterr()
        return status, captured.out, captured.err


@pytest.fixture
def inspect(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inspector:
    return Inspector(monkeypatch, capsys)


def test_every_file_is_listed_with_its_mode_and_size(inspect: Inspector, tmp_path: Path) -> None:
    status, out, _err = inspect(image(tmp_path / "a"), "--tree")
    assert status == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "-rwxr-xr-x 6 B /init" in lines
    assert "lrwxrwxrwx /etc/link -> conf" in lines
    assert "drwxr-xr-x /etc" in lines
    assert "crw------- 5, 1 /dev/console" in lines
    assert [line.split("/", 1)[1] for line in lines] == sorted(line.split("/", 1)[1] for line in lines)


@pytest.mark.parametrize("path", ["etc/conf", "/etc/conf", "etc/link"])
def test_one_file_is_printed_as_it_is_through_links(path: str, inspect: Inspector, tmp_path: Path) -> None:
    assert inspect(image(tmp_path / "a"), "--file", path) == (0, "fps=30\n", "")


def test_of_a_link_that_leads_nowhere_the_target_is_printed(inspect: Inspector, tmp_path: Path) -> None:
    assert inspect(image(tmp_path / "a"), "--file", "etc/far") == (0, "/nowhere\n", "")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("etc/config", "a: no /etc/config in the image (hint: did you mean etc/conf?)"),
        ("zzz", "a: no /zzz in the image (hint: megamod ls lists what there is)"),
        ("etc", "a: /etc is a folder"),
        ("dev/console", "a: /dev/console is a device node"),
    ],
)
def test_what_is_no_file_is_an_error(path: str, message: str, inspect: Inspector, tmp_path: Path) -> None:
    status, out, err = inspect(image(tmp_path / "a"), "--file", path)
    assert (status, out) == (1, "")
    assert err.replace(f"{tmp_path}/", "").startswith(f"megamod: {message}")


def test_two_that_hold_the_same_differ_in_nothing(inspect: Inspector, tmp_path: Path) -> None:
    status, out, _err = inspect(image(tmp_path / "a"), "--diff", image(tmp_path / "b"))
    assert status == 0
    assert out.endswith("hold the same\n")


def test_differences_are_named_by_setting_module_and_file(inspect: Inspector, tmp_path: Path) -> None:
    [stage] = MANIFEST.stages
    [merged, single] = stage.loads
    [virtio] = merged.members
    kvm = replace(virtio, name="kvm", reason="named")
    first = replace(single, members=(kvm,))
    later = replace(virtio, name="ext4", reason="named", build_id="ab")
    old = replace(MANIFEST, stages=(replace(stage, loads=(merged, first)),))
    new = replace(
        MANIFEST,
        options={"tracing": "off", "unwind": "keep"},
        stages=(replace(stage, name="usb", loads=(replace(merged, members=(replace(virtio, build_id="cd"), later)),)),),
        skip=("ext4",),
    )
    changed = {
        "etc__conf": Entry(path="etc/conf", mode=0o100600, data=b"fps=60\n"),
        "etc__new": Entry(path="etc/new", mode=REGULAR, data=b"x"),
        "etc__far": None,
        "megamod__kvm.ko": None,
    }
    status, out, _err = inspect(image(tmp_path / "a", old), "--diff", image(tmp_path / "b", new, **changed))
    assert status == 1
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        "unwind: drop → keep",
        "ext4: skipped at boot",
        "+ ext4 (usb): named",
        "- kvm (critical, alone)",
        "virtio: critical → usb",
        "virtio: another build",
        "/etc/conf: -rw-r--r-- → -rw-------, other content of the same size",
        "- lrwxrwxrwx /etc/far -> /nowhere",
        "+ -rw-r--r-- 1 B /etc/new",
        "- -rw-r--r-- 2.0 KiB /megamod/kvm.ko",
    ]


def test_differences_are_a_list_for_programs(inspect: Inspector, tmp_path: Path) -> None:
    changed = image(tmp_path / "b", etc__conf=None)
    status, out, _err = inspect(image(tmp_path / "a"), "--diff", changed, "--json")
    assert status == 1
    [line] = json.loads(out)
    assert line.startswith("- ") and line.endswith("/etc/conf")


def test_only_one_question_at_a_time(inspect: Inspector, tmp_path: Path) -> None:
    status, _out, err = inspect(image(tmp_path / "a"), "--tree", "--file", "init")
    assert status == 1
    assert "only one of them" in err


# The bill of materials


@pytest.fixture
def bill(inspect: Inspector, tmp_path: Path) -> str:
    [stage] = MANIFEST.stages
    [merged, single] = stage.loads
    [virtio] = merged.members
    e100 = replace(
        virtio, name="e100", version="3.5", srcversion="5F", build_id="ab12", license="GPL v2", firmware=("a.bin",)
    )
    loads = (replace(merged, members=(virtio, e100)),)
    manifest = replace(MANIFEST, stages=(replace(stage, loads=loads),), package=PACKAGE)
    assert single.file not in {load.file for load in manifest.stages[0].loads}
    status, out, _err = inspect(image(tmp_path / "a", manifest), "--sbom")
    assert status == 0
    return out


def test_the_bill_of_materials_is_valid_cyclonedx(bill: str) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(bill) is None


def test_it_says_of_every_module_its_version_licence_build_and_firmware(bill: str) -> None:
    components = {component["bom-ref"]: component for component in json.loads(bill)["components"]}
    e100 = components["module:e100"]
    assert (e100["type"], e100["version"]) == ("device-driver", "3.5")
    assert e100["licenses"] == [{"license": {"name": "GPL v2"}}]
    properties = [(each["name"], each["value"]) for each in e100["properties"]]
    assert {("megamod:srcversion", "5F"), ("megamod:build-id", "ab12"), ("megamod:firmware", "a.bin")} <= set(
        properties
    )
    assert components["module:virtio"]["version"] == "6.1.192-3"


def test_it_has_the_other_files_with_hashes_and_the_firmwares_users(bill: str) -> None:
    value = json.loads(bill)
    components = {component["bom-ref"]: component for component in value["components"]}
    assert components["file:lib/firmware/a.bin.xz"]["type"] == "firmware"
    assert len(components["file:etc/conf"]["hashes"][0]["content"]) == 64
    assert (components["file:init"]["type"], components["file:init"]["version"]) == ("application", MANIFEST.megamod)
    uses = {each["ref"]: each["dependsOn"] for each in value["dependencies"]}
    assert uses["module:e100"] == ["file:lib/firmware/a.bin.xz"]
    assert uses["file:megamod/megamod_critical.ko"] == ["kernel", "module:virtio", "module:e100"]
    assert set(uses["image"]) == set(components)


def test_it_names_the_kernels_source_as_trackers_do(bill: str) -> None:
    [kernel] = [each for each in json.loads(bill)["components"] if each["bom-ref"] == "kernel"]
    assert (kernel["name"], kernel["version"]) == ("linux", "6.1.192-3")
    assert kernel["purl"] == "pkg:deb/debian/linux@6.1.192-3?arch=source"
    assert kernel["cpe"] == "cpe:2.3:o:linux:linux_kernel:6.1.192:*:*:*:*:*:*:*"


def test_its_hashes_are_those_of_all_files_that_cpio_unpacks(
    inspect: Inspector, tool: Callable[..., str], tmp_path: Path
) -> None:
    made = image(tmp_path / "a")
    status, bill, _err = inspect(made, "--sbom")
    assert status == 0
    plain = subprocess.run([tool("zstd", package="zstd"), "-dcq", made], capture_output=True, check=True).stdout
    (tmp_path / "out").mkdir()
    cpio = [tool("cpio", package="cpio"), "-idm", "--quiet", "--no-absolute-filenames", "--nonmatching", "dev/*"]
    subprocess.run(cpio, input=plain, cwd=tmp_path / "out", check=True)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and not path.is_symlink()]
    sums = subprocess.run(["sha256sum", *files], capture_output=True, text=True, check=True).stdout.splitlines()
    wanted = {line[66:].removeprefix(f"{tmp_path}/out"): line[:64] for line in sums}
    found = {
        component["name"]: component["hashes"][0]["content"]
        for component in json.loads(bill)["components"]
        if component["bom-ref"].startswith("file:")
    }
    assert found == wanted
    assert {"/init", "/megamod/megamod_critical.ko", "/megamod/kvm.ko", "/megamod/plan"} <= set(found)


def test_the_same_image_gives_the_same_bill(inspect: Inspector, tmp_path: Path) -> None:
    assert inspect(image(tmp_path / "a"), "--sbom")[1] == inspect(image(tmp_path / "b"), "--sbom")[1]
