"""`board:` of a profile: of firmware that is named by board only that of this one goes into the image."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from megamod.build.firmware import FirmwareFolder, collect_firmware
from megamod.common.errors import MegamodError
from megamod.machine.board import Board, read_board
from megamod.machine.machine import Machine
from megamod.machine.machine_recorder import recorded
from megamod.profile.reference import profile_schema
from megamod.profile.schema import load_profile

PI = "raspberrypi,4-model-b"
# The names that linux-firmware and raspi-firmware have, and the patterns that modinfo shows for brcmfmac.
FILES = (
    "brcm/brcmfmac43455-sdio.bin",
    f"brcm/brcmfmac43455-sdio.{PI}.txt",
    "brcm/brcmfmac43455-sdio.raspberrypi,3-model-b-plus.txt",
    "brcm/brcmfmac43455-sdio.AW-CM256SM.txt",
    "brcm/brcmfmac43455-sdio.ACEPC-T8.txt",
    "brcm/brcmfmac43241b4-sdio.Intel Corp.-VALLEYVIEW B3 PLATFORM.txt",
    "cxgb4/t4fw-1.27.5.0.bin",
)
PATTERNS = ("brcm/brcmfmac43455-sdio.bin", "brcm/brcmfmac*-sdio.*.txt", "brcm/brcmfmac*-sdio.*.bin", "cxgb4/*.bin")
TREE = """\
/dts-v1/;
/ { compatible = "raspberrypi,4-model-b", "brcm,bcm2711"; #address-cells = <1>; #size-cells = <0>;
    dsp@0 { compatible = "vendor,dsp"; reg = <0>; firmware-name = "qcom/board/adsp.mbn", "qcom/board/b.mbn"; };
    off@1 { compatible = "vendor,dsp"; reg = <1>; status = "disabled"; firmware-name = "never.mbn"; }; };
"""


@pytest.fixture
def dtb(tmp_path: Path, tool: Callable[..., str]) -> Path:
    path = tmp_path / "board.dtb"
    (tmp_path / "board.dts").write_text(TREE)
    dtc = tool("dtc", package="device-tree-compiler")
    subprocess.run([dtc, "-q", "-O", "dtb", "-o", path, tmp_path / "board.dts"], check=True)
    return path


def firmware(folder: Path, board: Board | None) -> set[str]:
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    found = collect_firmware(
        {"brcmfmac": PATTERNS}, (), folder=FirmwareFolder(path=folder, release="6.1"), config=None, board=board
    )
    return {file.entry.path.removeprefix("lib/firmware/") for file in found.files}


def dmi(folder: Path, vendor: str, product: str) -> Path:
    for name, text in (("sys_vendor", vendor), ("product_name", product)):
        path = folder / "sys/devices/virtual/dmi/id" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return folder


def test_without_a_board_all_boards_have_their_files(tmp_path: Path) -> None:
    assert firmware(tmp_path, None) == set(FILES)


def test_a_device_tree_takes_its_own_and_what_names_no_board(tmp_path: Path, dtb: Path) -> None:
    board = read_board(str(dtb))
    assert board.names == (PI, "brcm,bcm2711")
    assert firmware(tmp_path / "fw", board) == {FILES[0], FILES[1], FILES[-1]}


def test_a_device_tree_asks_for_firmware_itself(dtb: Path) -> None:
    assert read_board(str(dtb)).firmware == ("qcom/board/adsp.mbn", "qcom/board/b.mbn")


def test_a_machine_with_dmi_is_its_vendor_and_product(tmp_path: Path) -> None:
    board = read_board(str(dmi(tmp_path / "machine", "Intel Corp.", "VALLEYVIEW B3 PLATFORM")))
    assert firmware(tmp_path / "fw", board) == {FILES[0], FILES[5], FILES[-1]}


def test_a_recorded_machine_says_which_board_it_is(tmp_path: Path) -> None:
    (tmp_path / "m/sys/firmware/devicetree/base").mkdir(parents=True)
    (tmp_path / "m/sys/firmware/devicetree/base/compatible").write_bytes(b"vendor,b/1\0vendor,soc\0")
    items = {item.path: item.text for item in recorded(Machine(root=dmi(tmp_path / "m", "V", "P")))}
    assert items["sys/devices/virtual/dmi/id/sys_vendor"] == "V"
    assert items["sys/devices/virtual/dmi/id/product_name"] == "P"
    assert items["sys/firmware/devicetree/base/compatible"] == "vendor,b/1\0vendor,soc\0"
    assert read_board(str(tmp_path / "m")).names == ("vendor,b-1", "vendor,soc")


def test_a_machine_that_does_not_say_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "sys/devices/pnp0").mkdir(parents=True)
    with pytest.raises(MegamodError, match="neither a device tree nor DMI says which board this is"):
        read_board(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "said"),
    [("gone.dtb", "no such file: gone.dtb"), ("[]", "board: "), ("{a: b}", "board: "), ("7", "no such file: 7")],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(f"critical: {{modules: [ext4]}}\nboard: {text}\n")
    with pytest.raises(MegamodError) as caught:
        load_profile(path)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{path}:2:")


def test_names_may_be_listed_and_a_file_is_looked_for_beside_the_profile(tmp_path: Path, dtb: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(f"critical: {{modules: [ext4]}}\nboard: [{json.dumps(PI)}, other]\n")
    assert load_profile(path).board == (PI, "other")
    path.write_text("critical: {modules: [ext4]}\nboard: board.dtb\n")
    assert load_profile(path).board == str(dtb)


def test_the_editors_schema_takes_what_the_reader_takes() -> None:
    schema = profile_schema()["properties"]["board"]
    for good in ("host", "board.dtb", [PI, "other"]):
        jsonschema.validate(good, schema)
    for bad in ([], {}, 7):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)
