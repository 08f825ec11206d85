"""`@dtb:FILE#NODES`: which nodes of a device tree count, what they need, and which modules drive them.

dtc makes a small tree; Debian's .dtb files are judged by dtc and modprobe.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from megamod.boot.debian import Kernel
from megamod.common.errors import MegamodError
from megamod.machine.device_tree import DeviceTree, read_device_tree
from megamod.modules.tree import open_tree
from megamod.profile.schema import load_profile
from megamod.select.select import Selection, select
from tests.unit.module_trees import make_tree

BOARD = """
/dts-v1/;
/ {
    compatible = "acme,board";
    aliases { mmc0 = "/soc/host@1000"; };
    gic: interrupt-controller { compatible = "acme,gic"; #interrupt-cells = <3>; phandle = <1>; };
    soc {
        compatible = "acme,bus";
        interrupt-parent = <1>;
        host@1000 {
            compatible = "acme,mmc-v2", "acme,mmc";
            clocks = <2 7 0 3>;
            vmmc-supply = <5>;
            pinctrl-0 = <6>;
            interrupts = <0 1 4>;
        };
        clk@2000 { compatible = "acme,clk"; #clock-cells = <1>; phandle = <2>; };
        osc { compatible = "acme,osc"; #clock-cells = <0>; phandle = <3>; };
        i2c@3000 {
            compatible = "acme,i2c";
            pmic@36 {
                compatible = "acme,pmic";
                regulators { ldo1 { phandle = <5>; vin-supply = <8>; }; };
            };
        };
        pins@4000 { compatible = "acme,pins"; mmc-pins { phandle = <6>; }; };
        raw { compatible = "acme,raw"; phandle = <8>; };
        mmc@5000 { compatible = "acme,mmc"; status = "disabled"; };
        off { status = "fail"; usb@6000 { compatible = "acme,usb"; }; };
        usb@7000 { compatible = "acme,usb"; status = "ok"; };
        spi@8000 {
            compatible = "acme,spi";
            flash@0 { compatible = "other,w25q"; partitions { compatible = "acme,partitions"; }; };
        };
    };
};
"""

MODULES = {
    "kernel/drivers/mmc/host/acme-mmc.ko": "of:N*T*Cacme,mmc",
    "kernel/drivers/mmc/core/mmc_block.ko": "mmc:block",
    "kernel/drivers/clk/acme-clk.ko": "of:N*T*Cacme,clk",
    "kernel/drivers/clk/acme-osc.ko": "of:N*T*Cacme,osc",
    "kernel/drivers/i2c/acme-i2c.ko": "of:N*T*Cacme,i2c",
    "kernel/drivers/mfd/acme-pmic.ko": "i2c:pmic",
    "kernel/drivers/regulator/acme-regulator.ko": "platform:acme-regulator",
    "kernel/drivers/regulator/acme-raw.ko": "of:NrawT*Cacme,raw",
    "kernel/drivers/pinctrl/acme-pins.ko": "of:N*T*Cacme,pins",
    "kernel/drivers/usb/acme-usb.ko": "of:N*T*Cacme,usb",
    "kernel/drivers/spi/acme-spi.ko": "of:N*T*Cacme,spi",
    "kernel/drivers/mtd/w25q.ko": "spi:w25q",
    "kernel/drivers/irqchip/acme-gic.ko": "of:N*T*Cacme,gic",
    "kernel/drivers/misc/acme-board.ko": "of:N*T*Cacme,board",
}


@pytest.fixture
def board(tmp_path: Path, tool: Callable[..., str]) -> Path:
    """A folder with board.dtb, and the modules of its devices in lib/modules."""
    command = [tool("dtc", package="device-tree-compiler"), "-q", "-I", "dts", "-O", "dtb", "-o", "board.dtb"]
    subprocess.run(command, input=BOARD, text=True, cwd=tmp_path, check=True)
    aliases = []
    for path, pattern in MODULES.items():
        name = Path(path).stem.replace("-", "_")
        aliases += [f"{pattern} {name}", f"{pattern}C* {name}"]
    make_tree(tmp_path, dict.fromkeys(MODULES, ()), alias=aliases, builtin_modinfo=["acme_bus.alias=of:N*T*Cacme,bus"])
    return tmp_path


def selected(folder: Path, critical: str, rest: str | None = None) -> Selection:
    deferred = f'\ndeferred: [{{name: rest, modules: ["{rest}"]}}]' if rest else ""
    (folder / "p.yaml").write_text(f'critical: {{modules: ["{critical}"]}}{deferred}\n')
    return select(load_profile(folder / "p.yaml"), open_tree(str(folder)))


def names(selection: Selection, stage: int = 0) -> set[str]:
    return {module.name.removeprefix("acme_") for module in selection.stages[stage].modules}


def refused(folder: Path, selector: str) -> str:
    with pytest.raises(MegamodError) as caught:
        selected(folder, selector)
    return str(caught.value).replace(f"{folder}/", "")


def test_a_whole_tree_is_all_that_is_enabled_but_not_the_board_itself(board: Path) -> None:
    assert names(selected(board, "@dtb:board.dtb")) == set("mmc clk osc i2c pmic raw pins usb spi w25q gic".split())


def test_a_node_comes_with_its_bus_its_suppliers_and_their_needs(board: Path) -> None:
    found = selected(board, "@dtb:board.dtb#/soc/host@1000")
    assert names(found) == set("mmc clk osc i2c pmic raw pins gic".split())
    reasons = {module.name: module.reason for module in found.stages[0].modules}
    assert reasons["acme_mmc"] == "device tree: /soc/host@1000"
    assert reasons["acme_osc"] == "device tree: /soc/osc, clocks of /soc/host@1000"
    assert reasons["acme_pmic"] == "device tree: /soc/i2c@3000/pmic@36, vmmc-supply of /soc/host@1000"
    assert reasons["acme_i2c"] == "device tree: /soc/i2c@3000, above /soc/i2c@3000/pmic@36"
    assert reasons["acme_raw"] == "device tree: /soc/raw, vin-supply of /soc/i2c@3000/pmic@36"
    assert reasons["acme_gic"] == "device tree: /interrupt-controller, interrupts of /soc/host@1000"


def test_an_alias_of_the_tree_names_its_node(board: Path) -> None:
    assert names(selected(board, "@dtb:board.dtb#mmc0")) == names(selected(board, "@dtb:board.dtb#/soc/host@1000"))


def test_storage_is_critical_with_what_it_needs_and_the_rest_is_deferred(board: Path) -> None:
    found = selected(board, "@dtb:board.dtb#storage", "@dtb:board.dtb")
    assert names(found) == set("mmc mmc_block clk osc i2c pmic raw pins gic spi w25q".split())
    assert names(found, 1) == {"usb"}


def test_a_power_chips_functions_are_found_in_its_modules_strings(board: Path) -> None:
    from tests.unit.module_factory import Ko

    ko = Ko("acme_pmic")
    ko.section(".rodata.str1.1", b"other\0acme-regulator\0")
    path = board / "lib/modules/6.1.0-test/kernel/drivers/mfd/acme-pmic.ko"
    path.write_bytes(bytes(ko))
    found = selected(board, "@dtb:board.dtb#mmc0")
    assert "regulator" in names(found)
    reasons = {module.name: module.reason for module in found.stages[0].modules}
    assert reasons["acme_regulator"] == "device tree: function of acme_pmic"


def test_the_file_is_relative_to_the_profile_that_names_it(board: Path) -> None:
    (board / "below").mkdir()
    (board / "below/base.yaml").write_text('critical: {modules: ["@dtb:../board.dtb#mmc0"]}\n')
    (board / "p.yaml").write_text("extends: below/base.yaml\n")
    assert "mmc" in names(select(load_profile(board / "p.yaml"), open_tree(str(board))))


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("@dtb:nothing.dtb", "p.yaml:1:22: @dtb: nothing.dtb: No such file or directory"),
        ("@dtb:p.yaml", "p.yaml:1:22: @dtb: p.yaml: is not a device tree (hint: give a .dtb file; `dtc` makes one"),
        ("@dtb:cut.dtb", "p.yaml:1:22: @dtb: cut.dtb: damaged device tree: "),
        ("@dtb:board.dtb#/soc/mmc@5000", "p.yaml:1:22: @dtb: board.dtb: the node /soc/mmc@5000 is disabled in the"),
        ("@dtb:board.dtb#/soc/off/usb@6000", "p.yaml:1:22: @dtb: board.dtb: the node /soc/off/usb@6000 is disabled"),
        (
            "@dtb:board.dtb#/soc/host@100",
            "p.yaml:1:22: @dtb: board.dtb: no node /soc/host@100 in the device tree (hint",
        ),
        (
            "@dtb:board.dtb#mmc1",
            "p.yaml:1:22: @dtb: board.dtb: no node mmc1 in the device tree (hint: did you mean mmc0",
        ),
        ("@dtb:board.dtb#", "p.yaml:1:22: `@dtb:board.dtb#`: a file expected, and nodes after a `#`"),
        ("@dtb:", "p.yaml:1:22: `@dtb:`: a file expected, and nodes after a `#`"),
    ],
)
def test_each_mistake_is_a_located_error(board: Path, selector: str, message: str) -> None:
    (board / "cut.dtb").write_bytes((board / "board.dtb").read_bytes()[:200])
    assert refused(board, selector).startswith(message)


def test_damaged_trees_are_errors_and_nothing_else(board: Path) -> None:
    whole = (board / "board.dtb").read_bytes()
    for position in range(0, len(whole), 7):
        (board / "bad.dtb").write_bytes(whole[:position] + b"\xff" + whole[position + 1 :])
        try:
            tree = read_device_tree(board / "bad.dtb")
            tree.with_needs(tree.devices())
        except MegamodError as error:
            assert str(error).startswith(f"{board}/bad.dtb: ")


# Debian's own device trees


BOARDS = (
    "rockchip/rk3399-rockpro64.dtb",
    "broadcom/bcm2711-rpi-4-b.dtb",
    "allwinner/sun50i-a64-pine64-plus.dtb",
    "freescale/imx8mq-librem5-r4.dtb",
    "qcom/sc7180-trogdor-lazor-r3.dtb",
)


@pytest.fixture(scope="session")
def arm64(kernels: Callable[..., Kernel]) -> Path:
    """The unpacked arm64 kernel package of bookworm."""
    return kernels("bookworm", "arm64").modules.parents[2]


def dtb_of(root: Path, name: str) -> Path:
    [path] = root.glob(f"usr/lib/linux-image-*/{name}")
    return path


def enabled_by_dtc(dtc: str, path: Path) -> dict[str, list[str]]:
    """Path → compatible of the nodes that are enabled, from the text that dtc makes of the file."""
    done = subprocess.run([dtc, "-q", "-I", "dtb", "-O", "dts", path], capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = {}
    off: set[str] = set()
    stack: list[str] = []
    for line in map(str.strip, done.stdout.splitlines()):
        if line.endswith("{"):
            stack.append(line.removesuffix("{").strip().rpartition(": ")[2])
        elif line == "};":
            stack.pop()
        elif stack and line.startswith(("compatible = ", "status = ")):
            here = "/" + "/".join(stack[1:])
            words = [
                word.strip('"') for word in line.partition(" = ")[2].rstrip(";").replace(r"\0", '", "').split('", "')
            ]
            if line.startswith("compatible"):
                found[here] = words
            elif words[0] not in ("okay", "ok"):
                off.add(here)
    return {p: words for p, words in found.items() if not any(p == o or p.startswith(f"{o}/") for o in off)}


@pytest.mark.parametrize("name", BOARDS)
def test_the_devices_of_a_real_board_are_those_that_dtc_shows_enabled(
    name: str, arm64: Path, tool: Callable[..., str]
) -> None:
    tree = read_device_tree(dtb_of(arm64, name))
    expected = enabled_by_dtc(tool("dtc", package="device-tree-compiler"), dtb_of(arm64, name))
    del expected["/"]
    assert {node.path: list(node.compatible) for node in tree.devices()} == expected
    assert len(expected) > 50


def modprobe_finds(root: Path, release: str, tree: DeviceTree) -> set[str]:
    modprobe = shutil.which("modprobe", path="/usr/sbin:/sbin:/usr/bin")
    assert modprobe, "kmod is needed for this test"
    found: set[str] = set()
    for node in tree.devices():
        command = [modprobe, "-C", "/dev/null", "-d", str(root), "-S", release, "-R", node.modalias]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
        found.update(done.stdout.split())
    return {name.replace("-", "_") for name in found}


@pytest.mark.parametrize("name", BOARDS)
def test_every_module_that_modprobe_finds_for_a_real_board_is_found(name: str, arm64: Path, tmp_path: Path) -> None:
    modules = open_tree(str(arm64))
    board = read_device_tree(dtb_of(arm64, name))
    theirs = modprobe_finds(arm64, modules.release, board)
    (tmp_path / "p.yaml").write_text(f'critical: {{modules: ["@dtb:{dtb_of(arm64, name)}"]}}\n')
    found = select(load_profile(tmp_path / "p.yaml"), modules).stages[0].modules
    asked = {module.name for module in found if module.by is None}
    # modprobe also names the built-ins that a modalias stands for.
    assert theirs - modules.builtin <= {module.name for module in found}
    more = {module.name for module in found if module.name in asked - theirs}
    other = {alias for node in board.devices() for alias in ("i2c", "spi") if alias in node.parent}
    reasons = {module.name: module.reason for module in found}
    assert all("function of" in reasons[each] or other for each in more)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rockchip/rk3399-rockpro64.dtb", {"sdhci_of_arasan", "dw_mmc_rockchip", "phy_rockchip_emmc", "i2c_rk3x"}),
        ("broadcom/bcm2711-rpi-4-b.dtb", {"sdhci_iproc", "gpio_regulator"}),
        ("allwinner/sun50i-a64-pine64-plus.dtb", {"sunxi_mmc", "axp20x_rsb", "axp20x_regulator"}),
    ],
)
def test_a_real_boards_storage_brings_its_controllers_and_their_supplies(
    name: str, expected: set[str], arm64: Path, tmp_path: Path
) -> None:
    text = f'critical: {{modules: ["@dtb:{dtb_of(arm64, name)}#storage"]}}\n'
    (tmp_path / "p.yaml").write_text(text + f'deferred: [{{name: rest, modules: ["@dtb:{dtb_of(arm64, name)}"]}}]\n')
    found = select(load_profile(tmp_path / "p.yaml"), open_tree(str(arm64)))
    assert expected <= {module.name for module in found.stages[0].modules}
    assert "usbcore" in {module.name for module in found.stages[1].modules}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("alias:of:*Crockchip,rk3288-dw-mshc*", {"dw_mmc_rockchip"}),
        ("alias:of:N*T*Carasan,sdhci-*", {"sdhci_of_arasan"}),
        ("alias:of:*Cbrcm,bcm2711-emmc2*", {"sdhci_iproc"}),
        ("modalias:of:NmmcT(null)Crockchip,rk3399-dw-mshcCrockchip,rk3288-dw-mshc", {"dw_mmc_rockchip"}),
    ],
)
def test_alias_selectors_find_the_drivers_of_device_trees(
    selector: str, expected: set[str], arm64: Path, tmp_path: Path
) -> None:
    (tmp_path / "p.yaml").write_text(f'critical: {{modules: ["{selector}"]}}\n')
    found = select(load_profile(tmp_path / "p.yaml"), open_tree(str(arm64))).stages[0].modules
    assert {module.name for module in found if module.by is None} == expected


def test_a_very_deep_tree_is_read(tmp_path: Path, tool: Callable[..., str]) -> None:
    depth = 63
    text = "/dts-v1/;\n/ {" + "n { a-supply = <1>;" * depth + "};" * depth + "};\n"
    command = [tool("dtc", package="device-tree-compiler"), "-q", "-I", "dts", "-O", "dtb", "-o", "deep.dtb"]
    subprocess.run(command, input=text, text=True, cwd=tmp_path, check=True)
    tree = read_device_tree(tmp_path / "deep.dtb")
    assert tree.with_needs([tree.nodes["/n"]]) == {"/n": "/n"}


def test_a_tree_deeper_than_the_kernel_reads_is_refused(tmp_path: Path, tool: Callable[..., str]) -> None:
    text = "/dts-v1/;\n/ {" + "n {" * 64 + "};" * 64 + "};\n"
    command = [tool("dtc", package="device-tree-compiler"), "-q", "-I", "dts", "-O", "dtb", "-o", "deep.dtb"]
    subprocess.run(command, input=text, text=True, cwd=tmp_path, check=True)
    with pytest.raises(MegamodError, match="has more than 64 levels"):
        read_device_tree(tmp_path / "deep.dtb")
